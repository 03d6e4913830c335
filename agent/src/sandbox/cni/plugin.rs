//! Runs one CNI plugin once: variables in, JSON on its standard input, JSON or an error from its standard output
//! (CNI specification 1.0.0, "Execution Protocol").
//!
//! Driven by `cni`. What a plugin may do to us is bounded: its time and its output; one that does not end by
//! itself is killed with all that it started, also when the caller gives up waiting.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// A result of a few plugins is a few kilobytes; read into a document it may take fifty times as much memory.
const OUTPUT_MAX_BYTES: usize = 256 << 10;
/// Of what a plugin says on standard error, only the beginning is shown.
const COMPLAINT_MAX_BYTES: usize = 4 << 10;
/// Characters that are shown of an error: plugins quote what the programs that they run have said.
const WORDS_MAX: usize = 400;
/// Where a plugin finds iptables and the like when we were started without a PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable of a plugin, and of what it starts, that names the agent's run directory.
pub const RUN_DIR: &str = "DAEMONLET_RUN_DIR";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Add,
    Check,
    Del,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Check => "CHECK",
            Verb::Del => "DEL",
        }
    }
}

/// What a plugin is told beside its configuration.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    pub verb: Verb,
    pub container_id: &'a str,
    /// Empty when the namespace is gone, for DEL.
    pub netns: &'a Path,
    pub interface: &'a str,
    pub args: &'a str,
    /// Also where plugins look for the plugins that they call.
    pub bin_dirs: &'a [PathBuf],
    /// The agent's, by which a plugin that outlives it is known as its own.
    pub run_dir: &'a Path,
    pub timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error(
        "the CNI plugin {plugin} is in none of {looked_in}; install it (Debian: containernetworking-plugins) or name its directory with --cni-bin-dir"
    )]
    NotFound { plugin: String, looked_in: String },
    #[error("{plugin:?} is no name of a CNI plugin")]
    BadName { plugin: String },
    #[error("cannot run the CNI plugin {path}")]
    Run { path: PathBuf, source: io::Error },
    #[error("the CNI plugin {path} did not finish its {verb} within {} s and was killed", timeout.as_secs_f32())]
    Slow { path: PathBuf, verb: &'static str, timeout: Duration },
    #[error("the CNI plugin {path} wrote more than {OUTPUT_MAX_BYTES} bytes and was killed")]
    Flood { path: PathBuf },
    #[error("the CNI plugin {path} refused its {verb}: {said}")]
    Refused {
        path: PathBuf,
        verb: &'static str,
        said: String,
        /// Of the specification's error object, where it was one.
        code: Option<u32>,
    },
    #[error("the CNI plugin {path} answered its {verb} with something that is no JSON ({said})")]
    Garbage { path: PathBuf, verb: &'static str, said: String },
}

/// The error object of the specification.
#[derive(Debug, Deserialize)]
struct Complaint {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

/// Runs the plugin that `config.type` names. The answer is JSON for an ADD and else Null.
pub async fn run(call: &Call<'_>, config: &serde_json::Value) -> Result<serde_json::Value, PluginError> {
    let path = find(config["type"].as_str().unwrap_or_default(), call.bin_dirs)?;
    let failed = |source| PluginError::Run { path: path.clone(), source };
    let mut child = command(call, &path).spawn().map_err(failed)?;
    let mut group = Group(child.id());
    let ended = tokio::time::timeout(call.timeout, converse(&mut child, config.to_string())).await;
    if matches!(&ended, Ok(Ok(Ended { status: Some(_), .. }))) {
        // It has ended by itself and is reaped: its number may be somebody else's soon.
        group.0 = None;
    }
    drop(group);
    let verb = call.verb.name();
    let ended = match ended {
        Ok(Ok(ended)) => ended,
        Ok(Err(source)) => {
            reap(child).await;
            return Err(PluginError::Run { path, source });
        }
        Err(_) => {
            reap(child).await;
            return Err(PluginError::Slow { path, verb, timeout: call.timeout });
        }
    };
    let Some(status) = ended.status else {
        reap(child).await;
        return Err(PluginError::Flood { path });
    };
    if !status.success() {
        let (said, code) = complaint(status, &ended);
        return Err(PluginError::Refused { path, verb, said, code });
    }
    match call.verb {
        Verb::Check | Verb::Del => Ok(serde_json::Value::Null),
        Verb::Add => serde_json::from_slice(&ended.output).map_err(|_| PluginError::Garbage {
            path,
            verb,
            said: beginning(&ended.output),
        }),
    }
}

/// The plugin's program in the first directory that has it.
fn find(plugin: &str, bin_dirs: &[PathBuf]) -> Result<PathBuf, PluginError> {
    if plugin.is_empty() || plugin.contains('/') || plugin.starts_with('.') {
        return Err(PluginError::BadName { plugin: plugin.to_owned() });
    }
    bin_dirs.iter().map(|dir| dir.join(plugin)).find(|path| path.is_file()).ok_or_else(|| PluginError::NotFound {
        plugin: plugin.to_owned(),
        looked_in: bin_dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", "),
    })
}

fn command(call: &Call<'_>, path: &Path) -> Command {
    let search = call.bin_dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":");
    let mut command = Command::new(path);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
        .env("CNI_COMMAND", call.verb.name())
        .env("CNI_CONTAINERID", call.container_id)
        .env("CNI_NETNS", call.netns)
        .env("CNI_IFNAME", call.interface)
        .env("CNI_ARGS", call.args)
        .env("CNI_PATH", search)
        .env(RUN_DIR, call.run_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Kills the plugin's process group when it goes out of scope: also when the caller gives up waiting.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // The number is still the plugin's: its leader has not been reaped.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

struct Ended {
    output: Vec<u8>,
    said: Vec<u8>,
    /// None: too much output.
    status: Option<ExitStatus>,
}

async fn converse(child: &mut Child, config: String) -> io::Result<Ended> {
    let mut stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let tell = async move {
        if let Some(stdin) = &mut stdin {
            // A plugin that does not read its configuration says why by its exit.
            let _ = stdin.write_all(config.as_bytes()).await;
        }
        drop(stdin);
    };
    let answer = async {
        let output = read_up_to(stdout, OUTPUT_MAX_BYTES).await?;
        if output.len() > OUTPUT_MAX_BYTES {
            return io::Result::Ok(Ended { output, said: Vec::new(), status: None });
        }
        Ok(Ended { output, said: Vec::new(), status: Some(child.wait().await?) })
    };
    // A plugin that floods its standard error is not stopped by it, only not listened to; the timeout ends it.
    let complain = async {
        let mut pipe = stderr;
        let said = match &mut pipe {
            Some(pipe) => read_up_to(Some(pipe), COMPLAINT_MAX_BYTES).await.unwrap_or_default(),
            None => Vec::new(),
        };
        if let Some(pipe) = &mut pipe {
            let _ = tokio::io::copy(pipe, &mut tokio::io::sink()).await;
        }
        said
    };
    tokio::pin!(complain);
    let mut said = None;
    let (_, ended) = tokio::join!(tell, async {
        tokio::pin!(answer);
        loop {
            tokio::select! {
                // Both are polled in place until they end; neither is dropped in between.
                ended = &mut answer => break ended,
                heard = &mut complain, if said.is_none() => said = Some(heard),
            }
        }
    });
    let mut ended = ended?;
    if said.is_none() && ended.status.is_some() {
        // The program has ended; what it said is in the pipe already, unless a child of it keeps the pipe open.
        const LAST_WORDS: Duration = Duration::from_millis(50);
        said = tokio::time::timeout(LAST_WORDS, &mut complain).await.ok();
    }
    ended.said = said.unwrap_or_default();
    Ok(ended)
}

/// Reads to the end, but at most one byte more than `limit`.
async fn read_up_to(pipe: Option<impl AsyncRead + Unpin>, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(limit as u64 + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Waits for a killed plugin, so that it cannot act any more when we return.
async fn reap(mut child: Child) {
    const KILLED_WITHIN: Duration = Duration::from_secs(5);
    let _ = child.start_kill();
    let _ = tokio::time::timeout(KILLED_WITHIN, child.wait()).await;
}

fn complaint(status: ExitStatus, ended: &Ended) -> (String, Option<u32>) {
    match refusal(&ended.output) {
        Some((said, code)) => (said, Some(code)),
        None => {
            let words = if ended.output.is_empty() { &ended.said } else { &ended.output };
            (format!("{status}, {}", beginning(words)), None)
        }
    }
}

/// The error object of the specification in words, and its code. They go into statuses and onto terminals.
pub fn refusal(output: &[u8]) -> Option<(String, u32)> {
    let Complaint { code, msg, details } = serde_json::from_slice(output).ok()?;
    let words = if details.is_empty() { msg } else { format!("{msg}; {details}") };
    Some((format!("{} (code {code})", plain(&words, WORDS_MAX)), code))
}

/// Without control characters, and no longer than that.
pub fn plain(text: &str, characters: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(characters).collect()
}

/// The first line or so of an output, for an error's text.
fn beginning(output: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = plain(&String::from_utf8_lossy(output), SHOWN);
    if text.trim().is_empty() { "it said nothing".into() } else { format!("it said: {}", text.trim()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    use super::*;

    /// Runs a shell script standing as the plugin `stand-in`.
    async fn with_script(verb: Verb, timeout: Duration, script: &str) -> Result<serde_json::Value, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stand-in");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let call = Call {
            verb,
            container_id: "0a",
            netns: Path::new("/run/x/net"),
            interface: "eth0",
            args: "A=1",
            bin_dirs: &[dir.path().to_owned()],
            run_dir: Path::new("/run/x"),
            timeout,
        };
        run(&call, &serde_json::json!({"type": "stand-in", "x": 5})).await.map_err(|e| e.to_string())
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_plugin_gets_its_variables_and_its_configuration() {
        let script = r#"read config; echo "{\"c\":$config,\"v\":\"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\"}""#;
        let answer = with_script(Verb::Add, LONG, script).await.unwrap();
        assert_eq!(answer["c"]["x"], 5);
        assert_eq!(answer["v"], "ADD 0a /run/x/net eth0 A=1");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_plugins_words() {
        let script = r#"cat >/dev/null; echo '{"cniVersion":"1.0.0","code":11,"msg":"no addresses","details":"all 254 taken"}'; exit 1"#;
        let error = with_script(Verb::Add, LONG, script).await.unwrap_err();
        assert!(error.contains("stand-in refused its ADD: no addresses; all 254 taken (code 11)"), "{error}");
        let error = with_script(Verb::Del, LONG, "echo broken >&2; exit 3").await.unwrap_err();
        assert!(error.contains("exit status: 3, it said: broken"), "{error}");
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", note.display());
        let begun = Instant::now();
        let error = with_script(Verb::Add, Duration::from_millis(300), &script).await.unwrap_err();
        assert!(error.contains("did not finish its ADD within 0.3 s and was killed"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        let pid = fs::read_to_string(note).unwrap();
        let gone = || match fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while !gone() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(gone(), "the plugin's child lives on");
    }

    #[tokio::test]
    async fn garbage_and_floods_are_refused() {
        let error = with_script(Verb::Add, LONG, "echo hello").await.unwrap_err();
        assert!(error.contains("something that is no JSON (it said: hello)"), "{error}");
        let error = with_script(Verb::Add, LONG, "").await.unwrap_err();
        assert!(error.contains("no JSON (it said nothing)"), "{error}");
        let error = with_script(Verb::Add, LONG, "exec cat /dev/zero").await.unwrap_err();
        assert!(error.contains("more than 262144 bytes"), "{error}");
        let quiet = with_script(Verb::Add, LONG, "head -c 3000000 /dev/zero >&2; echo '{}'").await;
        assert_eq!(quiet, Ok(serde_json::json!({})));
        let error = with_script(Verb::Add, LONG, "kill -9 $$").await.unwrap_err();
        assert!(error.contains("signal: 9"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_plugin_says_where_it_was_looked_for() {
        let call = Call {
            verb: Verb::Add,
            container_id: "0a",
            netns: Path::new(""),
            interface: "eth0",
            args: "",
            bin_dirs: &["/nowhere".into(), "/neither".into()],
            run_dir: Path::new("/run/x"),
            timeout: LONG,
        };
        let error = run(&call, &serde_json::json!({"type": "bridge"})).await.unwrap_err().to_string();
        assert!(error.contains("bridge is in none of /nowhere, /neither; install it"), "{error}");
        let error = run(&call, &serde_json::json!({"type": "../bin/sh"})).await.unwrap_err();
        assert!(matches!(error, PluginError::BadName { .. }));
    }
}
