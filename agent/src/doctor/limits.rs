//! What containers here can be given at most, and so what is taken from those that ask for more. Each is also said of the pods that it
//! meets (condition Adapted).

use std::path::Path;

use super::Line;
use crate::runtime::containerd::host::Host;
use crate::runtime::containerd::oci::NOFILE;

/// Below this no container's score can be needed (Kubernetes' formula for what is critical to a node).
const OOM_SCORE_WANTED: i32 = -997;

/// Of the machine on which this containerd runs; where its process is not known, as this one sees it.
pub fn probe(containerd: Option<i32>, state_dir: &Path) -> Host {
    Host::read(containerd, state_dir)
}

pub fn judge(found: &Host) -> Line {
    const NAME: &str = "limits";
    let mut less = Vec::new();
    let missing: Vec<&str> = found.missing_capabilities().into_iter().collect();
    if !missing.is_empty() {
        less.push(format!("no capability {}", missing.join(", ")));
    }
    if found.nofile_hard < NOFILE {
        less.push(format!("{} open files instead of {NOFILE}", found.nofile_hard));
    }
    if found.oom_score_adj_min > OOM_SCORE_WANTED {
        less.push(format!("no oom_score_adj below {}", found.oom_score_adj_min));
    }
    if !found.swap_limits {
        less.push("memory limits that do not count swap".to_owned());
    }
    match less.is_empty() {
        true => Line::ok(NAME, "containers can be given every capability, limit and score that they may ask for"),
        false => Line::warn(
            NAME,
            format!("containers get {}", less.join("; ")),
            "raise containerd's own (LimitNOFILE=infinity in its unit, all capabilities where this node is a container); swap is \
             accounted with swapaccount=1 on the kernel's command line, and does not matter where there is none",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use crate::runtime::containerd::capabilities::CapSet;

    fn good() -> Host {
        Host {
            capabilities: CapSet::ALL,
            kernel_capabilities: CapSet::ALL,
            nofile_hard: u64::MAX,
            oom_score_adj_min: -1000,
            swap_limits: true,
            ..probe(None, Path::new("/"))
        }
    }

    #[test]
    fn whatever_containers_cannot_be_given_warns() {
        assert_eq!(judge(&good()).verdict, Verdict::Ok);
        let without = CapSet::ALL.without(CapSet::of(&["BPF"]).unwrap());
        for (less, told) in [
            (Host { capabilities: without, ..good() }, "no capability BPF"),
            (Host { nofile_hard: 20_000, ..good() }, "20000 open files instead of 1048576"),
            (Host { oom_score_adj_min: 0, ..good() }, "no oom_score_adj below 0"),
            (Host { swap_limits: false, ..good() }, "do not count swap"),
        ] {
            let line = judge(&less);
            assert!(line.verdict == Verdict::Warn && line.found.contains(told), "{line:?}");
        }
    }
}
