use serde_json::json;

use super::served::Served;
use super::*;
use crate::board::{Command, FileOutcome, FileState};
use crate::status::sample;
use pod::name::{WorkloadKey, WorkloadKind};

/// A board with two pods: `ds-abcde` in kube-system, which runs, and `web-n1` in default, which waits.
fn served() -> Served {
    let served = Served::start();
    served.board.set_node(|node| node.name = "n1".into());
    for (key, published) in [sample::running(), sample::backing_off()] {
        served.board.publish(&key, Some(published));
    }
    served
}

/// Exit code, stdout, and what was said on stderr.
fn say(served: &Served, words: &[&str]) -> (u8, String, String) {
    let cli = Cli::try_parse_from(std::iter::once("daemonlet").chain(words.iter().copied()));
    let cli = match cli {
        Ok(cli) => cli,
        Err(why) => return (u8::try_from(why.exit_code()).unwrap(), String::new(), why.to_string()),
    };
    let mut out = Vec::new();
    let outcome = speak(&Client::new(served.socket()), cli.word, &mut out);
    let (code, said) = outcome.map_or_else(|failure| (failure.code(), failure.to_string()), |()| (0, String::new()));
    (code, String::from_utf8(out).unwrap(), said)
}

#[test]
fn get_pods_prints_a_table_of_all_namespaces() {
    let served = served();
    let (code, out, _) = say(&served, &["get", "pods"]);
    assert_eq!(code, 0);
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(lines[1][..4], ["default", "web-n1", "0/1", "CrashLoopBackOff"]);
    assert_eq!(lines[2][..5], ["kube-system", "ds-abcde", "1/1", "Running", "0"]);
    let (_, out, _) = say(&served, &["get", "pods", "-n", "default", "-o", "wide"]);
    assert_eq!(out.lines().count(), 2);
    assert!(out.lines().next().unwrap().ends_with("NODE"));
}

#[test]
fn get_pods_as_json_is_a_v1_pod_list_and_one_by_name_is_a_pod_at_every_moment() {
    let served = served();
    let list: serde_json::Value = serde_json::from_str(&say(&served, &["get", "pods", "-o", "json"]).1).unwrap();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PodList"), &json!("v1")));
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let json = |words: &[&str]| -> serde_json::Value { serde_json::from_str(&say(&served, words).1).unwrap() };
    let of_daemonset = || json(&["get", "pods", "ds/ds", "-o", "json"]);
    let of_name = || json(&["get", "pods", "ds-abcde", "-o", "json"]);
    assert_eq!((&of_daemonset()["kind"], &of_name()["kind"]), (&json!("PodList"), &json!("Pod")));
    // While an update has two of one name the shapes are the same, and the one is the one that stays.
    let (key, mut published) = sample::running();
    let mut old = published.pods[0].clone();
    old.record.uid = pod::name::Uid("u9".into());
    old.record.lifecycle = pod::record::Lifecycle::Terminating {
        since: sample::at(150),
        deadline: pod::time::Moment(60_000),
        reason: "r".into(),
    };
    published.pods.insert(0, old);
    served.board.publish(&key, Some(published));
    assert_eq!(of_daemonset()["items"].as_array().unwrap().len(), 2);
    assert_eq!((&of_name()["kind"], &of_name()["metadata"]["uid"]), (&json!("Pod"), &json!("u1")));
    let (_, yaml, _) = say(&served, &["get", "pods", "ds-abcde", "-o", "yaml"]);
    assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n"), "{yaml}");
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    let served = served();
    assert_eq!(say(&served, &["get", "pods", "nobody-of-that-name", "-w"]).0, 4, "it would be watched for ever");
    assert_eq!(say(&served, &["get", "pods"]).0, 0);
    assert_eq!(say(&served, &["get"]).0, 2);
    assert_eq!(say(&served, &["exec", "web-n1"]).0, 2, "a word that is not built does not exist");
    assert_eq!(say(&served, &["agent", "--nonsense"]).0, 2);
    assert_eq!(say(&served, &["agent", "--pod-cidr", "10.0.0.1/8"]).0, 2);
    assert_eq!(say(&served, &["--version"]).0, 0);
    let (code, _, said) = say(&served, &["get", "pods", "wbe-n1"]);
    assert_eq!(code, 4);
    assert!(said.contains("web-n1"), "{said}");
    for words in [&["images"][..], &["images", "export", "a:1"], &["images", "pin"], &["images", "rm", "a:1"]] {
        assert_eq!(say(&served, words).0, 2, "{words:?}");
    }
    // Nobody carries out words about images behind this board.
    let (code, _, said) = say(&served, &["images", "prune"]);
    assert!(code == 1 && said.contains("just starting"), "{code} {said}");
    let unreachable = Client::new("/nonexistent/daemonlet.sock".into());
    let word = Cli::parse_from(["daemonlet", "get", "pods"]).word;
    assert_eq!(speak(&unreachable, word, &mut Vec::new()).unwrap_err().code(), 3);
}

#[test]
fn the_run_directory_may_stand_before_or_after_any_word() {
    for words in
        [["--run-dir", "/r", "get", "pods"], ["get", "--run-dir", "/r", "pods"], ["get", "pods", "--run-dir", "/r"]]
    {
        let cli = Cli::try_parse_from(std::iter::once("daemonlet").chain(words)).unwrap();
        assert_eq!(socket(cli.run_dir.as_ref()), PathBuf::from("/r/daemonlet.sock"));
    }
}

#[test]
fn a_watch_goes_on_with_each_change_and_a_closed_pipe_ends_it_quietly() {
    /// Takes the first lines, then is closed like the pipe of `| head`.
    struct Head {
        text: String,
        board: crate::board::Board,
    }
    impl io::Write for Head {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.text.lines().count() == 3 && self.text.ends_with('\n') {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let before = self.text.matches('\n').count();
            self.text.push_str(&String::from_utf8_lossy(bytes));
            let after = self.text.matches('\n').count();
            if before < 2 && after == 2 {
                // All that there was has come: now something changes, and then once more.
                self.board.publish(&sample::running().0, None);
            } else if before < 3 && after == 3 {
                self.board.publish(&sample::backing_off().0, None);
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let served = served();
    let word = Cli::parse_from(["daemonlet", "get", "pods", "-w", "-o", "json"]).word;
    let mut head = Head { text: String::new(), board: served.board.clone() };
    let failure = speak(&Client::new(served.socket()), word, &mut head).unwrap_err();
    assert_eq!(failure.code(), 0);
    assert_eq!(head.text.lines().count(), 3);
    for line in head.text.lines() {
        let pod: serde_json::Value = serde_json::from_str(line).expect("one object a line");
        assert_eq!(pod["kind"], "Pod");
    }
}

#[test]
fn delete_of_the_control_endpoints_pod_is_refused_with_the_line_that_does_it() {
    let served = served();
    let (key, mut published) = sample::running();
    served.board.publish(&key, None);
    let key = WorkloadKey { kind: WorkloadKind::Control, namespace: "shop".into(), name: "web".into() };
    published.pods[0].record.workload = key.clone();
    published.pods[0].record.name = "web".into();
    served.board.publish(&key, Some(published));
    let (code, out, said) = say(&served, &["delete", "pod", "web"]);
    assert_eq!((code, out.as_str()), (1, ""), "{said}");
    assert!(said.contains("kubectl delete pod -n shop web"), "{said}");
}

#[test]
fn delete_reaches_the_workers_with_the_pods_uid() {
    let mut served = served();
    let mut commands = std::mem::replace(&mut served.commands, tokio::sync::mpsc::channel(1).1);
    let worker = std::thread::spawn(move || {
        let Some(Command::DeletePod { workload, uid, reply }) = commands.blocking_recv() else { panic!("no command") };
        reply.send(Ok(String::new())).unwrap();
        (workload.to_string(), uid.0)
    });
    let (code, out, said) = say(&served, &["delete", "pod", "ds/ds"]);
    assert_eq!((code, out.as_str()), (0, "pod \"ds-abcde\" deleted\n"), "{said}");
    assert_eq!(worker.join().unwrap(), ("ds/kube-system/ds".to_owned(), "u1".to_owned()));
    // The receiver is gone: the agent is stopping.
    assert_eq!(say(&served, &["delete", "pod", "ds-abcde"]).0, 1);
}

#[test]
fn delete_goes_on_behind_a_pod_that_it_may_not_delete() {
    let mut served = served();
    let (_, mut published) = sample::running();
    let key = WorkloadKey { kind: WorkloadKind::Control, namespace: "kube-system".into(), name: "ds-aaaaa".into() };
    let record = &mut published.pods[0].record;
    (record.workload, record.name, record.uid) = (key.clone(), "ds-aaaaa".into(), pod::name::Uid("u9".into()));
    let owners = json!([{"kind": "DaemonSet", "name": "ds"}]);
    record.document = json!({"metadata": {"ownerReferences": owners}, "spec": {"containers": [{"name": "c"}]}}).into();
    served.board.publish(&key, Some(published));
    let mut commands = std::mem::replace(&mut served.commands, tokio::sync::mpsc::channel(1).1);
    let worker = std::thread::spawn(move || {
        let Some(Command::DeletePod { reply, .. }) = commands.blocking_recv() else { panic!("no command") };
        reply.send(Ok(String::new())).unwrap();
    });
    let (code, out, said) = say(&served, &["delete", "pod", "ds/ds"]);
    assert_eq!((code, out.as_str()), (1, "pod \"ds-abcde\" deleted\n"), "{said}");
    assert!(said.contains("ds-aaaaa"), "{said}");
    worker.join().unwrap();
}

#[test]
fn why_tells_what_has_ended_from_what_runs_and_what_only_its_runtime_has_left() {
    let served = served();
    let ended = |name: &str, code: u32| {
        let (_, mut published) = sample::running();
        let key = WorkloadKey { kind: WorkloadKind::Pod, namespace: "default".into(), name: name.into() };
        let pod = &mut published.pods[0];
        std::sync::Arc::make_mut(&mut pod.template).spec.restart_policy = pod::spec::RestartPolicy::Never;
        pod.record.workload = key.clone();
        pod.record.name = format!("{name}-n1");
        pod.record.lifecycle = pod::record::Lifecycle::Finished;
        pod.record.containers.entry("c".into()).or_default().last = Some(sample::ended(0, code));
        pod.containers.clear();
        served.board.publish(&key, Some(published));
    };
    ended("good", 0);
    ended("bad", 4);
    assert_eq!(say(&served, &["why", "good"]).1, "pod default/good: done (good-n1)\n");
    let told = "pod default/bad: failed (bad-n1)\n  c: Error: it ended with exit code 4\n";
    assert_eq!(say(&served, &["why", "pod/bad"]).1, told);
    assert_eq!(say(&served, &["why", "pod/bad-n1"]).1, told);
    let (key, mut published) = sample::running();
    let message = "no answer on /x.sock".to_owned();
    let reason = "RuntimeUnavailable".to_owned();
    published.waiting = vec![pod::plan::Waiting { uid: None, container: None, reason, message, until: None }];
    served.board.publish(&key, Some(published));
    let told = "ds kube-system/ds: running (ds-abcde)\n  RuntimeUnavailable: no answer on /x.sock\n";
    assert_eq!(say(&served, &["why", "ds/ds"]).1, told);
}

#[test]
fn why_names_what_is_waited_for_and_refused_files() {
    let served = served();
    for check in crate::board::Check::ALL {
        served.board.set_check(check, Ok(()));
    }
    served.board.set_files(vec![FileOutcome {
        file: "/m/bad.yaml".into(),
        line: 7,
        kind: "DaemonSet".into(),
        namespace: "default".into(),
        name: "bad".into(),
        state: FileState::Refused,
        message: "spec.template.spec.foo: unknown field".into(),
    }]);
    let (code, out, _) = say(&served, &["why"]);
    assert_eq!(code, 0);
    assert!(out.contains("ds kube-system/ds: running (ds-abcde)\n"), "{out}");
    assert!(out.contains("pod default/web: waiting (web-n1)\n  c: CrashLoopBackOff: back-off 40s"), "{out}");
    assert!(out.contains("ds default/bad: refused\n  /m/bad.yaml:7: Refused: spec.template.spec.foo"), "{out}");
    let json: serde_json::Value = serde_json::from_str(&say(&served, &["why", "web-n1", "-o", "json"]).1).unwrap();
    assert_eq!(json["items"][0]["reasons"][0]["reason"], "CrashLoopBackOff");
    assert_eq!(say(&served, &["why", "nobody"]).0, 4);
}

/// The DaemonSet that runs, kept as it is by this file outcome.
fn held(served: &Served, name: &str, message: &str) {
    for check in crate::board::Check::ALL {
        served.board.set_check(check, Ok(()));
    }
    let (key, mut published) = sample::running();
    let reason = message.lines().next().unwrap().to_owned();
    published.wanted = crate::board::WantedSummary::Hold { reason: reason.clone() };
    let held = pod::plan::Waiting { uid: None, container: None, reason: "Held".into(), message: reason, until: None };
    published.waiting = vec![held];
    served.board.publish(&key, Some(published));
    let (kind, namespace) = if name.is_empty() { ("", "") } else { ("DaemonSet", "kube-system") };
    served.board.set_files(vec![FileOutcome {
        file: "/m/ds.yaml".into(),
        line: 1,
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
        state: FileState::Refused,
        message: message.into(),
    }]);
}

#[test]
fn why_tells_each_fault_of_a_refused_edit_once_and_in_one_answer() {
    let served = served();
    held(&served, "ds", "/m/ds.yaml:9: spec.a: unknown field\n/m/ds.yaml:12: spec.b: is no number");
    let (_, out, _) = say(&served, &["why", "ds"]);
    let told = "ds kube-system/ds: held (ds-abcde)\n  /m/ds.yaml:9: Refused: spec.a: unknown field\n  \
                /m/ds.yaml:12: Refused: spec.b: is no number\n";
    assert_eq!(out, told);
}

#[test]
fn why_tells_of_a_broken_file_with_what_it_keeps() {
    let served = served();
    held(&served, "", "/m/ds.yaml:3: is not YAML");
    let (_, out, _) = say(&served, &["why"]);
    assert!(out.contains("ds kube-system/ds: held (ds-abcde)\n  /m/ds.yaml:3: Refused: is not YAML\n"), "{out}");
    assert_eq!(out.matches("is not YAML").count(), 1, "{out}");
    assert!(say(&served, &["why", "ds.yaml"]).1.contains("is not YAML"), "a file is a name as well");
}

#[test]
fn get_node_says_what_needs_a_restart_and_what_containerd_cannot_give() {
    let served = served();
    assert!(!say(&served, &["get", "node", "-o", "wide"]).1.contains("needs restart"));
    served.board.set_live(Default::default(), vec!["listen".into(), "max-pods".into()], None);
    served.board.set_node(|node| node.missing_capabilities = vec!["SYS_RESOURCE".into()]);
    let (_, out, _) = say(&served, &["get", "node"]);
    assert!(out.contains("(needs restart: listen,max-pods)"), "{out}");
    let (_, out, _) = say(&served, &["get", "node", "-o", "wide"]);
    assert!(out.contains("MISSING-CAPABILITIES") && out.trim_end().ends_with("SYS_RESOURCE"), "{out}");
    let (_, json, _) = say(&served, &["get", "node", "-o", "json"]);
    assert!(json.contains("containerd cannot give: SYS_RESOURCE"), "{json}");
}

#[test]
fn what_is_not_as_asked_is_told_by_why_and_describe() {
    let served = served();
    let (key, mut published) = sample::running();
    published.pods[0].containers[0].adapted = "capabilities BPF not given: containerd does not have them".into();
    served.board.publish(&key, Some(published));
    let (_, out, _) = say(&served, &["why", "ds"]);
    assert!(out.contains("ds: running") && out.contains("c: Adapted: capabilities BPF not given"), "{out}");
    let (_, out, _) = say(&served, &["describe", "pod", "ds-abcde"]);
    assert!(out.contains("Adapted") && out.contains("capabilities BPF not given"), "{out}");
}

#[test]
fn an_images_words_are_no_commands_to_the_terminal() {
    let served = served();
    let (key, mut published) = sample::running();
    published.pods[0].containers[0].adapted = "the image's volume /\u{1b}]0;x\u{7}\u{9b}2J is read-only".into();
    served.board.publish(&key, Some(published));
    for words in [["why", "ds"].as_slice(), &["describe", "pod", "ds-abcde"]] {
        let (_, out, _) = say(&served, words);
        assert!(out.contains("is read-only"), "{out:?}");
        assert!(!out.contains(|c: char| c.is_control() && c != '\n'), "{out:?}");
    }
}

#[test]
fn a_failed_check_is_an_answer_of_why() {
    let served = served();
    served.board.set_check(crate::board::Check::Containerd, Err("no answer on /x.sock".into()));
    let (_, out, _) = say(&served, &["why"]);
    assert!(out.starts_with("node n1: waiting\n"), "{out}");
    assert!(out.contains("  containerd: no answer on /x.sock\n"), "{out}");
}

#[test]
fn describe_shows_the_pod_and_its_events() {
    let served = served();
    served.board.record(crate::events::Event {
        severity: crate::events::Severity::Normal,
        reason: "Started".into(),
        about: crate::events::About {
            kind: "Pod".into(),
            namespace: "kube-system".into(),
            name: "ds-abcde".into(),
            uid: "u1".into(),
            container: Some("c".into()),
        },
        message: "Started container c".into(),
        at: jiff::Timestamp::now(),
    });
    let (code, out, said) = say(&served, &["describe", "pod", "ds-abcde"]);
    assert_eq!(code, 0, "{said}");
    for part in
        ["Name:            ds-abcde\n", "Controlled By:   DaemonSet/ds\n", "Running since", "Started container c"]
    {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    let (_, out, _) = say(&served, &["get", "events"]);
    assert!(out.contains("pod/ds-abcde"), "{out}");
}

#[test]
fn describe_names_what_volumes_and_variables_are_made_of() {
    let served = served();
    let (key, mut published) = sample::running();
    let record = &mut published.pods[0].record;
    let volumes = json!([
        {"name": "h", "hostPath": {"path": "/dev", "type": "Directory"}},
        {"name": "cm", "configMap": {"name": "conf", "optional": true}},
        {"name": "sec", "secret": {"secretName": "key"}},
        {"name": "e", "emptyDir": {}},
        {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        {"name": "dw", "downwardAPI": {"items": []}},
        {"name": "kube-api-access-2lz84", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "kube-root-ca.crt"}}]}},
    ]);
    let env = json!([
        {"name": "A", "value": "plain"},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "key", "key": "password"}}},
        {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]);
    let spec = json!({"volumes": volumes, "containers": [{"name": "c", "image": "img:1", "env": env}]});
    record.document = json!({"spec": {"template": {"spec": spec}}}).into();
    let mut last = sample::ended(0, 3);
    last.message = "run\nbye\n".into();
    record.containers.entry("c".into()).or_default().last = Some(last);
    record.containers.entry("c".into()).or_default().started_attempt = Some(1);
    published.pods[0].containers[0].run.attempt = 1;
    served.board.publish(&key, Some(published));
    let (_, out, _) = say(&served, &["describe", "pod", "ds-abcde"]);
    for line in [
        "  h:               hostPath /dev (Directory)\n",
        "  cm:              configMap conf (optional)\n",
        "  sec:             secret key\n",
        "  e:               emptyDir\n",
        "  mem:             emptyDir Memory 8Mi\n",
        "  dw:              downwardAPI\n",
        "  kube-api-access-2lz84: projected serviceAccountToken, configMap kube-root-ca.crt\n",
        "    Environment:   A=plain\n",
        "    Environment:   B=<key password of Secret key>\n",
        "    Environment:   C=<field status.podIP>\n",
        " run\n                   bye\n    Ready:",
    ] {
        assert!(out.contains(line), "{line:?} is not in\n{out}");
    }
}

#[test]
fn completion_and_version_need_no_agent() {
    let served = Served::start();
    let socket = served.socket();
    let _dir = served.stop();
    let client = Client::new(socket);
    for words in [["daemonlet", "version"].as_slice(), &["daemonlet", "completion", "bash"]] {
        let mut out = Vec::new();
        speak(&client, Cli::parse_from(words).word, &mut out).unwrap();
        assert!(!out.is_empty());
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

/// A board whose node has its logs in this directory, with a file of the running pod's container.
fn with_logs(served: &Served, dir: &std::path::Path) -> std::path::PathBuf {
    let log_dir = dir.to_owned();
    served.board.set_node(|node| node.log_dir = log_dir);
    let pod = dir.join("pods/kube-system_ds-abcde_u1/c");
    std::fs::create_dir_all(&pod).unwrap();
    pod.join("0.log")
}

fn cri(text: &str) -> String {
    format!("2026-01-01T00:00:00.000000000Z stdout F {text}\n")
}

#[test]
fn logs_are_read_from_the_keepers_files() {
    let (served, dir) = (served(), tempfile::tempdir().unwrap());
    let file = with_logs(&served, dir.path());
    assert_eq!(say(&served, &["logs", "ds/ds"]).0, 4, "there is none yet");
    std::fs::write(file.with_extension("log.20260101-000000"), cri("one") + &cri("two")).unwrap();
    std::fs::write(&file, cri("three")).unwrap();
    assert_eq!(say(&served, &["logs", "ds-abcde"]).1, "one\ntwo\nthree\n");
    assert_eq!(say(&served, &["logs", "ds/ds", "--tail", "2"]).1, "two\nthree\n");
    assert_eq!(say(&served, &["logs", "ds-abcde", "-c", "other"]).0, 4);
    assert_eq!(say(&served, &["logs", "ds-abcde", "--previous"]).0, 4);
}

/// One log file's content of a pod beneath this directory.
fn write_log(dir: &std::path::Path, place: &str, text: &str) {
    let path = dir.join("pods").join(place);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, cri(text)).unwrap();
}

#[test]
fn what_is_kept_of_a_deleted_pods_log_is_found_by_its_name_and_as_the_pod_before() {
    let (served, dir) = (served(), tempfile::tempdir().unwrap());
    std::fs::write(with_logs(&served, dir.path()), cri("present")).unwrap();
    write_log(dir.path(), ".deleted/kube-system_ds-fghjk_u0/c/2.log", "before");
    assert_eq!(say(&served, &["logs", "ds-fghjk"]).1, "before\n");
    assert_eq!(say(&served, &["logs", "ds-fghjk", "-f"]).1, "before\n", "nothing follows");
    assert_eq!(say(&served, &["logs", "ds/ds"]).1, "present\n");
    assert_eq!(say(&served, &["logs", "ds/ds", "--previous"]).1, "before\n");
    let prefixed = say(&served, &["logs", "ds/ds", "--all-containers", "--prefix", "--timestamps"]).1;
    assert_eq!(prefixed, "[pod/ds-abcde/c] 2026-01-01T00:00:00.000000000Z present\n");
    assert_eq!(say(&served, &["logs", "ds/ds", "--since-time", "2026-01-01T00:00:01Z"]).1, "");
    assert_eq!(say(&served, &["logs", "ds/ds", "--since-time", "2026-01-01T00:00:00Z"]).1, "present\n");
    assert_eq!(say(&served, &["logs", "ds/ds", "--since", "1h"]).1, "");
}

#[test]
fn following_goes_on_after_a_restart_and_with_the_successor_and_ends_with_the_daemonset() {
    let (served, dir) = (served(), tempfile::tempdir().unwrap());
    std::fs::write(with_logs(&served, dir.path()), cri("first")).unwrap();
    let (board, socket, logs) = (served.board.clone(), served.socket(), dir.path().to_owned());
    let document = FileOutcome {
        file: "ds.yaml".into(),
        line: 1,
        kind: "DaemonSet".into(),
        namespace: "kube-system".into(),
        name: "ds".into(),
        state: FileState::Accepted,
        message: String::new(),
    };
    board.set_files(vec![document]);
    let (key, published) = sample::running();
    let (read, printed) = std::io::pipe().unwrap();
    let following = std::thread::spawn(move || {
        let word = Cli::parse_from(["daemonlet", "logs", "-f", "ds/ds"]).word;
        let mut printed = printed;
        speak(&Client::new(socket), word, &mut printed).unwrap();
    });
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(read)).map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "first");

    // Its container has been restarted twice since.
    write_log(&logs, "kube-system_ds-abcde_u1/c/1.log", "second");
    write_log(&logs, "kube-system_ds-abcde_u1/c/2.log", "third");
    let mut restarted = published.clone();
    restarted.pods[0].containers = vec![sample::run(2, pod::observed::ContainerState::Running { pid: 8 })];
    restarted.pods[0].record.containers.get_mut("c").unwrap().started_attempt = Some(2);
    board.publish(&key, Some(restarted));
    assert_eq!([lines.next().unwrap(), lines.next().unwrap()], ["second", "third"]);

    // Another pod in its place.
    let mut successor = published;
    successor.pods[0].record.uid = pod::name::Uid("u9".into());
    successor.pods[0].record.name = "ds-fghij".into();
    write_log(&logs, "kube-system_ds-fghij_u9/c/0.log", "fourth");
    board.publish(&key, None);
    board.publish(&key, Some(successor));
    assert_eq!(lines.next().unwrap(), "fourth");

    // Nobody asks for it any more.
    board.set_files(Vec::new());
    board.publish(&key, None);
    following.join().unwrap();
    assert_eq!(lines.next(), None);
}

#[test]
fn following_loses_no_line_across_rotations_and_ends_with_the_container() {
    let (served, dir) = (served(), tempfile::tempdir().unwrap());
    let file = with_logs(&served, dir.path());
    std::fs::write(&file, cri("0")).unwrap();
    /// Says when the first line has been printed: from then on it is followed.
    struct Printed {
        text: Vec<u8>,
        first: Option<std::sync::mpsc::Sender<()>>,
    }
    impl io::Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(first) = self.first.take() {
                first.send(()).unwrap();
            }
            self.text.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let board = served.board.clone();
    let (first, followed) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        use std::io::Write as _;
        followed.recv().unwrap();
        let append = || std::fs::OpenOptions::new().create(true).append(true).open(&file).unwrap();
        for n in 1..2000 {
            append().write_all(cri(&n.to_string()).as_bytes()).unwrap();
            if n % 100 == 0 {
                std::fs::rename(&file, file.with_extension(format!("log.20260101-{n:06}"))).unwrap();
                drop(append());
            }
        }
        board.publish(&sample::running().0, None);
    });
    let word = Cli::parse_from(["daemonlet", "logs", "-f", "ds-abcde"]).word;
    let mut printed = Printed { text: Vec::new(), first: Some(first) };
    speak(&Client::new(served.socket()), word, &mut printed).unwrap();
    writer.join().unwrap();
    let out = String::from_utf8(printed.text).unwrap();
    let numbers: Vec<u32> = out.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..2000).collect::<Vec<_>>());
}

#[test]
fn doctor_answers_with_and_without_an_agent() {
    let served = served();
    let (code, out, _) = say(&served, &["doctor"]);
    assert!(code <= 1);
    assert!(out.lines().next().is_some_and(|line| line.contains("that of the agent which answers on")), "{out}");
    for name in ["privileges", "kernel", "cgroups", "containerd", "runc", "log keeper", "agent", "log directory shared"]
    {
        assert!(out.lines().any(|line| line.contains(name)), "{name} is not in\n{out}");
    }
    let (_, json, _) = say(&served, &["doctor", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["lines"].as_array().unwrap().iter().all(|line| line["name"].is_string() && line["found"].is_string()));
    let mut out = Vec::new();
    let failure =
        speak(&Client::new("/nonexistent/x.sock".into()), Cli::parse_from(["daemonlet", "doctor"]).word, &mut out);
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("the built-in defaults: no agent answers on /nonexistent/x.sock"), "{out}");
    assert_eq!(failure.unwrap_err().code(), 1, "an agent that does not answer is a failing line, not exit code 3");
}

#[track_caller]
fn has_followers(board: &crate::board::Board, what: &str, reached: impl Fn(usize) -> bool) {
    ::tests::wait::wait_for(what, || match board.followers() {
        count if reached(count) => Ok(()),
        count => Err(format!("{count} follow the board")),
    });
}

#[test]
fn wait_ends_when_the_last_daemon_is_ready_and_says_what_is_missing_when_the_time_is_over() {
    let served = served();
    let quiet = served.board.followers();
    let (code, _, said) = say(&served, &["wait", "--for", "ready", "--timeout", "0"]);
    assert_eq!(code, 1);
    assert!(said.contains("source-static: ") && said.contains("default/web: CrashLoopBackOff"), "{said}");
    served.board.set_check(crate::board::Check::SourceStatic, Ok(()));
    let (code, _, said) = say(&served, &["wait", "--for", "ready", "--timeout", "1s"]);
    assert_eq!((code, said.lines().count()), (1, 2), "{said}");
    let board = served.board.clone();
    // Those of the words before go when the server sees that nobody reads.
    has_followers(&board, "none yet", |count| count == quiet);
    let heals = std::thread::spawn(move || {
        has_followers(&board, "the word waits", |count| count > quiet);
        board.publish(&sample::backing_off().0, None);
    });
    assert_eq!(say(&served, &["wait", "--for", "ready"]), (0, "ready: 1 daemon\n".into(), String::new()));
    heals.join().unwrap();
    for wrong in [&["wait"][..], &["wait", "--for", "pods"], &["wait", "--for", "ready", "--timeout", "soon"]] {
        assert_eq!(say(&served, wrong).0, 2, "{wrong:?}");
    }
    let unreachable = Client::new("/nonexistent/daemonlet.sock".into());
    let word = Cli::parse_from(["daemonlet", "wait", "--for", "ready", "--timeout", "1s"]).word;
    assert_eq!(speak(&unreachable, word, &mut Vec::new()).unwrap_err().code(), 3);
}

#[test]
fn drain_ends_when_nothing_is_left_and_says_what_has_not_stopped_in_time() {
    let mut served = served();
    let quiet = served.board.followers();
    served.board.set_check(crate::board::Check::SourceStatic, Ok(()));
    let (mut commands, board) =
        (std::mem::replace(&mut served.commands, tokio::sync::mpsc::channel(1).1), served.board.clone());
    let agent = std::thread::spawn(move || {
        let mut asked = Vec::new();
        while let Some(Command::Drain { on, reply }) = commands.blocking_recv() {
            match on {
                true => board.set_check(crate::board::Check::Drain, Err("the node is drained".into())),
                false => board.clear_check(crate::board::Check::Drain),
            }
            asked.push(on);
            let note = if asked.len() == 1 { "the disk is full" } else { "" };
            if asked.len() == 2 {
                has_followers(&board, "none yet", |count| count == quiet);
            }
            reply.send(note.to_owned()).unwrap();
            if asked.len() == 2 {
                has_followers(&board, "the word follows", |count| count > quiet);
                for (key, _) in [sample::running(), sample::backing_off()] {
                    board.publish(&key, None);
                }
            }
            if !on {
                return asked;
            }
        }
        asked
    });
    let (code, out, said) = say(&served, &["drain", "--timeout", "1s"]);
    assert_eq!((code, out.as_str()), (1, "  the disk is full\n"));
    assert!(said.contains("the drain goes on:") && said.contains("kube-system/ds"), "{said}");
    let (code, _, said) = say(&served, &["wait", "--for", "ready", "--timeout", "0"]);
    assert!(code == 1 && said.contains("drain: the node is drained"), "{said}");
    let (code, out, _) = say(&served, &["drain"]);
    assert_eq!(code, 0);
    assert!(out.ends_with("the node is drained\n"), "{out}");
    assert_eq!(say(&served, &["undrain"]).0, 0);
    assert_eq!(agent.join().unwrap(), [true, true, false]);
}
