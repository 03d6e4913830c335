//! The control endpoint: what a DaemonSet wants of a fleet of nodes, the rules of its API, and where its objects are kept.
//!
//! [`http`] is the API's door and [`door`] says who may come in; [`store`] keeps what there is, [`api::objects`] is the one way to it, [`loops`] act, and
//! [`serve`] makes all of them. Everything else is pure: no network, no files, no clock and no randomness. What was read from the store and the time
//! are handed in; values come out, and whoever drives it writes them. Read [`daemonset`] for the nouns and the one decision, [`rollout`] for what an
//! update may take.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contacts;
pub mod convert;
pub mod daemonset;
pub mod door;
pub mod fleet;
pub mod http;
pub mod loops;
pub mod rollout;
pub mod selector;
pub mod serve;
pub mod store;
