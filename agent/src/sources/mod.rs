//! Where manifests and images come from: each source gives whole snapshots, and knows nothing of the others.

pub mod image_dir;
pub mod remote;
pub mod static_dir;
