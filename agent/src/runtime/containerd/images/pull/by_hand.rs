//! What people and the collector ask of pulls: which there are, and to try again now.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{Entry, Key, Pulls};

impl Pulls {
    /// Names of the images that are pulled or wait for their next try.
    pub fn names(&self) -> BTreeSet<String> {
        self.entries().by_key.keys().map(|key| key.name.clone()).collect()
    }

    /// The pauses of this image are over.
    pub fn try_again_now(&self, name: &str) {
        self.end_pauses(|key, _| key.name == name);
    }

    /// The pauses of what found no room are over; those that a registry asked for are not.
    pub fn room_made(&self) {
        self.end_pauses(|_, entry| entry.found_no_room);
    }

    fn end_pauses(&self, which: impl Fn(&Key, &Entry) -> bool) {
        for (key, entry) in &mut self.entries().by_key {
            if !which(key, entry) {
                continue;
            }
            if let Some((_, until, _)) = &mut entry.failed {
                *until = Instant::now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use containerd_client::tonic::Status;

    use super::*;
    use crate::runtime::containerd::images::ImageError;
    use crate::runtime::containerd::images::pull::Settings;

    #[tokio::test(start_paused = true)]
    async fn room_ends_the_pauses_of_what_found_none_and_no_others() {
        let pulls = Pulls::new(Settings::default());
        let containerd =
            |words: &str| ImageError::Containerd { doing: "writing".into(), status: Status::unknown(words) };
        let key = |name: &str| Key { name: name.into(), secrets: Vec::new() };
        let fail = |name: &str, words: &str| {
            let mut entries = pulls.entries();
            let entry = entries.by_key.entry(key(name)).or_insert_with(|| Entry::new(0));
            let meter = std::sync::Arc::clone(&entry.meter);
            entry.fail(&containerd(words), &meter, &pulls.backoff);
        };
        fail("full", "write: no space left on device");
        fail("other", "429 Too Many Requests");
        fail("full before", "write: no space left on device");
        fail("full before", "it fails otherwise now");
        pulls.room_made();
        let pauses = |name: &str| {
            let entries = pulls.entries();
            let (_, until, _) = entries.by_key[&key(name)].failed.as_ref().unwrap();
            until.saturating_duration_since(Instant::now()) > Duration::ZERO
        };
        assert_eq!(["full", "other", "full before"].map(pauses), [false, true, true]);
    }
}
