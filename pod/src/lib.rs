//! What a pod is, what a DaemonSet wants of a node, and what to do next.
//!
//! Pure: no runtime, no files, no sockets, no clock and no randomness of its own. Bytes, observations, times and
//! random letters are handed in; values come out. Read [`name`], [`spec`], [`desired`], [`record`], [`observed`] for
//! the nouns, then [`plan`] for the one decision that everything else serves.

pub mod after;
pub mod allow;
pub mod backoff;
pub mod content;
pub mod desired;
pub mod digest;
pub mod downward;
pub mod env_file;
pub mod fields;
pub mod lifecycle;
pub mod manifest;
pub mod merge;
pub mod name;
pub mod observed;
pub mod placement;
pub mod plan;
pub mod ports;
pub mod probe;
pub mod projection;
pub mod qos;
pub mod received;
pub mod record;
pub mod resolve;
pub mod secret;
pub mod spec;
pub mod storage;
pub mod time;
pub mod turns;

#[cfg(test)]
mod sample;
