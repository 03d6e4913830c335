//! A machine in memory: the seams' other side for simulations, with faults on demand and a clock that only jumps.
//!
//! Everything that would survive the agent (containers, sandboxes, the disk) is in a [`World`], everything that would
//! not is in the [`FakeMachine`] of one life of the agent. Every verb asks the world's [`Faults`] what becomes of it:
//! it may fail before its effect, after it, or hang, and each wait is a moment at which the agent can be killed.
//! One seed gives one history: no real time, no threads, no randomness but the seed's.

mod files;
mod machine;
mod runtime;
mod sandboxes;
mod world;

pub use machine::FakeMachine;
pub use world::{FakeContainer, FakeDisk, FakeExec, FakeState, Faults, World, WorldState};
