//! What a pod is called: its host name, its domain, and the name that the kernel knows.
//!
//! Driven by `sandbox`. Pure but for the node's own name.

use pod::record::Record;
use pod::spec::{Naming, PodTemplate};

/// A pod's names, as the kubelet makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// `hostnameOverride`, else `hostname`, else the pod's name.
    pub host: String,
    /// `subdomain.namespace.svc.cluster-domain`, where the pod has a subdomain.
    pub domain: Option<String>,
    /// What `hostname` prints: the host name, or the full name with `setHostnameAsFQDN`.
    pub kernel: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the full name {full} has {} characters, more than the {KERNEL_MAX} of a host name: shorten hostname or subdomain, or leave setHostnameAsFQDN out",
    full.len()
)]
pub struct TooLong {
    pub full: String,
}

/// HOST_NAME_MAX of Linux.
const KERNEL_MAX: usize = 64;

impl Called {
    /// Of a pod with a network of its own.
    pub fn of(record: &Record, template: &PodTemplate, cluster_domain: &str) -> Result<Called, TooLong> {
        Called::from(&template.spec.naming, &record.name, &record.workload.namespace, cluster_domain)
    }

    fn from(naming: &Naming, pod: &str, namespace: &str, cluster_domain: &str) -> Result<Called, TooLong> {
        if let Some(name) = &naming.hostname_override {
            return Ok(Called { host: name.clone(), domain: None, kernel: name.clone() });
        }
        let host = naming.hostname.clone().unwrap_or_else(|| cut(pod));
        let domain = naming.subdomain.as_ref().map(|sub| format!("{sub}.{namespace}.svc.{cluster_domain}"));
        let kernel = match &domain {
            Some(domain) if naming.fqdn_as_hostname => format!("{host}.{domain}"),
            _ => host.clone(),
        };
        if kernel.len() > KERNEL_MAX {
            return Err(TooLong { full: kernel });
        }
        Ok(Called { host, domain, kernel })
    }

    /// Of a pod on the node's network, which has the node's name.
    pub fn as_the_node(node_name: &str) -> Called {
        let own = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let host = own.unwrap_or_else(|| node_name.to_owned());
        Called { kernel: host.clone(), host, domain: None }
    }
}

/// A pod's name as its hostname: at most 63 letters, not ending in `-` or `.` (Kubernetes).
fn cut(pod_name: &str) -> String {
    const HOSTNAME_MAX: usize = 63;
    let cut: String = pod_name.chars().take(HOSTNAME_MAX).collect();
    if cut.len() < pod_name.len() { cut.trim_end_matches(['-', '.']).to_owned() } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_all_that_the_pod_is_called() {
        let mut naming = Naming { hostname: Some("a".into()), subdomain: Some("b".into()), ..Naming::default() };
        let called = |naming: &Naming| Called::from(naming, "p", "ns", "cluster.local").unwrap();
        assert_eq!(called(&naming).domain.as_deref(), Some("b.ns.svc.cluster.local"));
        naming.hostname_override = Some("db.example".into());
        assert_eq!(called(&naming), Called { host: "db.example".into(), domain: None, kernel: "db.example".into() });
    }

    #[test]
    fn a_long_pod_name_becomes_a_valid_hostname() {
        assert_eq!(cut("web-0"), "web-0");
        assert_eq!(cut(&"a".repeat(80)).len(), 63);
        assert_eq!(cut(&format!("{}-.b", "a".repeat(61))), "a".repeat(61));
    }
}
