//! A pod's own namespaces, kept by bind mounts instead of a process.
//!
//! A thread of its own unshares them, sets the hostname and the pod's sysctls, brings the loopback interface up, binds its
//! `/proc/thread-self/ns/*` onto files and ends; the files hold the namespaces until they are unmounted. Driven by
//! `sandbox`; blocking, about a millisecond. Must not know containers or addresses.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::{mounts, netlink};

/// The thread only makes a dozen system calls.
const THREAD_STACK_BYTES: usize = 128 * 1024;

/// A kind of namespace that a pod may have of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Network,
    Ipc,
    Uts,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Network, Kind::Ipc, Kind::Uts];

    /// The name in an OCI spec's `linux.namespaces[].type`.
    pub fn oci(self) -> &'static str {
        match self {
            Kind::Network => "network",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
        }
    }

    /// The name under /proc/PID/ns, which is also the pinning file's.
    pub fn file(self) -> &'static str {
        match self {
            Kind::Network => "net",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
        }
    }

    pub fn flag(self) -> CloneFlags {
        match self {
            Kind::Network => CloneFlags::CLONE_NEWNET,
            Kind::Ipc => CloneFlags::CLONE_NEWIPC,
            Kind::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

/// Which namespaces a pod has of its own: the rest are the host's. A pod on the host's network also has the host's name.
pub fn own_kinds(host_network: bool, host_ipc: bool) -> Vec<Kind> {
    let own = |kind: &Kind| match kind {
        Kind::Network | Kind::Uts => !host_network,
        Kind::Ipc => !host_ipc,
    };
    Kind::ALL.into_iter().filter(own).collect()
}

#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("cannot make the directory {path} for the pod's namespaces")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot unshare the pod's namespaces (is CAP_SYS_ADMIN there?)")]
    Unshare { source: nix::Error },
    #[error("cannot set the hostname {hostname}")]
    Hostname { hostname: String, source: nix::Error },
    #[error("cannot set the sysctl {name} to {value:?}; does this kernel have it, and take such a value?")]
    Sysctl { name: String, value: String, source: io::Error },
    #[error("cannot bring up the loopback interface of the pod's network namespace")]
    Loopback { source: io::Error },
    #[error("cannot pin a namespace at {path}")]
    Pin { path: PathBuf, source: io::Error },
    #[error("cannot remove the pinned namespace {path}")]
    Unpin { path: PathBuf, source: io::Error },
    #[error("cannot start the thread that makes the pod's namespaces")]
    Thread { source: io::Error },
    #[error("the thread that makes the pod's namespaces panicked")]
    Panicked,
}

/// How the namespaces are to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub kinds: &'a [Kind],
    pub hostname: &'a str,
    /// Of the network and IPC namespaces among them, by names with dots.
    pub sysctls: &'a BTreeMap<String, String>,
}

/// Makes new namespaces, pinned at `<dir>/{net,ipc,uts}`; what was pinned there before is replaced. What is pinned is as
/// it is wanted. After an error nothing is left.
pub fn make(dir: &Path, wanted: &Wanted<'_>) -> Result<(), NamespaceError> {
    fs::create_dir_all(dir).map_err(|source| NamespaceError::Directory { path: dir.to_owned(), source })?;
    remove(dir)?;
    fs::create_dir_all(dir).map_err(|source| NamespaceError::Directory { path: dir.to_owned(), source })?;
    if wanted.kinds.is_empty() {
        return Ok(());
    }
    let made = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("namespaces".into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn_scoped(scope, || unshare_and_pin(dir, wanted))
            .map_err(|source| NamespaceError::Thread { source })?
            .join()
            .unwrap_or(Err(NamespaceError::Panicked))
    });
    if made.is_err() {
        remove(dir)?;
    }
    made
}

fn unshare_and_pin(dir: &Path, wanted: &Wanted<'_>) -> Result<(), NamespaceError> {
    let Wanted { kinds, hostname, sysctls } = *wanted;
    let flags = kinds.iter().fold(CloneFlags::empty(), |flags, kind| flags | kind.flag());
    unshare(flags).map_err(|source| NamespaceError::Unshare { source })?;
    if kinds.contains(&Kind::Uts) {
        nix::unistd::sethostname(hostname)
            .map_err(|source| NamespaceError::Hostname { hostname: hostname.to_owned(), source })?;
    }
    if kinds.contains(&Kind::Network) {
        netlink::loopback_up().map_err(|source| NamespaceError::Loopback { source })?;
    }
    for (name, value) in sysctls {
        let failed = |source| NamespaceError::Sysctl { name: name.clone(), value: value.clone(), source };
        set_sysctl(name, value).map_err(failed)?;
    }
    kinds.iter().try_for_each(|kind| {
        let path = dir.join(kind.file());
        pin(*kind, &path).map_err(|source| NamespaceError::Pin { path, source })
    })
}

/// The kernel shows under /proc/sys what the thread's own namespaces have. The file is there or the kernel lacks it.
fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn pin(kind: Kind, path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    let own = format!("/proc/thread-self/ns/{}", kind.file());
    mount(Some(own.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Whether a namespace is pinned at this path.
pub fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
}

/// The kernel's number of the namespace that is pinned at this path: another number, another namespace.
pub fn number(path: &Path) -> Option<u64> {
    is_pinned(path).then(|| fs::metadata(path).ok().map(|m| m.ino())).flatten()
}

/// Unpins all namespaces under `dir` and removes the directory; Ok when nothing is there. A namespace ends when the last
/// process in it has ended too.
pub fn remove(dir: &Path) -> Result<(), NamespaceError> {
    for file in Kind::ALL.map(Kind::file).into_iter().chain([super::holder::FILE, super::users::FILE]) {
        let path = dir.join(file);
        let unpin = |source| NamespaceError::Unpin { path: path.clone(), source };
        mounts::unmount(&path).map_err(unpin)?;
        absent_is_fine(fs::remove_file(&path)).map_err(unpin)?;
    }
    absent_is_fine(fs::remove_dir(dir)).map_err(|source| NamespaceError::Directory { path: dir.to_owned(), source })
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
