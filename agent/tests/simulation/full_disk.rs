//! A state disk that takes no write stops no daemon that was known: each way in which a disk fails, step by step.

use std::time::Duration;

use agent::fake::FakeDisk;
use pod::desired::Wanted;
use tokio::time::sleep;

use super::{PROMPT, Simulation, WORKLOADS, workload};

/// Longer than everything takes that waits for nothing, a hanging write included; shorter than a slow look.
const SOON: Duration = Duration::from_secs(60);

/// Longer than a write that hangs is waited for.
const AFTER_PATIENCE: Duration = Duration::from_secs(8);

const FAULTS: [FakeDisk; 3] = [FakeDisk::Full, FakeDisk::ReadOnly, FakeDisk::Hangs];

fn wish(simulation: &mut Simulation, index: u64) {
    let wanted = workload(index, 0);
    simulation.set.workloads.insert(wanted.workload.clone(), Wanted::Run(Box::new(wanted)));
}

/// All workloads run, then the disk fails.
async fn node_with(seed: u64, disk: FakeDisk) -> Simulation {
    let mut simulation = Simulation::new(seed);
    simulation.begin().await;
    (0..WORKLOADS).for_each(|index| wish(&mut simulation, index));
    simulation.hear();
    sleep(SOON).await;
    simulation.check_converged();
    simulation.world.state().disk = disk;
    simulation
}

/// The fault ends: everything is written down without anybody's doing.
async fn heals(simulation: &Simulation) {
    simulation.world.state().disk = FakeDisk::Takes;
    // The last write that hangs has to fail first.
    sleep(Duration::from_secs(150)).await;
    simulation.check_always();
    simulation.check_converged();
    simulation.check_durable().await;
}

fn owed(simulation: &Simulation) -> usize {
    simulation.board.workloads().values().flat_map(|p| &p.pods).filter(|view| view.owed.is_some()).count()
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_crashes_is_restarted_while_the_disk_takes_nothing() {
    for (seed, disk) in (1..=5).flat_map(|seed| FAULTS.map(|disk| (seed, disk))) {
        let simulation = node_with(seed, disk).await;
        let patience = if disk == FakeDisk::Hangs { AFTER_PATIENCE } else { PROMPT };
        simulation.check_restarts_within(patience).await;
        assert_eq!(owed(&simulation), 4, "{disk:?}: not all is owed");
        heals(&simulation).await;
        assert_eq!(simulation.running().len(), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_boot_starts_everything_that_was_known_while_the_disk_takes_nothing() {
    for (seed, disk) in (1..=5).flat_map(|seed| FAULTS.map(|disk| (seed, disk))) {
        let mut simulation = node_with(seed, disk).await;
        for _ in 0..2 {
            simulation.kill().await;
            simulation.world.reboot();
            simulation.begin().await;
            simulation.hear();
            sleep(SOON).await;
            assert_eq!(simulation.running().len(), 7, "{disk:?}: not all run after a boot");
        }
        heals(&simulation).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_life_of_the_agent_adopts_what_the_disk_never_heard_of() {
    for (seed, disk) in (1..=5).flat_map(|seed| FAULTS.map(|disk| (seed, disk))) {
        let mut simulation = node_with(seed, disk).await;
        simulation.check_restarts_within(AFTER_PATIENCE).await;
        let before = simulation.running();
        simulation.kill().await;
        simulation.begin().await;
        simulation.hear();
        sleep(SOON).await;
        assert_eq!(simulation.running(), before, "{disk:?}: something was restarted");
        heals(&simulation).await;
        assert_eq!(simulation.running(), before, "{disk:?}: something was restarted when the disk came back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_nobody_wants_ends_while_the_disk_takes_nothing() {
    for (seed, disk) in (1..=5).flat_map(|seed| FAULTS.map(|disk| (seed, disk))) {
        let mut simulation = node_with(seed, disk).await;
        simulation.set.workloads.remove(&workload(2, 0).workload);
        simulation.hear();
        sleep(SOON).await;
        let left = simulation.world.state().containers.values().filter(|c| c.workload.name == "gamma").count();
        assert_eq!(left, 0, "{disk:?}: it still runs");
        heals(&simulation).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_never_recorded_waits_for_the_disk_and_says_so() {
    for disk in FAULTS {
        let mut simulation = node_with(1, FakeDisk::Takes).await;
        let key = workload(0, 0).workload;
        simulation.set.workloads.remove(&key);
        simulation.hear();
        sleep(SOON).await;
        simulation.world.state().disk = disk;
        wish(&mut simulation, 0);
        simulation.hear();
        // A write that hangs is its own reason for a while.
        sleep(Duration::from_secs(121)).await;
        let published = simulation.board.workloads();
        assert!(published[&key].pods.is_empty(), "{disk:?}: admitted without a record");
        assert!(!published[&key].waiting.is_empty(), "{disk:?}: nothing is said");
        simulation.check_always();
        heals(&simulation).await;
    }
}

/// Namespaces and cgroups are made while the record is on its way; nothing else is.
#[tokio::test(start_paused = true)]
async fn surroundings_of_a_pod_whose_record_never_came_to_be_go_with_the_next_life() {
    let mut simulation = node_with(1, FakeDisk::Takes).await;
    let key = workload(0, 0).workload;
    simulation.set.workloads.remove(&key);
    simulation.hear();
    sleep(SOON).await;
    let known = simulation.world.state().sandboxes.clone();
    simulation.world.state().disk = FakeDisk::Hangs;
    wish(&mut simulation, 0);
    simulation.hear();
    sleep(Duration::from_secs(1)).await;
    let made = simulation.world.state().sandboxes.clone();
    assert_eq!(made.len(), known.len() + 1, "nothing was made beside the write");
    assert!(simulation.board.workloads()[&key].pods.is_empty(), "it counts before its record is there");
    let containers = simulation.world.state().containers.values().filter(|c| c.workload == key).count();
    assert_eq!(containers, 0, "a container without a record");
    simulation.kill().await;
    simulation.set.workloads.remove(&key);
    simulation.world.state().disk = FakeDisk::Takes;
    simulation.begin().await;
    simulation.hear();
    sleep(SOON).await;
    assert_eq!(simulation.world.state().sandboxes, known);
    simulation.check_converged();
}
