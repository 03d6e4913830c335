//! What starts containers: containerd and its snapshotter.

use super::runtimes::{changelog, versioned};
use super::{Line, Places, advisories};
use crate::runtime::containerd::look::{Look, look};

/// The one that images are unpacked with.
const SNAPSHOTTER: &str = "overlayfs";

pub fn probe_containerd(places: &Places) -> Result<Look, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|why| why.to_string())?;
    runtime.block_on(look(&places.containerd, &places.containerd_namespace, SNAPSHOTTER))
}

pub fn judge_containerd(found: &Result<Look, String>, places: &Places) -> Line {
    const NAME: &str = "containerd";
    let socket = places.containerd.display();
    match found {
        Err(why) => Line::fail(
            NAME,
            format!("no answer on {socket}: {why}"),
            "start containerd (systemctl enable --now containerd) or name its socket with --containerd",
        ),
        Ok(look) => {
            let found = format!("{} answers on {socket}", look.version);
            versioned(NAME, &found, &look.version, &advisories::CONTAINERD, &changelog("containerd"))
        }
    }
}

pub fn judge_snapshotter(found: &Result<Look, String>) -> Line {
    const NAME: &str = "snapshotter";
    match found.as_ref().map(|look| &look.snapshotter) {
        Ok(Ok(())) => Line::ok(NAME, SNAPSHOTTER),
        Ok(Err(why)) => Line::fail(
            NAME,
            format!("containerd has no usable {SNAPSHOTTER}: {why}"),
            "load the module overlay, keep containerd's root on ext4, xfs or btrfs, and do not list it in disabled_plugins",
        ),
        Err(_) => Line::fail(NAME, "not asked: containerd does not answer", "see the line containerd"),
    }
}

/// No fault of a node: only pods that ask for it are concerned, and they say so.
pub fn judge_own_users(found: &Result<Look, String>) -> Line {
    const NAME: &str = "user namespaces";
    let refused = |why: &str| Line::ok(NAME, format!("pods with hostUsers: false are refused here: {why}"));
    match found.as_ref().map(|look| &look.own_users) {
        Ok(Ok(())) => Line::ok(NAME, "pods with hostUsers: false have users of their own"),
        Ok(Err(why)) => refused(why),
        Err(_) => refused("containerd does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};
    use crate::doctor::Verdict;

    fn places() -> Places {
        let mut config = Config::load(&Settings::default(), None).unwrap();
        config.containerd = "/nonexistent/containerd.sock".into();
        Places::new(&config, Err(String::new()))
    }

    fn answering(version: &str, snapshotter: Result<(), String>) -> Result<Look, String> {
        Ok(Look {
            version: version.into(),
            pid: None,
            snapshotter,
            own_users: Err("runc is too old".into()),
            namespaces: Ok(vec![]),
            root: None,
        })
    }

    #[test]
    fn a_silent_containerd_fails_and_an_old_one_is_named_with_its_advisories() {
        let line = judge_containerd(&probe_containerd(&places()), &places());
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.found.contains("/nonexistent/containerd.sock"), "{}", line.found);
        // No distribution's: one that is installed might have mended it.
        let line = judge_containerd(&answering("1.6.19", Ok(())), &places());
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.contains("CVE-2024-25621"), "{}", line.found);
        assert_eq!(judge_containerd(&answering("v2.2.1", Ok(())), &places()).verdict, Verdict::Ok);
    }

    #[test]
    fn what_keeps_pods_from_users_of_their_own_is_told() {
        let line = judge_own_users(&answering("2.2.1", Ok(())));
        assert!(line.verdict == Verdict::Ok && line.found.ends_with("refused here: runc is too old"), "{}", line.found);
    }

    #[test]
    fn a_missing_snapshotter_fails() {
        assert_eq!(judge_snapshotter(&answering("2.2.1", Ok(()))).verdict, Verdict::Ok);
        assert_eq!(judge_snapshotter(&answering("2.2.1", Err("not loaded".into()))).verdict, Verdict::Fail);
        assert_eq!(judge_snapshotter(&Err("down".into())).verdict, Verdict::Fail);
    }
}
