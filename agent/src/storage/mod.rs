//! Pods that use more of the disk than they themselves allow: they have failed by themselves and start afresh.
//!
//! Driven by the composition root. Only pods that have such a limit are measured: their emptyDirs on disk, and their
//! containers' writable layers, VOLUMEs and logs. What is too much, `pod::storage` decides; the pod's end is its worker's.
//! As long as no pod has a limit nothing is measured and nothing wakes for it.

mod measure;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pod::name::WorkloadKey;
use pod::plan::PodView;
use pod::record::Lifecycle;
use pod::storage::{Limits, Usage};

use crate::board::Board;
use crate::logs;
use crate::seams::{Clock, Layers};

/// The kubelet's pace.
const EVERY: Duration = Duration::from_secs(10);
/// Measuring takes at most this share of the time: large trees are measured less often.
const SHARE: u32 = 50;

/// See the top of the file.
#[derive(Debug)]
pub struct Storage<L> {
    pub layers: L,
    pub board: Board,
    pub state_dir: PathBuf,
    pub log_dir: PathBuf,
}

/// A pod to be measured.
#[derive(Debug)]
struct Limited {
    workload: WorkloadKey,
    view: PodView,
    limits: Limits,
}

impl<L: Layers> Storage<L> {
    /// Measures for ever.
    pub async fn follow(self, clock: &impl Clock) {
        let storage = Arc::new(self);
        let mut moved = storage.board.version();
        loop {
            let limited = storage.limited();
            if limited.is_empty() {
                if moved.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let begun = clock.now().boot;
            for pod in &limited {
                storage.judge(pod).await;
            }
            let now = clock.now().boot;
            clock.sleep_until(now.after(EVERY.max(now.since(begun).saturating_mul(SHARE)))).await;
        }
    }

    fn limited(&self) -> Vec<Limited> {
        let mut limited = Vec::new();
        for (workload, published) in self.board.workloads() {
            for view in published.pods.iter().filter(|view| view.record.lifecycle == Lifecycle::Running) {
                if let Some(limits) = Limits::of(&view.template.spec) {
                    limited.push(Limited { workload: workload.clone(), view: view.clone(), limits });
                }
            }
        }
        limited
    }

    async fn judge(&self, pod: &Limited) {
        let usage = self.usage(pod).await;
        let Some(message) = pod.limits.exceeded(&usage) else { return };
        let uid = pod.view.record.uid.clone();
        tracing::info!(pod = %uid, workload = %pod.workload, message, "evicted");
        self.board.evict_pod(pod.workload.clone(), uid, message).await;
    }

    /// What cannot be measured just now (containerd is away, a container has just gone) counts as nothing: nobody is ended
    /// by a guess.
    async fn usage(&self, pod: &Limited) -> Usage {
        let record = &pod.view.record;
        let volumes = self.state_dir.join("pods").join(&record.uid.0).join("volumes");
        let logs = self.log_dir.join("pods").join(logs::pod_dir(record));
        let spec = &pod.view.template.spec;
        let mut places: Vec<(Place, PathBuf)> = Vec::new();
        for volume in &spec.volumes {
            // What is not on disk is not there.
            places.push((Place::Volume(volume.name.clone()), volumes.join("empty-dir").join(&volume.name)));
        }
        for container in &spec.containers {
            for place in [logs.join(&container.name), volumes.join("image").join(&container.name)] {
                places.push((Place::Container(container.name.clone()), place));
            }
        }
        let measuring = tokio::task::spawn_blocking(move || {
            let measured = places.into_iter().map(|(place, path)| (place, measure::tree(&path)));
            measured.collect::<Vec<_>>()
        });
        let mut usage = Usage::default();
        for (place, bytes) in measuring.await.unwrap_or_default() {
            add(&mut usage, place, bytes);
        }
        for container in &pod.view.containers {
            let bytes = self.layers.bytes(&container.id).await.unwrap_or(0);
            add(&mut usage, Place::Container(container.run.container.clone()), bytes);
        }
        usage
    }
}

/// Whose bytes they are.
enum Place {
    Volume(String),
    Container(String),
}

fn add(usage: &mut Usage, place: Place, bytes: u64) {
    let sum = match place {
        Place::Volume(name) => usage.volumes.entry(name).or_default(),
        Place::Container(name) => usage.containers.entry(name).or_default(),
    };
    *sum = sum.saturating_add(bytes);
}
