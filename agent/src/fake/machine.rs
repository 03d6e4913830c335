//! One life of the agent on a [`World`].

use std::time::Duration;

use pod::time::{Moment, Now};
use tokio::time::Instant;

use super::world::World;
use crate::seams::{Clock, Machine};

/// Dropped with the agent's life; the world stays.
#[derive(Debug)]
pub struct FakeMachine {
    world: World,
    boot_id: String,
    clock: FakeClock,
}

/// When every simulation begins, by a right clock, in seconds since 1970: 2026-01-01.
const BEGIN: i64 = 1_767_225_600;

/// tokio's paused clock: it jumps to the next timer when nothing else can run. The wall clock is as wrong as the world says.
#[derive(Debug)]
pub struct FakeClock {
    world: World,
    start: Instant,
}

impl FakeMachine {
    /// `start`: the instant that counts as the machine's start, the same for all lives of one simulation.
    pub fn new(world: World, start: Instant) -> FakeMachine {
        let boot_id = format!("boot-{}", world.state().boot);
        let clock = FakeClock { world: world.clone(), start };
        FakeMachine { world, boot_id, clock }
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Now {
        let since = self.start.elapsed();
        let shown = BEGIN.saturating_add(self.world.state().clock_error).saturating_add_unsigned(since.as_secs());
        let nanoseconds = i32::try_from(since.subsec_nanos()).unwrap_or_default();
        let wall = jiff::Timestamp::new(shown, nanoseconds).unwrap_or(jiff::Timestamp::MAX);
        Now { boot: Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)), wall }
    }

    async fn sleep_until(&self, moment: Moment) {
        tokio::time::sleep_until(self.start + Duration::from_millis(moment.0)).await;
    }
}

impl Machine for FakeMachine {
    type Runtime = World;
    type Sandboxes = World;
    type Logs = World;
    type Files = World;
    type Clock = FakeClock;

    fn runtime(&self) -> &World {
        &self.world
    }

    fn sandboxes(&self) -> &World {
        &self.world
    }

    fn logs(&self) -> &World {
        &self.world
    }

    fn files(&self) -> &World {
        &self.world
    }

    fn clock(&self) -> &FakeClock {
        &self.clock
    }

    fn random(&self) -> [u8; 16] {
        let (a, b) = (self.world.random(u64::MAX), self.world.random(u64::MAX));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&a.to_le_bytes());
        bytes[8..].copy_from_slice(&b.to_le_bytes());
        bytes
    }

    fn boot_id(&self) -> &str {
        &self.boot_id
    }
}
