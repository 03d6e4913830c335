//! The rules of the Kubernetes API that need neither a network nor a store: how a patch changes an object, and which objects
//! a query means. Everything works on JSON documents; the kinds differ only in the rows of [`schema`].

pub mod patch;
pub mod schema;
