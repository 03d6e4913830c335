//! What carries our labels or lies in our directories and belongs to no record.

use std::collections::BTreeSet;

use crate::name::{RunKey, Uid};
use crate::observed::ObservedContainer;

/// Left-overs of pods that were forgotten, or whose record was lost before anything of theirs ran.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Orphans {
    /// To be deleted; deletion kills what still runs.
    pub containers: Vec<RunKey>,
    /// To be torn down, after their containers are gone.
    pub sandboxes: Vec<Uid>,
}

/// Everything that no record accounts for.
///
/// `recorded` holds the uids of all records, also of those that cannot be read at present: unknown is not absent.
/// A pod's record is written before its first container, so a container of ours without one was ended on purpose.
/// Containers that do not carry our labels never get here.
pub fn orphans(containers: &[ObservedContainer], sandboxes: &[Uid], recorded: &BTreeSet<Uid>) -> Orphans {
    let containers: Vec<_> =
        containers.iter().filter(|c| !recorded.contains(&c.run.uid)).map(|c| c.run.clone()).collect();
    let sandboxes = sandboxes.iter().filter(|uid| !recorded.contains(uid)).cloned().collect();
    Orphans { containers, sandboxes }
}

impl Orphans {
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.sandboxes.is_empty()
    }
}
