//! The store's epoch, by which nodes notice that it was put back: its revisions begin anew then, and would be taken for old.
//!
//! One for each node, so that what a node claims concerns nobody else. Made when it is first asked for. A node that works by a newer revision than the store has is the sign that an older state of the
//! store has come back, however that happened: the epoch is then raised.

use jiff::Timestamp;

use crate::store::any::AnyStore;
use crate::store::{Expected, Store as _, StoreError, Write};

const KEYS: &str = "/daemonlet/epochs/";
/// How often a write is tried that another endpoint's came before.
const TRIES: u32 = 8;

/// A node's present epoch. `accepted`: what a node works by, as epoch and number; the answer is such that whatever is sent with the store's next
/// revision is newer.
pub async fn read(
    store: &AnyStore,
    node: &str,
    accepted: Option<(u64, u64)>,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let key = format!("{KEYS}{node}");
    let mut last = None;
    for _ in 0..TRIES {
        let found = store.get(&key).await?;
        let known = found.entry.as_ref().and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse::<u64>().ok());
        let Some(raised) = raise(known, found.revision, accepted, now).filter(|raised| Some(*raised) != known) else {
            return Ok(known.unwrap_or_default());
        };
        let expected = found.entry.map_or(Expected::Absent, |entry| Expected::At(entry.revision));
        let write = Write { key: key.clone(), value: Some(raised.to_string().into_bytes()), expected };
        match store.write(write).await {
            Ok(_) => {
                tracing::info!(node, epoch = raised, "generations of a node's desired set begin a new epoch");
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

    #[tokio::test]
    async fn what_a_node_claims_concerns_no_other_node() {
        let place = crate::door::testing::place();
        let now = Timestamp::from_millisecond(1000).unwrap();
        let epoch = async |node: &str, accepted| read(&place.store, node, accepted, now).await.unwrap();
        assert_eq!(epoch("liar", Some((u64::MAX - 1, 9))).await, u64::MAX);
        let revision = place.store.get("/").await.unwrap().revision;
        assert_eq!(epoch("liar", Some((u64::MAX, u64::MAX))).await, u64::MAX);
        assert_eq!(place.store.get("/").await.unwrap().revision, revision, "nothing is written for nothing");
        assert_eq!(epoch("n1", None).await, 1000);
        assert_eq!(epoch("n1", Some((1000, 1_000_000))).await, 1001);
    }
}
