//! `status` of a DaemonSet: what Kubernetes counts, from what was seen and not from what is about to be done.

use std::sync::Arc;

use jiff::Timestamp;

use super::local::Local;
use super::seen::{DaemonSet, Phase};

/// apps/v1 DaemonSetStatus; the counts are of nodes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// Should run the daemon and have a pod of it, perhaps one that ends.
    pub current_number_scheduled: u32,
    /// Should not and do.
    pub number_misscheduled: u32,
    /// Should run the daemon.
    pub desired_number_scheduled: u32,
    /// Of the current ones: the oldest pod is ready.
    pub number_ready: u32,
    /// Of the current ones: the oldest pod is of the present template.
    pub updated_number_scheduled: u32,
    /// Of the current ones: the oldest pod is available; a pod that runs once is so when it has done that.
    pub number_available: u32,
    /// Desired and not available.
    pub number_unavailable: u32,
    /// The generation that this status is about.
    pub observed_generation: i64,
    /// How often a name of a new ControllerRevision was another's.
    pub collision_count: Option<i32>,
    /// Ours, and those that others have put here.
    pub conditions: Vec<Condition>,
}

/// apps/v1 DaemonSetCondition.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// `type`.
    pub name: Arc<str>,
    /// `True`, `False` or `Unknown`.
    pub status: Arc<str>,
    pub reason: Arc<str>,
    pub message: Arc<str>,
    pub last_transition: Timestamp,
}

/// The counts; the rest is as it is by default.
pub fn count<'a, 'b: 'a>(daemonset: &DaemonSet, locals: impl Iterator<Item = &'a Local<'b>>) -> Status {
    let mut status = Status { collision_count: daemonset.status.collision_count, ..Status::default() };
    for local in locals {
        let oldest = local.pods.first();
        if !local.runs() {
            status.number_misscheduled += u32::from(oldest.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(oldest) = oldest else { continue };
        status.current_number_scheduled += 1;
        let ready = oldest.pod.phase == Phase::Active && oldest.pod.ready_since.is_some() && local.is_reached();
        status.number_ready += u32::from(ready);
        status.updated_number_scheduled += u32::from(oldest.updated);
        status.number_available += u32::from(oldest.available);
    }
    status.number_unavailable = status.desired_number_scheduled.saturating_sub(status.number_available);
    status
}
