//! DaemonSets, their revisions, and priorities.

use serde_json::Value;

use super::text::{items, joined, labels, name, number, or_none, plain, selector};
use super::{AGE, Cell, NAME, Shown, age, column, wide};

pub static DAEMON_SET: Shown = Shown {
    columns: &[
        NAME,
        column("Desired", Cell::Number),
        column("Current", Cell::Number),
        column("Ready", Cell::Number),
        column("Up-to-date", Cell::Number),
        column("Available", Cell::Number),
        column("Node Selector", Cell::Text),
        AGE,
        wide("Containers", Cell::Text),
        wide("Images", Cell::Text),
        wide("Selector", Cell::Text),
    ],
    cells: |object, now| {
        let status = &object["status"];
        let pod = &object["spec"]["template"]["spec"];
        vec![
            name(object),
            number(&status["desiredNumberScheduled"]),
            number(&status["currentNumberScheduled"]),
            number(&status["numberReady"]),
            number(&status["updatedNumberScheduled"]),
            number(&status["numberAvailable"]),
            labels(&pod["nodeSelector"]),
            age::created(object, now),
            joined(&pod["containers"], "name").into(),
            joined(&pod["containers"], "image").into(),
            selector(&object["spec"]["selector"]),
        ]
    },
};

pub static CONTROLLER_REVISION: Shown = Shown {
    columns: &[NAME, column("Controller", Cell::Text), column("Revision", Cell::Number), AGE],
    cells: |object, now| vec![name(object), controller(object), number(&object["revision"]), age::created(object, now)],
};

/// `daemonset.apps/name` of the owner that controls it.
fn controller(object: &Value) -> Value {
    let owner = items(&object["metadata"]["ownerReferences"]).find(|owner| owner["controller"] == true);
    let Some(owner) = owner else { return or_none("") };
    let kind = plain(&owner["kind"]).to_lowercase();
    let of = plain(&owner["apiVersion"]).split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
    format!("{kind}{of}/{}", plain(&owner["name"])).into()
}

pub static PRIORITY_CLASS: Shown = Shown {
    columns: &[
        NAME,
        column("Value", Cell::Number),
        column("Global-Default", Cell::Truth),
        AGE,
        column("PreemptionPolicy", Cell::Text),
    ],
    cells: |object, now| {
        let policy = object["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority");
        vec![
            name(object),
            number(&object["value"]),
            (object["globalDefault"] == true).into(),
            age::created(object, now),
            policy.into(),
        ]
    },
};
