//! Linux capabilities as a set: what a container asks for, what this machine's containerd can give, what results.
//!
//! Pure; used by `oci` and `seccomp`. Numbers are the kernel's (linux/capability.h).

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, Capability};

use pod::spec::Security;

/// A set of capabilities, one bit each, in the kernel's numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapSet(pub u64);

/// Kernel number is the index; the names are without `CAP_`, as Kubernetes writes them.
const TABLE: [(&str, Capability); 41] = [
    ("CHOWN", Capability::Chown),
    ("DAC_OVERRIDE", Capability::DacOverride),
    ("DAC_READ_SEARCH", Capability::DacReadSearch),
    ("FOWNER", Capability::Fowner),
    ("FSETID", Capability::Fsetid),
    ("KILL", Capability::Kill),
    ("SETGID", Capability::Setgid),
    ("SETUID", Capability::Setuid),
    ("SETPCAP", Capability::Setpcap),
    ("LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("NET_BIND_SERVICE", Capability::NetBindService),
    ("NET_BROADCAST", Capability::NetBroadcast),
    ("NET_ADMIN", Capability::NetAdmin),
    ("NET_RAW", Capability::NetRaw),
    ("IPC_LOCK", Capability::IpcLock),
    ("IPC_OWNER", Capability::IpcOwner),
    ("SYS_MODULE", Capability::SysModule),
    ("SYS_RAWIO", Capability::SysRawio),
    ("SYS_CHROOT", Capability::SysChroot),
    ("SYS_PTRACE", Capability::SysPtrace),
    ("SYS_PACCT", Capability::SysPacct),
    ("SYS_ADMIN", Capability::SysAdmin),
    ("SYS_BOOT", Capability::SysBoot),
    ("SYS_NICE", Capability::SysNice),
    ("SYS_RESOURCE", Capability::SysResource),
    ("SYS_TIME", Capability::SysTime),
    ("SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("MKNOD", Capability::Mknod),
    ("LEASE", Capability::Lease),
    ("AUDIT_WRITE", Capability::AuditWrite),
    ("AUDIT_CONTROL", Capability::AuditControl),
    ("SETFCAP", Capability::Setfcap),
    ("MAC_OVERRIDE", Capability::MacOverride),
    ("MAC_ADMIN", Capability::MacAdmin),
    ("SYSLOG", Capability::Syslog),
    ("WAKE_ALARM", Capability::WakeAlarm),
    ("BLOCK_SUSPEND", Capability::BlockSuspend),
    ("AUDIT_READ", Capability::AuditRead),
    ("PERFMON", Capability::Perfmon),
    ("BPF", Capability::Bpf),
    ("CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// What a container has that asks for nothing: the fourteen that every CRI runtime gives.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

impl CapSet {
    /// All that the table knows.
    pub const ALL: CapSet = CapSet((1 << TABLE.len()) - 1);

    /// The set of these names; a name that the table does not know is returned as Err.
    pub fn of(names: &[&str]) -> Result<CapSet, String> {
        let mut set = CapSet::default();
        for name in names {
            let bare = name.strip_prefix("CAP_").unwrap_or(name);
            let bit = TABLE.iter().position(|(known, _)| *known == bare).ok_or_else(|| bare.to_owned())?;
            set.0 |= 1 << bit;
        }
        Ok(set)
    }

    pub fn default_of_containers() -> CapSet {
        CapSet::of(&DEFAULT).expect("the default names are in the table")
    }

    /// All up to the kernel's number of the last one (`kernel.cap_last_cap`).
    pub fn up_to(last: u32) -> CapSet {
        CapSet(u64::MAX >> 63_u32.saturating_sub(last)).and(CapSet::ALL)
    }

    pub fn has(self, name: &str) -> bool {
        CapSet::of(&[name]).is_ok_and(|one| self.0 & one.0 == one.0)
    }

    pub fn and(self, other: CapSet) -> CapSet {
        CapSet(self.0 & other.0)
    }

    pub fn without(self, other: CapSet) -> CapSet {
        CapSet(self.0 & !other.0)
    }

    /// Names without `CAP_`, sorted.
    pub fn names(self) -> BTreeSet<&'static str> {
        (0..TABLE.len()).filter(|bit| self.0 >> bit & 1 == 1).map(|bit| TABLE[bit].0).collect()
    }

    pub fn to_oci(self) -> Capabilities {
        (0..TABLE.len()).filter(|bit| self.0 >> bit & 1 == 1).map(|bit| TABLE[bit].1).collect()
    }
}

/// What the security context asks for: privileged is all; otherwise the default, `ALL` first (drop before single
/// additions), then single additions, then single drops. Err is an unknown name.
pub fn asked(security: &Security) -> Result<CapSet, String> {
    if security.privileged {
        return Ok(CapSet::ALL);
    }
    let (add_all, add) = split(&security.capabilities_add)?;
    let (drop_all, drop) = split(&security.capabilities_drop)?;
    let mut set = CapSet::default_of_containers();
    if add_all {
        set = CapSet::ALL;
    }
    if drop_all {
        set = CapSet::default();
    }
    Ok(CapSet(set.0 | add.0).without(drop))
}

/// Whether `ALL` is among the names, and the set of the others.
fn split(names: &[String]) -> Result<(bool, CapSet), String> {
    let single: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != "ALL").collect();
    Ok((single.len() < names.len(), CapSet::of(&single)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(add: &[&str], drop: &[&str]) -> CapSet {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        asked(&Security { capabilities_add: own(add), capabilities_drop: own(drop), ..Security::default() })
            .expect("known names")
    }

    #[test]
    fn nothing_asked_is_the_fourteen() {
        assert_eq!(asking(&[], &[]).names(), DEFAULT.into_iter().collect());
    }

    #[test]
    fn drop_all_leaves_only_single_additions() {
        assert_eq!(asking(&["NET_ADMIN"], &["ALL"]).names(), ["NET_ADMIN"].into());
    }

    #[test]
    fn add_all_without_single_drops() {
        let set = asking(&["ALL"], &["SYS_ADMIN"]);
        assert!(!set.has("SYS_ADMIN") && set.has("BPF") && set.has("SYS_MODULE"));
    }

    #[test]
    fn unknown_names_are_named() {
        let security = Security { capabilities_add: vec!["FLY".into()], ..Security::default() };
        assert_eq!(asked(&security), Err("FLY".into()));
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(CapSet::of(&["CHOWN", "SYS_ADMIN", "BPF"]), Ok(CapSet(1 | 1 << 21 | 1 << 39)));
        assert_eq!(CapSet::of(&["CAP_SYS_RESOURCE"]), Ok(CapSet(1 << 24)));
    }
}
