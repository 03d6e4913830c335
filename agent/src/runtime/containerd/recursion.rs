//! recursiveReadOnly: whether this node's kernel and OCI runtime can make a mount read-only with all that is mounted below.
//!
//! Used by `containers`. An OCI runtime that does not know the option may ignore it without a word, so it is asked what it
//! knows (`runc features`, OCI runtime-spec features.md): once a program, when the first container needs to know.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pod::spec::RecursiveReadOnly;
use tokio::process::Command;

use super::classes::OciRuntime;
use crate::seams::CreateRun;

/// It prints a constant.
const FEATURES_TIME_MAX: Duration = Duration::from_secs(5);
/// The kernel's mount_setattr(2) came with this version.
const KERNEL_MIN: (u32, u32) = (5, 12);

/// Programs that are known to be able.
#[derive(Debug, Default)]
pub struct Recursion {
    able: Mutex<BTreeSet<PathBuf>>,
}

impl Recursion {
    /// Whether it can be done, where a mount of this container asks for it; Err: why not. Ok where none asks.
    pub async fn asked(&self, run: &CreateRun<'_>, runtime: &OciRuntime) -> Result<(), String> {
        if run.container.mounts.iter().all(|mount| mount.recursive_read_only == RecursiveReadOnly::Disabled) {
            return Ok(());
        }
        let release = nix::sys::utsname::uname().map(|it| it.release().to_string_lossy().into_owned());
        let release = release.map_err(|error| format!("this kernel's version is not known: {error}"))?;
        if version(&release).is_none_or(|version| version < KERNEL_MIN) {
            return Err(format!("this kernel ({release}) is older than {}.{}", KERNEL_MIN.0, KERNEL_MIN.1));
        }
        let Some(program) = runtime.program() else {
            return Err(format!("the runtime {} cannot be asked what it knows", runtime.name));
        };
        if self.able.lock().unwrap_or_else(PoisonError::into_inner).contains(program) {
            return Ok(());
        }
        makes_read_only(program, &features(program).await?)?;
        self.able.lock().unwrap_or_else(PoisonError::into_inner).insert(program.to_owned());
        Ok(())
    }
}

/// What an OCI runtime says that it knows.
pub(super) async fn features(program: &Path) -> Result<serde_json::Value, String> {
    let shown = program.display();
    let asking =
        Command::new(program).arg("features").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(FEATURES_TIME_MAX, asking).await;
    let output = output.map_err(|_| format!("`{shown} features` does not end"))?;
    let output = output.map_err(|error| format!("`{shown} features` cannot be run: {error}"))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("{shown} does not say what it knows (`{shown} features`); runc does from 1.1 on"))
}

fn makes_read_only(program: &Path, features: &serde_json::Value) -> Result<(), String> {
    let shown = program.display();
    let known = features["mountOptions"].as_array().is_some_and(|all| all.iter().any(|option| option == "rro"));
    if known { Ok(()) } else { Err(format!("{shown} does not know the mount option rro; runc does from 1.1 on")) }
}

/// Major and minor of `6.18.44-x`.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_version_is_read() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("x"), None);
    }

    #[tokio::test]
    async fn a_program_that_knows_nothing_of_it_is_named() {
        assert!(features(Path::new("/bin/true")).await.unwrap_err().contains("/bin/true"));
        assert!(features(Path::new("/nonexistent/runc")).await.unwrap_err().contains("cannot be run"));
    }
}
