//! The image configuration: read, and checked as what it is, the word of a stranger (CVE-2022-23648, CVE-2024-40635,
//! CVE-2024-21626). What passes is plain data for `image_facts`.

use super::digest::Digest;
use super::documents::{ImageConfig as Document, RunConfig};
use super::platform::Platform;
use crate::runtime::containerd::image_facts::ImageConfig;

/// The largest uid and gid that the kernel, runc and Kubernetes agree on: 2^31 - 1. Beyond it, some wrap to root.
const MAX_ID: u64 = i32::MAX as u64;
/// Linux' highest signal number (SIGRTMAX).
const MAX_SIGNAL: u32 = 64;

/// An image configuration that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub platform: Platform,
    /// Digests of the layers uncompressed, lowest first.
    pub diff_ids: Vec<Digest>,
    pub run: ImageConfig,
}

/// Reads and checks; the reason in words otherwise.
pub fn read(bytes: &[u8]) -> Result<Config, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| format!("it is no image configuration: {e}"))?;
    let Document { os, architecture, variant, config, rootfs } = document;
    check(&config)?;
    let RunConfig { user, env, entrypoint, cmd, working_dir, stop_signal, volumes } = config;
    Ok(Config {
        platform: Platform { os, architecture, variant },
        diff_ids: rootfs.diff_ids,
        run: ImageConfig {
            env,
            entrypoint,
            cmd,
            user,
            working_dir,
            stop_signal: Some(stop_signal).filter(|s| !s.is_empty()),
            volumes: volumes.into_keys().collect(),
        },
    })
}

/// The chain id of a stack of layers (OCI image specification, config.md): the name of its snapshot; None without layers.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(first.clone(), |chain, diff| Digest::of(format!("{chain} {diff}").as_bytes())))
}

fn check(config: &RunConfig) -> Result<(), String> {
    let RunConfig { user, env, entrypoint, cmd, working_dir, stop_signal, volumes } = config;
    check_user(user)?;
    for volume in volumes.keys() {
        if !volume.starts_with('/') || volume.split('/').any(|p| p == "..") || volume.contains('\0') {
            return Err(format!("its VOLUME {volume:?} is no absolute path without \"..\""));
        }
    }
    if !working_dir.is_empty() && (!working_dir.starts_with('/') || working_dir.contains('\0')) {
        return Err(format!("its WORKDIR {working_dir:?} is not absolute"));
    }
    if working_dir.split('/').filter(|p| !p.is_empty() && *p != ".").take(1).any(|p| p == "proc") {
        return Err(format!("its WORKDIR {working_dir:?} is under /proc"));
    }
    if !stop_signal.is_empty() && !is_signal(stop_signal) {
        return Err(format!("its STOPSIGNAL {stop_signal:?} is no signal"));
    }
    match [env, entrypoint, cmd].into_iter().flatten().find(|s| s.contains('\0')) {
        Some(text) => Err(format!("{text:?} has a zero byte")),
        None => Ok(()),
    }
}

/// `user[:group]`: numbers must be in range; names are looked up in the image later.
fn check_user(user: &str) -> Result<(), String> {
    for part in user.splitn(2, ':') {
        let digits = part.strip_prefix(['+', '-']).unwrap_or(part);
        let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let in_range = part == digits && digits.parse::<u64>().is_ok_and(|id| id <= MAX_ID);
        if (numeric && !in_range) || part.chars().any(|c| c.is_control() || c == ':') {
            return Err(format!("its USER {user:?} is not a name or a number from 0 to {MAX_ID}"));
        }
    }
    Ok(())
}

/// `SIGTERM`, `term`, `15`, `RTMIN+3`, `SIGRTMAX-1`.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=MAX_SIGNAL).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return offset.is_empty() || offset.strip_prefix('+').is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n <= 30));
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return offset.is_empty() || offset.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n <= 30));
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<Config, String> {
        read(format!(r#"{{"os":"linux","architecture":"amd64","config":{json}}}"#).as_bytes())
    }

    #[test]
    fn what_the_image_says_is_carried_over() {
        let run = config(
            r#"{"User":"daemon:2","Env":["A=1"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w","StopSignal":"SIGINT","Volumes":{"/v":{}}}"#,
        )
        .unwrap()
        .run;
        assert_eq!((run.user.as_str(), run.working_dir.as_str()), ("daemon:2", "/w"));
        assert_eq!(
            (run.env, run.entrypoint, run.cmd),
            (vec!["A=1".to_owned()], vec!["/e".to_owned()], vec!["c".to_owned()])
        );
        assert_eq!(run.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(run.volumes.into_iter().collect::<Vec<_>>(), ["/v"]);
    }

    #[test]
    fn a_user_that_wraps_is_refused() {
        for good in ["", "0", "2147483647", "nobody", "1000:1000", "a:b", "www-data"] {
            assert!(config(&format!(r#"{{"User":"{good}"}}"#)).is_ok(), "{good}");
        }
        for bad in ["2147483648", "4294967296", "0:4294967295", "99999999999999999999999", "-1", "+0", "1:2:3", "a\\nb"]
        {
            assert!(config(&format!(r#"{{"User":"{bad}"}}"#)).unwrap_err().contains("USER"), "{bad}");
        }
    }

    #[test]
    fn a_volume_that_climbs_is_refused() {
        for bad in ["/../etc", "/a/../..", "relative", "", "/a\\u0000b"] {
            assert!(config(&format!(r#"{{"Volumes":{{"{bad}":{{}}}}}}"#)).unwrap_err().contains("VOLUME"), "{bad}");
        }
    }

    #[test]
    fn a_working_directory_in_proc_is_refused() {
        for bad in ["/proc/self/fd/8", "//proc/self", "/./proc", "a"] {
            assert!(config(&format!(r#"{{"WorkingDir":"{bad}"}}"#)).unwrap_err().contains("WORKDIR"), "{bad}");
        }
        assert!(config(r#"{"WorkingDir":"/process"}"#).is_ok());
    }

    #[test]
    fn a_stop_signal_has_a_name_or_a_number() {
        for good in ["SIGTERM", "term", "15", "SIGRTMIN+3", "RTMAX-1", "SIGQUIT"] {
            assert!(config(&format!(r#"{{"StopSignal":"{good}"}}"#)).is_ok(), "{good}");
        }
        for bad in ["0", "65", "SIGNOTHING", "-9", "RTMIN+99"] {
            assert!(config(&format!(r#"{{"StopSignal":"{bad}"}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(std::slice::from_ref(&a)), Some(a.clone()));
        assert_eq!(chain_id(&[a.clone(), b.clone()]), Some(Digest::of(format!("{a} {b}").as_bytes())));
    }
}
