//! The authority, what it signs, and how it is kept.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{CertificateParams, IsCa, KeyPair};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::testing::{at, place};
use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_directory_keeps_its_authority_for_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/data");
    keep::directory(&data).unwrap();
    assert_eq!(mode(&data), 0o700);
    let made = keep::in_directory(&data, at(0)).unwrap();
    assert_eq!(mode(&data.join(keep::FILE)), 0o600);
    let again = keep::in_directory(&data, at(5)).unwrap();
    assert_eq!(again.pin(), made.pin());
    assert_eq!(again.tokens().serialized_der(), made.tokens().serialized_der());
    // Signed after reading back: the chain is one.
    let issued = again.user("someone", "some", at(5)).unwrap();
    assert!(issued.chain_pem.ends_with(made.certificate_pem()));
}

#[test]
fn what_is_damaged_is_said_and_never_replaced() {
    let authority = Authority::generate(at(0)).unwrap();
    let good = keep::document(&authority);
    let why = |text: &str, now| keep::parse(text, "/data/authority", now).unwrap_err().to_string();
    assert!(why(&good[..good.len() / 2], at(0)).contains("checksum"));
    assert!(why("", at(0)).contains("cut short"));
    assert!(why("something else\n{}", at(0)).contains("not an authority of this version"));
    assert!(why(&good, at(11 * 365 * 24 * 3600)).contains("clock"));
    let other = keep::document(&Authority::generate(at(0)).unwrap());
    let swapped = {
        let body = |text: &str| serde_json::from_str::<serde_json::Value>(text.split_once('\n').unwrap().1).unwrap();
        let mut mixed = body(&good);
        mixed["key"] = body(&other)["key"].clone();
        let body = format!("{mixed:#}\n");
        format!("daemonlet-authority-1 {}\n{body}", hex(&Sha256::digest(&body)))
    };
    let said = why(&swapped, at(0));
    assert!(
        said.starts_with("/data/authority: its key is not the one of its certificate") && said.contains("backup"),
        "{said}"
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(keep::FILE);
    std::fs::write(&path, &good[..100]).unwrap();
    assert!(keep::in_directory(dir.path(), at(0)).is_err());
    assert_eq!(std::fs::read(&path).unwrap().len(), 100, "it is left for whoever has a backup");
}

#[tokio::test]
async fn endpoints_of_one_store_share_one_authority() {
    let place = place();
    let store = &place.store;
    let (one, other) = tokio::join!(keep::in_store(store, "etcd", at(0)), keep::in_store(store, "etcd", at(0)));
    let pin = one.unwrap().pin();
    assert_eq!(other.unwrap().pin(), pin);
    assert_eq!(keep::in_store(store, "etcd", at(9)).await.unwrap().pin(), pin);
}

#[test]
fn a_request_gives_its_key_and_nothing_else() {
    let authority = Authority::generate(at(0)).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::new(vec!["kubernetes.default".to_owned()]).unwrap();
    greedy.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    greedy.distinguished_name.push(DnType::CommonName, "system:node:other");
    greedy.distinguished_name.push(DnType::OrganizationName, MASTERS);
    let der = greedy.serialize_request(&key).unwrap().der().to_vec();
    let request = Request::parse(&der).unwrap();
    let signed = authority.node("worker", &request, at(0)).unwrap();
    let (_, parsed) = X509Certificate::from_der(&signed.certificate).unwrap();
    assert!(!parsed.is_ca() && parsed.subject_alternative_name().unwrap().is_none());
    let peer = Peer::of(&CertificateDer::from(signed.certificate.clone())).unwrap();
    assert_eq!((peer.name.as_str(), peer.groups.as_slice()), ("system:node:worker", &[NODES.to_owned()][..]));
    assert_eq!(peer.node(), Some("worker"));
    assert_eq!(peer.key, request.key());
    assert_eq!((peer.key.clone(), peer.not_after), (signed.key, signed.not_after));
    assert_eq!(peer.not_after, at(365 * 24 * 3600));

    // Somebody else's key, with a signature of one's own.
    let mut forged = der.clone();
    let end = forged.len() - 1;
    forged[end] ^= 1;
    assert!(matches!(Request::parse(&forged), Err(AuthorityError::Request(_))));
    assert!(matches!(Request::parse(&[0x30; REQUEST_MAX + 1]), Err(AuthorityError::TooLarge(_))));
    for length in 0..der.len() {
        assert!(Request::parse(&der[..length]).is_err());
    }
}

#[test]
fn nothing_that_the_authority_signs_has_its_own_name() {
    use rustls::pki_types::pem::PemObject as _;
    let authority = Authority::generate(at(0)).unwrap();
    let server = authority.server(&["localhost".to_owned()], &[], at(0)).unwrap();
    let user = authority.user("someone", "some", at(0)).unwrap();
    for issued in [server, user] {
        let der = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert_ne!(parsed.subject(), parsed.issuer(), "OpenSSL would not look for who signed it");
    }
}

#[test]
fn only_a_certificate_of_the_group_of_nodes_is_a_nodes() {
    let authority = Authority::generate(at(0)).unwrap();
    let issued = authority.user("system:node:worker", "users", at(0)).unwrap();
    use rustls::pki_types::pem::PemObject as _;
    let peer = Peer::of(&CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap()).unwrap();
    assert_eq!(peer.node(), None);
    assert!(Peer::of(&CertificateDer::from(vec![0x30, 0x03, 1, 1, 1])).is_err());
}

#[test]
fn the_kubeconfig_is_made_anew_when_it_no_longer_lets_anybody_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.kubeconfig");
    let authority = Authority::generate(at(0)).unwrap();
    let listen = "[::]:6443".parse().unwrap();
    let ensure = |authority: &Authority, listen, now| kubeconfig::ensure(&path, authority, listen, now).unwrap();
    assert!(ensure(&authority, listen, at(0)));
    assert_eq!(mode(&path), 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("https://127.0.0.1:6443"), "{text}");
    assert!(!ensure(&authority, listen, at(100)), "it is good");
    std::fs::remove_file(&path).unwrap();
    assert!(ensure(&authority, listen, at(100)), "missing");
    std::fs::write(&path, &text[..200]).unwrap();
    assert!(ensure(&authority, listen, at(100)), "damaged");
    assert!(ensure(&authority, "[::]:7443".parse().unwrap(), at(100)), "another address");
    assert!(ensure(&Authority::generate(at(0)).unwrap(), listen, at(100)), "another authority");
    assert!(ensure(&authority, listen, at(100)));
    assert!(ensure(&authority, listen, at(100) + CERTIFICATE_LASTS * 3 / 4), "near its end");
}

#[test]
fn what_kubectl_has_written_into_the_kubeconfig_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.kubeconfig");
    let authority = Authority::generate(at(0)).unwrap();
    let ensure = |listen: &str, now| kubeconfig::ensure(&path, &authority, listen.parse().unwrap(), now).unwrap();
    let read = || std::fs::read_to_string(&path).unwrap();
    ensure("[::]:6443", at(0));
    let made: serde_json::Value = serde_json::from_str(&read()).unwrap();
    let data = |pointer: &str| made.pointer(pointer).and_then(serde_json::Value::as_str).unwrap().to_owned();
    // As kubectl writes it: YAML, in the order of its own fields, another cluster first.
    let touched = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    server: https://other\n  name: another\n- cluster:\n    certificate-authority-data: {}\n    \
         server: https://127.0.0.1:6443\n  name: daemonlet\ncontexts:\n- context:\n    cluster: daemonlet\n    namespace: shop\n    user: \
         kubernetes-admin\n  name: daemonlet\ncurrent-context: daemonlet\nkind: Config\nusers:\n- name: kubernetes-admin\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\n",
        data("/clusters/0/cluster/certificate-authority-data"),
        data("/users/0/user/client-certificate-data"),
        data("/users/0/user/client-key-data"),
    );
    std::fs::write(&path, &touched).unwrap();
    assert!(!ensure("[::]:6443", at(100)), "it is good");
    assert_eq!(read(), touched);
    assert!(ensure("[::]:7443", at(100)), "the endpoint listens elsewhere");
    for kept in ["\"namespace\": \"shop\"", "https://other", "https://127.0.0.1:7443"] {
        assert!(read().contains(kept), "{kept}: {}", read());
    }
}
