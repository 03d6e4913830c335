//! Events and log lines of a worker's pods, under Kubernetes' reasons.

use pod::name::Uid;
use pod::plan::{Change, FAILED_HOOK, OTHER_IMAGE, PodView};
use pod::record::Record;
use pod::time::Now;

use super::Worker;
use crate::events::{About, Event, PULL_PROGRESS, Severity};
use crate::execute::Told;
use crate::seams::{Clock, ImageNews, Machine, OF_VOLUME, RESIZE_ERROR, StepError};

impl<M: Machine> Worker<M> {
    pub(super) fn tell_change(&self, record: &Record, change: &Change, now: Now) {
        if let Change::Stopping { container, stopping } = change {
            tracing::info!(workload = %self.key, container, attempt = stopping.attempt, why = stopping.message, "container is to end");
            self.tell_stopping(&record.uid, container, &stopping.message);
        }
        match change {
            Change::Resize { .. } => {
                self.tell(&record.uid, None, Severity::Normal, "ResizeStarted", "Pod resize started")
            }
            Change::Resized { .. } => {
                self.tell(&record.uid, None, Severity::Normal, "ResizeCompleted", "Pod resize completed");
            }
            _ => {}
        }
        if let Change::Failed(failure) = change {
            tracing::info!(workload = %self.key, uid = %record.uid, reason = failure.reason, why = failure.message, "pod has failed");
            self.tell(&record.uid, None, Severity::Normal, &failure.reason, &failure.message);
        }
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

    pub(super) fn tell_stopping(&self, uid: &Uid, container: &str, why: &str) {
        let message = match why {
            FAILED_HOOK => "FailedPostStartHook".to_owned(),
            why if why == OTHER_IMAGE || why.starts_with("failed") => {
                format!("Container {container} {why}, will be restarted")
            }
            why => format!("Stopping container {container}: {why}"),
        };
        self.tell_exactly(uid, Some(container), Severity::Normal, "Killing", message);
    }

    pub(super) fn tell(&self, uid: &Uid, container: Option<&str>, severity: Severity, reason: &str, message: &str) {
        let message = match container {
            Some(container) if severity == Severity::Normal => format!("{message} {container}"),
            _ => message.to_owned(),
        };
        self.tell_exactly(uid, container, severity, reason, message);
    }

    /// As [`Worker::tell`], without the container's name behind the message.
    pub(super) fn tell_exactly(
        &self,
        uid: &Uid,
        container: Option<&str>,
        severity: Severity,
        reason: &str,
        message: String,
    ) {
        let Some(view) = self.view(uid) else { return };
        let about = self.about(view, container);
        let at = self.shared.machine.clock().now().wall;
        self.shared.board.record(Event { severity, reason: reason.to_owned(), about, message, at });
    }

    fn about(&self, view: &PodView, container: Option<&str>) -> About {
        About {
            kind: "Pod".into(),
            namespace: self.key.namespace.clone(),
            name: view.record.name.clone(),
            uid: view.record.uid.0.clone(),
            container: container.map(str::to_owned),
        }
    }

    /// Tells what happens to the image, at the moment in which it does, in Kubernetes' words.
    pub(super) fn image_news(&self, view: &PodView, container: &str, image: &str) -> Told {
        let (shared, about) = (self.shared.clone(), self.about(view, Some(container)));
        let image = image.to_owned();
        Told(Box::new(move |news| {
            let (severity, reason, message) = match news {
                ImageNews::Pulling => (Severity::Normal, "Pulling", format!("Pulling image \"{image}\"")),
                ImageNews::Progress(words) => {
                    (Severity::Normal, PULL_PROGRESS, format!("Pulling image \"{image}\": {words}"))
                }
                ImageNews::SecretsMissing(names) => {
                    let names = names.join(", ");
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."
                    );
                    (Severity::Warning, "FailedToRetrieveImagePullSecret", message)
                }
            };
            let (about, at) = (about.clone(), shared.machine.clock().now().wall);
            shared.board.record(Event { severity, reason: reason.into(), about, message, at });
        }))
    }

    /// What Kubernetes says of an image that cannot be had.
    pub(super) fn tell_image_failure(&self, uid: &Uid, container: &str, error: &StepError) {
        let image = self.view(uid).and_then(|view| {
            let found = view.template.spec.containers.iter().find(|c| c.name == container)?;
            Some(found.image.clone())
        });
        // A volume's says whose it is.
        let image = image.filter(|_| !error.message.starts_with(OF_VOLUME));
        let (severity, reason, message) = match (error.reason, image) {
            ("ImagePullBackOff", Some(image)) => {
                (Severity::Normal, "BackOff", format!("Back-off pulling image \"{image}\""))
            }
            ("ErrImagePull", Some(image)) => {
                (Severity::Warning, "Failed", format!("Failed to pull image \"{image}\": {}", error.message))
            }
            _ => return self.tell(uid, Some(container), Severity::Warning, "Failed", &error.message),
        };
        self.tell_exactly(uid, Some(container), severity, reason, message);
        self.tell(uid, Some(container), Severity::Warning, "Failed", &format!("Error: {}", error.reason));
    }
}

/// The event's reason for a step's: Kubernetes has fewer of them.
pub(super) fn event_reason(reason: &str) -> &str {
    match reason {
        "CreatePodSandboxError" => "FailedCreatePodSandBox",
        "FailedMount" => "FailedMount",
        RESIZE_ERROR => RESIZE_ERROR,
        _ => "Failed",
    }
}
