//! The controllers: each wakes, reads the store, decides and writes.

pub mod garbage;
pub mod nodes;
pub mod queue;
