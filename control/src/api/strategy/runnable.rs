//! Whether a node could run a pod: judged by the nodes' own reader, before an object that all of them would refuse takes the place of one that
//! runs. Pure; the strategies of Pod and DaemonSet ask where a spec is new.
//!
//! What Kubernetes' server refuses, too, is a cause. What it takes and only a node of ours refuses is a warning: such an object may be meant for
//! something else that reads it.

use pod::fields::{Place, Verdict};
use pod::manifest::{self, Context, Rejection};
use pod::name::WorkloadKind;
use serde_json::{Value, json};

use crate::api::invalid::Causes;

/// What has been wrong before is no reason to refuse another change of the object.
///
/// `new`, `old`: the pod or the template, with `metadata` and `spec`; `field`: where that stands (empty, or `spec.template`).
pub fn judge(new: &Value, old: Option<&Value>, field: &str, causes: &mut Causes, warnings: &mut Vec<String>) {
    if old.is_some_and(|old| read_of(old) == read_of(new)) {
        return;
    }
    let found = faults(new);
    if found.is_empty() {
        return;
    }
    let known = old.map(faults).unwrap_or_default();
    for Fault { path, reason } in found.into_iter().filter(|fault| !known.contains(fault)) {
        let place = match (field, path.as_str()) {
            ("", path) => path.to_owned(),
            (field, "") => field.to_owned(),
            (field, path) => format!("{field}.{path}"),
        };
        let value = value_at(new, &path);
        if is_kubernetes_own(&path, value, &new["spec"]) {
            warnings.push(format!("{place}: no node will run it: {reason}"));
        } else if is_at(&path, "spec.ephemeralContainers") {
            causes.forbidden(place, "ephemeral containers cannot be part of a new pod or of a template");
        } else if value.is_null() {
            causes.required(place, &reason);
        } else {
            causes.invalid(place, value, reason);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    path: String,
    reason: String,
}

/// What the reader looks at.
fn read_of(object: &Value) -> [&Value; 3] {
    [&object["metadata"]["labels"], &object["metadata"]["annotations"], &object["spec"]]
}

fn faults(object: &Value) -> Vec<Fault> {
    let [labels, annotations, spec] = read_of(object);
    // Names are judged elsewhere, and a template has none.
    let metadata =
        json!({"name": "d", "namespace": "default", "uid": "d", "labels": labels, "annotations": annotations});
    let document = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    let parsed = manifest::parse_object("", document.to_string().as_bytes(), &Context::default());
    let fault = |Rejection { path, reason, .. }: &Rejection| Fault { path: path.clone(), reason: reason.clone() };
    parsed.rejections().map(fault).collect()
}

/// Whether Kubernetes' server takes what a node of ours refuses. `value`: what stands at the path.
fn is_kubernetes_own(path: &str, value: &Value, spec: &Value) -> bool {
    /// It does not look at these.
    const ANY: [&str; 16] = [
        "spec.containers.lifecycle.postStart.tcpSocket",
        "spec.containers.lifecycle.preStop.tcpSocket",
        "spec.containers.restartPolicy",
        "spec.containers.securityContext.capabilities",
        "spec.containers.securityContext.seLinuxOptions",
        "spec.containers.terminationMessagePath",
        "spec.containers.volumeMounts.mountPath",
        "spec.containers.workingDir",
        "spec.imagePullSecrets",
        "spec.priority",
        "spec.priorityClassName",
        "spec.securityContext.seLinuxOptions",
        "spec.securityContext.sysctls.value",
        "spec.volumes.emptyDir.medium",
        "metadata.annotations['kubernetes.io/egress-bandwidth']",
        "metadata.annotations['kubernetes.io/ingress-bandwidth']",
    ];
    let is = |spec: &Value, key: &str| spec[key] == true;
    let text = value.as_str().unwrap_or_default();
    let plain = plain(path);
    if ANY.iter().any(|known| is_at(path, known)) {
        return true;
    }
    match plain.as_str() {
        // A root that must be none is found out by the kubelet.
        "spec.containers.securityContext" => true,
        "spec.containers.ports.hostIP" => text.parse::<std::net::IpAddr>().is_ok(),
        "spec.hostUsers" => !["hostNetwork", "hostPID", "hostIPC"].iter().any(|key| is(spec, key)),
        "spec.securityContext.sysctls.name" => is_sysctl(text) && !is(spec, "hostNetwork") && !is(spec, "hostIPC"),
        "spec.volumes.hostPath.path" => !text.is_empty() && !text.split('/').any(|part| part == ".."),
        _ if is_amount(&plain) => path.contains('/'),
        _ => is_refused_by_table(&plain),
    }
}

/// An amount of a resource; one with a slash in its name is a device plugin's.
fn is_amount(plain: &str) -> bool {
    ["limits", "requests"].iter().any(|key| plain.starts_with(&format!("spec.containers.resources.{key}")))
}

/// A field that Kubernetes has and nodes do not, whatever its value. Ephemeral containers a new pod has in Kubernetes neither.
fn is_refused_by_table(plain: &str) -> bool {
    let mut place = Place::root(WorkloadKind::Control);
    for step in plain.split('.') {
        let Some(below) = place.below(step) else { return false };
        place = below;
        if matches!(place.field.map(|field| field.verdict), Some(Verdict::Refused(_) | Verdict::Only(..))) {
            return step != "ephemeralContainers";
        }
    }
    false
}

fn is_at(path: &str, field: &str) -> bool {
    plain(path).strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The path without its places in lists; an init container is a container here.
fn plain(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('[') {
        let (before, bracket) = rest.split_at(at);
        plain.push_str(before);
        let place = bracket[1..].split_once(']').filter(|(place, _)| place.bytes().all(|b| b.is_ascii_digit()));
        match place {
            Some((_, after)) => rest = after,
            None => {
                plain.push_str(bracket);
                rest = "";
            }
        }
    }
    plain.push_str(rest);
    plain.replacen("spec.initContainers", "spec.containers", 1)
}

/// What stands at a path of plain fields and places in lists; null where it leads elsewhere.
fn value_at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split(['.', '[']).filter(|step| !step.is_empty()).fold(object, |value, step| match step.strip_suffix(']') {
        Some(place) => place.parse::<usize>().map_or(&Value::Null, |place| &value[place]),
        None => &value[step],
    })
}

/// Kubernetes' rule for the name of a sysctl: words with dots or slashes between them.
fn is_sysctl(name: &str) -> bool {
    const MOST: usize = 253;
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let word = |word: &str| {
        word.starts_with(end) && word.ends_with(end) && word.chars().all(|c| end(c) || matches!(c, '-' | '_'))
    };
    name.len() <= MOST && name.split(['.', '/']).all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pointer: &str, value: Value) -> Value {
        let mut pod = json!({"metadata": {"annotations": {}}, "spec": {
            "containers": [{"name": "a", "image": "a:1", "securityContext": {}, "resources": {}, "lifecycle": {}, "ports": [{"containerPort": 1}]}],
            "initContainers": [{"name": "i", "image": "a:1"}],
            "securityContext": {},
        }});
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        pod.pointer_mut(parent).expect("a place")[key] = value;
        pod
    }

    fn judged(new: &Value, old: Option<&Value>) -> (Vec<String>, Vec<String>) {
        let (mut causes, mut warnings) = (Causes::default(), Vec::new());
        judge(new, old, "spec.template", &mut causes, &mut warnings);
        (causes.into_vec().iter().map(ToString::to_string).collect(), warnings)
    }

    #[test]
    fn what_kubernetes_refuses_too_is_a_cause_at_its_field() {
        for (at, value, field) in [
            ("/spec/hostAliases", json!([{"ip": "x", "hostnames": ["a"]}]), "spec.hostAliases[0].ip"),
            ("/spec/dnsPolicy", json!("None"), "spec.dnsPolicy"),
            (
                "/spec/containers/0/securityContext",
                json!({"privileged": true, "allowPrivilegeEscalation": false}),
                "spec.containers[0].securityContext.allowPrivilegeEscalation",
            ),
            ("/spec/volumes", json!([{"name": "v", "hostPath": {"path": "/a/../x"}}]), "spec.volumes[0].hostPath.path"),
            (
                "/spec/containers/0/lifecycle",
                json!({"preStop": {"sleep": {"seconds": 31}}}),
                "spec.containers[0].lifecycle.preStop.sleep.seconds",
            ),
            (
                "/spec/containers/0/resources",
                json!({"limits": {"foo": "1"}}),
                "spec.containers[0].resources.limits.foo",
            ),
            (
                "/spec/securityContext",
                json!({"sysctls": [{"name": "a b", "value": "1"}]}),
                "spec.securityContext.sysctls[0].name",
            ),
            (
                "/spec/containers/0/env",
                json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.foo"}}}]),
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
            ),
            ("/spec/hostname", json!("A_B"), "spec.hostname"),
            (
                "/spec/containers/0/securityContext",
                json!({"seccompProfile": {"type": "Localhost"}}),
                "spec.containers[0].securityContext.seccompProfile.localhostProfile",
            ),
            (
                "/spec/containers/0/livenessProbe",
                json!({"grpc": {"port": 0}}),
                "spec.containers[0].livenessProbe.grpc.port",
            ),
            ("/spec/ephemeralContainers", json!([{"name": "e", "image": "a:1"}]), "spec.ephemeralContainers"),
        ] {
            let (causes, warnings) = judged(&with(at, value.clone()), None);
            let place = format!("spec.template.{field}: ");
            assert!(causes.len() == 1 && causes[0].starts_with(&place), "{at} {value}: {causes:?} {warnings:?}");
            assert_eq!(warnings, Vec::<String>::new(), "{at} {value}");
        }
        let mut shared = with("/spec/hostPID", json!(true));
        shared["spec"]["shareProcessNamespace"] = json!(true);
        assert_eq!(judged(&shared, None).0.len(), 1);
    }

    #[test]
    fn what_only_nodes_refuse_is_a_warning() {
        for (at, value) in [
            ("/spec/volumes", json!([{"name": "v", "gitRepo": {"repository": "x"}}])),
            ("/spec/volumes", json!([{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}])),
            ("/spec/volumes", json!([{"name": "v", "emptyDir": {"medium": "Tape"}}])),
            ("/spec/readinessGates", json!([{"conditionType": "a"}])),
            ("/spec/securityContext", json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})),
            ("/spec/securityContext", json!({"windowsOptions": {}})),
            ("/spec/os", json!({"name": "windows"})),
            ("/spec/containers/0/resources", json!({"limits": {"vendor.example/gpu": "1"}})),
            ("/spec/containers/0/lifecycle", json!({"preStop": {"tcpSocket": {"port": 1}}})),
            ("/spec/containers/0/workingDir", json!("/proc/self")),
            ("/spec/containers/0/securityContext", json!({"runAsNonRoot": true, "runAsUser": 0})),
            ("/spec/containers/0/securityContext", json!({"capabilities": {"add": ["FLY"]}})),
            ("/spec/initContainers/0/restartPolicy", json!("Never")),
            ("/spec/containers/0/ports", json!([{"containerPort": 1, "hostPort": 1, "hostIP": "::1"}])),
            ("/metadata/annotations", json!({"kubernetes.io/egress-bandwidth": "much"})),
        ] {
            let (causes, warnings) = judged(&with(at, value.clone()), None);
            assert_eq!(causes, Vec::<String>::new(), "{at} {value}");
            assert!(!warnings.is_empty() && warnings[0].starts_with("spec.template."), "{at} {value}: {warnings:?}");
        }
        assert_eq!(judged(&with("/spec/runtimeClassName", json!("gvisor")), None), Default::default());
    }

    #[test]
    fn what_was_wrong_before_is_in_nobodys_way() {
        let old = with("/spec/hostname", json!("A_B"));
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("a:2");
        assert_eq!(judged(&old, Some(&old)), Default::default());
        assert_eq!(judged(&new, Some(&old)), Default::default());
        new["spec"]["dnsPolicy"] = json!("None");
        let (causes, _) = judged(&new, Some(&old));
        assert!(causes.len() == 1 && causes[0].starts_with("spec.template.spec.dnsPolicy: "), "{causes:?}");
    }
}
