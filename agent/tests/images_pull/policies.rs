//! Pull policies, and the logins of a pod's own Secrets.

use super::*;

#[tokio::test]
async fn always_asks_and_pulls_only_what_has_changed() {
    let Some(node) = Node::start() else { return };
    let (pushed, _) = two_layers(10);
    let image = node.registry.push("a", "1", &pushed);
    assert!(matches!(node.prepare(&image, PullPolicy::Always).await, Ok(Prepared::Pulled { .. })));
    let before = node.images.facts(&image).await.unwrap().digest;
    let fetched = node.registry.asked("GET");
    assert_eq!(node.prepare(&image, PullPolicy::Always).await, Ok(Prepared::AsAsked));
    assert_eq!((node.registry.asked("GET"), node.registry.asked("HEAD")), (fetched, 1));

    let (changed, _) = layout(Image::busybox("any:1").unwrap().layer(noise(11, 1 << 20)));
    node.registry.push("a", "1", &changed);
    assert_eq!(node.prepare(&image, PullPolicy::IfNotPresent).await, Ok(Prepared::AsAsked));
    assert!(matches!(node.prepare(&image, PullPolicy::Always).await, Ok(Prepared::Pulled { .. })));
    assert_ne!(node.images.facts(&image).await.unwrap().digest, before);
}

#[tokio::test]
async fn always_without_a_registry_uses_what_is_here_but_not_against_its_no() {
    let Some(node) = Node::start() else { return };
    let (pushed, _) = two_layers(12);
    let image = node.registry.push("a", "1", &pushed);
    node.prepare(&image, PullPolicy::Always).await.unwrap();
    for (status, used, word) in [(503, true, "503"), (429, true, "429"), (401, false, "401"), (404, false, "not found")]
    {
        node.registry.go_on();
        node.registry.fault("manifests", 1000, Act::Status(status, Vec::new()));
        // The refusal before this one has its pause: until it is over, that refusal is what is said.
        let said = wait_for(async || {
            let said = node.prepare(&image, PullPolicy::Always).await;
            let text = match &said {
                Ok(Prepared::NotRefreshed { message }) => message.clone(),
                Err(error) => error.message.clone(),
                other => panic!("{status}: {other:?}"),
            };
            text.contains(word).then_some(said)
        });
        match said.await {
            Ok(Prepared::NotRefreshed { message }) => assert!(used, "{message}"),
            Err(error) => assert!(!used && error.reason == "ErrImagePull", "{status}: {error}"),
            other => panic!("{status}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn who_has_run_before_waits_only_a_moment_and_has_what_is_newer_the_next_time() {
    let Some(node) = Node::with(Settings { rate_limit: Some(1 << 20), ..settings() }) else { return };
    let (pushed, _) = layout(Image::empty("any:1").layer(noise(50, 1 << 10)));
    let image = node.registry.push("a", "1", &pushed);
    node.prepare(&image, PullPolicy::Always).await.unwrap();
    let before = node.images.facts(&image).await.unwrap().digest;
    let wanted = container(&image, PullPolicy::Always);
    let again = || ImageWanted { patience: Some(Duration::from_millis(500)), ..ImageWanted::quietly(&wanted) };
    assert_eq!(node.images.prepare(again()).await, Ok(Prepared::AsAsked), "a registry that answers is waited for");

    // Longer than a pull goes on that nobody wants.
    let (changed, _) = layout(Image::empty("any:1").layer(noise(51, 7 << 20)));
    node.registry.push("a", "1", &changed);
    match tokio::time::timeout(Duration::from_secs(4), node.images.prepare(again())).await.unwrap() {
        Ok(Prepared::NotRefreshed { message }) => assert!(message.contains("within 500ms"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(node.images.facts(&image).await.unwrap().digest, before);
    let newer = async || (node.images.facts(&image).await.unwrap().digest != before).then_some(());
    wait_for(newer).await;
    // Who comes while the last of it is done is told of it.
    wait_for(async || match node.images.prepare(again()).await {
        Ok(Prepared::AsAsked) => Some(()),
        Ok(Prepared::Pulled { .. }) => None,
        other => panic!("{other:?}"),
    })
    .await;
}

#[tokio::test]
async fn a_pods_secret_opens_its_registry_and_a_missing_one_is_said() {
    let Some(node) = Node::start() else { return };
    let (pushed, _) = two_layers(21);
    let image = node.registry.push("private/a", "1", &pushed);
    node.registry.require("someone", "secret-word");
    let container = container(&image, PullPolicy::IfNotPresent);
    let missing = std::sync::Mutex::new(Vec::new());
    let news = |news| {
        if let ImageNews::SecretsMissing(names) = news {
            missing.lock().unwrap().extend(names);
        }
    };
    let secrets = ["login".to_owned()];
    let wanted = ImageWanted { namespace: "ns", secrets: &secrets, news: &news, ..ImageWanted::quietly(&container) };
    let error = node.images.prepare(wanted).await.unwrap_err();
    assert!(error.message.contains("401") && !error.message.contains("secret-word"), "{error}");
    assert_eq!(*missing.lock().unwrap(), ["login"]);

    let config = json!({"auths": {node.registry.host(): {"username": "someone", "password": "secret-word"}}});
    let key = |namespace: &str| SecretKey { namespace: namespace.into(), name: "login".into() };
    let config = DockerConfig::new(config.to_string().into_bytes());
    node.images.set_secrets([(key("other"), config.clone())].into());
    let error = node.images.prepare(wanted).await.unwrap_err();
    assert!(error.message.contains("401"), "another namespace's Secret opens nothing: {error}");
    node.images.set_secrets([(key("ns"), config)].into());
    tokio::time::timeout(PATIENCE, node.images.secrets_changed()).await.expect("whoever waits is woken");
    let prepared = node.images.prepare(wanted).await;
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
}
