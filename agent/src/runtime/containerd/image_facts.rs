//! What a container needs to know of its image: plain values, found by `images::facts`, used by `oci` and `containers`.
//!
//! All of it but the digests is written by whoever made the image and is untrusted: the users here check ids, paths
//! and signals before anything is done with them.

use std::collections::BTreeSet;

/// An image that is present and unpacked for this platform.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageFacts {
    /// The canonical name under which containerd's image store has it: `docker.io/library/busybox:1.36`.
    pub name: String,
    /// Digest of this platform's manifest: `sha256:<64 hexadecimal digits>`.
    pub digest: String,
    /// Chain id of its layers (OCI image-spec, config.md): the name of the committed snapshot to build on.
    pub chain_id: String,
    pub config: ImageConfig,
}

/// The `config` object of an OCI image configuration, as far as running needs it. As written: nothing is checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// `NAME=value`.
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// Empty for `/`.
    pub working_dir: String,
    /// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
    pub stop_signal: Option<String>,
    /// Paths in the container.
    pub volumes: BTreeSet<String>,
}

impl ImageFacts {
    /// `<name without tag>@<digest>`: what Kubernetes shows as `imageID`.
    pub fn image_id(&self) -> String {
        let name = self.name.split('@').next().unwrap_or_default();
        // A colon after the last slash starts the tag; one before it belongs to the registry's port.
        let slash = name.rfind('/').map_or(0, |at| at + 1);
        let end = name[slash..].find(':').map_or(name.len(), |at| slash + at);
        format!("{}@{}", &name[..end], self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_id_drops_the_tag_and_keeps_the_port() {
        for (name, id) in [
            ("docker.io/library/busybox:1.36", "docker.io/library/busybox@sha256:ab"),
            ("localhost:5000/a/b", "localhost:5000/a/b@sha256:ab"),
            ("localhost:5000/a/b:v1@sha256:cd", "localhost:5000/a/b@sha256:ab"),
        ] {
            let facts = ImageFacts { name: name.into(), digest: "sha256:ab".into(), ..ImageFacts::default() };
            assert_eq!(facts.image_id(), id);
        }
    }
}
