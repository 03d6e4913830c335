//! The endpoint as its own Service: default/kubernetes, by which clients inside of pods know it, and its EndpointSlice.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::of::{ENDPOINT_SLICES, SERVICES, writer};
use super::queue::Looked;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::objects::{DeleteOptions, Objects};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// Where the endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub ip: IpAddr,
    pub port: u16,
}

/// See the top of the file.
pub struct Itself {
    objects: Objects,
    address: Address,
}

impl Itself {
    pub fn new(objects: Objects, address: Address) -> Itself {
        Itself { objects, address }
    }

    /// Makes it, or puts back the fields that say where the endpoint is.
    async fn ensure(&self, kind: &'static Kind, wanted: Value, fields: &[&str]) -> Result<(), ApiError> {
        let mut known = match self.objects.get(kind, NAMESPACE, NAME).await {
            Ok(known) => known,
            Err(error) if error.is_not_found() => {
                return match self.objects.create(kind, NAMESPACE, wanted, &writer()).await {
                    Err(error) if !error.is_already_exists() => Err(error),
                    Ok(_) | Err(_) => Ok(()),
                };
            }
            Err(error) => return Err(error),
        };
        if fields.iter().all(|field| known[field] == wanted[field]) {
            return Ok(());
        }
        for field in fields {
            known[field] = wanted[field].clone();
        }
        self.objects.update(kind, NAMESPACE, NAME, "", known, &writer()).await.map(|_| ())
    }

    fn service(&self) -> Value {
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let port =
            json!({"name": "https", "port": self.address.port, "protocol": "TCP", "targetPort": self.address.port});
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
            "spec": {"type": "ClusterIP", "clusterIP": "None", "ports": [port], "sessionAffinity": "None"},
        })
    }

    fn slice(&self) -> Value {
        let family = if self.address.ip.is_ipv4() { "IPv4" } else { "IPv6" };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
            "addressType": family,
            "endpoints": [{"addresses": [self.address.ip.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": self.address.port, "protocol": "TCP"}],
        })
    }
}

impl Looks for Itself {
    type Key = ();
    const NAME: &'static str = "itself";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<()>) -> Result<(), ApiError> {
        wake.push(());
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<()>) {
        let ours = change.kind == *SERVICES || change.kind == *ENDPOINT_SLICES;
        if ours && (change.namespace.as_str(), change.name.as_str()) == (NAMESPACE, NAME) {
            wake.push(());
        }
    }

    async fn look(&mut self, (): &(), _now: Timestamp, _wake: &mut Vec<()>) -> Result<Looked, ApiError> {
        // A Service that somebody else has made, with an address of its own, stays: pods are told the address and not the name.
        let service = self.objects.get(*SERVICES, NAMESPACE, NAME).await;
        if service.as_ref().err().is_some_and(ApiError::is_not_found) {
            self.ensure(*SERVICES, self.service(), &[]).await?;
        } else {
            service?;
        }
        let slice = self.slice();
        // The family of a slice cannot change.
        let known = self.objects.get(*ENDPOINT_SLICES, NAMESPACE, NAME).await;
        if known.is_ok_and(|known| known["addressType"] != slice["addressType"]) {
            self.objects.delete(*ENDPOINT_SLICES, NAMESPACE, NAME, &DeleteOptions::default()).await?;
        }
        self.ensure(*ENDPOINT_SLICES, slice, &["endpoints", "ports"]).await?;
        Ok(Looked::Done(None))
    }
}
