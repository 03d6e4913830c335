//! A full state disk stops no daemon that was known, and heals by itself.

use std::fs;
use std::io::Write;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tests::manifest::{daemon_set, pod};
use tests::node::TestNode;
use tests::wait::wait_for;

/// A state directory on a small disk of its own, which outlives the node's power cuts.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn new() -> SmallDisk {
        let dir = tempfile::Builder::new().prefix("dlt-disk-").tempdir().expect("a temporary directory can be made");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1m,nr_inodes=300,mode=0700"))
            .expect("mounted");
        SmallDisk { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn fill(&self) {
        let mut filler = fs::File::create(self.path().join("filler")).expect("a file can be made");
        while filler.write_all(&[7; 4096]).is_ok() {}
    }

    /// Uses up the names that the disk has room for, and leaves bytes.
    fn fill_inodes(&self) {
        let directory = self.path().join("fillers");
        fs::create_dir(&directory).expect("a directory can be made");
        for number in 0.. {
            if let Err(error) = fs::File::create(directory.join(number.to_string())) {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                return;
            }
        }
    }

    fn free_inodes(&self) {
        fs::remove_dir_all(self.path().join("fillers")).expect("they were used up");
    }

    fn free(&self) {
        fs::remove_file(self.path().join("filler")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

#[track_caller]
fn wait_why(node: &TestNode, name: &str, word: &str) {
    wait_for("why says it", || {
        let said = node.cli(&["why", name]).out;
        if said.contains(word) { Ok(()) } else { Err(said) }
    });
}

#[track_caller]
fn wait_nothing_owed(node: &TestNode) {
    wait_for("nothing is owed", || {
        let said = node.cli(&["why"]).out;
        if said.contains("RecordOwed") { Err(said) } else { Ok(()) }
    });
}

#[test]
fn a_full_state_disk_stops_no_daemon_and_the_records_catch_up() {
    let disk = SmallDisk::new();
    let mut node = TestNode::builder().flag("--state-dir", disk.path().to_str().expect("UTF-8")).start();
    node.put("a.yaml", &pod("a").text());
    node.put("b.yaml", &daemon_set("b").own_network().text());
    node.put("c.yaml", &pod("c").text());
    let (a, b) = (node.wait_running("a"), node.wait_running("b"));
    node.wait_running("c");
    disk.fill();

    // A crash is restarted, and what is not on disk is said.
    node.process(&a).kill_9();
    let again = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    wait_why(&node, "a", "RecordOwed");
    // What was never admitted waits and says why.
    node.put("d.yaml", &pod("d").text());
    wait_why(&node, "d", "No space left");

    // An agent that never heard of the restart adopts its run.
    let process = node.process(&again);
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    let adopted = node.wait_pod("a", "runs with its restart", |pod| pod.running() && pod.restarts() == 1);
    assert_eq!(node.process(&adopted), process);

    node.power_cut();
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    assert_eq!(node.wait_running("a").uid(), a.uid());
    wait_why(&node, "a", "RecordOwed");
    // What has a network of its own needs no disk for its address.
    let back = node.wait_running("b");
    assert_eq!(back.uid(), b.uid());
    assert!(!back.ip().is_empty());

    // What nobody wants ends, although that cannot be written down first; its record makes a little room.
    node.remove("c.yaml");
    node.wait_no_pod("c");
    disk.free();
    node.wait_running("d");
    wait_nothing_owed(&node);
    node.restart_agent();
    let restarts = node.wait_running("a").restarts();
    // The boot used the number of a run once more whose start the disk never had; it did not fall behind it.
    assert!(restarts >= 1, "the restart is not on disk: {restarts}");

    // A disk without inodes takes bytes, and no record.
    disk.fill_inodes();
    let b = node.wait_running("b");
    node.process(&b).kill_9();
    node.wait_pod("b", "runs again", |pod| pod.running() && pod.restarts() > b.restarts());
    wait_why(&node, "b", "RecordOwed");
    node.put("e.yaml", &pod("e").text());
    wait_why(&node, "e", "No space left");
    disk.free_inodes();
    node.wait_running("e");
    wait_nothing_owed(&node);
}

#[test]
fn a_pod_on_the_nodes_own_network_comes_back_after_a_boot_with_a_full_disk_and_leaks_no_address() {
    let disk = SmallDisk::new();
    let places = tempfile::tempdir().expect("a temporary directory can be made");
    let (conf, given) = (places.path().join("net.d"), places.path().join("given"));
    fs::create_dir(&conf).expect("made");
    let ipam = serde_json::json!({"type": "host-local", "dataDir": given, "subnet": "198.19.5.0/24"});
    let bridge = serde_json::json!({"type": "bridge", "bridge": "theirs0", "isGateway": true, "ipam": ipam});
    let list = serde_json::json!({"cniVersion": "0.4.0", "name": "theirs", "plugins": [bridge]});
    fs::write(conf.join("10-theirs.conflist"), list.to_string()).expect("written");
    let addresses = || {
        let entries = fs::read_dir(given.join("theirs")).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_str().is_some_and(|n| n.parse::<std::net::IpAddr>().is_ok())).count()
    };
    let builder = TestNode::builder().flag("--state-dir", disk.path().to_str().expect("UTF-8"));
    let mut node = builder.flag("--cni-conf-dir", conf.to_str().expect("UTF-8")).start();
    node.put("a.yaml", &daemon_set("a").own_network().text());
    let a = node.wait_running("a");
    disk.fill();
    for _ in 0..2 {
        node.power_cut();
        node.start_containerd();
        node.start_agent();
        node.wait_agent();
        let back = node.wait_running("a");
        assert_eq!(back.uid(), a.uid());
        assert!(back.ip().starts_with("198.19.5."), "{}", back.ip());
        assert_eq!(addresses(), 1);
    }
    disk.free();
    node.remove("a.yaml");
    node.wait_no_pod("a");
    assert_eq!(addresses(), 0);
}
