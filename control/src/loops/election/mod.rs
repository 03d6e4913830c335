//! Of several endpoints over one store, one runs the loops: the one that holds the Lease. It gives the Lease back when it stops, so that another
//! begins at once.

pub mod decide;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::decide::{LEASE_SECONDS, Lease, Memory, Verdict, decide};
use super::of::{self, LEASES, writer};
use crate::api::error::ApiError;
use crate::api::objects::Objects;
use crate::clock::micros;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "daemonlet-control";

/// One who would run the loops.
pub struct Candidate {
    objects: Objects,
    /// Different for every process.
    me: String,
    memory: Memory,
}

impl Candidate {
    pub fn new(objects: Objects, me: String) -> Candidate {
        Candidate { objects, me, memory: Memory::default() }
    }

    /// Takes or renews the Lease where that is its turn. Whether it holds the Lease now; an error says nothing about that.
    pub async fn stand(&mut self) -> Result<bool, ApiError> {
        let now = self.objects.clock().now();
        let known = self.read().await?;
        let written = match decide(known.as_ref().map(lease).as_ref(), &mut self.memory, &self.me, now) {
            Verdict::Wait => return Ok(false),
            Verdict::Renew => self.write(known, &self.me, None, now).await,
            Verdict::Take { transitions } => self.write(known, &self.me, Some(transitions), now).await,
        };
        match written {
            // Another was faster.
            Err(error) if error.is_conflict() || error.is_already_exists() => Ok(false),
            written => written.map(|()| true),
        }
    }

    /// Gives the Lease back, if it is its own.
    pub async fn resign(&mut self) -> Result<(), ApiError> {
        let now = self.objects.clock().now();
        match self.read().await? {
            Some(known) if lease(&known).holder == self.me => self.write(Some(known), "", None, now).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn read(&self) -> Result<Option<Value>, ApiError> {
        match self.objects.get(*LEASES, NAMESPACE, NAME).await {
            Ok(lease) => Ok(Some(lease)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `transitions`: with a change of the holder.
    async fn write(
        &self,
        known: Option<Value>,
        holder: &str,
        transitions: Option<u32>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let metadata = json!({"name": NAME, "namespace": NAMESPACE});
        let fresh = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": {}});
        let exists = known.is_some();
        // With the resourceVersion that was read: of two that write, one is refused.
        let mut lease = known.unwrap_or(fresh);
        match lease["spec"].as_object_mut() {
            // An empty name is none that a Lease may have.
            Some(spec) if holder.is_empty() => {
                spec.remove("holderIdentity");
            }
            _ => lease["spec"]["holderIdentity"] = json!(holder),
        }
        lease["spec"]["leaseDurationSeconds"] = json!(LEASE_SECONDS);
        lease["spec"]["renewTime"] = json!(micros(now));
        if let Some(transitions) = transitions {
            lease["spec"]["leaseTransitions"] = json!(transitions);
            lease["spec"]["acquireTime"] = json!(micros(now));
        }
        let written = match exists {
            true => self.objects.update(*LEASES, NAMESPACE, NAME, "", lease, &writer()).await,
            false => self.objects.create(*LEASES, NAMESPACE, lease, &writer()).await,
        };
        written.map(|_| ())
    }
}

fn lease(object: &Value) -> Lease {
    let spec = &object["spec"];
    Lease {
        holder: spec["holderIdentity"].as_str().unwrap_or_default().to_owned(),
        duration: Duration::from_secs(spec["leaseDurationSeconds"].as_u64().unwrap_or(0)),
        renewed: of::moment(&spec["renewTime"]),
        transitions: spec["leaseTransitions"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
    }
}
