//! The Kubernetes API as far as it needs no network: which kinds there are ([`kinds`]) and what is special about each ([`strategy`]), how
//! their objects are read and written ([`objects`], the one module here that knows the store), how a patch or an applied configuration changes an
//! object, and which objects a query means. Everything works on JSON documents.

pub mod apply;
pub mod depth;
pub mod error;
mod interleave;
pub mod invalid;
pub mod kinds;
pub mod objects;
pub mod openapi;
pub mod patch;
pub mod protobuf;
mod quantity;
pub mod schema;
pub mod selector;
pub mod strategy;
pub mod typed;
pub mod validate;
