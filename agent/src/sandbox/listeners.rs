//! Who listens on a port of the node: a pod whose hostPort another process has would take that process's connections away, or
//! never see one of its own.
//!
//! Driven by `sandbox` before a pod is connected. A try to bind says whether anybody has the port, in microseconds; only
//! then the kernel's tables and the processes are read, to say who. Pods of ours do not count: that no two of them want
//! one port is settled before they are admitted. Looks at the calling thread's network namespace. Blocking.

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use pod::ports::HostPort;

/// The table of a node with a hundred thousand connections.
const TABLE_MAX_BYTES: u64 = 32 << 20;
/// `st` of a listening TCP socket and of an unconnected UDP one (proc_net_tcp).
const TCP_LISTENS: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// One socket that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listener {
    address: SocketAddr,
    inode: u64,
}

/// The first of these ports that a process has which is in none of our pods: in words, with what to do.
pub fn taken(ports: &[HostPort], cgroup_root: &str) -> Option<String> {
    ports.iter().find_map(|port| {
        if port.protocol != "SCTP" && !is_bound(port) {
            return None;
        }
        listeners(port).iter().find_map(|listener| {
            let who = match owner(listener.inode) {
                Some(process) if is_ours(process, cgroup_root) => return None,
                Some(process) => format!("{} (process {process})", name(process)),
                None => "a process that cannot be found (it is in another PID namespace, or of the kernel)".into(),
            };
            Some(format!(
                "port {port} of the node is taken by {who}, which listens on {}: end it, or give the pod another hostPort or a hostIP; the pod starts when the port is free",
                listener.address
            ))
        })
    })
}

/// Whether a bind to the port's addresses meets somebody. A socket that only keeps a port of a connection meets nobody.
fn is_bound(port: &HostPort) -> bool {
    let addresses = match port.ip {
        Some(ip) => vec![ip],
        None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
    };
    let (kind, protocol) = match port.protocol.as_str() {
        "UDP" => (SockType::Datagram, SockProtocol::Udp),
        _ => (SockType::Stream, SockProtocol::Tcp),
    };
    addresses.into_iter().any(|ip| try_bind(SocketAddr::new(ip, port.port), kind, protocol) == Err(Errno::EADDRINUSE))
}

fn try_bind(address: SocketAddr, kind: SockType, protocol: SockProtocol) -> Result<(), Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))
}

/// The sockets that have the port on one of its addresses.
fn listeners(port: &HostPort) -> Vec<Listener> {
    let read = |table: &str| {
        let mut text = String::new();
        if let Ok(file) = fs::File::open(Path::new("/proc/thread-self/net").join(table)) {
            // A table that cannot be read to its end still has its beginning.
            let _ = file.take(TABLE_MAX_BYTES).read_to_string(&mut text);
        }
        text
    };
    let all = match port.protocol.as_str() {
        "SCTP" => of_sctp(&read("sctp/eps")),
        "UDP" => [of_table(&read("udp"), UDP_UNCONNECTED), of_table(&read("udp6"), UDP_UNCONNECTED)].concat(),
        _ => [of_table(&read("tcp"), TCP_LISTENS), of_table(&read("tcp6"), TCP_LISTENS)].concat(),
    };
    let meets = |listener: &Listener| match port.ip {
        None => true,
        Some(ip) => {
            let there = listener.address.ip();
            // A socket on [::] has the addresses of both families as a rule.
            there == ip || there == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || (there.is_unspecified() && ip.is_ipv4())
        }
    };
    all.into_iter().filter(|listener| listener.address.port() == port.port && meets(listener)).collect()
}

/// Sockets of this state in /proc/net/{tcp,tcp6,udp,udp6} (proc_pid_net(5)).
fn of_table(table: &str, state: &str) -> Vec<Listener> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if *fields.get(3)? != state {
            return None;
        }
        let (address, port) = fields.get(1)?.split_once(':')?;
        let ip = match address.len() {
            8 => IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes())),
            32 => {
                let mut bytes = [0; 16];
                for (word, place) in bytes.chunks_exact_mut(4).enumerate() {
                    let text = address.get(word * 8..word * 8 + 8)?;
                    place.copy_from_slice(&u32::from_str_radix(text, 16).ok()?.to_ne_bytes());
                }
                IpAddr::V6(Ipv6Addr::from(bytes))
            }
            _ => return None,
        };
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(Listener { address: SocketAddr::new(ip, port), inode: fields.get(9)?.parse().ok()? })
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

/// Endpoints in /proc/net/sctp/eps: …, LPORT, UID, INODE, addresses.
fn of_sctp(table: &str) -> Vec<Listener> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (port, inode) = (fields.get(5)?.parse().ok()?, fields.get(7)?.parse().ok()?);
        let ip = fields.get(8)?.parse().ok()?;
        Some(Listener { address: SocketAddr::new(ip, port), inode })
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

/// A process that has this socket open.
fn owner(inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.find(|process| {
        let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        let mut links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.any(|link| link.as_os_str() == wanted.as_str())
    })
}

/// Whether the process is in one of our pods: by its cgroup, `/daemonlet/…` or `/daemonlet.slice/…`.
fn is_ours(process: u32, cgroup_root: &str) -> bool {
    let slice = format!("{cgroup_root}.slice");
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    text.lines().any(|line| line.split('/').any(|part| part == cgroup_root || part == slice))
}

fn name(process: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    let text: String = text.trim().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.is_empty() { "a process".into() } else { text }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn port(number: u16, protocol: &str, ip: Option<&str>) -> HostPort {
        HostPort {
            port: number,
            protocol: protocol.into(),
            ip: ip.map(|ip| ip.parse().unwrap()),
            place: Default::default(),
        }
    }

    #[test]
    fn a_listener_is_named_with_its_process_and_address() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = tcp.local_addr().unwrap().port();
        let said = taken(&[port(number, "TCP", None)], "no-such-root").unwrap();
        let own = format!("(process {})", std::process::id());
        assert!(said.starts_with(&format!("port {number}/TCP of the node is taken by ")), "{said}");
        assert!(said.contains(&own) && said.contains(&format!("listens on 127.0.0.1:{number}")), "{said}");
        assert_eq!(taken(&[port(number, "TCP", Some("127.0.0.2"))], "no-such-root"), None);
        assert_eq!(taken(&[port(number, "UDP", None)], "no-such-root"), None);
        // A connection that outlives its listener keeps nobody from the port.
        let client = TcpStream::connect(("127.0.0.1", number)).unwrap();
        let (server, _) = tcp.accept().unwrap();
        drop(tcp);
        assert_eq!(taken(&[port(number, "TCP", None)], "no-such-root"), None);
        drop((client, server));

        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let number = udp.local_addr().unwrap().port();
        let said = taken(&[port(number, "UDP", None)], "no-such-root").unwrap();
        assert!(said.contains(&format!("listens on [::1]:{number}")), "{said}");
    }

    #[test]
    fn the_kernels_tables_are_understood() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0 100 0 0 10 0\n\
            1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 778 1 0 100 0 0 10 0\n";
        let found = of_table(tcp, TCP_LISTENS);
        if cfg!(target_endian = "little") {
            assert_eq!(found, [Listener { address: "127.0.0.1:8080".parse().unwrap(), inode: 777 }]);
        }
        let sctp = " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n\
            ffff8803d25ed000 ffff8803d2622a00 2   10  29   11165    0 20001 10.0.0.1 10.0.0.2\n";
        assert_eq!(of_sctp(sctp), [Listener { address: "10.0.0.1:11165".parse().unwrap(), inode: 20001 }]);
    }
}
