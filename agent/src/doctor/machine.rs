//! This machine: privileges, kernel, AppArmor.

use super::Line;
use super::advisories::Version;
use crate::runtime::containerd::apparmor::{self, Found};

/// Bits of `CapEff` in /proc/PID/status that containers need somebody to have (linux/capability.h).
const CAPABILITIES: [(u32, &str); 6] = [
    (1, "DAC_OVERRIDE"),
    (12, "NET_ADMIN"),
    (18, "SYS_CHROOT"),
    (21, "SYS_ADMIN"),
    (24, "SYS_RESOURCE"),
    (27, "MKNOD"),
];

/// openat2, with which every path that a container can reach is opened.
const KERNEL_MIN: Version = Version::new(5, 6, 0);

#[derive(Debug)]
pub struct Privileges {
    pub root: bool,
    /// Of containerd where its process is known, else of this one.
    pub effective: u64,
    pub whose: &'static str,
}

pub fn probe_privileges(containerd: Option<i32>) -> Privileges {
    let of = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let root = nix::unistd::geteuid().is_root();
    match containerd.and_then(|pid| of(&pid.to_string())) {
        Some(effective) => Privileges { root, effective, whose: "containerd" },
        None => Privileges { root, effective: of("self").unwrap_or(0), whose: "this process" },
    }
}

pub fn judge_privileges(found: &Privileges) -> Line {
    const NAME: &str = "privileges";
    if !found.root {
        return Line::fail(NAME, "not root", "run the agent, and doctor, as root");
    }
    let lacks: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| found.effective & (1 << bit) == 0).map(|(_, name)| *name).collect();
    let whose = found.whose;
    match lacks.as_slice() {
        [] => Line::ok(NAME, format!("root; {whose} has every capability that is needed")),
        ["SYS_RESOURCE"] => Line::warn(
            NAME,
            format!("{whose} lacks CAP_SYS_RESOURCE: protection from the OOM killer and raised limits are left out"),
            "give the machine or container that holds this node CAP_SYS_RESOURCE",
        ),
        _ => Line::fail(
            NAME,
            format!("{whose} lacks CAP_{}", lacks.join(", CAP_")),
            "start containerd and the agent with all capabilities (privileged, where this node is itself a container)",
        ),
    }
}

/// Err: it could not be looked at.
pub fn probe_apparmor() -> Result<Found, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|why| why.to_string())?;
    Ok(runtime.block_on(apparmor::Profiles::default().look()))
}

pub fn judge_apparmor(found: &Result<Found, String>) -> Line {
    const NAME: &str = "apparmor";
    match found {
        Ok(Found::Off) => Line::ok(NAME, "off in this kernel: containers are confined without it"),
        Ok(Found::Loaded(profile)) => Line::ok(NAME, format!("the profile {profile} is loaded")),
        Ok(Found::Loadable) => Line::ok(NAME, "on; our profile is loaded before the first container that needs it"),
        Ok(Found::Impossible(why)) | Err(why) => Line::warn(
            NAME,
            format!("on, and containers run without a profile: {why}"),
            "install AppArmor's parser (apt-get install apparmor) and have securityfs mounted at /sys/kernel/security; then restart the daemons",
        ),
    }
}

pub fn probe_kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

pub fn judge_kernel(release: &str) -> Line {
    const NAME: &str = "kernel";
    match Version::parse(release) {
        Some(version) if version >= KERNEL_MIN => Line::ok(NAME, release),
        Some(_) => Line::fail(
            NAME,
            format!("{release} has no openat2"),
            format!("boot Linux {KERNEL_MIN} or newer; paths that containers can reach cannot be opened safely here"),
        ),
        None => Line::warn(
            NAME,
            format!("release {release:?} cannot be read"),
            format!("make sure it is at least {KERNEL_MIN}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn privileges_fail_without_root_or_sys_admin_and_warn_without_sys_resource() {
        let judge = |root, effective| judge_privileges(&Privileges { root, effective, whose: "this process" });
        assert_eq!(judge(true, u64::MAX).verdict, Verdict::Ok);
        assert_eq!(judge(false, u64::MAX).verdict, Verdict::Fail);
        assert_eq!(judge(true, !(1 << 24)).verdict, Verdict::Warn);
        let line = judge(true, !((1 << 24) | (1 << 21)));
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.found.contains("CAP_SYS_ADMIN, CAP_SYS_RESOURCE"), "{}", line.found);
        assert_ne!(probe_privileges(None).effective, 0);
    }

    #[test]
    fn apparmor_that_is_on_and_cannot_confine_warns() {
        let line = judge_apparmor(&Ok(Found::Impossible("apparmor_parser is not installed".into())));
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.contains("not installed") && line.fix.contains("apt-get install apparmor"), "{line:?}");
        for fine in [Found::Off, Found::Loadable, Found::Loaded("p".into())] {
            assert_eq!(judge_apparmor(&Ok(fine)).verdict, Verdict::Ok);
        }
        assert!(probe_apparmor().is_ok());
    }

    #[test]
    fn an_old_kernel_fails() {
        assert_eq!(judge_kernel("6.1.0-18-amd64").verdict, Verdict::Ok);
        assert_eq!(judge_kernel("4.19.0-5-amd64").verdict, Verdict::Fail);
        assert_eq!(judge_kernel("").verdict, Verdict::Warn);
        assert_eq!(judge_kernel(&probe_kernel()).verdict, Verdict::Ok);
    }
}
