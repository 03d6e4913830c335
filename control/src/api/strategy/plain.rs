//! Kinds without rules of their own yet.

use super::Strategy;

macro_rules! plain {
    ($($name:ident),*) => {$(
        #[derive(Debug)]
        pub struct $name;
        impl Strategy for $name {}
    )*};
}

plain!(
    Plain,
    ConfigMap,
    Event,
    EventsEvent,
    Namespace,
    Node,
    Pod,
    Secret,
    ServiceAccount,
    Service,
    ControllerRevision,
    DaemonSet,
    Lease,
    EndpointSlice,
    Binding,
    Role,
    PriorityClass
);
