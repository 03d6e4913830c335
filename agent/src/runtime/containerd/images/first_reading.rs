//! Whether an image that is missing may still lie in the image directory, which nobody has read yet.
//!
//! The image directory says when its first reading begins and is over; `prepare` asks. Knows no images.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a missing image is waited for on account of the first reading: a disk imports tens of gigabytes meanwhile, and a
/// directory that hangs (a network's file system) must not hide for ever that an image is missing.
const WAIT_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub struct FirstReading {
    state: Mutex<State>,
    over: Notify,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum State {
    /// Nobody reads a directory, or it has been read.
    #[default]
    Over,
    UnderWay {
        /// When the first image was found missing.
        waited_since: Option<Instant>,
    },
}

impl FirstReading {
    pub fn begin(&self) {
        *self.state() = State::UnderWay { waited_since: None };
    }

    pub fn end(&self) {
        *self.state() = State::Over;
        self.over.notify_one();
    }

    /// An image is missing: whether to wait for the reading. To be asked before the image is looked for, so that one which
    /// the reading brings meanwhile is not missed.
    pub fn may_bring_it(&self) -> bool {
        match &mut *self.state() {
            State::Over => false,
            State::UnderWay { waited_since } => waited_since.get_or_insert_with(Instant::now).elapsed() < WAIT_MAX,
        }
    }

    /// Once, after the reading is over. Cancel-safe: an end that was not taken is kept.
    pub async fn over(&self) {
        self.over.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reading_under_way_is_waited_for_and_not_for_ever() {
        let reading = FirstReading::default();
        assert!(!reading.may_bring_it(), "nobody reads");
        reading.begin();
        assert!(reading.may_bring_it());
        let long_ago = Instant::now().checked_sub(WAIT_MAX).expect("the machine runs longer than that");
        *reading.state() = State::UnderWay { waited_since: Some(long_ago) };
        assert!(!reading.may_bring_it(), "hangs");
        reading.begin();
        reading.end();
        assert!(!reading.may_bring_it());
    }

    #[tokio::test]
    async fn the_end_is_told_once_also_to_who_asks_later() {
        let reading = FirstReading::default();
        reading.begin();
        reading.end();
        reading.over().await;
        assert!(tokio::time::timeout(Duration::from_millis(20), reading.over()).await.is_err());
    }
}
