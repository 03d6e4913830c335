//! The names and addresses of this machine, for the endpoint's certificate and for those who are to find it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::door::tls::Names;

/// Under what a cluster's API is known to those inside of it.
const OWN: [&str; 5] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
/// Names and addresses in a certificate: a machine that carries more addresses routes for others.
const NAMES_MAX: usize = 64;

/// Of this machine as it is now, and what was configured. Blocks.
pub fn names(configured: &[String], listens: &[SocketAddr]) -> Names {
    let mut names: BTreeSet<String> = OWN.iter().map(|name| (*name).to_owned()).collect();
    let mut addresses = BTreeSet::from([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
    for name in configured {
        match name.parse() {
            Ok(address) => {
                addresses.insert(address);
            }
            Err(_) => {
                names.insert(name.clone());
            }
        }
    }
    addresses.extend(listens.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified()));
    names.extend(hostname());
    addresses.extend(own_addresses());
    Names {
        names: names.into_iter().take(NAMES_MAX).collect(),
        addresses: addresses.into_iter().take(NAMES_MAX).collect(),
    }
}

/// Where programs on other machines find this one: where it listens, else its first address that others can have. Blocks.
pub fn address(listen: SocketAddr) -> IpAddr {
    if !listen.ip().is_unspecified() {
        return listen.ip();
    }
    let mut addresses: Vec<IpAddr> = own_addresses().filter(|address| !address.is_loopback()).collect();
    // What most networks have first.
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// This machine's, for people.
pub fn name() -> String {
    hostname().unwrap_or_else(|| "localhost".to_owned())
}

fn hostname() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?.to_ascii_lowercase();
    pod::manifest::names::dns_subdomain(&name).is_none().then_some(name)
}

/// In the order of the interfaces; without those of IPv6 that are only good on one link.
fn own_addresses() -> impl Iterator<Item = IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| address.ip()).filter(|ip| !ip.is_unicast_link_local());
        v4.or(v6.map(IpAddr::from))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_what_the_machine_is_and_what_was_configured() {
        let listen = "192.0.2.9:6443".parse().unwrap();
        let names = names(&["control.example".into(), "203.0.113.5".into()], &[listen]);
        for name in ["localhost", "kubernetes.default.svc", "control.example"] {
            assert!(names.names.iter().any(|own| own == name), "{names:?}");
        }
        for address in ["127.0.0.1", "::1", "192.0.2.9", "203.0.113.5"] {
            assert!(names.addresses.contains(&address.parse().unwrap()), "{names:?}");
        }
        assert_eq!(address(listen), listen.ip());
    }
}
