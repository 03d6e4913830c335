//! The default seccomp profile (`RuntimeDefault`), as data: which system calls an unprivileged container may make.
//!
//! Pure; used by `oci`. Everything that is not listed answers EPERM. The kernel's numbers are libseccomp's to know:
//! names that an architecture or an old libseccomp does not have are skipped by runc.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

use super::capabilities::CapSet;

pub mod localhost;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET: what `clone` may not ask for.
const CLONE_NEW_NAMESPACES: u64 = 0x7E02_0000;
/// AF_VSOCK: reaches the hypervisor past every network namespace.
const AF_VSOCK: u64 = 40;
/// PER_LINUX, UNAME26 on it, PER_LINUX32, both, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x2_0000, 0x8, 0x2_0008, 0xffff_ffff];

/// Calls that every container may make, by what they are for.
const ALWAYS: &[&[&str]] = &[
    // Files: open, read, write, seek, copy.
    &[
        "access",
        "close",
        "close_range",
        "copy_file_range",
        "creat",
        "dup",
        "dup2",
        "dup3",
        "faccessat",
        "faccessat2",
        "fadvise64",
        "fadvise64_64",
        "fallocate",
        "fcntl",
        "fcntl64",
        "fdatasync",
        "flock",
        "fsync",
        "ftruncate",
        "ftruncate64",
        "_llseek",
        "lseek",
        "open",
        "openat",
        "openat2",
        "pread64",
        "preadv",
        "preadv2",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readahead",
        "readv",
        "sendfile",
        "sendfile64",
        "splice",
        "sync",
        "sync_file_range",
        "sync_file_range2",
        "syncfs",
        "tee",
        "truncate",
        "truncate64",
        "vmsplice",
        "write",
        "writev",
        "cachestat",
    ],
    // Names, directories, attributes.
    &[
        "chdir",
        "chmod",
        "chown",
        "chown32",
        "fchdir",
        "fchmod",
        "fchmodat",
        "fchmodat2",
        "fchown",
        "fchown32",
        "fchownat",
        "fgetxattr",
        "flistxattr",
        "fremovexattr",
        "fsetxattr",
        "fstat",
        "fstat64",
        "fstatat64",
        "fstatfs",
        "fstatfs64",
        "futimesat",
        "getcwd",
        "getdents",
        "getdents64",
        "getxattr",
        "getxattrat",
        "lchown",
        "lchown32",
        "lgetxattr",
        "link",
        "linkat",
        "listmount",
        "listxattr",
        "listxattrat",
        "llistxattr",
        "lremovexattr",
        "lsetxattr",
        "lstat",
        "lstat64",
        "mkdir",
        "mkdirat",
        "mknod",
        "mknodat",
        "name_to_handle_at",
        "newfstatat",
        "oldfstat",
        "oldlstat",
        "oldstat",
        "oldolduname",
        "olduname",
        "readlink",
        "readlinkat",
        "removexattr",
        "removexattrat",
        "rename",
        "renameat",
        "renameat2",
        "rmdir",
        "setxattr",
        "setxattrat",
        "stat",
        "stat64",
        "statfs",
        "statfs64",
        "statmount",
        "statx",
        "symlink",
        "symlinkat",
        "umask",
        "unlink",
        "unlinkat",
        "utime",
        "utimensat",
        "utimensat_time64",
        "utimes",
    ],
    // Memory.
    &[
        "brk",
        "get_mempolicy",
        "madvise",
        "map_shadow_stack",
        "membarrier",
        "memfd_create",
        "memfd_secret",
        "mincore",
        "mlock",
        "mlock2",
        "mlockall",
        "mmap",
        "mmap2",
        "modify_ldt",
        "mprotect",
        "mremap",
        "mseal",
        "msync",
        "munlock",
        "munlockall",
        "munmap",
        "pkey_alloc",
        "pkey_free",
        "pkey_mprotect",
        "process_madvise",
        "process_mrelease",
        "remap_file_pages",
    ],
    // Processes, threads, identity.
    &[
        "arch_prctl",
        "capget",
        "capset",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "fork",
        "getegid",
        "getegid32",
        "geteuid",
        "geteuid32",
        "getgid",
        "getgid32",
        "getgroups",
        "getgroups32",
        "getpgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getpriority",
        "getresgid",
        "getresgid32",
        "getresuid",
        "getresuid32",
        "getrlimit",
        "ugetrlimit",
        "get_robust_list",
        "getrusage",
        "getsid",
        "get_thread_area",
        "gettid",
        "getuid",
        "getuid32",
        "ioprio_get",
        "ioprio_set",
        "landlock_add_rule",
        "landlock_create_ruleset",
        "landlock_restrict_self",
        "pidfd_open",
        "pidfd_send_signal",
        "prctl",
        "prlimit64",
        "restart_syscall",
        "rseq",
        "seccomp",
        "setfsgid",
        "setfsgid32",
        "setfsuid",
        "setfsuid32",
        "setgid",
        "setgid32",
        "setgroups",
        "setgroups32",
        "setpgid",
        "setpriority",
        "setregid",
        "setregid32",
        "setresgid",
        "setresgid32",
        "setresuid",
        "setresuid32",
        "setreuid",
        "setreuid32",
        "setrlimit",
        "set_robust_list",
        "setsid",
        "set_thread_area",
        "set_tid_address",
        "setuid",
        "setuid32",
        "sysinfo",
        "uname",
        "vfork",
        "wait4",
        "waitid",
        "waitpid",
        "getrandom",
        "getcpu",
    ],
    // Scheduling and synchronising.
    &[
        "futex",
        "futex_requeue",
        "futex_time64",
        "futex_wait",
        "futex_waitv",
        "futex_wake",
        "sched_getaffinity",
        "sched_getattr",
        "sched_getparam",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_getscheduler",
        "sched_rr_get_interval",
        "sched_rr_get_interval_time64",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "sched_yield",
    ],
    // Signals and timers.
    &[
        "alarm",
        "clock_getres",
        "clock_getres_time64",
        "clock_gettime",
        "clock_gettime64",
        "clock_nanosleep",
        "clock_nanosleep_time64",
        "clock_adjtime",
        "clock_adjtime64",
        "adjtimex",
        "getitimer",
        "gettimeofday",
        "kill",
        "nanosleep",
        "pause",
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigqueueinfo",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "rt_sigtimedwait_time64",
        "rt_tgsigqueueinfo",
        "setitimer",
        "sigaltstack",
        "signalfd",
        "signalfd4",
        "sigprocmask",
        "sigreturn",
        "tgkill",
        "time",
        "timer_create",
        "timer_delete",
        "timer_getoverrun",
        "timer_gettime",
        "timer_gettime64",
        "timer_settime",
        "timer_settime64",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_gettime64",
        "timerfd_settime",
        "timerfd_settime64",
        "times",
        "tkill",
        "uretprobe",
    ],
    // Waiting for descriptors and telling of events. io_uring is left out: its operations go past this filter.
    &[
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "epoll_ctl_old",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_wait",
        "epoll_wait_old",
        "eventfd",
        "eventfd2",
        "fanotify_mark",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "inotify_rm_watch",
        "io_cancel",
        "ioctl",
        "io_destroy",
        "io_getevents",
        "io_pgetevents",
        "io_pgetevents_time64",
        "io_setup",
        "io_submit",
        "_newselect",
        "pipe",
        "pipe2",
        "poll",
        "ppoll",
        "ppoll_time64",
        "pselect6",
        "pselect6_time64",
        "select",
    ],
    // Sockets; `socket` itself has a rule of its own.
    &[
        "accept",
        "accept4",
        "bind",
        "connect",
        "getpeername",
        "getsockname",
        "getsockopt",
        "listen",
        "recv",
        "recvfrom",
        "recvmmsg",
        "recvmmsg_time64",
        "recvmsg",
        "send",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "setsockopt",
        "shutdown",
        "socketcall",
        "socketpair",
    ],
    // System V and POSIX IPC: the namespace confines them.
    &[
        "ipc",
        "mq_getsetattr",
        "mq_notify",
        "mq_open",
        "mq_timedreceive",
        "mq_timedreceive_time64",
        "mq_timedsend",
        "mq_timedsend_time64",
        "mq_unlink",
        "msgctl",
        "msgget",
        "msgrcv",
        "msgsnd",
        "semctl",
        "semget",
        "semop",
        "semtimedop",
        "semtimedop_time64",
        "shmat",
        "shmctl",
        "shmdt",
        "shmget",
    ],
    // Looking at processes of the own container (since Linux 4.8 the filter holds while being traced).
    &["ptrace", "process_vm_readv", "process_vm_writev", "kcmp"],
    // 32-bit Arm's own.
    &["arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls"],
];

/// Those of [`ALWAYS`] that neither x86_64 nor aarch64 has: of their 32-bit ways, and of other machines. A name that is not known there
/// costs runc a microsecond to find that out, and some become rules all the same.
const NOT_ON_64_BIT: &[&str] = &[
    "_llseek",
    "_newselect",
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "breakpoint",
    "cacheflush",
    "chown32",
    "clock_adjtime64",
    "clock_getres_time64",
    "clock_gettime64",
    "clock_nanosleep_time64",
    "fadvise64_64",
    "fchown32",
    "fcntl64",
    "fstat64",
    "fstatat64",
    "fstatfs64",
    "ftruncate64",
    "futex_time64",
    "getegid32",
    "geteuid32",
    "getgid32",
    "getgroups32",
    "getresgid32",
    "getresuid32",
    "getuid32",
    "io_pgetevents_time64",
    "ipc",
    "lchown32",
    "lstat64",
    "mmap2",
    "mq_timedreceive_time64",
    "mq_timedsend_time64",
    "oldfstat",
    "oldlstat",
    "oldolduname",
    "oldstat",
    "olduname",
    "ppoll_time64",
    "pselect6_time64",
    "recv",
    "recvmmsg_time64",
    "rt_sigtimedwait_time64",
    "sched_rr_get_interval_time64",
    "semtimedop_time64",
    "send",
    "sendfile64",
    "set_tls",
    "setfsgid32",
    "setfsuid32",
    "setgid32",
    "setgroups32",
    "setregid32",
    "setresgid32",
    "setresuid32",
    "setreuid32",
    "setuid32",
    "sigprocmask",
    "sigreturn",
    "socketcall",
    "stat64",
    "statfs64",
    "sync_file_range2",
    "timer_gettime64",
    "timer_settime64",
    "timerfd_gettime64",
    "timerfd_settime64",
    "truncate64",
    "ugetrlimit",
    "utimensat_time64",
    "waitpid",
];

/// Calls that come with a capability.
const WITH_CAPABILITY: &[(&str, &[&str])] = &[
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"]),
    ("SYS_RAWIO", &["iopl", "ioperm"]),
    ("SYS_TIME", &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    (
        "SYS_NICE",
        &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node", "migrate_pages", "move_pages"],
    ),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

/// Whether the kernel's 32-bit system calls are let through as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Abi {
    /// A program that makes a call of another ABI is ended with SIGSYS.
    #[default]
    Native,
    /// CRI's way: the list is a profile's of both. It costs runc 4 ms of processor time at every create (706 instructions of
    /// the kernel's filter instead of 334, in a time that grows with their square), and every program a second way into
    /// the kernel.
    With32Bit,
}

/// The profile for a container with these capabilities on `architecture` (`std::env::consts::ARCH`).
pub fn runtime_default(capabilities: CapSet, architecture: &str, abi: Abi) -> LinuxSeccomp {
    let mut always = ALWAYS.concat();
    if abi == Abi::Native && matches!(architecture, "x86_64" | "aarch64") {
        always.retain(|name| !NOT_ON_64_BIT.contains(name));
    }
    let mut syscalls =
        vec![allow(&always, &[]), allow(&["socket"], &[argument(0, LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK, None)])];
    for value in PERSONALITIES {
        syscalls.push(allow(&["personality"], &[argument(0, LinuxSeccompOperator::ScmpCmpEq, value, None)]));
    }
    for (capability, names) in WITH_CAPABILITY {
        if capabilities.has(capability) {
            syscalls.push(allow(names, &[]));
        }
    }
    if !capabilities.has("SYS_ADMIN") {
        let no_namespaces = argument(0, LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NEW_NAMESPACES, Some(0));
        syscalls.push(allow(&["clone"], &[no_namespaces]));
        // clone3 keeps its flags in memory where a filter cannot look; ENOSYS makes the C library use clone.
        let mut clone3 = LinuxSyscall::default();
        clone3
            .set_names(vec!["clone3".into()])
            .set_action(LinuxSeccompAction::ScmpActErrno)
            .set_errno_ret(Some(ENOSYS))
            .set_args(None);
        syscalls.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(architectures(architecture, abi)))
        .set_flags(None)
        .set_listener_path(None)
        .set_listener_metadata(None)
        .set_syscalls(Some(syscalls));
    profile
}

/// Empty where unknown: libseccomp then takes the native one. x32 is in neither: nobody builds for it.
fn architectures(architecture: &str, abi: Abi) -> Vec<Arch> {
    match (architecture, abi) {
        ("x86_64", Abi::Native) => vec![Arch::ScmpArchX86_64],
        ("x86_64", Abi::With32Bit) => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        ("aarch64", Abi::Native) => vec![Arch::ScmpArchAarch64],
        ("aarch64", Abi::With32Bit) => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => Vec::new(),
    }
}

fn allow(names: &[&str], args: &[LinuxSeccompArg]) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(names.iter().map(|name| (*name).to_owned()).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_errno_ret(None)
        .set_args(if args.is_empty() { None } else { Some(args.to_vec()) });
    syscall
}

fn argument(index: usize, op: LinuxSeccompOperator, value: u64, value_two: Option<u64>) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    let arg = value_two.into_iter().fold(arg, |arg, second| arg.value_two(second));
    arg.build().expect("every field has a value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(profile: &LinuxSeccomp, name: &str) -> bool {
        let rules = profile.syscalls().as_ref().expect("has rules");
        rules.iter().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow
                && rule.args().is_none()
                && rule.names().iter().any(|known| known == name)
        })
    }

    #[test]
    fn namespaces_mounts_and_clocks_need_their_capability() {
        let plain = runtime_default(CapSet::default_of_containers(), "x86_64", Abi::Native);
        let all = runtime_default(CapSet::ALL, "x86_64", Abi::Native);
        for name in ["mount", "bpf", "perf_event_open", "clock_settime", "setns", "unshare", "clone3", "reboot"] {
            assert!(!allowed(&plain, name), "{name}");
            assert!(allowed(&all, name), "{name}");
        }
        for name in ["execve", "openat2", "chroot", "futex", "statx", "rseq"] {
            assert!(allowed(&plain, name), "{name}");
        }
        for name in ["keyctl", "add_key", "userfaultfd", "io_uring_setup", "kexec_load"] {
            assert!(!allowed(&all, name), "{name}");
        }
    }

    #[test]
    fn calls_of_32_bit_programs_are_named_only_where_these_may_run() {
        for architecture in ["x86_64", "aarch64"] {
            let native = runtime_default(CapSet::default(), architecture, Abi::Native);
            let both = runtime_default(CapSet::default(), architecture, Abi::With32Bit);
            for name in NOT_ON_64_BIT {
                assert!(allowed(&both, name) && !allowed(&native, name), "{name}");
            }
            // Younger than some of the libraries that know numbers, and of both.
            for name in ["futex_wait", "statmount", "mseal", "fchmodat2", "newfstatat", "open", "stat"] {
                assert!(allowed(&native, name), "{name}");
            }
        }
        assert!(allowed(&runtime_default(CapSet::default(), "powerpc64", Abi::Native), "fadvise64_64"));
    }

    #[test]
    fn clone3_is_unknown_rather_than_forbidden_so_that_libc_falls_back() {
        let plain =
            serde_json::to_value(runtime_default(CapSet::default(), "aarch64", Abi::With32Bit)).expect("serializes");
        let rules = plain["syscalls"].as_array().expect("a list");
        let clone3 = rules.iter().find(|rule| rule["names"][0] == "clone3").expect("has a rule");
        assert_eq!((clone3["action"].as_str(), clone3["errnoRet"].as_u64()), (Some("SCMP_ACT_ERRNO"), Some(38)));
        let clone = rules.iter().find(|rule| rule["names"][0] == "clone").expect("has a rule");
        assert_eq!(clone["args"][0]["value"], 2_114_060_288_u64);
        assert_eq!(clone["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        assert_eq!(plain["architectures"], serde_json::json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]));
    }
}
