//! A real fleet over an embedded store and real uplinks over a machine in memory, with TLS on loopback between them.

#![expect(clippy::unwrap_used, reason = "what fails in a test's own scaffolding fails the test")]

mod lying;
mod node;
mod place;

use std::time::Duration;

use agent::events::Severity;
use node::Node;
use place::Place;
use serde_json::{Value, json};
use tokio::time::timeout;

/// Everything here happens within it, on a machine that is busy too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `reached` says so.
pub async fn until<T>(what: &str, mut reached: impl AsyncFnMut() -> Option<T>) -> T {
    let waited = timeout(PATIENCE, async {
        loop {
            if let Some(value) = reached().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not within {} s: {what}", PATIENCE.as_secs()))
}

pub fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"a": "b"}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "image"}]}})
}

#[tokio::test]
async fn a_node_joins_runs_its_pods_and_tells_what_becomes_of_them() {
    let place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    let object = until("the Node object", async || place.get("Node", "", "n1").await).await;
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "n1");

    let created = place.create("Pod", pod("a", "n1")).await;
    let uid = created["metadata"]["uid"].as_str().unwrap().to_owned();
    until("the pod runs under the object's uid", async || node.running().contains(&uid).then_some(())).await;
    let running = until("its status is known", async || {
        place.get("Pod", "default", "a").await.filter(|pod| pod["status"]["phase"] == "Running")
    })
    .await;
    assert_eq!(running["status"]["containerStatuses"][0]["ready"], true, "{running:#}");
    assert_eq!(running["metadata"]["labels"], json!({"a": "b"}));

    // Another node's pod is none of this one's business.
    place.create("Pod", pod("other", "n2")).await;
    place.delete("Pod", "a", Some(1)).await;
    until("the object goes when the pod has gone", async || {
        place.get("Pod", "default", "a").await.is_none().then_some(())
    })
    .await;
    assert_eq!(node.running(), Vec::<String>::new());
    assert!(place.get("Pod", "default", "other").await.is_some());
    assert!(node.shared.directory.recorded().is_empty());
    assert!(place.witness.heard("n1").is_some(), "its heartbeats are heard");
}

/// Two heartbeats are 10 s apart; this is far less.
const AT_ONCE: Duration = Duration::from_secs(4);

#[tokio::test]
async fn that_a_node_is_ready_or_is_not_any_more_is_said_at_once() {
    let place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    until("it is heard", async || place.witness.heard("n1").filter(|failing| failing.contains("cni"))).await;
    for outcome in [Ok(()), Err("gone".to_owned()), Ok(())] {
        let since = tokio::time::Instant::now();
        let fails = outcome.is_err();
        node.board.set_check(agent::board::Check::Cni, outcome);
        until("it is said", async || place.witness.heard("n1").filter(|said| said.contains("cni") == fails)).await;
        assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    }
}

#[tokio::test]
async fn another_image_under_the_same_uid_restarts_that_container() {
    let place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    node.world.state().images.insert("other".into());
    let uid = place.create("Pod", pod("a", "n1")).await["metadata"]["uid"].as_str().unwrap().to_owned();
    until("it runs", async || (node.running() == [uid.as_str()]).then_some(())).await;
    // One that cannot be had ends what runs, as in Kubernetes, and holds up nothing.
    for (image, comes) in [("nowhere", false), ("other", true)] {
        place.set_image("a", image).await;
        until("the pod says how it stands", async || {
            let status = &place.get("Pod", "default", "a").await?["status"]["containerStatuses"][0];
            let runs = status["state"]["running"].is_object();
            let stands = if comes { runs && status["restartCount"] == 1 } else { !runs };
            (status["image"] == image && stands).then_some(())
        })
        .await;
    }
    assert_eq!(node.running(), [uid.as_str()], "it is the same pod");
    let said = "Container main definition changed, will be restarted";
    let events = node.board.events();
    assert!(events.iter().any(|seen| seen.reason == "Killing" && seen.message == said), "{events:#?}");
}

#[tokio::test]
async fn a_config_map_comes_along_and_its_change_too() {
    let place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    let mut wanted = pod("a", "n1");
    wanted["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "m"}}]);
    place.create("Pod", wanted).await;
    until("it waits", async || {
        let pod = place.get("Pod", "default", "a").await?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        (waiting == "CreateContainerConfigError").then_some(())
    })
    .await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}, "data": {"k": "v"}});
    place.create("ConfigMap", map).await;
    until("it runs", async || (node.running().len() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_pod_that_the_node_refuses_has_failed_by_name_and_stops_no_other() {
    let place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    let mut refused = pod("refused", "n1");
    refused["spec"]["volumes"] = json!([{"name": "v", "nfs": {"server": "s", "path": "/"}}]);
    place.create("Pod", refused).await;
    place.create("Pod", pod("good", "n1")).await;
    let failed = until("it has failed", async || {
        place.get("Pod", "default", "refused").await.filter(|pod| pod["status"]["phase"] == "Failed")
    })
    .await;
    assert_eq!(failed["status"]["reason"], "FailedValidation");
    assert!(failed["status"]["message"].as_str().unwrap().contains("nfs"), "{failed:#}");
    until("the other runs", async || (node.running().len() == 1).then_some(())).await;
    place.delete("Pod", "refused", Some(0)).await;
    until("it goes", async || place.get("Pod", "default", "refused").await.is_none().then_some(())).await;
}

#[tokio::test]
async fn static_pods_are_mirrored_and_deleting_a_mirror_restarts_the_pod() {
    let place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    node.manifest(Some("web"));
    let mirror = until("the mirror is there and runs", async || {
        place.get("Pod", "default", "web-n1").await.filter(|pod| pod["status"]["phase"] == "Running")
    })
    .await;
    let uid = mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].as_str().unwrap().to_owned();
    assert_eq!(node.running(), [uid.as_str()]);
    assert_eq!(mirror["metadata"]["annotations"]["kubernetes.io/config.hash"], uid.as_str());
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");

    // With its Node object goes what stands for the pod, and not the pod.
    place.delete_node("n1").await;
    let before = &mirror["metadata"]["ownerReferences"][0]["uid"];
    until("it is mirrored under another Node object", async || {
        let now = place.get("Pod", "default", "web-n1").await?;
        (now["metadata"]["ownerReferences"][0]["uid"] != *before).then_some(())
    })
    .await;
    assert_eq!(node.running(), [uid.as_str()]);

    place.delete("Pod", "web-n1", None).await;
    until("another pod runs and its mirror says so", async || {
        let mirror = place.get("Pod", "default", "web-n1").await?;
        let now = mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].as_str()?.to_owned();
        let is_new = now != uid && mirror["metadata"]["deletionTimestamp"].is_null();
        (is_new && node.running() == [now]).then_some(())
    })
    .await;

    node.manifest(None);
    until("the mirror goes with its pod", async || place.get("Pod", "default", "web-n1").await.is_none().then_some(()))
        .await;
    assert_eq!(node.running(), Vec::<String>::new());
}

/// A day of a certificate's life, in hours.
const DAY: i64 = 24;

#[tokio::test]
async fn an_expired_certificate_renews_itself_for_a_year_and_then_takes_a_new_token_while_daemons_run() {
    let mut place = Place::start().await;
    let mut node = Node::start("n1", &place, &place.token().await).await;
    place.create("Pod", pod("a", "n1")).await;
    until("it runs", async || (node.running().len() == 1).then_some(())).await;
    let uid = node.running();
    for (age, renews) in [(365 + 300, true), (365 + 366, false)] {
        place.stop().await;
        let state = node.stop().await;
        place.give_old_certificate(state.path(), age * DAY).await;
        place.resume().await;
        node = Node::again("n1", &place, state).await;
        until("it runs by its checkpoint", async || (node.running() == uid).then_some(())).await;
        if renews {
            until("it is in session", async || node.board.control().filter(|it| it.connected)).await;
        } else {
            let refused = |why: &str| !["", "not reached yet"].contains(&why);
            until("it says why not", async || node.board.control().filter(|it| !it.connected && refused(&it.why)))
                .await;
            assert_eq!(node.running(), uid);
            node.board.rejoin(place.token_for("n1").await).await.unwrap();
            until("it is in session", async || node.board.control().filter(|it| it.connected)).await;
        }
        assert_eq!(node.running(), uid);
    }
}

#[tokio::test]
async fn what_runs_does_not_notice_that_the_endpoint_is_gone_and_all_is_told_when_it_is_back() {
    let mut place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    place.create("Pod", pod("a", "n1")).await;
    until("it runs", async || (node.running().len() == 1).then_some(())).await;
    let before = node.running();
    place.stop().await;
    until("the node says so", async || node.board.control().filter(|control| !control.connected)).await;
    node.manifest(Some("web"));
    until("a static pod starts", async || (node.running().len() == 2).then_some(())).await;
    assert!(node.running().contains(&before[0]));
    // While it was away.
    place.create("Pod", pod("b", "n1")).await;
    place.resume().await;
    until("all is told", async || {
        for name in ["a", "b", "web-n1"] {
            place.get("Pod", "default", name).await.filter(|pod| pod["status"]["phase"] == "Running")?;
        }
        Some(())
    })
    .await;
    assert!(node.running().contains(&before[0]) && node.running().len() == 3);
}

#[tokio::test]
async fn a_node_that_boots_without_the_network_starts_what_it_was_told_last() {
    let mut place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    place.create("Pod", pod("a", "n1")).await;
    until("it runs", async || (node.running().len() == 1).then_some(())).await;
    place.stop().await;
    let state = node.stop().await;
    for file in ["tokens", "tokens.old"] {
        let _ = std::fs::remove_file(state.path().join("control").join(file));
    }
    // Another machine in memory: nothing but the checkpoint is left.
    let node = Node::again("n1", &place, state).await;
    until("the check", async || node.check("source-control").filter(Result::is_ok).map(drop)).await;
    until("it runs again", async || (node.running().len() == 1).then_some(())).await;
    assert!(node.lacks_token(), "nothing was kept of its token");
    place.resume().await;
    until("its token comes", async || (!node.lacks_token()).then_some(())).await;
    until("the token is kept", async || node.kept_tokens().filter(|kept| kept.contains("token:"))).await;
    place.stop().await;
    let state = node.stop().await;
    let node = Node::again("n1", &place, state).await;
    until("it runs once more", async || (node.running().len() == 1).then_some(())).await;
    assert!(!node.lacks_token(), "what is still good was kept");
    place.resume().await;
    until("it is in session again", async || node.board.control().filter(|control| control.connected)).await;
    assert_eq!(node.running().len(), 1);
}

/// Its token comes after it, and goes with its object: neither is worth a word.
#[tokio::test]
async fn a_pod_with_an_account_comes_and_goes_without_a_warning() {
    let place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    let warned = |node: &Node| {
        node.board.with_events(|events| {
            let all = events.newest(events.len());
            // This machine has no registry.
            let warnings =
                all.filter(|event| event.severity == Severity::Warning && event.reason != "ImageNotRefreshed");
            warnings.map(|event| event.message.clone()).collect::<Vec<_>>()
        })
    };
    until("it is in session", async || node.board.control().filter(|control| control.connected)).await;
    for (name, grace) in [("a", Some(1)), ("b", Some(0))] {
        place.create("Pod", pod(name, "n1")).await;
        until("it runs with its token", async || (node.running().len() == 1 && !node.lacks_token()).then_some(()))
            .await;
        place.delete("Pod", name, grace).await;
        until("it is gone", async || node.board.workloads().is_empty().then_some(())).await;
        assert_eq!(warned(&node), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_store_that_was_put_back_is_noticed_and_counts() {
    let mut place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    for name in ["a", "b", "c"] {
        place.create("Pod", pod(name, "n1")).await;
    }
    until("all run", async || (node.running().len() == 3).then_some(())).await;
    until("what it works by is far on", async || {
        let control = node.board.control()?;
        control.generation.as_ref()?.rsplit('/').next()?.parse::<u64>().ok().filter(|number| *number > 3)
    })
    .await;
    place.stop().await;
    // A store from before, with one pod in it. Its nodes are known by the authority's word.
    place.replace_store().await;
    place.create("Pod", pod("d", "n1")).await;
    place.resume().await;
    until("it works by the store as it is now", async || {
        let uid = place.get("Pod", "default", "d").await?["metadata"]["uid"].as_str()?.to_owned();
        (node.running() == [uid]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_wrong_lets_nobody_in_and_a_new_one_does_while_daemons_run() {
    let place = Place::start().await;
    let token = place.token().await;
    // The secret is another one.
    let parts: Vec<&str> = token.split('.').collect();
    let wrong = format!("{}.{}.{}", parts[0], parts[1].chars().rev().collect::<String>(), parts[2]);
    let node = Node::start("n1", &place, &wrong).await;
    node.manifest(Some("web"));
    until("the static pod runs", async || (node.running().len() == 1).then_some(())).await;
    let before = node.running();
    until("the node says why", async || node.board.control().filter(|it| it.why.contains("join token"))).await;
    assert!(node.board.rejoin("nonsense".into()).await.unwrap_err().contains("ID.SECRET.PIN"));
    let other_pin = format!("{}.{}.{}", parts[0], parts[1], "ab".repeat(32));
    assert!(node.board.rejoin(other_pin).await.unwrap_err().contains("TLS"), "another authority is not trusted");
    let said = node.board.rejoin(token).await.unwrap();
    assert!(said.contains("n1"), "{said}");
    until("it is in session", async || node.board.control().filter(|control| control.connected)).await;
    assert_eq!(node.running(), before);
}

#[tokio::test]
async fn a_node_that_is_revoked_has_no_session_any_more_and_its_daemons_run_on() {
    let place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    node.manifest(Some("web"));
    until("the static pod runs", async || (node.running().len() == 1).then_some(())).await;
    until("it is in session", async || node.board.control().filter(|control| control.connected)).await;
    let before = node.running();
    assert!(place.joining().revoke_node("n1").await.unwrap());
    until("its session ends and it is told why", async || {
        node.board.control().filter(|control| !control.connected && control.why.contains("revoked"))
    })
    .await;
    assert_eq!(node.running(), before);
}

#[tokio::test]
async fn labels_are_proposed_once_and_then_the_node_object_rules() {
    let place = Place::start().await;
    let node = Node::start("n1", &place, &place.token().await).await;
    let object = until("the Node object", async || place.get("Node", "", "n1").await).await;
    assert_eq!(object["metadata"]["labels"]["rack"], "r1");
    assert!(object["metadata"]["labels"].get("node-restriction.kubernetes.io/tier").is_none());
    let mut changed = object.clone();
    changed["metadata"]["labels"]["rack"] = "r2".into();
    place.update("Node", changed).await;
    let ruling = until("the node goes by it", async || {
        node.board.ruling().filter(|ruling| ruling.labels.get("rack").is_some_and(|rack| rack == "r2"))
    })
    .await;
    assert_eq!(ruling.api, Some(("127.0.0.1".into(), 6443)), "pods find the API where their node has dialed it");
}
