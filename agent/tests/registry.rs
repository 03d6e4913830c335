//! Registries as they are: Debian's docker-registry, tokens, TLS, and everything that a bad link or a bad server does, through the public
//! interface of `agent::registry`.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::registry::{
    Credential, Failure, Login, MANIFEST_MAX, Patience, Proxy, Registry, RegistryError, Repository, Secret, Settings,
    Target,
};
use tests::authority::Authority;
use tests::faulty::{Bearer, Fault, FaultyProxy, Rule};
use tests::image::{Image, Tarball, digest};
use tests::registry::{PASSWORD, Pushed, TestRegistry, USER};

/// [`USER`] and [`PASSWORD`] as a Basic header and a docker config have them.
const LOGIN: &str = "ZGFlbW9uOmNvcnJlY3QgaG9yc2U=";

fn image() -> Image {
    // Bytes that do not compress and do not repeat, so that every offset is told from every other.
    let noise: Vec<u8> = (0_u32..100_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    Image::empty("any").layer(Tarball::new().file("noise", 0o644, &noise).bytes())
}

fn settings() -> Settings {
    let patience = Patience {
        connect: Duration::from_secs(10),
        stall: Duration::from_secs(10),
        document: Duration::from_secs(20),
    };
    Settings { patience, ..Settings::default() }
}

fn impatient() -> Settings {
    let patience = Patience {
        connect: Duration::from_secs(5),
        stall: Duration::from_millis(300),
        document: Duration::from_secs(5),
    };
    Settings { patience, ..Settings::default() }
}

fn at(host: &str) -> Repository {
    Repository { host: host.to_owned(), path: "team/app".to_owned() }
}

fn tag() -> Target {
    Target::Tag("1".to_owned())
}

/// A registry with one image, and a proxy before it.
fn served() -> (TestRegistry, FaultyProxy, Pushed) {
    let registry = TestRegistry::start();
    let pushed = registry.push("team/app", "1", &image());
    let proxy = FaultyProxy::in_front_of(&registry).start();
    (registry, proxy, pushed)
}

async fn all(registry: &Registry, host: &str, pushed: &Pushed, from: u64) -> Result<(u64, Vec<u8>), RegistryError> {
    let (layer, size) = &pushed.layers[0];
    let mut blob = registry.blob(&at(host), layer, *size, from, &[]).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = blob.next().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok((blob.from, bytes))
}

fn credential(key: &str, login: Login) -> Credential {
    Credential { key: key.to_owned(), login }
}

fn basic(key: &str, password: &str) -> Credential {
    credential(key, Login::Basic { user: USER.to_owned(), password: Secret::new(password) })
}

/// Writes a hosts.toml for this registry and returns the hosts directory's settings.
fn hosts(dir: &Path, registry: &str, text: &str) -> Settings {
    let own = dir.join(registry);
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), text).unwrap();
    Settings { hosts_dir: Some(dir.to_owned()), ..settings() }
}

fn last(error: &RegistryError) -> &Failure {
    match error {
        RegistryError::Asked { failures, .. } => &failures.last().unwrap().failure,
        other => panic!("{other}"),
    }
}

#[test]
fn calls_can_be_spawned() {
    fn sendable<T: Send>(_: T) {}
    let registry = Registry::new(settings());
    sendable(registry.manifest(&at("r"), &tag(), &[]));
    sendable(registry.digest(&at("r"), &tag(), &[]));
    sendable(registry.blob(&at("r"), "", 0, 0, &[]));
}

#[tokio::test]
async fn an_image_is_read_whole_from_a_real_registry() {
    let (_registry, proxy, pushed) = served();
    let registry = Registry::new(settings());
    let manifest = registry.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap();
    assert_eq!(manifest.digest, pushed.digest);
    assert_eq!(manifest.digest, digest(&manifest.bytes));
    assert_eq!(manifest.media_type, "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(registry.digest(&at(&proxy.host()), &tag(), &[]).await.unwrap(), pushed.digest);
    assert_eq!(proxy.count("HEAD "), 1);
    let by_digest = Target::Digest(pushed.digest.clone());
    assert_eq!(registry.manifest(&at(&proxy.host()), &by_digest, &[]).await.unwrap(), manifest);
    let (from, bytes) = all(&registry, &proxy.host(), &pushed, 0).await.unwrap();
    assert_eq!((from, digest(&bytes)), (0, pushed.layers[0].0.clone()));
}

#[tokio::test]
async fn a_blob_goes_on_where_it_was_cut() {
    let (_registry, proxy, pushed) = served();
    let registry = Registry::new(settings());
    let (layer, size) = pushed.layers[0].clone();
    proxy.add(Rule::on("/blobs/").first(1).fault(Fault::Cut { after: 100_000 }));
    let mut blob = registry.blob(&at(&proxy.host()), &layer, size, 0, &[]).await.unwrap();
    let mut bytes = Vec::new();
    let error = loop {
        match blob.next().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => panic!("the blob was cut"),
            Err(error) => break error,
        }
    };
    assert!(error.unreachable() && error.to_string().contains(&proxy.host()), "{error}");
    assert_eq!(bytes.len(), 100_000);
    let (from, rest) = all(&registry, &proxy.host(), &pushed, bytes.len() as u64).await.unwrap();
    assert_eq!(from, 100_000);
    bytes.extend_from_slice(&rest);
    assert_eq!(digest(&bytes), layer);
    assert_eq!(proxy.body_bytes(), size);
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let (_registry, proxy, pushed) = served();
    proxy.add(Rule::on("/blobs/").fault(Fault::IgnoreRange));
    let (from, bytes) = all(&Registry::new(settings()), &proxy.host(), &pushed, 1000).await.unwrap();
    assert_eq!((from, digest(&bytes)), (0, pushed.layers[0].0.clone()));
}

#[tokio::test]
async fn a_range_that_makes_no_sense_is_asked_for_again_without_one() {
    let (_registry, proxy, pushed) = served();
    proxy.add(Rule::on("/blobs/").first(1).fault(Fault::status(416)));
    let (from, bytes) = all(&Registry::new(settings()), &proxy.host(), &pushed, 1000).await.unwrap();
    assert_eq!((from, digest(&bytes)), (0, pushed.layers[0].0.clone()));
    proxy.clear();
    let wrong = Fault::Header { name: "Content-Range".to_owned(), value: Some("bytes 5000-6000/*".to_owned()) };
    proxy.add(Rule::on("/blobs/").first(1).fault(wrong));
    assert_eq!(all(&Registry::new(settings()), &proxy.host(), &pushed, 1000).await.unwrap().0, 0);
}

#[tokio::test]
async fn a_complete_blob_is_not_asked_for() {
    let (_registry, proxy, pushed) = served();
    let size = pushed.layers[0].1;
    let (from, bytes) = all(&Registry::new(settings()), &proxy.host(), &pushed, size).await.unwrap();
    assert_eq!((from, bytes.len(), proxy.count("/blobs/")), (size, 0, 0));
}

#[tokio::test]
async fn a_stall_ends_after_its_time_and_a_slow_link_does_not() {
    let (_registry, proxy, pushed) = served();
    let registry = Registry::new(impatient());
    proxy.add(Rule::on("/blobs/").first(1).fault(Fault::Stall { after: 5000 }));
    proxy.add(Rule::on("/blobs/").fault(Fault::Slow { bytes_per_second: 400_000 }));
    let error = all(&registry, &proxy.host(), &pushed, 0).await.unwrap_err();
    assert!(matches!(last(&error), Failure::Stalled { .. }) && error.unreachable(), "{error}");
    // In all much longer than a stall may be, and never without a byte for so long.
    let began = Instant::now();
    let (_, bytes) = all(&registry, &proxy.host(), &pushed, 0).await.unwrap();
    assert!(began.elapsed() > Duration::from_millis(600));
    assert_eq!(digest(&bytes), pushed.layers[0].0);
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let error = Registry::new(impatient()).manifest(&at(&host), &tag(), &[]).await.unwrap_err();
    assert!(error.unreachable(), "{error}");
    let (_registry, proxy, _) = served();
    proxy.add(Rule::on("/manifests/").fault(Fault::Silence));
    let error = Registry::new(settings()).manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap_err();
    assert!(error.unreachable(), "{error}");
    let nobody = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let error = Registry::new(settings()).manifest(&at(&nobody.to_string()), &tag(), &[]).await.unwrap_err();
    assert!(error.unreachable() && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn each_status_is_the_failure_that_it_stands_for() {
    let (_registry, proxy, _) = served();
    let registry = Registry::new(settings());
    let ask = async |fault: Fault| {
        proxy.clear();
        proxy.add(Rule::on("/manifests/").fault(fault));
        registry.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap_err()
    };
    for status in [401, 403] {
        let error = ask(Fault::status(status)).await;
        assert!(error.is_denied() && !error.unreachable() && !error.is_not_found(), "{error}");
        assert!(error.to_string().contains("imagePullSecrets"), "{error}");
    }
    let error = ask(Fault::status(404)).await;
    assert!(error.is_not_found() && !error.is_denied() && !error.unreachable(), "{error}");
    for status in [500, 502, 503] {
        let error = ask(Fault::status(status)).await;
        assert!(error.unreachable() && !error.is_denied(), "{error}");
        assert!(error.to_string().contains("TEST: made up"), "{error}");
    }
    let error = ask(Fault::status(418)).await;
    assert!(!error.unreachable() && error.to_string().contains("status 418"), "{error}");
}

#[tokio::test]
async fn retry_after_is_passed_on_and_bounded() {
    let (_registry, proxy, _) = served();
    let registry = Registry::new(settings());
    let ask = async |status: u16, value: &str| {
        proxy.clear();
        let fault = Fault::status(status).header("Retry-After", value).header("Date", "Sun, 06 Nov 1994 08:49:30 GMT");
        proxy.add(Rule::on("/manifests/").fault(fault));
        let error = registry.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap_err();
        assert!(error.unreachable(), "{error}");
        error.retry_after()
    };
    assert_eq!(ask(429, "7").await, Some(Duration::from_secs(7)));
    assert_eq!(ask(503, "7").await, Some(Duration::from_secs(7)));
    assert_eq!(ask(429, "99999999").await, Some(Duration::from_secs(3600)));
    // A date counts from the server's own clock.
    assert_eq!(ask(429, "Sun, 06 Nov 1994 08:49:37 GMT").await, Some(Duration::from_secs(7)));
    assert_eq!(ask(429, "Tue, 06 Nov 1984 08:49:37 GMT").await, Some(Duration::ZERO));
    assert_eq!(ask(429, "soon").await, None);
}

#[tokio::test]
async fn wrong_bytes_are_named_and_not_returned() {
    let (_registry, proxy, pushed) = served();
    let registry = Registry::new(settings());
    proxy.add(Rule::on("/manifests/").fault(Fault::WrongBytes));
    for target in [tag(), Target::Digest(pushed.digest.clone())] {
        let error = registry.manifest(&at(&proxy.host()), &target, &[]).await.unwrap_err();
        assert!(error.to_string().contains("wrong bytes") && !error.unreachable(), "{error}");
    }
    let (layer, size) = pushed.layers[0].clone();
    let error = registry.blob(&at(&proxy.host()), &layer, size + 1, 0, &[]).await.err().unwrap();
    assert!(error.to_string().contains("by its descriptor"), "{error}");
}

#[tokio::test]
async fn a_manifest_that_is_too_large_or_too_old_is_refused_by_name() {
    let (_registry, proxy, _) = served();
    let registry = Registry::new(settings());
    let ask = async |fault: Fault| {
        proxy.clear();
        proxy.add(Rule::on("/manifests/").fault(fault));
        registry.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap_err()
    };
    let huge = " ".repeat(usize::try_from(MANIFEST_MAX).unwrap() + 1);
    let error = ask(Fault::status(200).body(&huge)).await;
    assert!(error.to_string().contains("larger than"), "{error}");
    let schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let error = ask(Fault::status(200).header("Content-Type", schema_1).body("{\"schemaVersion\": 1}")).await;
    assert!(error.to_string().contains("schema 1"), "{error}");
    let error = ask(Fault::status(200).header("Content-Type", "text/html").body("<html>log in</html>")).await;
    assert!(error.to_string().contains("no JSON"), "{error}");
}

#[tokio::test]
async fn without_a_digest_header_the_manifest_itself_is_digested() {
    let (_registry, proxy, pushed) = served();
    proxy.add(Rule::on("/manifests/").fault(Fault::Header { name: "Docker-Content-Digest".to_owned(), value: None }));
    let registry = Registry::new(settings());
    assert_eq!(registry.digest(&at(&proxy.host()), &tag(), &[]).await.unwrap(), pushed.digest);
    assert_eq!(registry.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap().digest, pushed.digest);
    proxy.clear();
    proxy.add(Rule::on("HEAD ").fault(Fault::status(405)));
    assert_eq!(registry.digest(&at(&proxy.host()), &tag(), &[]).await.unwrap(), pushed.digest);
}

#[tokio::test]
async fn a_password_is_tried_only_where_it_belongs() {
    let registry = TestRegistry::with_password();
    let pushed = registry.push("team/app", "1", &image());
    let proxy = FaultyProxy::in_front_of(&registry).start();
    let client = Registry::new(settings());
    let host = proxy.host();
    let error = client.manifest(&at(&host), &tag(), &[]).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    let error = client.manifest(&at(&host), &tag(), &[basic("other.example", PASSWORD)]).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    let error = client.manifest(&at(&host), &tag(), &[basic(&host, "wrong horse")]).await.unwrap_err();
    assert!(error.is_denied() && !format!("{error} {error:?}").contains("horse"), "{error}");
    // Wrong ones first: the longest match is tried first, and the right one all the same.
    let secrets =
        [basic(&host, PASSWORD), basic(&format!("{host}/team"), "wrong"), basic(&format!("{host}/other"), "x")];
    assert_eq!(client.manifest(&at(&host), &tag(), &secrets).await.unwrap().digest, pushed.digest);
    // What was accepted is remembered: no second refusal.
    let before = proxy.requests().len();
    client.manifest(&at(&host), &tag(), &secrets).await.unwrap();
    assert_eq!(proxy.requests().len(), before + 1);
}

#[tokio::test]
async fn the_node_s_own_file_and_helpers_are_asked() {
    let registry = TestRegistry::with_password();
    registry.push("team/app", "1", &image());
    let proxy = FaultyProxy::in_front_of(&registry).start();
    let host = proxy.host();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let client = Registry::new(Settings { auth_file: Some(file.clone()), ..settings() });
    let error = client.manifest(&at(&host), &tag(), &[]).await.unwrap_err();
    assert!(error.is_denied() && error.to_string().contains("config.json"), "{error}");
    std::fs::write(&file, format!("{{\"auths\": {{\"http://{host}/v2/\": {{\"auth\": \"{LOGIN}\"}}}}}}")).unwrap();
    client.manifest(&at(&host), &tag(), &[]).await.unwrap();
    // The file is read anew for each call.
    std::fs::write(&file, "{").unwrap();
    let error = client.manifest(&at(&host), &tag(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("no JSON"), "{error}");
    std::fs::write(&file, format!("{{\"credHelpers\": {{\"{host}\": \"daemonlet-missing\"}}}}")).unwrap();
    let error = client.manifest(&at(&host), &tag(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("docker-credential-daemonlet-missing"), "{error}");
}

#[tokio::test]
async fn a_token_is_fetched_once_used_again_and_fetched_anew_when_it_is_refused() {
    let registry = TestRegistry::start();
    let pushed = registry.push("team/app", "1", &image());
    let proxy = FaultyProxy::in_front_of(&registry).bearer(Bearer::anonymous()).start();
    let client = Registry::new(settings());
    client.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap();
    all(&client, &proxy.host(), &pushed, 0).await.unwrap();
    assert_eq!((proxy.count("/token"), proxy.count("/v2/")), (1, 3));
    let asked = proxy.requests().into_iter().find(|seen| seen.line.contains("/token")).unwrap();
    assert!(asked.line.contains("service=test") && asked.line.contains("repository%3Ateam%2Fapp%3Apull"), "{asked:?}");
    proxy.forget_tokens();
    all(&client, &proxy.host(), &pushed, 0).await.unwrap();
    assert_eq!(proxy.count("/token"), 2);
}

#[tokio::test]
async fn a_token_is_had_for_a_password_or_an_identity_token() {
    let registry = TestRegistry::start();
    registry.push("team/app", "1", &image());
    let proxy = FaultyProxy::in_front_of(&registry).bearer(Bearer::login(LOGIN)).start();
    let client = Registry::new(settings());
    let host = proxy.host();
    let error = client.manifest(&at(&host), &tag(), &[]).await.unwrap_err();
    assert!(error.is_denied() && error.to_string().contains("token service"), "{error}");
    let identity = credential(&host, Login::Identity(Secret::new("it-is-me")));
    let error = client.manifest(&at(&host), &tag(), std::slice::from_ref(&identity)).await.unwrap_err();
    // The service repeats what it was given; we do not.
    assert!(error.is_denied() && !error.to_string().contains("it-is-me"), "{error}");
    client.manifest(&at(&host), &tag(), &[identity.clone(), basic(&host, PASSWORD)]).await.unwrap();
    let proxy = FaultyProxy::in_front_of(&registry).bearer(Bearer::identity("it-is-me")).start();
    let identity = credential(&proxy.host(), Login::Identity(Secret::new("it-is-me")));
    client.manifest(&at(&proxy.host()), &tag(), &[identity]).await.unwrap();
    assert_eq!(proxy.count("POST /token"), 1);
}

#[tokio::test]
async fn a_token_service_that_is_down_is_not_a_refusal() {
    let registry = TestRegistry::start();
    registry.push("team/app", "1", &image());
    let proxy = FaultyProxy::in_front_of(&registry).bearer(Bearer::anonymous()).start();
    proxy.add(Rule::on("/token").fault(Fault::status(429).header("Retry-After", "3")));
    let error = Registry::new(settings()).manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap_err();
    assert!(error.unreachable() && error.retry_after() == Some(Duration::from_secs(3)), "{error}");
    proxy.clear();
    proxy.add(Rule::on("/token").fault(Fault::status(200).body("<html>")));
    let error = Registry::new(settings()).manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap_err();
    assert!(!error.unreachable() && error.to_string().contains("token service"), "{error}");
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_credential() {
    let registry = TestRegistry::with_password();
    let pushed = registry.push("team/app", "1", &image());
    let front = FaultyProxy::in_front_of(&registry).start();
    let open = TestRegistry::start();
    open.push("team/app", "1", &image());
    let other = FaultyProxy::in_front_of(&open).start();
    front.add(Rule::on("/blobs/").after(1).fault(Fault::Redirect { base: other.url() }));
    let client = Registry::new(settings());
    let (layer, size) = pushed.layers[0].clone();
    let secrets = [basic(&front.host(), PASSWORD)];
    let mut blob = client.blob(&at(&front.host()), &layer, size, 100, &secrets).await.unwrap();
    while blob.next().await.unwrap().is_some() {}
    let carried = front.requests().into_iter().filter(|seen| seen.header("authorization").is_some()).count();
    let there = other.requests();
    assert_eq!((carried, there.len(), blob.from), (1, 1, 100));
    assert_eq!(there[0].header("authorization"), None);
    assert_eq!(there[0].header("range"), Some("bytes=100-"));
}

#[tokio::test]
async fn redirects_end_and_lead_nowhere_forbidden() {
    let (_registry, proxy, _) = served();
    let client = Registry::new(settings());
    proxy.add(Rule::on("/manifests/").fault(Fault::Redirect { base: proxy.url() }));
    let error = client.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("more than 10"), "{error}");
    proxy.clear();
    proxy.add(Rule::on("/manifests/").fault(Fault::Redirect { base: "file://".to_owned() }));
    let error = client.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("scheme file"), "{error}");
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let secure = FaultyProxy::alone().tls(&authority).start();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let text = format!("server = \"{}\"\nca = \"../ca.pem\"", secure.url());
    let client = Registry::new(hosts(dir.path(), "r.example", &text));
    secure.add(Rule::on("/manifests/").fault(Fault::Redirect { base: "http://plain.example/secret?token".to_owned() }));
    let error = client.manifest(&at("r.example"), &tag(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("plain http") && !error.to_string().contains("token"), "{error}");
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_what_it_lacks_or_breaks_comes_from_the_registry() {
    let (_registry, origin, pushed) = served();
    let (_other, mirror, _) = served();
    let dir = tempfile::tempdir().unwrap();
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url());
    let ask = async || {
        let client = Registry::new(hosts(dir.path(), "r.example", &text));
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
    let client = Registry::new(hosts(dir.path(), "r.example", &text));
    let error = client.manifest(&at("r.example"), &tag(), &[]).await.unwrap_err();
    // The registry's own word counts, and both are told.
    assert!(error.unreachable() && !error.is_not_found(), "{error}");
    assert!(error.to_string().contains(&mirror.host()) && error.to_string().contains(&origin.host()), "{error}");
}

#[tokio::test]
async fn a_mirror_never_gets_the_registry_s_credentials() {
    let (_registry, mirror, _) = served();
    mirror.add(Rule::on("/v2/").fault(Fault::status(401).header("WWW-Authenticate", "Basic realm=\"x\"")));
    let dir = tempfile::tempdir().unwrap();
    let origin = FaultyProxy::alone().start();
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url());
    let client = Registry::new(hosts(dir.path(), "r.example", &text));
    let secrets = [basic("r.example", "for-the-registry"), basic(&mirror.host(), "for-the-mirror")];
    let _ = client.manifest(&at("r.example"), &tag(), &secrets).await.unwrap_err();
    let shown: Vec<String> =
        mirror.requests().iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert_eq!(shown.len(), 1, "{shown:?}");
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
    let client = Registry::new(hosts(dir.path(), "r.example", &text));
    client.manifest(&at("r.example"), &tag(), &[]).await.unwrap();
    assert_eq!((mirror.requests().len(), origin.requests().len()), (0, 1), "only who may resolve is asked for a tag");
    all(&client, "r.example", &pushed, 0).await.unwrap();
    assert_eq!(mirror.requests()[0].header("x-test"), Some("yes"));
    // A host that may only resolve says what the tag is, and the bytes come from who may serve them.
    let text = format!("server = \"{}\"\n[host.\"{}\"]\ncapabilities = [\"resolve\"]\n", origin.url(), mirror.url());
    let client = Registry::new(hosts(dir.path(), "r.example", &text));
    assert_eq!(client.manifest(&at("r.example"), &tag(), &[]).await.unwrap().digest, pushed.digest);
    assert_eq!(mirror.requests().last().unwrap().line, "HEAD /v2/team/app/manifests/1?ns=r.example");
    assert!(origin.requests().last().unwrap().line.contains(&pushed.digest));
    let text = format!("server = \"{}/deep/cache\"\noverride_path = true\n", origin.url());
    let client = Registry::new(hosts(dir.path(), "r.example", &text));
    let _ = client.manifest(&at("r.example"), &tag(), &[]).await;
    assert_eq!(origin.requests().last().unwrap().line, "GET /deep/cache/team/app/manifests/1?ns=r.example");
}

#[tokio::test]
async fn a_host_that_is_blamed_is_asked_last() {
    let (_registry, origin, pushed) = served();
    let (_other, mirror, _) = served();
    let dir = tempfile::tempdir().unwrap();
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url());
    let client = Registry::new(hosts(dir.path(), "r.example", &text));
    let (layer, size) = pushed.layers[0].clone();
    let blob = client.blob(&at("r.example"), &layer, size, 0, &[]).await.unwrap();
    assert_eq!(blob.host, mirror.host());
    client.blame(&blob.host);
    assert_eq!(client.blob(&at("r.example"), &layer, size, 0, &[]).await.unwrap().host, origin.host());
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
        let client = Registry::new(hosts(dir.path(), "r.example", &format!("server = \"{}\"\n{rules}", server.url())));
        client.manifest(&at("r.example"), &tag(), &[]).await.map(|manifest| manifest.digest)
    };
    let error = ask(&open, "").await.unwrap_err();
    assert!(error.unreachable() && error.to_string().contains("name its authority with ca"), "{error}");
    assert_eq!(ask(&open, "ca = \"../ca.pem\"").await.unwrap(), pushed.digest);
    assert_eq!(ask(&open, "skip_verify = true").await.unwrap(), pushed.digest);
    assert!(ask(&closed, "ca = \"../ca.pem\"").await.is_err());
    let with_certificate = "ca = \"../ca.pem\"\nclient = [[\"../me.cert\", \"../me.key\"]]";
    assert_eq!(ask(&closed, with_certificate).await.unwrap(), pushed.digest);
    let error = ask(&open, "ca = \"../me.key\"").await.unwrap_err();
    assert!(matches!(error, RegistryError::Hosts { .. }) && error.to_string().contains("me.key"), "{error}");
}

#[tokio::test]
async fn a_broken_hosts_file_stops_its_registry_alone() {
    let (_registry, proxy, _) = served();
    let dir = tempfile::tempdir().unwrap();
    let client = Registry::new(hosts(dir.path(), "r.example", "server = \"https://a\"\nmirror = 1"));
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
        Settings { proxy: proxy.clone(), ..hosts(dir.path(), "r.test", "server = \"http://registry.test:80\"") };
    assert_eq!(Registry::new(plain).manifest(&at("r.test"), &tag(), &[]).await.unwrap().digest, pushed.digest);
    let seen = way.requests().pop().unwrap();
    assert_eq!(seen.host, "registry.test");
    assert_eq!(seen.header("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
    let text = "server = \"https://registry.test:5000\"\nca = \"../ca.pem\"";
    let tls = Settings { proxy, ..hosts(dir.path(), "s.test", text) };
    assert_eq!(Registry::new(tls).manifest(&at("s.test"), &tag(), &[]).await.unwrap().digest, pushed.digest);
    assert_eq!(way.requests().pop().unwrap().host, "registry.test:5000");
}

#[tokio::test]
async fn a_name_that_is_none_asks_nobody() {
    let client = Registry::new(settings());
    let bad = |host: &str, path: &str| Repository { host: host.to_owned(), path: path.to_owned() };
    for repository in
        [bad("", "a"), bad("../x", "a"), bad("r", "a/../b"), bad("r", "a?x"), bad("r", ""), bad("r/x", "a")]
    {
        let error = client.manifest(&repository, &tag(), &[]).await.unwrap_err();
        assert!(matches!(error, RegistryError::Name { .. }), "{error}");
    }
    for target in ["a/b", "", "a b", ".."].map(|text| Target::Tag(text.to_owned())) {
        assert!(matches!(client.digest(&at("r"), &target, &[]).await, Err(RegistryError::Name { .. })));
    }
    assert!(client.blob(&at("r"), "sha256:../../x", 1, 0, &[]).await.is_err());
}

#[tokio::test]
async fn after_a_rest_everything_is_made_again() {
    let (_registry, proxy, pushed) = served();
    let client = Registry::new(settings());
    all(&client, &proxy.host(), &pushed, 0).await.unwrap();
    client.rest();
    all(&client, &proxy.host(), &pushed, 0).await.unwrap();
}
