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

/// tokio's paused clock: it jumps to the next timer when nothing else can run.
#[derive(Debug)]
pub struct FakeClock {
    start: Instant,
}

impl FakeMachine {
    /// `start`: the instant that counts as the machine's start, the same for all lives of one simulation.
    pub fn new(world: World, start: Instant) -> FakeMachine {
        let boot_id = format!("boot-{}", world.state().boot);
        FakeMachine { world, boot_id, clock: FakeClock { start } }
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Now {
        let since = self.start.elapsed();
        let wall = jiff::Timestamp::UNIX_EPOCH
            .checked_add(jiff::SignedDuration::try_from(since).unwrap_or_default())
            .unwrap_or(jiff::Timestamp::MAX);
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
