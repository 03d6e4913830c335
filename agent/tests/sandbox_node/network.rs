//! Addresses: given, recorded, and given back whatever plugins, the agent or the power do.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use agent::sandbox::NodeSandboxes;
use agent::seams::{Leave, Sandboxes as _};
use nix::mount::{MntFlags, umount2};
use pod::observed::SandboxState;
use pod::record::Record;

use crate::fixture::*;

#[test]
fn a_plugin_killed_after_it_got_an_address_costs_no_address() {
    on_a_node(|node| async move {
        let (sandboxes, record, template) = (node.open(), pod("unlucky"), template());
        sandboxes.set_up(&record, &template).await.unwrap();
        node.stand_in(&format!("{PLUGINS}/bridge >/dev/null; [ $CNI_COMMAND = ADD ] && kill -9 $$"));
        let error = sandboxes.connect(&record, &template).await.unwrap_err();
        assert_eq!(error.reason, "CreatePodSandboxError");
        assert!(error.message.contains("bridge refused its ADD: signal: 9"), "{error}");
        assert_eq!(node.reserved(), [""; 0]);

        // An answer that nobody can read: the same.
        node.stand_in(&format!("{PLUGINS}/bridge >/dev/null && echo nonsense"));
        let error = sandboxes.connect(&record, &template).await.unwrap_err();
        assert!(error.message.contains("nonsense"), "{error}");
        assert_eq!(node.reserved(), [""; 0]);

        fs::remove_file(node.bin_dir.join("bridge")).unwrap();
        let ips = sandboxes.connect(&record, &template).await.unwrap();
        assert_eq!(node.reserved(), [ips[0].to_string()]);
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn an_agent_killed_during_an_add_finds_the_address_again() {
    on_a_node(|node| async move {
        let (sandboxes, record, template) = (node.open(), pod("cut"), template());
        sandboxes.set_up(&record, &template).await.unwrap();
        // The plugin has got an address and then hangs; the agent goes away (its future is dropped).
        node.stand_in(&format!("{PLUGINS}/bridge >/dev/null; exec sleep 1000"));
        let connecting = sandboxes.connect(&record, &template);
        let reserved = async {
            while node.reserved().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = connecting => panic!("the stand-in never answers"),
            () = reserved => {}
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("no address was reserved"),
        }
        fs::remove_file(node.bin_dir.join("bridge")).unwrap();
        drop(sandboxes);
        let sandboxes = node.open();
        // As at every start: the plugin may have been cut off between making its reservation and writing whose it is.
        sandboxes.free_nobodys_addresses().unwrap();
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Made);
        let ips = sandboxes.connect(&record, &template).await.unwrap();
        assert_eq!(node.reserved(), [ips[0].to_string()]);
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn addresses_of_a_former_boot_are_given_back() {
    on_a_node(|node| async move {
        let (sandboxes, kept, orphan, template) = (node.open(), pod("kept"), pod("orphan"), template());
        for record in [&kept, &orphan] {
            sandboxes.set_up(record, &template).await.unwrap();
            sandboxes.connect(record, &template).await.unwrap();
        }
        let lost = pod("lost");
        sandboxes.set_up(&lost, &template).await.unwrap();
        sandboxes.connect(&lost, &template).await.unwrap();
        assert_eq!(node.reserved().len(), 3);
        // The power goes, with a run directory that lies on a disk: namespaces are gone, and of the records one is cut off
        // and one was never written.
        for point in node.mounts().iter().rev() {
            umount2(point, MntFlags::MNT_DETACH).unwrap();
        }
        fs::remove_dir_all(node.dir.path().join("run/pods")).unwrap();
        fs::write(node.dir.path().join(format!("run/network/{}.json", kept.uid)), "").unwrap();
        fs::remove_file(node.dir.path().join(format!("run/network/{}.json", lost.uid))).unwrap();
        fs::write(node.dir.path().join("run/cni/daemonlet/198.18.200.1"), "").unwrap();

        let sandboxes = node.open();
        let state = sandboxes.inspect(&kept.uid, &template).await;
        assert!(matches!(state, SandboxState::Broken { .. }), "{state:?}");
        // Nobody's is freed at start; those of strays by their tear-down, since the list has them.
        assert_eq!(node.reserved().len(), 4);
        sandboxes.free_nobodys_addresses().unwrap();
        assert_eq!(node.reserved().len(), 3);
        let listed = sandboxes.list().await.unwrap();
        for stray in [&orphan, &lost] {
            assert!(listed.contains(&stray.uid), "{listed:?}");
            sandboxes.tear_down(&stray.uid, Leave::Nothing).await.unwrap();
        }
        assert_eq!(node.reserved().len(), 1);
        sandboxes.tear_down(&kept.uid, Leave::Nothing).await.unwrap();
        assert_eq!(sandboxes.inspect(&kept.uid, &template).await, SandboxState::Absent);
        assert_eq!(node.reserved(), Vec::<String>::new());
        assert_eq!(sandboxes.list().await.unwrap(), []);
    });
}

#[test]
fn without_plugins_nothing_is_reserved_and_the_error_says_where_they_were_looked_for() {
    on_a_node(|node| async move {
        let mut config = node.config();
        config.cni_bin_dirs = vec!["/nowhere".into()];
        let (sandboxes, record, template) = (NodeSandboxes::open(config).unwrap(), pod("alone"), template());
        sandboxes.set_up(&record, &template).await.unwrap();
        let error = sandboxes.connect(&record, &template).await.unwrap_err();
        assert!(error.message.contains("bridge is in none of /nowhere"), "{error}");
        // With the plugins back, the half-made record stands in nobody's way.
        node.open().tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn with_two_ranges_a_pod_gets_an_address_of_each_family() {
    on_a_node(|node| async move {
        let mut config = node.config();
        config.pod_cidrs.push("fd00:88::/64".parse().unwrap());
        let (sandboxes, record, template) = (NodeSandboxes::open(config).unwrap(), pod("dual"), template());
        sandboxes.set_up(&record, &template).await.unwrap();
        let ips = sandboxes.connect(&record, &template).await.unwrap();
        assert!(ips.len() == 2 && ips[0].is_ipv4() && ips[1].is_ipv6(), "{ips:?}");
        let hosts = fs::read_to_string(node.pod_dir(&record).join("etc/hosts")).unwrap();
        assert!(hosts.ends_with(&format!("{}\tdual\n{}\tdual\n", ips[0], ips[1])), "{hosts}");
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        sandboxes.close_down().await.unwrap();
    });
}

#[test]
fn thirty_pods_at_once_get_thirty_addresses() {
    on_a_node(|node| async move {
        let (sandboxes, template) = (node.open(), template());
        let pods: Vec<Record> = (0..30).map(|i| pod(&format!("many-{i}"))).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for record in pods.clone() {
            let (sandboxes, template) = (sandboxes.clone(), template.clone());
            tasks.spawn(async move {
                sandboxes.set_up(&record, &template).await.unwrap();
                sandboxes.connect(&record, &template).await.unwrap()
            });
        }
        let ips: BTreeSet<IpAddr> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(ips.len(), 30);
        let rules = Command::new("iptables").args(["-w", "-t", "nat", "-S", "POSTROUTING"]).output().unwrap();
        let rules = String::from_utf8(rules.stdout).unwrap();
        assert_eq!(rules.matches("MASQUERADE").count(), 1, "{rules}");
        let rules = Command::new("iptables").args(["-w", "-S", "FORWARD"]).output().unwrap();
        let rules = String::from_utf8(rules.stdout).unwrap();
        assert_eq!(rules.matches("daemonlet0").count(), 2, "{rules}");
        for record in &pods {
            sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        }
    });
}
