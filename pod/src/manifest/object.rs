//! What a pod object of the control endpoint says beside its spec: its uid, and that it is to end.

use std::time::Duration;

use super::findings::{At, Findings};
use super::tree::{Node, Value};
use crate::desired::Object;
use crate::name::Uid;

/// Kubernetes' default.
const GRACE: Duration = Duration::from_secs(30);
/// A UUID has 36 characters; the uid becomes part of paths and of containers' ids.
const MAX_UID: usize = 63;

/// None: the findings say why. `grace`: the spec's own.
pub fn read(at: &At<'_>, grace: Duration, findings: &mut Findings) -> Option<Object> {
    let metadata = at.need("metadata", findings)?;
    let named = metadata.need("uid", findings)?;
    let uid = named.text(findings)?;
    let plain = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-';
    if uid.is_empty() || uid.len() > MAX_UID || !uid.bytes().all(plain) || uid.starts_with('-') {
        findings.impossible(&named, "must be a uid: lower-case letters, digits and dashes");
        return None;
    }
    let ends = metadata.get("deletionTimestamp").map(|_| {
        let seconds = metadata.get("deletionGracePeriodSeconds").and_then(|at| at.integer(findings));
        seconds.map_or(grace, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    });
    let phase = at.node.get("status").and_then(|status| status.get("phase")).and_then(|phase| phase.text());
    let finished = matches!(phase, Some("Succeeded" | "Failed"));
    Some(Object { uid: Uid(uid.to_owned()), ends, finished, owner: owner(metadata.node) })
}

/// How much time a pod has that is to end, of an object that cannot be read as a whole; None: it is not to end.
pub fn ends(root: &Node) -> Option<Duration> {
    let metadata = root.get("metadata")?;
    metadata.get("deletionTimestamp")?.text().filter(|text| !text.is_empty())?;
    let seconds = match metadata.get("deletionGracePeriodSeconds").map(|node| &node.value) {
        Some(Value::Integer(seconds)) => u64::try_from(*seconds).ok(),
        _ => None,
    };
    Some(seconds.map_or(GRACE, Duration::from_secs))
}

/// The DaemonSet among the `ownerReferences`. The endpoint has judged them; what is none has no owner.
fn owner(metadata: &Node) -> Option<String> {
    let Value::List(owners) = &metadata.get("ownerReferences")?.value else { return None };
    let text = |owner: &Node, key: &str| owner.get(key).and_then(|at| at.text().map(str::to_owned));
    owners
        .iter()
        .find(|owner| text(owner, "kind").as_deref() == Some("DaemonSet"))
        .and_then(|owner| text(owner, "name"))
}
