//! Pods that are after each other, through the workers: their starts and ends in order, also over deaths of the agent.

use pod::turns::{NODE_DRAINED, WAITS_FOR_OTHERS};

use super::*;
use crate::workloads::read;

/// Longer than all of them take to start or, one after the other, to end, with grace periods of 30 s.
const SOON: Duration = Duration::from_secs(240);

/// A static pod that is after others, with one container of its own name.
fn pod(name: &str, after: &str) -> (WorkloadKey, Wanted) {
    let annotations = if after.is_empty() { String::new() } else { format!("daemonlet.dev/after: \"{after}\"") };
    let wanted = read(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {{{annotations}}}}}
spec: {{containers: [{{name: {name}, image: image-alpha, imagePullPolicy: Never}}]}}"
    ));
    (wanted.workload.clone(), Wanted::Run(Box::new(wanted)))
}

/// Lets all that is to happen happen, and what is not to happen have its chance. The clock is virtual: it moves when nobody has anything left to do,
/// so what is seen afterwards is the seed's choice alone, and takes no time.
async fn settled() {
    sleep(SOON).await;
}

impl Simulation {
    fn want(&mut self, pods: &[(&str, &str)]) {
        self.set.workloads = pods.iter().map(|(name, after)| pod(name, after)).collect();
        self.hear();
    }

    /// Containers of which the story says this, in its order, from line `from` on.
    fn told(&self, word: &str, from: usize) -> Vec<String> {
        let state = self.world.state();
        let of = |line: &String| Some(line.strip_prefix(word)?.trim().split('/').nth(1)?.to_owned());
        state.story.iter().skip(from).filter_map(of).collect()
    }

    /// Deaths of the agent at instants that the seed chooses.
    async fn die_often(&mut self) {
        for _ in 0..3 {
            sleep(Duration::from_millis(self.random(100))).await;
            self.kill().await;
            self.begin().await;
            self.hear();
        }
    }

    fn lines(&self) -> usize {
        self.world.state().story.len()
    }
}

#[tokio::test(start_paused = true)]
async fn pods_start_and_end_in_their_order_whenever_the_agent_dies() {
    let pods = [("alpha", "beta"), ("beta", "delta"), ("delta", ""), ("gamma", "alpha,delta")];
    for seed in 1..=20 {
        let mut simulation = Simulation::new(seed);
        simulation.begin().await;
        simulation.want(&pods);
        simulation.die_often().await;
        settled().await;
        assert_eq!(simulation.told("started", 0), ["delta", "beta", "alpha", "gamma"], "seed {seed}");

        simulation.kill().await;
        simulation.world.reboot();
        let from = simulation.lines();
        simulation.begin().await;
        simulation.hear();
        settled().await;
        assert_eq!(simulation.told("started", from), ["delta", "beta", "alpha", "gamma"], "seed {seed}");

        let from = simulation.lines();
        simulation.want(&[]);
        simulation.die_often().await;
        settled().await;
        assert_eq!(simulation.told("deleted", from), ["gamma", "alpha", "beta", "delta"], "seed {seed}");
        assert_eq!(simulation.running(), Vec::<String>::new());
        simulation.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_starts_as_soon_as_the_other_is_there_and_is_not_stopped_when_it_goes() {
    let mut simulation = Simulation::new(1);
    simulation.begin().await;
    simulation.want(&[("beta", "alpha")]);
    settled().await;
    assert_eq!(simulation.running(), Vec::<String>::new());
    let list: serde_json::Value = serde_json::from_str(&agent::status::pod_list(&simulation.board)).unwrap();
    let status = &list["items"][0]["status"];
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], WAITS_FOR_OTHERS, "{list:#}");
    let conditions = status["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|condition| condition["type"] == WAITS_FOR_OTHERS).unwrap();
    assert!(condition["message"].as_str().unwrap().contains("default/alpha"), "{condition}");

    simulation.want(&[("alpha", ""), ("beta", "alpha")]);
    sleep(PROMPT).await;
    assert_eq!(simulation.told("started", 0), ["alpha", "beta"]);
    let runs = simulation.running();
    simulation.want(&[("beta", "alpha")]);
    simulation.kill().await;
    simulation.begin().await;
    simulation.hear();
    settled().await;
    let left = simulation.running();
    assert!(left.len() == 1 && runs.contains(&left[0]), "beta has been stopped or started anew");
    simulation.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_starts_nothing_until_it_is_undrained_or_booted() {
    for seed in 1..=10 {
        let mut simulation = Simulation::new(seed);
        simulation.begin().await;
        simulation.want(&[("alpha", ""), ("beta", "alpha")]);
        settled().await;
        let from = simulation.lines();
        simulation.drain(true).await;
        settled().await;
        assert_eq!(simulation.told("deleted", from), ["beta", "alpha"], "seed {seed}");
        simulation.want(&[("alpha", ""), ("beta", "alpha"), ("gamma", "")]);
        settled().await;
        simulation.kill().await;
        simulation.begin().await;
        simulation.hear();
        settled().await;
        assert_eq!(simulation.running(), Vec::<String>::new(), "seed {seed}");
        let list: serde_json::Value = serde_json::from_str(&agent::status::pod_list(&simulation.board)).unwrap();
        let items = list["items"].as_array().unwrap();
        let reason = |item: &serde_json::Value| {
            item["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().map(str::to_owned)
        };
        let reasons: Vec<_> = items.iter().map(reason).collect();
        assert_eq!(reasons, vec![Some(NODE_DRAINED.to_owned()); 3], "seed {seed}: {list:#}");
        let checks = simulation.board.checks();
        assert!(checks[&agent::board::Check::Drain].as_ref().unwrap_err().contains("undrain"));

        let from = simulation.lines();
        if seed % 2 == 0 {
            simulation.kill().await;
            simulation.world.reboot();
            simulation.begin().await;
            simulation.hear();
        } else {
            simulation.drain(false).await;
        }
        settled().await;
        let mut started = simulation.told("started", from);
        let place = |name: &str| started.iter().position(|it| it == name);
        assert!(place("alpha") < place("beta"), "seed {seed}: {started:?}");
        started.sort();
        assert_eq!(started, ["alpha", "beta", "gamma"], "seed {seed}");
        assert!(!simulation.board.checks().contains_key(&agent::board::Check::Drain));
        simulation.kill().await;
    }
}
