//! The loop of the Events that have been kept long enough.

pub mod decide;

use jiff::Timestamp;

use self::decide::{EVENTS_MAX, Kept, decide};
use super::of::{self, EVENTS};
use super::queue::Looked;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::objects::{DeleteOptions, Objects};

/// See the top of the file.
pub struct Lifetimes {
    objects: Objects,
    /// Events that there are, as far as was told.
    count: usize,
    /// A look is due at some moment: new Events need no other.
    expected: bool,
}

impl Lifetimes {
    pub fn new(objects: Objects) -> Lifetimes {
        Lifetimes { objects, count: 0, expected: false }
    }
}

impl Looks for Lifetimes {
    type Key = ();
    const NAME: &'static str = "lifetimes";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<()>) -> Result<(), ApiError> {
        wake.push(());
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<()>) {
        if change.kind != *EVENTS {
            return;
        }
        if change.is_creation() {
            self.count = self.count.saturating_add(1);
            if !self.expected || self.count > EVENTS_MAX {
                wake.push(());
            }
        } else if change.is_deletion() {
            self.count = self.count.saturating_sub(1);
        }
    }

    async fn look(&mut self, (): &(), now: Timestamp, _wake: &mut Vec<()>) -> Result<Looked, ApiError> {
        let mut events = Vec::new();
        of::each(&self.objects, *EVENTS, None, None, |event| {
            let said = [
                &event["series"]["lastObservedTime"],
                &event["lastTimestamp"],
                &event["eventTime"],
                &event["metadata"]["creationTimestamp"],
            ];
            // A moment that lies ahead is a mistake of whoever said it.
            let said = said.into_iter().filter_map(of::moment).max().unwrap_or_default().min(now);
            let (namespace, name) = (of::meta(&event, "namespace").to_owned(), of::meta(&event, "name").to_owned());
            let host = event["source"]["host"].as_str().unwrap_or_default().to_owned();
            events.push(Kept { namespace, name, host, said });
        })
        .await?;
        self.count = events.len();
        let (old, next) = decide(events, now);
        self.expected = next.is_some();
        for event in old {
            match self.objects.delete(*EVENTS, &event.namespace, &event.name, &DeleteOptions::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Looked::Done(next))
    }
}
