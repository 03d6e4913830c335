//! Manual pages, completions and default configurations, made from the command lines' own definitions, so that what a package says and
//! what its programs take cannot drift apart.
//!
//! Driven by the program `pages` while packages are made. It must not know where a package puts what it gets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

/// The section of the manual for what root runs (man-pages(7)).
const SECTION: &str = "8";
const MANUAL: &str = "daemonlet";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// A line of a configuration file is folded at this width.
const WIDTH: usize = 110;

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct WriteError {
    path: PathBuf,
    #[source]
    why: io::Error,
}

/// One of the programs with words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Agent,
    Control,
}

impl Program {
    pub const ALL: [Program; 2] = [Program::Agent, Program::Control];

    fn command(self) -> Command {
        match self {
            Program::Agent => agent::cli::Cli::command(),
            Program::Control => control::cli::Cli::command(),
        }
    }

    /// The word that takes a configuration file.
    fn server(self) -> &'static str {
        match self {
            Program::Agent => "agent",
            Program::Control => "serve",
        }
    }

    /// Writes `man/NAME/NAME[-WORD…].8`, `completion/{bash,zsh,fish}/…` and `NAME.yaml` beneath `dir`. Says what it wrote.
    pub fn write(self, dir: &Path) -> Result<Vec<PathBuf>, WriteError> {
        let mut written = Vec::new();
        let mut command = self.command().disable_help_subcommand(true);
        command.build();
        let name = command.get_name().to_owned();
        pages(&command, &dir.join("man").join(&name), &mut written)?;
        for shell in SHELLS {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut self.command(), &name, &mut text);
            let file = match shell {
                Shell::Zsh => format!("_{name}"),
                Shell::Fish => format!("{name}.fish"),
                _ => name.clone(),
            };
            put(dir.join("completion").join(shell.to_string()).join(file), &text, &mut written)?;
        }
        put(dir.join(format!("{name}.yaml")), self.configuration().as_bytes(), &mut written)?;
        Ok(written)
    }

    /// A configuration file that changes nothing: every key, commented out, with what its flag's help says.
    pub fn configuration(self) -> String {
        let command = self.command();
        let name = command.get_name().to_owned();
        let mut text = format!(
            "# The configuration of {name}: YAML, the keys are the names of the flags of `{name} {0}`, and a flag wins.\n# See {name}-{0}(8). Every line here shows a key and is no setting until its # is taken away.\n",
            self.server()
        );
        let Some(server) = command.find_subcommand(self.server()) else { return text };
        for arg in server.get_arguments().filter(|arg| !arg.is_global_set()) {
            let Some(key) = arg.get_long().filter(|key| !["config", "help", "version"].contains(key)) else { continue };
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            text.push('\n');
            for line in folded(&help) {
                text.push_str(&format!("# {line}\n"));
            }
            text.push_str(&format!("#{key}: {}\n", shape(arg)));
        }
        text
    }
}

/// What kind of value a key takes, as YAML.
fn shape(arg: &Arg) -> String {
    let names: Vec<&str> = arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let name = names.join(" ");
    match arg.get_action() {
        ArgAction::Append if name.starts_with("K=V") && !name.contains(':') || name.starts_with("NAME=") => {
            "{}".to_owned()
        }
        ArgAction::Append => "[]".to_owned(),
        _ => name,
    }
}

/// `text` in lines of at most [`WIDTH`] characters, as far as its words let that be.
fn folded(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A page for the command and one for each word beneath it.
fn pages(command: &Command, dir: &Path, written: &mut Vec<PathBuf>) -> Result<(), WriteError> {
    // clap has given words their whole name, daemonlet-get.
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    let man = Man::new(command.clone()).title(name.to_uppercase()).section(SECTION).manual(MANUAL).date("");
    man.render(&mut page).map_err(|why| WriteError { path: name.clone().into(), why })?;
    put(dir.join(format!("{name}.{SECTION}")), &page, written)?;
    for word in command.get_subcommands().filter(|word| !word.is_hide_set()) {
        pages(word, dir, written)?;
    }
    Ok(())
}

fn put(path: PathBuf, bytes: &[u8], written: &mut Vec<PathBuf>) -> Result<(), WriteError> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
    if let Err(why) = made {
        return Err(WriteError { path, why });
    }
    written.push(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each key is one that the program knows: with the # taken away and a null in its place the file is still read.
    #[test]
    fn every_key_of_the_default_configuration_is_known() {
        let dir = tempfile::tempdir().expect("a directory");
        for program in Program::ALL {
            let text = program.configuration();
            let keys: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix('#')?.split_once(':').map(|(key, _)| key))
                .filter(|key| !key.starts_with(' '))
                .collect();
            assert!(keys.len() >= 5, "{program:?}: {keys:?}");
            let file = dir.path().join("config.yaml");
            fs::write(&file, &text).expect("written");
            match program {
                Program::Agent => {
                    let config =
                        agent::config::Config::load(&agent::config::Settings::default(), Some(&file)).expect("read");
                    assert_eq!(
                        config,
                        agent::config::Config::load(&agent::config::Settings::default(), None).expect("the defaults")
                    );
                }
                Program::Control => {
                    control::config::Config::load(control::config::Settings::default(), Some(&file)).expect("read");
                }
            }
            for key in keys {
                fs::write(&file, format!("{key}: [[]]\n")).expect("written");
                let said = match program {
                    Program::Agent => agent::config::Config::load(&agent::config::Settings::default(), Some(&file))
                        .err()
                        .map(|why| why.to_string()),
                    Program::Control => {
                        control::config::Config::load(control::config::Settings::default(), Some(&file))
                            .err()
                            .map(|why| why.to_string())
                    }
                };
                let said = said.unwrap_or_default();
                assert!(said.contains("expected") && !said.contains("unknown key"), "{key}: {said}");
            }
        }
    }

    #[test]
    fn each_word_has_its_page_and_each_shell_its_completion() {
        let dir = tempfile::tempdir().expect("a directory");
        for program in Program::ALL {
            program.write(dir.path()).expect("written");
        }
        for (file, what) in [
            ("man/daemonlet/daemonlet.8", "daemonlet\\-agent(8)"),
            ("man/daemonlet/daemonlet-agent.8", "\\-\\-manifest\\-dir"),
            ("man/daemonlet/daemonlet-images-pull.8", "Pull"),
            ("man/daemonlet-control/daemonlet-control-token-create.8", "\\-\\-ttl"),
            ("completion/bash/daemonlet", "doctor"),
            ("completion/zsh/_daemonlet-control", "backup"),
            ("completion/fish/daemonlet.fish", "why"),
        ] {
            let text = fs::read_to_string(dir.path().join(file)).unwrap_or_else(|why| panic!("{file}: {why}"));
            assert!(text.contains(what), "{file} does not hold {what}:\n{text}");
        }
    }

    #[test]
    fn a_long_help_is_folded_between_words() {
        let lines = folded(&"word ".repeat(60));
        assert!(lines.len() > 1 && lines.iter().all(|line| line.len() <= WIDTH), "{lines:?}");
        assert_eq!(lines.join(" ").split(' ').count(), 60);
    }
}
