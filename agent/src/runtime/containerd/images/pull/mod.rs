//! Pulls: one for each image, however many pods wait for it; begun when the first of them asks, tried again when somebody
//! still wants it and its pause is over, given up when nobody does.
//!
//! Driven by `prepare`. Reading order: this, [`attempt`], [`fetch`], [`conduct`], [`places`], [`schedule`], [`rate`], [`meter`], [`room`]. Bytes that arrived stay
//! under a lease of the image's own, also when this process dies, so that the next try goes on where the last one ended.

mod attempt;
mod by_hand;
mod conduct;
pub mod fetch;
pub mod meter;
mod places;
mod rate;
mod room;
pub mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_client::tonic::Code;
use pod::secret::{DockerConfig, SecretKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::attempt::Brought;
use self::fetch::Fetch;
use self::meter::{Meter, Rate};
use self::places::Places;
use self::rate::Throttle;
use self::schedule::{Backoff, Hint};
use super::digest::Digest;
use super::locks::Locks;
use super::reference::Reference;
use super::store::{LEASE_LIFE, Lease};
use super::{ImageError, Images};
use crate::image_pull::{ImagePull, Progress, Stage};
use crate::registry::{self, Credential, Registry, Repository};

/// For how long a pull goes on that nobody wants: an edit that changes something else comes back within moments.
const GRACE: Duration = Duration::from_secs(5);
/// How long a failed pull is remembered beyond the end of its pause: who still wants it asks then.
const REMEMBERED: Duration = Duration::from_secs(10);
/// After this part of its life a lease is replaced by a new one, also in the middle of a try: it begins anew with what has arrived.
const LEASE_RENEWED: u32 = 2;
/// A pause with no more than this to go is over: clocks that wake a waiter count in whole milliseconds.
const PAUSE_SLACK: Duration = Duration::from_millis(50);
/// The longest time between two words to whoever waits about how far a pull is; the first ones come sooner, each pause is twice the one
/// before.
const PROGRESS_PAUSE_MAX: Duration = Duration::from_secs(300);
/// How often the display of running pulls moves.
const TICK: Duration = Duration::from_millis(500);

/// What the composition root decides.
#[derive(Debug, Clone)]
pub struct Settings {
    pub registry: registry::Settings,
    /// Bytes a second over all downloads; None: no limit.
    pub rate_limit: Option<u64>,
    pub backoff: Backoff,
    /// How long what has arrived is kept for a pull that nobody goes on with.
    pub lease_life: Duration,
    /// After so long whoever waits is told for the first time how far a pull is: a short one needs no such word.
    pub progress_after: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        let (registry, backoff) = (registry::Settings::default(), Backoff::default());
        Settings {
            registry,
            rate_limit: None,
            backoff,
            lease_life: LEASE_LIFE,
            progress_after: Duration::from_secs(10),
        }
    }
}

/// All pulls of one containerd namespace.
pub struct Pulls {
    pub(super) registry: Registry,
    pub(super) throttle: Throttle,
    pub(super) places: Places,
    /// One download for each blob, however many images share it.
    pub(super) blobs: Locks,
    backoff: Backoff,
    lease_life: Duration,
    progress_after: Duration,
    entries: Mutex<Entries>,
    /// Told when a pull begins: the display may be asleep until a pause ends.
    begun: Notify,
    shown: watch::Sender<Vec<ImagePull>>,
}

#[derive(Default)]
struct Entries {
    by_key: BTreeMap<Key, Entry>,
    /// Entries so far.
    made: u64,
    /// Whether the task that moves the display runs.
    displayed: bool,
}

/// An image and the credentials that it is pulled with: a pod that may not have an image does not get another's failure,
/// nor cause it one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Canonical.
    name: String,
    secrets: Vec<SecretKey>,
}

/// What a pull needs to know of who wants it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub reference: &'a Reference,
    /// As the manifest writes it.
    pub written: &'a str,
    /// What the name means on this node: then nothing is fetched unless the registry says otherwise.
    pub here: Option<&'a Digest>,
    pub secrets: &'a Logins,
}

/// Secrets that a pod names, as far as they are known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logins {
    pub keys: Vec<SecretKey>,
    pub credentials: Vec<Credential>,
    /// Names of those that are not known, or cannot be read.
    pub missing: Vec<String>,
}

/// One image that is pulled, or whose pull has failed lately.
struct Entry {
    /// Another one for each entry: that of a pull that has ended is not that of its successor.
    id: u64,
    /// How often it is waited for, by the name as manifests write it.
    wanted: BTreeMap<String, usize>,
    interest: watch::Sender<usize>,
    /// What the running try says; None between tries.
    running: Option<watch::Receiver<Try>>,
    meter: Arc<Meter>,
    rate: Rate,
    failures: u32,
    failed: Option<(PullFailure, Instant, jiff::Timestamp)>,
    /// Its last failure was for want of room.
    found_no_room: bool,
    lease: Held,
}

/// A pull's lease and when it was taken; it is known here before containerd knows it, so that no other pull of the image gives it
/// back.
type Held = Arc<Mutex<Option<(Lease, Instant)>>>;

/// A running try, for those who wait for it.
#[derive(Debug, Clone)]
enum Try {
    Asking,
    Fetching,
    Done(Result<Arrived, PullFailure>),
}

/// An image that is here as its name means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Bytes, and for how long they were fetched; None: what was here is what the name still means.
    pub brought: Option<(u64, Duration)>,
}

/// What whoever waits for an image is told meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullNews {
    Fetching,
    /// How far, in words.
    Progress(String),
}

/// Why it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullFailure {
    pub message: String,
    /// The registry could not be reached: an image that is here may be used.
    pub unreachable: bool,
    /// containerd is away: this says nothing about the image.
    pub unavailable: bool,
}

/// What whoever wanted the image is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It was tried just now.
    Failed { failure: PullFailure, wait: Option<Duration> },
    /// It failed lately; its pause has this long to go.
    Pausing { failure: PullFailure, wait: Duration },
}

impl Pulls {
    pub fn new(settings: Settings) -> Pulls {
        Pulls {
            registry: Registry::new(settings.registry),
            throttle: Throttle::new(settings.rate_limit),
            places: Places::default(),
            blobs: Locks::default(),
            backoff: settings.backoff,
            lease_life: settings.lease_life,
            progress_after: settings.progress_after,
            entries: Mutex::default(),
            begun: Notify::new(),
            shown: watch::Sender::default(),
        }
    }

    /// Pulls under way and those that wait for their next try, as they stand.
    pub fn shown(&self) -> watch::Receiver<Vec<ImagePull>> {
        self.shown.subscribe()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what there is, forgetting what nobody came back for; when to look again.
    fn show(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut entries = self.entries();
        let Entries { by_key, displayed, .. } = &mut *entries;
        by_key.retain(|_, entry| match &entry.failed {
            _ if entry.running.is_some() => true,
            Some((_, until, _)) => *until + REMEMBERED > now,
            None => false,
        });
        let rows: Vec<ImagePull> = by_key.iter_mut().map(|(key, entry)| entry.row(&key.name, now)).collect();
        self.shown.send_if_modified(|before| {
            let differs = *before != rows;
            *before = rows;
            differs
        });
        if by_key.is_empty() {
            *displayed = false;
            self.registry.rest();
            return None;
        }
        if by_key.values().any(|entry| entry.running.is_some()) {
            return Some(TICK);
        }
        let forgotten = by_key.values().filter_map(|entry| entry.failed.as_ref()).map(|(_, until, _)| *until);
        forgotten.min().map(|until| (until + REMEMBERED).saturating_duration_since(now).max(TICK))
    }
}

impl Entries {
    /// The image's entry, a new one where there is none.
    fn entry(&mut self, key: &Key) -> &mut Entry {
        let Entries { by_key, made, .. } = self;
        by_key.entry(key.clone()).or_insert_with(|| {
            *made += 1;
            Entry::new(*made)
        })
    }
}

impl Entry {
    fn new(id: u64) -> Entry {
        Entry {
            id,
            wanted: BTreeMap::new(),
            interest: watch::Sender::new(0),
            running: None,
            meter: Arc::default(),
            rate: Rate::default(),
            failures: 0,
            failed: None,
            found_no_room: false,
            lease: Arc::default(),
        }
    }

    fn want(&mut self, written: &str) {
        *self.wanted.entry(written.to_owned()).or_default() += 1;
        self.interest.send_modify(|interest| *interest += 1);
    }

    fn row(&mut self, name: &str, now: Instant) -> ImagePull {
        let stage = match (&self.running, &self.failed) {
            (None, Some((failure, _, until))) => {
                Stage::Waiting { reason: failure.message.clone(), until: Some(*until) }
            }
            (Some(running), _) if matches!(*running.borrow(), Try::Fetching) => {
                let bytes_per_second = self.rate.look(now, self.meter.brought());
                Stage::Fetching(Progress { bytes_per_second, ..self.meter.progress() })
            }
            _ => Stage::Asking,
        };
        ImagePull { name: name.to_owned(), wanted_as: self.wanted.keys().cloned().collect(), stage }
    }
}

/// Somebody's wish for an image; dropped, it is over.
struct Wish<'a> {
    pulls: &'a Pulls,
    key: Key,
    written: String,
    /// The id of the entry that counts it.
    entry: u64,
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        let mut entries = self.pulls.entries();
        let entry = entries.by_key.get_mut(&self.key).filter(|entry| entry.id == self.entry);
        let Some(entry) = entry else { return };
        if let Some(count) = entry.wanted.get_mut(&self.written) {
            *count -= 1;
            if *count == 0 {
                entry.wanted.remove(&self.written);
            }
        }
        entry.interest.send_modify(|interest| *interest = interest.saturating_sub(1));
    }
}

impl Images {
    pub(super) fn registry(&self) -> &Registry {
        &self.shared.pulls.registry
    }

    /// Pulls under way and those that wait for their next try.
    pub fn pulls(&self) -> watch::Receiver<Vec<ImagePull>> {
        self.shared.pulls.shown()
    }

    /// Other Secrets: what failed may succeed now.
    pub fn set_secrets(&self, secrets: BTreeMap<SecretKey, DockerConfig>) {
        let changed = self.shared.secrets.send_if_modified(|known| {
            let differs = *known != secrets;
            *known = secrets;
            differs
        });
        if changed {
            for entry in self.shared.pulls.entries().by_key.values_mut() {
                if let Some((_, until, _)) = &mut entry.failed {
                    *until = Instant::now();
                }
            }
            self.shared.secrets_changed.notify_one();
        }
    }

    /// Until Secrets have changed. Cancel-safe.
    pub async fn secrets_changed(&self) {
        self.shared.secrets_changed.notified().await;
    }

    /// The credentials in these Secrets of this namespace.
    pub(super) fn logins(&self, namespace: &str, names: &[String]) -> Logins {
        let mut logins = Logins::default();
        let known = self.shared.secrets.borrow();
        for name in names {
            let key = SecretKey { namespace: namespace.to_owned(), name: name.clone() };
            match known.get(&key).map(|config| Credential::from_docker_config(config.reveal())) {
                Some(Ok(credentials)) => {
                    logins.credentials.extend(credentials);
                    logins.keys.push(key);
                }
                Some(Err(error)) => logins.missing.push(format!("{name}: {error}")),
                None => logins.missing.push(name.clone()),
            }
        }
        logins
    }

    /// Waits until the image is here as its name means it now. `news` is called when bytes are fetched, and now and then with how far
    /// that is. Dropped, one waits no longer.
    pub(super) async fn pull(&self, ask: Ask<'_>, news: impl Fn(PullNews)) -> Result<Arrived, Refusal> {
        let Ask { reference, .. } = ask;
        let (mut running, wish) = self.join(ask)?;
        let mut pause = self.shared.pulls.progress_after;
        let mut told = Instant::now();
        loop {
            let said = running.borrow_and_update().clone();
            match said {
                Try::Asking => {}
                Try::Fetching => news(PullNews::Fetching),
                Try::Done(Ok(arrived)) => return Ok(arrived),
                Try::Done(Err(failure)) => {
                    let wait = self.pause_of(&wish.key);
                    return Err(Refusal::Failed { failure, wait });
                }
            }
            // Both only wait.
            let changed = tokio::select! {
                changed = running.changed() => changed,
                () = tokio::time::sleep_until(told + pause) => {
                    (told, pause) = (Instant::now(), pause.saturating_mul(2).min(PROGRESS_PAUSE_MAX));
                    if let Some(words) = self.progress_of(&wish.key) {
                        news(PullNews::Progress(words));
                    }
                    continue;
                }
            };
            if changed.is_err() {
                let message = format!("the pull of {reference} ended without an answer");
                let failure = PullFailure { message, unreachable: false, unavailable: true };
                return Err(Refusal::Failed { failure, wait: None });
            }
        }
    }

    /// In words; None where nothing is fetched just now.
    fn progress_of(&self, key: &Key) -> Option<String> {
        let mut entries = self.shared.pulls.entries();
        let row = entries.by_key.get_mut(key)?.row(&key.name, Instant::now());
        matches!(row.stage, Stage::Fetching(_)).then(|| row.sentence())
    }

    fn pause_of(&self, key: &Key) -> Option<Duration> {
        let entries = self.shared.pulls.entries();
        let (_, until, _) = entries.by_key.get(key)?.failed.as_ref()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// The running try, or a new one; or the pause of the last.
    fn join(&self, ask: Ask<'_>) -> Result<(watch::Receiver<Try>, Wish<'_>), Refusal> {
        let pulls = &self.shared.pulls;
        let key = Key { name: ask.reference.record_name(), secrets: ask.secrets.keys.clone() };
        let written = ask.written;
        let mut entries = pulls.entries();
        let entry = entries.entry(&key);
        let running = match (&entry.running, &entry.failed) {
            (Some(running), _) => running.clone(),
            (None, Some((failure, until, _))) if *until > Instant::now() + PAUSE_SLACK => {
                let wait = until.saturating_duration_since(Instant::now());
                return Err(Refusal::Pausing { failure: failure.clone(), wait });
            }
            (None, _) => self.begin(entry, &key, ask),
        };
        entry.want(written);
        let wish = Wish { pulls, key, written: written.to_owned(), entry: entry.id };
        if !std::mem::replace(&mut entries.displayed, true) {
            tokio::spawn(display(self.clone()));
        }
        drop(entries);
        pulls.begun.notify_one();
        Ok((running, wish))
    }

    fn begin(&self, entry: &mut Entry, key: &Key, ask: Ask<'_>) -> watch::Receiver<Try> {
        let (said, running) = watch::channel(Try::Asking);
        entry.running = Some(running.clone());
        entry.meter = Arc::default();
        entry.rate = Rate::default();
        let tried = Tried {
            images: self.clone(),
            key: key.clone(),
            reference: ask.reference.clone(),
            here: ask.here.cloned(),
            credentials: ask.secrets.credentials.clone().into(),
            meter: Arc::clone(&entry.meter),
            lease: Arc::clone(&entry.lease),
            said,
        };
        tokio::spawn(tried.run(entry.interest.subscribe()));
        running
    }
}

/// A try with all that it needs.
struct Tried {
    images: Images,
    key: Key,
    reference: Reference,
    here: Option<Digest>,
    credentials: Arc<[Credential]>,
    meter: Arc<Meter>,
    lease: Held,
    said: watch::Sender<Try>,
}

impl Tried {
    /// Runs until it has an outcome or nobody wants one.
    async fn run(self, mut interest: watch::Receiver<usize>) {
        let begun = Instant::now();
        loop {
            // Either may be dropped: what has arrived is containerd's already.
            let outcome = tokio::select! {
                biased;
                outcome = self.attempt() => Some(outcome),
                () = nobody(&mut interest) => None,
            };
            let room = match &outcome {
                Some(Err(error)) if error.is_disk_full() => Some(self.room().await),
                _ => None,
            };
            if self.finish(outcome, room, begun) {
                break;
            }
        }
        self.images.shared.pulls.show();
    }

    /// Until there is an outcome, under as many leases as that takes.
    async fn attempt(&self) -> Result<Brought, ImageError> {
        let name = self.reference.record_name();
        let mut lost = false;
        let brought = loop {
            let (lease, renewed) = self.leased(&name).await?;
            match tokio::time::timeout_at(renewed, self.bring(&name, lease)).await {
                // The lease, it may be: somebody has taken it away, or containerd's root was made anew.
                Ok(Err(ImageError::Containerd { status, .. })) if status.code() == Code::NotFound && !lost => {
                    lost = true
                }
                Ok(outcome) => break outcome,
                Err(_) => tracing::info!(image = name, "the pull's lease is renewed"),
            }
            *self.held() = None;
        };
        // Also those of an agent that was killed: the image's record holds everything now. And where the disk is full what has
        // arrived is in everybody's way: of an image that does not fit nothing may stay.
        let full = brought.as_ref().is_err_and(ImageError::is_disk_full);
        if brought.is_ok() || full {
            let given_back = Lease::give_back_of(self.images.client(), &name, || self.others(), full).await;
            match given_back {
                Err(status) if !full => {
                    return Err(ImageError::Containerd { doing: format!("giving back the leases of {name}"), status });
                }
                Err(status) => tracing::warn!(image = name, reason = status.message(), "what was fetched of it stays"),
                Ok(()) => {}
            }
            *self.held() = None;
        }
        brought
    }

    async fn bring(&self, name: &str, lease: Lease) -> Result<Brought, ImageError> {
        let fetch = Fetch {
            images: self.images.clone(),
            image: name.into(),
            repository: Arc::new(Repository {
                host: self.reference.registry().to_owned(),
                path: self.reference.repository().to_owned(),
            }),
            secrets: Arc::clone(&self.credentials),
            lease,
            meter: Arc::clone(&self.meter),
        };
        let began = || drop(self.said.send_replace(Try::Fetching));
        attempt::bring(&fetch, &self.reference, self.here.as_ref(), began).await
    }

    /// The pull's lease, a new one where it has none or an old one, and when it is to be replaced.
    async fn leased(&self, name: &str) -> Result<(Lease, Instant), ImageError> {
        let life = self.images.shared.pulls.lease_life;
        if let Some((lease, since)) = &*self.held() {
            let renewed = *since + life / LEASE_RENEWED;
            if renewed > Instant::now() {
                return Ok((lease.clone(), renewed));
            }
        }
        let (lease, since) = (Lease::of_pull(), Instant::now());
        *self.held() = Some((lease.clone(), since));
        if let Err(status) = lease.take_for_pull(self.images.client(), name, life).await {
            *self.held() = None;
            return Err(ImageError::Containerd { doing: format!("taking a lease for {name}"), status });
        }
        Ok((lease, since + life / LEASE_RENEWED))
    }

    /// Leases of other pulls of this image, with other credentials.
    fn others(&self) -> BTreeSet<String> {
        let entries = self.images.shared.pulls.entries();
        let others = entries.by_key.iter().filter(|(key, _)| key.name == self.key.name && **key != self.key);
        let held = others.filter_map(|(_, entry)| held(&entry.lease).as_ref().map(|(lease, _)| lease.id().to_owned()));
        held.collect()
    }

    fn held(&self) -> MutexGuard<'_, Option<(Lease, Instant)>> {
        held(&self.lease)
    }

    /// Writes the outcome down and says it; false when somebody wants it again that nobody wanted a moment ago.
    fn finish(&self, outcome: Option<Result<Brought, ImageError>>, room: Option<String>, begun: Instant) -> bool {
        let pulls = &self.images.shared.pulls;
        let name = self.reference.record_name();
        let mut entries = pulls.entries();
        let Some(entry) = entries.by_key.get_mut(&self.key) else { return true };
        let done = match outcome {
            None if *entry.interest.borrow() > 0 => return false,
            None => {
                tracing::info!(image = name, "pull given up: nobody wants it any more");
                entries.by_key.remove(&self.key);
                return true;
            }
            Some(Ok(brought)) => {
                let brought = match brought {
                    Brought::Nothing => None,
                    Brought::Image { size } => {
                        let took_ms = begun.elapsed().as_millis();
                        tracing::info!(image = name, size, fetched = self.meter.brought(), took_ms, "image pulled");
                        self.images.shared.arrived.notify_one();
                        if let Some(metrics) = self.images.shared.metrics.get() {
                            metrics.image_pulled(size, begun.elapsed());
                        }
                        Some((size, begun.elapsed()))
                    }
                };
                entries.by_key.remove(&self.key);
                Ok(Arrived { brought })
            }
            Some(Err(error)) => {
                self.images.note_failure(&error);
                let mut failure = entry.fail(&error, &self.meter, &pulls.backoff);
                if let Some(room) = room {
                    failure.message.push_str(&room);
                    entry.failed.iter_mut().for_each(|(known, ..)| *known = failure.clone());
                }
                Err(failure)
            }
        };
        drop(entries);
        self.said.send_replace(Try::Done(done));
        true
    }
}

fn held(lease: &Held) -> MutexGuard<'_, Option<(Lease, Instant)>> {
    lease.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn fail(&mut self, error: &ImageError, meter: &Meter, backoff: &Backoff) -> PullFailure {
        self.running = None;
        let failure = PullFailure {
            message: error.sentence(),
            unreachable: error.is_unreachable(),
            unavailable: error.is_unavailable(),
        };
        if failure.unavailable {
            // What was known of the image before is still so.
            return failure;
        }
        // A try that brought something was no failure in a row.
        self.failures = if meter.brought() > 0 { 1 } else { self.failures.saturating_add(1) };
        let hint = Hint { retry_after: error.retry_after(), late: error.is_disk_full() };
        let pause = backoff.pause(self.failures, hint, uuid::Uuid::new_v4().as_bytes()[0]);
        let until = jiff::Timestamp::now().saturating_add(pause).unwrap_or(jiff::Timestamp::MAX);
        self.found_no_room = hint.late;
        self.failed = Some((failure.clone(), Instant::now() + pause, until));
        failure
    }
}

/// Until nobody has wanted it for a while.
async fn nobody(interest: &mut watch::Receiver<usize>) {
    loop {
        if interest.wait_for(|interest| *interest == 0).await.is_err() {
            return;
        }
        let again = interest.wait_for(|interest| *interest > 0);
        if tokio::time::timeout(GRACE, again).await.is_err() {
            return;
        }
    }
}

/// Moves the display for as long as there is something to show.
async fn display(images: Images) {
    while let Some(pause) = images.shared.pulls.show() {
        // Both only say "look again".
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = images.shared.pulls.begun.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_for_a_pull_that_has_ended_leaves_its_successors_alone() {
        let pulls = Pulls::new(Settings::default());
        let key = Key { name: "docker.io/library/busybox:1".to_owned(), secrets: Vec::new() };
        let wish = || {
            let mut entries = pulls.entries();
            let entry = entries.entry(&key);
            entry.want("busybox:1");
            Wish { pulls: &pulls, key: key.clone(), written: "busybox:1".to_owned(), entry: entry.id }
        };
        let wanted = || {
            let entries = pulls.entries();
            let entry = &entries.by_key[&key];
            (entry.wanted.get("busybox:1").copied(), *entry.interest.borrow())
        };
        let first = wish();
        // As a pull that ends well does, before whoever waited has been told.
        pulls.entries().by_key.remove(&key);
        let second = wish();
        drop(first);
        assert_eq!(wanted(), (Some(1), 1));
        drop(second);
        assert_eq!(wanted(), (None, 0));
    }
}
