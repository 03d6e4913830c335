//! kubectl as a program: started, with a home of its own, and what it prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::serving::Serving;

/// One kubectl program.
pub struct Kubectl<'a> {
    pub serving: &'a Serving,
    pub program: PathBuf,
}

/// What it printed.
#[derive(Debug)]
pub struct Printed {
    pub out: String,
    pub err: String,
    pub good: bool,
}

impl Kubectl<'_> {
    /// The current one or Debian's, where scripts/kubectl.sh has put them.
    pub fn program(name: &str) -> Option<PathBuf> {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubectl").join(name);
        place.exists().then_some(place)
    }

    /// A file for `-f`.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.serving.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // Its cache lies in HOME; nothing of the machine's own configuration is read.
        let home = self.serving.dir.path().join(self.program.file_name().expect("a program"));
        command.env_clear().env("HOME", home).env("KUBECONFIG", self.serving.kubeconfig());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null()).args(arguments);
        command
    }

    /// Runs it to its end, whatever that is.
    pub fn run(&self, arguments: &[&str]) -> Printed {
        Printed::of(self.command(arguments).output().expect("it starts"))
    }

    /// What it says when all is well.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments);
        assert!(printed.good, "{arguments:?}: {printed:?}");
        printed.out
    }

    /// What it complains of.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments);
        assert!(!printed.good, "{arguments:?}: {printed:?}");
        printed.err
    }
}

impl Printed {
    fn of(output: Output) -> Printed {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
        Printed { out: text(output.stdout), err: text(output.stderr), good: output.status.success() }
    }
}
