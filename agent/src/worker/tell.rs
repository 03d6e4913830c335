//! Events and log lines of a worker's pods, under Kubernetes' reasons.

use pod::name::Uid;
use pod::plan::Change;
use pod::record::Record;
use pod::time::Now;

use super::Worker;
use crate::events::{About, Event, Severity};
use crate::seams::{Clock, Machine};

impl<M: Machine> Worker<M> {
    pub(super) fn tell_change(&self, record: &Record, change: &Change, now: Now) {
        if let Change::Ended { container, termination, not_before, .. } = change {
            tracing::info!(workload = %self.key, container, attempt = termination.attempt,
                exit_code = termination.exit_code, reason = termination.reason, "container ended");
            if let Some(until) = not_before.filter(|until| *until > now.boot) {
                let wait = until.since(now.boot).as_millis().div_ceil(1000);
                let message = format!("Back-off {wait}s restarting failed container {container}");
                self.tell(&record.uid, Some(container), Severity::Warning, "BackOff", &message);
            }
        }
    }

    pub(super) fn tell(&self, uid: &Uid, container: Option<&str>, severity: Severity, reason: &str, message: &str) {
        let Some(view) = self.view(uid) else { return };
        let message = match container {
            Some(container) if severity == Severity::Normal => format!("{message} {container}"),
            _ => message.to_owned(),
        };
        self.shared.board.record(Event {
            severity,
            reason: reason.to_owned(),
            about: About {
                kind: "Pod".into(),
                namespace: self.key.namespace.clone(),
                name: view.record.name.clone(),
                uid: uid.0.clone(),
                container: container.map(str::to_owned),
            },
            message,
            at: self.shared.machine.clock().now().wall,
        });
    }
}

/// The event's reason for a step's: Kubernetes has fewer of them.
pub(super) fn event_reason(reason: &str) -> &str {
    match reason {
        "CreatePodSandboxError" => "FailedCreatePodSandBox",
        "FailedMount" => "FailedMount",
        _ => "Failed",
    }
}
