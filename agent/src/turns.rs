//! Where the workers tell each other how their workloads stand, so that each knows whose turn it is. The decisions are
//! `pod::turns`'; a worker is nudged when its own turn has changed, and looks at it when it plans.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use pod::name::WorkloadKey;
use pod::turns::{Halt, Shutdown, Standing, Turn, decide};

use crate::worker::Nudge;

/// See the top of the file. One for a node.
#[derive(Debug, Default)]
pub struct Turns {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    standings: BTreeMap<WorkloadKey, Standing>,
    nudges: BTreeMap<WorkloadKey, Arc<Nudge>>,
    /// Of those that have to wait for somebody.
    turns: BTreeMap<WorkloadKey, Turn>,
    drained: Option<Timestamp>,
    shutdown: Option<Shutdown>,
}

impl Turns {
    /// A worker takes its seat.
    pub fn enter(&self, key: &WorkloadKey, standing: Standing, nudge: Arc<Nudge>) {
        let mut state = self.state();
        state.nudges.insert(key.clone(), nudge);
        state.standings.insert(key.clone(), standing);
        state.decide();
    }

    /// Its workload stands like this now.
    pub fn say(&self, key: &WorkloadKey, standing: Standing) {
        let mut state = self.state();
        if state.standings.get(key) != Some(&standing) {
            state.standings.insert(key.clone(), standing);
            state.decide();
        }
    }

    /// Which of them are to end. Told of all at once, before any of them knows it: those that end together do so in their order.
    pub fn end(&self, ends: impl Fn(&WorkloadKey) -> bool) {
        let mut state = self.state();
        let mut changed = false;
        for (key, standing) in &mut state.standings {
            let now = ends(key);
            changed |= standing.ends != now;
            standing.ends = now;
        }
        if changed {
            state.decide();
        }
    }

    /// Everything is to stop, since then, or may run again.
    pub fn drain(&self, since: Option<Timestamp>) {
        let mut state = self.state();
        if state.drained != since {
            state.drained = since;
            state.decide();
        }
    }

    /// Everything is to stop in this time, or the shutdown was called off.
    pub fn shut_down(&self, shutdown: Option<Shutdown>) {
        let mut state = self.state();
        state.shutdown = shutdown;
        state.decide();
    }

    /// The workload is no more.
    pub fn leave(&self, key: &WorkloadKey) {
        let mut state = self.state();
        state.nudges.remove(key);
        state.standings.remove(key);
        state.decide();
    }

    pub fn of(&self, key: &WorkloadKey) -> Turn {
        self.state().turns.get(key).cloned().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn decide(&mut self) {
        let drained = self.drained.map(|since| Halt::Drained { since });
        let halt = self.shutdown.map(Halt::ShuttingDown).or(drained);
        let turns = decide(&self.standings, halt.as_ref());
        for (key, nudge) in &self.nudges {
            if turns.get(key) != self.turns.get(key) {
                nudge.again();
            }
        }
        self.turns = turns;
    }
}
