//! The kinds that are served: one row each. What a row cannot say is in the kind's [`Strategy`]; nothing else knows kinds by their names.

mod table;

use super::schema::Type;
use super::strategy::Strategy;
use super::typed::Check;

pub use table::kinds;

/// A kind of object.
pub struct Kind {
    /// Empty for v1.
    pub group: &'static str,
    pub version: &'static str,
    /// `DaemonSet`.
    pub kind: &'static str,
    /// `daemonsets`: the path.
    pub resource: &'static str,
    pub singular: &'static str,
    pub short: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// In the order of the alphabet.
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// Where its objects are kept, below `/registry/`: `apps/daemonsets`. Two kinds with one place are two views of the same objects. Empty:
    /// they are not kept (reviews).
    pub place: &'static str,
    /// How lists and maps are merged.
    pub schema: &'static Type,
    /// Which fields there are.
    pub check: Check,
    pub strategy: &'static dyn Strategy,
}

/// A part of an object, or something to be done with it, at a path of its own.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of its body.
    pub kind: (&'static str, &'static str, &'static str),
    pub verbs: &'static [&'static str],
}

impl Kind {
    /// `daemonsets.apps`, `pods`: how messages name the resource.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.resource.to_owned() } else { format!("{}.{}", self.resource, self.group) }
    }

    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// Whether its objects are kept: reviews are answered and forgotten.
    pub fn is_stored(&self) -> bool {
        !self.place.is_empty()
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        (self.group, self.version, self.kind) == (other.group, other.version, other.kind)
    }
}

impl Eq for Kind {}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

/// By its path: `("apps", "v1", "daemonsets")`.
pub fn by_resource(group: &str, version: &str, resource: &str) -> Option<&'static Kind> {
    kinds().iter().find(|k| (k.group, k.version, k.resource) == (group, version, resource))
}

/// `("apps", "v1", "DaemonSet")`.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    kinds().iter().find(|k| (k.group, k.version, k.kind) == (group, version, kind))
}

/// By `apiVersion` and `kind` of a document or a reference.
pub fn by_api_version(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    by_kind(group, version, kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema;

    #[test]
    fn every_row_is_found_by_both_names_and_merges_by_its_own_schema() {
        for kind in kinds() {
            assert_eq!(by_resource(kind.group, kind.version, kind.resource), Some(kind));
            assert_eq!(by_api_version(&kind.api_version(), kind.kind), Some(kind));
            assert!(kind.verbs.is_sorted(), "{kind:?}");
            if kind.is_stored() {
                let rows = schema::kind(kind.group, kind.kind).unwrap_or_else(|| panic!("{kind:?} has rows"));
                assert!(std::ptr::eq(rows, kind.schema), "{kind:?}");
            }
        }
    }

    #[test]
    fn messages_name_resources_as_kubernetes_does() {
        let named = |group, resource| by_resource(group, "v1", resource).unwrap();
        assert_eq!(named("apps", "daemonsets").group_resource(), "daemonsets.apps");
        assert_eq!((named("", "pods").group_resource(), named("", "pods").api_version()), ("pods".into(), "v1".into()));
    }
}
