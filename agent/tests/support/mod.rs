//! What the tests against real containerd share.
#![expect(dead_code, reason = "each test program uses its part of it")]

pub mod archives;
pub mod containerd;
pub mod pods;
