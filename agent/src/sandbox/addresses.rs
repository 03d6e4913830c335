//! The node's own addresses: `hostIP`, and `podIP` of pods on the host's network.
//!
//! Driven by `sandbox`. Looks at the interfaces of the calling thread's network namespace, and remembers for a while what
//! it saw: a node with many pods has hundreds of interfaces.

use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use tokio::sync::Notify;

/// An address changes rarely, and [`super::follow`] hears of it; this is for where it does not.
const FRESH_FOR: Duration = Duration::from_secs(30);
/// Interfaces looked at: two for each pod at the most, and the node's.
const INTERFACES_MAX: usize = 4096;
/// What the kernel tells of each interface, of the network namespace in which sysfs was mounted.
const INTERFACES: &str = "/sys/class/net";
/// A routing table longer than this (a router's) is read to here; its default route stands near the top.
const ROUTES_MAX_BYTES: u64 = 256 * 1024;

/// One interface's address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    interface: String,
    address: IpAddr,
    /// It has a carrier: a bridge without members, as an idle Docker's, has none.
    running: bool,
    /// A bridge that joins nothing but containers or virtual machines: Docker's, libvirt's, another network plugin's.
    inward: bool,
}

/// The node's addresses, remembered.
#[derive(Debug, Default)]
pub struct NodeAddresses {
    seen: Mutex<Option<(Instant, Vec<IpAddr>)>>,
    /// Told when a look finds others than the one before: a container may be given an address before [`super::follow`] has looked.
    changed: Notify,
}

impl NodeAddresses {
    /// The first of each family, IPv4 first; empty while the node has no network. `own_bridge` does not count.
    pub fn get(&self, own_bridge: &str) -> Vec<IpAddr> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match seen {
            Some((at, addresses)) if at.elapsed() < FRESH_FOR && !addresses.is_empty() => addresses,
            _ => self.look(own_bridge),
        }
    }

    /// The same as they are just now.
    pub fn look(&self, own_bridge: &str) -> Vec<IpAddr> {
        let default_routes = [
            default_route_v4(&read("/proc/thread-self/net/route")),
            default_route_v6(&read("/proc/thread-self/net/ipv6_route")),
        ];
        let addresses = choose(&interfaces(own_bridge), &default_routes);
        self.remember(&addresses);
        addresses
    }

    /// Until a look has found other addresses. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn remember(&self, addresses: &[IpAddr]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.replace((Instant::now(), addresses.to_vec()));
        if before.is_none_or(|(_, before)| before != addresses) {
            self.changed.notify_one();
        }
    }
}

fn interfaces(own_bridge: &str) -> Vec<Found> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let usable =
        |flags: InterfaceFlags| flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK);
    all.take(INTERFACES_MAX)
        .filter(|found| usable(found.flags) && found.interface_name != own_bridge)
        .filter_map(|found| {
            let address = found.address?;
            let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => return None,
            };
            let running = found.flags.contains(InterfaceFlags::IFF_RUNNING);
            let inward = is_inward(Path::new(INTERFACES), &found.interface_name);
            Some(Found { interface: found.interface_name, address, running, inward })
        })
        .collect()
}

/// Whether it is a bridge none of whose members leads out of the node: one that is a device, or stands on one (a bond, a VLAN). Members
/// are named `brif/NAME`, what stands below an interface `lower_NAME` (sysfs-class-net). What cannot be looked at is no such bridge.
fn is_inward(interfaces: &Path, name: &str) -> bool {
    let place = interfaces.join(name);
    let Ok(members) = fs::read_dir(place.join("brif")) else { return false };
    !members.take(INTERFACES_MAX).flatten().any(|member| {
        let member = interfaces.join(member.file_name());
        let mut below = fs::read_dir(&member).into_iter().flatten().flatten();
        member.join("device").exists() || below.any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"lower_"))
    })
}

/// One address per family: the default route's interface before any other that is running and leads somewhere; link-local ones never.
fn choose(found: &[Found], default_routes: &[Option<String>; 2]) -> Vec<IpAddr> {
    let global = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback() && !v6.is_unspecified(),
    };
    let mut chosen = Vec::new();
    for (ipv4, route) in [(true, &default_routes[0]), (false, &default_routes[1])] {
        let mut family = found.iter().filter(|f| f.address.is_ipv4() == ipv4 && global(&f.address));
        let preferred = family.clone().find(|f| Some(&f.interface) == route.as_ref());
        chosen.extend(preferred.or_else(|| family.find(|f| f.running && !f.inward)).map(|f| f.address));
    }
    chosen
}

/// The interface of the default route with the lowest metric (proc_pid_net(5), `route`).
fn default_route_v4(table: &str) -> Option<String> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = *fields.get(1)? == "00000000" && *fields.get(7)? == "00000000";
        let metric: u32 = fields.get(6)?.parse().ok()?;
        default.then(|| (metric, fields[0].to_owned()))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, interface)| interface)
}

/// The same of `ipv6_route`: destination, its prefix length, …, metric, …, interface; hexadecimal.
fn default_route_v6(table: &str) -> Option<String> {
    let routes = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields.first()?.chars().all(|c| c == '0') && *fields.get(1)? == "00";
        let metric = u32::from_str_radix(fields.get(5)?, 16).ok()?;
        let interface = *fields.get(9)?;
        (default && interface != "lo").then(|| (metric, interface.to_owned()))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, interface)| interface)
}

fn read(path: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = fs::File::open(path) {
        // A table that cannot be read to its end still has its beginning.
        let _ = file.take(ROUTES_MAX_BYTES).read_to_string(&mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(interface: &str, address: &str) -> Found {
        let (idle, inward) = (interface == "docker0", interface.starts_with("docker"));
        Found { interface: interface.into(), address: address.parse().unwrap(), running: !idle, inward }
    }

    /// What a container is given is in the status when it runs.
    #[tokio::test]
    async fn whoever_finds_another_address_tells_who_shows_it() {
        let addresses = NodeAddresses::default();
        let told = async || tokio::time::timeout(Duration::ZERO, addresses.changed()).await.is_ok();
        for (found, new) in [(&[][..], true), (&[], false), (&["198.18.7.7"], true), (&["198.18.7.7"], false)] {
            let found: Vec<IpAddr> = found.iter().map(|ip| ip.parse().unwrap()).collect();
            addresses.remember(&found);
            assert_eq!(told().await, new, "{found:?}");
        }
    }

    #[test]
    fn a_bridge_of_containers_is_no_way_to_the_node_unless_the_default_route_says_so() {
        let all = [found("docker1", "172.18.0.1"), found("ens3", "198.18.7.7")];
        assert!(choose(&all[..1], &[None, None]).is_empty());
        assert_eq!(choose(&all, &[None, None]), ["198.18.7.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(choose(&all, &[Some("docker1".into()), None]), ["172.18.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_bridge_leads_out_where_a_member_is_a_device_or_stands_on_one() {
        let dir = tempfile::tempdir().unwrap();
        for entry in [
            "ens3/device",
            "bond0/lower_ens4",
            "veth1/statistics",
            "docker0/brif/veth1",
            "br0/brif/veth1",
            "br0/brif/ens3",
            "br1/brif/bond0",
            "idle/brif",
        ] {
            fs::create_dir_all(dir.path().join(entry)).unwrap();
        }
        let inward = |name: &str| is_inward(dir.path(), name);
        assert!(inward("docker0") && inward("idle"));
        assert!(["br0", "br1", "ens3", "veth1", "gone"].into_iter().all(|name| !inward(name)));
    }

    #[test]
    fn the_default_routes_interface_comes_first_and_each_family_gives_one() {
        let all = [
            found("docker0", "172.17.0.1"),
            found("ens3", "fe80::1"),
            found("ens3", "198.18.7.7"),
            found("ens3", "2001:db8::7"),
        ];
        let addresses = choose(&all, &[Some("ens3".into()), None]);
        assert_eq!(addresses, ["198.18.7.7".parse::<IpAddr>().unwrap(), "2001:db8::7".parse().unwrap()]);
        assert!(choose(&all[..2], &[None, None]).is_empty(), "an idle bridge is no way to the node");
        assert_eq!(choose(&all[..3], &[None, None]), ["198.18.7.7".parse::<IpAddr>().unwrap()]);
        assert!(choose(&[], &[None, None]).is_empty());
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_is_taken() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
            wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_route_v4(v4).as_deref(), Some("eth0"));
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        assert_eq!(default_route_v6(v6).as_deref(), Some("eth0"));
    }
}
