//! Who claims which workload, and who wins. Also keeps what becomes of every document.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::contents::{self, Lost};
use super::priorities::Priorities;
use super::{Fate, Outcome, Recorded, Said, Snapshot};
use crate::content::{ContentKey, Contents, Kept};
use crate::desired::{DesiredPod, Origin, Source};
use crate::manifest::{Document, DocumentOutcome, Identity, Parsed, Rejection};
use crate::name::WorkloadKey;

/// What the winning document says of its workload.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    Wants(Box<DesiredPod>),
    /// It cannot be read at present: what its records say stays.
    Held {
        reason: String,
    },
    /// It cannot be read either, and it is to end.
    Ends {
        grace: Duration,
    },
}

#[derive(Debug, Default)]
pub struct Claims {
    by_workload: BTreeMap<WorkloadKey, BTreeMap<Origin, Claim>>,
    /// What cannot be read: (source, file), or a whole source with file None.
    dark: BTreeMap<(Source, Option<String>), String>,
    fates: BTreeMap<Origin, Vec<(Option<Identity>, Fate)>>,
    contents: contents::Said,
    priorities: Priorities,
}

impl Claims {
    pub fn gather(snapshots: &[Snapshot], recorded: &[Recorded]) -> Claims {
        let mut claims = Claims::default();
        for Snapshot { source, said, .. } in snapshots {
            match said {
                Said::NotHeard { reason } => {
                    claims.dark.insert((*source, None), reason.clone());
                }
                Said::Files(files) => files.iter().for_each(|file| claims.file(*source, file)),
            }
        }
        claims.hold_what_is_in_the_dark(recorded);
        let dark = &claims.dark;
        let is_dark = |origin: &Origin| {
            let file = (origin.source, Some(origin.file.clone()));
            dark.contains_key(&(origin.source, None)) || dark.contains_key(&file)
        };
        claims.contents.hold(snapshots, is_dark);
        claims.tell_classes_that_lost();
        claims
    }

    fn file(&mut self, source: Source, parsed: &Parsed) {
        for document in &parsed.documents {
            let origin = Origin { source, file: parsed.file.clone(), line: document.line };
            self.document(origin, document);
        }
        if let Some(whole) = &parsed.whole {
            let origin = Origin { source, file: parsed.file.clone(), line: whole.line };
            self.dark.insert((source, Some(parsed.file.clone())), whole.to_string());
            self.add_fate(origin, None, Fate::Refused { rejections: vec![whole.clone()] });
        }
    }

    fn document(&mut self, origin: Origin, document: &DocumentOutcome) {
        let identity = document.identity.clone();
        let fate = match &document.result {
            Ok(Document::Accepted { reason, .. }) => Fate::NoEffect { reason: reason.clone() },
            Ok(Document::Content { key, content }) => {
                if self.contents.claim(key.clone(), &origin, Some(content.clone())) {
                    Fate::Accepted
                } else {
                    Fate::Duplicate { winner: origin.clone() }
                }
            }
            Ok(Document::PriorityClass(class)) => {
                if self.priorities.claim(class.clone(), &origin) {
                    Fate::Accepted
                } else {
                    Fate::Duplicate { winner: origin.clone() }
                }
            }
            Ok(Document::Workload(pod)) => {
                let pod = DesiredPod { origin: origin.clone(), ..(**pod).clone() };
                if self.claim(pod.workload.clone(), &origin, Claim::Wants(Box::new(pod))) {
                    Fate::Accepted
                } else {
                    Fate::Duplicate { winner: origin.clone() }
                }
            }
            Err(rejections) => {
                let reason = rejections.first().map_or_else(|| "it is refused".to_owned(), ToString::to_string);
                match identity.as_ref() {
                    Some(known) => {
                        // A refused document of another kind claims no workload.
                        if let Some(key) = known.workload(origin.source) {
                            let claim = document.ends.map_or(Claim::Held { reason }, |grace| Claim::Ends { grace });
                            self.claim(key, &origin, claim);
                        }
                        if let Some(key) = known.content() {
                            self.contents.claim(key, &origin, None);
                        }
                    }
                    None => {
                        self.dark.insert((origin.source, Some(origin.file.clone())), reason);
                    }
                }
                Fate::Refused { rejections: rejections.clone() }
            }
        };
        self.add_fate(origin, identity, fate);
    }

    /// False where the same line (of a list, in JSON) has claimed the workload before.
    fn claim(&mut self, key: WorkloadKey, origin: &Origin, claim: Claim) -> bool {
        match self.by_workload.entry(key).or_default().entry(origin.clone()) {
            Entry::Vacant(place) => {
                place.insert(claim);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    fn tell_classes_that_lost(&mut self) {
        let losers: Vec<(String, Origin, Origin)> =
            self.priorities.losers().map(|(n, l, w)| (n.to_owned(), l.clone(), w.clone())).collect();
        for (name, loser, winner) in losers {
            for (identity, fate) in self.fates.entry(loser).or_default() {
                let same = identity.as_ref().is_some_and(|id| id.kind == "PriorityClass" && id.name == name);
                if same && *fate == Fate::Accepted {
                    *fate = Fate::Duplicate { winner: winner.clone() };
                }
            }
        }
    }

    /// Gives the pod the value of its priority class. Err: why it is refused, which its file is told.
    pub fn prioritise(&mut self, pod: &mut DesiredPod) -> Result<(), String> {
        self.priorities.resolve(pod).map_err(|(path, reason)| {
            self.refuse(pod, path, reason.clone());
            reason
        })
    }

    /// ConfigMaps and Secrets: what is good of each source, and what counts.
    pub fn contents(&mut self, snapshots: &[Snapshot]) -> (BTreeMap<(Source, ContentKey), Kept>, Contents) {
        let settled = std::mem::take(&mut self.contents).settle(snapshots);
        for (key, origin, lost) in settled.losers {
            let fate = match lost {
                Lost::To(winner) => Fate::Duplicate { winner },
                Lost::Immutable => {
                    let reason = format!(
                        "the {} is immutable and what it holds cannot change: use another name, or take it away first",
                        key.kind.word()
                    );
                    let Origin { file, line, .. } = origin.clone();
                    Fate::Refused { rejections: vec![Rejection { file, line, path: "immutable".into(), reason }] }
                }
            };
            for (identity, old) in self.fates.entry(origin).or_default() {
                if identity.as_ref().and_then(Identity::content).as_ref() == Some(&key) && *old == Fate::Accepted {
                    *old = fate.clone();
                }
            }
        }
        (settled.kept, settled.contents)
    }

    fn add_fate(&mut self, origin: Origin, identity: Option<Identity>, fate: Fate) {
        self.fates.entry(origin).or_default().push((identity, fate));
    }

    /// A recorded workload whose file or source cannot be read, and that the same file does not name elsewhere.
    fn hold_what_is_in_the_dark(&mut self, recorded: &[Recorded]) {
        for record in recorded.iter().filter(|r| r.live) {
            let Origin { source, file, .. } = &record.origin;
            let whole = self.dark.get(&(*source, None));
            let Some(reason) = whole.or_else(|| self.dark.get(&(*source, Some(file.clone())))) else { continue };
            let claim = Claim::Held { reason: reason.clone() };
            let named = self.by_workload.entry(record.workload.clone()).or_default();
            if !named.keys().any(|origin| same_file(origin, &record.origin)) {
                named.insert(record.origin.clone(), claim);
            }
        }
    }

    /// One claim a workload. Static beats control; within a source the one that has been admitted stays, then the
    /// first file, then the first line. A refused document wins only over others that are refused, unless its pod
    /// has been admitted: then it is a bad edit, and nobody takes its place.
    pub fn winners(&mut self, recorded: &[Recorded]) -> BTreeMap<WorkloadKey, Claim> {
        let admitted: BTreeSet<(&WorkloadKey, Source, &str)> = recorded
            .iter()
            .filter(|r| r.live)
            .map(|r| (&r.workload, r.origin.source, r.origin.file.as_str()))
            .collect();
        let mut winners = BTreeMap::new();
        let mut losers = Vec::new();
        for (key, claims) in &self.by_workload {
            let rank = |(origin, claim): &(&Origin, &Claim)| {
                let stays = admitted.contains(&(key, origin.source, origin.file.as_str()));
                let refused = !matches!(claim, Claim::Wants(_)) && !stays;
                (refused, origin.source, !stays, (*origin).clone())
            };
            let Some((winner, claim)) = claims.iter().min_by_key(rank) else { continue };
            let lost = claims.iter().filter(|(o, c)| *o != winner && matches!(c, Claim::Wants(_)));
            losers.extend(lost.map(|(origin, _)| (key.clone(), origin.clone(), winner.clone())));
            winners.insert(key.clone(), claim.clone());
        }
        for (key, loser, winner) in losers {
            self.decide(&key, &loser, Fate::Duplicate { winner });
        }
        winners
    }

    /// The document of this workload at `origin` was accepted and comes to something else after all.
    pub fn decide(&mut self, key: &WorkloadKey, origin: &Origin, fate: Fate) {
        for (identity, old) in self.fates.entry(origin.clone()).or_default() {
            let same = identity.as_ref().and_then(|it| it.workload(origin.source)).as_ref() == Some(key);
            if same && *old == Fate::Accepted {
                *old = fate.clone();
            }
        }
    }

    pub fn refuse(&mut self, pod: &DesiredPod, path: &str, reason: String) {
        self.refuse_all(pod, std::iter::once((path.to_owned(), reason)));
    }

    /// For each of these fields, with why.
    pub fn refuse_all(&mut self, pod: &DesiredPod, faults: impl Iterator<Item = (String, String)>) {
        let Origin { file, line, .. } = &pod.origin;
        let rejection = |(path, reason)| Rejection { file: file.clone(), line: *line, path, reason };
        self.decide(&pod.workload, &pod.origin, Fate::Refused { rejections: faults.map(rejection).collect() });
    }

    pub fn into_outcomes(self) -> Vec<Outcome> {
        let each = self.fates.into_iter().flat_map(|(origin, fates)| {
            fates.into_iter().map(move |(identity, fate)| Outcome { origin: origin.clone(), identity, fate })
        });
        each.collect()
    }
}

fn same_file(a: &Origin, b: &Origin) -> bool {
    (a.source, &a.file) == (b.source, &b.file)
}
