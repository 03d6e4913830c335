//! Pods: what their status means in one word, as `kubectl get pods` has always said it.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{items, name, or_none, plain};
use super::{AGE, Cell, NAME, Shown, age, column, wide};

pub static POD: Shown = Shown {
    columns: &[
        NAME,
        column("Ready", Cell::Text),
        column("Status", Cell::Text),
        column("Restarts", Cell::Text),
        AGE,
        wide("IP", Cell::Text),
        wide("Node", Cell::Text),
        wide("Nominated Node", Cell::Text),
        wide("Readiness Gates", Cell::Text),
    ],
    cells: |object, now| {
        let summary = Summary::of(object);
        let (spec, status) = (&object["spec"], &object["status"]);
        let restarts = match summary.restarted {
            Some(at) if summary.restarts > 0 => {
                let ago = age::short(now.as_second().saturating_sub(at.as_second()));
                format!("{} ({ago} ago)", summary.restarts)
            }
            _ => summary.restarts.to_string(),
        };
        let ip = items(&status["podIPs"]).next().map_or(&status["podIP"], |first| &first["ip"]);
        vec![
            name(object),
            format!("{}/{}", summary.ready, summary.containers).into(),
            summary.reason.into(),
            restarts.into(),
            age::created(object, now),
            or_none(plain(ip)),
            or_none(plain(&spec["nodeName"])),
            or_none(plain(&status["nominatedNodeName"])),
            gates(object),
        ]
    },
};

/// What a pod's containers come to.
struct Summary {
    reason: String,
    ready: usize,
    containers: usize,
    restarts: i64,
    /// When the last of those restarts was.
    restarted: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Summary {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let phase = plain(&status["phase"]);
        let mut reason =
            [plain(&status["reason"]), phase].into_iter().find(|word| !word.is_empty()).unwrap_or_default();
        if items(&status["conditions"]).any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
            reason = "SchedulingGated";
        }
        let sidecars = items(&spec["initContainers"]).filter(|c| stays(c)).count();
        let mut summary = Summary {
            reason: reason.to_owned(),
            ready: 0,
            containers: items(&spec["containers"]).count().saturating_add(sidecars),
            restarts: 0,
            restarted: None,
        };
        let waits = summary.initial(spec, status);
        if !waits || condition(status, "Initialized") {
            summary.main(spec, status);
        }
        if pod["metadata"]["deletionTimestamp"].is_string() {
            if plain(&status["reason"]) == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if phase != "Succeeded" && phase != "Failed" {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// The init containers; true while one of them is in the way.
    fn initial(&mut self, spec: &Value, status: &Value) -> bool {
        for (place, container) in items(&status["initContainerStatuses"]).enumerate() {
            self.count(container);
            let state = &container["state"];
            let ended = &state["terminated"];
            if ended.is_object() && ended["exitCode"].as_i64() == Some(0) {
                continue;
            }
            if is_sidecar(spec, container) && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            let waiting = plain(&state["waiting"]["reason"]);
            self.reason = if ended.is_object() {
                format!("Init:{}", end(ended))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{place}/{}", items(&spec["initContainers"]).count())
            };
            return true;
        }
        false
    }

    /// The containers themselves, of which the first that is not well says the reason.
    fn main(&mut self, spec: &Value, status: &Value) {
        (self.restarts, self.restarted) = (0, None);
        items(&status["initContainerStatuses"]).filter(|c| is_sidecar(spec, c)).for_each(|c| self.count(c));
        let mut runs = false;
        for container in items(&status["containerStatuses"]).rev() {
            self.count(container);
            let state = &container["state"];
            let waiting = plain(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if state["terminated"].is_object() {
                self.reason = end(&state["terminated"]);
            } else if container["ready"] == true && state["running"].is_object() {
                runs = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && runs {
            self.reason = if condition(status, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn count(&mut self, container: &Value) {
        self.restarts = self.restarts.saturating_add(container["restartCount"].as_i64().unwrap_or(0));
        let at = container["lastState"]["terminated"]["finishedAt"].as_str().and_then(|at| at.parse().ok());
        self.restarted = self.restarted.max(at);
    }
}

/// How a container ended.
fn end(ended: &Value) -> String {
    match (plain(&ended["reason"]), ended["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", ended["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// An init container that runs on.
fn stays(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn is_sidecar(spec: &Value, status: &Value) -> bool {
    items(&spec["initContainers"]).any(|container| container["name"] == status["name"] && stays(container))
}

fn condition(status: &Value, of: &str) -> bool {
    items(&status["conditions"]).any(|condition| condition["type"] == of && condition["status"] == "True")
}

fn gates(pod: &Value) -> Value {
    let all = items(&pod["spec"]["readinessGates"]).count();
    if all == 0 {
        return or_none("");
    }
    let open = |gate: &&Value| condition(&pod["status"], plain(&gate["conditionType"]));
    format!("{}/{all}", items(&pod["spec"]["readinessGates"]).filter(open).count()).into()
}
