//! Real kubectl, Debian's (1.20) and a current one, against the HTTP door on loopback: what they print and what they refuse. Both come from
//! scripts/kubectl.sh; one that is not there is skipped.

mod program;
#[path = "../serving/mod.rs"]
mod serving;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use program::Kubectl;
use serde_json::{Value, json};
use serving::Serving;
use tests::skip::skipped;

/// A watch that has to say something says it by then.
const PATIENCE: Duration = Duration::from_secs(20);

const DAEMONSET: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: agent
  labels: {app: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers:
      - name: main
        image: example.org/agent:1
        ports: [{containerPort: 80}]
      - name: side
        image: example.org/side:1
      volumes:
      - {name: logs, hostPath: {path: /var/log}}
";

/// One test of each name for each kubectl; the function is told whether it is the current one.
macro_rules! for_both {
    ($($name:ident),* $(,)?) => {
        mod with_current {
            $(#[test]
            fn $name() {
                crate::with("current", super::$name);
            })*
        }
        mod with_debians {
            $(#[test]
            fn $name() {
                crate::with("debian", super::$name);
            })*
        }
    };
}

mod verbs;

for_both!(
    what_there_is_is_shown_in_every_form,
    a_file_is_applied_by_the_client_and_by_the_server,
    a_wrong_field_is_refused_before_anything_is_kept,
    everything_that_create_makes_is_made,
    an_object_is_changed_in_every_way,
    nodes_are_tainted_cordoned_and_described,
    what_is_deleted_is_gone_when_kubectl_says_so,
    fields_are_explained,
    a_watch_shows_rows_as_they_change,
    a_rollout_has_a_history_and_is_undone,
    logs_come_from_the_node_or_say_why_not,
    who_may_what_is_asked_and_answered,
);

pub fn with(name: &str, test: fn(&Kubectl, bool)) {
    let Some(program) = Kubectl::program(name) else {
        return skipped(&format!("there is no target/kubectl/{name}; scripts/kubectl.sh fetches it"));
    };
    let serving = Serving::start();
    test(&Kubectl { serving: &serving, program }, name == "current");
}

/// Columns are as wide as they need to be; one space is as good.
fn rows(table: &str) -> Vec<String> {
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn daemonset(kubectl: &Kubectl) -> String {
    let file = kubectl.file("ds.yaml", DAEMONSET);
    kubectl.ok(&["apply", "-f", &file]);
    file
}

fn what_there_is_is_shown_in_every_form(kubectl: &Kubectl, is_current: bool) {
    daemonset(kubectl);
    let table = rows(&kubectl.ok(&["get", "ds"]));
    assert_eq!(table[0], "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE");
    assert!(table[1].starts_with("agent 0 0 0 0 0 <none> "), "{table:?}");
    let wide = rows(&kubectl.ok(&["get", "daemonsets.apps", "agent", "-o", "wide"]));
    assert!(wide[0].ends_with("CONTAINERS IMAGES SELECTOR"), "{wide:?}");
    assert!(wide[1].ends_with("main,side example.org/agent:1,example.org/side:1 app=agent"), "{wide:?}");
    assert!(rows(&kubectl.ok(&["get", "ds", "-A", "--show-labels"]))[1].starts_with("default agent"));
    assert_eq!(kubectl.ok(&["get", "all", "-o", "name"]), "daemonset.apps/agent\n");
    assert_eq!(kubectl.ok(&["get", "ds", "-o", "jsonpath={.items[*].metadata.name}"]), "agent");
    let json: Value = serde_json::from_str(&kubectl.ok(&["get", "ds", "agent", "-o", "json"])).expect("JSON");
    assert_eq!((&json["kind"], &json["apiVersion"]), (&"DaemonSet".into(), &"apps/v1".into()));
    assert!(kubectl.ok(&["get", "ds", "-o", "yaml"]).contains("image: example.org/agent:1"));
    let custom =
        kubectl.ok(&["get", "ds", "-o", "custom-columns=N:.metadata.name,I:.spec.template.spec.containers[0].image"]);
    assert_eq!(rows(&custom), ["N I", "agent example.org/agent:1"]);
    assert_eq!(
        kubectl.ok(&["get", "ds", "-l", "app=agent", "--sort-by=.metadata.name", "-o", "name"]),
        "daemonset.apps/agent\n"
    );
    assert_eq!(kubectl.ok(&["get", "ds", "-l", "app!=agent", "-o", "name"]), "");
    assert_eq!(
        kubectl.ok(&["get", "ds", "--field-selector", "metadata.name=agent", "-o", "name"]),
        "daemonset.apps/agent\n"
    );
    assert_eq!(rows(&kubectl.ok(&["get", "ns", "--chunk-size=1"])).len(), 3);
    let described = kubectl.ok(&["describe", "ds", "agent"]);
    assert!(
        described.contains("Desired Number of Nodes Scheduled: 0") && described.contains("/var/log"),
        "{described}"
    );
    assert!(kubectl.fails(&["get", "ds", "other"]).contains("daemonsets.apps \"other\" not found"));
    assert!(kubectl.fails(&["get", "deployments"]).contains("the server doesn't have a resource type \"deployments\""));
    let resources = kubectl.ok(&["api-resources"]);
    let daemonsets = rows(&resources).into_iter().find(|row| row.starts_with("daemonsets"));
    assert_eq!(daemonsets.as_deref(), Some("daemonsets ds apps/v1 true DaemonSet"));
    assert!(kubectl.ok(&["api-versions"]).contains("rbac.authorization.k8s.io/v1\n"));
    let version = kubectl.ok(&["version"]);
    assert!(version.contains("v1.36.0+daemonlet."), "{version}");
    if is_current {
        assert!(!kubectl.run(&["version"]).err.contains("WARNING: version difference"));
    }
}

fn a_file_is_applied_by_the_client_and_by_the_server(kubectl: &Kubectl, is_current: bool) {
    let file = daemonset(kubectl);
    assert_eq!(kubectl.ok(&["apply", "-f", &file]), "daemonset.apps/agent unchanged\n");
    // A list is merged by its keys: the changed item changes, the one that is left out goes.
    let newer =
        DAEMONSET.replace("agent:1", "agent:2").replace("      - name: side\n        image: example.org/side:1\n", "");
    let newer = newer.replace("hostPath: {path: /var/log}", "emptyDir: {}");
    let newer = kubectl.file("newer.yaml", &newer);
    let difference = kubectl.run(&["diff", "-f", &newer]);
    assert!(
        difference.out.contains("-      - image: example.org/agent:1")
            || difference.out.contains("-        image: example.org/agent:1"),
        "{difference:?}"
    );
    let dry = kubectl.ok(&["apply", "--dry-run=server", "-f", &newer]);
    assert_eq!(dry, "daemonset.apps/agent configured (server dry run)\n");
    assert_eq!(
        kubectl.ok(&["get", "ds", "agent", "-o", "jsonpath={.spec.template.spec.containers[*].name}"]),
        "main side"
    );
    assert_eq!(kubectl.ok(&["apply", "-f", &newer]), "daemonset.apps/agent configured\n");
    let of = "jsonpath={.spec.template.spec.containers[*].image} {.spec.template.spec.volumes}";
    let now = kubectl.ok(&["get", "ds", "agent", "-o", of]);
    assert!(now.starts_with("example.org/agent:2 ") && now.contains("emptyDir") && !now.contains("hostPath"), "{now}");
    // The server knows who said what.
    let conflict = kubectl.fails(&["apply", "--server-side", "-f", &file]);
    assert!(conflict.contains(".spec.template.spec.containers[name=\"main\"].image"), "{conflict}");
    // It does not know what two volumes in one would be.
    let mixed = kubectl.fails(&["apply", "--server-side", "--force-conflicts", "-f", &file]);
    assert!(mixed.contains("may not specify more than 1 volume type"), "{mixed}");
    let empty = kubectl.file("empty.yaml", &DAEMONSET.replace("hostPath: {path: /var/log}", "emptyDir: {}"));
    let forced = kubectl.ok(&["apply", "--server-side", "--force-conflicts", "-f", &empty]);
    assert_eq!(forced, "daemonset.apps/agent serverside-applied\n");
    let managed = if is_current {
        kubectl.ok(&["get", "ds", "agent", "-o", "json", "--show-managed-fields"])
    } else {
        kubectl.ok(&["get", "ds", "agent", "-o", "json"])
    };
    let managed: Value = serde_json::from_str(&managed).expect("JSON");
    let managers = managed["metadata"]["managedFields"].as_array().expect("owners").iter();
    let managers: Vec<_> = managers.map(|entry| (entry["manager"].as_str(), entry["operation"].as_str())).collect();
    assert!(managers.contains(&(Some("kubectl"), Some("Apply"))), "{managers:?}");
    // Several documents, and a second namespace.
    let several = "apiVersion: v1\nkind: Namespace\nmetadata: {name: more}\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a, namespace: more}\n  data: {k: v}\n";
    let several = kubectl.file("several.yaml", several);
    assert_eq!(kubectl.ok(&["apply", "-f", &several]), "namespace/more created\nconfigmap/a created\n");
}

fn a_wrong_field_is_refused_before_anything_is_kept(kubectl: &Kubectl, is_current: bool) {
    let wrong = kubectl.file("wrong.yaml", &DAEMONSET.replace("  selector:", "  selektor: x\n  selector:"));
    let said = kubectl.fails(&["apply", "-f", &wrong]);
    let expected = if is_current {
        "strict decoding error: unknown field \"spec.selektor\""
    } else {
        "unknown field \"selektor\""
    };
    assert!(said.contains(expected), "{said}");
    assert_eq!(kubectl.ok(&["get", "ds", "-o", "name"]), "");
    if is_current {
        let warned = kubectl.run(&["apply", "--validate=warn", "-f", &wrong]);
        assert!(warned.good && warned.err.contains("Warning: unknown field \"spec.selektor\""), "{warned:?}");
        let twice = kubectl.file(
            "twice.json",
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"t"},"data":{"a":"1"},"data":{"a":"2"}}"#,
        );
        let said = kubectl.fails(&[
            "create",
            "--raw",
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            "-f",
            &twice,
        ]);
        assert!(said.contains("data"), "{said}");
    }
    let other_type = kubectl
        .file("type.yaml", &DAEMONSET.replace("spec:\n  selector", "spec:\n  minReadySeconds: soon\n  selector"));
    assert!(kubectl.fails(&["apply", "-f", &other_type]).contains("minReadySeconds"));
}

fn everything_that_create_makes_is_made(kubectl: &Kubectl, is_current: bool) {
    let made: &[(&[&str], &str)] = &[
        (&["namespace", "extra"], "namespace/extra"),
        (&["configmap", "c", "--from-literal=a=b"], "configmap/c"),
        (&["secret", "generic", "s", "--from-literal=a=b"], "secret/s"),
        (&["serviceaccount", "bot"], "serviceaccount/bot"),
        (
            &["role", "reader", "--verb=get,list", "--resource=pods,daemonsets.apps"],
            "role.rbac.authorization.k8s.io/reader",
        ),
        (
            &["rolebinding", "reads", "--role=reader", "--serviceaccount=default:bot"],
            "rolebinding.rbac.authorization.k8s.io/reads",
        ),
        (&["clusterrole", "wide", "--verb=get", "--resource=nodes"], "clusterrole.rbac.authorization.k8s.io/wide"),
        (
            &["clusterrolebinding", "wides", "--clusterrole=wide", "--user=me", "--group=us"],
            "clusterrolebinding.rbac.authorization.k8s.io/wides",
        ),
        (&["service", "clusterip", "svc", "--clusterip=None", "--tcp=80:8080"], "service/svc"),
        (&["priorityclass", "high", "--value=1000"], "priorityclass.scheduling.k8s.io/high"),
    ];
    for (arguments, name) in made {
        let said = kubectl.ok(&[&["create"], *arguments].concat());
        assert_eq!(said, format!("{name} created\n"));
    }
    assert_eq!(kubectl.ok(&["get", "cm", "c", "-o", "jsonpath={.data.a}"]), "b");
    assert_eq!(kubectl.ok(&["get", "secret", "s", "-o", "jsonpath={.data.a}"]), "Yg==");
    assert_eq!(
        kubectl.ok(&["get", "role", "reader", "-o", "jsonpath={.rules[*].resources}"]),
        r#"["pods"] ["daemonsets"]"#
    );
    assert_eq!(
        kubectl.ok(&["get", "svc", "svc", "-o", "jsonpath={.spec.clusterIP} {.spec.ports[0].targetPort}"]),
        "None 8080"
    );
    assert_eq!(kubectl.ok(&["get", "pc", "high", "-o", "jsonpath={.value}"]), "1000");
    let bound = rows(&kubectl.ok(&["get", "rolebinding", "-o", "wide"]));
    assert!(bound[1].starts_with("reads Role/reader ") && bound[1].ends_with("default/bot"), "{bound:?}");
    assert!(kubectl.fails(&["create", "configmap", "c"]).contains("configmaps \"c\" already exists"));
    assert!(kubectl.fails(&["create", "configmap", "Not_A_Name"]).contains("Invalid value"));
    assert!(kubectl.fails(&["create", "configmap", "x", "-n", "nowhere"]).contains("namespaces \"nowhere\" not found"));
    if is_current {
        let token = kubectl.ok(&["create", "token", "bot", "--duration=1h"]);
        assert_eq!(token.trim().split('.').count(), 3, "{token}");
    }
}

fn an_object_is_changed_in_every_way(kubectl: &Kubectl, is_current: bool) {
    let file = daemonset(kubectl);
    let image = |kubectl: &Kubectl| {
        kubectl.ok(&["get", "ds", "agent", "-o", "jsonpath={.spec.template.spec.containers[0].image}"])
    };
    let edited = kubectl.command(&["edit", "ds", "agent"]).env("KUBE_EDITOR", "sed -i s/agent:1/agent:2/").output();
    assert!(edited.expect("it starts").status.success());
    assert_eq!(image(kubectl), "example.org/agent:2");
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"example.org/agent:3"}]}}}}"#;
    assert_eq!(kubectl.ok(&["patch", "ds", "agent", "-p", strategic]), "daemonset.apps/agent patched\n");
    assert_eq!(image(kubectl), "example.org/agent:3");
    let json = r#"[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"example.org/agent:4"}]"#;
    kubectl.ok(&["patch", "ds", "agent", "--type=json", "-p", json]);
    assert_eq!(image(kubectl), "example.org/agent:4");
    kubectl.ok(&["patch", "ds", "agent", "--type=merge", "-p", r#"{"metadata":{"annotations":{"a":"b"}}}"#]);
    assert_eq!(
        kubectl.ok(&["set", "image", "ds/agent", "main=example.org/agent:5"]),
        "daemonset.apps/agent image updated\n"
    );
    assert_eq!(image(kubectl), "example.org/agent:5");
    assert_eq!(kubectl.ok(&["label", "ds", "agent", "tier=node"]), "daemonset.apps/agent labeled\n");
    assert!(kubectl.fails(&["label", "ds", "agent", "tier=other"]).contains("--overwrite"));
    kubectl.ok(&["label", "ds", "agent", "tier-"]);
    assert_eq!(kubectl.ok(&["annotate", "ds", "agent", "a-", "c=d"]), "daemonset.apps/agent annotated\n");
    assert_eq!(
        kubectl.ok(&[
            "get",
            "ds",
            "agent",
            "-o",
            "jsonpath={.metadata.labels.tier}{.metadata.annotations.a}{.metadata.annotations.c}"
        ]),
        "d"
    );
    assert_eq!(kubectl.ok(&["replace", "-f", &file]), "daemonset.apps/agent replaced\n");
    assert_eq!(image(kubectl), "example.org/agent:1");
    // A writer who has not seen the newest is told so.
    let old = kubectl.ok(&["get", "ds", "agent", "-o", "json"]);
    kubectl.ok(&["label", "ds", "agent", "tier=node"]);
    let old = kubectl.file("old.json", &old);
    let said = kubectl.fails(&["replace", "-f", &old]);
    assert!(said.contains("the object has been modified"), "{said}");
    if is_current {
        let dry = kubectl.ok(&["label", "ds", "agent", "tier=x", "--overwrite", "--dry-run=server"]);
        assert!(dry.contains("(server dry run)"), "{dry}");
        assert_eq!(kubectl.ok(&["get", "ds", "agent", "-o", "jsonpath={.metadata.labels.tier}"]), "node");
    }
}

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {kubernetes.io/hostname: n1}}
status:
  capacity: {cpu: '2', memory: 4Gi, pods: '110'}
  conditions: [{type: Ready, status: 'True', reason: Ok, message: fine, lastHeartbeatTime: '2026-01-01T00:00:00Z', lastTransitionTime: '2026-01-01T00:00:00Z'}]
  nodeInfo: {kubeletVersion: v1.36.0+daemonlet.0.1.0, architecture: amd64, kernelVersion: '6.1', osImage: Debian, containerRuntimeVersion: containerd://1.6.20,
    bootID: b, machineID: m, systemUUID: u, kubeProxyVersion: '', operatingSystem: linux}
  addresses: [{type: InternalIP, address: 198.18.0.1}]
";

/// A node that is ready.
fn node(kubectl: &Kubectl) {
    let file = kubectl.file("node.yaml", NODE);
    kubectl.ok(&["create", "-f", &file]);
    kubectl.ok(&[
        "replace",
        "--raw",
        "/api/v1/nodes/n1/status",
        "-f",
        &kubectl.file("node.json", &as_json(kubectl, &file)),
    ]);
}

/// A file's only document as JSON.
fn as_json(kubectl: &Kubectl, file: &str) -> String {
    kubectl.ok(&["create", "--dry-run=client", "-f", file, "-o", "json"])
}

fn nodes_are_tainted_cordoned_and_described(kubectl: &Kubectl, _: bool) {
    node(kubectl);
    let wide = rows(&kubectl.ok(&["get", "no", "-o", "wide"]));
    assert_eq!(
        wide[0],
        "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME"
    );
    assert!(wide[1].starts_with("n1 Ready <none> "), "{wide:?}");
    assert!(
        wide[1].ends_with("v1.36.0+daemonlet.0.1.0 198.18.0.1 <none> Debian 6.1 (amd64) containerd://1.6.20"),
        "{wide:?}"
    );
    assert_eq!(kubectl.ok(&["taint", "node", "n1", "k=v:NoSchedule"]), "node/n1 tainted\n");
    assert_eq!(kubectl.ok(&["get", "no", "n1", "-o", "jsonpath={.spec.taints[0].key}"]), "k");
    assert_eq!(kubectl.ok(&["taint", "node", "n1", "k:NoSchedule-"]), "node/n1 untainted\n");
    assert_eq!(kubectl.ok(&["cordon", "n1"]), "node/n1 cordoned\n");
    assert!(rows(&kubectl.ok(&["get", "no"]))[1].starts_with("n1 Ready,SchedulingDisabled "));
    assert_eq!(kubectl.ok(&["uncordon", "n1"]), "node/n1 uncordoned\n");
    let described = kubectl.ok(&["describe", "node", "n1"]);
    assert!(described.contains("InternalIP:  198.18.0.1") && described.contains("Non-terminated Pods:"), "{described}");
    assert!(kubectl.ok(&["wait", "--for=condition=Ready", "node/n1", "--timeout=10s"]).contains("condition met"));
    let metrics = kubectl.ok(&["get", "--raw", "/metrics"]);
    assert!(
        metrics.contains("kube_node_status_condition{node=\"n1\",condition=\"Ready\",status=\"true\"} 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("kube_node_status_capacity{node=\"n1\",resource=\"memory\",unit=\"byte\"} 4294967296\n"),
        "{metrics}"
    );
}

fn what_is_deleted_is_gone_when_kubectl_says_so(kubectl: &Kubectl, is_current: bool) {
    daemonset(kubectl);
    let deleted = kubectl.ok(&["delete", "ds", "agent", "--timeout=10s"]);
    assert!(deleted.starts_with("daemonset.apps \"agent\" deleted"), "{deleted}");
    assert_eq!(kubectl.ok(&["get", "ds", "-o", "name"]), "");
    assert!(kubectl.fails(&["delete", "ds", "agent"]).contains("not found"));
    assert_eq!(kubectl.ok(&["delete", "ds", "agent", "--ignore-not-found"]), "");
    kubectl.ok(&["create", "configmap", "held"]);
    kubectl.ok(&["patch", "cm", "held", "-p", r#"{"metadata":{"finalizers":["example.org/hold"]}}"#]);
    kubectl.ok(&["delete", "cm", "held", "--wait=false"]);
    assert!(!kubectl.ok(&["get", "cm", "held", "-o", "jsonpath={.metadata.deletionTimestamp}"]).is_empty());
    // It says each request: with its watch it has found the object, and waits.
    let mut wait = kubectl.command(&["wait", "--for=delete", "cm/held", "--timeout=20s", "-v=6"]);
    let mut waiting = wait.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut said = BufReader::new(waiting.stderr.take().expect("it is a pipe")).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("watch=true")), "it ends without a watch");
    let rest = std::thread::spawn(move || said.count());
    kubectl.ok(&["patch", "cm", "held", "--type=json", "-p", r#"[{"op":"remove","path":"/metadata/finalizers"}]"#]);
    assert!(waiting.wait().expect("it ends").success());
    rest.join().expect("it only reads");
    for name in ["a", "b"] {
        kubectl.ok(&["create", "configmap", name]);
        kubectl.ok(&["label", "cm", name, "of=test"]);
    }
    kubectl.ok(&["delete", "cm", "-l", "of=test", "--timeout=10s"]);
    assert_eq!(kubectl.ok(&["get", "cm", "-l", "of=test", "-o", "name"]), "");
    if is_current {
        kubectl.ok(&["create", "configmap", "j", "--from-literal=a=b"]);
        kubectl.ok(&["wait", "--for=jsonpath={.data.a}=b", "cm/j", "--timeout=10s"]);
    }
}

fn fields_are_explained(kubectl: &Kubectl, _: bool) {
    let explained = kubectl.ok(&["explain", "ds.spec.updateStrategy.rollingUpdate"]);
    assert!(explained.contains("maxUnavailable") && explained.contains("maxSurge"), "{explained}");
    assert!(
        explained.contains("KIND:") && explained.contains("DaemonSet") && explained.contains("VERSION:"),
        "{explained}"
    );
    let all = kubectl.ok(&["explain", "pod", "--recursive"]);
    assert!(all.contains("livenessProbe") && all.contains("hostPath"), "{all}");
    assert!(kubectl.ok(&["explain", "clusterrole.rules"]).contains("nonResourceURLs"));
    assert!(kubectl.fails(&["explain", "ds.spec.nothing"]).contains("does not exist"));
}

fn a_watch_shows_rows_as_they_change(kubectl: &Kubectl, _: bool) {
    daemonset(kubectl);
    let mut watching = kubectl.command(&["get", "ds", "-w"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(watching.stdout.take().expect("it is piped"));
    let (tell, told) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                break;
            }
        }
    });
    let next = || told.recv_timeout(PATIENCE).expect("a row").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(next().starts_with("NAME DESIRED"));
    assert!(next().starts_with("agent 0 0"));
    kubectl.ok(&["label", "ds", "agent", "seen=yes"]);
    assert!(next().starts_with("agent 0 0"));
    let second = DAEMONSET.replace("agent", "other");
    kubectl.ok(&["create", "-f", &kubectl.file("other.yaml", &second)]);
    assert!(next().starts_with("other 0 0"));
    kubectl.ok(&["delete", "ds", "other"]);
    assert!(next().starts_with("other 0 0"));
    watching.kill().expect("it runs");
    watching.wait().expect("it ends");
    reading.join().expect("it ends");
}

/// What the controller would make of a template: a revision of the DaemonSet.
fn revision(kubectl: &Kubectl, number: u32, image: &str) {
    let uid = kubectl.ok(&["get", "ds", "agent", "-o", "jsonpath={.metadata.uid}"]);
    let document = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": number,
        "metadata": { "name": format!("agent-{number}"), "labels": { "app": "agent" }, "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": uid, "controller": true, "blockOwnerDeletion": true }] },
        "data": { "spec": { "template": { "$patch": "replace", "metadata": { "labels": { "app": "agent" } },
            "spec": { "containers": [{ "name": "main", "image": image }] } } } },
    });
    kubectl.ok(&["create", "-f", &kubectl.file("revision.json", &document.to_string())]);
}

fn a_rollout_has_a_history_and_is_undone(kubectl: &Kubectl, _: bool) {
    daemonset(kubectl);
    revision(kubectl, 1, "example.org/agent:old");
    revision(kubectl, 2, "example.org/agent:1");
    let table = rows(&kubectl.ok(&["get", "controllerrevisions"]));
    assert_eq!(table[0], "NAME CONTROLLER REVISION AGE");
    assert!(table[1].starts_with("agent-1 daemonset.apps/agent 1 "), "{table:?}");
    let history = rows(&kubectl.ok(&["rollout", "history", "ds/agent"]));
    assert!(history.contains(&"1 <none>".to_owned()) && history.contains(&"2 <none>".to_owned()), "{history:?}");
    assert!(kubectl.ok(&["rollout", "history", "ds/agent", "--revision=1"]).contains("example.org/agent:old"));
    assert!(kubectl.ok(&["rollout", "undo", "ds/agent", "--to-revision=1"]).contains("rolled back"));
    let images = kubectl.ok(&["get", "ds", "agent", "-o", "jsonpath={.spec.template.spec.containers[*].image}"]);
    assert_eq!(images, "example.org/agent:old");
    assert_eq!(kubectl.ok(&["rollout", "restart", "ds/agent"]), "daemonset.apps/agent restarted\n");
    let restarted = kubectl.ok(&["get", "ds", "agent", "-o", "jsonpath={.spec.template.metadata.annotations}"]);
    assert!(restarted.contains("kubectl.kubernetes.io/restartedAt"), "{restarted}");
    let mut object: Value = serde_json::from_str(&kubectl.ok(&["get", "ds", "agent", "-o", "json"])).expect("JSON");
    object["status"] = json!({ "observedGeneration": object["metadata"]["generation"], "desiredNumberScheduled": 1,
        "currentNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1, "updatedNumberScheduled": 1, "numberAvailable": 1 });
    let file = kubectl.file("status.json", &object.to_string());
    kubectl.ok(&["replace", "--raw", "/apis/apps/v1/namespaces/default/daemonsets/agent/status", "-f", &file]);
    let status = kubectl.ok(&["rollout", "status", "ds/agent", "--timeout=10s"]);
    assert!(status.contains("successfully rolled out"), "{status}");
    assert!(rows(&kubectl.ok(&["get", "ds"]))[1].starts_with("agent 1 1 1 1 1 "));
}

fn logs_come_from_the_node_or_say_why_not(kubectl: &Kubectl, _: bool) {
    node(kubectl);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: p}}\nspec:\n  nodeName: n1\n  containers:\n  - {name: talks, image: a}\n  - {name: mute, image: a}\n";
    kubectl.ok(&["create", "-f", &kubectl.file("pod.yaml", pod)]);
    assert_eq!(kubectl.ok(&["logs", "p", "-c", "talks"]), "one\ntwo\n");
    assert_eq!(kubectl.ok(&["logs", "p", "-c", "talks", "--tail=1", "-f"]), "two\n");
    assert!(kubectl.fails(&["logs", "p", "-c", "mute"]).contains("no session with node"));
    assert!(kubectl.fails(&["logs", "p", "-c", "none"]).contains("container none is not valid for pod p"));
    let table = rows(&kubectl.ok(&["get", "pods", "-o", "wide"]));
    assert_eq!(table[0], "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES");
    assert!(table[1].starts_with("p 0/2 Pending 0 ") && table[1].ends_with("<none> n1 <none> <none>"), "{table:?}");
    assert!(kubectl.ok(&["describe", "pod", "p"]).contains("n1"));
    assert!(
        kubectl.ok(&["get", "--raw", "/metrics"]).contains("kube_pod_status_phase{namespace=\"default\",pod=\"p\"")
    );
}

fn who_may_what_is_asked_and_answered(kubectl: &Kubectl, is_current: bool) {
    assert_eq!(kubectl.ok(&["auth", "can-i", "create", "daemonsets.apps"]), "yes\n");
    assert!(kubectl.ok(&["auth", "can-i", "--list"]).contains("*.*"));
    // As another: what he may, and nothing more.
    let refused = kubectl.fails(&["get", "ns", "--as=somebody", "--as-group=people"]);
    let expected = "namespaces is forbidden: User \"somebody\" cannot list resource \"namespaces\" in API group \"\" at the cluster scope";
    assert!(refused.contains(expected), "{refused}");
    kubectl.ok(&["create", "clusterrolebinding", "watchers", "--clusterrole=view", "--group=people"]);
    assert!(
        kubectl.ok(&["get", "ns", "--as=somebody", "--as-group=people", "-o", "name"]).contains("namespace/default")
    );
    assert_eq!(kubectl.run(&["auth", "can-i", "delete", "pods", "--as=somebody"]).out, "no\n");
    let refused = kubectl.fails(&["get", "ns", "--as-group=people", "--as="]);
    assert!(refused.contains("impersonat"), "{refused}");
    if is_current {
        assert!(kubectl.ok(&["auth", "whoami"]).contains("system:masters"));
        kubectl.ok(&["create", "serviceaccount", "bot"]);
        kubectl.ok(&["create", "role", "reader", "--verb=list", "--resource=pods"]);
        kubectl.ok(&["create", "rolebinding", "reads", "--role=reader", "--serviceaccount=default:bot"]);
        let token = kubectl.ok(&["create", "token", "bot"]);
        let bot = as_bearer(kubectl.serving, token.trim());
        let own = format!("--kubeconfig={}", bot.display());
        assert_eq!(kubectl.ok(&[&own, "get", "pods", "-o", "name"]), "");
        let said = kubectl.fails(&[&own, "get", "secrets"]);
        let expected = "secrets is forbidden: User \"system:serviceaccount:default:bot\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"";
        assert!(said.contains(expected), "{said}");
        assert_eq!(kubectl.run(&[&own, "auth", "can-i", "delete", "nodes"]).out, "no\n");
    }
}

/// A kubeconfig of whoever this token belongs to.
fn as_bearer(serving: &Serving, token: &str) -> PathBuf {
    let text = std::fs::read_to_string(serving.kubeconfig()).expect("it was written");
    let line = text.lines().find(|line| line.contains("certificate-authority-data")).expect("an authority");
    let authority = line.split([' ', '"', ',']).rfind(|word| word.len() > 100).expect("its certificate");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bearer",
        "clusters": [{ "name": "bearer", "cluster": {
            "server": format!("https://{}", serving.address), "certificate-authority-data": authority } }],
        "users": [{ "name": "bearer", "user": { "token": token } }],
        "contexts": [{ "name": "bearer", "context": { "cluster": "bearer", "user": "bearer" } }],
    });
    let path = serving.dir.path().join("bearer.kubeconfig");
    std::fs::write(&path, config.to_string()).expect("written");
    path
}
