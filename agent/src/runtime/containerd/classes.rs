//! Which of containerd's runtimes a pod's containers are run by, with which options, and which of them share a shim.
//!
//! Pure; used by `containers` and, for what is refused, by the Runtime verbs in `mod`. containerd keeps the choice with
//! the container, so that an end, a deletion and an adoption need nothing of the configuration any more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pod::name::Uid;
use prost::Message;
use prost_types::Any;

use crate::seams::{OwnUsers, StepError};

/// The shim that runs runc, and whatever else is called as runc is.
pub(super) const RUNC_SHIM: &str = "io.containerd.runc.v2";
/// Shims of this family take [`RuncOptions`].
const RUNC_FAMILY: &str = "io.containerd.runc.";
const OPTIONS_TYPE: &str = "containerd.runc.v1.Options";

/// One of containerd's runtimes. The default is runc under its own shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRuntime {
    /// containerd's name for the shim.
    pub name: String,
    /// The OCI runtime that the shim calls; None: the one that it chooses itself.
    program: Option<PathBuf>,
}

impl Default for OciRuntime {
    fn default() -> Self {
        OciRuntime { name: RUNC_SHIM.to_owned(), program: None }
    }
}

/// Whether this shim of a container's record is known to tell every end, over every restart of containerd.
pub fn tells_ends(shim: &str) -> bool {
    shim == RUNC_SHIM
}

/// `containerd.runc.v1.Options`, as far as we set it (api/types/runc/options/oci.proto of containerd).
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    #[prost(uint32, tag = "4")]
    io_uid: u32,
    #[prost(uint32, tag = "5")]
    io_gid: u32,
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(bool, tag = "9")]
    systemd_cgroup: bool,
}

impl OciRuntime {
    /// An OCI runtime under the usual shim.
    pub fn by_program(program: &Path) -> OciRuntime {
        OciRuntime { program: Some(program.to_owned()), ..OciRuntime::default() }
    }

    /// A shim of its own, with its own choices.
    pub fn by_shim(name: &str) -> OciRuntime {
        OciRuntime { name: name.to_owned(), program: None }
    }

    /// The OCI runtime that is called, where that is known.
    pub fn program(&self) -> Option<&Path> {
        self.program.as_deref().or_else(|| (self.name == RUNC_SHIM).then(|| Path::new("runc")))
    }

    /// Whether a task's first process is in the container itself, and not what runs a machine for it.
    pub fn has_processes_here(&self) -> bool {
        self.name.starts_with(RUNC_FAMILY)
    }

    /// For the container record and the task alike; None where the shim's own defaults are meant. `users`: whose the container's
    /// output is.
    pub fn options(&self, systemd_cgroup: bool, users: Option<OwnUsers>) -> Option<Any> {
        if !self.name.starts_with(RUNC_FAMILY) {
            return None;
        }
        let binary_name = self.program.as_ref().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
        let root = users.map_or(0, |users| users.first);
        let options = RuncOptions { io_uid: root, io_gid: root, binary_name, systemd_cgroup };
        let any = || Any { type_url: OPTIONS_TYPE.to_owned(), value: options.encode_to_vec() };
        (options != RuncOptions::default()).then(any)
    }

    /// Containers with the same group share a shim: those of a pod, unless its runtime or the minor version of
    /// containerd has changed since. A shim speaks the protocol of the containerd that began it, and others are known
    /// to fail when they add a container to it (containerd issues 10888 and 11793, and 2.1's shims under 1.7).
    pub fn shim_group(&self, pod: &Uid, containerd_version: &str) -> String {
        let version = containerd_version.trim_start_matches('v');
        let minor: Vec<&str> = version.splitn(3, '.').take(2).collect();
        format!("{pod}-{}-{}", self.name, minor.join("."))
    }
}

/// The runtime of this class; the default where a pod names none. An unknown one is refused with those that there are.
pub fn of_pod(classes: &BTreeMap<String, OciRuntime>, class: Option<&str>) -> Result<OciRuntime, StepError> {
    let Some(class) = class else { return Ok(OciRuntime::default()) };
    classes.get(class).cloned().ok_or_else(|| {
        let known: Vec<&str> = classes.keys().map(String::as_str).collect();
        let known = match known.as_slice() {
            [] => "no runtime class is configured".to_owned(),
            some => format!("configured are: {}", some.join(", ")),
        };
        let message = format!(
            "runtimeClassName {class:?} is not known on this node; {known}; leave it out, or add `runtime-class: \
             {{{class}: /path/of/the/runtime}}` to the agent's configuration and restart the agent"
        );
        StepError::new("CreatePodSandboxError", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_runcs_fields_six_and_nine_and_absent_where_there_is_nothing_to_say() {
        let usual = OciRuntime::default();
        let any = usual.options(true, None).expect("asked for");
        assert_eq!((any.type_url.as_str(), any.value), ("containerd.runc.v1.Options", vec![9 << 3, 1]));
        assert_eq!(usual.options(false, None), None);
        let crun = OciRuntime::by_program(Path::new("/c"));
        assert_eq!(crun.name, "io.containerd.runc.v2");
        assert_eq!(crun.options(false, None).map(|any| any.value), Some(vec![6 << 3 | 2, 2, b'/', b'c']));
        assert_eq!(OciRuntime::by_shim("io.containerd.kata.v2").options(true, None), None);
        assert!(OciRuntime::by_shim("io.containerd.runc.v2-rs").options(true, None).is_some());
        let own = usual.options(false, Some(OwnUsers { first: 1 }));
        assert_eq!(own.map(|any| any.value), Some(vec![4 << 3, 1, 5 << 3, 1]));
    }

    #[test]
    fn containers_of_a_pod_share_a_shim_within_one_runtime_and_minor_version() {
        let (uid, usual) = (Uid("u".into()), OciRuntime::default());
        let group = |runtime: &OciRuntime, version: &str| runtime.shim_group(&uid, version);
        assert_eq!(group(&usual, "1.7.24~ds1"), "u-io.containerd.runc.v2-1.7");
        assert_eq!(group(&usual, "v1.7.27"), group(&usual, "1.7.24~ds1"));
        assert_ne!(group(&usual, "1.6.20~ds1"), group(&usual, "1.7.24~ds1"));
        assert_ne!(group(&usual, "2.1.9"), group(&OciRuntime::by_shim("io.containerd.runc.v2-rs"), "2.1.9"));
        assert_eq!(group(&usual, "unknown"), "u-io.containerd.runc.v2-unknown");
    }

    #[test]
    fn an_unknown_class_is_refused_with_those_that_there_are() {
        let mut classes = BTreeMap::from([("crun".to_owned(), OciRuntime::by_program(Path::new("/usr/bin/crun")))]);
        assert_eq!(of_pod(&classes, None), Ok(OciRuntime::default()));
        assert_eq!(of_pod(&classes, Some("crun")).ok(), classes.get("crun").cloned());
        classes.insert("kata".to_owned(), OciRuntime::by_shim("io.containerd.kata.v2"));
        let error = of_pod(&classes, Some("gvisor")).expect_err("not configured");
        assert!(
            error.message.contains("\"gvisor\"") && error.message.contains("configured are: crun, kata"),
            "{error}"
        );
        let error = of_pod(&BTreeMap::new(), Some("gvisor")).expect_err("not configured");
        assert!(error.message.contains("no runtime class is configured"), "{error}");
    }
}
