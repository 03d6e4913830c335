//! Credential helpers: programs `docker-credential-NAME` that are asked for the login of one host (`get`, the server's URL on standard
//! input, a JSON object on standard output). Bounded in time and output; what they print is never shown, because it may be the secret.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{Login, Secret};

/// Helpers of clouds ask a service over the network; longer than this nobody waits for a login.
const TIME_MAX: Duration = Duration::from_secs(30);

/// A login has some kilobytes at most (tokens of clouds have 4).
const OUTPUT_MAX: u64 = 64 << 10;

/// What docker's own helpers print when they know nothing about a host: no login, and no failure.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Why a helper gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelperError {
    #[error("credential helper {program} cannot be run: {reason}; install it, or put it on the agent's PATH")]
    Start { program: String, reason: String },
    #[error("credential helper {program} did not answer within {} s", TIME_MAX.as_secs())]
    Time { program: String },
    #[error("credential helper {program} failed ({status})")]
    Failed { program: String, status: String },
    #[error("credential helper {program} answered with something that is no login")]
    Answer { program: String },
}

/// A name that can be part of a program's name and of nothing else: no path.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !name.starts_with('.')
}

/// The login that a helper has for this server; none if it has none.
pub async fn ask(name: &str, server: &str) -> Result<Option<Login>, HelperError> {
    run(Path::new(&format!("docker-credential-{name}")), server, TIME_MAX).await
}

/// A helper's processes; dropped, they are killed.
struct Group(Option<Pid>);

impl Group {
    /// The helper has ended by itself: its group's number may be another's soon.
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Already ended is as good.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

async fn run(path: &Path, server: &str, bound: Duration) -> Result<Option<Login>, HelperError> {
    let program = path.display().to_string();
    let failed = |reason: std::io::Error| HelperError::Start { program: program.clone(), reason: reason.to_string() };
    let mut child = Command::new(path)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Its own group, so that a helper's children end with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let talk = async {
        if let Some(mut input) = child.stdin.take() {
            // A helper that needs no input may have closed it; what counts is its answer.
            let _ = input.write_all(server.as_bytes()).await;
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(OUTPUT_MAX + 1).read_to_end(&mut output).await?;
        }
        if output.len() as u64 > OUTPUT_MAX {
            // It may go on writing for ever, and is waited for no longer.
            return Ok((None, output));
        }
        child.wait().await.map(|status| (Some(status), output))
    };
    let outcome = tokio::time::timeout(bound, talk).await;
    if matches!(outcome, Ok(Ok((Some(_), _)))) {
        group.ended();
    } else {
        drop(group);
    }
    match outcome {
        Err(_) => Err(HelperError::Time { program }),
        Ok(Err(error)) => Err(HelperError::Start { program, reason: error.to_string() }),
        Ok(Ok((None, _))) => Err(HelperError::Answer { program }),
        Ok(Ok((Some(status), output))) if status.success() => match login(&output) {
            Some(login) => Ok(Some(login)),
            None => Err(HelperError::Answer { program }),
        },
        Ok(Ok((Some(status), output))) => match String::from_utf8_lossy(&output).trim() {
            NOT_FOUND => Ok(None),
            _ => Err(HelperError::Failed { program, status: status.to_string() }),
        },
    }
}

/// `{"Username": …, "Secret": …}`; the user name `<token>` says that the secret is an identity token.
fn login(output: &[u8]) -> Option<Login> {
    let value: Value = serde_json::from_slice(output).ok()?;
    let secret = Secret::new(value.get("Secret")?.as_str()?);
    match value.get("Username")?.as_str()? {
        "<token>" => Some(Login::Identity(secret)),
        user => Some(Login::Basic { user: user.to_owned(), password: secret }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_s_name_is_no_path() {
        assert!(is_name("ecr-login") && is_name("osxkeychain") && is_name("a.b_c"));
        for bad in ["", "../x", "a/b", ".hidden", "a b", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_token_is_told_from_a_password() {
        let of = |text: &str| login(text.as_bytes());
        assert_eq!(of(r#"{"Username":"<token>","Secret":"t"}"#), Some(Login::Identity(Secret::new("t"))));
        assert_eq!(
            of(r#"{"ServerURL":"x","Username":"u","Secret":"p"}"#),
            Some(Login::Basic { user: "u".to_owned(), password: Secret::new("p") })
        );
        for bad in ["", "{}", r#"{"Username":"u"}"#, r#"{"Username":1,"Secret":"p"}"#, "[]"] {
            assert_eq!(of(bad), None);
        }
    }

    /// Runs a shell script as a helper.
    async fn script(text: &str, bound: Duration) -> Result<Option<Login>, HelperError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        loop {
            match run(&path, "https://r.example", bound).await {
                // Another test's child may hold the script open for writing between its fork and its exec.
                Err(HelperError::Start { reason, .. }) if reason.contains("busy") => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
    }

    #[tokio::test]
    async fn a_helper_is_told_the_server_and_its_answer_is_the_login() {
        let text = r#"[ "$1" = get ] || exit 9; read -r server; echo "{\"Username\": \"$server\", \"Secret\": \"s\"}""#;
        let login = script(text, TIME_MAX).await.unwrap();
        assert_eq!(login, Some(Login::Basic { user: "https://r.example".to_owned(), password: Secret::new("s") }));
    }

    #[tokio::test]
    async fn a_helper_that_knows_nothing_is_no_failure_and_one_that_fails_shows_nothing() {
        assert_eq!(script(&format!("echo '{NOT_FOUND}'; exit 1"), TIME_MAX).await, Ok(None));
        let error = script("echo hunter2; echo hunter2 >&2; exit 3", TIME_MAX).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && !error.contains("hunter2"), "{error}");
        let error = script("echo hunter2", TIME_MAX).await.unwrap_err().to_string();
        assert!(error.contains("no login") && !error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_helper_that_hangs_or_floods_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("child");
        let text = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let error = script(&text, Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error, HelperError::Time { .. }), "{error}");
        all_end(&file).await;
        let error =
            script("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", TIME_MAX).await.unwrap_err();
        assert!(matches!(error, HelperError::Answer { .. }), "{error}");
    }

    /// The process whose id stands in this file.
    async fn all_end(file: &Path) {
        let child = std::fs::read_to_string(file).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        // Ended, or a zombie that its new parent has not collected.
        let ended = || std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "));
        let bound = std::time::Instant::now() + Duration::from_secs(20);
        while !ended() {
            assert!(std::time::Instant::now() < bound, "the helper's child lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_helper_whose_asker_is_gone_ends_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("child");
        let text = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let begun = async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            answer = script(&text, TIME_MAX) => panic!("{answer:?}"),
            () = begun => {}
        }
        all_end(&file).await;
    }

    #[tokio::test]
    async fn a_helper_that_is_not_installed_is_named() {
        let error = ask("daemonlet-none", "https://x").await.unwrap_err();
        assert!(error.to_string().contains("docker-credential-daemonlet-none"), "{error}");
    }
}
