//! Probes and hooks of containers: what they ask, done, and what it says of a run.
//!
//! [`handlers`] carries out one of them; `http`, `tcp` and `grpc` are its ways. [`prober`] repeats the probes of a worker's runs; what
//! an outcome means for a container is `pod::probe`'s to say.

mod grpc;
pub mod handlers;
mod http;
pub mod prober;
mod tcp;
