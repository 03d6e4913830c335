//! The rules of the kinds, told on values: what a writer leaves out, and what is refused by field.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::pod_template::{self, Of};
use crate::api::invalid::Causes;
use crate::api::kinds::{Kind, by_resource};
use crate::api::validate;

fn kind(path: &str) -> &'static Kind {
    let (group, resource) = path.split_once('/').unwrap_or(("", path));
    by_resource(group, "v1", resource).unwrap()
}

/// A new object of this kind with a good name, as it would be kept.
fn made(path: &str, object: &Value) -> Value {
    let mut object = object.clone();
    let kind = kind(path);
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = json!("x");
    }
    if kind.namespaced && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = json!("n");
    }
    kind.strategy.prepare_create(&mut object, Timestamp::UNIX_EPOCH);
    kind.strategy.defaults(&mut object);
    object
}

fn shown(causes: Causes) -> Vec<String> {
    causes.into_vec().iter().map(ToString::to_string).collect()
}

/// What is wrong with a new object.
fn faults(path: &str, object: &Value) -> Vec<String> {
    let object = made(path, object);
    let mut causes = Causes::default();
    validate::metadata(kind(path), &object, &mut causes);
    kind(path).strategy.validate(&object, &mut causes);
    shown(causes)
}

/// What is wrong with a change.
fn update_faults(path: &str, old: &Value, new: &Value) -> Vec<String> {
    let mut causes = Causes::default();
    kind(path).strategy.validate_update("", &made(path, new), &made(path, old), &mut causes);
    shown(causes)
}

/// `object` with the value at this pointer replaced.
fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let at = object.pointer_mut(parent).unwrap_or_else(|| panic!("{parent}"));
    match field.parse::<usize>() {
        Ok(index) if at.is_array() => at[index] = value,
        _ => at[field] = value,
    }
    object
}

fn pod() -> Value {
    json!({"metadata": {}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "busybox:1"}]}})
}

#[test]
fn every_fault_of_a_pod_is_named_by_its_field() {
    assert_eq!(faults("pods", &pod()), Vec::<String>::new());
    let container = "/spec/containers/0";
    let cases = [
        ("/metadata/name", json!("A"), "metadata.name: Invalid value: \"A\""),
        ("/metadata/labels", json!({"a b": "c"}), "metadata.labels: Invalid value: \"a b\""),
        ("/metadata/labels", json!({"a": "-"}), "metadata.labels: Invalid value: \"-\""),
        (
            "/metadata/annotations",
            json!({"a": "x".repeat(300_000)}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            "/metadata/finalizers",
            json!(["x"]),
            "metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
        ),
        (
            "/metadata/ownerReferences",
            json!([{"kind": "X", "name": "x", "uid": "u"}]),
            "metadata.ownerReferences[0].apiVersion: Required value: must not be empty",
        ),
        ("/spec/containers", json!([]), "spec.containers: Required value"),
        (
            "/spec/restartPolicy",
            json!("Sometimes"),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "/spec/terminationGracePeriodSeconds",
            json!(-1),
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "/spec/tolerations",
            json!([{"value": "x"}]),
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        ("/spec/volumes", json!([{"name": "v"}, {"name": "v"}]), "spec.volumes[1].name: Duplicate value: \"v\""),
        (&format!("{container}/name"), json!(""), "spec.containers[0].name: Required value"),
        (&format!("{container}/image"), json!(""), "spec.containers[0].image: Required value"),
        (
            &format!("{container}/image"),
            json!(" a"),
            "spec.containers[0].image: Invalid value: \" a\": must not have leading or trailing whitespace",
        ),
        (
            &format!("{container}/ports"),
            json!([{"containerPort": 70000}]),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            &format!("{container}/env"),
            json!([{"name": "A=B"}]),
            "spec.containers[0].env[0].name: Invalid value: \"A=B\"",
        ),
        (
            &format!("{container}/volumeMounts"),
            json!([{"name": "v", "mountPath": "/v"}]),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            &format!("{container}/resources"),
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            &format!("{container}/resources"),
            json!({"limits": {"cpu": "x"}}),
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"x\"",
        ),
        (
            &format!("{container}/livenessProbe"),
            json!({}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            &format!("{container}/livenessProbe"),
            json!({"tcpSocket": {"port": 1}, "successThreshold": 2}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            &format!("{container}/readinessProbe"),
            json!({"tcpSocket": {"port": 1}, "exec": {}}),
            "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            "/spec/initContainers",
            json!([{"name": "c", "image": "i"}]),
            "spec.containers[0].name: Duplicate value: \"c\"",
        ),
        (
            "/spec/initContainers",
            json!([{"name": "i", "image": "i", "lifecycle": {}}]),
            "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
    ];
    for (pointer, value, fault) in cases {
        let found = faults("pods", &with(&pod(), pointer, value));
        assert!(found.iter().any(|found| found.starts_with(fault)), "{pointer}: {found:?}");
    }
    let host = json!([{"containerPort": 80, "hostPort": 81}]);
    let on_host = with(&with(&pod(), "/spec/hostNetwork", json!(true)), "/spec/containers/0/ports", host);
    let wanted = "spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is true";
    assert_eq!(faults("pods", &on_host), [wanted]);
}

#[test]
fn a_pod_has_defaults_that_a_template_has_not() {
    let spec = json!({"hostNetwork": true, "serviceAccount": "sa", "containers": [{"name": "c", "image": "r.example:5000/x",
        "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Mi"}}}]});
    let defaulted = |of| {
        let mut object = json!({"metadata": {}, "spec": spec});
        pod_template::defaults(&mut object, of);
        object["spec"].take()
    };
    let (template, pod) = (defaulted(Of::Template), defaulted(Of::Pod));
    let port = json!([{"containerPort": 80, "protocol": "TCP"}]);
    assert_eq!((&template["containers"][0]["ports"], template.get("enableServiceLinks")), (&port, None));
    assert_eq!(template["containers"][0]["resources"]["requests"], json!({"memory": "1Mi"}));
    assert_eq!((&pod["containers"][0]["ports"][0]["hostPort"], &pod["enableServiceLinks"]), (&json!(80), &json!(true)));
    assert_eq!(pod["containers"][0]["resources"]["requests"], json!({"memory": "1Mi", "cpu": "1"}));
    for spec in [&template, &pod] {
        assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("sa"), &json!("sa")));
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
    }
}

#[test]
fn images_are_pulled_anew_only_where_their_name_may_mean_another() {
    let policy = |image: &str| {
        let mut object = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        pod_template::defaults(&mut object, Of::Template);
        object["spec"]["containers"][0]["imagePullPolicy"].as_str().unwrap().to_owned()
    };
    for image in ["a", "a:latest", "r:5000/a", "r/b/c:latest"] {
        assert_eq!(policy(image), "Always", "{image}");
    }
    for image in ["a:1", "r:5000/a:1", "a@sha256:0", "a:latest@sha256:0"] {
        assert_eq!(policy(image), "IfNotPresent", "{image}");
    }
}

#[test]
fn a_template_is_kept_without_what_gos_types_leave_out() {
    let mut object = json!({"metadata": {"labels": {"a": ""}, "annotations": {}}, "spec": {
        "hostNetwork": false, "hostPID": false, "nodeName": "", "volumes": [], "nodeSelector": {"x": ""},
        "dnsConfig": {"options": [{"name": "a", "value": ""}]},
        "containers": [{"name": "c", "image": "i:1", "stdin": false, "tty": true, "command": [], "workingDir": "",
            "env": [{"name": "E", "value": ""}, {"name": "F", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "containerName": ""}}}],
            "lifecycle": {"preStop": {"httpGet": {"port": 1, "path": "", "httpHeaders": [{"name": "H", "value": ""}]}}}, "ports": [{"containerPort": 1, "hostPort": 0, "name": ""}],
            "securityContext": {"privileged": false, "runAsUser": 0},
            "livenessProbe": {"exec": {}, "initialDelaySeconds": 0, "failureThreshold": 0, "terminationGracePeriodSeconds": 0},
            "resources": {"limits": {}}}],
    }});
    pod_template::defaults(&mut object, Of::Template);
    assert_eq!(object["metadata"], json!({"labels": {"a": ""}}));
    let wanted = json!({
        "nodeSelector": {"x": ""}, "dnsConfig": {"options": [{"name": "a", "value": ""}]},
        "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
        "securityContext": {}, "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "c", "image": "i:1", "tty": true, "env": [{"name": "E"}, {"name": "F", "valueFrom": {"resourceFieldRef": {"divisor": "0", "resource": "limits.cpu"}}}],
            "lifecycle": {"preStop": {"httpGet": {"port": 1, "path": "/", "scheme": "HTTP", "httpHeaders": [{"name": "H", "value": ""}]}}},
            "imagePullPolicy": "IfNotPresent",
            "ports": [{"containerPort": 1, "protocol": "TCP"}], "securityContext": {"privileged": false, "runAsUser": 0},
            "livenessProbe": {"exec": {}, "failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1,
                "timeoutSeconds": 1, "terminationGracePeriodSeconds": 0},
            "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
    });
    assert_eq!(object["spec"], wanted);
}

#[test]
fn volumes_and_probes_have_their_defaults() {
    let mut object = json!({"spec": {
        "volumes": [{"name": "e"}, {"name": "h", "hostPath": {"path": "/"}}, {"name": "s", "secret": {"secretName": "s"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}],
        "containers": [{"name": "c", "image": "i", "readinessProbe": {"httpGet": {"port": 1}}, "startupProbe": {"grpc": {"port": 1}},
            "lifecycle": {"preStop": {"httpGet": {"port": 1}}}}],
    }});
    pod_template::defaults(&mut object, Of::Template);
    let volumes = &object["spec"]["volumes"];
    assert_eq!((&volumes[0]["emptyDir"], &volumes[1]["hostPath"]["type"]), (&json!({}), &json!("")));
    assert_eq!(
        (&volumes[2]["secret"]["defaultMode"], &volumes[3]["projected"]["defaultMode"]),
        (&json!(420), &json!(420))
    );
    let sources = &volumes[3]["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"]["expirationSeconds"], 3600);
    assert_eq!(sources[1]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"], "v1");
    let container = &object["spec"]["containers"][0];
    let get = json!({"path": "/", "port": 1, "scheme": "HTTP"});
    assert_eq!((&container["readinessProbe"]["httpGet"], &container["lifecycle"]["preStop"]["httpGet"]), (&get, &get));
    assert_eq!(container["startupProbe"]["grpc"]["service"], "");
}

#[test]
fn a_daemonset_is_judged_by_its_own_rules_too() {
    let daemonset = json!({"metadata": {}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let path = "apps/daemonsets";
    assert_eq!(faults(path, &daemonset), Vec::<String>::new());
    let rolling = "/spec/updateStrategy";
    let cases = [
        ("/spec/selector", json!(null), "spec.selector: Required value"),
        ("/spec/selector", json!({}), "spec.selector: Invalid value: {}: empty selector is invalid for daemonset"),
        (
            "/spec/selector",
            json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
            "spec.selector.matchExpressions[0].values: Required value",
        ),
        (
            "/spec/selector",
            json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}),
            "spec.selector.matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator",
        ),
        (
            "/spec/minReadySeconds",
            json!(-1),
            "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        ("/spec/revisionHistoryLimit", json!(-1), "spec.revisionHistoryLimit: Invalid value: -1"),
        (
            "/spec/template/spec/activeDeadlineSeconds",
            json!(5),
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
        ),
        (
            "/spec/template/spec/affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]},
            ]}}}),
            "spec.template.spec: Invalid value: {}: ",
        ),
        (
            rolling,
            json!({"type": "Recreate"}),
            "spec.updateStrategy.type: Unsupported value: \"Recreate\": supported values: \"RollingUpdate\", \"OnDelete\"",
        ),
        (
            rolling,
            json!({"rollingUpdate": {"maxSurge": 1}}),
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when `maxUnavailable` is non-zero",
        ),
        (
            rolling,
            json!({"rollingUpdate": {"maxUnavailable": "101%"}}),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ),
        (
            rolling,
            json!({"rollingUpdate": {"maxUnavailable": "x"}}),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"x\"",
        ),
    ];
    for (pointer, value, fault) in cases {
        let found = faults(path, &with(&daemonset, pointer, value));
        assert!(found.iter().any(|found| found.starts_with(fault)), "{pointer}: {found:?}");
    }
    let surge = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "10%"}});
    assert_eq!(faults(path, &with(&daemonset, rolling, surge)), Vec::<String>::new());
}

#[test]
fn a_nodes_taints_are_complete_and_each_there_once() {
    let node = |taints: Value| json!({"metadata": {}, "spec": {"taints": taints, "unschedulable": false}});
    assert_eq!(made("nodes", &node(json!([])))["spec"], json!({}));
    let taint = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
    assert_eq!(faults("nodes", &node(json!([taint]))), Vec::<String>::new());
    assert!(faults("nodes", &node(json!([taint, taint])))[0].starts_with("spec.taints[1]: Duplicate value"));
    let wrong = json!([{"value": "v", "effect": "Never"}]);
    assert_eq!(
        faults("nodes", &node(wrong)),
        [
            "spec.taints[0].key: Required value",
            "spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\""
        ]
    );
    let capacity = json!({"metadata": {}, "status": {"capacity": {"cpu": "1"}}});
    assert_eq!(made("nodes", &capacity)["status"]["allocatable"], json!({"cpu": "1"}));
}

#[test]
fn configuration_has_keys_and_bounds_and_may_be_frozen() {
    let config = |data: Value| json!({"metadata": {}, "data": data});
    assert_eq!(faults("configmaps", &config(json!({"a.b-c_D": ""}))), Vec::<String>::new());
    for bad in ["", ".", "..a", "a/b"] {
        assert_eq!(faults("configmaps", &config(json!({bad: ""}))).len(), 1, "{bad}");
    }
    assert!(faults("configmaps", &config(json!({"a": "x".repeat(1024 * 1024 + 1)})))[0].contains("Too long"));
    let both = json!({"metadata": {}, "data": {"a": ""}, "binaryData": {"a": "YQ=="}});
    assert_eq!(faults("configmaps", &both), ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]);
    let frozen = json!({"metadata": {}, "immutable": true, "data": {"a": "1"}});
    assert_eq!(
        update_faults("configmaps", &frozen, &with(&frozen, "/data/a", json!("2"))),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    assert_eq!(update_faults("configmaps", &frozen, &config(json!({"a": "1"}))).len(), 1);

    let secret = made("secrets", &json!({"metadata": {}, "data": {"a": "YQ=="}, "stringData": {"a": "b", "c": "d"}}));
    assert_eq!((&secret["type"], secret.get("stringData")), (&json!("Opaque"), None));
    assert_eq!(secret["data"], json!({"a": "Yg==", "c": "ZA=="}));
    let typed = |kind: &str, data: Value| faults("secrets", &json!({"metadata": {}, "type": kind, "data": data}));
    assert_eq!(typed("kubernetes.io/tls", json!({"tls.crt": ""})), ["data[tls.key]: Required value"]);
    assert_eq!(typed("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "e30="})), Vec::<String>::new());
    assert_eq!(typed("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "eA=="})).len(), 1);
    assert_eq!(typed("kubernetes.io/basic-auth", json!({})).len(), 2);
    assert_eq!(typed("kubernetes.io/service-account-token", json!({})).len(), 1);
    let opaque = json!({"metadata": {}, "type": "Opaque"});
    assert_eq!(update_faults("secrets", &opaque, &with(&opaque, "/type", json!("x"))).len(), 1);
}

#[test]
fn only_headless_services_are_offered_and_the_refusal_says_so() {
    let service = |spec: Value| json!({"metadata": {}, "spec": spec});
    let headless = service(json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]}));
    assert_eq!(faults("services", &headless), Vec::<String>::new());
    let spec = made("services", &headless)["spec"].take();
    assert_eq!((&spec["type"], &spec["clusterIPs"]), (&json!("ClusterIP"), &json!(["None"])));
    assert_eq!(spec["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    let why = "no traffic is routed here: only headless Services are offered (clusterIP: None)";
    assert_eq!(
        faults("services", &service(json!({"ports": [{"port": 80}]}))),
        [format!("spec.clusterIP: Invalid value: \"\": {why}")]
    );
    let balanced = service(json!({"type": "LoadBalancer"}));
    assert_eq!(faults("services", &balanced), [format!("spec.type: Invalid value: \"LoadBalancer\": {why}")]);
    let two = service(json!({"clusterIP": "None", "ports": [{"port": 80}, {"port": 0, "name": "a"}]}));
    assert_eq!(
        faults("services", &two),
        [
            "spec.ports[0].name: Required value",
            "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive"
        ]
    );
    let own = json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 443}]}});
    assert_eq!(faults("services", &own), Vec::<String>::new());
    let named = json!({"metadata": {"name": "1a"}, "spec": {"clusterIP": "None"}});
    assert_eq!(faults("services", &named).len(), 1);
}

#[test]
fn roles_and_bindings_keep_their_rules() {
    let role = |rules: Value| json!({"metadata": {"name": "system:x"}, "rules": rules});
    let (namespaced, cluster) = ("rbac.authorization.k8s.io/roles", "rbac.authorization.k8s.io/clusterroles");
    let urls = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}]);
    assert_eq!(faults(cluster, &role(urls.clone())), Vec::<String>::new());
    assert_eq!(faults(namespaced, &role(urls)).len(), 1);
    assert_eq!(
        faults(namespaced, &role(json!([{}]))),
        [
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[0].resources: Required value: resource rules must supply at least one resource"
        ]
    );
    let binding = json!({"metadata": {}, "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
    for path in ["rbac.authorization.k8s.io/rolebindings", "rbac.authorization.k8s.io/clusterrolebindings"] {
        assert_eq!(faults(path, &binding), Vec::<String>::new());
        assert_eq!(made(path, &binding)["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
        let other = with(&binding, "/roleRef/name", json!("edit"));
        assert!(update_faults(path, &binding, &other)[0].ends_with("cannot change roleRef"));
        let robot = with(&binding, "/subjects/0/kind", json!("Robot"));
        assert!(faults(path, &robot)[0].starts_with("subjects[0].kind: Unsupported value: \"Robot\""));
    }
    let role = with(&binding, "/roleRef/kind", json!("Role"));
    assert_eq!(faults("rbac.authorization.k8s.io/clusterrolebindings", &role).len(), 1);
}

#[test]
fn leases_slices_classes_and_events_keep_their_rules() {
    let lease =
        json!({"metadata": {}, "spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "holderIdentity": ""}});
    assert_eq!(faults("coordination.k8s.io/leases", &lease).len(), 3);
    let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": [{"addresses": []}]});
    let path = "discovery.k8s.io/endpointslices";
    assert_eq!(faults(path, &slice), ["endpoints[0].addresses: Required value: must contain at least 1 address"]);
    assert_eq!(update_faults(path, &slice, &with(&slice, "/addressType", json!("IPv6"))).len(), 1);
    for (family, good, wrong) in
        [("IPv4", "192.0.2.1", "x"), ("IPv6", "2001:db8::1", "192.0.2.1"), ("FQDN", "a.example", "A B")]
    {
        let slice = with(&slice, "/addressType", json!(family));
        assert_eq!(faults(path, &with(&slice, "/endpoints/0/addresses", json!([good]))), Vec::<String>::new());
        let faults = faults(path, &with(&slice, "/endpoints/0/addresses", json!([good, wrong])));
        assert!(faults.len() == 1 && faults[0].starts_with("endpoints[0].addresses[1]: Invalid value"), "{faults:?}");
    }
    let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
    let path = "scheduling.k8s.io/priorityclasses";
    assert_eq!(faults(path, &class("system-node-critical", 2_000_001_000)), Vec::<String>::new());
    assert_eq!(faults(path, &class("system-x", 1)).len(), 1);
    assert_eq!(
        faults(path, &class("x", 1_000_000_001)),
        ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
    );
    assert_eq!(
        update_faults(path, &class("x", 1), &class("x", 2)),
        ["value: Forbidden: may not be changed in an update."]
    );
    let event = |namespace: &str| json!({"metadata": {}, "involvedObject": {"namespace": namespace}});
    assert_eq!(faults("events", &event("n")), Vec::<String>::new());
    assert_eq!(
        faults("events", &event("m")),
        ["involvedObject.namespace: Invalid value: \"m\": does not match event.namespace"]
    );
    let account = made("serviceaccounts", &json!({"metadata": {}, "secrets": []}));
    assert_eq!(account.get("secrets"), None);
}

proptest! {
    /// What is kept is read, changed and kept again, for ever: a default must not move what is there.
    #[test]
    fn defaults_change_nothing_that_has_them(
        grace in prop::option::of(0..100_i64), network in any::<bool>(), port in prop::option::of(1..70_000_i64), image in "[a-z]{1,3}(:[a-z]{1,6})?",
        unavailable in prop::option::of(0..3_i64), strategy in prop::option::of("RollingUpdate|OnDelete|"), env in "[a-z]{0,2}",
    ) {
        let mut spec = json!({"hostNetwork": network, "containers": [{"name": "c", "image": image, "env": [{"name": "E", "value": env}],
            "livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 0}}]});
        if let Some(grace) = grace {
            spec["terminationGracePeriodSeconds"] = json!(grace);
        }
        if let Some(port) = port {
            spec["containers"][0]["ports"] = json!([{"containerPort": port}]);
        }
        let mut daemonset = json!({"metadata": {}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}}});
        if let Some(strategy) = strategy {
            daemonset["spec"]["updateStrategy"] = json!({"type": strategy});
        }
        if let Some(unavailable) = unavailable {
            daemonset["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": unavailable});
        }
        for (path, object) in [("apps/daemonsets", daemonset), ("pods", json!({"metadata": {}, "spec": spec}))] {
            let once = made(path, &object);
            let mut twice = once.clone();
            kind(path).strategy.defaults(&mut twice);
            prop_assert_eq!(once, twice);
        }
    }
}

/// A valid object of every kind with rules.
fn valid() -> Vec<(&'static str, Value)> {
    let spec = json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1}], "env": [{"name": "E", "value": "v"}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}], "livenessProbe": {"httpGet": {"port": 1}}, "resources": {"limits": {"cpu": "1"}}}],
        "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
        "tolerations": [{"operator": "Exists"}], "nodeSelector": {"a": "b"}, "serviceAccountName": "s"});
    let metadata = json!({"name": "x", "labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["a.b/c"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u"}]});
    let with = |fields: Value| {
        let mut object = json!({"metadata": metadata});
        object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        object
    };
    vec![
        (
            "apps/daemonsets",
            with(
                json!({"spec": {"selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}}}),
            ),
        ),
        ("pods", with(json!({"spec": spec, "status": {"phase": "Pending"}}))),
        (
            "nodes",
            with(
                json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}, "status": {"capacity": {"cpu": "1"}}}),
            ),
        ),
        ("namespaces", with(json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}))),
        ("configmaps", with(json!({"data": {"a": "b"}, "binaryData": {"c": "YQ=="}}))),
        ("secrets", with(json!({"data": {"a": "YQ=="}, "stringData": {"b": "c"}, "type": "Opaque"}))),
        ("services", with(json!({"spec": {"clusterIP": "None", "ports": [{"port": 1}], "selector": {"a": "b"}}}))),
        ("events", with(json!({"involvedObject": {"namespace": "n"}, "source": {"component": "c"}}))),
        (
            "discovery.k8s.io/endpointslices",
            with(json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"]}], "ports": [{"port": 1}]})),
        ),
        ("coordination.k8s.io/leases", with(json!({"spec": {"leaseDurationSeconds": 1}}))),
        ("scheduling.k8s.io/priorityclasses", with(json!({"value": 1, "globalDefault": true}))),
        (
            "rbac.authorization.k8s.io/roles",
            with(json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})),
        ),
        (
            "rbac.authorization.k8s.io/rolebindings",
            with(json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]})),
        ),
        ("apps/controllerrevisions", with(json!({"revision": 1, "data": {"a": 1}}))),
    ]
}

/// Every place of a document.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, v)| places(v, format!("{at}/{}", key.replace('/', "~1")), found))
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(n, v)| places(v, format!("{at}/{n}"), found)),
        _ => {}
    }
    found.push(at);
}

proptest! {
    /// Whatever a client puts anywhere is refused by its type or judged; nothing of it panics.
    #[test]
    fn anything_anywhere_is_refused_or_judged(
        which in any::<prop::sample::Index>(), places_of in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        values in prop::collection::vec(prop::sample::select(vec![json!(null), json!(true), json!(-1), json!(1e30), json!(""), json!("x/y z"),
            json!([]), json!({}), json!([null]), json!([{}]), json!({"a": null}), json!({"name": "x"}), json!("9".repeat(40))]), 3),
    ) {
        let valid = valid();
        let (path, object) = which.get(&valid);
        let mut object = object.clone();
        for (place, value) in places_of.iter().zip(values) {
            let mut all = Vec::new();
            places(&object, String::new(), &mut all);
            let at = place.get(&all);
            if let Some(there) = object.pointer_mut(at).filter(|_| !at.is_empty() && at != "/metadata") {
                *there = value;
            }
        }
        let kind = kind(path);
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        crate::api::quantity::canonical_in(&mut object);
        if (kind.check)(&object).is_ok() {
            crate::api::objects::without_nulls(&mut object, kind.strategy.verbatim());
            let _ = faults(path, &object);
            let old = valid.iter().find(|(p, _)| p == path).map(|(_, old)| made(path, old)).unwrap();
            let mut new = made(path, &object);
            kind.strategy.prepare_update("", &mut new, &old, Timestamp::UNIX_EPOCH);
            let _ = update_faults(path, &old, &object);
            let _ = kind.strategy.admit(&mut new, &[]);
            let _ = kind.strategy.references(&new);
            let _ = kind.strategy.grace(&new, None);
            let _ = crate::convert::pod(&new);
            let _ = crate::convert::daemonset(&new);
        }
    }
}
