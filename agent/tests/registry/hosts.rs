//! hosts.toml, mirrors, TLS and HTTP proxies.

use super::*;

#[tokio::test]
async fn a_mirror_is_asked_first_and_what_it_lacks_or_breaks_comes_from_the_registry() {
    let (_registry, origin, pushed) = served();
    let (_other, mirror, _) = served();
    let dir = tempfile::tempdir().unwrap();
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url());
    let ask = async || {
        let client = Registry::new(hosts_toml(dir.path(), "r.example", &text));
        let manifest = client.manifest(&at("r.example"), &tag(), &[]).await;
        let (_, bytes) = all(&client, "r.example", &pushed, 0).await.unwrap();
        assert_eq!(digest(&bytes), pushed.layers[0].0);
        manifest.unwrap().digest
    };
    assert_eq!(ask().await, pushed.digest);
    assert_eq!((mirror.count("?ns=r.example"), origin.requests().len()), (2, 0));
    for fault in [Fault::status(404), Fault::status(500), Fault::status(403), Fault::Silence, Fault::WrongBytes] {
        mirror.clear();
        mirror.add(Rule::on("/manifests/").fault(fault));
        let before = origin.count("/manifests/");
        assert_eq!(ask().await, pushed.digest);
        assert_eq!(origin.count("/manifests/"), before + 1);
    }
    mirror.clear();
    mirror.add(Rule::on("/v2/").fault(Fault::status(404)));
    origin.add(Rule::on("/manifests/").fault(Fault::status(503)));
    let client = Registry::new(hosts_toml(dir.path(), "r.example", &text));
    let error = client.manifest(&at("r.example"), &tag(), &[]).await.unwrap_err();
    // The registry's own word counts, and both are told.
    assert!(error.unreachable() && !error.is_not_found(), "{error}");
    assert!(error.to_string().contains(&mirror.host()) && error.to_string().contains(&origin.host()), "{error}");
}

#[tokio::test]
async fn capabilities_paths_and_headers_of_a_host_are_kept() {
    let (_registry, origin, pushed) = served();
    let (_other, mirror, _) = served();
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"{}\"\n[host.\"{}\"]\ncapabilities = [\"pull\"]\nheader = {{ X-Test = \"yes\" }}\n",
        origin.url(),
        mirror.url()
    );
    let client = Registry::new(hosts_toml(dir.path(), "r.example", &text));
    client.manifest(&at("r.example"), &tag(), &[]).await.unwrap();
    assert_eq!((mirror.requests().len(), origin.requests().len()), (0, 1), "only who may resolve is asked for a tag");
    all(&client, "r.example", &pushed, 0).await.unwrap();
    assert_eq!(mirror.requests()[0].header("x-test"), Some("yes"));
    // A host that may only resolve says what the tag is, and the bytes come from who may serve them.
    let text = format!("server = \"{}\"\n[host.\"{}\"]\ncapabilities = [\"resolve\"]\n", origin.url(), mirror.url());
    let client = Registry::new(hosts_toml(dir.path(), "r.example", &text));
    assert_eq!(client.manifest(&at("r.example"), &tag(), &[]).await.unwrap().digest, pushed.digest);
    assert_eq!(mirror.requests().last().unwrap().line, "HEAD /v2/team/app/manifests/1?ns=r.example");
    assert!(origin.requests().last().unwrap().line.contains(&pushed.digest));
    let text = format!("server = \"{}/deep/cache\"\noverride_path = true\n", origin.url());
    let client = Registry::new(hosts_toml(dir.path(), "r.example", &text));
    let _ = client.manifest(&at("r.example"), &tag(), &[]).await;
    assert_eq!(origin.requests().last().unwrap().line, "GET /deep/cache/team/app/manifests/1?ns=r.example");
}

#[tokio::test]
async fn a_host_that_is_blamed_is_asked_last() {
    let (_registry, origin, pushed) = served();
    let (_other, mirror, _) = served();
    let dir = tempfile::tempdir().unwrap();
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url());
    let client = Registry::new(hosts_toml(dir.path(), "r.example", &text));
    let (layer, size) = pushed.layers[0].clone();
    let blob = client.blob(&at("r.example"), &layer, size, 0, &[]).await.unwrap();
    assert_eq!(blob.host, mirror.host());
    client.blame(&blob.host);
    assert_eq!(client.blob(&at("r.example"), &layer, size, 0, &[]).await.unwrap().host, origin.host());
}

/// A mirror before a registry, and a client with little patience.
fn behind(mirror: &str, origin: &str, dir: &Path) -> Registry {
    // No test takes so long; that blame ends is proved beside it.
    let blame = Duration::from_secs(3600);
    let mut settings = hosts_toml(dir, "r.example", &format!("server = \"{origin}\"\n[host.\"{mirror}\"]\n"));
    // Also a busy machine's docker-registry answers within this time.
    let time = Duration::from_secs(2);
    settings.patience = Patience { ask: time, stall: time, blame, ..impatient().patience };
    Registry::new(settings)
}

#[tokio::test]
async fn a_mirror_that_fails_costs_one_try() {
    let (_registry, origin, pushed) = served();
    let (_other, mirror, _) = served();
    let dir = tempfile::tempdir().unwrap();
    let ask = async |client: &Registry| {
        let manifest = client.manifest(&at("r.example"), &tag(), &[]).await.unwrap();
        assert_eq!(manifest.digest, pushed.digest);
    };
    for fault in [Fault::status(503), Fault::status(429), Fault::Silence, Fault::Stall { after: 0 }, Fault::WrongBytes]
    {
        let client = behind(&mirror.url(), &origin.url(), dir.path());
        mirror.add(Rule::on("/v2/").fault(fault.clone()));
        let before = mirror.requests().len();
        ask(&client).await;
        ask(&client).await;
        all(&client, "r.example", &pushed, 0).await.unwrap();
        assert_eq!(mirror.requests().len(), before + 1, "{fault:?}");
        mirror.clear();
    }
    // What says nothing about the host: the next image may be there.
    for status in [401, 403, 404] {
        let client = behind(&mirror.url(), &origin.url(), dir.path());
        mirror.clear();
        mirror.add(Rule::on("/manifests/").fault(Fault::status(status)));
        ask(&client).await;
        all(&client, "r.example", &pushed, 0).await.unwrap();
        assert!(mirror.requests().last().unwrap().line.contains("/blobs/"), "{status}");
    }
    assert_eq!(origin.count("/blobs/"), 5);
}

#[tokio::test]
async fn a_mirror_that_swallows_every_packet_does_not_use_up_the_time_to_ask() {
    let (_registry, origin, pushed) = served();
    let dir = tempfile::tempdir().unwrap();
    // Connected by the kernel, and never answered.
    let (black, blacker) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = |hole: &TcpListener| format!("http://{}", hole.local_addr().unwrap());
    let client = behind(&url(&black), &origin.url(), dir.path());
    for _ in 0..2 {
        assert_eq!(client.digest(&at("r.example"), &tag(), &[]).await.unwrap(), pushed.digest);
    }
    let begun = Instant::now();
    let client = behind(&url(&black), &url(&blacker), dir.path());
    let error = client.digest(&at("r.example"), &tag(), &[]).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(error.unreachable(), "{error}");
    for hole in [black, blacker] {
        let named = format!("{}: sent nothing for ", hole.local_addr().unwrap());
        assert!(error.to_string().contains(&named), "{error}");
    }
}

#[tokio::test]
async fn a_server_for_all_registries_is_shown_the_credentials_of_none() {
    let registry = TestRegistry::with_password();
    let pushed = registry.push("team/app", "1", &image());
    let cache = FaultyProxy::in_front_of(&registry).start();
    let dir = tempfile::tempdir().unwrap();
    let text = format!("server = \"{}\"\n", cache.url());
    let secret = || basic("r.example", PASSWORD);
    let client = Registry::new(hosts_toml(dir.path(), "_default", &text));
    let error = client.manifest(&at("r.example"), &tag(), &[secret()]).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert!(cache.requests().iter().all(|seen| seen.header("authorization").is_none()));
    // What names it is for it.
    let own = [secret(), basic(&cache.host(), PASSWORD)];
    assert_eq!(client.manifest(&at("r.example"), &tag(), &own).await.unwrap().digest, pushed.digest);
    // And a registry's own directory may say who speaks for it.
    let client = Registry::new(hosts_toml(dir.path(), "r.example", &text));
    assert_eq!(client.manifest(&at("r.example"), &tag(), &[secret()]).await.unwrap().digest, pushed.digest);
}

#[tokio::test]
async fn tls_needs_the_right_authority_and_the_right_certificate() {
    let registry = TestRegistry::start();
    let pushed = registry.push("team/app", "1", &image());
    let (authority, clients) = (Authority::new(), Authority::new());
    let open = FaultyProxy::in_front_of(&registry).tls(&authority).start();
    let closed = FaultyProxy::in_front_of(&registry).tls(&authority).client_certificates(&clients).start();
    let dir = tempfile::tempdir().unwrap();
    let own = clients.client("node-1");
    for (file, text) in [("ca.pem", authority.pem()), ("me.cert", own.cert), ("me.key", own.key)] {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    let ask = async |server: &FaultyProxy, rules: &str| {
        let client =
            Registry::new(hosts_toml(dir.path(), "r.example", &format!("server = \"{}\"\n{rules}", server.url())));
        client.manifest(&at("r.example"), &tag(), &[]).await.map(|manifest| manifest.digest)
    };
    let error = ask(&open, "").await.unwrap_err();
    assert!(error.unreachable() && error.to_string().contains("name its authority with ca"), "{error}");
    assert_eq!(ask(&open, "ca = \"../ca.pem\"").await.unwrap(), pushed.digest);
    assert_eq!(ask(&open, "skip_verify = true").await.unwrap(), pushed.digest);
    assert!(ask(&closed, "ca = \"../ca.pem\"").await.is_err());
    let with_certificate = "ca = \"../ca.pem\"\nclient = [[\"../me.cert\", \"../me.key\"]]";
    assert_eq!(ask(&closed, with_certificate).await.unwrap(), pushed.digest);
    // One that has expired is no answer: it is asked again, and the words say what to look at.
    let late = Authority::ending(2020, 1, 1);
    std::fs::write(dir.path().join("late.pem"), late.pem()).unwrap();
    let expired = FaultyProxy::in_front_of(&registry).tls(&late).start();
    let error = ask(&expired, "ca = \"../late.pem\"").await.unwrap_err();
    assert!(error.unreachable() && error.to_string().contains("expired"), "{error}");
    assert!(error.to_string().contains("unless this machine's clock is wrong"), "{error}");
    assert!(expired.requests().is_empty());
    let error = ask(&open, "ca = \"../me.key\"").await.unwrap_err();
    assert!(matches!(error, RegistryError::Hosts { .. }) && error.to_string().contains("me.key"), "{error}");
}

#[tokio::test]
async fn a_broken_hosts_file_stops_its_registry_alone() {
    let (_registry, proxy, _) = served();
    let dir = tempfile::tempdir().unwrap();
    let client = Registry::new(hosts_toml(dir.path(), "r.example", "server = \"https://a\"\nmirror = 1"));
    let error = client.manifest(&at("r.example"), &tag(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("hosts.toml:2: mirror"), "{error}");
    client.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap();
}

#[tokio::test]
async fn requests_go_through_the_proxy_that_the_environment_names() {
    let registry = TestRegistry::start();
    let pushed = registry.push("team/app", "1", &image());
    let authority = Authority::new();
    let secure = FaultyProxy::in_front_of(&registry).tls(&authority).start();
    let way = FaultyProxy::in_front_of(&registry).tunnel("registry.test:5000", secure.address()).start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let proxy = Proxy {
        http: Some(format!("user:pass@{}", way.host())),
        https: Some(way.url()),
        direct: Some("127.0.0.1".to_owned()),
    };
    let plain =
        Settings { proxy: proxy.clone(), ..hosts_toml(dir.path(), "r.test", "server = \"http://registry.test:80\"") };
    assert_eq!(Registry::new(plain).manifest(&at("r.test"), &tag(), &[]).await.unwrap().digest, pushed.digest);
    let seen = way.requests().pop().unwrap();
    assert_eq!(seen.host, "registry.test");
    assert_eq!(seen.header("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
    let text = "server = \"https://registry.test:5000\"\nca = \"../ca.pem\"";
    let tls = Settings { proxy, ..hosts_toml(dir.path(), "s.test", text) };
    assert_eq!(Registry::new(tls).manifest(&at("s.test"), &tag(), &[]).await.unwrap().digest, pushed.digest);
    assert_eq!(way.requests().pop().unwrap().host, "registry.test:5000");
}
