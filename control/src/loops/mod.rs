//! The controllers: each is told what has changed, reads the store, decides and writes. Nobody else writes what they write.
//!
//! A loop has two parts. The decision is pure and stands in a file of its own (`decide`; for DaemonSets the module [`crate::daemonset`]); the loop around it
//! implements [`runner::Looks`]: which changes concern what, and how a decision is carried out. [`told`] reads the store's changes once for all of them.

pub mod accounts;
pub mod configs;
pub mod daemonsets;
pub mod election;
pub mod garbage;
pub mod itself;
pub mod lifetimes;
pub mod namespaces;
pub mod nodes;
mod of;
pub mod pods;
mod polls;
pub mod queue;
pub mod record;
pub mod runner;
pub mod slices;
mod start;
pub mod told;

pub use start::{Loops, Settings, start};
