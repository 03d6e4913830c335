//! What outlives the agent: containers, sandboxes, disk and the seed of all chance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::qos::Cgroup;
use pod::spec::Resources;
use tokio::sync::Notify;

use crate::seams::{CreatedRun, StepError, Wake};

/// Wakes that wait for a reader; beyond it they are one [`Wake::All`], as in the real stream.
const WAKES_MAX: usize = 64;

/// How long a hung verb hangs before its deadline ends it.
pub(super) const HANG: Duration = Duration::from_secs(120);

/// Chances in a thousand that a verb meets each fate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub fail_before: u32,
    pub fail_after: u32,
    pub hang: u32,
    /// Chance that an event is not delivered but turned into [`Wake::All`] a little later.
    pub lose_wake: u32,
}

/// How the state directory's disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FakeDisk {
    #[default]
    Takes,
    /// ENOSPC, ENOSPC in the middle of a file.
    Full,
    /// EROFS: what an error of the medium makes of most disks.
    ReadOnly,
    /// It does not answer for a long time, and then with EIO.
    Hangs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakeState {
    NoTask,
    Created,
    Running { pid: u32 },
    Exited { exit_code: u32 },
}

/// What becomes of a command in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeExec {
    pub exit_code: u32,
    pub output: String,
    /// It ends only when it is killed.
    pub hangs: bool,
}

#[derive(Debug, Clone)]
pub struct FakeContainer {
    pub workload: WorkloadKey,
    pub run: RunKey,
    pub state: FakeState,
    pub created: CreatedRun,
    pub not_refreshed: String,
    /// What its cgroup gives it.
    pub resources: Resources,
    /// Once started it ends by itself, having done its work.
    pub init: bool,
    /// Not ours: whoever touches it has failed the simulation.
    pub foreign: bool,
}

/// A file as the disk has it now, and as it would be after a power cut.
#[derive(Debug, Clone, Default)]
pub struct FakeFile {
    pub content: Vec<u8>,
    /// What a power cut leaves of the content; None: as it is.
    pub unsynced: bool,
}

#[derive(Debug, Default)]
pub struct WorldState {
    pub seed: u64,
    pub faults: Faults,
    pub disk: FakeDisk,
    /// The newest attempt of each container of a pod that was started, while anything of it is there.
    pub newest: BTreeMap<(Uid, String), u32>,
    /// containerd is away: every call is refused.
    pub runtime_down: bool,
    /// Somebody has been told that the node is drained: nothing is started from now on.
    pub drained: bool,
    /// Pods whose shim does not answer.
    pub hung: BTreeSet<Uid>,
    /// Names of images that can be had.
    pub images: BTreeSet<String>,
    pub containers: BTreeMap<String, FakeContainer>,
    /// Commands that do not simply exit 0, by their words joined with blanks.
    pub execs: BTreeMap<String, FakeExec>,
    /// Commands whose start never ends.
    pub hung_starts: BTreeSet<String>,
    /// Ids of the runs whose pipes the log keeper has open.
    pub pipes: BTreeMap<String, Uid>,
    /// Sandboxes by uid: true once connected.
    pub sandboxes: BTreeMap<Uid, bool>,
    /// What the cgroups of pods give them.
    pub sizes: BTreeMap<Uid, Cgroup>,
    /// Names of containers that cannot be given other amounts.
    pub unresizable: BTreeSet<String>,
    /// What the projected volumes of pods show.
    pub projected: BTreeMap<Uid, crate::seams::Projected>,
    /// Pods of which there are volumes on the disk.
    pub volumes: BTreeSet<Uid>,
    pub files: BTreeMap<PathBuf, FakeFile>,
    /// Names as a power cut would find them: changed by `sync_dir` only.
    pub durable_names: BTreeMap<PathBuf, FakeFile>,
    pub wakes: VecDeque<Wake>,
    pub next_pid: u32,
    pub boot: u32,
    /// How far the wall clock is from the right time, in seconds.
    pub clock_error: i64,
    /// Every verb that took effect, for a failing seed's story.
    pub story: Vec<String>,
}

/// Shared by the simulation and the machine of the agent's present life.
#[derive(Debug, Clone, Default)]
pub struct World {
    state: Arc<Mutex<WorldState>>,
    pub(super) woken: Arc<Notify>,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Succeed,
    FailBefore,
    FailAfter,
    Hang,
}

impl World {
    pub fn new(seed: u64) -> World {
        let world = World::default();
        world.state().seed = seed | 1;
        world
    }

    pub fn state(&self) -> MutexGuard<'_, WorldState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `bound` (at least 1), from the seed.
    pub fn random(&self, bound: u64) -> u64 {
        self.state().random() % bound.max(1)
    }

    pub fn wake(&self, wake: Wake) {
        let mut state = self.state();
        let lose = state.faults.lose_wake;
        if state.wakes.len() >= WAKES_MAX || state.chance(lose) {
            state.wakes.clear();
            state.wakes.push_back(Wake::All);
        } else {
            state.wakes.push_back(wake);
        }
        drop(state);
        self.woken.notify_one();
    }

    /// A container of this id that runs and is nobody's.
    pub fn run_container(&self, id: &str) {
        let uid = Uid("u".into());
        let container = FakeContainer {
            workload: WorkloadKey { namespace: "default".into(), kind: WorkloadKind::Pod, name: "a".into() },
            run: RunKey { uid, container: "c".into(), attempt: 0 },
            state: FakeState::Running { pid: 7 },
            created: CreatedRun::default(),
            not_refreshed: String::new(),
            resources: Resources::default(),
            init: false,
            foreign: false,
        };
        self.state().containers.insert(id.to_owned(), container);
    }

    /// A running container's process ends.
    pub fn end_process(&self, id: &str, exit_code: u32) {
        let mut state = self.state();
        if let Some(container) = state.containers.get_mut(id)
            && matches!(container.state, FakeState::Running { .. })
        {
            container.state = FakeState::Exited { exit_code };
            let line = format!("process of {} ends with {exit_code}", container.run);
            state.story.push(line);
        }
        drop(state);
        self.wake(Wake::Container(id.to_owned()));
    }

    /// What nobody knows any more once the agent is killed: attempts of containers of which nothing is left.
    pub fn forget_attempts(&self) {
        let mut state = self.state();
        let there: BTreeSet<_> =
            state.containers.values().map(|c| (c.run.uid.clone(), c.run.container.clone())).collect();
        state.newest.retain(|of, _| there.contains(of));
    }

    /// Power cut and start: no task, no sandbox, and of the disk what was synced.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.boot += 1;
        state.drained = false;
        for container in state.containers.values_mut().filter(|c| !c.foreign) {
            container.state = FakeState::NoTask;
        }
        state.sandboxes.clear();
        state.sizes.clear();
        state.pipes.clear();
        state.wakes.clear();
        let foreign: BTreeSet<Uid> =
            state.containers.values().filter(|c| c.foreign).map(|c| c.run.uid.clone()).collect();
        state.hung.retain(|uid| foreign.contains(uid));
        let mut survived = std::mem::take(&mut state.durable_names);
        for file in survived.values_mut() {
            if file.unsynced {
                // The name was synced, the content was not: any prefix may have reached the disk.
                let keep = usize::try_from(state.random()).unwrap_or(0) % (file.content.len() + 1);
                file.content.truncate(keep);
                file.unsynced = false;
            }
        }
        state.durable_names = survived.clone();
        state.files = survived;
        state.story.push("reboot".into());
    }

    /// As long as the pod's shim does not answer, a call that needs it ends with its deadline.
    pub(super) async fn answered(&self, uid: Option<Uid>, verb: &str) -> Result<(), StepError> {
        if uid.is_some_and(|uid| self.state().hung.contains(&uid)) {
            tokio::time::sleep(HANG).await;
            return Err(StepError::new("Injected", format!("{verb}: the shim does not answer")));
        }
        Ok(())
    }

    /// Whose task the container has, if it has one.
    pub(super) fn task_of(&self, id: &str) -> Option<Uid> {
        let state = self.state();
        let container = state.containers.get(id)?;
        (container.state != FakeState::NoTask).then(|| container.run.uid.clone())
    }

    /// One call's latency and fate. The caller may be killed while it waits.
    pub(super) async fn fate(&self, verb: &str) -> Result<Fate, StepError> {
        let (latency, fate) = {
            let mut state = self.state();
            let latency = Duration::from_millis(state.random() % 20);
            let faults = state.faults;
            let dice = u32::try_from(state.random() % 1000).unwrap_or(0);
            let fate = if dice < faults.fail_before {
                Fate::FailBefore
            } else if dice < faults.fail_before + faults.fail_after {
                Fate::FailAfter
            } else if dice < faults.fail_before + faults.fail_after + faults.hang {
                Fate::Hang
            } else {
                Fate::Succeed
            };
            (latency, fate)
        };
        tokio::time::sleep(latency).await;
        match fate {
            Fate::FailBefore => Err(injected(verb, "before")),
            Fate::Hang => {
                tokio::time::sleep(HANG).await;
                Err(injected(verb, "by its deadline"))
            }
            fate => Ok(fate),
        }
    }

    /// Whether the effect that has just been made is to be reported as a failure.
    pub(super) fn told(&self, verb: &str, fate: Fate) -> Result<(), StepError> {
        if fate == Fate::FailAfter { Err(injected(verb, "after")) } else { Ok(()) }
    }
}

pub(super) fn injected(verb: &str, when: &str) -> StepError {
    StepError::new("Injected", format!("{verb} failed {when} its effect: the simulation wanted it"))
}

impl WorldState {
    /// The invariants that matter most: never two live containers of one name of one workload; attempts only grow.
    pub(super) fn assert_may_start(&mut self, id: &str) {
        let Some(starting) = self.containers.get(id) else { return };
        let twin = self.containers.iter().find(|(other, c)| {
            *other != id
                && c.workload == starting.workload
                && c.run.container == starting.run.container
                && matches!(c.state, FakeState::Running { .. })
        });
        assert!(twin.is_none(), "{} is started while {:?} runs", starting.run, twin.map(|(_, c)| &c.run));
        if starting.state != FakeState::Created {
            return;
        }
        let run = starting.run.clone();
        let newest = self.newest.entry((run.uid.clone(), run.container.clone())).or_default();
        assert!(run.attempt >= *newest, "{run} is started after attempt {newest}");
        *newest = run.attempt;
    }

    /// xorshift64*: chance needs no more than to be the same for the same seed.
    pub fn random(&mut self) -> u64 {
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        self.seed.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn chance(&mut self, in_thousand: u32) -> bool {
        self.random() % 1000 < u64::from(in_thousand)
    }
}
