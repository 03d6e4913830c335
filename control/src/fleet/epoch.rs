//! The store's epoch, by which nodes notice that it was put back: its revisions begin anew then, and would be taken for old.
//!
//! Made when it is first asked for. A node that works by a newer revision than the store has is the sign that an older state of the
//! store has come back, however that happened: the epoch is then raised.

use jiff::Timestamp;

use crate::store::any::AnyStore;
use crate::store::{Expected, Store as _, StoreError, Write};

const KEY: &str = "/daemonlet/epoch";
/// How often a write is tried that another endpoint's came before.
const TRIES: u32 = 8;

/// The present epoch. `accepted`: what a node works by, as epoch and number; the answer is such that whatever is sent with the store's next
/// revision is newer.
pub async fn read(store: &AnyStore, accepted: Option<(u64, u64)>, now: Timestamp) -> Result<u64, StoreError> {
    let mut last = None;
    for _ in 0..TRIES {
        let found = store.get(KEY).await?;
        let known = found.entry.as_ref().and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse::<u64>().ok());
        let Some(raised) = raise(known, found.revision, accepted, now) else {
            return Ok(known.unwrap_or_default());
        };
        let expected = found.entry.map_or(Expected::Absent, |entry| Expected::At(entry.revision));
        let write = Write { key: KEY.to_owned(), value: Some(raised.to_string().into_bytes()), expected };
        match store.write(write).await {
            Ok(_) => {
                tracing::info!(epoch = raised, "generations of desired sets begin a new epoch");
                return Ok(raised);
            }
            Err(error @ StoreError::Conflict { .. }) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.expect("it was tried at least once"))
}

/// The epoch to write; None: the present one will do.
fn raise(known: Option<u64>, revision: u64, accepted: Option<(u64, u64)>, now: Timestamp) -> Option<u64> {
    let clock = u64::try_from(now.as_millisecond()).unwrap_or(1).max(1);
    match (known, accepted) {
        (None, None) => Some(clock),
        (None, Some((epoch, _))) => Some(clock.max(epoch.saturating_add(1))),
        (Some(known), Some((epoch, _))) if epoch > known => Some(clock.max(epoch.saturating_add(1))),
        (Some(known), Some((epoch, number))) if epoch == known && number > revision => {
            Some(clock.max(known.saturating_add(1)))
        }
        (Some(_), _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_raised_when_a_node_knows_more_than_the_store() {
        let now = Timestamp::from_millisecond(1000).unwrap();
        for (known, revision, accepted, raised) in [
            (None, 5, None, Some(1000)),
            (None, 5, Some((2000, 7)), Some(2001)),
            (Some(900), 5, None, None),
            (Some(900), 5, Some((900, 5)), None),
            (Some(900), 5, Some((900, 6)), Some(1000)),
            (Some(3000), 5, Some((3000, 6)), Some(3001)),
            (Some(900), 5, Some((800, 99)), None),
            (Some(900), 5, Some((1500, 1)), Some(1501)),
        ] {
            assert_eq!(raise(known, revision, accepted, now), raised, "{known:?} {revision} {accepted:?}");
        }
    }
}
