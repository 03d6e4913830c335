//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`, made again when somebody takes them away.

use jiff::Timestamp;
use serde_json::json;

use super::namespaces::is_open;
use super::of::{self, CONFIG_MAPS, NAMESPACES, SERVICE_ACCOUNTS, writer};
use super::queue::Looked;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::objects::Objects;

const ACCOUNT: &str = "default";
const AUTHORITY: &str = "kube-root-ca.crt";
/// The key of the ConfigMap, where clients inside of pods look.
const AUTHORITY_KEY: &str = "ca.crt";

/// See the top of the file.
pub struct Accounts {
    objects: Objects,
    /// The authority of the endpoint's certificate, in PEM.
    root_ca: String,
}

impl Accounts {
    pub fn new(objects: Objects, root_ca: String) -> Accounts {
        Accounts { objects, root_ca }
    }

    async fn account(&self, namespace: &str) -> Result<(), ApiError> {
        match self.objects.get(*SERVICE_ACCOUNTS, namespace, ACCOUNT).await {
            Err(error) if error.is_not_found() => {}
            found => return found.map(|_| ()),
        }
        let metadata = json!({"name": ACCOUNT, "namespace": namespace});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
        exists_is_fine(self.objects.create(*SERVICE_ACCOUNTS, namespace, account, &writer()).await)
    }

    async fn authority(&self, namespace: &str) -> Result<(), ApiError> {
        let data = json!({AUTHORITY_KEY: self.root_ca});
        match self.objects.get(*CONFIG_MAPS, namespace, AUTHORITY).await {
            Ok(known) if known["data"] == data => Ok(()),
            Ok(mut known) => {
                known["data"] = data;
                self.objects.update(*CONFIG_MAPS, namespace, AUTHORITY, "", known, &writer()).await.map(|_| ())
            }
            Err(error) if error.is_not_found() => {
                let about = "The authority of this endpoint's certificate, for clients inside of pods.";
                let annotations = json!({"kubernetes.io/description": about});
                let metadata = json!({"name": AUTHORITY, "namespace": namespace, "annotations": annotations});
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
                exists_is_fine(self.objects.create(*CONFIG_MAPS, namespace, map, &writer()).await)
            }
            Err(error) => Err(error),
        }
    }
}

impl Looks for Accounts {
    type Key = String;
    const NAME: &'static str = "accounts";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<String>) -> Result<(), ApiError> {
        of::each(&self.objects, *NAMESPACES, None, None, |namespace| {
            wake.push(of::meta(&namespace, "name").to_owned())
        })
        .await?;
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<String>) {
        if change.kind == *NAMESPACES && change.is_creation() {
            wake.push(change.name.clone());
        } else if change.kind == *SERVICE_ACCOUNTS && change.name == ACCOUNT && change.is_deletion()
            || change.kind == *CONFIG_MAPS && change.name == AUTHORITY && !change.is_creation()
        {
            wake.push(change.namespace.clone());
        }
    }

    async fn look(&mut self, name: &String, _now: Timestamp, _wake: &mut Vec<String>) -> Result<Looked, ApiError> {
        match self.objects.get(*NAMESPACES, "", name).await {
            Ok(namespace) if is_open(&namespace) => {}
            Err(error) if !error.is_not_found() => return Err(error),
            Ok(_) | Err(_) => return Ok(Looked::Gone),
        }
        self.account(name).await?;
        self.authority(name).await?;
        Ok(Looked::Gone)
    }
}

fn exists_is_fine<T>(created: Result<T, ApiError>) -> Result<(), ApiError> {
    match created {
        Err(error) if !error.is_already_exists() => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}
