//! Ports of the node that lead to pods, with the real portmap: where they answer, whose they are, and what they must not open.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::sandbox::NodeSandboxes;
use agent::seams::{Leave, Sandboxes as _};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};
use pod::record::Record;
use pod::spec::{ContainerPort, PodTemplate};

use crate::fixture::*;

const PATIENCE: Duration = Duration::from_secs(2);

pub fn with_ports(ports: &[(u16, u16, &str, Option<&str>)]) -> PodTemplate {
    let mut template = template();
    let port = |(host, own, protocol, ip): &(u16, u16, &str, Option<&str>)| ContainerPort {
        name: None,
        port: *own,
        protocol: (*protocol).to_owned(),
        host_port: Some(*host),
        host_ip: ip.map(|ip| ip.parse().unwrap()),
    };
    template.spec.containers[0].ports = ports.iter().map(port).collect();
    template
}

/// Does something inside a network namespace; a socket that it makes stays there.
fn within<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        setns(std::fs::File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
}

/// A server in the pod that answers every connection with the word.
pub fn serve(netns: &Path, port: u16, word: &'static str) {
    let listener = within(netns, || TcpListener::bind(("0.0.0.0", port)).unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.unwrap().write_all(word.as_bytes());
        }
    });
}

/// What answers there; the error's kind where nothing does.
pub fn ask(address: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut said = String::new();
    let answer = TcpStream::connect_timeout(&address, PATIENCE).and_then(|mut connection| {
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.read_to_string(&mut said)
    });
    answer.map(|_| said).map_err(|error| error.kind().to_string())
}

pub fn run(words: &str) -> String {
    let mut words = words.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The node's loopback is up, and it has an address beside the bridge's.
pub fn with_addresses() {
    run("ip link set lo up");
    run("ip link add outside type veth peer name far");
    run("ip addr add 198.19.0.1/24 dev outside");
    run("ip link set outside up");
    run("ip link set far up");
}

async fn raise(sandboxes: &NodeSandboxes, record: &Record, template: &PodTemplate) -> PathBuf {
    sandboxes.set_up(record, template).await.unwrap();
    sandboxes.connect(record, template).await.unwrap();
    sandboxes.describe(record, template).await.unwrap().namespaces["network"].clone()
}

pub fn no_rules_are_left() {
    run("ip link del outside");
    let rules = run("iptables -w -t nat -S");
    assert!(!rules.contains("-p tcp") && !rules.contains("-p udp") && !rules.contains("-p sctp"), "{rules}");
}

#[test]
fn a_host_port_answers_on_every_address_of_the_node_and_on_loopback() {
    on_a_node(|node| async move {
        with_addresses();
        let (sandboxes, record) = (node.open(), pod("server"));
        let mut template =
            with_ports(&[(8080, 80, "TCP", None), (8081, 81, "TCP", Some("127.0.0.1")), (5353, 53, "UDP", None)]);
        template.spec.containers[0]
            .ports
            .extend(with_ports(&[(9000, 90, "SCTP", None)]).spec.containers[0].ports.clone());
        let netns = raise(&sandboxes, &record, &template).await;
        serve(&netns, 80, "eighty");
        serve(&netns, 81, "local");
        for address in ["127.0.0.1", "198.19.0.1", "198.18.0.1"] {
            assert_eq!(ask(&format!("{address}:8080")), Ok("eighty".into()), "{address}");
        }
        assert_eq!(ask("127.0.0.1:8081"), Ok("local".into()));
        assert!(ask("198.19.0.1:8081").is_err(), "hostIP is an address, not all");
        let inside = within(&netns, || UdpSocket::bind("0.0.0.0:53").unwrap());
        inside.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.send_to(b"datagram", "198.19.0.1:5353").unwrap();
        let mut bytes = [0; 64];
        assert_eq!(inside.recv(&mut bytes).unwrap(), 8);
        match nix::sys::socket::socket(AddressFamily::Inet, SockType::SeqPacket, SockFlag::empty(), SockProtocol::Sctp)
        {
            Ok(_) => println!("this kernel has SCTP: its rules are looked at all the same, not its packets"),
            Err(_) => println!("this kernel has no SCTP: only its rules are looked at"),
        }
        let rules = run("iptables -w -t nat -S");
        assert!(rules.lines().any(|rule| rule.contains("-p sctp") && rule.contains(":90")), "{rules}");
        // From the pod itself, by the node's address: it comes back to the pod.
        assert_eq!(within(&netns, || ask("198.19.0.1:8080")), Ok("eighty".into()));
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        assert!(ask("198.19.0.1:8080").is_err());
        no_rules_are_left();
    });
}

#[test]
fn an_update_hands_the_port_over_when_the_old_pod_is_gone() {
    on_a_node(|node| async move {
        with_addresses();
        let (sandboxes, old, new) = (node.open(), pod("old"), pod("new"));
        let template = with_ports(&[(8080, 80, "TCP", None)]);
        let netns = raise(&sandboxes, &old, &template).await;
        serve(&netns, 80, "old");
        // The successor is connected while the old one still runs.
        let netns = raise(&sandboxes, &new, &template).await;
        serve(&netns, 80, "new");
        assert_eq!(ask("198.19.0.1:8080"), Ok("old".into()));
        sandboxes.tear_down(&old.uid, Leave::Nothing).await.unwrap();
        for address in ["127.0.0.1", "198.19.0.1"] {
            assert_eq!(ask(&format!("{address}:8080")), Ok("new".into()));
        }
        sandboxes.tear_down(&new.uid, Leave::Nothing).await.unwrap();
        no_rules_are_left();
    });
}

#[test]
fn a_pod_does_not_reach_what_listens_on_the_nodes_loopback_only() {
    on_a_node(|node| async move {
        with_addresses();
        let (sandboxes, record) = (node.open(), pod("curious"));
        let netns = raise(&sandboxes, &record, &with_ports(&[(8080, 80, "TCP", None)])).await;
        let _private = TcpListener::bind("127.0.0.1:7070").unwrap();
        let shared = TcpListener::bind("198.19.0.1:7070").unwrap();
        // The pod sends packets for 127.0.0.1 out to the node instead of to itself.
        for words in [
            "sysctl -qw net.ipv4.conf.all.route_localnet=1",
            "ip route del local 127.0.0.0/8 dev lo table local",
            "ip route del local 127.0.0.1 dev lo table local",
            "ip addr del 127.0.0.1/8 dev lo",
            "ip route add 127.0.0.0/8 via 198.18.0.1 dev eth0",
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            let _ = Command::new("nsenter").arg(format!("--net={}", netns.display())).args(words).output().unwrap();
        }
        let route = inside("net", &netns, &["ip", "route", "get", "127.0.0.1"]);
        assert!(route.contains("via 198.18.0.1"), "{route}");
        let dial = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            within(&netns, || TcpStream::connect_timeout(&address, PATIENCE).map(|_| ()))
        };
        assert_eq!(dial("127.0.0.1:7070").unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        dial(&shared.local_addr().unwrap().to_string()).unwrap();
        // That the guard is what keeps it out: without it, the connection is made.
        run("iptables -w -F INPUT");
        dial("127.0.0.1:7070").unwrap();
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        no_rules_are_left();
    });
}

#[test]
fn a_host_port_answers_on_the_nodes_ipv6_address() {
    on_a_node(|node| async move {
        with_addresses();
        run("ip addr add fd00:99::1/64 dev outside nodad");
        let mut config = node.config();
        config.pod_cidrs.push("fd00:88::/64".parse().unwrap());
        let (sandboxes, record) = (NodeSandboxes::open(config).unwrap(), pod("server"));
        let netns = raise(&sandboxes, &record, &with_ports(&[(8080, 80, "TCP", None)])).await;
        let listener = within(&netns, || TcpListener::bind("[::]:80").unwrap());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let _ = connection.unwrap().write_all(b"both");
            }
        });
        for address in ["[fd00:99::1]:8080", "198.19.0.1:8080", "127.0.0.1:8080"] {
            assert_eq!(ask(address), Ok("both".into()), "{address}");
        }
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        assert!(ask("[fd00:99::1]:8080").is_err());
        sandboxes.close_down().await.unwrap();
        no_rules_are_left();
    });
}

#[test]
fn a_udp_client_that_never_pauses_reaches_the_successor() {
    on_a_node(|node| async move {
        with_addresses();
        let (sandboxes, old, new) = (node.open(), pod("old"), pod("new"));
        let template = with_ports(&[(5353, 53, "UDP", None)]);
        let listen = |netns: &Path| {
            let socket = within(netns, || UdpSocket::bind("0.0.0.0:53").unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            socket
        };
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        // True once the server has a datagram that this client sent.
        let reaches = |server: &UdpSocket| {
            client.send_to(b"datagram", "198.19.0.1:5353").unwrap();
            server.recv(&mut [0; 64]).is_ok()
        };
        let netns = raise(&sandboxes, &old, &template).await;
        let first = listen(&netns);
        assert!((0..100).any(|_| reaches(&first)));
        let netns = raise(&sandboxes, &new, &template).await;
        let second = listen(&netns);
        assert!((0..100).any(|_| reaches(&first)), "the old one still has the port");
        drop(first);
        sandboxes.tear_down(&old.uid, Leave::Nothing).await.unwrap();
        assert!((0..100).any(|_| reaches(&second)), "the kernel still sends the client's packets to the old one");
        // With a pause between two pods: what came meanwhile leads nowhere, and not for ever.
        drop(second);
        sandboxes.tear_down(&new.uid, Leave::Nothing).await.unwrap();
        let last = pod("last");
        client.send_to(b"datagram", "198.19.0.1:5353").unwrap();
        let third = listen(&raise(&sandboxes, &last, &template).await);
        assert!((0..100).any(|_| reaches(&third)), "the kernel still sends the client's packets to nobody");
        sandboxes.tear_down(&last.uid, Leave::Nothing).await.unwrap();
        no_rules_are_left();
    });
}

#[test]
fn a_port_that_a_process_of_the_node_has_is_not_taken_from_it() {
    on_a_node(|node| async move {
        with_addresses();
        let (sandboxes, record) = (node.open(), pod("late"));
        let foreign = TcpListener::bind("127.0.0.1:8080").unwrap();
        let template = with_ports(&[(8080, 80, "TCP", None)]);
        sandboxes.set_up(&record, &template).await.unwrap();
        let error = sandboxes.connect(&record, &template).await.unwrap_err();
        let own = format!("(process {}), which listens on 127.0.0.1:8080", std::process::id());
        assert!(error.message.starts_with("port 8080/TCP of the node is taken by "), "{error}");
        assert!(error.message.contains(&own), "{error}");
        assert_eq!(node.reserved(), [""; 0]);
        drop(foreign);
        sandboxes.connect(&record, &template).await.unwrap();
        // Whoever comes later takes nothing from the pod that has it.
        let _later = TcpListener::bind("127.0.0.1:8080").unwrap();
        sandboxes.connect(&record, &template).await.unwrap();
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        no_rules_are_left();
    });
}
