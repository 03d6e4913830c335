//! Which ConfigMap or Secret document counts. Within a source as for workloads: the one that counted before stays, then the
//! first file, then the first line; a bad edit keeps what was good last. Between sources static beats control.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::Snapshot;
use crate::content::{Content, ContentKey, Contents, Kept};
use crate::desired::{Origin, Source};

/// What the documents of one name say, by where they stand. None: it cannot be read at present.
type Claims = BTreeMap<Origin, Option<Arc<Content>>>;

/// What every source says of the documents.
#[derive(Debug, Default)]
pub struct Said {
    claims: BTreeMap<(Source, ContentKey), Claims>,
}

/// What comes of it.
#[derive(Debug, Default)]
pub struct Settled {
    /// For each source what is good of it: to be kept for the time when it cannot be read.
    pub kept: BTreeMap<(Source, ContentKey), Kept>,
    pub contents: Contents,
    /// Documents that were taken and do not count after all.
    pub losers: Vec<(ContentKey, Origin, Lost)>,
}

/// Why a document does not count.
#[derive(Debug)]
pub enum Lost {
    To(Origin),
    /// It changes one that is immutable.
    Immutable,
}

impl Said {
    /// False where the same line (of a list, in JSON) has claimed the document before.
    pub fn claim(&mut self, key: ContentKey, origin: &Origin, content: Option<Arc<Content>>) -> bool {
        match self.claims.entry((origin.source, key)).or_default().entry(origin.clone()) {
            Entry::Vacant(place) => {
                place.insert(content);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// What was good before stays claimed by a file or source that cannot be read, unless that file names it elsewhere.
    pub fn hold(&mut self, snapshots: &[Snapshot], is_dark: impl Fn(&Origin) -> bool) {
        for snapshot in snapshots {
            for (key, Kept { origin, .. }) in snapshot.kept.iter().filter(|(_, kept)| is_dark(&kept.origin)) {
                let claims = self.claims.entry((snapshot.source, key.clone())).or_default();
                if !claims.keys().any(|claim| claim.file == origin.file) {
                    claims.insert(origin.clone(), None);
                }
            }
        }
    }

    pub fn settle(self, snapshots: &[Snapshot]) -> Settled {
        let mut settled = Settled::default();
        let mut counting: BTreeMap<ContentKey, Arc<Content>> = BTreeMap::new();
        let mut winners: BTreeMap<ContentKey, Origin> = BTreeMap::new();
        // By source, so that the one that comes first is met first.
        for ((source, key), claims) in self.claims {
            let before = snapshots.iter().filter(|s| s.source == source).find_map(|s| s.kept.get(&key));
            let rank = |(origin, content): &(&Origin, &Option<Arc<Content>>)| {
                let stays = before.is_some_and(|kept| kept.origin.file == origin.file);
                (content.is_none() && !stays, !stays, (*origin).clone())
            };
            let Some((winner, content)) = claims.iter().min_by_key(rank) else { continue };
            let losers = claims.iter().filter(|(origin, content)| *origin != winner && content.is_some());
            settled.losers.extend(losers.map(|(o, _)| (key.clone(), o.clone(), Lost::To(winner.clone()))));
            let kept = match (content, before) {
                (Some(content), Some(before))
                    if before.content.immutable && !(content.immutable && before.content.same_values(content)) =>
                {
                    settled.losers.push((key.clone(), winner.clone(), Lost::Immutable));
                    before.clone()
                }
                (Some(content), _) => Kept { origin: winner.clone(), content: content.clone() },
                (None, Some(before)) => before.clone(),
                (None, None) => continue,
            };
            match winners.entry(key.clone()) {
                Entry::Vacant(place) => {
                    place.insert(winner.clone());
                    counting.insert(key.clone(), kept.content.clone());
                }
                Entry::Occupied(first) => {
                    settled.losers.push((key.clone(), winner.clone(), Lost::To(first.get().clone())));
                }
            }
            settled.kept.insert((source, key), kept);
        }
        settled.contents = Contents::new(counting);
        settled
    }
}
