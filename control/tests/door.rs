//! TLS as clients and nodes meet it: real handshakes on loopback, with certificates that the authority made for the moment.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use control::door::authority::{Authority, Request, Signed};
use control::door::tls::{EXPIRED_MAX, Names, ServerCertificate, for_clients, for_nodes};
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest as _, Sha256};

/// A handshake on loopback that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

struct World {
    authority: Arc<Authority>,
    certificate: Arc<ServerCertificate>,
}

/// What a client shows.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn names(names: &[&str], addresses: &[&str]) -> Names {
    let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().expect("this machine can")).collect();
    Names { names: names.iter().map(|name| (*name).to_owned()).collect(), addresses }
}

fn world() -> World {
    let now = Timestamp::now();
    let authority = Arc::new(Authority::generate(now - YEAR * 3).expect("this machine can"));
    let names = names(&["localhost", "kubernetes.default.svc"], &["127.0.0.1", "::1"]);
    let certificate = Arc::new(ServerCertificate::new(authority.clone(), names, now).expect("this machine can"));
    World { authority, certificate }
}

fn user(authority: &Authority, now: Timestamp) -> Shown {
    let issued = authority.user("ann", "team", now).expect("this machine can");
    Shown {
        chain: CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes())
            .map(|one| one.expect("PEM of our own"))
            .collect(),
        key: PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("this machine can"),
    }
}

/// A node's certificate that was made then.
fn node(authority: &Authority, then: Timestamp) -> Shown {
    let key = KeyPair::generate().expect("this machine can");
    let request = CertificateParams::default().serialize_request(&key).expect("this machine can");
    let signed: Signed = authority
        .node("worker", &Request::parse(request.der()).expect("this machine can"), then)
        .expect("this machine can");
    Shown {
        chain: vec![signed.certificate.into()],
        key: PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("this machine can"),
    }
}

impl World {
    fn clients(&self) -> Arc<ServerConfig> {
        Arc::new(for_clients(self.certificate.clone(), &[b"http/1.1"]).expect("this machine can"))
    }

    fn nodes(&self) -> Arc<ServerConfig> {
        Arc::new(for_nodes(self.certificate.clone(), &[b"h2"]).expect("this machine can"))
    }

    /// Both ends of a connection: what the server is shown by the client, and the client by the server. None: there was none.
    fn shake(
        &self,
        server: Arc<ServerConfig>,
        name: &str,
        shown: Option<Shown>,
    ) -> Option<(Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>)> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("this machine can");
        let address = listener.local_addr().expect("this machine can");
        let serving = std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("this machine can");
            socket.set_read_timeout(Some(PATIENCE)).expect("this machine can");
            let mut stream = StreamOwned::new(ServerConnection::new(server).expect("this machine can"), socket);
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            stream.write_all(&byte).ok()?;
            Some(stream.conn.peer_certificates().unwrap_or_default().to_vec())
        });
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate().clone()).expect("this machine can");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("this machine can")
            .with_root_certificates(roots);
        let config = match shown {
            Some(Shown { chain, key }) => config.with_client_auth_cert(chain, key).expect("this machine can"),
            None => config.with_no_client_auth(),
        };
        let name = ServerName::try_from(name.to_owned()).expect("this machine can");
        let socket = TcpStream::connect(address).expect("this machine can");
        socket.set_read_timeout(Some(PATIENCE)).expect("this machine can");
        let mut stream =
            StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("this machine can"), socket);
        // In TLS 1.3 a client is told only by the answer that its certificate was refused.
        let answered = stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0]));
        let server_chain = stream.conn.peer_certificates().unwrap_or_default().to_vec();
        drop(stream);
        let client_chain = serving.join().expect("this machine can");
        answered.ok().and(client_chain).map(|client_chain| (client_chain, server_chain))
    }
}

#[test]
fn the_endpoint_is_known_by_its_names_and_by_no_other() {
    let world = world();
    for name in ["localhost", "kubernetes.default.svc", "127.0.0.1", "::1"] {
        assert!(world.shake(world.clients(), name, None).is_some(), "{name}");
        assert!(world.shake(world.nodes(), name, None).is_some(), "{name}");
    }
    for name in ["kubernetes.example", "127.0.0.2"] {
        assert!(world.shake(world.clients(), name, None).is_none(), "{name}");
    }
}

#[test]
fn the_chain_ends_in_what_the_pin_of_a_join_token_names() {
    let world = world();
    let (_, chain) = world.shake(world.nodes(), "localhost", None).expect("this machine can");
    let pin: String =
        Sha256::digest(chain.last().expect("this machine can")).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((chain.len(), pin), (2, world.authority.pin()));
}

#[test]
fn a_client_certificate_is_the_authoritys_and_good_today() {
    let (world, now) = (world(), Timestamp::now());
    let (shown, _) =
        world.shake(world.clients(), "localhost", Some(user(&world.authority, now))).expect("this machine can");
    assert_eq!(control::door::authority::Peer::of(&shown[0]).expect("this machine can").name, "ann");
    let foreign = Authority::generate(now).expect("this machine can");
    for server in [world.clients(), world.nodes()] {
        assert!(world.shake(server.clone(), "localhost", Some(user(&foreign, now))).is_none(), "another authority's");
        let early = now + Duration::from_secs(24 * 3600);
        assert!(world.shake(server, "localhost", Some(user(&world.authority, early))).is_none(), "not good yet");
    }
    // The endpoint's own certificate is for servers.
    let own = world.authority.server(&["localhost".to_owned()], &[], now).expect("this machine can");
    let own = Shown {
        chain: CertificateDer::pem_slice_iter(own.chain_pem.as_bytes())
            .map(|one| one.expect("PEM of our own"))
            .collect(),
        key: PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).expect("this machine can"),
    };
    assert!(world.shake(world.clients(), "localhost", Some(own)).is_none());
}

#[test]
fn what_has_ended_is_let_through_to_the_door_of_nodes_for_a_year() {
    let (world, now) = (world(), Timestamp::now());
    let minute = Duration::from_secs(60);
    let shake = |server, then| world.shake(server, "localhost", Some(node(&world.authority, then)));
    let just_ended = now - YEAR - minute;
    assert!(shake(world.clients(), just_ended).is_none());
    let (shown, _) = shake(world.nodes(), just_ended).expect("this machine can");
    assert_eq!(control::door::authority::Peer::of(&shown[0]).expect("this machine can").node(), Some("worker"));
    assert!(shake(world.nodes(), now - YEAR - EXPIRED_MAX + minute).is_some());
    assert!(shake(world.nodes(), now - YEAR - EXPIRED_MAX - minute).is_none());
    // Ended, and another authority's.
    let foreign = Authority::generate(now - YEAR * 3).expect("this machine can");
    assert!(world.shake(world.nodes(), "localhost", Some(node(&foreign, just_ended))).is_none());
}

#[test]
fn the_endpoints_certificate_is_replaced_while_it_serves() {
    let (world, now) = (world(), Timestamp::now());
    let server = world.clients();
    let shown = |name| world.shake(server.clone(), name, None).map(|(_, chain)| chain[0].clone());
    let first = shown("localhost").expect("this machine can");
    let same = names(&["localhost", "kubernetes.default.svc"], &["127.0.0.1", "::1"]);
    assert!(!world.certificate.renew(same.clone(), now).expect("this machine can"));
    assert_eq!(shown("localhost").expect("this machine can"), first);
    assert!(shown("192.0.2.1").is_none());
    let moved = names(&["localhost"], &["127.0.0.1", "192.0.2.1"]);
    assert!(world.certificate.renew(moved.clone(), now).expect("this machine can"), "the machine has another address");
    assert!(shown("192.0.2.1").is_some());
    assert!(
        world.certificate.renew(moved, now + YEAR * 3 / 4).expect("this machine can"),
        "a third of its life is left"
    );
}
