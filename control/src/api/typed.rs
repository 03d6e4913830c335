//! Documents against the Kubernetes types: which fields there are, and of what type. Nothing else of these types is used; an object stays a
//! JSON document.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

/// Checks a document of one kind: the fields that the kind does not have. Error: a field is of another type.
pub type Check = fn(&Value) -> Result<Vec<Place>, Mistyped>;

/// A field of a document, from the outside in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(pub Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// A value that the type cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Mistyped {
    pub path: String,
    pub reason: String,
}

/// The [`Check`] of a Kubernetes type.
pub fn check<T: DeserializeOwned>(document: &Value) -> Result<Vec<Place>, Mistyped> {
    let mut unknown = Vec::new();
    let mut note = |path: Path<'_>| unknown.push(Place(steps(&path)));
    let ignoring = serde_ignored::Deserializer::new(document, &mut note);
    serde_path_to_error::deserialize::<_, T>(ignoring)
        .map_err(|error| Mistyped { path: error.path().to_string(), reason: error.inner().to_string() })?;
    Ok(unknown)
}

fn steps(path: &Path<'_>) -> Vec<Step> {
    let (mut found, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (steps(parent), Some(Step::Index(*index))),
        Path::Map { parent, key } => (steps(parent), Some(Step::Key(key.clone()))),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            (steps(parent), None)
        }
    };
    found.extend(step);
    found
}

impl Place {
    /// Takes the field out of the document.
    pub fn remove_from(&self, document: &mut Value) {
        let Some((last, parents)) = self.0.split_last() else { return };
        let mut at = document;
        for step in parents {
            let next = match step {
                Step::Key(key) => at.get_mut(key),
                Step::Index(index) => at.get_mut(index),
            };
            match next {
                Some(next) => at = next,
                None => return,
            }
        }
        if let (Step::Key(key), Value::Object(object)) = (last, at) {
            object.remove(key);
        }
    }
}

impl std::fmt::Display for Place {
    /// As Kubernetes writes it: `spec.containers[0].imag`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if n == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::DaemonSet;
    use serde_json::json;

    fn document() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {"selector": {}, "foo": 1, "template": {"spec": {"containers": [{"name": "c", "imag": "x"}]}}}})
    }

    #[test]
    fn unknown_fields_are_named_as_kubernetes_names_them_and_can_be_taken_out() {
        let mut document = document();
        let unknown = check::<DaemonSet>(&document).unwrap();
        let shown: Vec<String> = unknown.iter().map(Place::to_string).collect();
        assert_eq!(shown, ["spec.foo", "spec.template.spec.containers[0].imag"]);
        unknown.iter().for_each(|place| place.remove_from(&mut document));
        assert_eq!(check::<DaemonSet>(&document), Ok(vec![]));
        assert_eq!(document["spec"]["template"]["spec"]["containers"], json!([{"name": "c"}]));
    }

    #[test]
    fn a_value_of_another_type_is_named_by_its_path() {
        let mut document = document();
        document["spec"]["minReadySeconds"] = json!("x");
        let error = check::<DaemonSet>(&document).unwrap_err();
        assert_eq!(error.path, "spec.minReadySeconds");
        assert!(error.reason.contains("expected i32"), "{error}");
    }
}
