//! The files that every container of a pod shares: /etc/hosts, /etc/hostname, /etc/resolv.conf and /dev/shm.
//!
//! Driven by `sandbox`; blocking, well under a millisecond. They lie in the pod's own file system in memory, which has a
//! size limit, so that a container that writes to them fills nothing but that.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::O_NOFOLLOW;
use pod::spec::{HostAlias, Naming};

use super::called::Called;
use super::dns::{self, Cluster, Settings};
use crate::seams::Warned;

/// A node's hosts file or resolv.conf longer than this is cut at a line's end.
const NODE_FILE_MAX: u64 = 400 * 1024;
const FILE_MODE: u32 = 0o644;
/// Beside `etc/`: what we last wrote to resolv.conf, which containers may have changed since.
const NAMES: &str = "resolv.conf";
const ETC_MODE: u32 = 0o755;
const SHM_MODE: u32 = 0o1777;

const HOSTS_HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_NETWORK_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const ALIASES_HEADER: &str = "# Entries added by HostAliases.\n";
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// Where the node's own files are: /etc and systemd-resolved's list of the servers behind its stub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFiles {
    pub etc: PathBuf,
    pub resolved: PathBuf,
}

impl Default for NodeFiles {
    fn default() -> Self {
        NodeFiles { etc: "/etc".into(), resolved: "/run/systemd/resolve/resolv.conf".into() }
    }
}

/// What the files of a pod depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted<'a> {
    pub called: &'a Called,
    pub naming: &'a Naming,
    pub namespace: &'a str,
    pub host_network: bool,
    pub host_ipc: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("cannot make the pod's directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot write the pod's {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the node's {path}")]
    Node { path: PathBuf, source: io::Error },
}

/// Makes and writes everything. Idempotent; the pod's addresses come later, by [`write_hosts`].
pub fn make(pod_dir: &Path, wanted: &Wanted<'_>, node: &NodeFiles, cluster: &Cluster) -> Result<(), FilesError> {
    let etc = pod_dir.join("etc");
    directory(&etc, ETC_MODE)?;
    if !wanted.host_ipc {
        directory(&pod_dir.join("shm"), SHM_MODE)?;
    }
    write(&etc.join("hostname"), &format!("{}\n", wanted.called.kernel))?;
    write_names(pod_dir, wanted.naming, wanted.host_network, wanted.namespace, (node, cluster))?;
    let hosts = if wanted.host_network {
        let aliases = aliases(&wanted.naming.host_aliases);
        format!("{HOST_NETWORK_HEADER}{}{aliases}", read_node(&node.etc.join("hosts"))?)
    } else {
        hosts(wanted.called, &wanted.naming.host_aliases, &[])
    };
    write(&etc.join("hosts"), &hosts)
}

/// Writes resolv.conf again where the node's own, from which it was made, says something else by now: in place, since
/// containers have it mounted. Whether it did.
pub fn write_names(
    pod_dir: &Path,
    naming: &Naming,
    host_network: bool,
    namespace: &str,
    of_node: (&NodeFiles, &Cluster),
) -> Result<bool, FilesError> {
    let text = dns::text(&dns_settings(naming, host_network, namespace, of_node)?);
    let (place, last) = (pod_dir.join("etc/resolv.conf"), pod_dir.join(NAMES));
    if place.exists() && fs::read_to_string(&last).is_ok_and(|last| last == text) {
        return Ok(false);
    }
    write(&place, &text)?;
    write(&last, &text)?;
    Ok(true)
}

/// What the node's files say of names: two looks that differ mean that pods' files may have to be written again.
pub fn node_names(node: &NodeFiles) -> [String; 2] {
    [node.etc.join("resolv.conf"), node.resolved.clone()].map(|path| read_node(&path).unwrap_or_default())
}

/// What of it is left out, or not there.
pub fn dns_warnings(
    naming: &Naming,
    host_network: bool,
    namespace: &str,
    (node, cluster): (&NodeFiles, &Cluster),
) -> Result<Vec<Warned>, FilesError> {
    let of_node = resolv_conf(host_network, node)?;
    Ok(dns::warnings(naming, host_network, namespace, cluster, &of_node))
}

/// What resolv.conf says, for plugins that want to know it too.
pub fn dns_settings(
    naming: &Naming,
    host_network: bool,
    namespace: &str,
    (node, cluster): (&NodeFiles, &Cluster),
) -> Result<Settings, FilesError> {
    let of_node = resolv_conf(host_network, node)?;
    Ok(dns::settings(naming, host_network, namespace, cluster, &of_node))
}

/// Completes /etc/hosts with the pod's addresses, in place: a container may have it mounted already.
pub fn write_hosts(
    pod_dir: &Path,
    called: &Called,
    host_aliases: &[HostAlias],
    addresses: &[IpAddr],
) -> Result<(), FilesError> {
    write(&pod_dir.join("etc/hosts"), &hosts(called, host_aliases, addresses))
}

/// Container path to host path of every file that [`make`] made.
pub fn places(pod_dir: &Path, host_ipc: bool) -> BTreeMap<String, PathBuf> {
    let etc = pod_dir.join("etc");
    let shm = if host_ipc { PathBuf::from("/dev/shm") } else { pod_dir.join("shm") };
    BTreeMap::from([
        ("/dev/shm".to_owned(), shm),
        ("/etc/hostname".to_owned(), etc.join("hostname")),
        ("/etc/hosts".to_owned(), etc.join("hosts")),
        ("/etc/resolv.conf".to_owned(), etc.join("resolv.conf")),
    ])
}

/// What is missing of the files, in words.
pub fn missing(pod_dir: &Path, host_ipc: bool) -> Option<String> {
    let of_node = Path::new("/dev/shm");
    let gone = |path: &PathBuf| path != of_node && !path.exists();
    places(pod_dir, host_ipc).into_values().find(gone).map(|path| format!("{} is gone", path.display()))
}

/// The pod by each of its addresses, with its full name first where it has one (kubelet).
fn hosts(called: &Called, host_aliases: &[HostAlias], addresses: &[IpAddr]) -> String {
    let names = match &called.domain {
        Some(domain) => format!("{host}.{domain}\t{host}", host = called.host),
        None => called.host.clone(),
    };
    let own: String = addresses.iter().map(|address| format!("{address}\t{names}\n")).collect();
    format!("{HOSTS_HEADER}{LOCALHOST}{own}{}", aliases(host_aliases))
}

fn aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let line = |HostAlias { ip, hostnames }: &HostAlias| format!("{ip}\t{}\n", hostnames.join("\t"));
    format!("\n{ALIASES_HEADER}{}", aliases.iter().map(line).collect::<String>())
}

/// The node's resolv.conf; systemd-resolved's list of real servers where the node's names only its stubs, which a pod with
/// a network of its own cannot reach.
fn resolv_conf(host_network: bool, node: &NodeFiles) -> Result<String, FilesError> {
    let own = read_node(&node.etc.join("resolv.conf"))?;
    if !host_network && only_stub(&own) && node.resolved.exists() {
        return read_node(&node.resolved);
    }
    Ok(own)
}

fn only_stub(resolv_conf: &str) -> bool {
    let mut servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).peekable();
    servers.peek().is_some() && servers.all(|server| matches!(server.trim(), "127.0.0.53" | "127.0.0.54"))
}

/// A file of the node's as text, empty when there is none, cut at a line's end when it is too long.
fn read_node(path: &Path) -> Result<String, FilesError> {
    let failed = |source| FilesError::Node { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    match fs::File::open(path) {
        Ok(file) => file.take(NODE_FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if bytes.len() as u64 > NODE_FILE_MAX {
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text.push_str("# Cut here: the node's file is too long for a pod.\n");
    }
    Ok(text)
}

/// Makes a directory with this mode whatever the umask is; one that is there is left as it is.
fn directory(path: &Path, mode: u32) -> Result<(), FilesError> {
    let made = match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    made.map_err(|source| FilesError::Directory { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), FilesError> {
    let attempt = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags(O_NOFOLLOW)
            .open(path)?;
        file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    };
    attempt().map_err(|source| FilesError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_localhost_then_the_pod_by_each_address_then_the_aliases() {
        let mut called = Called { host: "web-0".into(), domain: None, kernel: "web-0".into() };
        let addresses = ["198.18.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text = hosts(&called, &[], &addresses);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost "));
        assert!(text.ends_with("198.18.0.2\tweb-0\nfd00::2\tweb-0\n"));
        called.domain = Some("db.default.svc.cluster.local".into());
        let foo = HostAlias { ip: "1.2.3.4".parse().unwrap(), hostnames: vec!["foo".into(), "bar".into()] };
        let text = hosts(&called, &[foo], &addresses[..1]);
        assert!(
            text.ends_with(
                "198.18.0.2\tweb-0.db.default.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_stub_resolver_is_replaced_only_for_a_pod_with_its_own_network() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeFiles { etc: dir.path().into(), resolved: dir.path().join("resolved") };
        fs::write(dir.path().join("resolv.conf"), "# stub\nnameserver 127.0.0.53\noptions edns0\n").unwrap();
        assert!(resolv_conf(false, &node).unwrap().contains("127.0.0.53"));
        fs::write(&node.resolved, "nameserver 198.18.0.53\n").unwrap();
        assert_eq!(resolv_conf(false, &node).unwrap(), "nameserver 198.18.0.53\n");
        assert!(resolv_conf(true, &node).unwrap().contains("127.0.0.53"));
        fs::write(dir.path().join("resolv.conf"), "nameserver 127.0.0.53\nnameserver 198.18.0.1\n").unwrap();
        assert!(resolv_conf(false, &node).unwrap().contains("198.18.0.1"));
    }

    #[test]
    fn resolv_conf_follows_the_nodes_in_place_and_is_left_alone_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeFiles { etc: dir.path().join("etc-of-node"), resolved: dir.path().join("resolved") };
        let pod_dir = dir.path().join("pod");
        fs::create_dir_all(pod_dir.join("etc")).unwrap();
        fs::create_dir_all(&node.etc).unwrap();
        let (naming, cluster) = (Naming::default(), Cluster::default());
        let write = || write_names(&pod_dir, &naming, true, "default", (&node, &cluster)).unwrap();
        // A boot without a network: there is no such file yet.
        assert!(write());
        let place = pod_dir.join("etc/resolv.conf");
        let mounted = fs::File::open(&place).unwrap();
        assert!(!fs::read_to_string(&place).unwrap().contains("nameserver"));
        fs::write(node.etc.join("resolv.conf"), "nameserver 198.18.0.53\n").unwrap();
        assert!(write());
        assert_eq!(io::read_to_string(mounted).unwrap(), "nameserver 198.18.0.53\n");
        // What a container writes there is its own affair, until the node says something else.
        fs::write(&place, "nameserver 198.18.0.54\n").unwrap();
        assert!(!write());
        assert_eq!(fs::read_to_string(&place).unwrap(), "nameserver 198.18.0.54\n");
        fs::write(node.etc.join("resolv.conf"), "nameserver 198.18.0.55\n").unwrap();
        assert!(write());
        assert_eq!(fs::read_to_string(&place).unwrap(), "nameserver 198.18.0.55\n");
    }

    #[test]
    fn a_node_file_that_is_too_long_is_cut_at_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        fs::write(&path, "198.18.0.9 name\n".repeat(40_000)).unwrap();
        let text = read_node(&path).unwrap();
        assert!(text.len() < 500_000);
        assert!(text.ends_with("name\n# Cut here: the node's file is too long for a pod.\n"));
    }
}
