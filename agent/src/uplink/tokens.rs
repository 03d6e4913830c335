//! Tokens for the service accounts of the endpoint's pods: asked for through the session, kept in memory, asked for anew before they end.
//!
//! Driven by the session. What is given goes to [`crate::desired`] as one more content, so that volumes follow it as they follow a
//! Secret. Without a session the present ones stay, those on the disk ([`super::kept`]) count, and what has none is told to do without:
//! its content is there and has no token in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pod::content::{Content, ContentKey, Entry, Hidden};
use pod::manifest::Document;
use pod::name::Uid;
use pod::projection::{TOKEN, token_key};
use pod::spec::{Projection, VolumeSource};
use proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;

use super::kept::Kept;
use crate::sources::remote::Snapshot;

/// Seconds that a token lasts at most, whatever the endpoint says: no clock reaches what an endpoint may say.
const LIFE_MAX: u64 = 400 * 24 * 3600;
/// A request that is not answered, or refused, is made again so soon.
const AGAIN: Duration = Duration::from_secs(20);
/// The shortest time between two requests for one token, whatever the endpoint says of its end.
const LEAST: Duration = Duration::from_secs(30);

/// Tokens come in flocks: they are written together.
const KEEP_PAUSE: Duration = Duration::from_secs(2);

/// What was given, among the contents.
pub type Given = BTreeMap<ContentKey, Arc<Content>>;

/// See the top of the file.
#[derive(Debug)]
pub struct Tokens {
    wanted: BTreeMap<ContentKey, Wanted>,
    /// Requests on their way.
    asked: BTreeMap<u64, ContentKey>,
    next: u64,
    given: watch::Sender<Given>,
    /// When the given ones go to the disk; None: it has them.
    keep_at: Option<Instant>,
}

#[derive(Debug)]
struct Wanted {
    ask: v1::TokenRequest,
    due: Instant,
    /// Since when it is asked for; None: not since one was given.
    since: Option<Instant>,
    /// Until when the one that was given is good, in seconds since 1970.
    expires: i64,
}

impl Tokens {
    pub fn new(given: watch::Sender<Given>) -> Tokens {
        Tokens { wanted: BTreeMap::new(), asked: BTreeMap::new(), next: 1, given, keep_at: None }
    }

    /// Before the first session: the pods are these, and these tokens are left of an earlier life.
    pub fn restore(&mut self, snapshot: &Snapshot, kept: Vec<Kept>) {
        self.follow(snapshot, Instant::now());
        for kept in kept {
            let key = kept.key();
            let wanted = self.wanted.get_mut(&key);
            // As long as nothing was heard a pod of which the records alone know may stand, and need it.
            if wanted.is_some() || !is_heard(snapshot) {
                self.given.send_modify(|given| drop(given.insert(key, content(kept.token))));
            } else {
                self.keep_at.get_or_insert_with(Instant::now);
            }
            if let Some(wanted) = wanted {
                wanted.expires = kept.expires;
            }
        }
    }

    /// Tells pods that wait for a token that they have to do without, as long as there is none.
    pub fn do_without(&self) -> impl FnOnce() + Send + use<> {
        let (given, wanted): (_, Vec<ContentKey>) = (self.given.clone(), self.wanted.keys().cloned().collect());
        move || do_without(&given, wanted)
    }

    /// When [`Tokens::take_kept`] is to be asked.
    pub fn keep_at(&self) -> Option<Instant> {
        self.keep_at
    }

    /// What the disk is to have.
    pub fn take_kept(&mut self) -> Vec<Kept> {
        self.keep_at = None;
        let given = self.given.borrow();
        let kept = self.wanted.iter().filter_map(|(key, wanted)| {
            let token = given.get(key)?.entries.get(TOKEN)?;
            let token = String::from_utf8(token.value.reveal().to_vec()).ok()?;
            let (namespace, name) = (key.namespace.clone(), key.name.clone());
            Some(Kept { namespace, name, token, expires: wanted.expires })
        });
        kept.collect()
    }

    /// A session begins: nothing is on its way.
    pub fn begin(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.asked).into_values() {
            if let Some(wanted) = self.wanted.get_mut(&key) {
                wanted.due = now;
            }
        }
    }

    /// The pods are these now. One that ends has its tokens until it is gone: it may run for as long as its grace lasts.
    pub fn follow(&mut self, snapshot: &Snapshot, now: Instant) {
        let heard = is_heard(snapshot);
        let snapshot = snapshot.before.as_deref().unwrap_or(snapshot);
        let mut before = std::mem::take(&mut self.wanted);
        for (uid, object) in snapshot.pods.iter() {
            for (key, ask) in snapshot.files.get(&object.file).map(|parsed| asks(uid, parsed)).unwrap_or_default() {
                let known = before.remove(&key).map(|known| (known.due, known.since, known.expires));
                let (due, since, expires) = known.unwrap_or((now, None, 0));
                self.wanted.insert(key, Wanted { ask, due, since, expires });
            }
        }
        if !heard {
            return;
        }
        let wanted = &self.wanted;
        let dropped = self.given.send_if_modified(|given| {
            let many = given.len();
            given.retain(|key, _| wanted.contains_key(key));
            given.len() != many
        });
        // Tokens of pods that are gone do not stay on the disk.
        if dropped {
            self.keep_at.get_or_insert(now + KEEP_PAUSE);
        }
    }

    /// When something is to be asked for.
    pub fn due(&self) -> Option<Instant> {
        self.wanted.values().map(|wanted| wanted.due).min()
    }

    /// What is to be asked for now.
    pub fn take_due(&mut self, now: Instant) -> Vec<v1::TokenRequest> {
        let mut asks = Vec::new();
        let mut without = Vec::new();
        for (key, wanted) in self.wanted.iter_mut().filter(|(_, wanted)| wanted.due <= now) {
            wanted.due = now + AGAIN;
            // A session that stands may come from an endpoint that cannot give any: its store is away, the account was deleted.
            if now.saturating_duration_since(*wanted.since.get_or_insert(now)) >= AGAIN {
                without.push(key.clone());
            }
            let request = self.next;
            self.next = self.next.wrapping_add(1);
            self.asked.retain(|_, other| other != key);
            self.asked.insert(request, key.clone());
            asks.push(v1::TokenRequest { request, ..wanted.ask.clone() });
        }
        if !without.is_empty() {
            do_without(&self.given, without);
        }
        asks
    }

    /// What the endpoint answers.
    pub fn take(&mut self, answer: v1::Token, now: Instant, wall: Timestamp) {
        let v1::Token { request, token, expires, error } = answer;
        let Some(key) = self.asked.remove(&request) else { return };
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        if !error.is_empty() || token.is_empty() {
            let pod = wanted.ask.pod.as_ref().map(|pod| pod.name.as_str()).unwrap_or_default();
            tracing::warn!(
                pod,
                account = wanted.ask.account,
                why = error,
                "no token for a service account; asked again"
            );
            return;
        }
        let life = u64::try_from(expires.saturating_sub(wall.as_second())).unwrap_or(0).min(LIFE_MAX);
        // As the kubelet: when a fifth of its life is left.
        wanted.due = now + (Duration::from_secs(life) * 4 / 5).max(LEAST);
        wanted.expires = expires;
        wanted.since = None;
        self.given.send_modify(|given| drop(given.insert(key, content(token))));
        self.keep_at.get_or_insert(now + KEEP_PAUSE);
    }
}

fn is_heard(snapshot: &Snapshot) -> bool {
    snapshot.not_heard().is_none()
}

/// Those that are given stay.
fn do_without(given: &watch::Sender<Given>, keys: Vec<ContentKey>) {
    given.send_if_modified(|given| {
        let many = given.len();
        for key in keys {
            given.entry(key).or_default();
        }
        given.len() != many
    });
}

fn content(token: String) -> Arc<Content> {
    let value = Hidden::new(token.into_bytes());
    let entries = [(TOKEN.to_owned(), Entry { value, binary: false })].into();
    Content { entries, ..Content::default() }.into()
}

/// The tokens that a pod's volumes show.
fn asks(uid: &Uid, parsed: &pod::manifest::Parsed) -> Vec<(ContentKey, v1::TokenRequest)> {
    let Some(Ok(Document::Workload(pod))) = parsed.documents.first().map(|document| &document.result) else {
        return Vec::new();
    };
    let sources = pod.template.spec.volumes.iter().flat_map(|volume| match &volume.source {
        VolumeSource::Projected(projected) => projected.sources.as_slice(),
        VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) | VolumeSource::Image(_) => &[],
    });
    let mut asks = Vec::new();
    for source in sources {
        let Projection::Token { audience, expiration_seconds, .. } = source else { continue };
        let document = pod.document.read();
        let named = document["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty());
        let namespace = pod.workload.namespace.clone();
        let key = token_key(&namespace, uid, audience, *expiration_seconds);
        let pod = v1::PodRef { namespace, name: pod.workload.name.clone(), uid: uid.0.clone() };
        let ask = v1::TokenRequest {
            request: 0,
            pod: Some(pod),
            account: named.unwrap_or("default").to_owned(),
            audience: audience.clone(),
            expiration_seconds: *expiration_seconds,
        };
        asks.push((key, ask));
    }
    asks
}

#[cfg(test)]
mod tests {
    use pod::manifest::{Context, parse_object};
    use serde_json::json;

    use super::*;
    use crate::sources::remote::PodObject;

    fn snapshot(ends: bool) -> Snapshot {
        let json = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "d", "uid": "u1"}, "spec": {
            "serviceAccountName": "robot",
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}],
        }});
        let parsed = parse_object("f", json.to_string().as_bytes(), &Context::default());
        assert!(parsed.is_accepted(), "{parsed:?}");
        let object = PodObject { namespace: "d".into(), name: "a".into(), ends, file: "f".into() };
        Snapshot {
            number: 1,
            files: [("f".to_owned(), parsed.into())].into(),
            pods: Arc::new([(Uid("u1".into()), object)].into()),
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_token_is_asked_for_at_once_and_anew_when_a_fifth_of_its_life_is_left() {
        let (given, tokens) = watch::channel(Given::new());
        let mut all = Tokens::new(given);
        let (now, wall) = (Instant::now(), Timestamp::from_second(1_000).unwrap());
        all.follow(&snapshot(false), now);
        let asked = all.take_due(now);
        assert_eq!((asked.len(), asked[0].account.as_str(), asked[0].expiration_seconds), (1, "robot", 3607));
        assert!(all.take_due(now).is_empty(), "it is on its way");
        let answer = v1::Token { request: asked[0].request, token: "t1".into(), expires: 2_000, error: String::new() };
        all.take(answer, now, wall);
        let key = token_key("d", &Uid("u1".into()), "", 3607);
        let shown = |given: &Given| String::from_utf8(given[&key].entries[TOKEN].value.reveal().to_vec()).unwrap();
        assert_eq!(shown(&tokens.borrow()), "t1");
        assert_eq!(all.due(), Some(now + Duration::from_secs(800)));

        let later = now + Duration::from_secs(800);
        let asked = all.take_due(later);
        let refusal = v1::Token { request: asked[0].request, error: "no".into(), ..v1::Token::default() };
        all.take(refusal, later, wall);
        assert_eq!((shown(&tokens.borrow()), all.due()), ("t1".into(), Some(later + AGAIN)));
        // What was asked in a session that broke is asked anew in the next.
        all.take_due(later + AGAIN);
        all.begin(later + AGAIN);
        let asked = all.take_due(later + AGAIN);
        assert_eq!(asked.len(), 1);
        // An end that no clock reaches breaks nothing.
        let far = v1::Token { request: asked[0].request, token: "t2".into(), expires: i64::MAX, error: String::new() };
        all.take(far, later, wall);
        assert_eq!(all.due(), Some(later + Duration::from_secs(LIFE_MAX) * 4 / 5));
        all.take_kept();
        all.follow(&snapshot(true), later);
        assert!(shown(&tokens.borrow()) == "t2" && all.due().is_some(), "a pod that ends runs for a while");
        all.follow(&Snapshot { number: 2, ..Snapshot::default() }, later);
        assert!(tokens.borrow().is_empty() && all.due().is_none());
        assert!(all.keep_at().is_some() && all.take_kept().is_empty(), "nor does it stay on the disk");
    }

    /// Its store is away, the account was deleted: pods that ran before would not run again for as long as that lasts.
    #[test]
    fn a_session_that_gives_no_token_holds_up_no_pod_for_longer_than_one_more_try() {
        let (now, wall) = (Instant::now(), Timestamp::from_second(1_000).unwrap());
        for answers in [true, false] {
            let (given, tokens) = watch::channel(Given::new());
            let mut all = Tokens::new(given);
            all.follow(&snapshot(false), now);
            let asked = all.take_due(now);
            if answers {
                let refusal = v1::Token { request: asked[0].request, error: "no".into(), ..v1::Token::default() };
                all.take(refusal, now, wall);
            }
            // Nor is one more session that breaks a reason to do without.
            all.begin(now + AGAIN / 2);
            all.take_due(now + AGAIN / 2);
            assert!(tokens.borrow().is_empty(), "it may be a matter of a moment");
            all.begin(now + AGAIN);
            let asked = all.take_due(now + AGAIN);
            assert_eq!((asked.len(), tokens.borrow().values().filter(|it| it.entries.is_empty()).count()), (1, 1));
            let answer =
                v1::Token { request: asked[0].request, token: "t".into(), expires: 2_000, error: String::new() };
            all.take(answer, now + AGAIN, wall);
            assert_eq!(tokens.borrow().values().filter(|it| !it.entries.is_empty()).count(), 1);
        }
    }

    /// Of pods that came after the generation that a damaged checkpoint has left, and of pods that are gone.
    #[test]
    fn kept_tokens_are_given_until_the_endpoint_says_that_their_pod_is_gone() {
        let (given, tokens) = watch::channel(Given::new());
        let mut all = Tokens::new(given);
        let key = token_key("d", &Uid("u2".into()), "", 3607);
        let kept = || Kept { namespace: "d".into(), name: key.name.clone(), token: "t".into(), expires: 2_000 };
        let silent = Snapshot { before: Some(Arc::new(snapshot(false))), ..Snapshot::default() };
        all.restore(&silent, vec![kept()]);
        all.follow(&silent, Instant::now());
        assert!(tokens.borrow().contains_key(&key) && all.keep_at().is_none());
        all.follow(&snapshot(false), Instant::now());
        assert!(tokens.borrow().is_empty() && all.keep_at().is_some(), "nor does the disk keep it");
        all.take_kept();
        all.restore(&snapshot(false), vec![kept()]);
        assert!(tokens.borrow().is_empty() && all.keep_at().is_some());
    }
}
