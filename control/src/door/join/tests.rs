//! Who comes in, and under which name.

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use super::super::testing::{Place, at, place};
use super::*;
use crate::store::Watch as _;

struct World {
    place: Place,
    clock: Clock,
    joining: Joining,
}

const YEAR: i64 = 365 * 24 * 3600;

fn world() -> World {
    let place = place();
    let clock = Clock::at(at(0));
    let authority = Arc::new(Authority::generate(at(0)).unwrap());
    let joining = Joining::new(authority, place.store.clone(), clock.clone());
    World { place, clock, joining }
}

fn from() -> IpAddr {
    "192.0.2.7".parse().unwrap()
}

/// A request for a certificate of a new key.
fn request() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
}

fn shown(signed: &Signed) -> Vec<CertificateDer<'static>> {
    vec![signed.certificate.clone().into()]
}

impl World {
    async fn token(&self) -> String {
        self.joining.create(&Wanted::default()).await.unwrap()
    }

    async fn join(&self, token: &str, node: &str) -> Result<Signed, JoinError> {
        self.joining.join(from(), token, node, &request()).await
    }

    async fn node_object(&self, name: &str) {
        self.place.put("", "nodes", &json!({ "metadata": { "name": name } })).await;
    }
}

#[tokio::test]
async fn a_token_becomes_a_certificate_that_is_known_again() {
    let world = world();
    let token = world.token().await;
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    assert_eq!(parts[2], world.joining.authority().pin());
    let signed = world.join(&token, "worker-1").await.unwrap();
    let node = world.joining.node(&shown(&signed)).await.unwrap();
    assert_eq!(node, Node { name: "worker-1".into(), is_expired: false, not_after: at(YEAR) });
    world.clock.set(at(YEAR + 5));
    assert!(world.joining.node(&shown(&signed)).await.unwrap().is_expired);
}

#[tokio::test]
async fn tokens_end_by_time_and_by_use_and_no_other_secret_is_good() {
    let world = world();
    let token = world.joining.create(&Wanted { uses: 2, ..Wanted::default() }).await.unwrap();
    assert!(world.join(&token, "a").await.is_ok());
    assert!(matches!(world.join(&token, "no_name").await, Err(JoinError::Name(_))), "a refused name uses nothing up");
    assert!(matches!(
        world.joining.join(from(), &token, "b", b"no request").await,
        Err(JoinError::Request(AuthorityError::Request(_)))
    ));
    assert!(world.join(&token, "b").await.is_ok());
    assert!(matches!(world.join(&token, "c").await, Err(JoinError::Token(Bad::UsedUp))));
    let late = world.token().await;
    world.clock.set(at(24 * 3600));
    assert!(matches!(world.join(&late, "c").await, Err(JoinError::Token(Bad::Expired))));
    let (id, _) = late.split_once('.').unwrap();
    let guessed = format!("{id}.{}", "a".repeat(32));
    assert!(matches!(world.join(&guessed, "c").await, Err(JoinError::Token(Bad::Unknown))));
}

#[tokio::test]
async fn a_name_belongs_to_its_key_until_somebody_gives_it_free() {
    let world = world();
    let token = world.token().await;
    let first = world.join(&token, "worker").await.unwrap();
    world.node_object("worker").await;
    let refused = world.join(&token, "worker").await.unwrap_err();
    assert!(matches!(&refused, JoinError::Taken(name) if name == "worker"));
    assert!(refused.to_string().contains("kubectl delete node worker"), "{refused}");
    // Made for it: the new key rules, the old one is nobody's.
    let own = world.joining.create(&Wanted { node: Some("worker".into()), ..Wanted::default() }).await.unwrap();
    assert!(matches!(world.join(&own, "other").await, Err(JoinError::Token(Bad::AnotherNodes))));
    let second = world.join(&own, "worker").await.unwrap();
    assert!(matches!(world.joining.node(&shown(&first)).await, Err(JoinError::Replaced(_))));
    assert!(matches!(world.joining.renew(&shown(&first), &request()).await, Err(JoinError::Replaced(_))));
    assert!(world.joining.node(&shown(&second)).await.is_ok());
    // Its Node has been deleted.
    world.place.delete("", "nodes", &json!({ "metadata": { "name": "worker" } })).await;
    let third = world.join(&token, "worker").await.unwrap();
    world.node_object("worker").await;
    assert!(world.joining.node(&shown(&third)).await.is_ok());
    // Nobody has been there for longer than he could renew.
    world.clock.set(at(2 * YEAR + 10));
    let token = world.token().await;
    assert!(world.join(&token, "worker").await.is_ok());
}

#[tokio::test]
async fn of_two_machines_of_one_name_the_second_does_not_replace_the_first_that_is_about_to_come() {
    let world = world();
    let token = world.token().await;
    let first = world.join(&token, "worker").await.unwrap();
    assert!(matches!(world.join(&token, "worker").await, Err(JoinError::Coming(_))));
    assert!(world.joining.node(&shown(&first)).await.is_ok());
    world.node_object("worker").await;
    assert!(matches!(world.join(&token, "worker").await, Err(JoinError::Taken(_))));
    // It has been there, and somebody has deleted its Node: nobody waits.
    world.place.delete("", "nodes", &json!({ "metadata": { "name": "worker" } })).await;
    assert!(world.join(&token, "worker").await.is_ok());
    // One that never comes: the answer was lost, or it could not save it.
    world.clock.set(at(60));
    assert!(world.join(&token, "worker").await.is_ok());
}

#[tokio::test]
async fn a_certificate_is_renewed_also_after_its_end_and_both_keys_are_good_until_the_next() {
    let world = world();
    let token = world.token().await;
    let first = world.join(&token, "worker").await.unwrap();
    world.clock.set(at(YEAR + 1000));
    let second = world.joining.renew(&shown(&first), &request()).await.unwrap();
    assert_eq!(second.not_after, at(2 * YEAR + 1000));
    assert!(!world.joining.node(&shown(&second)).await.unwrap().is_expired);
    // The node died before it saved the second.
    assert!(world.joining.renew(&shown(&first), &request()).await.is_ok());
    assert!(
        matches!(world.joining.node(&shown(&second)).await, Err(JoinError::Replaced(_))),
        "it never reached anybody"
    );
    let administrator = world.joining.authority().user("admin", "system:masters", at(0)).unwrap();
    use rustls::pki_types::pem::PemObject as _;
    let chain = vec![CertificateDer::from_pem_slice(administrator.chain_pem.as_bytes()).unwrap()];
    assert!(matches!(world.joining.renew(&chain, &request()).await, Err(JoinError::NoNode)));
    assert!(matches!(world.joining.renew(&[], &request()).await, Err(JoinError::NoNode)));
}

#[tokio::test]
async fn a_store_that_was_put_back_knows_certificates_that_were_made_since() {
    let world = world();
    let key = format!("{NODES}worker");
    let first = world.join(&world.token().await, "worker").await.unwrap();
    let copy = world.place.store.get(&key).await.unwrap().entry.unwrap().value;
    world.clock.set(at(YEAR * 2 / 3));
    let second = world.joining.renew(&shown(&first), &request()).await.unwrap();
    let put_back = async |value| {
        let revision = world.place.store.get(&key).await.unwrap().entry.unwrap().revision;
        let write = Write { key: key.clone(), value, expected: Expected::At(revision) };
        world.place.store.write(write).await.unwrap();
    };
    put_back(Some(copy)).await;
    assert!(world.joining.node(&shown(&second)).await.is_ok());
    assert!(world.joining.renew(&shown(&second), &request()).await.is_ok());
    assert!(matches!(world.joining.node(&shown(&first)).await, Err(JoinError::Replaced(_))));
    put_back(None).await;
    assert!(world.joining.node(&shown(&first)).await.is_ok(), "from before it joined");
}

#[tokio::test]
async fn who_fails_too_often_is_not_listened_to_and_who_succeeds_is() {
    let world = world();
    let token = world.token().await;
    for number in 0..FAILURES_MAX * 2 {
        assert!(world.join(&token, &format!("n{number}")).await.is_ok());
    }
    // A name that is taken, or a token of before: that is nobody who guesses.
    world.node_object("n0").await;
    for _ in 0..FAILURES_MAX * 2 {
        assert!(matches!(world.join(&token, "n0").await, Err(JoinError::Taken(_))));
    }
    // Yesterday's, on all machines of an image.
    for _ in 0..FAILURES_MAX * 2 {
        assert!(matches!(world.join("revoked", "x").await, Err(JoinError::Token(Bad::Unknown))));
    }
    for guess in 1..FAILURES_MAX {
        let guess = format!("nonsense {guess}");
        assert!(matches!(world.join(&guess, "x").await, Err(JoinError::Token(Bad::Unknown))));
    }
    assert!(matches!(world.join(&token, "x").await, Err(JoinError::TooMany(_))));
    assert!(world.joining.admits(from()).is_err() && world.joining.admits("192.0.2.8".parse().unwrap()).is_ok());
    world.clock.set(at(61));
    assert!(world.join(&token, "x").await.is_ok());
}

#[tokio::test]
async fn what_is_revoked_lets_nobody_in_and_is_good_for_nothing() {
    let world = world();
    let token = world.token().await;
    let id = token.split('.').next().unwrap();
    let signed = world.join(&token, "worker").await.unwrap();
    world.node_object("worker").await;
    let known = world.joining.tokens().await.unwrap();
    assert_eq!(known.iter().map(|it| (it.id.as_str(), it.uses)).collect::<Vec<_>>(), [(id, USES - 1)]);
    assert!(world.joining.revoke_token(id).await.unwrap() && !world.joining.revoke_token(id).await.unwrap());
    assert!(matches!(world.join(&token, "other").await, Err(JoinError::Token(Bad::Unknown))));
    assert!(world.joining.tokens().await.unwrap().is_empty());

    assert!(world.joining.node(&shown(&signed)).await.is_ok(), "who has joined stays");
    let from = world.place.store.get(KEYS).await.unwrap().revision;
    assert!(world.joining.revoke_node("worker").await.unwrap() && !world.joining.revoke_node("none").await.unwrap());
    let changes = world.place.store.watch(KEYS, from).await.unwrap().next().await.unwrap().changes;
    let told: Vec<_> = changes.iter().filter_map(|change| nobodys(change.now.as_ref()?)).collect();
    assert_eq!(told, ["worker", "none"]);
    assert!(matches!(world.joining.node(&shown(&signed)).await, Err(JoinError::Replaced(_))));
    assert!(matches!(world.joining.renew(&shown(&signed), &request()).await, Err(JoinError::Replaced(_))));
    // Its name is free once its Node is deleted, and what was revoked stays so.
    let token = world.token().await;
    assert!(matches!(world.join(&token, "worker").await, Err(JoinError::Taken(_))));
    world.place.delete("", "nodes", &json!({ "metadata": { "name": "worker" } })).await;
    assert!(world.join(&token, "worker").await.is_ok());
    assert!(matches!(world.joining.node(&shown(&signed)).await, Err(JoinError::Replaced(_))));
}

#[tokio::test]
async fn a_node_of_which_the_store_that_was_put_back_knows_nothing_is_revoked_too() {
    let (world, before) = (world(), world());
    let token = world.token().await;
    for (name, has_called) in [("called", true), ("silent", false)] {
        let signed = world.join(&token, name).await.unwrap();
        if has_called {
            before.node_object(name).await;
        }
        // The same authority, and a store in which nobody has joined.
        let back = Joining::new(world.joining.authority().clone(), before.place.store.clone(), before.clock.clone());
        assert!(back.node(&shown(&signed)).await.is_ok(), "it has the authority's word");
        assert_eq!(back.revoke_node(name).await.unwrap(), has_called, "{name}");
        assert!(matches!(back.node(&shown(&signed)).await, Err(JoinError::Replaced(_))), "{name}");
        assert!(matches!(back.renew(&shown(&signed), &request()).await, Err(JoinError::Replaced(_))), "{name}");
    }
    assert!(matches!(before.joining.revoke_node("No Name").await, Err(JoinError::Name(_))));
}

#[tokio::test]
async fn of_many_that_join_at_once_as_many_come_in_as_the_token_has_uses() {
    let world = world();
    let token = world.joining.create(&Wanted { uses: 5, ..Wanted::default() }).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..12_u8 {
        let (joining, token) = (world.joining.clone(), token.clone());
        tasks.spawn(async move {
            let from = IpAddr::from([192, 0, 2, number]);
            joining.join(from, &token, &format!("n{number}"), &request()).await.is_ok()
        });
    }
    let joined = tasks.join_all().await.into_iter().filter(|joined| *joined).count();
    assert_eq!(joined, 5);
}

#[tokio::test]
async fn tokens_are_bounded_in_number_and_in_what_they_may_be() {
    let world = world();
    let short = Wanted { ttl: Duration::from_secs(60), ..Wanted::default() };
    // At once, so that they share the disk's syncs.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TOKENS_LIMIT {
        let (joining, short) = (world.joining.clone(), short.clone());
        tasks.spawn(async move { joining.create(&short).await });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    assert!(matches!(world.joining.create(&short).await, Err(JoinError::TooManyTokens)));
    world.clock.set(at(60));
    assert!(world.joining.create(&short).await.is_ok(), "those that ended make room");
    for unfit in [
        Wanted { ttl: Duration::ZERO, ..Wanted::default() },
        Wanted { ttl: TTL_MAX + Duration::from_secs(1), ..Wanted::default() },
        Wanted { uses: 0, ..Wanted::default() },
        Wanted { node: Some("../x".into()), ..Wanted::default() },
    ] {
        assert!(world.joining.create(&unfit).await.is_err(), "{unfit:?}");
    }
}
