//! What bad links and bad servers do.

use super::*;

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
        assert!(error.to_string().contains("--registry-auth"), "{error}");
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
    let client = Registry::new(hosts_toml(dir.path(), "r.example", &text));
    secure.add(Rule::on("/manifests/").fault(Fault::Redirect { base: "http://plain.example/secret?token".to_owned() }));
    let error = client.manifest(&at("r.example"), &tag(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("plain http") && !error.to_string().contains("token"), "{error}");
}
