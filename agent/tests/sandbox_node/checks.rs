//! Connections that somebody damaged: what is put right under the running pod, what makes its surroundings anew, and what is
//! only told. With the real plugins, but for a foreign one's opinions.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use agent::sandbox::NodeSandboxes;
use agent::sandbox::watch::{Finding, Scope};
use agent::seams::{Leave, Sandboxes as _};
use pod::observed::SandboxState;
use pod::record::Record;
use pod::spec::PodTemplate;

use crate::configurations::delete_bridge;
use crate::fixture::*;
use crate::ports::{ask, run, serve, with_addresses, with_ports};
use crate::support::soon;

async fn raised(sandboxes: &NodeSandboxes, name: &str, template: &PodTemplate) -> (Record, String) {
    let record = pod(name);
    sandboxes.set_up(&record, template).await.unwrap();
    sandboxes.connect(&record, template).await.unwrap();
    let netns = sandboxes.describe(&record, template).await.unwrap().namespaces["network"].clone();
    (record, netns.to_str().unwrap().to_owned())
}

fn inside_net(netns: &str, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    assert!(Command::new("nsenter").arg(format!("--net={netns}")).args(words).status().unwrap().success());
}

/// With a port, a limit and an address of each family.
fn demanding() -> PodTemplate {
    let mut template = with_ports(&[(8080, 80, "TCP", None), (5353, 53, "UDP", None)]);
    template.annotations.insert(pod::spec::INGRESS_BANDWIDTH_ANNOTATION.into(), "10M".into());
    template.annotations.insert(pod::spec::EGRESS_BANDWIDTH_ANNOTATION.into(), "10M".into());
    template
}

/// The only link of the node whose name begins so.
fn link(begin: &str) -> String {
    let links = run("ip -o link");
    let mut names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    names.find(|name| name.starts_with(begin)).unwrap().to_owned()
}

#[test]
fn a_sound_connection_is_left_alone() {
    on_a_node(|node| async move {
        let mut config = node.config();
        config.pod_cidrs.push("fd00:88::/64".parse().unwrap());
        let (sandboxes, template) = (NodeSandboxes::open(config.clone()).unwrap(), demanding());
        let (record, _) = raised(&sandboxes, "sound", &template).await;
        let (plain, _) = raised(&sandboxes, "plain", &crate::fixture::template()).await;
        let again = NodeSandboxes::open(config).unwrap();
        for uid in [&record.uid, &plain.uid, &pod("nobody").uid] {
            assert_eq!(again.check(uid, Scope::Everything).await, None);
            assert_eq!(again.check(uid, Scope::Ports).await, None);
        }
        for (record, template) in [(&record, &template), (&plain, &crate::fixture::template())] {
            assert!(matches!(again.inspect(&record.uid, template).await, SandboxState::Connected { .. }));
            again.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        }
        again.close_down().await.unwrap();
    });
}

#[test]
fn a_pod_that_has_lost_its_network_gets_new_surroundings() {
    on_a_node(|node| async move {
        let (sandboxes, template) = (node.open(), crate::fixture::template());
        for (damage, said) in
            [("ip link del eth0", "its interface eth0 is gone"), ("", "the node's bridge daemonlet0 is gone")]
        {
            let (record, netns) = raised(&sandboxes, "hurt", &template).await;
            match damage {
                "" => drop(run("ip link del daemonlet0")),
                _ => inside_net(&netns, damage),
            }
            let found = sandboxes.check(&record.uid, Scope::Everything).await;
            assert!(matches!(&found, Some(Finding::Gone(why)) if why.contains(said)), "{damage}: {found:?}");
            let state = sandboxes.inspect(&record.uid, &template).await;
            assert!(matches!(&state, SandboxState::Broken { reason } if reason.contains(said)), "{state:?}");
            sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
            assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Absent);
            sandboxes.set_up(&record, &template).await.unwrap();
            sandboxes.connect(&record, &template).await.unwrap();
            assert_eq!(sandboxes.check(&record.uid, Scope::Everything).await, None);
            assert_eq!(node.reserved().len(), 1);
            sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        }
    });
}

/// A daemon with the right to may bridge, bond or rename what it was given: that is no reason to end it.
#[test]
fn a_pod_that_has_moved_its_address_or_interface_runs_on() {
    on_a_node(|node| async move {
        let (sandboxes, template) = (node.open(), crate::fixture::template());
        let (record, netns) = raised(&sandboxes, "mover", &template).await;
        let before = sandboxes.inspect(&record.uid, &template).await;
        inside_net(&netns, "ip link set eth0 down");
        inside_net(&netns, "ip link set eth0 name uplink0");
        let told = |found: &Option<Finding>| !matches!(found, Some(Finding::Gone(_) | Finding::Mended(_)));
        assert!(told(&sandboxes.check(&record.uid, Scope::Everything).await));
        inside_net(&netns, "ip addr flush dev uplink0");
        let found = sandboxes.check(&record.uid, Scope::Everything).await;
        assert!(matches!(&found, Some(Finding::Fault(why)) if why.contains("has the address 198.18.")), "{found:?}");
        assert_eq!(sandboxes.check(&record.uid, Scope::Ports).await, None);
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, before);
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn what_is_missing_on_the_node_is_made_again_under_the_running_pod() {
    on_a_node(|node| async move {
        with_addresses();
        let (sandboxes, template) = (node.open(), demanding());
        let (record, netns) = raised(&sandboxes, "served", &template).await;
        serve(netns.as_ref(), 80, "eighty");
        let before = sandboxes.inspect(&record.uid, &template).await;
        for damage in
            ["iptables -w -t nat -F", "iptables -w -t nat -F POSTROUTING", "iptables -w -t nat -F CNI-HOSTPORT-DNAT"]
        {
            run(damage);
            let found = sandboxes.check(&record.uid, Scope::Everything).await;
            assert!(matches!(found, Some(Finding::Mended(_))), "{damage}: {found:?}");
            assert_eq!(sandboxes.check(&record.uid, Scope::Everything).await, None, "{damage}");
            assert_eq!(ask("198.19.0.1:8080"), Ok("eighty".into()), "{damage}");
        }
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, before);
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        crate::ports::no_rules_are_left();
    });
}

#[test]
fn what_nobody_can_mend_is_told_and_the_pod_runs_on() {
    on_a_node(|node| async move {
        let (sandboxes, template) = (node.open(), demanding());
        let (record, _) = raised(&sandboxes, "hurt", &template).await;
        run(&format!("ip link del {}", link("bwp")));
        let found = sandboxes.check(&record.uid, Scope::Everything).await;
        assert!(
            matches!(&found, Some(Finding::Fault(why)) if why.contains("bandwidth refused its CHECK")),
            "{found:?}"
        );
        assert!(matches!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Connected { .. }));
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn flushed_rules_are_put_back_at_once_and_the_loopback_stays_guarded() {
    on_a_node(|node| async move {
        with_addresses();
        let (sandboxes, template) = (node.open(), with_ports(&[(8080, 80, "TCP", None)]));
        let (record, netns) = raised(&sandboxes, "served", &template).await;
        serve(netns.as_ref(), 80, "eighty");
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let watching = sandboxes.clone();
        let watch = tokio::spawn(async move {
            watching.watch_connections(move |uid, finding| drop(tell.send((uid.clone(), finding.clone())))).await;
        });
        // Whatever table is flushed, and before the first look too.
        for table in ["nat", "filter", "nat"] {
            run(&format!("iptables -w -t {table} -F"));
            soon("the rules stand again", || {
                let nat = run("iptables -w -t nat -S");
                let filter = run("iptables -w -S");
                let stands = nat.contains("MASQUERADE -m comment --comment daemonlet")
                    || nat.contains("--comment daemonlet -j MASQUERADE");
                let guards = filter.contains("-d 127.0.0.0/8") && filter.matches("daemonlet0").count() == 3;
                let leads = nat.contains("--dports 8080");
                if stands && guards && leads { Ok(()) } else { Err(format!("{table}: {nat}\n{filter}")) }
            })
            .await;
            assert_eq!(ask("198.19.0.1:8080"), Ok("eighty".into()), "{table}");
        }
        let (uid, finding) = told.recv().await.unwrap();
        assert!(uid == record.uid && matches!(finding, Finding::Mended(_)), "{finding:?}");
        watch.abort();
        let _ = watch.await;
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        crate::ports::no_rules_are_left();
    });
}

#[test]
fn a_complaint_of_the_nodes_own_plugins_is_told_and_touches_nothing() {
    on_a_node(|node| async move {
        let (sandboxes, template) = (node.open(), crate::fixture::template());
        let file = node.configure("10-theirs.conflist");
        let list = fs::read_to_string(&file).unwrap();
        let complain = |code: u32, words: &str| {
            let answer = format!(r#"{{"cniVersion":"0.4.0","code":{code},"msg":"{words}"}}"#);
            node.stand_in(&format!(
                "[ $CNI_COMMAND = CHECK ] && {{ echo '{answer}'; exit 1; }}; exec {PLUGINS}/bridge"
            ));
        };
        for (text, code, words, fault) in [
            (list.clone(), 100, "the service is away", true),
            (list.clone(), 100, "not implemented", false),
            (list.clone(), 4, "unknown CNI_COMMAND: CHECK", false),
            (list.replace(r#""name":"theirs""#, r#""name":"theirs","disableCheck":true"#), 100, "never asked", false),
            (list.replace("0.4.0", "0.3.1"), 100, "never asked", false),
        ] {
            fs::write(&file, text).unwrap();
            complain(code, words);
            let (record, netns) = raised(&sandboxes, "guest", &template).await;
            let found = sandboxes.check(&record.uid, Scope::Everything).await;
            match fault {
                true => assert!(matches!(&found, Some(Finding::Fault(why)) if why.contains(words)), "{found:?}"),
                false => assert_eq!(found, None, "{words}"),
            }
            assert!(matches!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Connected { .. }));
            // What everybody can see is no opinion.
            inside_net(&netns, "ip link del eth0");
            let found = sandboxes.check(&record.uid, Scope::Everything).await;
            assert!(matches!(found, Some(Finding::Gone(_))), "{words}: {found:?}");
            sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        }
        delete_bridge();
    });
}

/// A plugin whose CHECK hangs is in nobody's way: not in that of rules that were flushed, nor of pods that are connected meanwhile.
#[test]
fn a_plugin_whose_check_hangs_delays_no_other_pods_rules_and_no_new_pod() {
    on_a_node(|node| async move {
        with_addresses();
        let (sandboxes, template) = (node.open(), with_ports(&[(8080, 80, "TCP", None)]));
        node.configure("10-theirs.conflist");
        let asked = node.dir.path().join("asked");
        node.stand_in(&format!(
            "[ $CNI_COMMAND = CHECK ] && {{ echo >> {}; exec sleep 60; }}; exec {PLUGINS}/bridge",
            asked.display()
        ));
        let (record, _) = raised(&sandboxes, "served", &template).await;
        let (other, _) = raised(&sandboxes, "other", &crate::fixture::template()).await;
        let watching = sandboxes.clone();
        let watch = tokio::spawn(async move { watching.watch_connections(|_, _| ()).await });
        let times = || fs::read_to_string(&asked).unwrap_or_default().lines().count();
        soon("the plugin is asked", || if times() > 0 { Ok(()) } else { Err("never".to_owned()) }).await;
        // From now on the plugin hangs for the ten seconds that it is given.
        let hangs_until = Instant::now() + Duration::from_secs(10);
        run("iptables -w -t nat -F");
        soon("the pod's rules stand again", || match run("iptables -w -t nat -S") {
            nat if nat.contains("--dport 8080 -j DNAT --to-destination 198.19.5.") => Ok(()),
            nat => Err(nat),
        })
        .await;
        assert!(Instant::now() < hangs_until, "the rules wait for the plugin");
        let (third, _) = raised(&sandboxes, "third", &crate::fixture::template()).await;
        assert!(Instant::now() < hangs_until, "a new pod waits for the plugin");
        assert_eq!(times(), 1);
        watch.abort();
        let _ = watch.await;
        for record in [&record, &other, &third] {
            sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        }
        delete_bridge();
        crate::ports::no_rules_are_left();
    });
}
