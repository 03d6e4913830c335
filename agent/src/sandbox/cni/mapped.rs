//! Whether the rules stand that lead ports of the node to a pod: as the CNI project's portmap makes them.
//!
//! Driven by `check`. Only reads. What it cannot find out (no iptables, another backend of the plugin) counts as standing.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;

use pod::name::Uid;
use serde_json::Value;

use super::masquerade;

/// The plugin's chain of all ports, and the one of what is to look as if it came from the node.
const ALL_PORTS: &str = "CNI-HOSTPORT-DNAT";
const FROM_NODE: &str = "CNI-HOSTPORT-MASQ";

/// The node's rules as they were during one look at many pods, by program; None where they cannot be listed.
#[derive(Debug, Default)]
pub struct Listed(BTreeMap<&'static str, Option<String>>);

impl Listed {
    /// What is not so by the rules of the look's beginning is judged by those of now: a pod may have been connected, or
    /// something mended, in between.
    async fn judge<F: Future<Output = Option<String>>>(
        &mut self,
        program: &'static str,
        list: impl Fn(&'static str) -> F,
        judge: impl Fn(&str) -> Option<String>,
    ) -> Option<String> {
        if let Some(known) = self.0.get(program)
            && known.as_deref().and_then(&judge).is_none()
        {
            return None;
        }
        let rules = list(program).await;
        let judged = rules.as_deref().and_then(judge);
        self.0.insert(program, rules);
        judged
    }
}

/// What is missing, in words.
pub async fn missing(uid: &Uid, plugin: &Value, addresses: &[IpAddr], listed: &mut Listed) -> Option<String> {
    if plugin.get("backend").is_some() {
        return None;
    }
    for (ipv4, program) in [(true, "iptables"), (false, "ip6tables")] {
        let protocols = protocols(plugin, ipv4);
        if protocols.is_empty() || !addresses.iter().any(|address| address.is_ipv4() == ipv4) {
            continue;
        }
        let list = async |program| masquerade::list_nat(program).await.ok();
        let of_pod = |rules: &str| judge(rules, uid, &protocols, marks_by_itself(plugin));
        if let Some(what) = listed.judge(program, list, of_pod).await {
            return Some(format!("{program} has not {what}"));
        }
    }
    None
}

/// Whether the plugin has a rule of its own for what is to look as if it came from the node: not without snat, and not where
/// somebody else's chain does it.
fn marks_by_itself(plugin: &Value) -> bool {
    plugin["snat"] != false && plugin["externalSetMarkChain"].as_str().is_none_or(str::is_empty)
}

/// Protocols of the ports that lead here in this family, sorted.
fn protocols(plugin: &Value, ipv4: bool) -> Vec<String> {
    let ports = plugin["runtimeConfig"]["portMappings"].as_array().into_iter().flatten();
    let of_family = ports.filter(|port| match port["hostIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) {
        Some(ip) => ip.is_ipv4() == ipv4,
        None => true,
    });
    let mut protocols: Vec<String> =
        of_family.filter_map(|port| port["protocol"].as_str().map(str::to_ascii_lowercase)).collect();
    protocols.sort();
    protocols.dedup();
    protocols
}

/// `rules`: as `iptables -t nat -S` prints them.
fn judge(rules: &str, uid: &Uid, protocols: &[String], snat: bool) -> Option<String> {
    let has = |from: &str, words: &[&str]| {
        let begin = format!("-A {from} ");
        rules.lines().any(|line| line.starts_with(&begin) && words.iter().all(|word| line.contains(word)))
    };
    for chain in ["PREROUTING", "OUTPUT"] {
        if !has(chain, &[&format!("-j {ALL_PORTS}")]) {
            return Some(format!("the rule that leads from {chain} to the ports of pods"));
        }
    }
    if snat && !has("POSTROUTING", &[&format!("-j {FROM_NODE}")]) {
        return Some("the rule by which a pod answers the node's own connections".into());
    }
    let of_pod = format!(r#"id: \"{uid}\""#);
    for protocol in protocols {
        let own = [of_pod.as_str(), &format!("-p {protocol} ")];
        let begin = format!("-A {ALL_PORTS} ");
        let leading = rules.lines().find(|line| line.starts_with(&begin) && own.iter().all(|word| line.contains(word)));
        let chain = leading.and_then(|line| line.rsplit_once("-j ")).map(|(_, chain)| chain.trim());
        if !chain.is_some_and(|chain| has(chain, &["-j DNAT", &format!("-p {protocol} ")])) {
            return Some(format!("the rules of the pod's {} ports", protocol.to_ascii_uppercase()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULES: &str = r#"-P PREROUTING ACCEPT
-N CNI-DN-cb
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A CNI-DN-cb -s 198.18.0.0/15 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-cb -p tcp -m tcp --dport 8080 -j DNAT --to-destination 198.18.0.2:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"t6\" id: \"0a\"" -m multiport --dports 8080 -j CNI-DN-cb
"#;

    #[test]
    fn each_rule_that_is_missing_is_missed() {
        let judge = |rules: &str, uid: &str| super::judge(rules, &Uid(uid.into()), &["tcp".into()], true);
        assert_eq!(judge(RULES, "0a"), None);
        assert!(judge(RULES, "0b").unwrap().contains("TCP ports"));
        for (index, line) in
            RULES.lines().enumerate().filter(|(_, line)| line.starts_with("-A") && !line.contains("SETMARK"))
        {
            let without: Vec<&str> =
                RULES.lines().enumerate().filter(|(other, _)| *other != index).map(|(_, line)| line).collect();
            assert!(judge(&without.join("\n"), "0a").is_some(), "{line}");
        }
        assert!(super::judge(RULES, &Uid("0a".into()), &["tcp".into(), "udp".into()], true).is_some());
    }

    #[tokio::test]
    async fn one_look_lists_the_rules_once_and_again_for_what_seems_missing() {
        let lists = std::cell::Cell::new(0);
        // The second pod is connected while the look is under way.
        let list = async |_| {
            lists.set(lists.get() + 1);
            Some(if lists.get() == 1 { "a" } else { "a b" }.to_owned())
        };
        let mut listed = Listed::default();
        let mut look = async |pod: &str| {
            let judge = |rules: &str| (!rules.contains(pod)).then(|| pod.to_owned());
            (listed.judge("iptables", &list, judge).await, lists.get())
        };
        assert_eq!(look("a").await, (None, 1));
        assert_eq!(look("a").await, (None, 1));
        assert_eq!(look("b").await, (None, 2));
        assert_eq!(look("c").await, (Some("c".into()), 3));
    }

    #[test]
    fn a_host_ip_leads_in_its_family_only() {
        let plugin = json!({"runtimeConfig": {"portMappings": [
            {"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "127.0.0.1"},
            {"hostPort": 2, "containerPort": 2, "protocol": "UDP"},
        ]}});
        assert_eq!(protocols(&plugin, true), ["tcp", "udp"]);
        assert_eq!(protocols(&plugin, false), ["udp"]);
    }
}
