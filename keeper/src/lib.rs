//! The log keeper's protocol and its client side.
//!
//! The agent uses [`client::Keeper`] to hand a container's output to `daemonlet-logkeeper`, and gives the two pipes it
//! gets back to containerd. The program itself (`main.rs`) shares only [`protocol`] with this library. Nothing here
//! knows of pods, containerd or tokio: calls block, for a bounded time.

pub mod client;
pub mod protocol;
