//! Probes on a real node: a busybox httpd that is probed in every way, and what its pod is said to be.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tests::client::Pod;
use tests::grpc_health;
use tests::manifest::{Document, pod};
use tests::node::TestNode;
use tests::wait::wait_for;

/// Serves /www, which is empty.
const HTTPD: &str = "mkdir -p /www; exec httpd -f -p 8080 -h /www";

/// A probe that decides at once.
fn quick(handler: Value) -> Value {
    let mut probe = json!({"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5});
    for (key, value) in handler.as_object().expect("a handler is an object") {
        probe[key] = value.clone();
    }
    probe
}

fn web(name: &str) -> Document {
    pod(name).script(HTTPD).field("ports", json!([{"name": "web", "containerPort": 8080}]))
}

fn exec(node: &TestNode, pod: &str, script: &str) {
    node.cli(&["exec", pod, "--", "sh", "-c", script]).ok();
}

fn status<'a>(pod: &'a Pod, key: &str) -> &'a Value {
    &pod.0["status"]["containerStatuses"][0][key]
}

fn condition(pod: &Pod, kind: &str) -> Value {
    pod.condition(kind).cloned().unwrap_or_default()
}

/// Runs, ready or not.
fn wait_up(node: &TestNode, name: &str) {
    node.wait_pod(name, "its container runs", |pod| status(pod, "state").get("running").is_some());
}

fn wait_ready(node: &TestNode, name: &str, ready: bool) -> Pod {
    node.wait_pod(name, &format!("ready is {ready}"), |pod| *status(pod, "ready") == json!(ready))
}

#[test]
fn readiness_over_http_follows_the_server_and_survives_the_agent() {
    let mut node = TestNode::start();
    let probe = quick(json!({"httpGet": {"path": "/ready", "port": "web"}}));
    node.put("a.yaml", &web("a").own_network().field("readinessProbe", probe).text());
    wait_up(&node, "a");
    wait_for("the failure is told", || {
        let events = node.cli(&["get", "events"]).ok().out;
        if events.contains("Readiness probe failed: HTTP probe failed with statuscode: 404") {
            Ok(())
        } else {
            Err(events)
        }
    });
    let unready = wait_ready(&node, "a", false);
    assert_eq!(condition(&unready, "Ready")["status"], "False");

    exec(&node, "a-node-a", "touch /www/ready");
    let ready = wait_ready(&node, "a", true);
    let since = condition(&ready, "Ready");
    assert_eq!(since["status"], "True");

    // A new agent believes the verdict on record until a probe says otherwise.
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    let adopted = node.pods_of("a").pop().expect("it is adopted");
    assert_eq!(condition(&adopted, "Ready"), since);
    assert_eq!(status(&adopted, "restartCount"), 0);

    exec(&node, "a-node-a", "rm /www/ready");
    wait_ready(&node, "a", false);
    let metrics = node.get("/metrics").expect("answered").body;
    let counted = |it: &&str| it.starts_with("prober_probe_total") && it.contains("Readiness") && it.contains("failed");
    assert!(metrics.lines().any(|it| counted(&it)), "{metrics}");
}

#[test]
fn failed_liveness_restarts_the_container_and_says_why() {
    let node = TestNode::start();
    let probe = quick(json!({"exec": {"command": ["sh", "-c", "test ! -e /dead || { echo it is dead; exit 1; }"]}}));
    node.put("a.yaml", &web("a").field("livenessProbe", probe).text());
    let before = node.wait_running("a");
    assert_eq!(status(&before, "ready"), true);
    exec(&node, "a-node-a", "touch /dead");
    node.wait_pod("a", "it runs again", |pod| {
        *status(pod, "restartCount") == 1 && status(pod, "state").get("running").is_some()
    });
    let events = node.cli(&["get", "events"]).ok().out;
    assert!(events.contains("Liveness probe failed: it is dead"), "{events}");
}

#[test]
fn startup_holds_the_others_back() {
    let node = TestNode::start();
    let startup = {
        let mut probe = quick(json!({"tcpSocket": {"port": 8080}}));
        probe["failureThreshold"] = json!(60);
        probe
    };
    // Fails while the server is not there: only the startup probe keeps it from ending the container.
    let liveness = quick(json!({"httpGet": {"path": "/", "port": 8080}}));
    let script = "mkdir -p /www; touch /www/index.html; sleep 4; exec httpd -f -p 8080 -h /www";
    let document = pod("a").own_network().script(script).field("startupProbe", startup);
    node.put("a.yaml", &document.field("livenessProbe", liveness).text());
    let coming = node.wait_pod("a", "it runs and has not started", |pod| {
        status(pod, "state").get("running").is_some() && *status(pod, "started") == json!(false)
    });
    assert_eq!(status(&coming, "ready"), false);
    let started = node.wait_pod("a", "it has started", |pod| *status(pod, "started") == json!(true));
    assert_eq!((status(&started, "ready"), status(&started, "restartCount")), (&json!(true), &json!(0)));
    // Several rounds of a probe that would end it at once.
    std::thread::sleep(Duration::from_secs(3));
    let later = node.pods_of("a").pop().expect("it is there");
    assert_eq!(status(&later, "restartCount"), 0);
}

#[test]
fn readiness_over_grpc_asks_whether_it_serves() {
    let node = TestNode::start();
    let listener = node.inside(|| TcpListener::bind("0.0.0.0:50051")).expect("bound in the node's namespace");
    let says = grpc_health::Answer::default();
    says.store(grpc_health::NOT_SERVING, Ordering::Relaxed);
    grpc_health::serve(listener, says.clone());
    node.put("a.yaml", &pod("a").field("readinessProbe", quick(json!({"grpc": {"port": 50051}}))).text());
    wait_up(&node, "a");
    wait_for("the failure is told", || {
        let events = node.cli(&["get", "events"]).ok().out;
        if events.contains("service unhealthy (responded with \"NOT_SERVING\")") { Ok(()) } else { Err(events) }
    });
    says.store(grpc_health::SERVING, Ordering::Relaxed);
    wait_ready(&node, "a", true);
    says.store(grpc_health::NOT_SERVING, Ordering::Relaxed);
    wait_ready(&node, "a", false);
}
