//! Registries as they are: Debian's docker-registry, tokens, TLS, and everything that a bad link or a bad server does, through the public
//! interface of `agent::registry`.

mod faults;
mod hosts;
mod logins;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::registry::{
    Credential, Failure, Login, MANIFEST_MAX, Patience, Proxy, Registry, RegistryError, Repository, Secret, Settings,
    Target,
};
use serde_json::json;
use tests::authority::Authority;
use tests::faulty::{Bearer, Fault, FaultyProxy, Rule};
use tests::image::{Image, Layout, Tarball, digest};
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
        ..Patience::default()
    };
    Settings { patience, ..Settings::default() }
}

fn impatient() -> Settings {
    let patience = Patience {
        connect: Duration::from_secs(5),
        stall: Duration::from_millis(300),
        document: Duration::from_secs(5),
        ..Patience::default()
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
fn hosts_toml(dir: &Path, registry: &str, text: &str) -> Settings {
    let own = dir.join(registry);
    std::fs::create_dir_all(&own).expect("a temporary directory");
    std::fs::write(own.join("hosts.toml"), text).expect("a temporary directory");
    Settings { hosts_dir: Some(dir.to_owned()), ..settings() }
}

fn last(error: &RegistryError) -> &Failure {
    match error {
        RegistryError::Asked { failures, .. } => &failures.last().expect("somebody was asked").failure,
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

#[tokio::test]
async fn an_index_and_docker_s_own_documents_keep_their_types() {
    let registry = TestRegistry::start();
    let images = ["amd64", "arm64"].map(|arch| image().platform("linux", arch));
    let pushed = registry.push_layout("team/app", "1", &Layout::multi_platform("any", &images));
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let single = registry.push("team/app", "2", &image());
    let old = json!({"schemaVersion": 2, "mediaType": docker,
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": single.config, "size": 1},
        "layers": []});
    registry.put_manifest("team/app", "2", docker, old.to_string().as_bytes());
    let proxy = FaultyProxy::in_front_of(&registry).start();
    let client = Registry::new(settings());
    let index = client.manifest(&at(&proxy.host()), &tag(), &[]).await.unwrap();
    assert_eq!((index.media_type.as_str(), &index.digest), ("application/vnd.oci.image.index.v1+json", &pushed.digest));
    let manifest = client.manifest(&at(&proxy.host()), &Target::Tag("2".to_owned()), &[]).await.unwrap();
    assert_eq!((manifest.media_type.as_str(), manifest.bytes), (docker, old.to_string().into_bytes()));
}
