//! The objects that are there from the beginning: made at each start where they are missing.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::kinds::{self, Kind};
use crate::api::objects::{FieldValidation, Objects, WriteOptions};
use crate::door::rules::bootstrap as roles;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Kubernetes' own two classes and their values: what a node cannot be without, and what a cluster cannot.
const CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// Makes what is missing.
pub async fn ensure(objects: &Objects) -> Result<(), ApiError> {
    for name in NAMESPACES {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        create(objects, kind("", "namespaces"), namespace).await?;
    }
    for (name, value, description) in CLASSES {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": { "name": name }, "value": value, "globalDefault": false, "description": description,
        });
        create(objects, kind("scheduling.k8s.io", "priorityclasses"), class).await?;
    }
    for (resource, wanted) in roles::objects() {
        let kind = kind("rbac.authorization.k8s.io", resource);
        if create(objects, kind, wanted.clone()).await? {
            continue;
        }
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let stored = objects.get(kind, "", name).await?;
        if let Some(amended) = roles::amended(&stored, &wanted) {
            match objects.update(kind, "", name, "", amended, &options()).await {
                // Another endpoint that starts does the same.
                Err(error) if !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// True: it was not there.
async fn create(objects: &Objects, kind: &'static Kind, object: Value) -> Result<bool, ApiError> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    match objects.create(kind, &namespace, object, &options()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

fn options() -> WriteOptions {
    WriteOptions {
        manager: "daemonlet-control".into(),
        user: "system:daemonlet-control".into(),
        validation: FieldValidation::Ignore,
        ..WriteOptions::default()
    }
}

fn kind(group: &str, resource: &str) -> &'static Kind {
    kinds::by_resource(group, "v1", resource).expect("the table of kinds has every resource that is named here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::embedded::Embedded;

    #[tokio::test]
    async fn what_is_missing_is_made_and_what_is_there_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let objects = Objects::new(store, Clock::system());
        ensure(&objects).await.unwrap();
        let namespaces = kind("", "namespaces");
        let made = objects.get(namespaces, "", "kube-system").await.unwrap();
        let roles = kind("rbac.authorization.k8s.io", "clusterroles");
        let mut view = objects.get(roles, "", "view").await.unwrap();
        let whole = view["rules"].clone();
        view["rules"] = json!([]);
        view["metadata"]["labels"]["mine"] = json!("yes");
        objects.update(roles, "", "view", "", view, &options()).await.unwrap();
        ensure(&objects).await.unwrap();
        assert_eq!(objects.get(namespaces, "", "kube-system").await.unwrap(), made);
        let view = objects.get(roles, "", "view").await.unwrap();
        assert_eq!((&view["rules"], &view["metadata"]["labels"]["mine"]), (&whole, &json!("yes")));
        for (name, _, _) in CLASSES {
            objects.get(kind("scheduling.k8s.io", "priorityclasses"), "", name).await.unwrap();
        }
    }
}
