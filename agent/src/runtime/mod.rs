//! Container runtimes behind [`crate::seams::Runtime`].

pub mod containerd;
