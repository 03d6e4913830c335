//! What becomes of every field of a pod's status (v1 PodStatus): shown, or left out for a reason. Beside the table of what is read.
//!
//! Written by the agent's `status`, whose test compares what it shows with this; a test here compares it with the Kubernetes types.

/// A field by its path below `status`; a list's items are `[]`.
pub type Row = (&'static str, Shown);

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Where there is something to say, with what the note adds.
    Yes(&'static str),
    /// Never, for this reason, nor what lies below it.
    No(&'static str),
}

use Shown::{No, Yes};

const CLAIMS: &str = "there are no resource claims";

/// v1 PodStatus but for its containers.
#[rustfmt::skip]
pub const POD: &[Row] = &[
    ("allocatedResources", Yes("of a pod with `resources` of its own")),
    ("conditions", Yes("")),
    ("conditions[].lastProbeTime", No("Kubernetes writes null")),
    ("conditions[].lastTransitionTime", Yes("")),
    ("conditions[].message", Yes("")),
    ("conditions[].observedGeneration", No("the pod's own says the same")),
    ("conditions[].reason", Yes("")),
    ("conditions[].status", Yes("")),
    ("conditions[].type", Yes("")),
    ("containerStatuses", Yes("")),
    ("ephemeralContainerStatuses", No("there are no ephemeral containers: `daemonlet exec` runs commands")),
    ("extendedResourceClaimStatus", No(CLAIMS)),
    ("hostIP", Yes("")),
    ("hostIPs", Yes("")),
    ("hostIPs[].ip", Yes("")),
    ("initContainerStatuses", Yes("")),
    ("message", Yes("of a pod that has failed as a whole")),
    ("nodeAllocatableResourceClaimStatuses", No(CLAIMS)),
    ("nominatedNodeName", No("no scheduler takes part")),
    ("observedGeneration", Yes("one more with each resize")),
    ("phase", Yes("")),
    ("podIP", Yes("")),
    ("podIPs", Yes("")),
    ("podIPs[].ip", Yes("")),
    ("qosClass", Yes("")),
    ("reason", Yes("DeadlineExceeded, Evicted")),
    ("resize", No("Kubernetes has the condition PodResizeInProgress instead, and so have we")),
    ("resourceClaimStatuses", No(CLAIMS)),
    ("resources", Yes("of a pod with `resources` of its own")),
    ("resources.claims", No(CLAIMS)),
    ("resources.limits", Yes("")),
    ("resources.requests", Yes("")),
    ("startTime", Yes("")),
];

/// v1 ContainerStatus, below `containerStatuses[]` and `initContainerStatuses[]`.
#[rustfmt::skip]
pub const CONTAINER: &[Row] = &[
    ("allocatedResources", Yes("what the document asks for")),
    ("allocatedResourcesStatus", No("no device plugins are asked")),
    ("containerID", Yes("")),
    ("image", Yes("")),
    ("imageID", Yes("")),
    ("lastState", Yes("as `state`")),
    ("name", Yes("")),
    ("ready", Yes("")),
    ("resources", Yes("what the container has")),
    ("resources.claims", No(CLAIMS)),
    ("resources.limits", Yes("")),
    ("resources.requests", Yes("")),
    ("restartCount", Yes("")),
    ("started", Yes("")),
    ("state", Yes("")),
    ("state.running", Yes("")),
    ("state.running.startedAt", Yes("")),
    ("state.terminated", Yes("")),
    ("state.terminated.containerID", Yes("")),
    ("state.terminated.exitCode", Yes("128 and the number of a signal that ended it")),
    ("state.terminated.finishedAt", Yes("")),
    ("state.terminated.message", Yes("")),
    ("state.terminated.reason", Yes("")),
    ("state.terminated.signal", No("the kubelet does not write it either: it is in exitCode")),
    ("state.terminated.startedAt", Yes("")),
    ("state.waiting", Yes("")),
    ("state.waiting.message", Yes("")),
    ("state.waiting.reason", Yes("")),
    ("stopSignal", Yes("where the document names one")),
    ("user", Yes("whom its first process began as")),
    ("user.linux", Yes("")),
    ("user.linux.gid", Yes("")),
    ("user.linux.supplementalGroups", Yes("")),
    ("user.linux.uid", Yes("")),
    ("volumeMounts", Yes("")),
    ("volumeMounts[].mountPath", Yes("")),
    ("volumeMounts[].name", Yes("")),
    ("volumeMounts[].readOnly", Yes("")),
    ("volumeMounts[].recursiveReadOnly", Yes("not of IfPossible, of which the condition Adapted tells")),
    ("volumeMounts[].volumeStatus", No("the digest of an image volume is not kept")),
];

/// What becomes of the field at `path`, where the table has it.
pub fn shown(path: &str) -> Option<Shown> {
    let of = |rows: &[Row], path: &str| rows.iter().find(|(own, _)| *own == path).map(|(_, shown)| *shown);
    let container =
        ["containerStatuses[].", "initContainerStatuses[]."].iter().find_map(|list| path.strip_prefix(list));
    match container {
        Some(path) => of(CONTAINER, &path.replacen("lastState.", "state.", 1)),
        None => of(POD, path),
    }
}
