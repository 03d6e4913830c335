//! Each way in which a registry cannot be reached, against real sockets and certificates made on the spot.

use std::net::TcpListener;
use std::path::PathBuf;

use ::tests::authority::{Authority, Identity};
use ::tests::faulty::{Fault, FaultyProxy, Rule};
use ::tests::image::{Image, Layout};
use ::tests::scripted_registry::ScriptedRegistry;
use serde_json::json;

use super::*;
use crate::config::{Config, Settings as Given};
use crate::doctor::Verdict;

/// A node with a hosts directory and a manifest directory.
struct Node {
    root: tempfile::TempDir,
    auth: Option<PathBuf>,
}

impl Node {
    fn new() -> Node {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("certs.d")).unwrap();
        fs::create_dir_all(root.path().join("manifests")).unwrap();
        Node { root, auth: None }
    }

    /// The registry's own hosts.toml.
    fn hosts(&self, registry: &str, text: &str) -> PathBuf {
        let dir = self.root.path().join("certs.d").join(registry);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), text).unwrap();
        dir
    }

    fn image(&self, image: &str) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": image}]}});
        fs::write(self.root.path().join("manifests/a.json"), pod.to_string()).unwrap();
    }

    fn only_line(&self) -> Line {
        let mut config = Config::load(&Given::default(), None).unwrap();
        config.registry_config = self.root.path().join("certs.d");
        config.manifest_dir = self.root.path().join("manifests");
        config.run_dir = self.root.path().to_owned();
        config.registry_auth = self.auth.clone();
        let mut lines = lines(&probe(&Places::new(&config, Err(String::new()))));
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    /// A registry with this line in its hosts.toml, trusted.
    fn trusting(proxy: &FaultyProxy, authority: &Authority, more: &str) -> (Node, PathBuf) {
        let node = Node::new();
        let dir = node.hosts(&proxy.host(), &format!("ca = \"ca.pem\"\n{more}"));
        fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
        (node, dir)
    }
}

fn secure(authority: &Authority) -> FaultyProxy {
    let proxy = FaultyProxy::alone().tls(authority).start();
    proxy.add(Rule::on("/v2/").fault(Fault::status(200)));
    proxy
}

#[test]
fn nothing_named_is_said_to_be_so() {
    let line = Node::new().only_line();
    assert_eq!((line.verdict, line.name.as_str()), (Verdict::Ok, "registries"));
}

#[test]
fn a_registry_that_answers_is_good() {
    let authority = Authority::new();
    let proxy = secure(&authority);
    let (node, _) = Node::trusting(&proxy, &authority, "");
    let line = node.only_line();
    assert_eq!(line.verdict, Verdict::Ok, "{line:?}");
    assert_eq!(line.name, format!("registry {}", proxy.host()));
}

#[test]
fn a_name_that_nobody_knows_warns() {
    let node = Node::new();
    node.hosts("registry.invalid", "");
    let line = node.only_line();
    assert!(line.verdict == Verdict::Warn && line.found.contains("its name is not known"), "{line:?}");
}

#[test]
fn a_closed_port_warns() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let node = Node::new();
    node.image(&format!("{address}/team/app:1"));
    let line = node.only_line();
    assert!(line.verdict == Verdict::Warn && line.found.contains("no connection"), "{line:?}");
}

#[test]
fn an_unknown_authority_fails() {
    let proxy = secure(&Authority::new());
    let (node, _) = Node::trusting(&proxy, &Authority::new(), "");
    let line = node.only_line();
    assert!(line.verdict == Verdict::Fail && line.fix.contains("ca in its hosts.toml"), "{line:?}");
}

#[test]
fn a_certificate_that_has_ended_fails_and_one_that_soon_will_warns() {
    let authority = Authority::ending(2021, 1, 1);
    let proxy = secure(&authority);
    let (node, _) = Node::trusting(&proxy, &authority, "");
    let line = node.only_line();
    assert!(line.verdict == Verdict::Fail && line.found.contains("its certificate has ended"), "{line:?}");

    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let soon = today.checked_add(SignedDuration::from_hours(5 * 24)).unwrap();
    let authority = Authority::ending(soon.year().into(), soon.month().unsigned_abs(), soon.day().unsigned_abs());
    let proxy = secure(&authority);
    let (node, _) = Node::trusting(&proxy, &authority, "");
    let line = node.only_line();
    assert!(line.verdict == Verdict::Warn && line.found.contains("its certificate ends on"), "{line:?}");
}

#[test]
fn our_own_certificate_that_has_ended_fails() {
    let authority = Authority::new();
    let proxy = secure(&authority);
    let (node, dir) = Node::trusting(&proxy, &authority, "client = [[\"own.pem\", \"own.key\"]]\n");
    let Identity { cert, key } = Authority::ending(2021, 1, 1).client("node");
    fs::write(dir.join("own.pem"), cert).unwrap();
    fs::write(dir.join("own.key"), key).unwrap();
    let line = node.only_line();
    assert!(line.verdict == Verdict::Fail && line.found.contains("our certificate for it has ended"), "{line:?}");
}

#[test]
fn a_broken_hosts_toml_or_a_missing_authority_fails() {
    let node = Node::new();
    node.hosts("broken.invalid", "ca = 7\n");
    let line = node.only_line();
    assert!(line.verdict == Verdict::Fail && line.found.contains("hosts.toml:1"), "{line:?}");
    let node = Node::new();
    node.hosts("broken.invalid", "ca = \"missing.pem\"\n");
    let line = node.only_line();
    assert!(line.verdict == Verdict::Fail && line.found.contains("missing.pem"), "{line:?}");
}

#[test]
fn a_registry_that_is_down_warns() {
    let authority = Authority::new();
    let proxy = FaultyProxy::alone().tls(&authority).start();
    proxy.add(Rule::on("/v2/").fault(Fault::status(503)));
    let (node, _) = Node::trusting(&proxy, &authority, "");
    let line = node.only_line();
    assert!(line.verdict == Verdict::Warn && line.found.contains("does not answer: answers 503"), "{line:?}");
}

#[test]
fn a_refused_login_fails_and_a_good_one_does_not() {
    let registry = ScriptedRegistry::start();
    registry.push("team/app", "1", &Layout::of(&[Image::empty("any")]));
    registry.require("daemon", "secret");
    let mut node = Node::new();
    node.image(&format!("{}/team/app:1", registry.host()));
    let line = node.only_line();
    assert!(line.verdict == Verdict::Fail && line.fix.contains("--registry-auth"), "{line:?}");
    let file = node.root.path().join("auth.json");
    let login = ::tests::scripted_registry::base64("daemon:secret");
    fs::write(&file, json!({"auths": {registry.host(): {"auth": login}}}).to_string()).unwrap();
    node.auth = Some(file);
    let line = node.only_line();
    assert!(line.verdict == Verdict::Ok && line.found.contains("login are good"), "{line:?}");
}
