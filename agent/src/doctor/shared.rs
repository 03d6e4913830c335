//! What other programs that run containers here share with us: the cgroup root, the network configuration, our port. The log
//! directory and containerd's namespace are judged beside the neighbours themselves.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use serde_json::Value;

use super::neighbours::{KUBELET_CONFIG, top_level};
use super::{Line, Places};

const DOCKER_CONFIG: &str = "etc/docker/daemon.json";
/// Whose a network configuration is, by what its file is called.
const NETWORKS: [(&str, &str); 4] =
    [("podman", "podman's"), ("nerdctl", "nerdctl's"), ("crio", "CRI-O's"), ("nomad", "Nomad's")];
/// Endings of network configurations, as libcni takes them.
const CONFIGURATIONS: [&str; 3] = ["conf", "conflist", "json"];

#[derive(Debug, Default)]
pub struct Shared {
    /// cgroups beneath which others put their containers, and whose they are.
    pub cgroups: Vec<(&'static str, String)>,
    /// The file that connects pods: the first one of the configuration directory.
    pub network: Option<String>,
    /// Why our address cannot be listened on; None where it can, or where our agent does.
    pub port: Option<String>,
}

pub fn probe(places: &Places) -> Shared {
    Shared {
        port: places.agent.is_err().then(|| taken(places.listen)).flatten(),
        ..probe_below(Path::new("/"), &places.cni_conf_dir)
    }
}

fn probe_below(root: &Path, conf_dir: &Path) -> Shared {
    let mut cgroups = Vec::new();
    let kubelet = fs::read_to_string(root.join(KUBELET_CONFIG)).unwrap_or_default();
    cgroups.extend(top_level(&kubelet, "cgroupRoot").map(|given| ("the kubelet's (cgroupRoot)", given)));
    let docker: Value =
        fs::read(root.join(DOCKER_CONFIG)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    cgroups.extend(docker["cgroup-parent"].as_str().map(|given| ("Docker's (cgroup-parent)", given.to_owned())));
    let is_configuration = |name: &String| {
        Path::new(name).extension().and_then(|end| end.to_str()).is_some_and(|end| CONFIGURATIONS.contains(&end))
    };
    let names = fs::read_dir(conf_dir).into_iter().flatten().flatten();
    let network = names.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_configuration).min();
    Shared { cgroups, network, port: None }
}

/// Tried, and let go at once: nobody can have connected.
fn taken(listen: SocketAddr) -> Option<String> {
    TcpListener::bind(listen).err().map(|why| why.to_string())
}

pub fn judge_cgroups(found: &Shared, root: &str) -> Line {
    const NAME: &str = "cgroup root shared";
    let bare = |name: &str| name.trim_matches('/').trim_end_matches(".slice").to_owned();
    match found.cgroups.iter().find(|(_, theirs)| bare(theirs) == bare(root)) {
        Some((whose, theirs)) => Line::fail(
            NAME,
            format!("{theirs} is {whose} too; a kubelet ends what it finds there and does not know"),
            "start the agent with another --cgroup-root",
        ),
        None => Line::ok(NAME, format!("nobody else is configured to use {root}")),
    }
}

pub fn judge_network(found: &Shared, conf_dir: &Path) -> Line {
    const NAME: &str = "network shared";
    let dir = conf_dir.display();
    let Some(name) = &found.network else { return Line::ok(NAME, format!("no network of others in {dir}")) };
    match NETWORKS.iter().find(|(part, _)| name.contains(part)) {
        Some((_, whose)) => Line::warn(
            NAME,
            format!("the first configuration in {dir} is {whose} own ({name}): pods are connected to that network"),
            format!(
                "give the node's network a name that sorts before {name}, or start the agent with another --cni-conf-dir"
            ),
        ),
        None => Line::ok(NAME, format!("{dir}/{name} is the node's, for everybody who reads that directory")),
    }
}

pub fn judge_port(found: &Shared, listen: SocketAddr) -> Line {
    const NAME: &str = "port";
    match &found.port {
        Some(why) => Line::fail(
            NAME,
            format!("{listen} cannot be listened on: {why}"),
            format!(
                "end what listens there (ss -ltnp 'sport = :{}'), or start the agent with another --listen",
                listen.port()
            ),
        ),
        None => Line::ok(NAME, format!("{listen} is ours or free")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn node(files: &[(&str, &str)]) -> (tempfile::TempDir, Shared) {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = probe_below(root.path(), &root.path().join("net.d"));
        (root, found)
    }

    #[test]
    fn a_cgroup_root_that_others_are_told_to_use_fails() {
        let (_root, kubelet) = node(&[(KUBELET_CONFIG, "cgroupRoot: \"/daemonlet\"\n")]);
        assert_eq!(judge_cgroups(&kubelet, "daemonlet").verdict, Verdict::Fail);
        assert_eq!(judge_cgroups(&kubelet, "other").verdict, Verdict::Ok);
        let (_root, docker) = node(&[(DOCKER_CONFIG, r#"{"cgroup-parent": "daemonlet.slice"}"#)]);
        let line = judge_cgroups(&docker, "daemonlet");
        assert!(line.verdict == Verdict::Fail && line.found.contains("Docker's"), "{line:?}");
        assert_eq!(judge_cgroups(&node(&[]).1, "daemonlet").verdict, Verdict::Ok);
    }

    #[test]
    fn another_programs_own_network_that_comes_first_warns() {
        let dir = Path::new("/net.d");
        let (_root, podman) = node(&[("net.d/87-podman-bridge.conflist", "{}"), ("net.d/99-node.conflist", "{}")]);
        let line = judge_network(&podman, dir);
        assert!(line.verdict == Verdict::Warn && line.found.contains("87-podman"), "{line:?}");
        let (_root, own) = node(&[("net.d/10-node.conflist", "{}"), ("net.d/87-podman-bridge.conflist", "{}")]);
        assert_eq!(judge_network(&own, dir).verdict, Verdict::Ok);
        assert_eq!(judge_network(&node(&[("net.d/podman.bak", "")]).1, dir).verdict, Verdict::Ok);
    }

    #[test]
    fn a_port_that_another_program_has_fails() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let line = judge_port(&Shared { port: taken(address), ..Shared::default() }, address);
        assert!(line.verdict == Verdict::Fail && line.fix.contains("--listen"), "{line:?}");
        drop(other);
        assert_eq!(judge_port(&Shared { port: taken(address), ..Shared::default() }, address).verdict, Verdict::Ok);
    }
}
