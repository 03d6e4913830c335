//! Label selectors: which objects belong together. Used by `daemonset` for what a DaemonSet may claim.
//!
//! A requirement is judged as node affinity judges it ([`pod::placement::matches`]): one meaning of an operator in the
//! whole project.

use std::collections::BTreeMap;

use pod::placement;
use pod::spec::{Operator, Requirement};

/// All requirements hold. Without any it matches everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

impl Selector {
    /// `matchLabels` of a meta/v1 LabelSelector.
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Selector {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        };
        Selector { requirements: labels.iter().map(equals).collect() }
    }

    /// It asks for nothing, and so takes everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|r| placement::matches(r, labels.get(&r.key).map(String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_requirement_must_hold_and_none_takes_everything() {
        let two = Selector::of_labels(&labels(&[("app", "a"), ("tier", "b")]));
        assert!(two.matches(&labels(&[("app", "a"), ("tier", "b"), ("more", "c")])));
        assert!(!two.matches(&labels(&[("app", "a")])));
        assert!(Selector::default().is_empty() && Selector::default().matches(&labels(&[])));
    }

    #[test]
    fn negative_requirements_hold_where_the_label_is_absent() {
        let not = |operator, values: &[&str]| Selector {
            requirements: vec![Requirement {
                key: "k".into(),
                operator,
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            }],
        };
        assert!(not(Operator::NotIn, &["a"]).matches(&labels(&[])));
        assert!(!not(Operator::NotIn, &["a"]).matches(&labels(&[("k", "a")])));
        assert!(not(Operator::DoesNotExist, &[]).matches(&labels(&[])));
        assert!(!not(Operator::DoesNotExist, &[]).matches(&labels(&[("k", "")])));
    }
}
