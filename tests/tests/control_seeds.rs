//! The sessions of two well-known texts about DaemonSets, played with a real kubectl against a real endpoint, two real agents and
//! containerd: what kubectl prints is what the texts print, with the counts times the number of nodes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tests::client::{self, Output};
use tests::fleet::{Kubectl, TestControl};
use tests::wait::wait_for;

const NODES: [&str; 2] = ["node-a", "node-b"];

/// kubectl 1.20 and the current one put other spaces between the columns; the words are the same.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn example(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(file).display().to_string()
}

struct Session {
    control: TestControl,
    kubectl: Kubectl,
}

impl Session {
    fn command(&self, line: &str) -> Command {
        self.control.kubectl_command(self.kubectl, &words(line))
    }

    #[track_caller]
    fn run(&self, line: &str) -> Output {
        client::run(&mut self.command(line)).ok()
    }

    /// `kubectl edit` with an editor that does this.
    #[track_caller]
    fn edit(&self, line: &str, expression: &str) -> Output {
        let editor = self.control.file("editor", &format!("#!/bin/sh\nexec sed -i -e '{expression}' \"$1\"\n"));
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o700)).expect("a file of our own");
        client::run(self.command(line).env("KUBE_EDITOR", editor)).ok()
    }

    /// Waits until the DaemonSet's row has these words behind its name, the age aside.
    #[track_caller]
    fn wait_row(&self, daemonset: &str, namespace: &str, row: &[&str]) {
        let line = format!("get daemonset -n {namespace}");
        wait_for(&format!("{daemonset} is shown as {row:?}"), || {
            let output = self.run(&line);
            let mut lines = output.out.lines().map(words);
            let header = "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE";
            assert_eq!(lines.next().unwrap_or_default(), words(header));
            match lines.find(|words| words[0] == daemonset) {
                Some(words) if words.len() == row.len() + 2 && words[1..=row.len()] == *row => Ok(()),
                _ => Err(format!("{}\n{}", output.out, self.control.tail())),
            }
        });
    }

    /// The rows of the namespace's pods: name, READY, STATUS, RESTARTS.
    #[track_caller]
    fn pods(&self, namespace: &str) -> Vec<[String; 4]> {
        let output = self.run(&format!("get pods -n {namespace}"));
        let mut lines = output.out.lines().map(words);
        assert_eq!(lines.next().unwrap_or_default(), words("NAME READY STATUS RESTARTS AGE"));
        lines.map(|line| [0, 1, 2, 3].map(|column| line[column].to_owned())).collect()
    }

    #[track_caller]
    fn wait_pods(&self, namespace: &str, what: &str, fit: impl Fn(&[[String; 4]]) -> bool) -> Vec<[String; 4]> {
        wait_for(what, || {
            let pods = self.pods(namespace);
            if fit(&pods) { Ok(pods) } else { Err(format!("{pods:?}\n{}", self.control.tail())) }
        })
    }
}

fn all_run(pods: &[[String; 4]]) -> bool {
    pods.len() == NODES.len() && pods.iter().all(|[_, ready, status, _]| ready == "1/1" && status == "Running")
}

#[test]
fn a_daemon_is_applied_edited_and_updated_by_hand() {
    for kubectl in Kubectl::all() {
        let session = Session { control: TestControl::start(), kubectl };
        let nodes = NODES.map(|name| session.control.node(name));
        NODES.iter().for_each(|name| drop(session.control.wait_node_ready(name)));

        let said = session.run(&format!("apply -f {}", example("fluentd-elasticsearch.yaml")));
        assert_eq!(said.out, "daemonset.apps/fluentd-elasticsearch created\n");
        session.wait_row("fluentd-elasticsearch", "kube-system", &["2", "2", "2", "2", "2", "<none>"]);

        // Under RollingUpdate an edit replaces the pods at once.
        let first = session.wait_pods("kube-system", "both run", all_run);
        let said =
            session.edit("edit daemonset fluentd-elasticsearch -n kube-system", "s/value: value$/value: value01/");
        assert_eq!(said.out, "daemonset.apps/fluentd-elasticsearch edited\n");
        let described = session.run("describe daemonset -n kube-system").out;
        for shown in ["testenv: value01", "Mounts: <none>", "Volumes: <none>"] {
            let found = described.lines().any(|line| words(line) == words(shown));
            assert!(found, "{shown} is not in\n{described}");
        }
        let second = session.wait_pods("kube-system", "both are new", |pods| {
            all_run(pods) && pods.iter().all(|pod| first.iter().all(|old| old[0] != pod[0]))
        });
        session.wait_row("fluentd-elasticsearch", "kube-system", &["2", "2", "2", "2", "2", "<none>"]);

        // Under OnDelete it does not.
        let change = "s/value: value01$/value: value02/; s/type: RollingUpdate$/type: OnDelete/";
        let said = session.edit("edit daemonset fluentd-elasticsearch -n kube-system", change);
        assert_eq!(said.out, "daemonset.apps/fluentd-elasticsearch edited\n");
        let said =
            session.edit("edit daemonset fluentd-elasticsearch -n kube-system", "s/value: value02$/value: value03/");
        assert_eq!(said.out, "daemonset.apps/fluentd-elasticsearch edited\n");
        session.wait_row("fluentd-elasticsearch", "kube-system", &["2", "2", "2", "0", "2", "<none>"]);
        let names = |pods: &[[String; 4]]| pods.iter().map(|pod| pod[0].clone()).collect::<Vec<_>>();
        assert_eq!(names(&session.pods("kube-system")), names(&second));

        for (done, [pod, ..]) in second.iter().enumerate() {
            let said = session.run(&format!("delete pod {pod} -n kube-system"));
            assert!(said.out.starts_with(&format!("pod \"{pod}\" deleted")), "{}", said.out);
            let updated = (done + 1).to_string();
            session.wait_row("fluentd-elasticsearch", "kube-system", &["2", "2", "2", &updated, "2", "<none>"]);
        }
        let third = session.wait_pods("kube-system", "both are newer", |pods| {
            all_run(pods) && pods.iter().all(|pod| second.iter().all(|old| old[0] != pod[0]))
        });
        assert!(third.iter().all(|pod| pod[0].starts_with("fluentd-elasticsearch-")), "{third:?}");

        // What runs is what the last edit says, on both nodes.
        for node in &nodes {
            let pod = node.wait_running("fluentd-elasticsearch");
            let environment = std::fs::read(format!("/proc/{}/environ", node.process(&pod).pid)).unwrap();
            let environment = String::from_utf8_lossy(&environment);
            assert!(environment.split('\0').any(|entry| entry == "testenv=value03"), "{environment:?}");
        }
        session.run("delete daemonset fluentd-elasticsearch -n kube-system");
        nodes.iter().for_each(|node| node.wait_no_pod("fluentd-elasticsearch"));
        nodes.iter().for_each(|node| node.wait_nothing_left());
        drop(nodes);
    }
}

#[test]
fn a_refresher_runs_on_every_node_the_tainted_master_included() {
    let session = Session { control: TestControl::start(), kubectl: Kubectl::Debian };
    let nodes = NODES.map(|name| session.control.node(name));
    NODES.iter().for_each(|name| drop(session.control.wait_node_ready(name)));
    session.run("taint node node-a node-role.kubernetes.io/master=:NoSchedule");
    session.run(&format!("apply -f {}", example("random-refresher.yaml")));
    session.wait_row("random-refresher", "default", &["2", "2", "2", "2", "2", "<none>"]);
    for node in &nodes {
        let pod = node.wait_running("random-refresher");
        node.wait_log(&pod, "random-generator", "writing 100000 random numbers to /host_dev/random");
        let said = session.run(&format!("logs {}", pod.name()));
        assert!(said.out.contains("writing 100000 random numbers to /host_dev/random"), "{}", said.out);
    }
}
