//! How a pod is called and finds others: dnsPolicy, dnsConfig, hostAliases, hostname, subdomain, setHostnameAsFQDN, with
//! Kubernetes' limits (pkg/apis/core/validation). What becomes of them is written by the agent's sandbox.

use std::net::IpAddr;

use super::findings::{At, Findings};
use super::{names, pod};
use crate::spec::{DnsConfig, DnsOption, DnsPolicy, HostAlias, Naming};

/// resolv.conf(5)'s own: what is more is not looked at by a resolver.
pub const MAX_NAMESERVERS: usize = 3;
pub const MAX_SEARCHES: usize = 32;
/// Of all search domains, with the spaces between them.
pub const MAX_SEARCH_CHARS: usize = 2048;

/// The part of a pod's spec that is about names.
pub fn read(spec: &At<'_>, findings: &mut Findings) -> Naming {
    let dns_policy = policy(spec, findings);
    let dns = spec.get("dnsConfig").map(|at| config(&at, findings)).unwrap_or_default();
    if dns_policy == DnsPolicy::None && dns.nameservers.is_empty() {
        let reason = "needs at least one name server, since dnsPolicy is None";
        match spec.get("dnsConfig") {
            Some(config) => {
                let at = config.get("nameservers").unwrap_or(config);
                findings.rule(&at, reason);
            }
            None => findings.rule(&spec.get("dnsPolicy").unwrap_or_else(|| spec.clone()), {
                "None takes everything from dnsConfig, which is missing: give it dnsConfig.nameservers"
            }),
        }
    }
    Naming {
        hostname: label(spec, "hostname", findings),
        subdomain: label(spec, "subdomain", findings),
        fqdn_as_hostname: spec.boolean_in("setHostnameAsFQDN", findings).unwrap_or(false),
        hostname_override: hostname_override(spec, findings),
        dns_policy,
        dns,
        host_aliases: spec.list("hostAliases", findings).iter().filter_map(|at| alias(at, findings)).collect(),
    }
}

fn policy(spec: &At<'_>, findings: &mut Findings) -> DnsPolicy {
    let allowed = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    match spec.text_in("dnsPolicy", findings) {
        None | Some("" | "ClusterFirst") => DnsPolicy::ClusterFirst,
        Some("ClusterFirstWithHostNet") => DnsPolicy::ClusterFirstWithHostNet,
        Some("Default") => DnsPolicy::Default,
        Some("None") => DnsPolicy::None,
        Some(other) => pod::one_of(spec, "dnsPolicy", other, &allowed, findings).unwrap_or_default(),
    }
}

fn config(at: &At<'_>, findings: &mut Findings) -> DnsConfig {
    let nameservers: Vec<IpAddr> =
        at.list("nameservers", findings).iter().filter_map(|at| address(at, findings)).collect();
    if nameservers.len() > MAX_NAMESERVERS
        && let Some(at) = at.get("nameservers")
    {
        findings.rule(&at, format!("has {} name servers: at most {MAX_NAMESERVERS} are used", nameservers.len()));
    }
    let mut searches = Vec::new();
    for at in at.list("searches", findings) {
        let Some(search) = at.text(findings) else { continue };
        if let Some(reason) = names::search_domain(search) {
            // It becomes a line of resolv.conf: nothing that ends the line may get through.
            findings.impossible(&at, reason);
        }
        searches.push(search.to_owned());
    }
    let chars = searches.iter().map(|s| s.len() + 1).sum::<usize>().saturating_sub(1);
    if (searches.len() > MAX_SEARCHES || chars > MAX_SEARCH_CHARS)
        && let Some(at) = at.get("searches")
    {
        let have = format!("{} search domains of {chars} characters", searches.len());
        findings.rule(&at, format!("has {have}: at most {MAX_SEARCHES} of {MAX_SEARCH_CHARS} characters are used"));
    }
    let options = at.list("options", findings).iter().filter_map(|at| option(at, findings)).collect();
    DnsConfig { nameservers, searches, options }
}

fn option(at: &At<'_>, findings: &mut Findings) -> Option<DnsOption> {
    let word = |at: &At<'_>, findings: &mut Findings| {
        let text = at.text(findings)?;
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            findings.impossible(at, "must be one word: resolv.conf separates options by spaces");
        }
        Some(text.to_owned())
    };
    let value = at.get("value").and_then(|at| word(&at, findings));
    let named = at.need("name", findings)?;
    let name = word(&named, findings)?;
    if name.is_empty() {
        findings.rule(&named, "must not be empty");
    }
    Some(DnsOption { name, value: value.filter(|value| !value.is_empty()) })
}

fn alias(at: &At<'_>, findings: &mut Findings) -> Option<HostAlias> {
    let mut hostnames = Vec::new();
    for at in at.list("hostnames", findings) {
        let Some(name) = at.text(findings) else { continue };
        if let Some(reason) = names::dns_subdomain(name) {
            findings.impossible(&at, reason);
        }
        hostnames.push(name.to_owned());
    }
    let ip = at.need("ip", findings)?;
    Some(HostAlias { ip: address(&ip, findings)?, hostnames })
}

fn address(at: &At<'_>, findings: &mut Findings) -> Option<IpAddr> {
    let text = at.text(findings)?;
    let address = text.parse().ok();
    if address.is_none() {
        findings.rule(at, format!("{} is no IP address", names::shown(text)));
    }
    address
}

/// The whole host name (KEP-4762): a DNS subdomain that fits into the kernel, in a pod with a network of its own.
fn hostname_override(spec: &At<'_>, findings: &mut Findings) -> Option<String> {
    /// HOST_NAME_MAX of Linux.
    const KERNEL_MAX: usize = 64;
    let at = spec.get("hostnameOverride")?;
    let text = at.text(findings).filter(|text| !text.is_empty())?;
    if let Some(reason) = names::dns_subdomain(text) {
        findings.impossible(&at, reason);
    } else if text.len() > KERNEL_MAX {
        let reason = format!("has {} characters, more than the {KERNEL_MAX} of a host name: shorten it", text.len());
        findings.impossible(&at, reason);
    }
    for key in ["hostNetwork", "setHostnameAsFQDN"] {
        if spec.boolean_in(key, findings) == Some(true) {
            findings.impossible(&at, format!("cannot stand beside {key}: drop one of the two"));
        }
    }
    Some(text.to_owned())
}

/// A DNS label, which becomes part of the host name.
fn label(spec: &At<'_>, key: &str, findings: &mut Findings) -> Option<String> {
    let at = spec.get(key)?;
    let text = at.text(findings).filter(|text| !text.is_empty())?;
    if let Some(reason) = names::dns_label(text) {
        findings.impossible(&at, reason);
    }
    Some(text.to_owned())
}
