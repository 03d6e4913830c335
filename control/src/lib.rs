//! The control endpoint: what a DaemonSet wants of a fleet of nodes, the rules of its API, and where its objects are kept.
//!
//! [`store`] keeps, [`api::objects`] reads and writes, [`http`] is the API's door, [`door`] says who may come in, [`loops`] act. Everything else is
//! pure: no network, no files, no clock and no randomness. What was read from the store and the time are handed in; values come out, and whoever
//! drives it writes them. Read [`daemonset`] for the nouns and the one decision, [`rollout`] for what an update may take.

pub mod api;
pub mod clock;
pub mod config;
pub mod contacts;
pub mod convert;
pub mod daemonset;
pub mod door;
pub mod http;
pub mod loops;
pub mod rollout;
pub mod selector;
pub mod store;
