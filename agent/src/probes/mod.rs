//! Probes and hooks of containers: what they ask, done.
//!
//! [`handlers`] carries out one of them; `http`, `tcp` and `grpc` are its ways. Driven by workers; what an outcome means for
//! a container is `pod::probe`'s to say.

mod grpc;
pub mod handlers;
mod http;
mod tcp;
