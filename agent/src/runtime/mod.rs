//! Container runtimes behind [`crate::seams::Runtime`].
