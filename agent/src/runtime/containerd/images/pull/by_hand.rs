//! What people and the collector ask of pulls: which there are, and to try again now.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::Pulls;

impl Pulls {
    /// Names of the images that are pulled or wait for their next try.
    pub fn names(&self) -> BTreeSet<String> {
        self.entries().by_key.keys().map(|key| key.name.clone()).collect()
    }

    /// The pauses of this image, or of all, are over.
    pub fn try_again_now(&self, name: Option<&str>) {
        for (key, entry) in &mut self.entries().by_key {
            if let Some((_, until, _)) = entry.failed.as_mut().filter(|_| name.is_none_or(|name| key.name == name)) {
                *until = Instant::now();
            }
        }
    }
}
