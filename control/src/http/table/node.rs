//! Nodes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::text::{UNKNOWN, items, name, or_none, plain};
use super::{AGE, Cell, NAME, Shown, age, column, wide};

/// A node's role is the rest of this label's name.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// Or the value of this one.
const ROLE: &str = "kubernetes.io/role";

pub static NODE: Shown = Shown {
    columns: &[
        NAME,
        column("Status", Cell::Text),
        column("Roles", Cell::Text),
        AGE,
        column("Version", Cell::Text),
        wide("Internal-IP", Cell::Text),
        wide("External-IP", Cell::Text),
        wide("OS-Image", Cell::Text),
        wide("Kernel-Version", Cell::Text),
        wide("Container-Runtime", Cell::Text),
    ],
    cells: |object, now| {
        let about = &object["status"]["nodeInfo"];
        let known = |field: &str| about[field].as_str().filter(|text| !text.is_empty());
        let kernel = match (known("kernelVersion"), known("architecture")) {
            (Some(kernel), Some(architecture)) => format!("{kernel} ({architecture})"),
            (kernel, _) => kernel.unwrap_or(UNKNOWN).to_owned(),
        };
        vec![
            name(object),
            status(object).into(),
            roles(object),
            age::created(object, now),
            plain(&about["kubeletVersion"]).into(),
            address(object, "InternalIP"),
            address(object, "ExternalIP"),
            known("osImage").unwrap_or(UNKNOWN).into(),
            kernel.into(),
            known("containerRuntimeVersion").unwrap_or(UNKNOWN).into(),
        ]
    },
};

fn status(object: &Value) -> String {
    let ready = items(&object["status"]["conditions"]).find(|condition| condition["type"] == "Ready");
    let ready = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let closed = if object["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    format!("{ready}{closed}")
}

fn roles(object: &Value) -> Value {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE_PREFIX) {
        Some(role) => Some(role.to_owned()),
        None => (key == ROLE).then(|| plain(value).to_owned()),
    };
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: BTreeSet<String> = labels.filter_map(role).filter(|role| !role.is_empty()).collect();
    or_none(&roles.into_iter().collect::<Vec<_>>().join(","))
}

fn address(object: &Value, of: &str) -> Value {
    let found = items(&object["status"]["addresses"]).find(|address| address["type"] == of);
    or_none(found.map(|address| plain(&address["address"])).unwrap_or_default())
}
