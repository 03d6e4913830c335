//! Manifests in few words: a small pod or DaemonSet to which a test adds the one field that it is about.

use serde_json::{Value, json};

use crate::stand_in;

/// Lives until SIGTERM and then ends at once, as a good daemon does.
pub const OBEDIENT: &str = "trap 'exit 0' TERM; echo started; while :; do sleep 1000 & wait $!; done";

/// A document under construction. Pods are on the host's network unless told otherwise, because most tests are not about networks.
#[derive(Clone)]
pub struct Document {
    value: Value,
    /// Where the pod's own fields begin: empty, or `/spec/template`.
    pod: &'static str,
}

fn pod_spec(name: &str) -> Value {
    json!({
        "hostNetwork": true, "terminationGracePeriodSeconds": 5,
        "containers": [{"name": name, "image": stand_in::BUSYBOX, "command": ["sh", "-c", OBEDIENT]}],
    })
}

/// A static pod with one container `main`.
pub fn pod(name: &str) -> Document {
    Document {
        value: json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod_spec("main")}),
        pod: "",
    }
}

/// A DaemonSet with one container `main`.
pub fn daemon_set(name: &str) -> Document {
    let template = json!({"metadata": {"labels": {"app": name}}, "spec": pod_spec("main")});
    let spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template});
    Document {
        value: json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name}, "spec": spec}),
        pod: "/spec/template",
    }
}

impl Document {
    /// Sets a field by its JSON pointer in the document, making objects on the way.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        *place(&mut self.value, pointer) = value;
        self
    }

    /// Sets a field of the pod's spec, e.g. `pod_field("hostPID", json!(true))`.
    pub fn pod_field(self, path: &str, value: Value) -> Self {
        let pointer = format!("{}/spec/{path}", self.pod);
        self.set(&pointer, value)
    }

    /// Sets a field of the first container, e.g. `field("securityContext/privileged", json!(true))`.
    pub fn field(self, path: &str, value: Value) -> Self {
        self.pod_field(&format!("containers/0/{path}"), value)
    }

    pub fn namespace(self, namespace: &str) -> Self {
        self.set("/metadata/namespace", json!(namespace))
    }

    /// What the first container runs, as a shell script.
    pub fn script(self, script: &str) -> Self {
        self.field("command", json!(["sh", "-c", script]))
    }

    /// Runs the script once and then lives until SIGTERM: for a container that tells what it sees.
    pub fn says(self, script: &str) -> Self {
        self.script(&format!("{script}\n{OBEDIENT}"))
    }

    pub fn env(self, name: &str, value: &str) -> Self {
        self.field("env", json!([{"name": name, "value": value}]))
    }

    /// Gives the pod a network of its own.
    pub fn own_network(self) -> Self {
        self.pod_field("hostNetwork", json!(false))
    }

    /// Mounts a path of the host in the first container; `kind` is hostPath's `type`.
    pub fn host_path(self, host: &str, kind: &str, inside: &str) -> Self {
        self.pod_field("volumes", json!([{"name": "v", "hostPath": {"path": host, "type": kind}}]))
            .field("volumeMounts", json!([{"name": "v", "mountPath": inside}]))
    }

    /// The document as JSON text, which is YAML as well.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(&self.value).expect("a value can be written")
    }
}

fn place<'a>(root: &'a mut Value, pointer: &str) -> &'a mut Value {
    let mut at = root;
    for part in pointer.trim_start_matches('/').split('/') {
        let part = part.replace("~1", "/");
        at = match at {
            Value::Array(items) => &mut items[part.parse::<usize>().expect("a list is indexed by a number")],
            other => &mut other[part.as_str()],
        };
    }
    at
}
