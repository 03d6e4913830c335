//! What connects pods that have a network of their own: the node's configuration or ours, and the programs behind it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;

use super::Line;
use crate::config::Cidr;
use crate::sandbox::BRIDGE;
use crate::sandbox::cni::configuration::{self, Configuration, OWN_MORE, OWN_PROGRAMS};

const INSTALL: &str =
    "install them (apt-get install containernetworking-plugins) or name their place with --cni-bin-dir";
/// Interfaces looked at: two for each pod at the most, and the node's.
const INTERFACES_MAX: usize = 4096;

/// What was found.
#[derive(Debug)]
pub struct Networks {
    conf_dir: PathBuf,
    /// The node's own configuration; Err: it has one that cannot be used, and why.
    configuration: Result<Option<Configuration>, String>,
    /// Where programs were looked for, for people.
    searched: String,
    missing: Vec<String>,
    /// Programs of our own network that only some pods need.
    missing_for_some: Vec<String>,
    /// Addresses of the node, by interface; without our bridge.
    addresses: Vec<(String, IpAddr)>,
    iptables: bool,
    forwarding: Forwarding,
}

/// What the kernel does with packets that are for others.
#[derive(Debug, Clone, Default)]
struct Forwarding {
    /// None: it cannot be read, as where there is no IPv6.
    ipv4: Option<bool>,
    ipv6: Option<bool>,
    /// Our bridge is there: a pod is or was connected to it.
    bridge: bool,
    /// Interfaces whose address came by router advertisements that the kernel stops taking when it forwards.
    advertised: Vec<String>,
}

/// Only reads.
pub fn probe(conf_dir: &Path, bin_dirs: &[PathBuf]) -> Networks {
    let configuration = configuration::of_node(conf_dir).map_err(|error| crate::execute::chain(&error));
    let missing_of = |programs: &[&str]| -> Vec<String> {
        let found = |program: &str| bin_dirs.iter().any(|dir| dir.join(program).is_file());
        programs.iter().filter(|program| !found(program)).map(|&program| program.to_owned()).collect()
    };
    let (missing, missing_for_some) = match &configuration {
        Ok(Some(of_node)) => (missing_of(&of_node.programs()), Vec::new()),
        Ok(None) => (missing_of(&OWN_PROGRAMS), missing_of(&OWN_MORE)),
        Err(_) => (Vec::new(), Vec::new()),
    };
    let searched: Vec<String> = bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
    Networks {
        conf_dir: conf_dir.to_owned(),
        configuration,
        searched: searched.join(", "),
        missing,
        missing_for_some,
        addresses: addresses(),
        iptables: in_path("iptables"),
        forwarding: Forwarding::read(),
    }
}

impl Forwarding {
    fn read() -> Forwarding {
        let read = |name: &str| std::fs::read_to_string(Path::new("/proc/sys/net").join(name)).ok();
        let is_on = |name: &str| read(name).map(|text| text.trim() != "0");
        let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
        let taken_unless_forwarding =
            |name: &String| read(&format!("ipv6/conf/{name}/accept_ra")).is_some_and(|text| text.trim() == "1");
        Forwarding {
            ipv4: is_on("ipv4/ip_forward"),
            ipv6: is_on("ipv6/conf/all/forwarding"),
            bridge: nix::net::if_::if_nametoindex(BRIDGE).is_ok(),
            advertised: with_passing_address(&table).into_iter().filter(taken_unless_forwarding).collect(),
        }
    }
}

/// Interfaces with a global address that runs out (/proc/net/if_inet6: address, index, prefix, scope, flags, name).
fn with_passing_address(table: &str) -> Vec<String> {
    const GLOBAL: &str = "00";
    /// IFA_F_PERMANENT.
    const PERMANENT: u32 = 0x80;
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(4)?, 16).ok()?;
        (*fields.get(3)? == GLOBAL && flags & PERMANENT == 0).then(|| fields.get(5).map(|name| (*name).to_owned()))?
    };
    let mut names: Vec<String> = table.lines().take(INTERFACES_MAX).filter_map(of_line).collect();
    names.sort();
    names.dedup();
    names
}

fn addresses() -> Vec<(String, IpAddr)> {
    let all = getifaddrs().into_iter().flatten().take(INTERFACES_MAX);
    let found = all.filter(|found| found.interface_name != BRIDGE).filter_map(|found| {
        let address = found.address?;
        let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        Some((found.interface_name, address))
    });
    found.collect()
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Whether pods with a network of their own can get one: the line of /readyz.
pub fn ready(found: &Networks) -> Result<(), String> {
    match (&found.configuration, found.missing.as_slice()) {
        (Err(why), _) => Err(why.clone()),
        (Ok(_), []) => Ok(()),
        (Ok(_), missing) => Err(format!("{} not in {}; {INSTALL}", missing.join(", "), found.searched)),
    }
}

pub fn judge_plugins(found: &Networks) -> Line {
    const NAME: &str = "cni plugins";
    let searched = &found.searched;
    if !found.missing.is_empty() {
        let missing = found.missing.join(", ");
        return Line::fail(NAME, format!("{missing} not in {searched}: only pods with hostNetwork can start"), INSTALL);
    }
    if !found.missing_for_some.is_empty() {
        let missing = found.missing_for_some.join(", ");
        let found = format!("{missing} not in {searched}: pods with hostPort or a bandwidth need them");
        return Line::warn(NAME, found, INSTALL);
    }
    match &found.configuration {
        Ok(Some(of_node)) => Line::ok(NAME, format!("{} in {searched}", of_node.programs().join(", "))),
        Ok(None) => Line::ok(NAME, format!("{}, {} in {searched}", OWN_PROGRAMS.join(", "), OWN_MORE.join(", "))),
        Err(_) => Line::ok(NAME, "none can be named before the configuration is mended"),
    }
}

pub fn judge_configuration(found: &Networks, own: &[Cidr]) -> Line {
    const NAME: &str = "cni configurations";
    let dir = found.conf_dir.display();
    match &found.configuration {
        Err(why) => Line::fail(NAME, why.clone(), "pods with a network of their own wait until then"),
        Ok(Some(of_node)) => {
            let file = of_node.file.as_deref().unwrap_or(&found.conf_dir).display();
            let what = format!("pods are connected to the network {:?} of {file}", of_node.name);
            match of_node.understands("portMappings") {
                true => Line::ok(NAME, what),
                false => Line::warn(
                    NAME,
                    format!("{what}, which maps no ports: a pod with a hostPort waits there"),
                    "add the plugin portmap with the capability portMappings to it, if pods here have a hostPort",
                ),
            }
        }
        Ok(None) => {
            let within = found.addresses.iter().find_map(|(interface, address)| {
                let range = own.iter().find(|range| contains(range, *address))?;
                Some((interface, address, range))
            });
            match within {
                Some((interface, address, range)) => Line::fail(
                    NAME,
                    format!(
                        "the node's {interface} has {address}, and pods get addresses of {range}: some lead astray"
                    ),
                    "start the agent with another --pod-cidr",
                ),
                None => Line::ok(NAME, format!("none in {dir}: pods are connected to a bridge of ours")),
            }
        }
    }
}

pub fn judge_rules(found: &Networks) -> Line {
    const NAME: &str = "packet rules";
    match (&found.configuration, found.iptables) {
        (Ok(None), false) => Line::warn(
            NAME,
            "iptables is not installed: pods reach the node and nothing beyond it, and no hostPort leads to one",
            "apt-get install iptables",
        ),
        (Ok(None), true) => Line::ok(NAME, "iptables is installed"),
        _ => Line::ok(NAME, "those of the node's own network"),
    }
}

/// Whether packets go on from pods to the world, and the node's own IPv6 survives that.
pub fn judge_forwarding(found: &Networks, own: &[Cidr]) -> Line {
    const NAME: &str = "forwarding";
    let Forwarding { ipv4, ipv6, bridge, advertised } = &found.forwarding;
    let is_own = matches!(found.configuration, Ok(None));
    let has = |wants_v4: bool| is_own && own.iter().any(|range| range.address.is_ipv4() == wants_v4);
    for (range, state, key) in
        [(has(true), ipv4, "net.ipv4.ip_forward"), (has(false), ipv6, "net.ipv6.conf.all.forwarding")]
    {
        if range && *bridge && *state == Some(false) {
            return Line::fail(
                NAME,
                format!("{key} is 0: pods reach the node and nothing beyond it"),
                format!(
                    "sysctl -w {key}=1, and look in /etc/sysctl.d for what switches it off (it is switched on with each pod)"
                ),
            );
        }
    }
    let forwards = *ipv6 == Some(true) || has(false);
    match advertised.first() {
        Some(interface) if forwards => Line::warn(
            NAME,
            format!(
                "{interface} has its IPv6 address and route by router advertisements, and takes none while the node forwards (accept_ra is 1)"
            ),
            format!("sysctl -w net.ipv6.conf.{interface}.accept_ra=2, and keep it in /etc/sysctl.d"),
        ),
        _ if is_own && !*bridge => Line::ok(NAME, "switched on with the first pod that has a network of its own"),
        _ => Line::ok(NAME, if is_own { "on for pods' ranges" } else { "left to the node's own network" }),
    }
}

fn contains(range: &Cidr, address: IpAddr) -> bool {
    let prefix = u32::from(range.prefix);
    match (range.address, address) {
        (IpAddr::V4(range), IpAddr::V4(address)) => {
            (range.to_bits() ^ address.to_bits()).checked_shr(32 - prefix.min(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(range), IpAddr::V6(address)) => {
            (range.to_bits() ^ address.to_bits()).checked_shr(128 - prefix.min(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::doctor::Verdict;

    fn found(config: Option<&str>, plugins: &[&str]) -> Networks {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = config {
            fs::write(dir.path().join("10-net.conflist"), text).unwrap();
        }
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        plugins.iter().for_each(|plugin| fs::write(bin.join(plugin), "").unwrap());
        Networks { addresses: Vec::new(), ..probe(dir.path(), &[bin]) }
    }

    const ALL: [&str; 4] = ["bridge", "host-local", "portmap", "bandwidth"];
    const THEIRS: &str = r#"{"name":"theirs","plugins":[{"type":"ptp","ipam":{"type":"static"}}]}"#;

    #[test]
    fn a_missing_plugin_fails_and_one_that_few_pods_need_warns() {
        assert_eq!(judge_plugins(&found(None, &ALL)).verdict, Verdict::Ok);
        let few = found(None, &ALL[..2]);
        assert_eq!((judge_plugins(&few).verdict, ready(&few)), (Verdict::Warn, Ok(())));
        let line = judge_plugins(&found(None, &ALL[..1]));
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.found.starts_with("host-local not in"), "{}", line.found);
        let theirs = found(Some(THEIRS), &ALL);
        assert!(judge_plugins(&theirs).found.starts_with("ptp, static not in"));
        assert!(ready(&theirs).unwrap_err().contains("ptp, static not in"));
        assert_eq!(judge_plugins(&found(Some(THEIRS), &["ptp", "static"])).verdict, Verdict::Ok);
    }

    #[test]
    fn the_nodes_configuration_is_named_and_a_broken_one_fails() {
        let line = judge_configuration(&found(Some(THEIRS), &[]), &[]);
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.contains("the network \"theirs\" of") && line.found.contains("maps no ports"));
        let maps = THEIRS.replace(r#""type":"ptp""#, r#""type":"ptp","capabilities":{"portMappings":true}"#);
        assert_eq!(judge_configuration(&found(Some(&maps), &[]), &[]).verdict, Verdict::Ok);
        let broken = found(Some("{"), &ALL);
        assert_eq!(judge_configuration(&broken, &[]).verdict, Verdict::Fail);
        assert!(ready(&broken).unwrap_err().contains("10-net.conflist is broken"));
        assert_eq!(judge_configuration(&found(None, &[]), &[]).verdict, Verdict::Ok);
    }

    #[test]
    fn an_address_of_the_nodes_in_the_pods_range_fails() {
        let own = [Cidr::v4([10, 88, 0, 0], 16)];
        for (address, verdict) in [
            ("10.88.3.1", Verdict::Fail),
            ("10.89.0.1", Verdict::Ok),
            ("fd00::1", Verdict::Ok),
            ("10.87.255.255", Verdict::Ok),
        ] {
            let found = Networks { addresses: vec![("ens3".into(), address.parse().unwrap())], ..found(None, &ALL) };
            assert_eq!(judge_configuration(&found, &own).verdict, verdict, "{address}");
        }
    }

    #[test]
    fn missing_iptables_warns_where_the_network_is_ours() {
        let without = |config| Networks { iptables: false, ..found(config, &ALL) };
        assert_eq!(judge_rules(&without(None)).verdict, Verdict::Warn);
        assert_eq!(judge_rules(&without(Some(THEIRS))).verdict, Verdict::Ok);
        assert_eq!(judge_rules(&Networks { iptables: true, ..found(None, &ALL) }).verdict, Verdict::Ok);
    }

    #[test]
    fn forwarding_that_is_off_fails_and_advertisements_that_end_warn() {
        let (v4, v6) = (Cidr::v4([10, 88, 0, 0], 16), Cidr { address: "fd00:88::".parse().unwrap(), prefix: 64 });
        let judge = |config: Option<&str>, own: &[Cidr], forwarding: Forwarding| {
            judge_forwarding(&Networks { forwarding, ..found(config, &ALL) }, own)
        };
        let sound = Forwarding { ipv4: Some(true), ipv6: Some(true), bridge: true, advertised: Vec::new() };
        assert_eq!(judge(None, &[v4, v6], sound.clone()).verdict, Verdict::Ok);
        let line = judge(None, &[v4], Forwarding { ipv4: Some(false), ..sound.clone() });
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.fix.starts_with("sysctl -w net.ipv4.ip_forward=1"), "{}", line.fix);
        let off6 = Forwarding { ipv6: Some(false), ..sound.clone() };
        assert_eq!(judge(None, &[v4], off6.clone()).verdict, Verdict::Ok);
        assert_eq!(judge(None, &[v4, v6], off6.clone()).verdict, Verdict::Fail);
        assert_eq!(judge(None, &[v4, v6], Forwarding { bridge: false, ..off6.clone() }).verdict, Verdict::Ok);
        assert_eq!(judge(Some(THEIRS), &[v4, v6], off6.clone()).verdict, Verdict::Ok);
        let advertised = vec!["ens3".to_owned()];
        let line = judge(None, &[v4], Forwarding { advertised: advertised.clone(), ..sound });
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.fix.contains("net.ipv6.conf.ens3.accept_ra=2"), "{}", line.fix);
        let quiet = Forwarding { advertised, bridge: false, ..off6 };
        assert_eq!(judge(None, &[v4], quiet.clone()).verdict, Verdict::Ok);
        assert_eq!(judge(None, &[v4, v6], quiet).verdict, Verdict::Warn, "the first pod switches it on");
    }

    #[test]
    fn only_addresses_that_run_out_came_by_advertisements() {
        let table = "fe80000000000000000000000000000a 02 40 20 80     ens3\n\
            20010db8000000000000000000000001 02 40 00 00     ens3\n\
            20010db8000000000000000000000002 02 40 00 00     ens3\n\
            20010db8000000000000000000000003 03 40 00 80     ens4\n";
        assert_eq!(with_passing_address(table), ["ens3"]);
    }
}
