//! A container runtime in memory, as forgetful and as strict as containerd.

use std::time::Duration;

use pod::downward::NodeSize;
use pod::name::WorkloadKey;
use pod::observed::{ContainerState, ObservedContainer};
use pod::plan::Signal;
use pod::spec::{Container, PodSpec, PullPolicy, Role};

use super::world::{FakeContainer, FakeExec, FakeState, World};
use crate::exec::{Exec, ExecError, ExecStreams, Stage, Stream};
use crate::seams::{
    CreateRun, CreatedRun, ImageWanted, PodRuns, Prepared, RESIZE_ERROR, Runtime, ShimEnd, StepError, Wake,
};

impl World {
    fn up(&self) -> Result<(), StepError> {
        if self.state().runtime_down {
            let message = "the runtime is away: the simulation took it".to_owned();
            return Err(StepError::unavailable("RuntimeUnavailable", message));
        }
        Ok(())
    }
}

/// How long an init container works.
const INIT_WORK: Duration = Duration::from_millis(30);

impl Runtime for World {
    async fn observe(&self, workload: Option<&WorkloadKey>) -> Result<Vec<ObservedContainer>, StepError> {
        self.up()?;
        self.fate("observe").await?;
        self.up()?;
        let state = self.state();
        let ours = state.containers.iter().filter(|(_, c)| !c.foreign && workload.is_none_or(|w| c.workload == *w));
        Ok(ours
            .map(|(id, c)| ObservedContainer {
                id: id.clone(),
                workload: c.workload.clone(),
                run: c.run.clone(),
                image_id: c.created.image_id.clone(),
                adapted: c.created.adapted.clone(),
                not_refreshed: c.not_refreshed.clone(),
                image: c.created.image.clone(),
                user: None,
                state: match c.state {
                    FakeState::Created | FakeState::Running { .. } | FakeState::Exited { .. }
                        if state.hung.contains(&c.run.uid) =>
                    {
                        ContainerState::Unanswered
                    }
                    FakeState::NoTask => ContainerState::NoTask,
                    FakeState::Created => ContainerState::Created,
                    FakeState::Running { pid } => ContainerState::Running { pid },
                    FakeState::Exited { exit_code } => {
                        ContainerState::Exited { exit_code, oom: false, finished_at: jiff::Timestamp::UNIX_EPOCH }
                    }
                },
            })
            .collect())
    }

    async fn prepare_image(&self, wanted: ImageWanted<'_>) -> Result<Prepared, StepError> {
        self.up()?;
        let fate = self.fate("prepare_image").await?;
        if !self.state().images.contains(wanted.image) {
            return Err(StepError::new("ErrImagePull", format!("no image {}", wanted.image)));
        }
        self.told("prepare_image", fate)?;
        Ok(match wanted.pull_policy {
            PullPolicy::Always => Prepared::NotRefreshed { message: "there is no registry in a simulation".into() },
            PullPolicy::IfNotPresent | PullPolicy::Never => Prepared::AsAsked,
        })
    }

    async fn create(&self, run: &CreateRun<'_>) -> Result<CreatedRun, StepError> {
        self.up()?;
        let fate = self.fate("create").await?;
        self.answered(Some(run.run.uid.clone()), "create").await?;
        let id = run.run.container_id();
        let mut state = self.state();
        if !state.sandboxes.contains_key(&run.record.uid) {
            return Err(StepError::new("CreateContainerError", "its sandbox is not there"));
        }
        let adapted =
            if run.container.security.privileged { "capabilities not given: the simulation has none" } else { "" };
        let image_id = image_id(&run.container.image);
        let image = run.image_asked().to_owned();
        let created = CreatedRun { image_id, adapted: adapted.to_owned(), image, user: None };
        let container = FakeContainer {
            created: created.clone(),
            not_refreshed: run.not_refreshed.to_owned(),
            workload: run.workload.clone(),
            run: run.run.clone(),
            state: FakeState::NoTask,
            init: run.container.role == Role::Init,
            resources: run.container.resources.clone(),
            foreign: false,
        };
        let known = state.containers.entry(id.clone()).or_insert(container);
        if known.state == FakeState::NoTask {
            known.state = FakeState::Created;
            known.resources = run.container.resources.clone();
            let line = format!("created {}", run.run);
            state.story.push(line);
        }
        drop(state);
        self.told("create", fate)?;
        Ok(created)
    }

    async fn start(&self, id: &str) -> Result<u32, StepError> {
        assert!(!self.state().drained, "{id} is started on a drained node");
        self.up()?;
        let fate = self.fate("start").await?;
        self.answered(self.task_of(id), "start").await?;
        let pid = {
            let mut state = self.state();
            state.next_pid += 1;
            let pid = state.next_pid;
            state.assert_may_start(id);
            let Some(container) = state.containers.get_mut(id) else {
                return Err(StepError::new("RunContainerError", "no such container"));
            };
            match container.state {
                FakeState::Created => {
                    container.state = FakeState::Running { pid };
                    if container.init {
                        let (world, id) = (self.clone(), id.to_owned());
                        tokio::spawn(async move {
                            tokio::time::sleep(INIT_WORK).await;
                            world.end_process(&id, 0);
                        });
                    }
                }
                FakeState::Running { .. } => {}
                FakeState::NoTask | FakeState::Exited { .. } => {
                    return Err(StepError::new("RunContainerError", "its task is not there or has ended"));
                }
            }
            let line = format!("started {}", container.run);
            state.story.push(line);
            pid
        };
        self.told("start", fate)?;
        Ok(pid)
    }

    async fn resize(&self, id: &str, wanted: &Container) -> Result<(), StepError> {
        self.up()?;
        let fate = self.fate("resize").await?;
        self.answered(self.task_of(id), "resize").await?;
        if self.state().unresizable.contains(&wanted.name) {
            return Err(StepError::new(RESIZE_ERROR, format!("{} uses more", wanted.name)));
        }
        if let Some(container) = self.state().containers.get_mut(id)
            && matches!(container.state, FakeState::Created | FakeState::Running { .. })
        {
            container.resources = wanted.resources.clone();
        }
        self.told("resize", fate)
    }

    async fn signal(&self, id: &str, signal: Signal) -> Result<(), StepError> {
        self.up()?;
        let fate = self.fate("signal").await?;
        self.answered(self.task_of(id), "signal").await?;
        // A daemon obeys, or is deaf to anything but SIGKILL: by its id, so that it stays what it is.
        let obeys = signal == Signal::Kill || !id.starts_with('f');
        if obeys {
            self.end_process(id, if signal == Signal::Kill { 137 } else { 143 });
        }
        self.told("signal", fate)
    }

    async fn delete(&self, id: &str) -> Result<(), StepError> {
        self.up()?;
        let fate = self.fate("delete").await?;
        self.answered(self.task_of(id), "delete").await?;
        let mut state = self.state();
        if let Some(removed) = state.containers.remove(id) {
            assert!(!removed.foreign, "a foreign container was deleted");
            state.story.push(format!("deleted {}", removed.run));
        }
        drop(state);
        self.told("delete", fate)
    }

    async fn exec(&self, exec: Exec<'_>, streams: ExecStreams) -> Result<u32, ExecError> {
        let failed = |error: StepError| ExecError::Failed(error.message);
        self.up().map_err(|error| ExecError::Unavailable(error.message))?;
        let fate = self.fate("exec").await.map_err(failed)?;
        self.answered(self.task_of(exec.id), "exec").await.map_err(failed)?;
        let (runs, scripted) = {
            let state = self.state();
            let runs = state.containers.get(exec.id).is_some_and(|c| matches!(c.state, FakeState::Running { .. }));
            (runs, state.execs.get(&exec.command.join(" ")).cloned())
        };
        if !runs {
            return Err(ExecError::NotRunning);
        }
        let tell = |reached: Stage| {
            if let Some(stage) = &streams.stage {
                stage.send_replace(reached);
            }
        };
        tell(Stage::Starts);
        if self.state().hung_starts.contains(&exec.command.join(" ")) {
            std::future::pending::<()>().await;
        }
        tell(Stage::Runs);
        let code = match scripted {
            Some(FakeExec { hangs: true, .. }) => std::future::pending().await,
            Some(FakeExec { exit_code, output, .. }) => {
                // Nobody may be listening.
                let _ = streams.output.send((Stream::Out, output.into())).await;
                exit_code
            }
            None => 0,
        };
        self.told("exec", fate).map_err(failed)?;
        Ok(code)
    }

    async fn end_shim(&self, pod: &PodRuns) -> Result<ShimEnd, StepError> {
        self.up()?;
        let fate = self.fate("end_shim").await?;
        self.up()?;
        let mut state = self.state();
        if !state.hung.remove(&pod.uid) {
            return Ok(ShimEnd::Answers);
        }
        let mut ended = Vec::new();
        for (id, container) in state.containers.iter_mut().filter(|(_, c)| c.run.uid == pod.uid) {
            assert!(!container.foreign, "a foreign shim was ended");
            let newest = pod.newest.get(&container.run.container);
            assert!(newest >= Some(&container.run.attempt), "{} is not known to whoever ends its shim", container.run);
            container.state = FakeState::NoTask;
            ended.push(id.clone());
        }
        state.story.push(format!("ended the shim of {}", pod.uid));
        drop(state);
        ended.into_iter().for_each(|id| self.wake(Wake::Container(id)));
        self.told("end_shim", fate)?;
        Ok(ShimEnd::Ended { found: "shim 1 (stopped)".into() })
    }

    async fn wake(&self) -> Wake {
        loop {
            let notified = self.woken.notified();
            if let Some(wake) = self.state().wakes.pop_front() {
                return wake;
            }
            notified.await;
        }
    }

    async fn version(&self) -> Result<String, StepError> {
        self.up()?;
        Ok("fake://1".into())
    }

    async fn takes(&self, _: &PodSpec) -> Result<(), StepError> {
        Ok(())
    }

    fn node_size(&self) -> NodeSize {
        NodeSize { cpus: 2, memory: 1 << 30, storage: 1 << 30 }
    }

    fn missing_capabilities(&self) -> Vec<String> {
        vec!["SYS_RESOURCE".into()]
    }
}

/// As an image is called in a status.
fn image_id(image: &str) -> String {
    format!("{image}@sha256:0")
}
