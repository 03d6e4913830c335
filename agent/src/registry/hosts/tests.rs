use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn parse(text: &str, registry: &str) -> Result<Vec<Endpoint>, HostsError> {
    file::parse(text, Path::new("/certs.d/x/hosts.toml"), registry)
}

fn urls(text: &str, registry: &str) -> Vec<String> {
    parse(text, registry).unwrap().iter().map(|e| e.url.to_string()).collect()
}

#[track_caller]
fn refused(text: &str, line: usize, reason: &str) {
    let error = parse(text, "docker.io").unwrap_err();
    assert_eq!(error.line, Some(line), "{error}");
    assert!(error.reason.contains(reason), "{error}");
    assert!(error.to_string().starts_with("/certs.d/x/hosts.toml:"), "{error}");
}

#[test]
fn without_a_directory_the_registry_itself_is_asked() {
    let of = |registry: &str| endpoints(None, registry).unwrap().remove(0);
    assert_eq!(of("docker.io").url.as_str(), "https://registry-1.docker.io/v2");
    assert_eq!(of("docker.io").namespace, None);
    assert_eq!(of("ghcr.io").url.as_str(), "https://ghcr.io/v2");
    assert_eq!(of("registry:5000").url.as_str(), "https://registry:5000/v2");
}

#[test]
fn loopback_is_plain_by_itself_and_nothing_else_is() {
    let of = |registry: &str| endpoints(None, registry).unwrap().remove(0).url.to_string();
    assert_eq!(of("localhost:5000"), "http://localhost:5000/v2");
    assert_eq!(of("127.0.0.7:5000"), "http://127.0.0.7:5000/v2");
    assert_eq!(of("[::1]:5000"), "http://[::1]:5000/v2");
    assert_eq!(of("localhost:443"), "https://localhost/v2");
    assert_eq!(of("10.0.0.1:5000"), "https://10.0.0.1:5000/v2");
    assert_eq!(of("localhost.example.com:5000"), "https://localhost.example.com:5000/v2");
}

#[test]
fn hosts_are_asked_in_the_order_of_the_file_and_the_server_last() {
    let text = r#"
server = "https://upstream.example"
[host."https://zeta.example"]
[host."http://alpha.example:5000"]
  capabilities = ["pull"]
[host."mid.example/prefix"]
"#;
    assert_eq!(
        urls(text, "docker.io"),
        [
            "https://zeta.example/v2",
            "http://alpha.example:5000/v2",
            "https://mid.example/prefix/v2",
            "https://upstream.example/v2"
        ]
    );
    let endpoints = parse(text, "docker.io").unwrap();
    assert_eq!(endpoints[1].capabilities, Capabilities { pull: true, resolve: false });
    assert_eq!(endpoints.iter().map(|e| e.origin).collect::<Vec<_>>(), [false, false, false, true]);
    assert!(endpoints.iter().all(|e| e.namespace.as_deref() == Some("docker.io")));
}

#[test]
fn without_a_server_the_registry_itself_is_last_and_needs_no_namespace() {
    let endpoints = parse("[host.\"http://m:1\"]", "docker.io").unwrap();
    assert_eq!(endpoints[1].url.as_str(), "https://registry-1.docker.io/v2");
    assert_eq!(endpoints[1].namespace, None);
    assert_eq!(parse("server = \"https://r:5000\"", "r:5000").unwrap()[0].namespace, None);
}

#[test]
fn every_rule_of_a_host_is_read() {
    let text = r#"
server = "https://s.example"
ca = "own.pem"
dial_timeout = "1m30s"
[host."https://m.example/deep/path/"]
  capabilities = ["pull", "resolve", "push"]
  ca = ["a.pem", "/etc/b.pem"]
  client = [["c.cert", "c.key"], "both.pem"]
  skip_verify = true
  override_path = true
  dial_timeout = "500ms"
  [host."https://m.example/deep/path/".header]
    X-One = "1"
    X-Two = ["2", "3"]
"#;
    let endpoints = parse(text, "docker.io").unwrap();
    let m = &endpoints[0];
    assert_eq!(m.url.as_str(), "https://m.example/deep/path");
    let of = |name: &str| PathBuf::from("/certs.d/x").join(name);
    assert_eq!(m.tls.ca, [of("a.pem"), PathBuf::from("/etc/b.pem")]);
    assert_eq!(m.tls.client, [(of("c.cert"), Some(of("c.key"))), (of("both.pem"), None)]);
    assert!(m.tls.skip_verify);
    assert_eq!(m.dial_timeout, Some(Duration::from_millis(500)));
    let headers: Vec<_> = m.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(headers, [("X-One", "1"), ("X-Two", "2"), ("X-Two", "3")]);
    assert_eq!(endpoints[1].tls.ca, [of("own.pem")]);
    assert_eq!(endpoints[1].dial_timeout, Some(Duration::from_secs(90)));
}

#[test]
fn the_path_v2_is_added_once_and_never_to_an_overridden_path() {
    assert_eq!(urls("[host.\"https://m/v2\"]", "r")[0], "https://m/v2");
    assert_eq!(urls("[host.\"https://m/v2/\"]", "r")[0], "https://m/v2");
    assert_eq!(urls("[host.\"https://m/v2/cache\"]", "r")[0], "https://m/v2/cache/v2");
    assert_eq!(urls("[host.\"https://m/v2/cache\"]\noverride_path = true", "r")[0], "https://m/v2/cache");
}

#[test]
fn what_is_wrong_is_refused_with_file_and_line() {
    refused("server = \"https://a\"\nmirror = \"https://b\"", 2, "mirror: unknown key");
    refused("[host.\"https://a\"]\n  rewrite = { a = \"b\" }", 2, "rewrite: unknown key");
    refused("[host.\"https://a\"]\n\n  capabilities = [\"pul\"]", 3, "unknown capability \"pul\"");
    refused("server = 5", 1, "server: expected a string, found integer");
    refused("[host.\"https://a\"]\nskip_verify = \"yes\"", 2, "expected true or false");
    refused("[host.\"https://a\"]\nclient = [[\"a\", \"b\", \"c\"]]", 2, "found 3 files");
    refused("dial_timeout = \"soon\"", 1, "expected a time");
    refused("[host.\"ftp://a\"]", 1, "neither an http://");
    refused("server = \"https://a?x=y\"", 1, "query");
    refused("server = \"https://a\"\nserver = \"https://b\"", 2, "duplicate key");
    refused("[host.\"https://a\"\n", 1, "");
    refused("header = { \"a b\" = \"c\" }", 1, "is no header name");
    refused("header = { a = \"b\\nX-Evil: 1\" }", 1, "control character");
    refused(&(0..40).map(|n| format!("[host.\"https://h{n}\"]\n")).collect::<String>(), 1, "names 40 hosts");
}

#[test]
fn a_password_in_an_address_is_refused_and_not_shown() {
    for address in ["https://u:hunter2@a", "https://u:hunter2#x@a", "ftp://u:hunter2@a", "u:hunter2@a"] {
        let error = parse(&format!("server = {address:?}"), "r").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn the_first_directory_that_exists_counts() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, host: &str| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("hosts.toml"), format!("[host.\"https://{host}\"]")).unwrap();
    };
    let first = |registry: &str| endpoints(Some(dir.path()), registry).unwrap().remove(0).url.to_string();
    assert_eq!(first("r:5000"), "https://r:5000/v2");
    write("_default", "default");
    assert_eq!(first("r:5000"), "https://default/v2");
    write("r:5000", "colon");
    assert_eq!(first("r:5000"), "https://colon/v2");
    write("r_5000_", "underscore");
    assert_eq!(first("r:5000"), "https://underscore/v2");
    assert_eq!(first("other"), "https://default/v2");
}

#[test]
fn without_a_hosts_toml_docker_s_certificates_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("localhost:5000");
    std::fs::create_dir(&own).unwrap();
    for file in ["ca.crt", "me.cert", "me.key", "README"] {
        std::fs::write(own.join(file), "").unwrap();
    }
    let endpoint = endpoints(Some(dir.path()), "localhost:5000").unwrap().remove(0);
    assert_eq!(endpoint.tls.ca, [own.join("ca.crt")]);
    assert_eq!(endpoint.tls.client, [(own.join("me.cert"), Some(own.join("me.key")))]);
    // Certificates say TLS, on loopback too.
    assert_eq!(endpoint.url.scheme(), "https");
    std::fs::remove_file(own.join("me.key")).unwrap();
    assert!(endpoints(Some(dir.path()), "localhost:5000").unwrap_err().reason.contains("key"));
}

#[test]
fn a_broken_or_huge_file_is_that_registry_s_error_alone() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("bad", "= 1".to_owned()), ("huge", "# ".repeat(200_000))] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
        assert!(endpoints(Some(dir.path()), name).is_err());
    }
    assert!(endpoints(Some(dir.path()), "good").is_ok());
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "\\PC*") {
        let _ = parse(&text, "docker.io");
    }

    #[test]
    fn no_file_of_words_breaks_the_parser(words in proptest::collection::vec(
        prop_oneof!["\\[host\\.\"[a-z:/@?#.]{0,12}\"\\]", "(server|ca|client|header|capabilities|skip_verify|dial_timeout) = (\"[a-z0-9:/]{0,8}\"|true|\\[\\[\"a\"\\]\\]|\\{a=\"b\"\\}|-9)"],
        0..6,
    )) {
        if let Ok(endpoints) = parse(&words.join("\n"), "docker.io") {
            prop_assert!(endpoints.last().is_some_and(|e| e.origin));
            prop_assert!(endpoints.iter().all(|e| matches!(e.url.scheme(), "http" | "https")));
        }
    }
}

#[test]
fn credentials_of_a_registry_are_for_it_and_for_the_server_of_its_own_directory() {
    let speaks = |dir: &str, text: &str, registry: &str| {
        let endpoints = file::parse(text, &Path::new("/certs.d").join(dir).join("hosts.toml"), registry).unwrap();
        endpoints.iter().map(|endpoint| endpoint.speaks_for_registry).collect::<Vec<_>>()
    };
    let text = "server = \"https://cache.example\"\n[host.\"https://mirror.example\"]\n";
    assert_eq!(speaks("r.example", text, "r.example"), [false, true]);
    assert_eq!(speaks("_default", text, "r.example"), [false, false], "it would be shown the credentials of all");
    assert_eq!(speaks("_default", text, "cache.example"), [false, true]);
    assert_eq!(speaks("_default", "[host.\"https://mirror.example\"]\n", "r.example:443"), [false, true]);
    assert_eq!(speaks("_default", "server = \"https://registry-1.docker.io\"", "docker.io"), [true]);
}
