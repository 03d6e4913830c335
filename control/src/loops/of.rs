//! The kinds that the loops name, and what they read of any object.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::kinds::{Kind, by_api_version};
use crate::api::objects::{FieldValidation, Objects, WriteOptions, prefix, readable};
use crate::store::{Range, Store as _};

/// Objects of a page: what is in memory at once.
const PAGE: usize = 250;
/// Who the loops are, for `managedFields` and in Events.
pub const MANAGER: &str = "daemonlet-control";

macro_rules! kinds {
    ($($name:ident = $version:literal $kind:literal;)*) => {$(
        pub static $name: LazyLock<&'static Kind> =
            LazyLock::new(|| by_api_version($version, $kind).expect("the table of kinds has this row"));
    )*};
}

kinds! {
    CONFIG_MAPS = "v1" "ConfigMap";
    DAEMON_SETS = "apps/v1" "DaemonSet";
    ENDPOINT_SLICES = "discovery.k8s.io/v1" "EndpointSlice";
    EVENTS = "v1" "Event";
    LEASES = "coordination.k8s.io/v1" "Lease";
    NAMESPACES = "v1" "Namespace";
    NODES = "v1" "Node";
    PODS = "v1" "Pod";
    REVISIONS = "apps/v1" "ControllerRevision";
    SECRETS = "v1" "Secret";
    SERVICES = "v1" "Service";
    SERVICE_ACCOUNTS = "v1" "ServiceAccount";
}

/// How the loops write.
pub fn writer() -> WriteOptions {
    WriteOptions {
        manager: MANAGER.to_owned(),
        user: format!("system:{MANAGER}"),
        validation: FieldValidation::Ignore,
        ..WriteOptions::default()
    }
}

/// Every object of a kind as of a revision, or as of now, a page at a time. The revision of the list. One that cannot be read holds up no loop.
pub async fn each(
    objects: &Objects,
    kind: &'static Kind,
    namespace: Option<&str>,
    as_of: Option<u64>,
    mut with: impl FnMut(Value) + Send,
) -> Result<u64, ApiError> {
    let mut range = Range { prefix: prefix(kind, namespace), limit: Some(PAGE), at: as_of, ..Range::default() };
    loop {
        let page = objects.store().list(&range).await?;
        page.entries.iter().filter_map(|entry| readable(kind, entry)).for_each(&mut with);
        match page.entries.last() {
            Some(last) if page.more => range.after = Some(last.key.clone()),
            _ => return Ok(page.revision.max(1)),
        }
        range.at = Some(page.revision);
    }
}

/// A field of the metadata; empty where there is none.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata.resourceVersion` as the store's number.
pub fn revision(object: &Value) -> u64 {
    meta(object, "resourceVersion").parse().unwrap_or(0)
}

/// Its deletion was asked for.
pub fn is_ending(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| list.iter().any(|f| f == finalizer))
}

/// Its `metadata.ownerReferences`.
pub fn owners(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map_or(&[], Vec::as_slice)
}

/// The uid of the owner with `controller: true`.
pub fn controller(object: &Value) -> Option<&str> {
    owners(object).iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
}

/// A moment of an object, where there is one that can be read.
pub fn moment(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

pub fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object();
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}
