//! Images against a real containerd of the test's own: imported, unpacked, described, kept by its collector.

mod support;

use std::path::PathBuf;

use agent::runtime::containerd::client::Client;
use agent::runtime::containerd::images::Images;
use serde_json::json;
use support::archives::{Tar, docker_archive, oci_archive};
use support::containerd::Containerd;

const NAMESPACE: &str = "daemonlet-images-test";

struct Node {
    containerd: Containerd,
    images: Images,
}

impl Node {
    fn start() -> Option<Node> {
        let containerd = Containerd::start()?;
        let images = Images::new(Client::new(&containerd.socket(), NAMESPACE).unwrap(), "overlayfs");
        Some(Node { containerd, images })
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.containerd.dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn ctr(&self, args: &[&str]) -> String {
        self.containerd.ctr(NAMESPACE, args)
    }
}

/// A layer with a static shell in it.
fn busybox() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    Tar::default().directory("bin/").program("bin/sh", &busybox).directory("etc/").end()
}

fn run() -> serde_json::Value {
    json!({"Cmd": ["/bin/sh", "-c", "echo from-the-image"], "Env": ["PATH=/bin"], "User": "7", "StopSignal": "SIGINT"})
}

#[tokio::test]
async fn an_oci_archive_is_imported_unpacked_and_runs() {
    let Some(node) = Node::start() else { return };
    let archive = node.file("a.tar", &oci_archive("busybox:test", &busybox(), run()));
    let imported = node.images.import(&archive, "a.tar 1 2").await.unwrap();
    assert_eq!(imported.images[0].0, "docker.io/library/busybox:test");

    let facts = node.images.facts("busybox:test").await.unwrap();
    assert_eq!((facts.config.user.as_str(), facts.config.cmd.len()), ("7", 3));
    assert!(node.ctr(&["snapshots", "info", &facts.chain_id]).contains("Committed"));
    let id = format!("images-test-{}", std::process::id());
    let out = node.ctr(&["run", "--rm", "docker.io/library/busybox:test", &id]);
    assert!(out.contains("from-the-image"), "{out}");
}

#[tokio::test]
async fn a_docker_archive_is_imported_unpacked_and_runs() {
    let Some(node) = Node::start() else { return };
    let second = Tar::default().file("etc/second", b"2").end();
    let layers: [&[u8]; 2] = [&busybox(), &second];
    let archive = node.file("d.tar", &docker_archive(&["quay.io/x/y:v1", "y"], &layers, run()));
    let imported = node.images.import(&archive, "d.tar 1 2").await.unwrap();
    let names: Vec<&str> = imported.images.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["docker.io/library/y:latest", "quay.io/x/y:v1"]);
    let id = format!("images-test-d-{}", std::process::id());
    let out = node.ctr(&["run", "--rm", "quay.io/x/y:v1", &id, "/bin/sh", "-c", "read x < /etc/second; echo got $x"]);
    assert!(out.contains("got 2"), "{out}");
}
