use super::*;

fn object() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "d", "namespace": "n", "uid": "u", "generation": 3,
            "annotations": {TEMPLATE_GENERATION: "2"}},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]},
            "minReadySeconds": 5, "revisionHistoryLimit": 0,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "20%", "maxSurge": 0}},
            "template": {"metadata": {"labels": {"app": "d", "x": ""}}, "spec": {"nodeSelector": {"daemon": "yes"},
                "containers": [{"name": "c", "image": "i", "args": ["a<b>&c", "\u{2028}\n"]}],
                // No node has it; that is for the nodes to say.
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]}},
        },
        "status": {"desiredNumberScheduled": 2, "numberReady": 1, "currentNumberScheduled": 2, "numberMisscheduled": 0,
            "observedGeneration": 3, "collisionCount": 1,
            "conditions": [{"type": "Foreign", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]},
    })
}

#[test]
fn a_daemonset_is_read_with_all_that_a_decision_looks_at() {
    let read = daemonset(&object()).unwrap();
    assert_eq!((read.namespace.as_str(), read.name.as_str(), read.uid.0.as_str()), ("n", "d", "u"));
    assert_eq!((read.generation, read.template_generation, read.history_limit), (3, Some(2), 0));
    assert_eq!(read.min_ready, Duration::from_secs(5));
    let rolling = Strategy::RollingUpdate { max_unavailable: Share::Percent(20), max_surge: Share::Count(0) };
    assert_eq!(read.strategy, rolling);
    assert_eq!(read.template.spec.placement.node_selector, BTreeMap::from([("daemon".into(), "yes".into())]));
    let matching = |labels: &[(&str, &str)]| {
        read.selector.matches(&labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    };
    assert!(matching(&[("app", "d"), ("x", "1")]));
    assert!(!matching(&[("app", "d")]) && !matching(&[("x", "1")]));
}

#[test]
fn a_status_comes_back_as_it_was_read() {
    let object = object();
    let read = daemonset(&object).unwrap().status;
    assert_eq!(status_json(&read), object["status"]);
}

#[test]
fn template_data_is_what_go_writes() {
    let data = template_data(&object());
    assert!(data.starts_with(r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"d","x":""}},"spec":{"containers":[{"args":["a\u003cb\u003e\u0026c","\u2028\n"],"image":"i","name":"c"}]"#), "{data}");
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap()["spec"]["template"]["$patch"], "replace");
    let kept =
        json!({"metadata": {"name": "d-x"}, "revision": 4, "data": serde_json::from_str::<Value>(&data).unwrap()});
    assert_eq!(*revision(&kept).data, *data);
}

#[test]
fn a_deletion_was_asked_for_when_its_grace_began() {
    let asked = |metadata: Value| pod(&json!({"metadata": metadata})).deletion.map(|at| at.to_string());
    let end = "2026-01-01T00:02:00Z";
    assert_eq!(
        asked(json!({"deletionTimestamp": end, "deletionGracePeriodSeconds": 120})).as_deref(),
        Some("2026-01-01T00:00:00Z")
    );
    assert_eq!(asked(json!({"deletionTimestamp": end})).as_deref(), Some(end));
    assert_eq!(asked(json!({})), None);
}

#[test]
fn a_pod_tells_its_node_its_readiness_and_its_trouble() {
    let mut object = json!({
        "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2024-01-01T00:00:00Z", "labels": {"a": "b"},
            "ownerReferences": [{"uid": "x"}, {"uid": "ds", "controller": true}]},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:09Z"}],
            "containerStatuses": [{"name": "c", "ready": true, "restartCount": 2}, {"name": "d", "ready": true, "restartCount": 1}]},
    });
    let read = pod(&object);
    assert_eq!((read.node.as_deref(), read.restarts, read.trouble.as_deref()), (Some("n1"), 3, None));
    assert_eq!(read.controller, Some(Uid("ds".into())));
    assert_eq!(read.ready_since, Some("2024-01-01T00:00:09Z".parse().unwrap()));
    assert_eq!((read.phase, read.deletion), (Phase::Active, None));

    object["status"]["conditions"][0]["status"] = json!("False");
    object["status"]["containerStatuses"][1] =
        json!({"name": "d", "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    object["spec"] = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}}}});
    let read = pod(&object);
    assert_eq!((read.node.as_deref(), read.ready_since), (Some("n2"), None));
    assert_eq!(read.trouble.as_deref(), Some("d: CrashLoopBackOff"));
}

#[test]
fn a_node_is_its_name_its_labels_and_its_taints() {
    let object = json!({"metadata": {"name": "n", "labels": {"a": "b"}},
        "spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoExecute"}, {"key": "l", "effect": "Other"}]}});
    let read = node(&object, Contact::Reached).placed;
    assert_eq!((read.name.as_str(), read.labels.len()), ("n", 1));
    assert_eq!(read.taints, [Taint { key: "k".into(), value: String::new(), effect: TaintEffect::NoExecute }]);
}
