//! The log keeper's protocol and its client side, and what agent and keeper both do with trees that others write.
//!
//! The agent uses [`client::Keeper`] to hand a container's output to `daemonlet-logkeeper`, and gives the two pipes it
//! gets back to containerd. The program itself (`main.rs`) shares [`protocol`] and [`tree`] with this library. Nothing here
//! knows of pods, containerd or tokio: calls block, for a bounded time.

pub mod client;
pub mod protocol;
pub mod tree;
