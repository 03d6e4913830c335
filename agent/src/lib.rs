//! The agent: the program `daemonlet`.
//!
//! A manifest flows one way: `sources` read snapshots, `desired` merges them, one `worker` per workload observes,
//! plans (in the `pod` crate), executes and publishes. Read [`seams`] first: what the workers act through.

pub mod agent;
pub mod allowed;
pub mod board;
pub mod checkpoint;
pub mod cli;
pub mod collect;
pub mod config;
pub mod contents;
pub mod desired;
pub mod disk;
pub mod doctor;
pub mod drain;
pub mod durable;
pub mod events;
pub mod exec;
pub mod execute;
pub mod fake;
pub mod gate;
pub mod http;
pub mod image_pull;
pub mod image_words;
mod log_file;
mod log_lines;
pub mod logs;
pub mod metrics;
mod mountinfo;
pub mod probes;
mod readable;
pub mod records;
pub mod refusals;
pub mod registry;
pub mod remove;
pub mod runtime;
pub mod sandbox;
pub mod seams;
pub mod shutdown;
pub mod sources;
pub mod status;
pub mod storage;
pub mod threads;
pub mod turns;
pub mod uplink;
pub mod worker;
pub mod workers;
