//! `make bench`: what the agent costs, measured beside `ctr run -d` of the same image, runtime and machine in the same run, so that
//! the ratios mean something on a noisy machine. Prints; judges only by writing the target beside each ratio.
//!
//! Environment: ROUNDS (20), IDLE_SECONDS (60), ONLY (a word; rows whose name contains it).

use tests::bench::{Bench, Rounds};

/// One measurement, on a node of its own.
type Part = fn(&mut Bench);

fn main() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let rounds = Rounds { single: number("ROUNDS", 20), idle_seconds: number("IDLE_SECONDS", 60) };
    let only = std::env::var("ONLY").unwrap_or_default();
    let parts: [(&str, Part); 8] = [
        ("start", Bench::start_host_network),
        ("network", Bench::start_pod_network),
        ("update", Bench::update),
        ("kill", Bench::kill),
        ("remove", Bench::remove),
        ("agent", Bench::agent_start),
        ("many", Bench::many),
        ("import", Bench::import),
    ];
    println!("{:<58} {:>9} {:>17} {:>9} {:>7} {:>8}", "", "median", "10 % – 90 %", "ctr", "ratio", "target");
    for (name, part) in parts {
        if name.contains(&only) {
            part(&mut Bench::new(rounds));
        }
    }
}
