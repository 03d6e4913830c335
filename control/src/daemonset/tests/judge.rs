//! What must hold of every decision, recounted without the code under test.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pod::placement::Placement;

use super::build::at;
use super::world::World;
use crate::daemonset::{Contact, Decision, Ending, HASH_LABEL, Node, Phase, Pod, Status, Step};
use crate::rollout::Strategy;

/// One node as a careful person would write it down.
struct Row<'a> {
    node: &'a Node,
    runs: bool,
    /// Ours or about to be, and not gone; oldest first.
    pods: Vec<&'a Pod>,
}

pub fn judge(world: &World, decision: &Decision) {
    let rows = rows(world);
    let hash = present_hash(world, decision);
    let sheet = Sheet { world, decision, hash: &hash, now: at(world.second) };
    sheet.only_ours_are_touched();
    sheet.creations_are_right(&rows);
    sheet.one_pod_a_node_is_left(&rows);
    sheet.lost_nodes_are_left_alone(&rows);
    sheet.the_budget_is_kept(&rows);
    sheet.the_status_is_a_recount(&rows);
}

struct Sheet<'a> {
    world: &'a World,
    decision: &'a Decision,
    hash: &'a str,
    now: Timestamp,
}

fn ours(world: &World, pod: &Pod) -> bool {
    let matches = pod.labels.get("app").is_some_and(|v| v == "d");
    match &pod.controller {
        Some(uid) => uid.0 == "ds" && (matches || pod.deletion.is_some()),
        None => matches && pod.deletion.is_none() && !world.daemonset.deleting,
    }
}

fn rows(world: &World) -> BTreeMap<&str, Row<'_>> {
    let mut rows: BTreeMap<&str, Row<'_>> = BTreeMap::new();
    for (name, node) in &world.seen.nodes {
        let kind = pod::name::WorkloadKind::DaemonSet;
        let runs = pod::placement::decide(&node.placed, kind, &world.daemonset.template) == Placement::Runs;
        rows.insert(name, Row { node, runs, pods: Vec::new() });
    }
    for pod in world.seen.pods.iter().filter(|p| ours(world, p)) {
        let over = pod.deletion.is_some() && pod.phase != Phase::Active;
        if let (false, Some(row)) = (over, pod.node.as_deref().and_then(|n| rows.get_mut(n))) {
            row.pods.push(pod);
        }
    }
    rows.values_mut().for_each(|r| r.pods.sort_by_key(|p| (p.created, p.name.clone())));
    rows
}

fn present_hash(world: &World, decision: &Decision) -> String {
    let made = decision.steps.iter().find_map(|s| match s {
        Step::CreateRevision { hash, .. } => Some(hash.clone()),
        _ => None,
    });
    made.unwrap_or_else(|| {
        let same = world.seen.revisions.iter().filter(|r| r.data == world.daemonset.template_data);
        let kept = same.filter(|r| r.controller.as_ref().is_some_and(|c| c.0 == "ds")).max_by_key(|r| r.number);
        kept.expect("a template has a revision, or gets one").labels[HASH_LABEL].clone()
    })
}

impl Sheet<'_> {
    fn deleted(&self, pod: &Pod) -> Option<&Ending> {
        self.decision.steps.iter().find_map(|s| match s {
            Step::DeletePod { uid, why, .. } if *uid == pod.uid => Some(why),
            _ => None,
        })
    }

    fn creates(&self) -> impl Iterator<Item = (&str, &str)> {
        self.decision.steps.iter().filter_map(|s| match s {
            Step::CreatePod { node, hash, .. } => Some((node.as_str(), hash.as_str())),
            _ => None,
        })
    }

    fn stays(&self, pod: &Pod) -> bool {
        pod.deletion.is_none() && self.deleted(pod).is_none()
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.labels[HASH_LABEL] == self.hash
    }

    fn ready(&self, pod: &Pod) -> bool {
        pod.phase == Phase::Active && pod.ready_since.is_some()
    }

    fn available(&self, pod: &Pod) -> bool {
        let proven = |ready: Timestamp| {
            self.now.as_second() - ready.as_second() >= self.world.daemonset.min_ready.as_secs() as i64
        };
        pod.phase == Phase::Active && pod.ready_since.is_some_and(proven)
    }

    fn surges(&self) -> bool {
        matches!(self.world.daemonset.strategy, Strategy::RollingUpdate { max_surge, .. } if max_surge.of(1) > 0)
    }

    fn only_ours_are_touched(&self) {
        for pod in self.world.seen.pods.iter().filter(|p| self.deleted(p).is_some()) {
            assert!(pod.controller.as_ref().is_some_and(|c| c.0 == "ds"), "{} is not ours to delete", pod.name);
        }
    }

    fn creations_are_right(&self, rows: &BTreeMap<&str, Row<'_>>) {
        for (node, hash) in self.creates() {
            let row = rows.get(node).unwrap_or_else(|| panic!("a pod without its node: {node}"));
            assert!(row.runs, "{node} is not a node for the daemon");
            assert_eq!(hash, self.hash);
            assert!(row.pods.len() <= usize::from(self.surges()), "{node} has pods that have not ended");
            assert!(!row.pods.iter().any(|p| p.deletion.is_none() && self.is_new(p)), "{node} has a new pod");
            assert_eq!(self.creates().filter(|(n, _)| *n == node).count(), 1, "{node} gets two pods");
        }
    }

    fn one_pod_a_node_is_left(&self, rows: &BTreeMap<&str, Row<'_>>) {
        for (name, row) in rows {
            let stay = row.pods.iter().filter(|p| p.controller.is_some() && self.stays(p));
            let (new, old): (Vec<&Pod>, Vec<&Pod>) = stay.partition(|p| self.is_new(p));
            let kinds = if self.surges() { vec![new.len(), old.len()] } else { vec![new.len() + old.len()] };
            assert!(kinds.iter().all(|n| *n <= 1), "{name} keeps {kinds:?} pods");
        }
        for pod in self.world.seen.pods.iter().filter(|p| p.controller.is_some() && ours(self.world, p)) {
            let homeless = pod.node.as_ref().is_some_and(|n| !rows.contains_key(n.as_str()));
            assert_eq!(homeless, self.deleted(pod) == Some(&Ending::NodeGone), "{}", pod.name);
        }
    }

    fn lost_nodes_are_left_alone(&self, rows: &BTreeMap<&str, Row<'_>>) {
        for row in rows.values().filter(|r| r.node.contact != Contact::Reached) {
            assert!(row.pods.iter().all(|p| self.deleted(p) != Some(&Ending::Update)));
        }
    }

    /// Desired, and not one that was lost before the update could touch it.
    fn inside(&self, row: &Row<'_>) -> bool {
        let Contact::Lost { since, .. } = &row.node.contact else { return row.runs };
        let limit = since.as_second() + 60;
        let touched = |p: &&&Pod| {
            let asked = self.world.asked.get(&p.uid).copied().or(p.deletion);
            self.is_new(p) && p.created.as_second() <= limit || asked.is_some_and(|d| d.as_second() <= limit)
        };
        row.runs && row.pods.iter().filter(touched).count() > 0
    }

    fn the_budget_is_kept(&self, rows: &BTreeMap<&str, Row<'_>>) {
        let Strategy::RollingUpdate { max_unavailable, max_surge } = self.world.daemonset.strategy else {
            assert!(self.world.seen.pods.iter().all(|p| self.deleted(p) != Some(&Ending::Update)));
            return;
        };
        let desired = rows.values().filter(|r| r.runs).count();
        let inside: Vec<&Row<'_>> = rows.values().filter(|r| self.inside(r)).collect();
        let taken = |good: &dyn Fn(&Pod) -> bool| {
            inside.iter().flat_map(|r| &r.pods).filter(|p| good(p) && self.deleted(p) == Some(&Ending::Update)).count()
        };
        let left = |good: &dyn Fn(&Pod) -> bool| {
            let has =
                |r: &&&Row<'_>| r.node.contact == Contact::Reached && r.pods.iter().any(|p| self.stays(p) && good(p));
            inside.iter().filter(has).count()
        };
        if self.surges() {
            for row in rows.values() {
                let handed = row.pods.iter().find(|p| self.ready(p) && self.deleted(p) == Some(&Ending::Update));
                let successor = row.pods.iter().any(|p| self.stays(p) && self.is_new(p) && self.available(p));
                assert!(handed.is_none() || successor, "a pod that serves is taken before its successor is available");
            }
            let max = max_surge.of(desired);
            let serving = |node: &str| rows[node].pods.iter().any(|p| self.ready(p) && self.stays(p));
            let added = self.creates().filter(|(node, _)| serving(node)).count();
            let doubled = |r: &&&Row<'_>| {
                r.pods.iter().any(|p| self.stays(p) && !self.is_new(p) && self.ready(p))
                    && r.pods.iter().any(|p| self.stays(p) && self.is_new(p))
            };
            assert!(added == 0 || inside.iter().filter(doubled).count() + added <= max, "surge beyond {max}");
            return;
        }
        let max = max_unavailable.of(desired).max(1);
        let (ready, available) = (|p: &Pod| self.ready(p), |p: &Pod| self.available(p));
        let (without_ready, without_available) = (inside.len() - left(&ready), inside.len() - left(&available));
        assert!(taken(&ready) == 0 || without_ready <= max, "{without_ready} nodes are not ready, of {max}");
        assert!(taken(&available) == 0 || without_available <= max, "{without_available} nodes are not available");
    }

    fn the_status_is_a_recount(&self, rows: &BTreeMap<&str, Row<'_>>) {
        let count = |of: &dyn Fn(&Row<'_>) -> bool| rows.values().filter(|r| of(r)).count() as u32;
        let oldest = |r: &Row<'_>, good: &dyn Fn(&Pod) -> bool| r.runs && r.pods.first().is_some_and(|p| good(p));
        let reached = |r: &Row<'_>| r.node.contact == Contact::Reached;
        let available = count(&|r| reached(r) && oldest(r, &|p| self.available(p)));
        let desired = count(&|r| r.runs);
        let wanted = Status {
            current_number_scheduled: count(&|r| r.runs && !r.pods.is_empty()),
            number_misscheduled: count(&|r| !r.runs && !r.pods.is_empty()),
            desired_number_scheduled: desired,
            number_ready: count(&|r| reached(r) && oldest(r, &|p| self.ready(p))),
            updated_number_scheduled: count(&|r| oldest(r, &|p| self.is_new(p))),
            number_available: available,
            number_unavailable: desired - available,
            observed_generation: self.world.daemonset.generation,
            ..self.decision.status.clone()
        };
        assert_eq!(self.decision.status, wanted);
    }
}
