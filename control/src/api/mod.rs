//! The rules of the Kubernetes API that need neither a network nor a store: how a patch or an applied configuration changes an object,
//! and which objects a query means. Everything works on JSON documents; the kinds differ only in the rows of [`schema`].

pub mod apply;
mod interleave;
pub mod patch;
pub mod schema;
pub mod selector;
