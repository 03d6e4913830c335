//! The nodes' Leases: renewed by what was heard here. Every endpoint does that for the nodes that speak with it, so that the one that judges the nodes
//! knows of all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::LEASE_NAMESPACE;
use crate::api::error::ApiError;
use crate::api::objects::{Objects, Patch};
use crate::clock::micros;
use crate::contacts::{Contacts, GRACE, Heard};
use crate::daemonset::after;
use crate::loops::of::{self, LEASES, NODES, writer};
use crate::loops::queue::Looked;
use crate::loops::runner::Looks;
use crate::loops::told::Change;

/// In a small fleet: a quarter of the Lease's duration, as a kubelet does.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// In a large one: a write a node every 10 s would be most of what the store does. Still within the Lease's duration.
const RENEW_AT_MOST_EVERY: Duration = Duration::from_secs(30);
/// Renewals a second from which on they become rarer.
const RENEWALS_A_SECOND: u32 = 10;
/// `leaseDurationSeconds`, as a kubelet's.
const LEASE_SECONDS: i64 = 40;

/// See the top of the file.
pub struct Leases {
    objects: Objects,
    contacts: Contacts,
    /// When the Lease of each node was renewed last, by anybody.
    renewed: BTreeMap<String, Timestamp>,
    nodes: BTreeSet<String>,
}

impl Leases {
    pub fn new(objects: Objects, contacts: Contacts) -> Leases {
        Leases { objects, contacts, renewed: BTreeMap::new(), nodes: BTreeSet::new() }
    }

    async fn renew(&self, node: &str, at: Timestamp) -> Result<(), ApiError> {
        let renewed = json!(micros(at));
        if let Some(as_read) = of::moment(&renewed) {
            self.contacts.renewing(node, as_read);
        }
        let spec = json!({"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renewed});
        let patch = Patch::Merge(json!({"spec": spec}));
        match self.objects.patch(*LEASES, LEASE_NAMESPACE, node, "", patch, &writer()).await {
            Err(error) if error.is_not_found() => {}
            patched => return patched.map(|_| ()),
        }
        let owner = self.objects.get(*NODES, "", node).await?;
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner["metadata"]["uid"]});
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": node, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]}, "spec": spec,
        });
        self.objects.create(*LEASES, LEASE_NAMESPACE, lease, &writer()).await.map(|_| ())
    }
}

impl Looks for Leases {
    type Key = String;
    const NAME: &'static str = "leases";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<String>) -> Result<(), ApiError> {
        self.renewed.clear();
        of::each(&self.objects, *LEASES, Some(LEASE_NAMESPACE), None, |lease| {
            if let Some(at) = of::moment(&lease["spec"]["renewTime"]) {
                self.renewed.insert(of::meta(&lease, "name").to_owned(), at);
            }
        })
        .await?;
        of::each(&self.objects, *NODES, None, None, |node| wake.push(of::meta(&node, "name").to_owned())).await?;
        self.nodes = wake.iter().cloned().collect();
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<String>) {
        if change.kind == *LEASES && change.namespace == LEASE_NAMESPACE {
            match change.now().and_then(|lease| of::moment(&lease["spec"]["renewTime"])) {
                Some(at) => self.renewed.insert(change.name.clone(), at),
                None => self.renewed.remove(&change.name),
            };
            if change.is_deletion() {
                wake.push(change.name.clone());
            }
        }
        if change.kind == *NODES {
            if change.is_deletion() {
                self.nodes.remove(&change.name);
            } else {
                self.nodes.insert(change.name.clone());
            }
            wake.push(change.name.clone());
        }
    }

    async fn look(&mut self, node: &String, now: Timestamp, _wake: &mut Vec<String>) -> Result<Looked, ApiError> {
        if !self.nodes.contains(node) {
            return Ok(Looked::Gone);
        }
        let heard = self.contacts.of_here(node);
        match decide(self.renewed.get(node).copied(), &heard, self.nodes.len(), now) {
            Verdict::Renew(at) => {
                match self.renew(node, at).await {
                    Err(error) if error.is_not_found() => return Ok(Looked::Gone),
                    renewed => renewed?,
                }
                self.renewed.insert(node.clone(), at);
                Ok(Looked::Done(Some(after(now, renew_every(self.nodes.len())))))
            }
            Verdict::Wait(until) => Ok(Looked::Done(Some(until))),
            // Whether it is back is in memory: nothing is read for it.
            Verdict::Silent => Ok(Looked::Done(Some(after(now, RENEW_EVERY)))),
        }
    }
}

/// What a node's Lease needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// To this moment, at which it was heard.
    Renew(Timestamp),
    Wait(Timestamp),
    /// Nothing until it is heard again.
    Silent,
}

fn decide(renewed: Option<Timestamp>, heard: &Heard, fleet: usize, now: Timestamp) -> Verdict {
    if !heard.ever || after(heard.at, GRACE) <= now {
        return Verdict::Silent;
    }
    let every = renew_every(fleet);
    match renewed {
        // One that lies ahead is by a clock of another endpoint, and says nothing of when it is due.
        Some(before) if before <= now && heard.at < after(before, every) => {
            Verdict::Wait(after(before, every).max(after(now, RENEW_EVERY / 10)))
        }
        Some(_) | None => Verdict::Renew(heard.at),
    }
}

fn renew_every(fleet: usize) -> Duration {
    let seconds = u32::try_from(fleet).unwrap_or(u32::MAX) / RENEWALS_A_SECOND;
    Duration::from_secs(u64::from(seconds)).clamp(RENEW_EVERY, RENEW_AT_MOST_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contacts::Health;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn heard(second: i64) -> Heard {
        Heard { at: at(second), ever: true, health: Health::Ready, connected: true }
    }

    #[test]
    fn leases_are_renewed_by_what_was_heard_and_less_often_in_a_large_fleet() {
        let renewals = |fleet| {
            let (mut renewed, mut times) = (None, Vec::new());
            for second in 0..=60 {
                if let Verdict::Renew(moment) = decide(renewed, &heard(second), fleet, at(second)) {
                    times.push(moment.as_second());
                    renewed = Some(moment);
                }
            }
            times
        };
        assert_eq!(renewals(1), [0, 10, 20, 30, 40, 50, 60]);
        assert_eq!(renewals(200), [0, 20, 40, 60]);
        assert_eq!(renewals(5000), [0, 30, 60]);
        assert_eq!(
            decide(Some(at(0)), &heard(0), 1, at(40)),
            Verdict::Wait(at(41)),
            "what was not heard renews nothing"
        );
        assert_eq!(decide(Some(at(0)), &heard(0), 1, at(50)), Verdict::Silent);
        assert_eq!(decide(Some(at(9999)), &heard(5), 1, at(6)), Verdict::Renew(at(5)));
    }
}
