//! AppArmor: what the kernel of this node has of it, and our default profile, loaded before the first container that
//! needs it.
//!
//! `containers` asks before each create, `doctor` looks without changing anything; `oci` only sees the value. Profiles
//! of other software are neither used nor touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;

/// What every name of ours begins with; the rest tells the profile's text, so that a newer version of us does not
/// change the profile of containers that run.
const BASE: &str = "daemonlet-default";
/// Where distributions put AppArmor's compiler.
const PARSERS: [&str; 3] = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];
/// Compiling takes a tenth of a second on a server and a second or two on a small board.
const PARSER_TIME_MAX: Duration = Duration::from_secs(15);
/// A parser that failed is not run for each container of a node that starts.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Bytes of what the parser says that are told on.
const SAID_MAX: usize = 400;

/// The rules: what runtimes of containers forbid by default. Capabilities, mounts and the seccomp filter decide the
/// rest. `@NAME@` and `@BASE@` are filled in.
const TEXT: &str = "\
profile @NAME@ flags=(attach_disconnected,mediate_deleted) {
  capability,
  file,
  network,
  unix,
  umount,

  # Whoever outside may send a signal reaches the container; the container reaches containers only.
  signal (receive),
  signal (send) peer=@BASE@-*,
  ptrace (read, readby, trace, tracedby) peer=@BASE@-*,

  # With any capability.
  deny mount,

  # In /proc only what belongs to processes may be written.
  deny /proc/* wl,
  deny /proc/{[^0-9s/]*,s[^y/]*,sy[^s/]*,sys?*,sys}/** wl,
  deny /proc/{kcore,sysrq-trigger} rwklx,

  # In /sys only cgroups.
  deny /sys/{[^f/],f[^s/]}** wklx,
  deny /sys/fs/{[^c/],c[^g/],cg[^r/]}** wklx,
  deny /sys/{firmware,kernel/security,devices/virtual/powercap}/** rwklx,
  deny /sys/devices/system/cpu/cpu*/thermal_throttle/** rwklx,
}
";

/// AppArmor on this node, as a container's spec has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppArmor {
    Off,
    On {
        /// The default profile's name, loaded; or why it is not.
        default: Result<String, String>,
        /// Names of all profiles in the kernel.
        loaded: BTreeSet<String>,
    },
}

/// What was found without changing anything, for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Off,
    Loaded(String),
    /// It will be loaded with the first container that needs it.
    Loadable,
    /// Why it cannot be.
    Impossible(String),
}

/// Keeps our profile loaded.
#[derive(Debug)]
pub struct Profiles {
    kernel: Kernel,
    parsers: Vec<PathBuf>,
    /// The last failure and when. Held while the parser runs: one at a time.
    failed: Mutex<Option<(Instant, String)>>,
}

/// The kernel's files.
#[derive(Debug)]
struct Kernel {
    sys: PathBuf,
    /// It does not change while the kernel runs.
    enabled: OnceLock<bool>,
}

impl Default for Profiles {
    fn default() -> Profiles {
        Profiles::below(Path::new("/sys"), PARSERS.iter().map(PathBuf::from).collect())
    }
}

impl Profiles {
    fn below(sys: &Path, parsers: Vec<PathBuf>) -> Profiles {
        let kernel = Kernel { sys: sys.to_owned(), enabled: OnceLock::new() };
        Profiles { kernel, parsers, failed: Mutex::new(None) }
    }

    /// What is loaded at present, our profile made to be among it where it `is_needed` and can be.
    pub async fn ready(&self, is_needed: IsNeeded) -> AppArmor {
        if !self.kernel.is_enabled() {
            return AppArmor::Off;
        }
        // Asked for each time: whoever reloads the profiles of /etc/apparmor.d may remove all others.
        match self.kernel.loaded() {
            Err(why) => AppArmor::On { default: Err(why), loaded: BTreeSet::new() },
            Ok(loaded) if loaded.contains(name()) => AppArmor::On { default: Ok(name().to_owned()), loaded },
            Ok(loaded) => match is_needed {
                IsNeeded::Yes => AppArmor::On { default: self.load().await, loaded },
                IsNeeded::No => AppArmor::On { default: Err("it was not needed".into()), loaded },
            },
        }
    }

    /// The default profile's name once it is loaded, or why it is not.
    async fn load(&self) -> Result<String, String> {
        let mut failed = self.failed.lock().await;
        if self.kernel.loaded()?.contains(name()) {
            return Ok(name().to_owned());
        }
        if let Some((_, why)) = failed.as_ref().filter(|(when, _)| when.elapsed() < RETRY_AFTER) {
            return Err(why.clone());
        }
        let ended = parse(&self.parser()?, &["--skip-cache", "--replace"]).await;
        *failed = ended.as_ref().err().map(|why| (Instant::now(), why.clone()));
        ended?;
        tracing::info!(profile = name(), "AppArmor profile loaded");
        Ok(name().to_owned())
    }

    /// Whether our profile is loaded or could be: compiled, but not given to the kernel.
    pub async fn look(&self) -> Found {
        if !self.kernel.is_enabled() {
            return Found::Off;
        }
        match self.kernel.loaded() {
            Ok(loaded) if loaded.contains(name()) => return Found::Loaded(name().to_owned()),
            Ok(_) => {}
            Err(why) => return Found::Impossible(why),
        }
        let compiled = match self.parser() {
            Ok(parser) => parse(&parser, &["--skip-cache", "--skip-kernel-load"]).await,
            Err(why) => Err(why),
        };
        compiled.map_or_else(Found::Impossible, |()| Found::Loadable)
    }

    fn parser(&self) -> Result<PathBuf, String> {
        let found = self.parsers.iter().find(|path| path.is_file());
        found.cloned().ok_or_else(|| "apparmor_parser is not installed (apt-get install apparmor)".to_owned())
    }
}

/// Whether a container is about to run under our profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsNeeded {
    Yes,
    No,
}

impl Kernel {
    fn is_enabled(&self) -> bool {
        *self.enabled.get_or_init(|| {
            let parameter = fs::read_to_string(self.sys.join("module/apparmor/parameters/enabled"));
            parameter.is_ok_and(|text| text.starts_with('Y'))
        })
    }

    /// Lines of the form `name (mode)`.
    fn loaded(&self) -> Result<BTreeSet<String>, String> {
        let path = self.sys.join("kernel/security/apparmor/profiles");
        let text = fs::read_to_string(&path).map_err(|why| {
            format!("{} cannot be read: {why} (mount -t securityfs none /sys/kernel/security)", path.display())
        })?;
        Ok(text.lines().map(|line| line.rsplit_once(" (").map_or(line, |(name, _)| name).to_owned()).collect())
    }
}

/// The default profile's name in the kernel.
pub fn name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let sum = Sha256::digest(TEXT);
        format!("{BASE}-{:02x}{:02x}{:02x}{:02x}", sum[0], sum[1], sum[2], sum[3])
    })
}

/// The default profile as the parser reads it.
fn text() -> String {
    TEXT.replace("@NAME@", name()).replace("@BASE@", BASE)
}

/// Runs the parser over our profile. Err says why it failed, in one line.
async fn parse(parser: &Path, words: &[&str]) -> Result<(), String> {
    let failed = |why: String| format!("{} failed: {why}", parser.display());
    let mut command = Command::new(parser);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|why| failed(why.to_string()))?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let run = async {
        // One that does not read to the end says why by its exit.
        let _unread = stdin.write_all(text().as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(PARSER_TIME_MAX, run).await {
        Ok(ended) => ended.map_err(|why| failed(why.to_string()))?,
        Err(_) => return Err(failed(format!("no end within {} s", PARSER_TIME_MAX.as_secs()))),
    };
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    let said: String = said.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect();
    Err(failed(if said.is_empty() { output.status.to_string() } else { said }))
}

#[cfg(test)]
mod tests;
