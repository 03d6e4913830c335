//! Sandboxes and log pipes in memory.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use pod::name::{RunKey, Uid};
use pod::observed::SandboxState;
use pod::qos::{Bounds, Cgroup, of_pod};
use pod::record::Record;
use pod::spec::PodTemplate;

use super::world::World;
use crate::seams::{Leave, LogPipes, Projected, Reach, Sandbox, Sandboxes, StepError, Warned};

/// The one address that a simulated pod or node has: of the range for benchmarks, so never anybody's.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));

impl Sandboxes for World {
    async fn inspect(&self, uid: &Uid, _template: &PodTemplate) -> SandboxState {
        match self.state().sandboxes.get(uid) {
            None => SandboxState::Absent,
            Some(false) => SandboxState::Made,
            Some(true) => SandboxState::Connected { ips: vec![ADDRESS] },
        }
    }

    async fn fill(&self, uid: &Uid, files: &Projected) -> Result<(), StepError> {
        let fate = self.fate("fill").await?;
        self.state().projected.insert(uid.clone(), files.clone());
        self.told("fill", fate)
    }

    async fn set_up(&self, record: &Record, template: &PodTemplate) -> Result<Vec<Warned>, StepError> {
        let fate = self.fate("set_up").await?;
        let mut state = self.state();
        state.sandboxes.entry(record.uid.clone()).or_insert(template.spec.host_network);
        state.volumes.insert(record.uid.clone());
        state.sizes.insert(record.uid.clone(), of_pod(&template.spec));
        drop(state);
        self.told("set_up", fate).map(|()| Vec::new())
    }

    async fn resize(&self, uid: &Uid, template: &PodTemplate, reach: Reach) -> Result<(), StepError> {
        let fate = self.fate("resize").await?;
        let wanted = of_pod(&template.spec);
        if let Some(size) = self.state().sizes.get_mut(uid) {
            let Cgroup { quota_us, memory_max, .. } = *size;
            *size = match reach {
                Reach::Widened => wanted.widened_to(Bounds { quota_us, memory_max }),
                Reach::Exact => wanted,
            };
        }
        self.told("resize", fate)
    }

    async fn connect(&self, record: &Record, _template: &PodTemplate) -> Result<Vec<IpAddr>, StepError> {
        let fate = self.fate("connect").await?;
        match self.state().sandboxes.get_mut(&record.uid) {
            Some(connected) => *connected = true,
            None => return Err(StepError::new("CreatePodSandboxError", "its namespaces are not there")),
        }
        self.told("connect", fate)?;
        Ok(vec![ADDRESS])
    }

    async fn describe(&self, _record: &Record, _template: &PodTemplate) -> Result<Sandbox, StepError> {
        Ok(Sandbox::default())
    }

    async fn tear_down(&self, uid: &Uid, leave: Leave) -> Result<(), StepError> {
        let fate = self.fate("tear_down").await?;
        let mut state = self.state();
        let alive =
            state.containers.values().any(|c| c.run.uid == *uid && matches!(c.state, super::FakeState::Running { .. }));
        assert!(!alive, "the sandbox of {uid} was torn down under a running container");
        state.sandboxes.remove(uid);
        state.sizes.remove(uid);
        state.projected.remove(uid);
        if leave == Leave::Nothing {
            state.volumes.remove(uid);
        }
        drop(state);
        self.told("tear_down", fate)
    }

    fn make_words(&self, run: &RunKey) -> Result<PathBuf, StepError> {
        Ok(PathBuf::from("/fake/words").join(run.container_id()))
    }

    fn last_words(&self, _run: &RunKey) -> Option<String> {
        None
    }

    fn remove_words(&self, _run: &RunKey) {}

    async fn list(&self) -> Result<Vec<Uid>, StepError> {
        self.fate("list").await?;
        let state = self.state();
        Ok(state.sandboxes.keys().chain(&state.volumes).cloned().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

impl LogPipes for World {
    async fn open(&self, _record: &Record, run: &RunKey) -> Result<(PathBuf, PathBuf), StepError> {
        let fate = self.fate("open").await?;
        self.state().pipes.insert(run.container_id(), run.uid.clone());
        self.told("open", fate)?;
        let dir = PathBuf::from("/fake/logs").join(run.container_id());
        Ok((dir.join("stdout"), dir.join("stderr")))
    }

    async fn close(&self, id: &str) -> Result<(), StepError> {
        let fate = self.fate("close").await?;
        self.state().pipes.remove(id);
        self.told("close", fate)
    }

    async fn last_lines(&self, _record: &Record, run: &RunKey) -> Option<String> {
        Some(format!("{run} said this"))
    }

    async fn forget(&self, record: &Record) -> Result<(), StepError> {
        let fate = self.fate("forget").await?;
        self.state().pipes.retain(|_, uid| *uid != record.uid);
        self.told("forget", fate)
    }
}
