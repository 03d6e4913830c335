//! All loops as tasks, and their end.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::accounts::Accounts;
use super::configs::Configs;
use super::daemonsets::DaemonSets;
use super::election::Candidate;
use super::election::decide::{RENEW_WITHIN, RETRY};
use super::garbage::Garbage;
use super::itself::{Address, Itself};
use super::lifetimes::Lifetimes;
use super::namespaces::Namespaces;
use super::nodes::{Leases, Nodes};
use super::pods::Pods;
use super::polls;
use super::record::Recorder;
use super::runner::{Looks, Runner};
use super::slices::Slices;
use super::told::{BATCHES_MAX, Tower};
use crate::api::objects::Objects;
use crate::contacts::{Contacts, TICK};
use crate::daemonset::after;

/// A look that has begun may end: a write that is half done is looked at again by whoever comes next, but need not be.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What the loops have to know beside the store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The authority of the endpoint's certificate, in PEM.
    pub root_ca: String,
    /// Where the API is reached from inside of pods. None: nobody is told.
    pub address: Option<Address>,
    /// Where several endpoints share a store: the name of this process among them, new at every start.
    pub election: Option<String>,
}

/// The loops that run.
#[derive(Debug)]
pub struct Loops {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Starts all loops.
pub fn start(objects: Objects, contacts: Contacts, settings: Settings) -> Loops {
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    // Every endpoint tells the others what it hears of nodes; only one of them judges.
    let everywhere = Set::new(&objects).with(Leases::new(objects.clone(), contacts.clone()));
    tasks.spawn(until_stopped(everywhere, stopped.clone()));
    tasks.spawn(polled(contacts.clone(), stopped.clone()));
    tasks.spawn(awake(contacts.clone(), stopped.clone()));
    match &settings.election {
        None => tasks.spawn(until_stopped(all(&objects, &contacts, &settings), stopped)),
        Some(me) => {
            let candidate = Candidate::new(objects.clone(), me.clone());
            tasks.spawn(while_elected(candidate, objects, contacts, settings, stopped))
        }
    };
    Loops { stop, tasks }
}

/// Notes that the endpoint runs: when it did not, for a while, it heard nobody.
async fn awake(contacts: Contacts, mut stopped: watch::Receiver<bool>) {
    loop {
        contacts.tick();
        // Both arms only wait.
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

impl Loops {
    /// Ends them, and gives the Lease back.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

fn all(objects: &Objects, contacts: &Contacts, settings: &Settings) -> Set {
    let recorder = Recorder::new(objects.clone());
    let of = || objects.clone();
    let set = Set::new(objects)
        .with(DaemonSets::new(of(), recorder))
        .with(Configs::new(of()))
        .with(Garbage::new(of()))
        .with(Namespaces::new(of()))
        .with(Nodes::new(of(), contacts.clone()))
        .with(Pods::new(of()))
        .with(Accounts::new(of(), settings.root_ca.clone()))
        .with(Slices::new(of()))
        .with(Lifetimes::new(of()));
    match &settings.address {
        Some(address) => set.with(Itself::new(of(), address.clone())),
        None => set,
    }
}

/// Loops that are told by one tower.
struct Set {
    objects: Objects,
    told: Vec<mpsc::Sender<super::told::Told>>,
    loops: JoinSet<()>,
}

impl Set {
    fn new(objects: &Objects) -> Set {
        Set { objects: objects.clone(), told: Vec::new(), loops: JoinSet::new() }
    }

    fn with<L: Looks + Sync>(mut self, looks: L) -> Set {
        let (told, news) = mpsc::channel(BATCHES_MAX);
        self.loops.spawn(Runner::new(looks, self.objects.clock().clone()).run(news));
        self.told.push(told);
        self
    }

    /// Until they are stopped or one of them breaks, which takes the others along: whoever watches starts all anew.
    async fn run(mut self) {
        let tower = Tower::new(self.objects).run(self.told);
        tokio::select! {
            () = tower => {}
            ended = self.loops.join_next() => tracing::error!(?ended, "a loop has ended"),
        }
    }
}

async fn until_stopped(set: Set, mut stopped: watch::Receiver<bool>) {
    tokio::select! {
        () = set.run() => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

async fn polled(contacts: Contacts, mut stopped: watch::Receiver<bool>) {
    tokio::select! {
        () = polls::run(contacts) => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

async fn while_elected(
    mut candidate: Candidate,
    objects: Objects,
    contacts: Contacts,
    settings: Settings,
    mut stopped: watch::Receiver<bool>,
) {
    let mut running: Option<JoinSet<()>> = None;
    let mut held_until = Instant::now();
    // A machine that sleeps has a clock that stands still, and one that does not.
    let clock = objects.clock().clone();
    let mut held_until_wall = clock.now();
    loop {
        let asked = Instant::now();
        let asked_wall = clock.now();
        // While the loops run nothing takes longer than the Lease is held.
        let left = held_until.saturating_duration_since(asked).min(RENEW_WITHIN);
        let bound = if running.is_some() { left } else { RENEW_WITHIN };
        match tokio::time::timeout(bound, candidate.stand()).await {
            Ok(Ok(true)) => {
                held_until = asked + RENEW_WITHIN;
                held_until_wall = after(asked_wall, RENEW_WITHIN);
                if running.as_mut().is_none_or(|tasks| tasks.try_join_next().is_some()) {
                    tracing::info!("this endpoint runs the loops");
                    let mut tasks = JoinSet::new();
                    tasks.spawn(all(&objects, &contacts, &settings).run());
                    running = Some(tasks);
                }
            }
            Ok(Ok(false)) => held_until = asked,
            Ok(Err(error)) => tracing::warn!(%error, "the Lease of the loops cannot be renewed"),
            Err(_) => tracing::warn!("the Lease of the loops cannot be renewed in time"),
        }
        let is_over = held_until <= Instant::now() || held_until_wall <= clock.now();
        if is_over && running.take().is_some() {
            tracing::warn!("another endpoint may run the loops");
        }
        let left = held_until.saturating_duration_since(Instant::now());
        let pause = if running.is_some() { RETRY.min(left) } else { RETRY };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    drop(running);
    match tokio::time::timeout(STOP_WITHIN, candidate.resign()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the Lease of the loops is not given back"),
        Err(_) => tracing::warn!("the Lease of the loops is not given back in time"),
    }
}
