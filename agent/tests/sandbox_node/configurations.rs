//! The node's own network configuration, chained plugins and what they are told; and what is kept of it for the end.

use std::fs;
use std::path::PathBuf;

use agent::seams::{Leave, Sandboxes as _};
use nix::mount::{MntFlags, umount2};
use pod::observed::SandboxState;

use crate::fixture::*;

impl Node {
    /// Where the node's own network keeps its addresses.
    pub fn foreign(&self) -> PathBuf {
        self.dir.path().join("foreign/theirs")
    }

    pub fn foreign_addresses(&self) -> usize {
        let entries = fs::read_dir(self.foreign()).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_str().unwrap().parse::<std::net::IpAddr>().is_ok()).count()
    }

    /// A network of the node's: another bridge, another range, limits and ports.
    pub fn configure(&self, file: &str) -> PathBuf {
        let more = r#",{"type":"portmap","capabilities":{"portMappings":true}},
                {"type":"bandwidth","capabilities":{"bandwidth":true}}"#;
        self.configure_with(file, more)
    }

    /// With these plugins behind the bridge.
    fn configure_with(&self, file: &str, more: &str) -> PathBuf {
        let dir = self.dir.path().join("net.d");
        fs::create_dir_all(&dir).unwrap();
        let data = self.dir.path().join("foreign");
        let text = format!(
            r#"{{"cniVersion":"0.4.0","name":"theirs","plugins":[
                {{"type":"bridge","bridge":"theirs0","isGateway":true,"ipMasq":false,
                  "ipam":{{"type":"host-local","dataDir":{data:?},"subnet":"198.19.5.0/24"}}}}{more}]}}"#
        );
        let path = dir.join(file);
        fs::write(&path, text).unwrap();
        path
    }
}

pub fn delete_bridge() {
    let deleted = std::process::Command::new("ip").args(["link", "del", "theirs0"]).status().unwrap();
    assert!(deleted.success());
}

#[test]
fn a_configuration_of_the_nodes_is_used_and_remembered_after_it_vanished() {
    on_a_node(|node| async move {
        let (sandboxes, record, mut template) = (node.open(), pod("guest"), template());
        let file = node.configure("10-theirs.conflist");
        template.annotations.insert(pod::spec::INGRESS_BANDWIDTH_ANNOTATION.into(), "10M".into());
        sandboxes.set_up(&record, &template).await.unwrap();
        let ips = sandboxes.connect(&record, &template).await.unwrap();
        assert!(ips[0].to_string().starts_with("198.19.5."), "{ips:?}");
        assert_eq!((node.foreign_addresses(), node.reserved().len()), (1, 0));
        let shaped = std::process::Command::new("tc").args(["qdisc", "show"]).output().unwrap();
        let shaped = String::from_utf8(shaped.stdout).unwrap();
        assert!(shaped.contains("tbf") && shaped.contains("rate 10Mbit"), "{shaped}");
        // What is connected stays connected, new pods follow the directory: here, to our own network.
        fs::remove_file(file).unwrap();
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Connected { ips });
        let next = pod("next");
        sandboxes.set_up(&next, &template).await.unwrap();
        let own = sandboxes.connect(&next, &template).await.unwrap();
        assert!(own[0].to_string().starts_with("198.18."), "{own:?}");
        for record in [&record, &next] {
            node.open().tear_down(&record.uid, Leave::Nothing).await.unwrap();
        }
        assert_eq!(node.foreign_addresses(), 0);
        delete_bridge();
    });
}

#[test]
fn an_address_of_the_nodes_network_is_given_back_after_a_power_cut_and_nobody_elses() {
    on_a_node(|node| async move {
        let (sandboxes, record, template) = (node.open(), pod("guest"), template());
        let file = node.configure("10-theirs.conflist");
        sandboxes.set_up(&record, &template).await.unwrap();
        sandboxes.connect(&record, &template).await.unwrap();
        let somebodys = node.foreign().join("198.19.5.77");
        fs::write(&somebodys, "somebody\neth0").unwrap();
        let nobodys = node.foreign().join("198.19.5.78");
        fs::write(&nobodys, "").unwrap();
        for point in node.mounts().iter().rev() {
            umount2(point, MntFlags::MNT_DETACH).unwrap();
        }
        fs::remove_dir_all(node.dir.path().join("run")).unwrap();
        fs::remove_file(file).unwrap();

        let sandboxes = node.open();
        sandboxes.free_nobodys_addresses().unwrap();
        assert!(matches!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Broken { .. }));
        assert_eq!(sandboxes.list().await.unwrap(), std::slice::from_ref(&record.uid));
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        assert_eq!(node.foreign_addresses(), 2);
        assert!(somebodys.exists() && nobodys.exists(), "what is not provably ours stays");
        delete_bridge();
    });
}

#[test]
fn a_broken_configuration_is_named_and_heals_when_it_is_mended() {
    on_a_node(|node| async move {
        let (sandboxes, record, template) = (node.open(), pod("guest"), template());
        node.configure("20-theirs.conflist");
        let broken = node.dir.path().join("net.d/10-broken.conflist");
        fs::write(&broken, "{").unwrap();
        sandboxes.set_up(&record, &template).await.unwrap();
        let error = sandboxes.connect(&record, &template).await.unwrap_err();
        assert!(error.message.contains("10-broken.conflist is broken: no JSON"), "{error}");
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Made);
        fs::remove_file(broken).unwrap();
        sandboxes.connect(&record, &template).await.unwrap();
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        delete_bridge();
    });
}

#[test]
fn what_the_nodes_configuration_cannot_do_keeps_the_pod_that_needs_it_waiting() {
    on_a_node(|node| async move {
        let (sandboxes, record, plain) = (node.open(), pod("guest"), template());
        node.configure_with("10-theirs.conflist", "");
        sandboxes.set_up(&record, &plain).await.unwrap();
        let mut with_port = plain.clone();
        with_port.spec.containers[0].ports = vec![pod::spec::ContainerPort {
            name: None,
            port: 80,
            protocol: "TCP".into(),
            host_port: Some(8080),
            host_ip: None,
        }];
        let mut limited = plain.clone();
        limited.annotations.insert(pod::spec::EGRESS_BANDWIDTH_ANNOTATION.into(), "10M".into());
        for (template, field, capability) in
            [(&with_port, "hostPort", "portMappings"), (&limited, "bandwidth annotation", "bandwidth")]
        {
            let error = sandboxes.connect(&record, template).await.unwrap_err();
            assert_eq!(error.reason, "CreatePodSandboxError");
            let said = &error.message;
            assert!(said.starts_with(&format!("the pod has a {field}, and no plugin of")), "{said}");
            assert!(
                said.contains("10-theirs.conflist") && said.contains(&format!("capability {capability}")),
                "{said}"
            );
            assert_eq!(sandboxes.inspect(&record.uid, template).await, SandboxState::Made);
        }
        assert_eq!(node.foreign_addresses(), 0, "nothing was asked for");
        // Who needs neither is connected, and the others are when the configuration can do it.
        let other = pod("other");
        sandboxes.set_up(&other, &plain).await.unwrap();
        sandboxes.connect(&other, &plain).await.unwrap();
        node.configure("10-theirs.conflist");
        sandboxes.connect(&record, &with_port).await.unwrap();
        for record in [&record, &other] {
            sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        }
        delete_bridge();
    });
}
