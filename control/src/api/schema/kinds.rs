//! The tables of [`super`]: from the OpenAPI document of Kubernetes 1.36 (`x-kubernetes-list-type`, `-list-map-keys`,
//! `-map-type`, `-patch-strategy`, `-patch-merge-key`), in the order of the types' names. A test compares them with the Kubernetes types.

use super::{Apply, List, PLAIN, Patch, Shape, Type, atomic, keyed, keyed_replaced, set};

/// The type of a kind's objects. None: a kind that is not offered.
pub fn kind(group: &str, kind: &str) -> Option<&'static Type> {
    Some(match (group, kind) {
        ("", "Namespace") => &NAMESPACE,
        ("", "Node") => &NODE,
        ("", "Pod") => &POD,
        ("", "ConfigMap") => &CONFIG_MAP,
        ("", "Secret") => &SECRET,
        ("", "Event") => &EVENT,
        ("", "ServiceAccount") => &SERVICE_ACCOUNT,
        ("", "Service") => &SERVICE,
        ("apps", "DaemonSet") => &DAEMON_SET,
        ("apps", "ControllerRevision") => &CONTROLLER_REVISION,
        ("scheduling.k8s.io", "PriorityClass") => &PRIORITY_CLASS,
        ("discovery.k8s.io", "EndpointSlice") => &ENDPOINT_SLICE,
        ("coordination.k8s.io", "Lease") => &LEASE,
        ("events.k8s.io", "Event") => &EVENTS_EVENT,
        ("rbac.authorization.k8s.io", "Role") => &ROLE,
        ("rbac.authorization.k8s.io", "ClusterRole") => &CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => &ROLE_BINDING,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &CLUSTER_ROLE_BINDING,
        _ => return None,
    })
}

static AFFINITY: Type = Type(&[("nodeAffinity", Shape::Object(&NODE_AFFINITY))]);

static CSI_VOLUME_SOURCE: Type = Type(&[("nodePublishSecretRef", atomic(&PLAIN))]);

static CEPH_FS_VOLUME_SOURCE: Type = Type(&[("secretRef", atomic(&PLAIN))]);

static CINDER_VOLUME_SOURCE: Type = Type(&[("secretRef", atomic(&PLAIN))]);

pub(in crate::api) static CLUSTER_ROLE: Type = Type(&[("metadata", Shape::Object(&OBJECT_META))]);

pub(in crate::api) static CLUSTER_ROLE_BINDING: Type =
    Type(&[("metadata", Shape::Object(&OBJECT_META)), ("roleRef", atomic(&PLAIN))]);

pub(in crate::api) static CONFIG_MAP: Type = Type(&[("metadata", Shape::Object(&OBJECT_META))]);

static CONTAINER: Type = Type(&[
    ("env", keyed(&["name"], &ENV_VAR)),
    ("ports", keyed(&["containerPort", "protocol"], &PLAIN)),
    ("resources", Shape::Object(&RESOURCE_REQUIREMENTS)),
    ("volumeDevices", keyed(&["devicePath"], &PLAIN)),
    ("volumeMounts", keyed(&["mountPath"], &PLAIN)),
]);

pub(in crate::api) static CONTROLLER_REVISION: Type = Type(&[
    // Not in the document: a RawExtension is one value.
    ("data", atomic(&PLAIN)),
    ("metadata", Shape::Object(&OBJECT_META)),
]);

pub(in crate::api) static DAEMON_SET: Type = Type(&[
    ("metadata", Shape::Object(&OBJECT_META)),
    ("spec", Shape::Object(&DAEMON_SET_SPEC)),
    ("status", Shape::Object(&DAEMON_SET_STATUS)),
]);

static DAEMON_SET_SPEC: Type = Type(&[("selector", atomic(&PLAIN)), ("template", Shape::Object(&POD_TEMPLATE_SPEC))]);

static DAEMON_SET_STATUS: Type = Type(&[("conditions", keyed(&["type"], &PLAIN))]);

pub(in crate::api) static ENDPOINT_SLICE: Type = Type(&[("metadata", Shape::Object(&OBJECT_META))]);

static ENV_VAR: Type = Type(&[("valueFrom", Shape::Object(&ENV_VAR_SOURCE))]);

static ENV_VAR_SOURCE: Type = Type(&[
    ("configMapKeyRef", atomic(&PLAIN)),
    ("fieldRef", atomic(&PLAIN)),
    ("fileKeyRef", atomic(&PLAIN)),
    ("resourceFieldRef", atomic(&PLAIN)),
    ("secretKeyRef", atomic(&PLAIN)),
]);

static EPHEMERAL_CONTAINER: Type = Type(&[
    ("env", keyed(&["name"], &ENV_VAR)),
    ("ports", keyed(&["containerPort", "protocol"], &PLAIN)),
    ("resources", Shape::Object(&RESOURCE_REQUIREMENTS)),
    ("volumeDevices", keyed(&["devicePath"], &PLAIN)),
    ("volumeMounts", keyed(&["mountPath"], &PLAIN)),
]);

static EPHEMERAL_VOLUME_SOURCE: Type =
    Type(&[("volumeClaimTemplate", Shape::Object(&PERSISTENT_VOLUME_CLAIM_TEMPLATE))]);

pub(in crate::api) static EVENT: Type =
    Type(&[("involvedObject", atomic(&PLAIN)), ("metadata", Shape::Object(&OBJECT_META)), ("related", atomic(&PLAIN))]);

pub(in crate::api) static EVENTS_EVENT: Type =
    Type(&[("metadata", Shape::Object(&OBJECT_META)), ("regarding", atomic(&PLAIN)), ("related", atomic(&PLAIN))]);

static FLEX_VOLUME_SOURCE: Type = Type(&[("secretRef", atomic(&PLAIN))]);

static ISCSI_VOLUME_SOURCE: Type = Type(&[("secretRef", atomic(&PLAIN))]);

pub(in crate::api) static LEASE: Type = Type(&[("metadata", Shape::Object(&OBJECT_META))]);

pub(in crate::api) static NAMESPACE: Type =
    Type(&[("metadata", Shape::Object(&OBJECT_META)), ("status", Shape::Object(&NAMESPACE_STATUS))]);

static NAMESPACE_STATUS: Type = Type(&[("conditions", keyed(&["type"], &PLAIN))]);

pub(in crate::api) static NODE: Type = Type(&[
    ("metadata", Shape::Object(&OBJECT_META)),
    ("spec", Shape::Object(&NODE_SPEC)),
    ("status", Shape::Object(&NODE_STATUS)),
]);

static NODE_AFFINITY: Type = Type(&[("requiredDuringSchedulingIgnoredDuringExecution", atomic(&PLAIN))]);

static NODE_SPEC: Type = Type(&[("podCIDRs", set(Patch::Union))]);

static NODE_STATUS: Type = Type(&[("addresses", keyed(&["type"], &PLAIN)), ("conditions", keyed(&["type"], &PLAIN))]);

static OBJECT_META: Type = Type(&[("finalizers", set(Patch::Union)), ("ownerReferences", keyed(&["uid"], &PLAIN))]);

static PERSISTENT_VOLUME_CLAIM_SPEC: Type = Type(&[("dataSource", atomic(&PLAIN)), ("selector", atomic(&PLAIN))]);

static PERSISTENT_VOLUME_CLAIM_TEMPLATE: Type =
    Type(&[("metadata", Shape::Object(&OBJECT_META)), ("spec", Shape::Object(&PERSISTENT_VOLUME_CLAIM_SPEC))]);

pub(in crate::api) static POD: Type = Type(&[
    ("metadata", Shape::Object(&OBJECT_META)),
    ("spec", Shape::Object(&POD_SPEC)),
    ("status", Shape::Object(&POD_STATUS)),
]);

static POD_SPEC: Type = Type(&[
    ("affinity", Shape::Object(&AFFINITY)),
    ("containers", keyed(&["name"], &CONTAINER)),
    ("ephemeralContainers", keyed(&["name"], &EPHEMERAL_CONTAINER)),
    ("hostAliases", keyed(&["ip"], &PLAIN)),
    ("imagePullSecrets", keyed(&["name"], &PLAIN)),
    ("initContainers", keyed(&["name"], &CONTAINER)),
    ("nodeSelector", atomic(&PLAIN)),
    ("resourceClaims", keyed(&["name"], &PLAIN)),
    ("resources", Shape::Object(&RESOURCE_REQUIREMENTS)),
    ("schedulingGates", keyed(&["name"], &PLAIN)),
    ("topologySpreadConstraints", keyed(&["topologyKey", "whenUnsatisfiable"], &TOPOLOGY_SPREAD_CONSTRAINT)),
    ("volumes", keyed(&["name"], &VOLUME)),
]);

static POD_STATUS: Type = Type(&[
    ("conditions", keyed(&["type"], &PLAIN)),
    ("hostIPs", Shape::List(List { apply: Apply::Atomic, patch: Patch::ByKey("ip"), item: &PLAIN })),
    ("podIPs", keyed(&["ip"], &PLAIN)),
    ("resourceClaimStatuses", keyed(&["name"], &PLAIN)),
    ("resources", Shape::Object(&RESOURCE_REQUIREMENTS)),
]);

static POD_TEMPLATE_SPEC: Type = Type(&[("metadata", Shape::Object(&OBJECT_META)), ("spec", Shape::Object(&POD_SPEC))]);

pub(in crate::api) static PRIORITY_CLASS: Type = Type(&[("metadata", Shape::Object(&OBJECT_META))]);

static RBD_VOLUME_SOURCE: Type = Type(&[("secretRef", atomic(&PLAIN))]);

static RESOURCE_REQUIREMENTS: Type = Type(&[("claims", keyed_replaced(&["name"], &PLAIN))]);

pub(in crate::api) static ROLE: Type = Type(&[("metadata", Shape::Object(&OBJECT_META))]);

pub(in crate::api) static ROLE_BINDING: Type =
    Type(&[("metadata", Shape::Object(&OBJECT_META)), ("roleRef", atomic(&PLAIN))]);

static SCALE_IO_VOLUME_SOURCE: Type = Type(&[("secretRef", atomic(&PLAIN))]);

pub(in crate::api) static SECRET: Type = Type(&[("metadata", Shape::Object(&OBJECT_META))]);

pub(in crate::api) static SERVICE: Type = Type(&[
    ("metadata", Shape::Object(&OBJECT_META)),
    ("spec", Shape::Object(&SERVICE_SPEC)),
    ("status", Shape::Object(&SERVICE_STATUS)),
]);

pub(in crate::api) static SERVICE_ACCOUNT: Type =
    Type(&[("metadata", Shape::Object(&OBJECT_META)), ("secrets", keyed(&["name"], &PLAIN))]);

static SERVICE_SPEC: Type = Type(&[("ports", keyed(&["port", "protocol"], &PLAIN)), ("selector", atomic(&PLAIN))]);

static SERVICE_STATUS: Type = Type(&[("conditions", keyed(&["type"], &PLAIN))]);

static STORAGE_OS_VOLUME_SOURCE: Type = Type(&[("secretRef", atomic(&PLAIN))]);

static TOPOLOGY_SPREAD_CONSTRAINT: Type = Type(&[("labelSelector", atomic(&PLAIN))]);

static VOLUME: Type = Type(&[
    ("cephfs", Shape::Object(&CEPH_FS_VOLUME_SOURCE)),
    ("cinder", Shape::Object(&CINDER_VOLUME_SOURCE)),
    ("csi", Shape::Object(&CSI_VOLUME_SOURCE)),
    ("ephemeral", Shape::Object(&EPHEMERAL_VOLUME_SOURCE)),
    ("flexVolume", Shape::Object(&FLEX_VOLUME_SOURCE)),
    ("iscsi", Shape::Object(&ISCSI_VOLUME_SOURCE)),
    ("rbd", Shape::Object(&RBD_VOLUME_SOURCE)),
    ("scaleIO", Shape::Object(&SCALE_IO_VOLUME_SOURCE)),
    ("storageos", Shape::Object(&STORAGE_OS_VOLUME_SOURCE)),
]);
