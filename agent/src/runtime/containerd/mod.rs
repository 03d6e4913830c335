//! The runtime over containerd's native gRPC services. [`client`] is the connection; [`image_facts`] what running needs of an image.

pub mod client;
pub mod image_facts;
