//! How every loop goes: it is told what has changed, notes what that concerns, and looks at one thing after another when it is due. A loop
//! never acts on what it was told, only on what it reads then: so a lost message, a failed write and a start are one case.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::queue::{Looked, Queue};
use super::told::{Change, Told};
use crate::api::error::ApiError;
use crate::clock::Clock;

/// The longest sleep: the machine's clock may be set.
const SLEEP_MAX: Duration = Duration::from_secs(5 * 60);

/// One loop: which changes concern what, and what to do about one of its keys.
pub trait Looks: Send + 'static {
    type Key: Ord + Clone + Debug + Send + Sync + 'static;
    const NAME: &'static str;

    /// Reads what it needs as of this revision and says what there is to look at. Called first, and again after changes were missed.
    fn begin(&mut self, revision: u64, wake: &mut Vec<Self::Key>) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Which keys a change concerns.
    fn told(&mut self, change: &Change, wake: &mut Vec<Self::Key>);

    /// Everything up to this revision has been told.
    fn told_upto(&mut self, _revision: u64, _wake: &mut Vec<Self::Key>) {}

    /// Waits for what comes from elsewhere than the store. Cancel-safe.
    fn nudged(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// What that concerns.
    fn nudges(&mut self, _wake: &mut Vec<Self::Key>) {}

    /// Reads, decides and writes; may say what else is to be looked at. An error is a failure like [`Looked::Failed`].
    fn look(
        &mut self,
        key: &Self::Key,
        now: Timestamp,
        wake: &mut Vec<Self::Key>,
    ) -> impl Future<Output = Result<Looked, ApiError>> + Send;
}

/// A loop with what it has to look at.
pub struct Runner<L: Looks> {
    looks: L,
    clock: Clock,
    /// None: to begin, as of the revision below.
    queue: Queue<Option<L::Key>>,
    anew: Option<u64>,
    /// When it was asked last: a clock that was set back makes everything due.
    asked: Timestamp,
}

impl<L: Looks> Runner<L> {
    pub fn new(looks: L, clock: Clock) -> Runner<L> {
        let asked = clock.now();
        Runner { looks, clock, queue: Queue::new(), anew: None, asked }
    }

    pub fn tell(&mut self, told: &Told) {
        let now = self.clock.now();
        let mut wake = Vec::new();
        match told {
            Told::Anew { revision } => {
                self.anew = Some(*revision);
                self.queue.wake(None, now);
            }
            // What changes before everything has been read is read with it.
            Told::Changed(batch) if self.anew.is_some() => {
                self.anew = self.anew.map(|revision| revision.max(batch.revision));
            }
            Told::Changed(batch) => {
                batch.changes.iter().for_each(|change| self.looks.told(change, &mut wake));
                self.looks.told_upto(batch.revision, &mut wake);
            }
        }
        self.wake(wake, now);
    }

    /// When there is something to look at without being told more.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.queue.next_at()
    }

    /// Looks at what is due, one thing. False: nothing is.
    pub async fn step(&mut self) -> bool {
        let now = self.clock.now();
        if now < self.asked {
            self.queue.hurry(now);
        }
        self.asked = now;
        let mut wake = Vec::new();
        self.looks.nudges(&mut wake);
        self.wake(std::mem::take(&mut wake), now);
        let Some(turn) = self.queue.take(now) else { return false };
        let looked = match (&turn, self.anew) {
            (None, Some(revision)) => self.begin(revision).await,
            (None, None) => Ok(Looked::Gone),
            // What is not read yet cannot be judged. Every key is woken when it is.
            (Some(_), Some(_)) => Ok(Looked::Gone),
            (Some(key), None) => self.looks.look(key, now, &mut wake).await,
        };
        let looked = looked.unwrap_or_else(|error| {
            tracing::warn!(of = L::NAME, key = ?turn, %error, "to be tried again");
            Looked::Failed
        });
        self.queue.looked(&turn, looked, now, self.clock.now());
        self.wake(wake, now);
        true
    }

    async fn begin(&mut self, revision: u64) -> Result<Looked, ApiError> {
        let mut wake = Vec::new();
        self.looks.begin(revision, &mut wake).await?;
        self.anew = None;
        self.wake(wake, self.clock.now());
        Ok(Looked::Gone)
    }

    fn wake(&mut self, keys: Vec<L::Key>, now: Timestamp) {
        keys.into_iter().for_each(|key| self.queue.wake(Some(key), now));
    }

    /// Until nobody tells it anything any more.
    pub async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        loop {
            // What was told is taken before the next look: a look is never older than it need be.
            while let Ok(news) = told.try_recv() {
                self.tell(&news);
            }
            if self.step().await {
                continue;
            }
            let now = self.clock.now();
            let due =
                self.next_at().map_or(SLEEP_MAX, |at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
            tokio::select! {
                news = told.recv() => match news {
                    Some(news) => self.tell(&news),
                    None => return,
                },
                () = self.looks.nudged() => {}
                () = tokio::time::sleep(due.min(SLEEP_MAX)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::told::Batch;
    use super::*;

    /// Notes as of which revisions it was begun.
    #[derive(Default)]
    struct Begun(Vec<u64>, Vec<u64>);

    impl Looks for Begun {
        type Key = ();
        const NAME: &'static str = "begun";

        async fn begin(&mut self, revision: u64, wake: &mut Vec<()>) -> Result<(), ApiError> {
            self.0.push(revision);
            wake.push(());
            if self.0.len() == 1 { Err(ApiError::internal("the first time fails")) } else { Ok(()) }
        }

        fn told(&mut self, _change: &Change, _wake: &mut Vec<()>) {}

        fn told_upto(&mut self, revision: u64, _wake: &mut Vec<()>) {
            self.1.push(revision);
        }

        async fn look(&mut self, (): &(), _now: Timestamp, _wake: &mut Vec<()>) -> Result<Looked, ApiError> {
            Ok(Looked::Gone)
        }
    }

    #[tokio::test]
    async fn what_changes_before_everything_is_read_is_read_with_it() {
        let clock = Clock::at(Timestamp::from_second(0).unwrap());
        let mut runner = Runner::new(Begun::default(), clock.clone());
        let changed = |revision| Told::Changed(Arc::new(Batch::new(Vec::new(), revision)));
        runner.tell(&Told::Anew { revision: 5 });
        runner.tell(&changed(7));
        assert!(runner.step().await);
        runner.tell(&changed(9));
        clock.set(Timestamp::from_second(1).unwrap());
        assert!(runner.step().await);
        runner.tell(&changed(11));
        assert_eq!((&runner.looks.0[..], &runner.looks.1[..]), (&[7, 9][..], &[11][..]));
    }
}
