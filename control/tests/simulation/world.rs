//! The endpoint, its fleet and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control::api::kinds::{Kind, by_api_version};
use control::api::objects::{DeleteOptions, ListQuery, Objects, Patch, Preconditions, Propagation, WriteOptions};
use control::clock::Clock;
use control::contacts::Contacts;
use control::loops::accounts::Accounts;
use control::loops::daemonsets::DaemonSets;
use control::loops::garbage::Garbage;
use control::loops::lifetimes::Lifetimes;
use control::loops::namespaces::Namespaces;
use control::loops::nodes::{Leases, Nodes};
use control::loops::pods::Pods;
use control::loops::record::Recorder;
use control::loops::runner::Runner;
use control::loops::told::{Told, Tower};
use control::store::Store as _;
use control::store::embedded::Embedded;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::judge;
use crate::machine::{Machine, Report, later};

/// A heartbeat of every node that is reached.
const HEARTBEAT: u64 = 20;
/// Looks at one moment: more means that the loops wake each other without end.
const LOOKS_MAX: usize = 20_000;
/// In this time of its own the world has come to rest after the last repair: back-offs of failed pods are the longest part of it.
const REST_WITHIN: u64 = 3 * 3600;

pub fn kind(api_version: &str, kind: &str) -> &'static Kind {
    by_api_version(api_version, kind).unwrap()
}

/// Everything that runs in the endpoint's process and is lost with it.
struct Endpoint {
    contacts: Contacts,
    tower: Tower,
    told: u64,
    daemonsets: Runner<DaemonSets>,
    garbage: Runner<Garbage>,
    namespaces: Runner<Namespaces>,
    nodes: Runner<Nodes>,
    leases: Runner<Leases>,
    pods: Runner<Pods>,
    accounts: Runner<Accounts>,
    lifetimes: Runner<Lifetimes>,
}

impl Endpoint {
    fn new(objects: &Objects) -> Endpoint {
        let (clock, contacts) = (objects.clock().clone(), Contacts::new(objects.clock().clone()));
        let recorder = Recorder::new(objects.clone());
        let of = || objects.clone();
        Endpoint {
            tower: Tower::new(of()),
            told: 0,
            daemonsets: Runner::new(DaemonSets::new(of(), recorder).in_order(), clock.clone()),
            garbage: Runner::new(Garbage::new(of()), clock.clone()),
            namespaces: Runner::new(Namespaces::new(of()), clock.clone()),
            nodes: Runner::new(Nodes::new(of(), contacts.clone()), clock.clone()),
            leases: Runner::new(Leases::new(of(), contacts.clone()), clock.clone()),
            pods: Runner::new(Pods::new(of()), clock.clone()),
            accounts: Runner::new(Accounts::new(of(), "a root".into()), clock.clone()),
            lifetimes: Runner::new(Lifetimes::new(of()), clock),
            contacts,
        }
    }

    fn tell(&mut self, told: &Told) {
        match told {
            Told::Anew { revision } => self.told = *revision,
            Told::Changed(batch) => self.told = self.told.max(batch.revision),
        }
        self.daemonsets.tell(told);
        self.garbage.tell(told);
        self.namespaces.tell(told);
        self.nodes.tell(told);
        self.leases.tell(told);
        self.pods.tell(told);
        self.accounts.tell(told);
        self.lifetimes.tell(told);
    }

    async fn step(&mut self, which: u64) -> bool {
        match which {
            DAEMON_SETS => self.daemonsets.step().await,
            1 => self.garbage.step().await,
            2 => self.namespaces.step().await,
            3 => self.nodes.step().await,
            4 => self.leases.step().await,
            5 => self.pods.step().await,
            6 => self.accounts.step().await,
            _ => self.lifetimes.step().await,
        }
    }

    fn next_at(&self) -> Option<Timestamp> {
        let all = [
            self.daemonsets.next_at(),
            self.garbage.next_at(),
            self.namespaces.next_at(),
            self.nodes.next_at(),
            self.leases.next_at(),
            self.pods.next_at(),
            self.accounts.next_at(),
            self.lifetimes.next_at(),
        ];
        all.into_iter().flatten().min()
    }
}
const LOOPS: u64 = 8;
/// The number of their loop.
const DAEMON_SETS: u64 = 0;

/// What there is, read when something of it has changed.
#[derive(Default)]
pub struct Seen {
    pub pods: Vec<Value>,
    pub sets: Vec<Value>,
    pub nodes: Vec<Value>,
    stale: bool,
    /// The machines have not looked at it yet.
    news: bool,
}

pub struct World {
    pub dice: Dice,
    pub objects: Objects,
    clock: Clock,
    endpoint: Endpoint,
    machines: BTreeMap<String, Machine>,
    /// When each machine has something to do at the latest.
    heartbeat_at: Timestamp,
    judge: judge::Judge,
    seen: Seen,
    /// The revision after which the judge looked last.
    judged: u64,
    story: bool,
    made: u64,
    _dir: tempfile::TempDir,
}

impl World {
    pub async fn new(dice: Dice, story: bool) -> World {
        // In memory: a history has thousands of writes, and a disk would be asked to sync each.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let start = Timestamp::from_second(1_000_000_000).unwrap();
        let clock = Clock::at(start);
        let objects = Objects::new(store, clock.clone());
        let endpoint = Endpoint::new(&objects);
        let mut world = World {
            dice,
            objects,
            clock,
            endpoint,
            machines: BTreeMap::new(),
            heartbeat_at: start,
            judge: judge::Judge::default(),
            seen: Seen::default(),
            judged: 0,
            story,
            made: 0,
            _dir: dir,
        };
        for namespace in ["default", "kube-system", "kube-node-lease"] {
            world.create_namespace(namespace).await;
        }
        for _ in 0..world.dice.below(6) + 1 {
            world.join().await;
        }
        world
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn tell_story(&self, what: impl FnOnce() -> String) {
        if self.story {
            eprintln!("{:.0} {}", self.now(), what());
        }
    }

    /// Something happens: an edit, a fault, a repair.
    pub async fn happen(&mut self) {
        match self.dice.below(20) {
            0 | 1 => self.join().await,
            2 => self.remove_node().await,
            3 | 4 => self.cut(),
            5..=7 => self.mend().await,
            8 => self.restart_machine(),
            9 => self.fail_pod(),
            10 => self.restart_endpoint(),
            11 | 12 => self.create_set().await,
            13..=15 => self.edit_set().await,
            16 => self.delete_set().await,
            17 => self.delete_pod().await,
            18 => self.label_node().await,
            _ => self.namespaces().await,
        }
    }

    /// Ends all faults and takes back all bad edits.
    pub async fn heal(&mut self) {
        self.tell_story(|| "all faults end".into());
        self.mend().await;
        for set in self.list("apps/v1", "DaemonSet").await {
            let image =
                json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "good:last"}]);
            let strategy =
                json!([{"op": "replace", "path": "/spec/updateStrategy", "value": {"type": "RollingUpdate"}}]);
            for patch in [image, strategy] {
                let _ = self.patch("apps/v1", "DaemonSet", &set, "", Patch::Json(patch)).await;
            }
        }
    }

    /// Until nothing happens any more, which has to be so within a bound; then everything is as it should be.
    pub async fn come_to_rest(&mut self) {
        let until = later(self.now(), REST_WITHIN);
        let mut quiet_since = self.now();
        let mut before = self.picture().await;
        while self.now() < until {
            self.run_for(60).await;
            let picture = self.picture().await;
            if picture != before {
                (quiet_since, before) = (self.now(), picture);
            }
            // Longer than the longest wait that a failed pod may have.
            if later(quiet_since, 1200) < self.now() {
                break;
            }
        }
        self.judge.at_rest(self).await;
    }

    /// What should stand still at rest: pods and DaemonSets without their times.
    async fn picture(&self) -> BTreeSet<String> {
        let mut picture = BTreeSet::new();
        for (api_version, kind) in [("v1", "Pod"), ("apps/v1", "DaemonSet"), ("v1", "Namespace")] {
            for object in self.list(api_version, kind).await {
                picture.insert(format!(
                    "{kind} {} {} {}",
                    object["metadata"]["name"], object["metadata"]["uid"], object["status"]
                ));
            }
        }
        picture
    }

    /// Time passes; machines and loops work when they have something to do.
    pub async fn run_for(&mut self, seconds: u64) {
        let until = later(self.now(), seconds);
        loop {
            self.settle().await;
            if self.now() >= until {
                return;
            }
            let now = self.now();
            let machines = self.machines.values().filter_map(|machine| machine.next_at(now));
            let own = machines.chain([self.heartbeat_at]).chain(self.endpoint.next_at());
            let due = own.min().unwrap_or(until).min(until);
            self.clock.set(due.max(now + Duration::from_millis(1)));
            self.machines_work().await;
        }
    }

    /// The loops look at everything that is due, in any order; what they write the machines are told at once, by their sessions.
    async fn settle(&mut self) {
        // What others do is told before the next look; what the loop of the DaemonSets writes itself may come late.
        let mut outside = true;
        for _ in 0..LOOKS_MAX {
            if std::mem::take(&mut outside) || self.dice.one_in(2) {
                self.pump().await;
            }
            if self.seen.stale {
                // What machines and people have done is not the loops' doing.
                self.see().await;
                self.judge.before_step(&self.seen);
            }
            let first = self.dice.below(LOOPS);
            let mut looked = false;
            for which in 0..LOOPS {
                let which = (first + which) % LOOPS;
                looked = self.endpoint.step(which).await;
                if looked {
                    outside |= which != DAEMON_SETS;
                    break;
                }
            }
            let wrote = self.objects.store().get("/registry/").await.unwrap().revision > self.judged;
            if looked && wrote {
                self.judged = self.objects.store().get("/registry/").await.unwrap().revision;
                self.see().await;
                let mut judge = std::mem::take(&mut self.judge);
                judge.after_step(&self.seen);
                self.judge = judge;
            }
            if looked {
                continue;
            }
            outside = true;
            if self.behind().await {
                continue;
            }
            if !std::mem::take(&mut self.seen.news) {
                return;
            }
            self.machines_work().await;
        }
        panic!("the loops wake each other without end");
    }

    /// Something has not been told.
    async fn behind(&self) -> bool {
        self.endpoint.told < self.objects.store().get("/registry/").await.unwrap().revision
    }

    /// Every change is told.
    async fn pump(&mut self) {
        let newest = self.objects.store().get("/registry/").await.unwrap().revision;
        while self.endpoint.told < newest || self.endpoint.told == 0 {
            let told = self.endpoint.tower.next().await.unwrap();
            self.endpoint.tell(&told);
            self.seen.stale |= match &told {
                Told::Anew { .. } => true,
                Told::Changed(batch) => {
                    batch.changes.iter().any(|c| ["Pod", "DaemonSet", "Node"].contains(&c.kind.kind))
                }
            };
        }
    }

    async fn see(&mut self) {
        let (pods, sets, nodes) =
            (self.list("v1", "Pod").await, self.list("apps/v1", "DaemonSet").await, self.list("v1", "Node").await);
        self.seen = Seen { pods, sets, nodes, stale: false, news: true };
    }

    async fn machines_work(&mut self) {
        let now = self.now();
        if self.heartbeat_at <= now {
            self.heartbeat_at = later(now, HEARTBEAT);
            for machine in self.machines.values().filter(|machine| machine.up) {
                self.endpoint.contacts.heard(&machine.name, "");
            }
        }
        let pods = &self.seen.pods;
        let mut reports = Vec::new();
        for machine in self.machines.values_mut() {
            let mine: Vec<Value> =
                pods.iter().filter(|pod| pod["spec"]["nodeName"] == machine.name.as_str()).cloned().collect();
            let wanted = machine.up.then_some(&mine[..]);
            reports.extend(machine.work(wanted, now, &mut self.dice));
        }
        for report in reports {
            self.report(report).await;
        }
    }

    async fn report(&mut self, report: Report) {
        let pods = kind("v1", "Pod");
        match report {
            Report::Status { namespace, name, uid, status } => {
                self.tell_story(|| format!("pod {namespace}/{name} is {}", status["conditions"][1]["status"]));
                let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
                let _ = self.objects.patch(pods, &namespace, &name, "status", patch, &WriteOptions::default()).await;
            }
            Report::Gone { namespace, name, uid } => {
                self.tell_story(|| format!("pod {namespace}/{name} has ended"));
                let preconditions = Preconditions { uid: Some(uid), revision: None };
                let options = DeleteOptions { grace: Some(0), preconditions, ..DeleteOptions::default() };
                let _ = self.objects.delete(pods, &namespace, &name, &options).await;
            }
        }
    }

    async fn create_namespace(&mut self, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let _ = self.objects.create(kind("v1", "Namespace"), "", object, &WriteOptions::default()).await;
    }

    async fn join(&mut self) {
        self.made += 1;
        let name = format!("n{}", self.made);
        self.tell_story(|| format!("{name} joins"));
        let labels = json!({"daemon": "yes", "kubernetes.io/hostname": name});
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        self.objects.create(kind("v1", "Node"), "", object, &WriteOptions::default()).await.unwrap();
        self.endpoint.contacts.opened(&name);
        self.machines.insert(name.clone(), Machine::new(&name));
    }

    async fn remove_node(&mut self) {
        let Some(name) = self.some_machine(|_| true) else { return };
        self.tell_story(|| format!("{name} is removed"));
        self.machines.remove(&name);
        self.endpoint.contacts.closed(&name);
        self.objects.delete(kind("v1", "Node"), "", &name, &DeleteOptions::default()).await.unwrap();
    }

    fn some_machine(&mut self, which: impl Fn(&Machine) -> bool) -> Option<String> {
        let names: Vec<String> = self.machines.values().filter(|m| which(m)).map(|m| m.name.clone()).collect();
        self.dice.pick(&names).cloned()
    }

    fn cut(&mut self) {
        let Some(name) = self.some_machine(|machine| machine.up) else { return };
        self.tell_story(|| format!("{name} is cut off"));
        self.machines.get_mut(&name).unwrap().up = false;
    }

    async fn mend(&mut self) {
        self.tell_story(|| "links are mended".into());
        for machine in self.machines.values_mut().filter(|machine| !machine.up) {
            machine.reconnect();
            self.endpoint.contacts.opened(&machine.name);
        }
        self.machines_work().await;
    }

    fn restart_machine(&mut self) {
        let Some(name) = self.some_machine(|_| true) else { return };
        self.tell_story(|| format!("{name} starts anew"));
        let now = self.now();
        self.machines.get_mut(&name).unwrap().restart(now, &mut self.dice);
    }

    fn fail_pod(&mut self) {
        let Some(name) = self.some_machine(|_| true) else { return };
        self.tell_story(|| format!("a pod of {name} fails"));
        self.machines.get_mut(&name).unwrap().fail_one(&mut self.dice);
    }

    /// What it knew is gone; every node calls again at once.
    fn restart_endpoint(&mut self) {
        self.tell_story(|| "the endpoint starts anew".into());
        self.endpoint = Endpoint::new(&self.objects);
        for machine in self.machines.values().filter(|machine| machine.up) {
            self.endpoint.contacts.opened(&machine.name);
        }
    }

    async fn create_set(&mut self) {
        self.made += 1;
        let namespace = if self.dice.one_in(3) { "extra" } else { "default" };
        let name = format!("d{}", self.dice.below(3));
        let strategy = match self.dice.below(5) {
            0 => json!({"type": "OnDelete"}),
            1 => json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
            2 => json!({"rollingUpdate": {"maxUnavailable": "50%"}}),
            _ => json!({"rollingUpdate": {"maxUnavailable": 1}}),
        };
        let labels = json!({"app": name});
        let containers = json!([{"name": "main", "image": format!("good:{}", self.made)}]);
        let object = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "selector": {"matchLabels": labels}, "updateStrategy": strategy,
                "template": {"metadata": {"labels": labels}, "spec": {"nodeSelector": {"daemon": "yes"}, "containers": containers}},
            },
        });
        let created =
            self.objects.create(kind("apps/v1", "DaemonSet"), namespace, object, &WriteOptions::default()).await;
        self.tell_story(|| format!("DaemonSet {namespace}/{name} is created: {:?}", created.map(|_| ())));
    }

    async fn some_set(&mut self) -> Option<Value> {
        let sets = self.list("apps/v1", "DaemonSet").await;
        self.dice.pick(&sets).cloned()
    }

    async fn edit_set(&mut self) {
        let Some(set) = self.some_set().await else { return };
        self.made += 1;
        let image = if self.dice.one_in(4) { format!("bad:{}", self.made) } else { format!("good:{}", self.made) };
        self.tell_story(|| format!("DaemonSet {} gets image {image}", set["metadata"]["name"]));
        let patch = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]);
        let _ = self.patch("apps/v1", "DaemonSet", &set, "", Patch::Json(patch)).await;
    }

    async fn delete_set(&mut self) {
        let Some(set) = self.some_set().await else { return };
        let how = *self.dice.pick(&[Propagation::Background, Propagation::Foreground, Propagation::Orphan]).unwrap();
        self.tell_story(|| format!("DaemonSet {} is deleted: {how:?}", set["metadata"]["name"]));
        let options = DeleteOptions { propagation: Some(how), ..DeleteOptions::default() };
        let (namespace, name) = place(&set);
        let _ = self.objects.delete(kind("apps/v1", "DaemonSet"), &namespace, &name, &options).await;
    }

    async fn delete_pod(&mut self) {
        let pods = self.list("v1", "Pod").await;
        let Some((namespace, name)) = self.dice.pick(&pods).map(place) else { return };
        self.tell_story(|| format!("pod {namespace}/{name} is deleted by a person"));
        let _ = self.objects.delete(kind("v1", "Pod"), &namespace, &name, &DeleteOptions::default()).await;
        self.judge.forgive(&name);
    }

    async fn label_node(&mut self) {
        let nodes = self.list("v1", "Node").await;
        let Some(node) = self.dice.pick(&nodes).cloned() else { return };
        let wanted = if node["metadata"]["labels"]["daemon"] == "yes" { "no" } else { "yes" };
        self.tell_story(|| format!("node {} gets the label daemon={wanted}", node["metadata"]["name"]));
        let patch = Patch::Merge(json!({"metadata": {"labels": {"daemon": wanted}}}));
        let _ = self.patch("v1", "Node", &node, "", patch).await;
    }

    async fn namespaces(&mut self) {
        if self.dice.one_in(2) {
            self.tell_story(|| "namespace extra is deleted".into());
            let _ = self.objects.delete(kind("v1", "Namespace"), "", "extra", &DeleteOptions::default()).await;
        } else {
            self.tell_story(|| "namespace extra is created".into());
            self.create_namespace("extra").await;
        }
    }

    async fn patch(&self, api_version: &str, of: &str, object: &Value, sub: &str, patch: Patch) -> Result<(), String> {
        let (namespace, name) = place(object);
        let (kind, options) = (kind(api_version, of), WriteOptions::default());
        let written = self.objects.patch(kind, &namespace, &name, sub, patch, &options).await;
        written.map(|_| ()).map_err(|error| error.to_string())
    }

    pub async fn list(&self, api_version: &str, of: &str) -> Vec<Value> {
        self.objects.list(kind(api_version, of), None, &ListQuery::default()).await.unwrap().items
    }
}

pub fn place(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}
