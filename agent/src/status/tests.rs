use pod::observed::ContainerState;
use pod::plan::{Failure, StepKey, Waiting};
use pod::record::{Amounts, ContainerMemory, PodFailure, Resize};
use pod::spec::{RecursiveReadOnly, RestartPolicy, Role, VolumeMount};
use pod::time::Moment;

use super::sample::{at, ended, published, run, view, waits};
use super::*;

fn shown(view: PodView, waiting: Vec<Waiting>) -> Value {
    let published = published(view.clone(), waiting);
    let node = NodeFacts { name: "n1".into(), addresses: vec!["10.0.0.5".parse().unwrap()], ..NodeFacts::default() };
    pod(&published, &view, &node)
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    pod["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).expect("is there")
}

#[test]
fn a_running_daemon_is_ready_with_everything_that_kubectl_reads() {
    let mut view = view();
    let memory = ContainerMemory { started_attempt: Some(0), started_at: Some(at(101)), ..Default::default() };
    view.record.containers.insert("c".into(), memory.into());
    view.containers.push(run(0, ContainerState::Running { pid: 7 }));
    let pod = shown(view, vec![]);
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(condition(&pod, "Ready")["status"], "True");
    assert_eq!(condition(&pod, "Ready")["lastTransitionTime"], "1970-01-01T00:01:41Z");
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["state"]["running"]["startedAt"], "1970-01-01T00:01:41Z");
    assert_eq!(
        (&status["ready"], &status["restartCount"], &status["imageID"]),
        (&json!(true), &json!(0), &json!("img@sha256:0"))
    );
    assert!(status["containerID"].as_str().unwrap().starts_with("containerd://"));
    assert_eq!(pod["status"]["podIP"], "10.0.0.5");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert_eq!(pod["spec"]["nodeName"], "n1");
    let metadata = &pod["metadata"];
    assert_eq!(metadata["labels"], json!({"name": "ds", "controller-revision-hash": "rev1"}));
    assert_eq!(metadata["ownerReferences"][0]["kind"], "DaemonSet");
    assert_eq!(metadata["ownerReferences"][0]["uid"].as_str().unwrap().len(), 36);
    assert_eq!(metadata["annotations"]["kubernetes.io/config.source"], "file");
    assert_eq!(metadata["creationTimestamp"], "1970-01-01T00:01:40Z");
}

#[test]
fn a_container_in_back_off_waits_and_remembers_its_end() {
    let mut view = view();
    let memory = ContainerMemory { started_attempt: Some(2), last: Some(ended(2, 3)), ..Default::default() };
    view.record.containers.insert("c".into(), memory.into());
    let wait = waits(&view.record.uid);
    let pod = shown(view, vec![wait]);
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["state"]["waiting"], json!({"reason": "CrashLoopBackOff", "message": "back-off 40s"}));
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["restartCount"], 2);
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(condition(&pod, "Ready")["reason"], "ContainersNotReady");
    assert_eq!(condition(&pod, "Ready")["message"], "containers with unready status: [c]");
}

#[test]
fn what_keeps_a_pod_from_its_network_is_said_in_the_condition() {
    let mut view = view();
    view.sandbox = SandboxState::Absent;
    let of_container = waits(&view.record.uid);
    let message = "the bridge plugin is in none of /opt/cni/bin";
    let of_pod = Waiting {
        container: None,
        reason: "CreatePodSandboxError".into(),
        message: message.into(),
        ..of_container.clone()
    };
    let shown = shown(view, vec![of_container, of_pod]);
    let condition = condition(&shown, "PodReadyToStartContainers");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("CreatePodSandboxError")));
    assert_eq!(condition["message"], message);
}

/// One restart done, its end remembered, and the next run already created: what Kubernetes shows between the second
/// end and the third start.
fn crashed_twice() -> (PodView, Vec<Waiting>) {
    let mut view = view();
    let memory = ContainerMemory {
        started_attempt: Some(1),
        before: Some(ended(0, 2)),
        last: Some(ended(1, 3)),
        failures: 2,
        not_before: Some(Moment(60_000)),
        ..Default::default()
    };
    view.record.containers.insert("c".into(), memory.into());
    view.containers.push(run(1, ContainerState::Exited { exit_code: 3, oom: false, finished_at: at(120) }));
    view.containers.push(run(2, ContainerState::Created));
    let wait = waits(&view.record.uid);
    (view, vec![wait])
}

#[test]
fn restarts_are_those_that_were_started_not_those_that_stand_created() {
    let (view, waiting) = crashed_twice();
    let pod = shown(view, waiting);
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["restartCount"], 1);
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!((&status["ready"], &status["started"]), (&json!(false), &json!(false)));
}

#[test]
fn a_back_off_is_shown_from_the_record_when_nothing_can_be_planned() {
    let (view, _) = crashed_twice();
    let runtime_away = Waiting { uid: None, container: None, ..waits(&view.record.uid) };
    let pod = shown(view, vec![runtime_away]);
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert_eq!(message, "back-off 10s restarting failed container=c pod=ds-abcde");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
}

#[test]
fn between_an_end_and_the_next_start_the_end_is_the_state_and_the_one_before_the_last_state() {
    // Not written down yet, and written down with no wait: the same is shown.
    let (mut unwritten, _) = crashed_twice();
    let memory = unwritten.record.containers.get_mut("c").unwrap();
    (memory.last, memory.before, memory.not_before) = (Some(ended(0, 2)), None, None);
    let (mut written, _) = crashed_twice();
    written.record.containers.get_mut("c").unwrap().not_before = None;
    for view in [unwritten, written] {
        let pod = shown(view, vec![]);
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!(status["state"]["terminated"]["exitCode"], 3);
        assert_eq!(status["lastState"]["terminated"]["exitCode"], 2);
        assert_eq!(status["restartCount"], 1);
    }
}

#[test]
fn what_is_not_as_asked_is_a_condition_and_absent_otherwise() {
    let (_, mut published) = super::sample::running();
    let kinds = |published: &crate::board::Published| {
        let pod = super::pod(published, &published.pods[0], &NodeFacts::default());
        pod["status"]["conditions"].as_array().unwrap().clone()
    };
    assert_eq!(kinds(&published).len(), 5);
    published.pods[0].containers[0].adapted = "capabilities BPF not given: containerd does not have them itself".into();
    published.pods[0].containers[0].not_refreshed = "imagePullPolicy is Always, but".into();
    let all = kinds(&published);
    let ours: Vec<_> = all[5..].iter().map(|c| (c["type"].as_str(), c["status"].as_str())).collect();
    assert_eq!(ours, [(Some("ImageNotRefreshed"), Some("True")), (Some("Adapted"), Some("True"))]);
    let message = all[6]["message"].as_str().unwrap();
    assert!(message.starts_with("c: capabilities BPF not given"), "{message}");
    // It is ready all the same.
    assert_eq!(all[2]["status"], "True");
}

#[test]
fn a_record_that_the_disk_does_not_take_is_a_condition_and_a_reason_of_a_daemon_that_runs() {
    let (key, mut published) = super::sample::running();
    published.pods[0].owed = Some(pod::plan::Owed { since: at(150), message: "no space left".into() });
    let pod = super::pod(&published, &published.pods[0], &NodeFacts::default());
    let owed = condition(&pod, "RecordOwed");
    assert_eq!((&owed["status"], &owed["message"]), (&json!("True"), &json!("no space left")));
    assert_eq!(owed["lastTransitionTime"], "1970-01-01T00:02:30Z");
    assert_eq!(condition(&pod, "Ready")["status"], "True");
    let (board, _commands) = Board::new();
    board.publish(&key, Some(published));
    let answers = super::why::answers(&board);
    let answer = answers.iter().find(|answer| answer.name == key.name).unwrap();
    assert_eq!(answer.state, super::why::State::Running);
    assert!(answer.reasons.iter().any(|r| r.reason == "RecordOwed" && r.message.ends_with("no space left")));
    assert!(crate::metrics::encode(&board).contains("\ndaemonlet_records_owed 1\n"));
}

#[test]
fn a_pod_that_has_not_started_is_pending() {
    let pod = shown(view(), vec![]);
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");

    // Behind an init container, also while it is created ahead of its turn.
    let mut view = view();
    let spec = &mut std::sync::Arc::make_mut(&mut view.template).spec;
    let mut init = spec.containers[0].clone();
    (init.name, init.role) = ("first".into(), Role::Init);
    spec.containers.insert(0, init);
    let creating = |container: &str| Waiting {
        uid: Some(view.record.uid.clone()),
        container: Some(container.into()),
        reason: "ContainerCreating".into(),
        message: "is created".into(),
        until: None,
    };
    let waiting = vec![creating("c"), creating("first")];
    let pod = shown(view, waiting);
    let reason = |list: &str| pod["status"][list][0]["state"]["waiting"]["reason"].clone();
    assert_eq!(
        [reason("containerStatuses"), reason("initContainerStatuses")],
        ["PodInitializing", "ContainerCreating"]
    );
}

#[test]
fn a_finished_pod_is_succeeded_or_failed_by_its_exit_codes() {
    for (code, phase) in [(0, "Succeeded"), (1, "Failed")] {
        let mut view = view();
        std::sync::Arc::make_mut(&mut view.template).spec.restart_policy = RestartPolicy::Never;
        view.record.lifecycle = Lifecycle::Finished;
        let memory = ContainerMemory { started_attempt: Some(0), last: Some(ended(0, code)), ..Default::default() };
        view.record.containers.insert("c".into(), memory.into());
        let pod = shown(view, vec![]);
        assert_eq!(pod["status"]["phase"], phase);
        assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], code);
    }
}

#[test]
fn a_terminating_pod_says_when_it_is_killed() {
    let mut view = view();
    view.record.lifecycle =
        Lifecycle::Terminating { since: at(190), deadline: Moment(70_000), reason: "removed".into() };
    let pod = shown(view, vec![]);
    // Now is 200 s and 50,000 ms; 20 s are left.
    assert_eq!(pod["metadata"]["deletionTimestamp"], "1970-01-01T00:03:40Z");
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 30);
}

#[test]
fn a_pod_that_is_being_ended_never_goes_back_to_pending() {
    let mut view = view();
    view.record.lifecycle = Lifecycle::Terminating { since: at(150), deadline: Moment(60_000), reason: "r".into() };
    let memory = ContainerMemory { started_attempt: Some(0), started_at: Some(at(101)), ..Default::default() };
    view.record.containers.insert("c".into(), memory.into());
    let pod = shown(view.clone(), vec![]);
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(137), &json!("ContainerStatusUnknown")));
    assert_eq!(ended["startedAt"], "1970-01-01T00:01:41Z");
    assert_eq!(pod["status"]["phase"], "Running");
    // What the worker has seen of the end.
    view.record.containers.get_mut("c").unwrap().last = Some(super::sample::ended(0, 3));
    let pod = shown(view, vec![]);
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!((&status["state"]["terminated"]["exitCode"], &status["lastState"]), (&json!(3), &json!({})));
    assert_eq!(pod["status"]["phase"], "Running");
}

#[test]
fn an_end_at_no_time_was_when_it_was_noticed() {
    let mut view = view();
    let memory = ContainerMemory { started_attempt: Some(0), started_at: Some(at(101)), ..Default::default() };
    view.record.containers.insert("c".into(), memory.into());
    let finished_at = "0001-01-01T00:00:00Z".parse().unwrap();
    view.containers.push(run(0, ContainerState::Exited { exit_code: 137, oom: false, finished_at }));
    let pod = shown(view, vec![]);
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["finishedAt"], "1970-01-01T00:03:20Z");
}

#[test]
fn a_condition_tells_since_when_it_is_so() {
    let mut view = view();
    let memory = ContainerMemory { started_attempt: Some(0), started_at: Some(at(160)), ..Default::default() };
    view.record.containers.insert("c".into(), memory.into());
    view.record.course.network_since = Some(at(150));
    let mut run = run(0, ContainerState::Running { pid: 7 });
    run.adapted = "something is not given".into();
    view.containers.push(run);
    let pod = shown(view, vec![]);
    let since = |kind: &str| condition(&pod, kind)["lastTransitionTime"].as_str().unwrap().to_owned();
    assert_eq!(since("PodReadyToStartContainers"), "1970-01-01T00:02:30Z");
    assert_eq!(since("Adapted"), "1970-01-01T00:02:40Z");
    assert_eq!(since("PodScheduled"), "1970-01-01T00:01:40Z");
}

#[test]
fn what_kubernetes_fills_in_is_shown_and_what_the_document_says_stays() {
    let pod = shown(view(), vec![]);
    let spec = &pod["spec"];
    assert_eq!((&spec["restartPolicy"], &spec["dnsPolicy"]), (&json!("Always"), &json!("ClusterFirst")));
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    let mut own = view();
    own.record.document =
        json!({"spec": {"template": {"spec": {"dnsPolicy": "Default", "containers": [{"name": "c"}]}}}}).into();
    assert_eq!(shown(own, vec![])["spec"]["dnsPolicy"], "Default");
}

#[test]
fn quality_of_service_is_the_one_that_its_cgroup_has() {
    let mut view = view();
    let resources = &mut std::sync::Arc::make_mut(&mut view.template).spec.containers[0].resources;
    resources.memory_request = Some(1);
    assert_eq!(shown(view.clone(), vec![])["status"]["qosClass"], "Burstable");
    let resources = &mut std::sync::Arc::make_mut(&mut view.template).spec.containers[0].resources;
    (resources.memory_limit, resources.cpu_limit_milli, resources.cpu_request_milli) = (Some(1), Some(5), Some(5));
    assert_eq!(shown(view, vec![])["status"]["qosClass"], "Guaranteed");
}

#[test]
fn a_start_that_is_not_on_record_yet_is_shown_as_what_runs() {
    let mut view = view();
    view.containers.push(run(0, ContainerState::Running { pid: 7 }));
    let pod = shown(view, vec![]);
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["containerStatuses"][0]["ready"], true);
}

#[test]
fn a_created_successor_standing_by_changes_nothing_that_is_shown() {
    let (_, published) = super::sample::running();
    let before = super::pod(&published, &published.pods[0], &NodeFacts::default());
    let mut standing = published.pods[0].clone();
    standing.containers.push(run(1, ContainerState::Created));
    assert_eq!(super::pod(&published, &standing, &NodeFacts::default()), before);
}

#[test]
fn a_node_says_whether_its_disk_is_full() {
    let (board, _commands) = Board::new();
    let machine = node::Machine::read();
    let says = || {
        let node = node::node(&board, &machine);
        let all = node["status"]["conditions"].as_array().unwrap().clone();
        all.into_iter().find(|condition| condition["type"] == "DiskPressure").expect("it is said")
    };
    assert_eq!(says()["status"], "False");
    board.set_node(|node| node.disk_pressure = Some("nothing more can go".into()));
    assert_eq!((&says()["status"], &says()["message"]), (&json!("True"), &json!("nothing more can go")));
}

#[test]
fn a_node_shows_what_kubernetes_clients_read_of_one() {
    let (board, _commands) = Board::new();
    let machine = node::Machine {
        processors: 2,
        memory_bytes: 8 << 30,
        huge_pages: vec![("hugepages-2Mi".into(), 64 << 20)],
        ..Default::default()
    };
    machine.storage_bytes.set(10 << 30).unwrap();
    board.set_node(|node| node.runtime_version = Some("containerd 1.6.20~ds1".into()));
    let shown = node::node(&board, &machine);
    let status = &shown["status"];
    assert_eq!(status["nodeInfo"]["containerRuntimeVersion"], "containerd://1.6.20~ds1");
    let (capacity, allocatable) = (&status["capacity"], &status["allocatable"]);
    assert_eq!((&capacity["ephemeral-storage"], &capacity["hugepages-2Mi"]), (&json!("10485760Ki"), &json!("64Mi")));
    assert_eq!((&capacity["memory"], &allocatable["memory"]), (&json!("8388608Ki"), &json!("8323072Ki")));
    let since = |shown: &Value, kind: &str| {
        let all = shown["status"]["conditions"].as_array().unwrap();
        assert!(all.iter().all(|it| it["lastHeartbeatTime"].is_string() && it["lastTransitionTime"].is_string()));
        let found = all.iter().find(|it| it["type"] == kind).expect("it is said");
        found["lastTransitionTime"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let before = since(&shown, "Ready");
    for check in crate::board::Check::ALL {
        board.set_check(check, Ok(()));
    }
    let ready = board.condition_since("Ready", true);
    assert!(ready > before, "it has become ready");
    board.set_node(|node| node.max_pods = 7);
    assert_eq!(board.condition_since("Ready", true), ready, "nothing has changed about it");
}

#[test]
fn resources_and_mounts_are_shown_as_the_container_has_them() {
    let mut view = view();
    let template = std::sync::Arc::make_mut(&mut view.template);
    let container = &mut template.spec.containers[0];
    container.resources.limits.insert("memory".into(), "64Mi".into());
    container.resources.requests = [("cpu".into(), "100m".into()), ("memory".into(), "64Mi".into())].into();
    let plain = VolumeMount { volume: "v".into(), mount_path: "/v".into(), ..VolumeMount::default() };
    let read_only = VolumeMount { read_only: true, recursive_read_only: RecursiveReadOnly::Enabled, ..plain.clone() };
    container.mounts = vec![plain, read_only];
    template.spec.priority = 7;
    let pod = shown(view, vec![]);
    let status = &pod["status"]["containerStatuses"][0];
    let requests = json!({"cpu": "100m", "memory": "64Mi"});
    assert_eq!(status["resources"], json!({"limits": {"memory": "64Mi"}, "requests": requests}));
    assert_eq!(status["allocatedResources"], requests);
    assert_eq!(status["volumeMounts"][0], json!({"name": "v", "mountPath": "/v"}));
    assert_eq!(
        status["volumeMounts"][1],
        json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Enabled"})
    );
    assert_eq!(pod["spec"]["priority"], 7);
}

#[test]
fn pod_that_failed_as_a_whole_says_so_when_nothing_of_it_runs() {
    let mut view = view();
    let memory = ContainerMemory { started_attempt: Some(0), started_at: Some(at(101)), ..Default::default() };
    view.record.containers.insert("c".into(), memory.into());
    view.containers.push(run(0, ContainerState::Running { pid: 7 }));
    let failure = PodFailure { reason: "DeadlineExceeded".into(), message: "too long".into() };
    view.record.course.failed = Some(failure.into());
    let running = shown(view.clone(), vec![]);
    assert_eq!((&running["status"]["phase"], &running["status"]["reason"]), (&json!("Running"), &Value::Null));
    view.containers.clear();
    let memory = ContainerMemory { started_attempt: Some(0), last: Some(ended(0, 143)), ..Default::default() };
    view.record.containers.insert("c".into(), memory.into());
    let failed = shown(view, vec![]);
    assert_eq!(failed["status"]["phase"], "Failed");
    assert_eq!(
        (&failed["status"]["reason"], &failed["status"]["message"]),
        (&json!("DeadlineExceeded"), &json!("too long"))
    );
    assert_eq!(failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
    assert_eq!(condition(&failed, "Ready")["reason"], "PodFailed");
}

#[test]
fn resize_that_does_not_get_there_shows_what_the_container_has_and_why() {
    let mut view = view();
    std::sync::Arc::make_mut(&mut view.template).spec.containers[0].resources.requests =
        [("cpu".into(), "2".into())].into();
    let had = Amounts { requests: [("cpu".into(), "1".into())].into(), ..Amounts::default() };
    let from = [("c".to_owned(), had)].into();
    let resize = Resize { since: at(150), from, restarts: Default::default(), applied: false };
    (view.record.course.resize, view.record.course.resizes) = (Some(resize.into()), 1);
    let mut published = published(view.clone(), vec![]);
    let failure = Failure { count: 1, not_before: Moment(0), reason: "ResizeError".into(), message: "in use".into() };
    published.failures.insert(StepKey::Resize(view.record.uid.clone()), failure);
    let shown = pod(&published, &view, &NodeFacts::default());
    let status = &shown["status"]["containerStatuses"][0];
    assert_eq!(status["resources"], json!({"requests": {"cpu": "1"}}));
    assert_eq!(status["allocatedResources"], json!({"cpu": "2"}));
    let resizing = condition(&shown, "PodResizeInProgress");
    assert_eq!((&resizing["status"], &resizing["reason"]), (&json!("True"), &json!("Error")));
    assert_eq!(
        (&resizing["message"], &resizing["lastTransitionTime"]),
        (&json!("in use"), &json!("1970-01-01T00:02:30Z"))
    );
    assert_eq!((&shown["metadata"]["generation"], &shown["status"]["observedGeneration"]), (&json!(2), &json!(2)));
    view.record.course.resize.as_mut().unwrap().applied = true;
    let shown = pod(&published, &view, &NodeFacts::default());
    assert_eq!(shown["status"]["containerStatuses"][0]["resources"], json!({"requests": {"cpu": "2"}}));
    assert!(condition(&shown, "PodResizeInProgress")["reason"].is_null());
}

/// The paths of all fields, a list's items as `[]`. What has free keys is one field.
fn paths(value: &Value, path: &str, found: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(fields)
            if !path.ends_with(".limits") && !path.ends_with("requests") && !path.ends_with("allocatedResources") =>
        {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                paths(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| paths(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn what_is_shown_of_a_pod_is_what_the_table_says() {
    use pod::fields::status::{CONTAINER, POD, Shown, shown as row};
    use pod::observed::RunUser;

    let mut found = std::collections::BTreeSet::new();
    let mut all = |pod: Value| paths(&pod["status"], "", &mut found);
    // It has all that a document may ask for, has crashed, and runs.
    let mut full = view();
    let spec = &mut std::sync::Arc::make_mut(&mut full.template).spec;
    let amounts: std::collections::BTreeMap<String, String> = [("cpu".to_owned(), "1".to_owned())].into();
    let resources = pod::spec::Resources { limits: amounts.clone(), requests: amounts, ..Default::default() };
    spec.resources = Some(resources.clone().into());
    let main = &mut spec.containers[0];
    main.resources = resources;
    main.hooks.stop_signal = Some("SIGUSR1".into());
    let mount = VolumeMount { volume: "v".into(), mount_path: "/v".into(), read_only: true, ..VolumeMount::default() };
    main.mounts = vec![mount];
    let mut init = main.clone();
    (init.name, init.role) = ("first".into(), Role::Init);
    spec.containers.insert(0, init);
    let last = pod::record::Termination { message: "no more".into(), ..ended(0, 3) };
    let memory =
        ContainerMemory { started_attempt: Some(1), started_at: Some(at(101)), last: Some(last), ..Default::default() };
    full.record.containers.insert("c".into(), memory.into());
    let mut running = run(1, ContainerState::Running { pid: 7 });
    running.user = Some(RunUser { uid: 1, gid: 2, groups: vec![2] }.into());
    full.containers.push(running);
    all(shown(full, vec![]));
    // One that waits, and one that has failed.
    let (waits_again, waiting) = crashed_twice();
    all(shown(waits_again, waiting));
    let (mut failed, _) = crashed_twice();
    failed.record.course.failed =
        Some(PodFailure { reason: "DeadlineExceeded".into(), message: "too long".into() }.into());
    failed.containers.clear();
    all(shown(failed, vec![]));

    let unknown: Vec<&String> = found.iter().filter(|path| !matches!(row(path), Some(Shown::Yes(_)))).collect();
    assert!(unknown.is_empty(), "shown, and not in pod/src/fields/status.rs: {unknown:#?}");
    // A container's last state has the fields of its state.
    let found: std::collections::BTreeSet<String> =
        found.into_iter().map(|path| path.replacen(".lastState.", ".state.", 1)).collect();
    let of_container = CONTAINER.iter().map(|(path, shown)| (format!("containerStatuses[].{path}"), shown));
    let rows = POD.iter().map(|(path, shown)| ((*path).to_owned(), shown)).chain(of_container);
    let missing: Vec<String> = rows
        .filter(|(path, shown)| matches!(shown, Shown::Yes(_)) && !found.contains(path))
        .map(|(path, _)| path)
        .collect();
    assert!(missing.is_empty(), "said to be shown, and never is: {missing:#?}");
}
