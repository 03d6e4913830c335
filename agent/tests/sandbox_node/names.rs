//! What a pod is called and how it finds others: host name, /etc/hosts, /etc/resolv.conf.

use std::fs;

use agent::sandbox::{Cluster, NodeSandboxes};
use agent::seams::{Leave, Sandboxes as _};
use pod::observed::SandboxState;
use pod::spec::{DnsConfig, DnsPolicy, HostAlias, Naming};

use crate::fixture::*;

fn named() -> Naming {
    Naming {
        hostname: Some("web".into()),
        subdomain: Some("db".into()),
        host_aliases: vec![HostAlias {
            ip: "198.18.9.1".parse().unwrap(),
            hostnames: vec!["foo".into(), "bar.x".into()],
        }],
        ..Naming::default()
    }
}

#[test]
fn hostname_subdomain_and_aliases_are_in_the_pods_files_and_its_kernel_name() {
    on_a_node(|node| async move {
        let (sandboxes, record, mut template) = (node.open(), pod("pod-name"), template());
        template.spec.naming = named();
        sandboxes.set_up(&record, &template).await.unwrap();
        let ip = sandboxes.connect(&record, &template).await.unwrap()[0];
        let sandbox = sandboxes.describe(&record, &template).await.unwrap();
        assert_eq!(inside("uts", &sandbox.namespaces["uts"], &["hostname"]), "web");
        assert_eq!(sandbox.hostname, "web");
        let hosts = fs::read_to_string(&sandbox.files["/etc/hosts"]).unwrap();
        let own = format!("{ip}\tweb.db.default.svc.cluster.local\tweb\n");
        assert!(hosts.contains(&own) && hosts.ends_with("\n198.18.9.1\tfoo\tbar.x\n"), "{hosts}");
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();

        template.spec.naming.fqdn_as_hostname = true;
        sandboxes.set_up(&record, &template).await.unwrap();
        sandboxes.connect(&record, &template).await.unwrap();
        let sandbox = sandboxes.describe(&record, &template).await.unwrap();
        assert_eq!(inside("uts", &sandbox.namespaces["uts"], &["hostname"]), "web.db.default.svc.cluster.local");
        let hostname = fs::read_to_string(&sandbox.files["/etc/hostname"]).unwrap();
        assert_eq!(hostname, "web.db.default.svc.cluster.local\n");
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn a_full_name_that_the_kernel_cannot_take_makes_nothing_and_says_so() {
    on_a_node(|node| async move {
        let (sandboxes, record, mut template) = (node.open(), pod("pod-name"), template());
        template.spec.naming = Naming { hostname: Some("w".repeat(40)), fqdn_as_hostname: true, ..named() };
        let error = sandboxes.set_up(&record, &template).await.unwrap_err();
        assert_eq!(error.reason, "CreatePodSandboxError");
        assert!(error.message.contains("more than the 64 of a host name"), "{error}");
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Absent);
    });
}

#[test]
fn dns_policy_and_config_make_the_resolv_conf() {
    on_a_node(|node| async move {
        let mut config = node.config();
        config.cluster = Cluster { dns: vec!["198.18.0.10".parse().unwrap()], domain: "example.org".into() };
        let (sandboxes, record, mut template) = (NodeSandboxes::open(config).unwrap(), pod("asks"), template());
        for (policy, host_network, expected) in [
            (
                DnsPolicy::ClusterFirst,
                false,
                "search default.svc.example.org svc.example.org example.org my\nnameserver 198.18.0.10\noptions ndots:5\n",
            ),
            (DnsPolicy::ClusterFirst, true, "search my\nnameserver 198.18.0.53\n"),
            (DnsPolicy::Default, false, "search my\nnameserver 198.18.0.53\n"),
            (DnsPolicy::None, false, "search my\n"),
        ] {
            template.spec.host_network = host_network;
            template.spec.naming.dns_policy = policy;
            template.spec.naming.dns = DnsConfig { searches: vec!["my".into()], ..DnsConfig::default() };
            sandboxes.set_up(&record, &template).await.unwrap();
            let sandbox = sandboxes.describe(&record, &template).await.unwrap();
            assert_eq!(fs::read_to_string(&sandbox.files["/etc/resolv.conf"]).unwrap(), expected, "{policy:?}");
            sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        }
    });
}
