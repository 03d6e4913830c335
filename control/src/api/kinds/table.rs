//! The rows of [`super`], as Kubernetes 1.36's discovery has them, less what is not offered here.

use k8s_openapi::api::{apps, authentication, authorization, coordination, core, discovery, events, rbac, scheduling};

use super::{Kind, Subresource};
use crate::api::schema::{PLAIN, kinds as rows};
use crate::api::strategy as of;
use crate::api::typed::check;

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const ONE_BY_ONE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const STATUS: &[&str] = &["get", "patch", "update"];

/// What most rows share.
const BASE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    resource: "",
    singular: "",
    short: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL,
    subresources: &[],
    place: "",
    schema: &PLAIN,
    check: check::<serde_json::Value>,
    strategy: &of::Plain,
};

const fn status(group: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", kind: (group, "v1", kind), verbs: STATUS }
}

const fn action(name: &'static str, kind: (&'static str, &'static str, &'static str)) -> Subresource {
    Subresource { name, kind, verbs: CREATE }
}

/// All kinds: v1 first, then the groups in the order of discovery.
pub fn kinds() -> &'static [Kind] {
    KINDS
}

static KINDS: &[Kind] = &[
    Kind {
        kind: "ConfigMap",
        resource: "configmaps",
        singular: "configmap",
        short: &["cm"],
        place: "core/configmaps",
        schema: &rows::CONFIG_MAP,
        check: check::<core::v1::ConfigMap>,
        strategy: &of::ConfigMap,
        ..BASE
    },
    Kind {
        kind: "Event",
        resource: "events",
        singular: "event",
        short: &["ev"],
        place: "core/events",
        schema: &rows::EVENT,
        check: check::<core::v1::Event>,
        strategy: &of::Event,
        ..BASE
    },
    Kind {
        kind: "Namespace",
        resource: "namespaces",
        singular: "namespace",
        short: &["ns"],
        namespaced: false,
        verbs: ONE_BY_ONE,
        subresources: &[
            Subresource { name: "finalize", kind: ("", "v1", "Namespace"), verbs: &["update"] },
            status("", "Namespace"),
        ],
        place: "core/namespaces",
        schema: &rows::NAMESPACE,
        check: check::<core::v1::Namespace>,
        strategy: &of::Namespace,
        ..BASE
    },
    Kind {
        kind: "Node",
        resource: "nodes",
        singular: "node",
        short: &["no"],
        namespaced: false,
        subresources: &[status("", "Node")],
        place: "core/nodes",
        schema: &rows::NODE,
        check: check::<core::v1::Node>,
        strategy: &of::Node,
        ..BASE
    },
    Kind {
        kind: "Pod",
        resource: "pods",
        singular: "pod",
        short: &["po"],
        categories: &["all"],
        subresources: &[
            action("binding", ("", "v1", "Binding")),
            action("eviction", ("policy", "v1", "Eviction")),
            Subresource { name: "log", kind: ("", "v1", "Pod"), verbs: GET },
            status("", "Pod"),
        ],
        place: "core/pods",
        schema: &rows::POD,
        check: check::<core::v1::Pod>,
        strategy: &of::Pod,
        ..BASE
    },
    Kind {
        kind: "Secret",
        resource: "secrets",
        singular: "secret",
        place: "core/secrets",
        schema: &rows::SECRET,
        check: check::<core::v1::Secret>,
        strategy: &of::Secret,
        ..BASE
    },
    Kind {
        kind: "ServiceAccount",
        resource: "serviceaccounts",
        singular: "serviceaccount",
        short: &["sa"],
        subresources: &[action("token", ("authentication.k8s.io", "v1", "TokenRequest"))],
        place: "core/serviceaccounts",
        schema: &rows::SERVICE_ACCOUNT,
        check: check::<core::v1::ServiceAccount>,
        strategy: &of::ServiceAccount,
        ..BASE
    },
    Kind {
        kind: "Service",
        resource: "services",
        singular: "service",
        short: &["svc"],
        categories: &["all"],
        subresources: &[status("", "Service")],
        place: "core/services",
        schema: &rows::SERVICE,
        check: check::<core::v1::Service>,
        strategy: &of::Service,
        ..BASE
    },
    Kind {
        group: "apps",
        kind: "ControllerRevision",
        resource: "controllerrevisions",
        singular: "controllerrevision",
        place: "apps/controllerrevisions",
        schema: &rows::CONTROLLER_REVISION,
        check: check::<apps::v1::ControllerRevision>,
        strategy: &of::ControllerRevision,
        ..BASE
    },
    Kind {
        group: "apps",
        kind: "DaemonSet",
        resource: "daemonsets",
        singular: "daemonset",
        short: &["ds"],
        categories: &["all"],
        subresources: &[status("apps", "DaemonSet")],
        place: "apps/daemonsets",
        schema: &rows::DAEMON_SET,
        check: check::<apps::v1::DaemonSet>,
        strategy: &of::DaemonSet,
        ..BASE
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        resource: "selfsubjectreviews",
        singular: "selfsubjectreview",
        namespaced: false,
        verbs: CREATE,
        check: check::<authentication::v1::SelfSubjectReview>,
        ..BASE
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "TokenReview",
        resource: "tokenreviews",
        singular: "tokenreview",
        namespaced: false,
        verbs: CREATE,
        check: check::<authentication::v1::TokenReview>,
        ..BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "LocalSubjectAccessReview",
        resource: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        verbs: CREATE,
        check: check::<authorization::v1::LocalSubjectAccessReview>,
        ..BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        resource: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        namespaced: false,
        verbs: CREATE,
        check: check::<authorization::v1::SelfSubjectAccessReview>,
        ..BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        resource: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        namespaced: false,
        verbs: CREATE,
        check: check::<authorization::v1::SelfSubjectRulesReview>,
        ..BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        resource: "subjectaccessreviews",
        singular: "subjectaccessreview",
        namespaced: false,
        verbs: CREATE,
        check: check::<authorization::v1::SubjectAccessReview>,
        ..BASE
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        resource: "leases",
        singular: "lease",
        place: "coordination.k8s.io/leases",
        schema: &rows::LEASE,
        check: check::<coordination::v1::Lease>,
        strategy: &of::Lease,
        ..BASE
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        resource: "endpointslices",
        singular: "endpointslice",
        place: "discovery.k8s.io/endpointslices",
        schema: &rows::ENDPOINT_SLICE,
        check: check::<discovery::v1::EndpointSlice>,
        strategy: &of::EndpointSlice,
        ..BASE
    },
    Kind {
        group: "events.k8s.io",
        kind: "Event",
        resource: "events",
        singular: "event",
        short: &["ev"],
        place: "core/events",
        schema: &rows::EVENTS_EVENT,
        check: check::<events::v1::Event>,
        strategy: &of::EventsEvent,
        ..BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        resource: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        place: "rbac.authorization.k8s.io/clusterrolebindings",
        schema: &rows::CLUSTER_ROLE_BINDING,
        check: check::<rbac::v1::ClusterRoleBinding>,
        strategy: &of::Binding,
        ..BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        resource: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        place: "rbac.authorization.k8s.io/clusterroles",
        schema: &rows::CLUSTER_ROLE,
        check: check::<rbac::v1::ClusterRole>,
        strategy: &of::Role,
        ..BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        resource: "rolebindings",
        singular: "rolebinding",
        place: "rbac.authorization.k8s.io/rolebindings",
        schema: &rows::ROLE_BINDING,
        check: check::<rbac::v1::RoleBinding>,
        strategy: &of::Binding,
        ..BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        resource: "roles",
        singular: "role",
        place: "rbac.authorization.k8s.io/roles",
        schema: &rows::ROLE,
        check: check::<rbac::v1::Role>,
        strategy: &of::Role,
        ..BASE
    },
    Kind {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        resource: "priorityclasses",
        singular: "priorityclass",
        short: &["pc"],
        namespaced: false,
        place: "scheduling.k8s.io/priorityclasses",
        schema: &rows::PRIORITY_CLASS,
        check: check::<scheduling::v1::PriorityClass>,
        strategy: &of::PriorityClass,
        ..BASE
    },
];
