//! `make bench`: what the agent costs, measured beside `ctr run -d` and podman with the same image, runtime and machine in the same run,
//! so that the ratios mean something on a noisy machine. Prints; judges only by writing the target beside each ratio.
//!
//! Environment: ROUNDS (20), LARGE_ROUNDS (5, of what moves much; at most ROUNDS), IDLE_SECONDS (60), NODES (1000, simulated), ONLY (a word; rows whose name
//! contains it); DAEMONLET_BENCH_PODMAN, DAEMONLET_BENCH_RUST_SHIM and DAEMONLET_BENCH_CONTAINERD2, which scripts/bench.sh sets.

use std::time::Instant;

use tests::bench::{Bench, Rounds, control, fleet, head, shims};

/// One measurement, on a node of its own.
enum Part {
    Node(fn(&mut Bench)),
    /// Makes its node itself.
    Own(fn(Rounds)),
}

fn main() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let single = number("ROUNDS", 20).max(1);
    let large = number("LARGE_ROUNDS", 5).clamp(1, single);
    let rounds = Rounds { single, large, idle_seconds: number("IDLE_SECONDS", 60) };
    let only = std::env::var("ONLY").unwrap_or_default();
    let parts = [
        ("start", Part::Node(Bench::start_host_network)),
        ("network", Part::Node(Bench::start_pod_network)),
        ("update", Part::Node(Bench::update)),
        ("kill", Part::Node(Bench::kill)),
        ("remove", Part::Node(Bench::remove)),
        ("agent", Part::Node(Bench::agent_start)),
        ("many", Part::Node(Bench::many)),
        ("import", Part::Node(Bench::import)),
        ("pull-large", Part::Node(Bench::pull_large)),
        ("pull-layers", Part::Node(Bench::pull_layers)),
        ("pull-crowd", Part::Node(Bench::pull_crowd)),
        ("pull-swap", Part::Node(Bench::pull_swap)),
        ("pull-cut", Part::Node(Bench::pull_cut)),
        ("shims", Part::Own(shims)),
        ("control", Part::Own(control)),
        ("fleet", Part::Own(fleet)),
    ];
    let begun = Instant::now();
    println!("{} rounds, {} of what moves much; a ratio is ours by theirs, of medians", rounds.single, rounds.large);
    head();
    for (name, part) in parts {
        if name.contains(&only) {
            match part {
                Part::Node(measure) => measure(&mut Bench::new(rounds)),
                Part::Own(measure) => measure(rounds),
            }
        }
    }
    println!("measured in {} s", begun.elapsed().as_secs());
}
