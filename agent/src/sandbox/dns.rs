//! A pod's resolv.conf, as the kubelet composes it from the node's, the cluster's and the pod's own settings.
//!
//! Driven by `files`. Pure: texts and settings in, a text out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use pod::spec::{DnsConfig, DnsPolicy, Naming};

use crate::seams::Warned;

/// What a resolver reads (resolv.conf(5)) and Kubernetes allows: name servers, search domains, their characters in all.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;
/// A longer search domain makes some resolvers abort.
const DOMAIN_MAX: usize = 253;
/// What the cluster's resolver is asked with.
const CLUSTER_OPTIONS: &[&str] = &["ndots:5"];

/// How this node's pods find a cluster's services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Empty: there is no cluster DNS, and what asks for it gets the node's.
    pub dns: Vec<IpAddr>,
    /// `cluster.local`.
    pub domain: String,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster { dns: Vec::new(), domain: "cluster.local".into() }
    }
}

/// The lines that count of a resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

/// For a pod of this namespace; `node`: the node's resolv.conf.
pub fn settings(naming: &Naming, host_network: bool, namespace: &str, cluster: &Cluster, node: &str) -> Settings {
    limited(wanted(naming, host_network, namespace, cluster, node))
}

/// What is left out of it for want of room, and a cluster that is asked for and not there; in Kubernetes' terms.
pub fn warnings(naming: &Naming, host_network: bool, namespace: &str, cluster: &Cluster, node: &str) -> Vec<Warned> {
    let mut wanted = wanted(naming, host_network, namespace, cluster, node);
    unique(&mut wanted.servers);
    unique(&mut wanted.searches);
    let applied = limited(wanted.clone());
    let cut = |what: &str, all: &[String], applied: &[String]| {
        (all.len() > applied.len()).then(|| {
            let message =
                format!("{what} limits were exceeded, some have been omitted; applied: {}", applied.join(" "));
            Warned { reason: "DNSConfigForming", message }
        })
    };
    // ClusterFirst is what a pod has that says nothing: no news on a node without a cluster.
    let missing = naming.dns_policy == DnsPolicy::ClusterFirstWithHostNet && cluster.dns.is_empty();
    let missing = missing.then(|| Warned {
        reason: "MissingClusterDNS",
        message: "dnsPolicy is ClusterFirstWithHostNet and this node has no cluster DNS (--cluster-dns): the pod gets the node's".into(),
    });
    let cut = [
        cut("name server", &wanted.servers, &applied.servers),
        cut("search domain", &wanted.searches, &applied.searches),
    ];
    missing.into_iter().chain(cut.into_iter().flatten()).collect()
}

/// All that is asked for.
fn wanted(naming: &Naming, host_network: bool, namespace: &str, cluster: &Cluster, node: &str) -> Settings {
    let asks_the_cluster = match naming.dns_policy {
        DnsPolicy::ClusterFirst => !host_network,
        DnsPolicy::ClusterFirstWithHostNet => true,
        DnsPolicy::Default | DnsPolicy::None => false,
    };
    let mut settings = match naming.dns_policy {
        DnsPolicy::None => Settings::default(),
        _ => parse(node),
    };
    if asks_the_cluster && !cluster.dns.is_empty() {
        settings.servers = cluster.dns.iter().map(ToString::to_string).collect();
        let own = [format!("{namespace}.svc.{}", cluster.domain), format!("svc.{}", cluster.domain)];
        settings.searches.splice(0..0, own.into_iter().chain([cluster.domain.clone()]));
        settings.options = CLUSTER_OPTIONS.iter().map(|&option| option.to_owned()).collect();
    }
    merged(settings, &naming.dns)
}

/// The whole file.
pub fn text(settings: &Settings) -> String {
    let line = |word: &str, values: &[String]| match values.is_empty() {
        true => String::new(),
        false => format!("{word} {}\n", values.join(" ")),
    };
    let servers: String = settings.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    format!("{}{servers}{}", line("search", &settings.searches), line("options", &settings.options))
}

/// The node's file: the last `search` or `domain` counts, options add up (resolv.conf(5)).
fn parse(text: &str) -> Settings {
    let mut settings = Settings::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let values = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
        match words.next() {
            Some("nameserver") => settings.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                let trimmed = |domain: String| match domain.strip_suffix('.') {
                    Some(name) if !name.is_empty() => name.to_owned(),
                    _ => domain,
                };
                settings.searches = values(words).into_iter().map(trimmed).collect();
            }
            Some("options") => settings.options.extend(values(words)),
            _ => {}
        }
    }
    settings
}

/// The pod's servers and domains come after what there is; an option of the same name takes the other's place.
fn merged(mut settings: Settings, pod: &DnsConfig) -> Settings {
    settings.servers.extend(pod.nameservers.iter().map(ToString::to_string));
    settings.searches.extend(pod.searches.iter().cloned());
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    for option in &pod.options {
        let text = match &option.value {
            Some(value) => format!("{}:{value}", option.name),
            None => option.name.clone(),
        };
        match settings.options.iter_mut().find(|known| name(known) == option.name) {
            Some(known) => *known = text,
            None => settings.options.push(text),
        }
    }
    settings
}

/// Without doubles, and not more than Kubernetes lets through: the first ones stay.
fn limited(mut settings: Settings) -> Settings {
    unique(&mut settings.servers);
    unique(&mut settings.searches);
    settings.servers.truncate(NAMESERVERS_MAX);
    settings.searches.truncate(SEARCHES_MAX);
    settings.searches.retain(|domain| domain.len() <= DOMAIN_MAX);
    let mut chars = 0_usize;
    let fits = settings.searches.iter().take_while(|domain| {
        let needed = domain.len().saturating_add(usize::from(chars > 0));
        chars = chars.saturating_add(needed);
        chars <= SEARCH_CHARS_MAX
    });
    let fits = fits.count();
    settings.searches.truncate(fits);
    settings
}

fn unique(values: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    values.retain(|value| seen.insert(value.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use pod::spec::DnsOption;

    fn compose(naming: &Naming, host_network: bool, namespace: &str, cluster: &Cluster, node: &str) -> String {
        text(&settings(naming, host_network, namespace, cluster, node))
    }

    #[test]
    fn what_is_left_out_or_not_there_is_told() {
        let naming = |dns_policy, nameservers: usize| Naming {
            dns_policy,
            dns: DnsConfig { nameservers: vec!["10.0.0.1".parse().unwrap(); nameservers], ..DnsConfig::default() },
            ..Naming::default()
        };
        let told = |naming: &Naming, node: &str| {
            let told = warnings(naming, false, "web", &Cluster::default(), node);
            told.into_iter().map(|warned| (warned.reason, warned.message)).collect::<Vec<_>>()
        };
        assert_eq!(told(&naming(DnsPolicy::ClusterFirst, 0), NODE), []);
        assert_eq!(told(&naming(DnsPolicy::Default, 2), NODE), [], "the same twice is no more");
        let node = "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\n";
        let [(reason, message)] = &told(&naming(DnsPolicy::Default, 1), node)[..] else { panic!("one") };
        assert_eq!(*reason, "DNSConfigForming");
        assert!(message.ends_with("applied: 1.1.1.1 1.1.1.2 1.1.1.3"), "{message}");
        let missing = told(&naming(DnsPolicy::ClusterFirstWithHostNet, 0), NODE);
        assert_eq!(missing[0].0, "MissingClusterDNS");
    }

    const NODE: &str = "# made by somebody\n; and another\nnameserver 198.18.0.53\ndomain old\nsearch lan. example.com\n\
                        options edns0 timeout:1\nsortlist 10.0.0.0\n";

    fn cluster() -> Cluster {
        Cluster { dns: vec!["10.96.0.10".parse().unwrap()], ..Cluster::default() }
    }

    fn with(dns_policy: DnsPolicy) -> Naming {
        Naming { dns_policy, ..Naming::default() }
    }

    const OF_NODE: &str = "search lan example.com\nnameserver 198.18.0.53\noptions edns0 timeout:1\n";
    const OF_CLUSTER: &str = "search web.svc.cluster.local svc.cluster.local cluster.local lan example.com\n\
                              nameserver 10.96.0.10\noptions ndots:5\n";

    #[test]
    fn policy_decides_whose_settings_they_are() {
        use DnsPolicy::{ClusterFirst, ClusterFirstWithHostNet, Default};
        for (policy, host_network, expected) in [
            (ClusterFirst, false, OF_CLUSTER),
            (ClusterFirst, true, OF_NODE),
            (ClusterFirstWithHostNet, true, OF_CLUSTER),
            (ClusterFirstWithHostNet, false, OF_CLUSTER),
            (Default, false, OF_NODE),
            (Default, true, OF_NODE),
        ] {
            assert_eq!(compose(&with(policy), host_network, "web", &cluster(), NODE), expected, "{policy:?}");
            assert_eq!(compose(&with(policy), host_network, "web", &Cluster::default(), NODE), OF_NODE, "{policy:?}");
        }
        assert_eq!(compose(&with(DnsPolicy::None), false, "web", &cluster(), NODE), "");
    }

    #[test]
    fn pods_own_settings_follow_and_its_options_replace() {
        let option = |name: &str, value: Option<&str>| DnsOption { name: name.into(), value: value.map(str::to_owned) };
        let dns = DnsConfig {
            nameservers: vec!["198.18.0.53".parse().unwrap(), "fd00::53".parse().unwrap()],
            searches: vec!["my".into(), "lan".into()],
            options: vec![option("timeout", Some("9")), option("rotate", None)],
        };
        let naming = Naming { dns, ..with(DnsPolicy::Default) };
        let text = compose(&naming, false, "web", &cluster(), NODE);
        assert_eq!(
            text,
            "search lan example.com my\nnameserver 198.18.0.53\nnameserver fd00::53\noptions edns0 timeout:9 rotate\n"
        );
        let text = compose(&Naming { dns_policy: DnsPolicy::None, ..naming }, false, "web", &cluster(), NODE);
        assert_eq!(text, "search my lan\nnameserver 198.18.0.53\nnameserver fd00::53\noptions timeout:9 rotate\n");
    }

    #[test]
    fn what_is_more_than_a_resolver_reads_is_left_out_from_the_end() {
        let many: String = (0..40).map(|i| format!(" d{i}")).collect();
        let node =
            format!("nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\nsearch{many}\n");
        let text = compose(&with(DnsPolicy::Default), false, "n", &Cluster::default(), &node);
        assert_eq!(text.matches("nameserver").count(), 3);
        assert!(text.contains(" d31\n") && !text.contains("1.1.1.4"), "{text}");
        let long = |n: usize| "x".repeat(n);
        let node = format!("search {} {} {}\n", long(300), long(200), vec![long(180); 1].join(" "));
        let text = compose(&with(DnsPolicy::Default), false, "n", &Cluster::default(), &node);
        assert_eq!(text.len(), "search  \n".len() + 380);
        let domains: Vec<String> = (0..11).map(|i| format!("{i:03}{}", long(200))).collect();
        let text = compose(
            &with(DnsPolicy::Default),
            false,
            "n",
            &Cluster::default(),
            &format!("search {}", domains.join(" ")),
        );
        // Ten of 203 characters and their spaces are 2039.
        assert_eq!(text.split_whitespace().count(), 11);
    }
}
