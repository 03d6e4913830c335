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
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=0700")).expect("mounted");
        SmallDisk { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn fill(&self) {
        let mut filler = fs::File::create(self.path().join("filler")).expect("a file can be made");
        while filler.write_all(&[7; 4096]).is_ok() {}
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

    // What nobody wants ends, although that cannot be written down first; its record makes a little room.
    node.remove("c.yaml");
    node.wait_no_pod("c");
    disk.free();
    node.wait_running("d");
    // Its address has to be written down before it is given, also after a boot.
    assert_eq!(node.wait_running("b").uid(), b.uid());
    wait_for("nothing is owed", || {
        let said = node.cli(&["why"]).out;
        if said.contains("RecordOwed") { Err(said) } else { Ok(()) }
    });
    node.restart_agent();
    let restarts = node.wait_running("a").restarts();
    // The boot used the number of a run once more whose start the disk never had; it did not fall behind it.
    assert!(restarts >= 1, "the restart is not on disk: {restarts}");
}
