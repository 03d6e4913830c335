//! Every verb of kubectl that the other tests do not come by, once: what it prints here is what it prints against Kubernetes.

use serde_json::json;

use crate::program::Kubectl;
use crate::{as_json, daemonset, node, rows};

for_both!(
    every_kind_is_described_and_printed_in_every_form,
    what_is_not_offered_is_refused_in_words_that_people_know,
    a_node_is_drained_of_what_is_no_daemon,
    many_objects_are_chosen_by_label_and_by_all,
    what_is_waited_for_comes_or_is_late,
    events_are_shown_in_their_order,
    a_pod_without_a_node_is_bound_to_one_and_then_to_no_other,
    roles_are_reconciled_and_rights_listed,
    the_cluster_says_what_it_is,
    an_object_is_replaced_by_a_new_one,
    what_the_client_applied_is_the_servers_to_apply,
);

/// One object of each kind that people write themselves, all called `x`.
const ALL: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: x}
data: {k: v}
---
apiVersion: v1
kind: Secret
metadata: {name: x}
stringData: {k: v}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: x}
---
apiVersion: v1
kind: Service
metadata: {name: x}
spec: {clusterIP: None, selector: {app: x}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: x, labels: {app: x}}
spec: {containers: [{name: a, image: b}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: x}
spec: {selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x}}, spec: {containers: [{name: a, image: b}]}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: x}
rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: x}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: x}
subjects: [{kind: ServiceAccount, name: x}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: x}
rules: [{nonResourceURLs: [/x], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: x}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: x}
subjects: [{kind: User, name: me, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: x}
value: 7
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: x}
spec: {holderIdentity: somebody}
---
apiVersion: v1
kind: Namespace
metadata: {name: x}
";

/// What `describe` says of each, beside its name.
const DESCRIBED: &[(&str, &str)] = &[
    ("cm", "Data ===="),
    ("secret", "k: 1 bytes"),
    ("sa", "Image pull secrets: <none>"),
    ("svc", "IP: None"),
    ("po", "Status: Pending"),
    ("ds", "Desired Number of Nodes Scheduled: 0"),
    ("role", "pods [] [] [get]"),
    ("rolebinding", "ServiceAccount x"),
    ("clusterrole", "[/x] [] [get]"),
    ("clusterrolebinding", "User me"),
    ("pc", "Value: 7"),
    ("lease", "Holder Identity: somebody"),
    ("ns", "Status: Active"),
];

fn every_kind_is_described_and_printed_in_every_form(kubectl: &Kubectl, _: bool) {
    let file = kubectl.file("all.yaml", ALL);
    kubectl.ok(&["create", "-f", &file]);
    for (kind, words) in DESCRIBED {
        let described = kubectl.ok(&["describe", kind, "x"]);
        let text = described.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.starts_with("Name: x ") && text.contains(words), "{kind}: {described}");
    }
    let names = kubectl.ok(&["get", "-f", &file, "-o", "name"]);
    assert_eq!(names.lines().count(), DESCRIBED.len());
    assert!(names.lines().all(|name| name.ends_with("/x")), "{names}");
    for (kind, _) in DESCRIBED {
        assert!(rows(&kubectl.ok(&["get", kind, "x", "-o", "wide"]))[1].starts_with("x "));
        assert!(kubectl.ok(&["get", kind, "x", "-o", "yaml"]).contains("\n  name: x\n"));
        assert_eq!(kubectl.ok(&["get", kind, "x", "-o", "go-template={{.metadata.name}}"]), "x");
    }
    assert_eq!(kubectl.ok(&["get", "cm/x", "secret/x", "-o", "jsonpath={.items[*].kind}"]), "ConfigMap Secret");
    assert_eq!(rows(&kubectl.ok(&["get", "cm,sa", "x", "--no-headers"])).len(), 2);
}

fn what_is_not_offered_is_refused_in_words_that_people_know(kubectl: &Kubectl, is_current: bool) {
    daemonset(kubectl);
    kubectl.ok(&["create", "-f", &kubectl.file("all.yaml", ALL)]);
    let refused: &[(&[&str], &str)] = &[
        (&["top", "node"], "Metrics API not available"),
        (&["top", "pod"], "Metrics API not available"),
        (&["debug", "x", "--image=b", "-it=false"], "ephemeral containers are disabled for this cluster"),
        (&["exec", "x", "--", "ls"], "the server could not find the requested resource"),
        (&["port-forward", "x", "8080:80"], "pod is not running"),
        (&["scale", "ds/agent", "--replicas=2"], "the server could not find the requested resource"),
        (&["expose", "ds/agent", "--port=80"], "cannot expose a DaemonSet.apps"),
        (&["rollout", "pause", "ds/agent"], "pausing is not supported"),
        (&["rollout", "resume", "ds/agent"], "resuming is not supported"),
        (&["create", "deployment", "d", "--image=b"], "the server could not find the requested resource"),
        (&["get", "deployments"], "the server doesn't have a resource type \"deployments\""),
        (&["delete", "ns", "default"], "this namespace may not be deleted"),
        (&["create", "ns", "default"], "namespaces \"default\" already exists"),
        (
            &["patch", "pod", "x", "-p", r#"{"spec":{"hostNetwork":true}}"#],
            "pod updates may not change fields other than",
        ),
        (
            &["patch", "pod", "x", "--type=json", "-p", r#"[{"op":"test","path":"/kind","value":"y"}]"#],
            "The request is invalid",
        ),
        (
            &["get", "--raw", "/api/v1/namespaces/default/pods/x/resize"],
            "the server could not find the requested resource",
        ),
    ];
    for (arguments, words) in refused {
        let said = kubectl.fails(arguments);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    // A kind that is not served is no riddle about custom ones.
    let cake = kubectl.file("cake.yaml", "apiVersion: example.org/v1\nkind: Cake\nmetadata: {name: x}\n");
    let said = kubectl.fails(&["apply", "-f", &cake]);
    assert!(said.contains("no matches for kind \"Cake\" in version \"example.org/v1\""), "{said}");
    if is_current {
        let said = kubectl.fails(&["patch", "pod", "x", "--subresource=resize", "-p", "{}"]);
        assert!(said.contains("the server could not find the requested resource"), "{said}");
    }
}

/// A pod on the node, of a DaemonSet or of nobody.
fn pod_on_node(kubectl: &Kubectl, name: &str, daemonset: Option<&str>) {
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": "agent" } },
        "spec": { "nodeName": "n1", "containers": [{ "name": "a", "image": "b" }] } });
    if let Some(uid) = daemonset {
        pod["metadata"]["ownerReferences"] =
            json!([{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": uid, "controller": true }]);
    }
    kubectl.ok(&["create", "-f", &kubectl.file("on-node.json", &pod.to_string())]);
}

fn a_node_is_drained_of_what_is_no_daemon(kubectl: &Kubectl, is_current: bool) {
    node(kubectl);
    daemonset(kubectl);
    let uid = kubectl.ok(&["get", "ds", "agent", "-o", "jsonpath={.metadata.uid}"]);
    pod_on_node(kubectl, "daemon", Some(&uid));
    pod_on_node(kubectl, "bare", None);
    let said = kubectl.fails(&["drain", "n1"]);
    assert!(
        said.contains("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore): default/daemon"),
        "{said}"
    );
    assert!(said.contains("use --force to override"), "{said}");
    let drained = kubectl.run(&["drain", "n1", "--ignore-daemonsets", "--force", "--grace-period=0", "--timeout=20s"]);
    assert!(
        drained.good && drained.out.ends_with(if is_current { "node/n1 drained\n" } else { "node/n1 deleted\n" }),
        "{drained:?}"
    );
    assert!(drained.err.contains("gnoring DaemonSet-managed Pods: default/daemon"), "{drained:?}");
    assert_eq!(kubectl.ok(&["get", "pods", "-o", "name"]), "pod/daemon\n");
    assert_eq!(kubectl.ok(&["get", "no", "n1", "-o", "jsonpath={.spec.unschedulable}"]), "true");
}

fn many_objects_are_chosen_by_label_and_by_all(kubectl: &Kubectl, _: bool) {
    for name in ["a", "b", "c"] {
        kubectl.ok(&["create", "configmap", name]);
    }
    assert_eq!(kubectl.ok(&["label", "cm", "a", "b", "of=two"]), "configmap/a labeled\nconfigmap/b labeled\n");
    assert_eq!(
        kubectl.ok(&["annotate", "cm", "-l", "of=two", "x=y"]),
        "configmap/a annotated\nconfigmap/b annotated\n"
    );
    assert_eq!(kubectl.ok(&["label", "cm", "--all", "all=three"]).lines().count(), 3);
    let deleted = rows(&kubectl.ok(&["delete", "cm", "-l", "of=two"]));
    assert!(deleted.len() == 2 && deleted[0].starts_with("configmap \"a\" deleted"), "{deleted:?}");
    assert_eq!(kubectl.ok(&["get", "cm", "-l", "all", "-o", "name"]), "configmap/c\n");
    let at_once = kubectl.run(&["delete", "cm", "--all", "--grace-period=0", "--force"]);
    assert!(at_once.good && at_once.out.contains("configmap \"c\" force deleted"), "{at_once:?}");
    assert_eq!(kubectl.ok(&["delete", "cm", "--all"]), "No resources found\n");
    assert!(kubectl.ok(&["delete", "cm", "c", "--ignore-not-found"]).is_empty());
}

fn what_is_waited_for_comes_or_is_late(kubectl: &Kubectl, is_current: bool) {
    node(kubectl);
    kubectl.ok(&["create", "-f", &kubectl.file("all.yaml", ALL)]);
    assert_eq!(kubectl.ok(&["wait", "--for=condition=Ready", "no/n1", "--timeout=20s"]), "node/n1 condition met\n");
    let late = kubectl.fails(&["wait", "--for=condition=Ready", "pod/x", "--timeout=1s"]);
    assert!(late.contains("timed out waiting for the condition on pods/x"), "{late}");
    let late = kubectl.fails(&["wait", "--for=delete", "pod/x", "--timeout=1s"]);
    assert!(late.contains("timed out waiting for the condition on pods/x"), "{late}");
    if is_current {
        assert_eq!(
            kubectl.ok(&["wait", "--for=jsonpath={.data.k}=v", "cm/x", "--timeout=20s"]),
            "configmap/x condition met\n"
        );
        assert_eq!(kubectl.ok(&["wait", "--for=create", "cm/x", "--timeout=20s"]), "configmap/x condition met\n");
    }
}

fn events_are_shown_in_their_order(kubectl: &Kubectl, is_current: bool) {
    for (name, reason, minute) in [("late", "Second", 2), ("early", "First", 1)] {
        let at = format!("2026-01-01T00:0{minute}:00Z");
        let event = json!({ "apiVersion": "v1", "kind": "Event", "metadata": { "name": name }, "type": "Warning", "reason": reason,
            "message": "it happened", "firstTimestamp": at, "lastTimestamp": at, "count": 1, "source": { "component": "test" },
            "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "p" } });
        kubectl.ok(&["create", "-f", &kubectl.file("event.json", &event.to_string())]);
    }
    let sorted = rows(&kubectl.ok(&["get", "events", "--sort-by=.lastTimestamp"]));
    assert_eq!(sorted[0], "LAST SEEN TYPE REASON OBJECT MESSAGE");
    assert!(sorted[1].ends_with("Warning First pod/p it happened"), "{sorted:?}");
    let one = kubectl.ok(&["get", "events", "--field-selector", "involvedObject.name=p,reason=Second", "-o", "name"]);
    assert_eq!(one, "event/late\n");
    if is_current {
        let events = rows(&kubectl.ok(&["events", "--for=pod/p"]));
        assert!(events[1].ends_with("Warning First Pod/p it happened") && events.len() == 3, "{events:?}");
    }
}

fn a_pod_without_a_node_is_bound_to_one_and_then_to_no_other(kubectl: &Kubectl, _: bool) {
    node(kubectl);
    kubectl.ok(&["run", "loose", "--image=b"]);
    let bind = |node: &str| {
        let binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "loose" }, "target": { "kind": "Node", "name": node } });
        let file = kubectl.file("binding.json", &binding.to_string());
        kubectl.run(&["create", "--raw", "/api/v1/namespaces/default/pods/loose/binding", "-f", &file])
    };
    assert!(bind("n1").good);
    let of = "jsonpath={.spec.nodeName} {.status.conditions[?(@.type==\"PodScheduled\")].status}";
    assert_eq!(kubectl.ok(&["get", "pod", "loose", "-o", of]), "n1 True");
    let second = bind("n2");
    assert!(second.err.contains("pod loose is already assigned to node \"n1\""), "{second:?}");
}

fn roles_are_reconciled_and_rights_listed(kubectl: &Kubectl, _: bool) {
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r, namespace: default}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n";
    let file = kubectl.file("role.yaml", role);
    assert!(kubectl.ok(&["auth", "reconcile", "-f", &file]).contains("role.rbac.authorization.k8s.io/r reconciled"));
    let more = kubectl.file("role.yaml", &role.replace("[get]", "[get, list]"));
    kubectl.ok(&["auth", "reconcile", "-f", &more]);
    let verbs = kubectl.ok(&["get", "role", "r", "-o", "jsonpath={.rules[*].verbs}"]);
    assert!(verbs.contains("list"), "{verbs}");
    kubectl.ok(&["create", "rolebinding", "b", "--role=r", "--user=jane"]);
    let listed = rows(&kubectl.ok(&["auth", "can-i", "--list", "--as=jane"]));
    assert_eq!(listed[0], "Resources Non-Resource URLs Resource Names Verbs");
    assert!(listed.iter().any(|row| row.starts_with("pods [] [] [")), "{listed:?}");
    assert_eq!(kubectl.ok(&["auth", "can-i", "get", "pods", "--as=jane"]), "yes\n");
    assert_eq!(kubectl.run(&["auth", "can-i", "get", "pods", "--as=jane", "-n", "kube-system"]).out, "no\n");
    assert_eq!(kubectl.ok(&["auth", "can-i", "get", "/metrics"]), "yes\n");
}

fn the_cluster_says_what_it_is(kubectl: &Kubectl, _: bool) {
    assert!(kubectl.ok(&["cluster-info"]).contains("is running at"));
    let versions = kubectl.ok(&["api-versions"]);
    let expected = [
        "apps/v1",
        "authentication.k8s.io/v1",
        "authorization.k8s.io/v1",
        "coordination.k8s.io/v1",
        "discovery.k8s.io/v1",
        "events.k8s.io/v1",
        "rbac.authorization.k8s.io/v1",
        "scheduling.k8s.io/v1",
        "v1",
    ];
    assert_eq!(versions.lines().collect::<Vec<_>>(), expected);
    let names = kubectl.ok(&["api-resources", "-o", "name", "--namespaced=false"]);
    assert!(names.lines().any(|name| name == "priorityclasses.scheduling.k8s.io"), "{names}");
    assert!(kubectl.ok(&["explain", "ds", "--recursive"]).contains("maxUnavailable"));
    assert_eq!(kubectl.ok(&["get", "pods", "-n", "nowhere", "-o", "name"]), "");
    assert!(kubectl.run(&["get", "pods"]).err.contains("No resources found in default namespace."));
}

fn an_object_is_replaced_by_a_new_one(kubectl: &Kubectl, _: bool) {
    kubectl.ok(&["create", "configmap", "c", "--from-literal=a=b"]);
    let uid = |kubectl: &Kubectl| kubectl.ok(&["get", "cm", "c", "-o", "jsonpath={.metadata.uid}"]);
    let first = uid(kubectl);
    let file = kubectl.file("c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: c}\n");
    let difference = kubectl.run(&["diff", "-f", &file]);
    assert!(
        !difference.good && difference.out.contains("-  a: b") && difference.out.contains("+  a: c"),
        "{difference:?}"
    );
    assert!(kubectl.ok(&["replace", "--force", "-f", &file]).ends_with("configmap/c replaced\n"));
    assert_ne!(uid(kubectl), first);
    assert!(kubectl.run(&["diff", "-f", &file]).good);
    // What a dry run shows is kept nowhere.
    let dry: serde_json::Value = serde_json::from_str(&as_json(kubectl, &file)).expect("JSON");
    assert_eq!(dry["data"]["a"], "c");
}

fn what_the_client_applied_is_the_servers_to_apply(kubectl: &Kubectl, is_current: bool) {
    let whole = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {k: v, gone: x}\n";
    let file = kubectl.file("c.yaml", whole);
    kubectl.ok(&["apply", "-f", &file]);
    let less = kubectl.file("c.yaml", &whole.replace(", gone: x", ""));
    assert_eq!(kubectl.ok(&["apply", "--server-side", "-f", &less]), "configmap/c serverside-applied\n");
    // An older one does not hand over what the client side has.
    let left = if is_current { "v" } else { "v x" };
    assert_eq!(kubectl.ok(&["get", "cm", "c", "-o", "jsonpath={.data.k} {.data.gone}"]).trim(), left);
    let other = kubectl.file("other.yaml", &whole.replace("k: v", "k: w"));
    let said = kubectl.fails(&["apply", "--server-side", "--field-manager=other", "-f", &other]);
    assert!(said.contains("conflict") && said.contains(".data.k"), "{said}");
    kubectl.ok(&["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", &other]);
    // It is the other's now: who let go of it does not take it away.
    let none = kubectl.file("none.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n");
    kubectl.ok(&["apply", "--server-side", "-f", &none]);
    assert_eq!(kubectl.ok(&["get", "cm", "c", "-o", "jsonpath={.data.k}"]), "w");
}
