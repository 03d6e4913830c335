//! Records of which no pod can be made any more: a newer version's, or damaged within. It is said, the pod's containers are ended
//! as strays (known by containerd's labels), its sandbox is given back, and the record goes last: its claims (ports, a place
//! on the node, the sandbox) stand for exactly as long as there is something of it.

use pod::manifest::{Context, Rejection, parse_recorded};
use pod::name::Uid;
use pod::plan::{Plan, StepKey, Waiting};
use pod::record::Record;
use pod::time::Now;

use super::Worker;
use crate::events::{About, Event, Severity};
use crate::execute::Job;
use crate::seams::{Clock, Leave, Machine};

/// The reason in events and `why`.
pub const UNREADABLE: &str = "RecordUnreadable";

/// Why no pod can be made of the record.
pub fn unusable(record: &Record, context: &Context) -> Option<String> {
    parse_recorded(&record.document, &record.origin, context).err().map(|rejections| words(&rejections))
}

pub(super) fn words(rejections: &[Rejection]) -> String {
    rejections.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl<M: Machine> Worker<M> {
    pub(super) fn set_aside(&mut self, record: Record, why: String) {
        tracing::error!(workload = %self.key, uid = %record.uid, why, "a record cannot be run any more");
        self.resume_deletions(&record);
        let about = About {
            kind: "Pod".into(),
            namespace: self.key.namespace.clone(),
            name: record.name.clone(),
            uid: record.uid.0.clone(),
            container: None,
        };
        let message = format!(
            "The record of this pod cannot be used any more: {why}. Its containers are ended once its workload's source was heard; \
             a manifest that stands starts a new pod"
        );
        let at = self.shared.machine.clock().now().wall;
        let (severity, reason) = (Severity::Warning, UNREADABLE.to_owned());
        self.shared.board.record(Event { severity, reason, about, message, at });
        self.unreadable.push((record, why));
    }

    /// Says what is still to be given back.
    pub(super) fn plan_unreadable(&self, planned: &mut Plan) {
        let meanwhile = match self.is_unknown() {
            true => "what runs of it is left running until its manifest can be read",
            false => "what is left of it is ended",
        };
        planned.waiting_for.extend(self.unreadable.iter().map(|(record, why)| Waiting {
            uid: None,
            container: None,
            reason: UNREADABLE.into(),
            message: format!(
                "the record of pod {} ({}) cannot be used any more; {meanwhile}: {why}",
                record.name, record.uid
            ),
            until: None,
        }));
    }

    /// Gives back the sandbox of a record that nothing runs for any more.
    pub(super) fn give_back_unreadable(&mut self, now: Now) {
        if self.is_unknown() || !matches!(self.looked, Some(Ok(()))) {
            return;
        }
        for uid in self.unreadable.iter().map(|(record, _)| record.uid.clone()).collect::<Vec<_>>() {
            let key = StepKey::TearDown(uid.clone());
            let lives = self.strays.iter().any(|stray| stray.container.run.uid == uid)
                || self.deletions.values().any(|run| run.uid == uid);
            if !lives && !self.in_flight.contains(&key) && !self.is_waiting(&key, now) {
                self.spawn(key, Job::TearDown { uid, leave: Leave::Nothing });
            }
        }
    }

    /// Its record is the last thing to go.
    pub(super) fn given_back(&mut self, uid: &Uid) {
        let (given_back, left) =
            std::mem::take(&mut self.unreadable).into_iter().partition(|(record, _)| record.uid == *uid);
        self.unreadable = left;
        let given_back: Vec<(Record, String)> = given_back;
        self.leftovers.extend(given_back.into_iter().map(|(record, _)| record));
    }
}
