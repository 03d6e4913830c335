//! What is special about each kind: its defaults, what its fields may be, what of it may change, and how it ends. One small file a kind; everything
//! that all kinds share is in `objects`.

mod configuration;
mod controller_revision;
mod daemonset;
mod endpoints;
mod event;
mod lease;
mod namespace;
mod node;
mod pod;
mod pod_admission;
mod pod_spec;
mod pod_template;
mod priority_class;
mod rbac;
mod runnable;
mod service_account;
#[cfg(test)]
mod tests;
pub mod tidy;

use jiff::Timestamp;
use serde_json::Value;

use super::invalid::Causes;
use super::kinds::Kind;

pub use configuration::{ConfigMap, Secret};
pub use controller_revision::ControllerRevision;
pub use daemonset::DaemonSet;
pub use endpoints::{EndpointSlice, Service};
pub use event::{Event, EventsEvent};
pub use lease::Lease;
pub use namespace::Namespace;
pub use node::Node;
pub use pod::Pod;
pub use priority_class::PriorityClass;
pub use rbac::{Binding, Role};
pub use service_account::ServiceAccount;

/// Kinds without rules of their own: the reviews.
#[derive(Debug)]
pub struct Plain;

impl Strategy for Plain {}

/// The rules of one kind. What is not overridden is what a kind without rules does.
pub trait Strategy: Sync {
    /// From the form of this view to the form in which the objects are kept. Only where two kinds share their objects.
    fn inward(&self, object: Value) -> Value {
        object
    }

    /// And back.
    fn outward(&self, object: Value) -> Value {
        object
    }

    /// Top fields that are kept as they came, nulls and all.
    fn verbatim(&self) -> &'static [&'static str] {
        &[]
    }

    /// Fields that are left out get their values. Idempotent.
    fn defaults(&self, _object: &mut Value) {}

    /// Other objects that [`admit`](Strategy::admit) looks at.
    fn references(&self, _object: &Value) -> Vec<Reference> {
        Vec::new()
    }

    /// What depends on other objects; `found` in the order of the references. Error: why it is forbidden.
    fn admit(&self, _object: &mut Value, _found: &[Option<Value>]) -> Result<(), String> {
        Ok(())
    }

    /// What a new object begins with: fields that only the server sets.
    fn prepare_create(&self, _object: &mut Value, _now: Timestamp) {}

    /// Whether the object is one. Names, labels, annotations and owners have been looked at.
    fn validate(&self, _object: &Value, _causes: &mut Causes) {}

    /// Whether what is new about a valid object can be used at all. `old`: None for a new one. `warnings` are for who writes it.
    fn judge(&self, _new: &Value, _old: Option<&Value>, _causes: &mut Causes, _warnings: &mut Vec<String>) {}

    /// What a writer at this door (`""`, `status`, …) cannot change is put back.
    fn prepare_update(&self, _sub: &str, _new: &mut Value, _old: &Value, _now: Timestamp) {}

    /// Which changes are refused.
    fn validate_update(&self, _sub: &str, _new: &Value, _old: &Value, _causes: &mut Causes) {}

    /// The top fields whose change raises `metadata.generation`; none: objects of this kind have no generation.
    fn generation_of(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether an update that names no resourceVersion is taken.
    fn takes_unconditional_update(&self) -> bool {
        true
    }

    /// Whether an update of what does not exist creates it.
    fn update_creates(&self) -> bool {
        false
    }

    /// Seconds that an object has to end, given what was asked. None: it goes at once.
    fn grace(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Why an object of this name must stay.
    fn keeps(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// What else the first deletion of an object changes. True: it stays until somebody has emptied it, as a namespace.
    fn begin_end(&self, _object: &mut Value) -> bool {
        false
    }

    /// Whether an object whose deletion was asked for may go, as far as this kind is concerned.
    fn may_go(&self, _object: &Value) -> bool {
        true
    }

    /// What a create request at this path below an object does to it.
    fn action(&self, _sub: &str) -> Option<Action> {
        None
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }
}

/// What a name of this kind may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 labels with dots, 253 characters.
    Subdomain,
    /// One label, 63 characters.
    Label,
    /// RFC 1035: a label that begins with a letter.
    Service,
    /// Whatever can be a segment of a path: roles and bindings.
    Path,
}

/// What can be done with an object beside writing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Its deletion, as a drain asks for it.
    Evict,
    /// It gets its node.
    Bind,
}

/// Another object that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    One {
        kind: &'static str,
        api_version: &'static str,
        namespace: String,
        name: String,
    },
    /// All of a cluster-scoped kind; they come as an array.
    All {
        kind: &'static str,
        api_version: &'static str,
    },
}

impl Reference {
    pub fn kind(&self) -> Option<&'static Kind> {
        match self {
            Reference::One { kind, api_version, .. } | Reference::All { kind, api_version } => {
                super::kinds::by_api_version(api_version, kind)
            }
        }
    }
}
