//! Field selectors: `metadata.name=a,status.phase!=Failed`. Each kind has its fields; others are refused, as in Kubernetes.

use serde_json::Value;

use super::{MAX_REQUIREMENTS, SelectorError};

/// All requirements hold. Without any it matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    field: &'static str,
    sense: Sense,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sense {
    Equal,
    NotEqual,
}

const NAMED: &[&str] = &["metadata.name", "metadata.namespace"];
const POD: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.hostNetwork",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.nominatedNodeName",
    "status.phase",
    "status.podIP",
];
const EVENT: &[&str] = &[
    "involvedObject.apiVersion",
    "involvedObject.fieldPath",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.resourceVersion",
    "involvedObject.uid",
    "metadata.name",
    "metadata.namespace",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// The fields by which objects of this kind can be selected (Kubernetes' own).
pub fn selectable(group: &str, kind: &str) -> &'static [&'static str] {
    match (group, kind) {
        ("", "Pod") => POD,
        ("", "Node") => &["metadata.name", "spec.unschedulable"],
        ("", "Namespace") => &["metadata.name", "status.phase"],
        ("", "Secret") => &["metadata.name", "metadata.namespace", "type"],
        ("", "Service") => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
        ("", "Event") => EVENT,
        _ => NAMED,
    }
}

/// Reads a query's `fieldSelector`; `selectable`: the fields of the kind. Empty: everything matches.
///
/// `\`, `,` and `=` in a value are written with a `\` before them.
pub fn fields(text: &str, selectable: &'static [&'static str]) -> Result<FieldSelector, SelectorError> {
    let refused = |reason| SelectorError::Fields { selector: text.to_owned(), reason };
    let mut requirements = Vec::new();
    for term in terms(text).into_iter().filter(|t| !t.is_empty()) {
        let (field, sense, value) = split(term).ok_or_else(|| refused(format!("{term:?} has no =, == or !=")))?;
        let known = selectable.iter().find(|known| **known == field);
        let field = known
            .ok_or_else(|| refused(format!("objects cannot be selected by {field:?}: {}", selectable.join(", "))))?;
        let value = unescape(value).ok_or_else(|| refused(format!("{value:?} has a \\ before what needs none")))?;
        if requirements.len() == MAX_REQUIREMENTS {
            return Err(refused(format!("more than {MAX_REQUIREMENTS} requirements")));
        }
        requirements.push(Requirement { field, sense, value });
    }
    Ok(FieldSelector { requirements })
}

impl FieldSelector {
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|r| (value(object, r.field) == r.value) == (r.sense == Sense::Equal))
    }

    /// The value that `field` must have, where the selector says so: lets a list look up one object instead of all.
    pub fn exactly(&self, field: &str) -> Option<&str> {
        let equal = |r: &&Requirement| r.field == field && r.sense == Sense::Equal;
        self.requirements.iter().find(equal).map(|r| r.value.as_str())
    }
}

/// A field's value as text; empty where it is absent, but false for what is true or false.
fn value(object: &Value, field: &str) -> String {
    let found = match field {
        // Who reported it, in the old and the new form.
        "source" => {
            let component = &object["source"]["component"];
            if component.as_str().is_none_or(str::is_empty) { &object["reportingComponent"] } else { component }
        }
        _ => field.split('.').fold(object, |value, key| &value[key]),
    };
    match (found, field) {
        (Value::String(text), _) => text.clone(),
        (Value::Null, "spec.hostNetwork" | "spec.unschedulable") => "false".into(),
        (Value::Null, _) => String::new(),
        (other, _) => other.to_string(),
    }
}

/// Parts between commas that have no `\` before them.
fn terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            ',' if !escaped => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => escaped = false,
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split(term: &str) -> Option<(&str, Sense, &str)> {
    let at = term.find('=')?;
    let (field, value) = (&term[..at], &term[at + 1..]);
    Some(match field.strip_suffix('!') {
        Some(field) => (field, Sense::NotEqual, value),
        None => (field, Sense::Equal, value.strip_prefix('=').unwrap_or(value)),
    })
}

/// None: a `\` stands before something else than `\`, `,` and `=`, or one of these without it.
fn unescape(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(|c| ['\\', ',', '='].contains(c))?),
            ',' | '=' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn matching(selector: &str, object: &Value) -> bool {
        fields(selector, selectable("", "Pod")).unwrap_or_else(|e| panic!("{e}")).matches(object)
    }

    #[test]
    fn fields_are_compared_as_text() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        for yes in [
            "",
            "spec.nodeName=n1",
            "spec.nodeName==n1,metadata.name=a",
            "status.phase!=Failed,status.phase!=Succeeded",
            "spec.hostNetwork=false",
            "status.podIP=",
            "metadata.name=a,",
        ] {
            assert!(matching(yes, &pod), "{yes}");
        }
        for no in ["spec.nodeName=n2", "metadata.name!=a", "metadata.name=a,spec.nodeName=", "spec.hostNetwork=true"] {
            assert!(!matching(no, &pod), "{no}");
        }
        assert!(matching("spec.hostNetwork=true", &json!({"spec": {"hostNetwork": true}})));
    }

    #[test]
    fn an_event_is_found_by_who_reported_it_in_either_form() {
        let by = |object: Value| fields("source=x", selectable("", "Event")).unwrap().matches(&object);
        assert!(by(json!({"source": {"component": "x"}})));
        assert!(by(json!({"source": {}, "reportingComponent": "x"})));
        assert!(!by(json!({"source": {"component": "y"}, "reportingComponent": "x"})));
    }

    #[test]
    fn unknown_fields_and_broken_terms_are_refused() {
        let refusal = |text| fields(text, selectable("apps", "DaemonSet")).unwrap_err().to_string();
        assert_eq!(
            refusal("spec.nodeName=a"),
            "fieldSelector \"spec.nodeName=a\": objects cannot be selected by \"spec.nodeName\": metadata.name, metadata.namespace"
        );
        assert!(refusal("metadata.name").contains("has no =, == or !="));
        assert!(refusal("metadata.name=a=b").contains("has a \\ before what needs none"));
        assert!(refusal("metadata.name=\\a").contains("has a \\ before what needs none"));
        assert!(refusal(&vec!["metadata.name=a"; 101].join(",")).contains("more than 100 requirements"));
    }

    #[test]
    fn a_name_that_is_asked_for_is_known_before_any_object_is_read() {
        let selector = fields("metadata.name=a,metadata.namespace!=b", NAMED).unwrap();
        assert_eq!((selector.exactly("metadata.name"), selector.exactly("metadata.namespace")), (Some("a"), None));
    }

    proptest! {
        #[test]
        fn every_value_can_be_written(value in "[a-z,=\\\\]{0,12}") {
            let escaped = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let object = json!({"metadata": {"name": value, "namespace": "x"}});
            let text = format!("metadata.name={escaped},metadata.namespace=x");
            prop_assert!(fields(&text, NAMED).unwrap().matches(&object));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-z.=!,\\\\]{0,24}") {
            let _ = fields(&text, NAMED);
        }
    }
}
