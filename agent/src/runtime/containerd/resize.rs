//! Other amounts of cpu and memory for a container that is there.
//!
//! Driven by the Runtime verb in `mod`. containerd hands them to the shim and the OCI runtime, which write them to the container's
//! cgroup; what the container's record says of them stays as it was, because nothing is made from it again.

use containerd_client::services::v1::UpdateTaskRequest;
use containerd_client::tonic::Status;
use containerd_client::types::v1::Status as TaskStatus;
use prost_types::Any;

use pod::qos;
use pod::spec::Container;

use super::client::{Client, SLOW, bounded, found};
use super::containers::get_record;
use super::{Containerd, cgroup, labels, resources, tasks};
use crate::seams::{RESIZE_ERROR, StepError};

/// By which containerd knows `linux.resources`.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

impl Containerd {
    pub(super) async fn resize_run(&self, id: &str, container: &Container) -> Result<(), StepError> {
        let asked = &container.resources;
        let doing = || format!("resizing container {}", container.name);
        let failed = |status: Status| self.client.step_error(RESIZE_ERROR, &doing(), &status);
        let record = get_record(&self.client, id).await.map_err(failed)?;
        let place = record.and_then(|mut record| record.labels.remove(labels::CGROUP));
        if let (Some(limit), Some(used)) =
            (qos::of_container(asked).memory_max, place.as_deref().and_then(cgroup::memory_used_v2))
            && used > limit
        {
            // Version 2 would kill it. Version 1 refuses by itself.
            let message = format!(
                "attempting to set the memory limit of container {} ({limit}) below its current usage ({used}): tried again later",
                container.name
            );
            return Err(StepError::new(RESIZE_ERROR, message));
        }
        let wanted = resources::of_update(asked, self.host().swap_limits);
        let value = serde_json::to_vec(&wanted).expect("numbers become JSON");
        let value = Any { type_url: RESOURCES_TYPE.to_owned(), value };
        update(&self.client, id, value).await.map_err(failed)?;
        if let Some(place) = place.filter(|_| self.host().cgroup_v2) {
            // OCI runtimes take it when they make a container and not when they change one.
            let high = resources::memory_high_again(asked, self.config.memory);
            let failed = |error: &dyn std::fmt::Display| {
                StepError::new(RESIZE_ERROR, format!("{}: cannot write memory.high: {error}", doing()))
            };
            let written = tokio::task::spawn_blocking(move || cgroup::set_v2(&place, "memory.high", &high)).await;
            written.map_err(|ended| failed(&ended))?.map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// Ok also where there is no task, or one that has ended.
async fn update(client: &Client, id: &str, resources: Any) -> Result<(), Status> {
    let request =
        UpdateTaskRequest { container_id: id.to_owned(), resources: Some(resources), ..UpdateTaskRequest::default() };
    match found(bounded(SLOW, client.tasks().update(client.request(request))).await) {
        Ok(_) => Ok(()),
        // What has ended is refused with different words by different shims: ask how it stands.
        Err(refused) => match tasks::get(client, id).await {
            Ok(Some(process)) if process.status() != TaskStatus::Stopped => Err(refused),
            Ok(_) => Ok(()),
            Err(_) => Err(refused),
        },
    }
}
