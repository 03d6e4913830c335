//! The agent or the machine ends at each step of an ADD: no address is lost, and the pod is connected afterwards.

use std::fs;
use std::time::Duration;

use agent::seams::{Leave, Sandboxes as _};
use nix::mount::{MntFlags, umount2};
use pod::observed::SandboxState;
use pod::record::Record;

use crate::configurations::delete_bridge;
use crate::fixture::*;

/// How far the ADD has come.
#[derive(Debug, Clone, Copy)]
enum Step {
    Noted,
    AddressBegun,
    AddressGiven,
    Connected,
    Answered,
}

/// What ends.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Agent,
    Machine,
}

/// Goes so far, and no further.
async fn add_until(node: &Node, record: &Record, step: Step, reservations: &std::path::Path) {
    let (sandboxes, template) = (node.open(), template());
    sandboxes.set_up(record, &template).await.unwrap();
    let reached = node.bin_dir.join("reached");
    let work = match step {
        Step::Noted => String::new(),
        Step::AddressBegun => format!("mkdir -p {0}; : > {0}/198.18.77.77;", reservations.display()),
        Step::AddressGiven => format!("{PLUGINS}/host-local >/dev/null || exit 1;"),
        Step::Connected | Step::Answered => format!("{PLUGINS}/bridge >/dev/null || exit 1;"),
    };
    node.stand_in(&format!("{work} : > {}; exec sleep 1000", reached.display()));
    let connecting = sandboxes.connect(record, &template);
    let there = async {
        while !reached.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        done = connecting => panic!("the stand-in never answers: {done:?}"),
        () = there => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{step:?} was not reached"),
    }
    fs::remove_file(node.bin_dir.join("bridge")).unwrap();
    fs::remove_file(reached).unwrap();
}

fn cut(node: &Node, cut: Cut) {
    match cut {
        Cut::Agent => {}
        Cut::Machine => {
            for point in node.mounts().iter().rev() {
                umount2(point, MntFlags::MNT_DETACH).unwrap();
            }
            fs::remove_dir_all(node.dir.path().join("run")).unwrap();
        }
    }
}

/// As a worker does it at the next start.
async fn start_again(node: &Node, record: &Record) {
    let (sandboxes, template) = (node.open(), template());
    sandboxes.free_nobodys_addresses().unwrap();
    if matches!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Broken { .. }) {
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    }
    sandboxes.set_up(record, &template).await.unwrap();
    sandboxes.connect(record, &template).await.unwrap();
}

const STEPS: [Step; 5] = [Step::Noted, Step::AddressBegun, Step::AddressGiven, Step::Connected, Step::Answered];

#[test]
fn our_own_network_loses_no_address_wherever_an_add_is_cut() {
    on_a_node(|node| async move {
        for end in [Cut::Agent, Cut::Machine] {
            for step in STEPS {
                let record = pod("cut");
                add_until(&node, &record, step, &node.dir.path().join("run/cni/daemonlet")).await;
                cut(&node, end);
                start_again(&node, &record).await;
                assert_eq!(node.reserved().len(), 1, "{end:?} at {step:?}");
                node.open().tear_down(&record.uid, Leave::Nothing).await.unwrap();
                assert_eq!(node.reserved().len(), 0, "{end:?} at {step:?}");
            }
        }
    });
}

#[test]
fn a_network_of_the_nodes_loses_no_address_wherever_an_add_is_cut() {
    on_a_node(|node| async move {
        node.configure("10-theirs.conflist");
        for end in [Cut::Agent, Cut::Machine] {
            // What is begun in another's directory is not provably ours.
            for step in [Step::Noted, Step::AddressGiven, Step::Connected, Step::Answered] {
                let record = pod("cut");
                add_until(&node, &record, step, &node.foreign()).await;
                cut(&node, end);
                start_again(&node, &record).await;
                assert_eq!(node.foreign_addresses(), 1, "{end:?} at {step:?}");
                node.open().tear_down(&record.uid, Leave::Nothing).await.unwrap();
                assert_eq!(node.foreign_addresses(), 0, "{end:?} at {step:?}");
            }
        }
        delete_bridge();
    });
}
