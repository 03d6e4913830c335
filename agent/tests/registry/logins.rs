//! Passwords, tokens, helpers, and to whom they are shown.

use super::*;

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
    // "daemon:wrong horse" as the service got it.
    let error = client.manifest(&at(&host), &tag(), &[basic(&host, "wrong horse")]).await.unwrap_err().to_string();
    assert!(error.contains("no such login …") && !error.contains("ZGFlbW9uOndyb25nIGhvcnNl"), "{error}");
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
async fn a_mirror_never_gets_the_registry_s_credentials() {
    let (_registry, mirror, _) = served();
    mirror.add(Rule::on("/v2/").fault(Fault::status(401).header("WWW-Authenticate", "Basic realm=\"x\"")));
    let dir = tempfile::tempdir().unwrap();
    let origin = FaultyProxy::alone().start();
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url());
    let client = Registry::new(hosts_toml(dir.path(), "r.example", &text));
    let secrets = [basic("r.example", "for-the-registry"), basic(&mirror.host(), "for-the-mirror")];
    let _ = client.manifest(&at("r.example"), &tag(), &secrets).await.unwrap_err();
    let shown: Vec<String> =
        mirror.requests().iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert_eq!(shown.len(), 1, "{shown:?}");
}

#[tokio::test]
async fn a_wrong_password_does_not_keep_from_what_everybody_may_have() {
    let registry = TestRegistry::start();
    let pushed = registry.push("team/app", "1", &image());
    let proxy = FaultyProxy::in_front_of(&registry).bearer(Bearer::anonymous()).start();
    let secrets = [basic(&proxy.host(), "wrong horse")];
    let manifest = Registry::new(settings()).manifest(&at(&proxy.host()), &tag(), &secrets).await.unwrap();
    assert_eq!(manifest.digest, pushed.digest);
}

#[tokio::test]
async fn a_host_that_was_redirected_to_cannot_ask_for_the_password() {
    let registry = TestRegistry::with_password();
    let pushed = registry.push("team/app", "1", &image());
    let front = FaultyProxy::in_front_of(&registry).start();
    let thief = FaultyProxy::alone().start();
    thief.add(Rule::on("/").fault(Fault::status(401).header("WWW-Authenticate", "Basic realm=\"give it to me\"")));
    front.add(Rule::on("/blobs/").fault(Fault::Redirect { base: thief.url() }));
    let (layer, size) = pushed.layers[0].clone();
    let secrets = [basic(&front.host(), PASSWORD)];
    let error = Registry::new(settings()).blob(&at(&front.host()), &layer, size, 0, &secrets).await.err().unwrap();
    assert!(error.is_denied(), "{error}");
    assert!(thief.requests().iter().all(|seen| seen.header("authorization").is_none()));
}
