//! Carries out what was decided about a DaemonSet. Every write is conditional on what it changes still being what was seen.

use std::sync::Arc;

use pod::name::Uid;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::super::of::{self, DAEMON_SETS, PODS, REVISIONS, writer};
use super::super::record::{About, Recorder};
use super::mirror::Mirror;
use super::shape;
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::objects::{DeleteOptions, Objects, Patch, Preconditions, Propagation};
use crate::convert::status_json;
use crate::daemonset::{DaemonSet, Decision, Ending, EventKind, HASH_LABEL, Status, Step, slow_start};

/// Portions of new pods without a single one, after which the others are not asked for: a thousand requests are not refused for one reason.
const IN_VAIN_MAX: u32 = 2;

pub struct Carry<'a> {
    objects: &'a Objects,
    recorder: &'a Recorder,
    set: &'a DaemonSet,
    together: usize,
    /// The newest of the writes.
    written: u64,
    /// What may have been done, or may be done yet.
    unanswered: Vec<Job>,
}

/// A pod that is to be made or deleted.
#[derive(Debug, Clone)]
pub enum Job {
    Create { object: Value },
    Delete { uid: Uid, name: String, at_once: bool },
}

impl<'a> Carry<'a> {
    pub fn new(objects: &'a Objects, recorder: &'a Recorder, set: &'a DaemonSet, together: usize) -> Carry<'a> {
        Carry { objects, recorder, set, together, written: 0, unanswered: Vec::new() }
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn take_unanswered(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.unanswered)
    }

    /// The steps and the events. False: something failed and has to be looked at again.
    pub async fn out(&mut self, decision: &Decision, mirror: &Mirror) -> bool {
        for event in &decision.events {
            self.event(event.kind, event.reason, &event.message).await;
        }
        let (mut deletes, mut creates) = (Vec::new(), Vec::new());
        for step in &decision.steps {
            let claimed = match step {
                Step::DeletePod { uid, name, why } => {
                    tracing::info!(pod = name, of = self.set.name, why = ?why, "pod is deleted");
                    let at_once = *why == Ending::NodeGone;
                    deletes.push(Job::Delete { uid: uid.clone(), name: name.clone(), at_once });
                    Ok(())
                }
                Step::CreatePod { name, node, hash } => {
                    creates.push((name, node, hash));
                    Ok(())
                }
                claim => self.claim(claim, mirror).await,
            };
            if let Err(error) = claimed {
                tracing::info!(of = self.set.name, ?step, %error, "to be looked at again");
                return false;
            }
        }
        let deleted = self.all(deletes).await;
        let creates = match creates.is_empty() {
            true => Vec::new(),
            false => self.pods(&creates),
        };
        let mut created = true;
        // Portions in a row of which nothing came: what is refused to one node (the first, each time) says little of the others.
        let mut in_vain = 0;
        for portion in slow_start(creates.len()) {
            let before = self.written;
            created &= self.all(creates[portion].to_vec()).await;
            in_vain = if created || self.written > before { 0 } else { in_vain + 1 };
            if in_vain >= IN_VAIN_MAX {
                break;
            }
        }
        deleted && created
    }

    fn pods(&self, creates: &[(&String, &String, &String)]) -> Vec<Job> {
        // It is what the revision keeps: the decision's template, and not one that was written since.
        let data: Value = serde_json::from_str(&self.set.template_data).unwrap_or_default();
        let mut template = data["spec"]["template"].clone();
        template.as_object_mut().map(|template| template.remove("$patch"));
        let job = |(name, node, hash): &(&String, &String, &String)| {
            tracing::info!(pod = name, node, of = self.set.name, "pod is made");
            Job::Create { object: shape::pod(self.set, &template, name, node, hash) }
        };
        creates.iter().map(job).collect()
    }

    /// Pods, some at a time. False: one of them failed.
    pub async fn all(&mut self, jobs: Vec<Job>) -> bool {
        let mut jobs = jobs.into_iter();
        let mut under_way = JoinSet::new();
        let mut fine = true;
        loop {
            while under_way.len() < self.together
                && let Some(job) = jobs.next()
            {
                let (objects, namespace) = (self.objects.clone(), self.set.namespace.clone());
                under_way.spawn(async move {
                    let done = job.run(&objects, &namespace).await;
                    (job, done)
                });
            }
            match under_way.join_next().await {
                None => return fine,
                Some(Ok((job, done))) => fine &= self.done(&job, done).await,
                Some(Err(ended)) => {
                    tracing::error!(%ended, "a write ended without an answer");
                    fine = false;
                }
            }
        }
    }

    async fn done(&mut self, job: &Job, done: Result<Option<u64>, ApiError>) -> bool {
        let name = match job {
            Job::Create { object } => of::meta(object, "name"),
            Job::Delete { name, .. } => name,
        };
        if let Err(error) = &done
            && matches!(error.code, 503 | 504)
        {
            self.unanswered.push(job.clone());
        }
        match (job, done) {
            (_, Ok(None)) => true,
            (Job::Create { .. }, Ok(Some(revision))) => {
                self.written = self.written.max(revision);
                self.event(EventKind::Normal, "SuccessfulCreate", &format!("Created pod: {name}")).await;
                true
            }
            (Job::Delete { .. }, Ok(Some(revision))) => {
                self.written = self.written.max(revision);
                self.event(EventKind::Normal, "SuccessfulDelete", &format!("Deleted pod: {name}")).await;
                true
            }
            // The DaemonSet itself is about to be deleted.
            (Job::Create { .. }, Err(error)) if is_terminating(&error) => true,
            (Job::Create { .. }, Err(error)) => {
                self.event(EventKind::Warning, "FailedCreate", &format!("Error creating: {error}")).await;
                false
            }
            (Job::Delete { .. }, Err(error)) => {
                self.event(EventKind::Warning, "FailedDelete", &format!("Error deleting: {error}")).await;
                false
            }
        }
    }

    /// A step before the pods come and go.
    async fn claim(&mut self, step: &Step, mirror: &Mirror) -> Result<(), ApiError> {
        let set = self.set;
        let uid = set.uid.0.clone();
        match step {
            Step::AdoptPod { uid: pod } => {
                self.lives().await?;
                self.change_pod(pod, mirror, |object| adopt(object, set)).await
            }
            Step::ReleasePod { uid: pod } => self.change_pod(pod, mirror, |object| release(object, &uid)).await,
            Step::LabelPod { uid: pod, hash } => self.change_pod(pod, mirror, |object| label(object, hash)).await,
            Step::AdoptRevision { name } => {
                self.lives().await?;
                self.change(*REVISIONS, name, None, |object| adopt(object, set)).await
            }
            Step::ReleaseRevision { name } => self.change(*REVISIONS, name, None, |object| release(object, &uid)).await,
            Step::LabelRevision { name, hash } => {
                self.change(*REVISIONS, name, None, |object| label(object, hash)).await
            }
            Step::RenumberRevision { name, number } => {
                let number = *number;
                self.change(*REVISIONS, name, None, |object| object["revision"] = json!(number)).await
            }
            Step::CreateRevision { hash, number, data, .. } => self.create_revision(hash, *number, data).await,
            Step::DeleteRevision { name } => {
                let deleted = self.objects.delete(*REVISIONS, &set.namespace, name, &background()).await;
                self.note(gone_is_fine(deleted.map(|deleted| deleted.object))?);
                Ok(())
            }
            Step::DeletePod { .. } | Step::CreatePod { .. } => Ok(()),
        }
    }

    /// Whoever adopts looks first whether it is still there: it may have been deleted as an orphaner.
    async fn lives(&self) -> Result<Value, ApiError> {
        let object = self.objects.get(*DAEMON_SETS, &self.set.namespace, &self.set.name).await?;
        if of::meta(&object, "uid") != self.set.uid.0 || of::is_ending(&object) {
            return Err(ApiError::not_found(*DAEMON_SETS, &self.set.name));
        }
        Ok(object)
    }

    async fn create_revision(&mut self, hash: &str, number: i64, data: &Arc<str>) -> Result<(), ApiError> {
        let set_object = self.lives().await?;
        let data: Value = serde_json::from_str(data).map_err(|error| ApiError::internal(error.to_string()))?;
        let object = shape::revision(self.set, &set_object, hash, number, &data);
        // One that exists already will be seen, and the next look takes it or another name.
        let written = self.objects.create(*REVISIONS, &self.set.namespace, object, &writer()).await?;
        self.note(Some(written.object));
        Ok(())
    }

    async fn change_pod(
        &mut self,
        uid: &Uid,
        mirror: &Mirror,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), ApiError> {
        let Some(name) = mirror.pod_name(&self.set.namespace, uid) else { return Ok(()) };
        self.change(*PODS, name, Some(uid), change).await
    }

    /// What is gone needs no change.
    async fn change(
        &mut self,
        kind: &'static Kind,
        name: &str,
        uid: Option<&Uid>,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), ApiError> {
        let namespace = &self.set.namespace;
        let Some(before) = gone_is_fine(self.objects.get(kind, namespace, name).await)? else { return Ok(()) };
        if uid.is_some_and(|uid| of::meta(&before, "uid") != uid.0) {
            return Ok(());
        }
        let mut object = before.clone();
        change(&mut object);
        if object != before {
            let written = self.objects.update(kind, namespace, name, "", object, &writer()).await?;
            self.note(Some(written.object));
        }
        Ok(())
    }

    /// Written where it differs from what was read.
    pub async fn status(&mut self, status: &Status, version: u64) -> Result<(), ApiError> {
        if *status == self.set.status {
            return Ok(());
        }
        let before = status_json(&self.set.status);
        let mut now = status_json(status);
        for field in before.as_object().into_iter().flat_map(|before| before.keys()) {
            if now.get(field).is_none() {
                now[field] = Value::Null;
            }
        }
        let metadata = json!({"uid": self.set.uid.0, "resourceVersion": version.to_string()});
        let patch = Patch::Merge(json!({"metadata": metadata, "status": now}));
        let (namespace, name) = (&self.set.namespace, &self.set.name);
        let written = self.objects.patch(*DAEMON_SETS, namespace, name, "status", patch, &writer()).await;
        self.note(gone_is_fine(written.map(|written| written.object))?);
        Ok(())
    }

    fn note(&mut self, object: Option<Value>) {
        self.written = self.written.max(object.as_ref().map_or(0, of::revision));
    }

    async fn event(&self, kind: EventKind, reason: &str, message: &str) {
        let about = About {
            api_version: "apps/v1",
            kind: "DaemonSet",
            namespace: &self.set.namespace,
            name: &self.set.name,
            uid: &self.set.uid.0,
        };
        self.recorder.record(&about, kind, reason, message).await;
    }
}

impl Job {
    /// The revision of the write; None: it had happened already.
    async fn run(&self, objects: &Objects, namespace: &str) -> Result<Option<u64>, ApiError> {
        match self {
            Job::Create { object } => {
                let options = writer();
                match objects.create(*PODS, namespace, object.clone(), &options).await {
                    Ok(written) => Ok(Some(of::revision(&written.object))),
                    Err(error) if error.is_already_exists() => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Job::Delete { uid, name, at_once } => {
                let preconditions = Preconditions { uid: Some(uid.0.clone()), revision: None };
                let options = DeleteOptions { grace: at_once.then_some(0), preconditions, ..background() };
                match objects.delete(*PODS, namespace, name, &options).await {
                    Ok(deleted) => Ok(Some(of::revision(&deleted.object))),
                    // Another pod has the name now.
                    Err(error) if error.is_not_found() || error.is_conflict() => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

fn background() -> DeleteOptions {
    DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() }
}

fn gone_is_fine(read: Result<Value, ApiError>) -> Result<Option<Value>, ApiError> {
    match read {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_terminating(error: &ApiError) -> bool {
    let causes = error.details.as_ref().map_or(&[][..], |details| &details.causes);
    causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Nobody else controls it: what was seen may have been adopted since.
fn adopt(object: &mut Value, set: &DaemonSet) {
    let labels = of::labels(object);
    if of::controller(object).is_some() || of::is_ending(object) || !set.selector.matches(&labels) {
        return;
    }
    let mut owners = of::owners(object).to_vec();
    owners.retain(|owner| owner["uid"] != set.uid.0.as_str());
    owners.push(shape::owner(set));
    object["metadata"]["ownerReferences"] = Value::Array(owners);
}

fn release(object: &mut Value, uid: &str) {
    let mut owners = of::owners(object).to_vec();
    owners.retain(|owner| owner["uid"] != uid);
    object["metadata"]["ownerReferences"] = Value::Array(owners);
}

fn label(object: &mut Value, hash: &str) {
    object["metadata"]["labels"][HASH_LABEL] = json!(hash);
}
