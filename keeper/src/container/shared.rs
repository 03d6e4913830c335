//! What all containers of a keeper share: the log directory, the limits, two buffers and the time of a turn.

use std::time::{Duration, Instant};

use keeper::protocol::Limits;

use super::pipe::PIPES_ROOM;
use crate::beneath::Beneath;

/// What all containers share.
#[derive(Debug)]
pub struct Shared {
    pub logs: Beneath,
    pub limits: Limits,
    /// Bytes beneath `pods/`, as last counted plus what was written since.
    pub used: u64,
    /// What the pipes may still grow by.
    pub pipes_room: usize,
    /// Used for one turn at a time, so that idle streams need none.
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
}

impl Shared {
    pub fn new(logs: Beneath, limits: Limits) -> Self {
        Self { logs, limits, used: 0, pipes_room: PIPES_ROOM, input: Vec::new(), output: Vec::new() }
    }

    /// Gives the buffers back, when nothing is being written.
    pub fn rest(&mut self) {
        self.input = Vec::new();
        self.output = Vec::new();
    }
}

/// The time, taken once a turn.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since 1970.
    pub wall: Duration,
    pub mono: Instant,
}

impl Now {
    pub fn read() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { wall, mono: Instant::now() }
    }
}
