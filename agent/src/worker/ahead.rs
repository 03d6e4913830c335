//! What is done for a new pod while its record is on its way to the disk: its surroundings, and a look for its images.
//!
//! Nothing of that is more than the node's own: no container, no address, no process. It counts only once the pod is admitted. Of an
//! admission that fails it goes with the rest of what is left over; what an agent leaves that is killed in between is surroundings
//! of which no record speaks, which the next one takes away when it starts.

use pod::desired::DesiredPod;
use pod::name::Uid;
use pod::observed::ImageState;
use pod::plan::StepKey;
use pod::projection;
use pod::record::Record;

use super::Worker;
use crate::execute::{Admitted, Ahead, Job, Outcome};
use crate::seams::{Clock, Machine};

impl<M: Machine> Worker<M> {
    /// Begins, for a workload's only pod. A successor has time: its containers are created while its predecessor runs. What shows
    /// documents or starts a process waits for the record.
    pub(super) fn go_ahead(&mut self, record: &Record, wanted: &DesiredPod) {
        self.ahead = None;
        let template = &wanted.template;
        if !self.pods.is_empty() || template.spec.share_processes || projection::is_needed(template) {
            return;
        }
        // Where many come at once there is nothing to be gained.
        let Some(place) = self.shared.gate.early() else { return };
        let pod = Admitted { record: record.clone(), template: template.clone() };
        self.spawn(StepKey::SetUp(record.uid.clone()), Job::Ahead { pod, place });
    }

    /// It is done: before the record was taken, or after.
    pub(super) fn made_ahead(&mut self, ahead: Box<Ahead>) {
        let uid = ahead.uid.clone();
        // Of an older admission, which has failed, it is left over.
        let is_latest = self.leftovers.last().is_some_and(|record| record.uid == uid);
        if is_latest || self.view(&uid).is_some() {
            self.ahead = Some(ahead);
        }
        self.take_ahead(&uid);
    }

    /// The pod is admitted: what was made for it is as if its own steps had made it.
    pub(super) fn take_ahead(&mut self, uid: &Uid) {
        let Some(ahead) = self.ahead.take_if(|ahead| ahead.uid == *uid) else { return };
        let Some(view) = self.view_mut(uid) else {
            self.ahead = Some(ahead);
            return;
        };
        for container in ahead.images {
            view.images.insert(container, ImageState::Ready);
        }
        match ahead.made {
            Ok(warned) => self.succeed(Outcome::SetUp { uid: ahead.uid, warned }),
            Err(error) => self.fail(StepKey::SetUp(ahead.uid), error, self.shared.machine.clock().now()),
        }
    }
}
