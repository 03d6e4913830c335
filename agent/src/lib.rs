//! The agent: the program `daemonlet`.
//!
//! A manifest flows one way: `sources` read snapshots, `desired` merges them, one `worker` per workload observes,
//! plans (in the `pod` crate), executes and publishes. Read [`seams`] first: what the workers act through.

pub mod board;
pub mod config;
pub mod disk;
pub mod events;
pub mod execute;
pub mod fake;
pub mod gate;
pub mod logs;
pub mod metrics;
pub mod records;
pub mod runtime;
pub mod seams;
pub mod worker;
pub mod workers;
