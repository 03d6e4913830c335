//! A container's environment with the values of ConfigMaps and Secrets put in (v1 EnvFromSource, EnvVarSource).
//!
//! Driven by the agent at each creation of a container, so that it gets what the documents say at that moment. Pure.

use crate::content::{Content, ContentKey, ContentKind, Contents, Entry};
use crate::spec::{Container, EnvValue, EnvVar};

/// Why a container cannot be made from what the documents hold; the first three in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("{} {:?} not found", .0.kind.resource(), .0.name)]
    Document(ContentKey),
    #[error("couldn't find key {key} in {of}")]
    Key { key: String, of: ContentKey },
    #[error(
        "key {key} of {of} cannot be a variable: it is no UTF-8 text or has a NUL character; mount it as a file instead"
    )]
    NotText { key: String, of: ContentKey },
}

/// The container with nothing in its environment left to be looked up. What is optional and not there is left out.
pub fn environment(container: &Container, namespace: &str, contents: &Contents) -> Result<Container, Missing> {
    let mut env = Vec::with_capacity(container.env.len());
    for from in &container.env_from {
        let Some((of, content)) = document(from.kind, namespace, &from.name, from.optional, contents)? else {
            continue;
        };
        for (key, entry) in content.entries.iter().filter(|(_, entry)| !entry.binary) {
            env.push(EnvVar { name: format!("{}{key}", from.prefix), value: known(key, entry, &of)? });
        }
    }
    for var in &container.env {
        let EnvValue::Content { kind, name, key, optional } = &var.value else {
            env.push(var.clone());
            continue;
        };
        let Some((of, content)) = document(*kind, namespace, name, *optional, contents)? else { continue };
        match content.entries.get(key).filter(|entry| !entry.binary) {
            Some(entry) => env.push(EnvVar { name: var.name.clone(), value: known(key, entry, &of)? }),
            None if *optional => {}
            None => return Err(Missing::Key { key: key.clone(), of }),
        }
    }
    Ok(Container { env, env_from: Vec::new(), ..container.clone() })
}

/// None: it is not there and need not be.
fn document<'c>(
    kind: ContentKind,
    namespace: &str,
    name: &str,
    optional: bool,
    contents: &'c Contents,
) -> Result<Option<(ContentKey, &'c Content)>, Missing> {
    let key = ContentKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    match contents.get(&key) {
        Some(content) => Ok(Some((key, content))),
        None if optional => Ok(None),
        None => Err(Missing::Document(key)),
    }
}

fn known(key: &str, entry: &Entry, of: &ContentKey) -> Result<EnvValue, Missing> {
    match std::str::from_utf8(entry.value.reveal()) {
        Ok(text) if !text.contains('\0') => Ok(EnvValue::Known(entry.value.clone())),
        _ => Err(Missing::NotText { key: key.to_owned(), of: of.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::content::Hidden;
    use crate::sample;
    use crate::spec::EnvFrom;

    fn entry(value: &[u8], binary: bool) -> Entry {
        Entry { value: Hidden::new(value.to_vec()), binary }
    }

    fn contents() -> Contents {
        let key = |kind, name: &str| ContentKey { kind, namespace: "ns".into(), name: name.into() };
        let map = [("A", entry(b"1", false)), ("b.c", entry(b"2", false)), ("bin", entry(b"3", true))];
        let secret = [("A", entry(b"s", false)), ("raw", entry(&[0xff], false)), ("nul", entry(b"a\0b", false))];
        let content = |entries: [(&str, Entry); 3]| Content {
            entries: entries.into_iter().map(|(key, entry)| (key.to_owned(), entry)).collect(),
            ..Content::default()
        };
        Contents::new(BTreeMap::from([
            (key(ContentKind::ConfigMap, "m"), content(map).into()),
            (key(ContentKind::Secret, "s"), content(secret).into()),
        ]))
    }

    fn from(kind: ContentKind, name: &str, prefix: &str, optional: bool) -> EnvFrom {
        EnvFrom { kind, name: name.into(), prefix: prefix.into(), optional }
    }

    fn var(kind: ContentKind, name: &str, key: &str, optional: bool) -> EnvVar {
        let value = EnvValue::Content { kind, name: name.into(), key: key.into(), optional };
        EnvVar { name: "V".into(), value }
    }

    /// Names and values, or the reason.
    fn made(env_from: Vec<EnvFrom>, env: Vec<EnvVar>) -> Result<Vec<(String, String)>, String> {
        let container = Container { env_from, env, ..sample::container("c") };
        let made = environment(&container, "ns", &contents()).map_err(|missing| missing.to_string())?;
        assert!(made.env_from.is_empty());
        let text = |value: &EnvValue| match value {
            EnvValue::Known(value) => String::from_utf8(value.reveal().to_vec()).expect("text"),
            EnvValue::Literal(text) => format!("literal {text}"),
            other => panic!("{other:?} is still to be looked up"),
        };
        Ok(made.env.iter().map(|var| (var.name.clone(), text(&var.value))).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        Ok(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn values_come_in_the_order_in_which_later_ones_win() {
        use ContentKind::{ConfigMap, Secret};
        let literal = EnvVar { name: "A".into(), value: EnvValue::Literal("x".into()) };
        let made = made(vec![from(ConfigMap, "m", "P_", false)], vec![literal, var(Secret, "s", "A", false)]);
        // Whatever is printable is a name, as in Kubernetes since 1.32; what is binary is none.
        assert_eq!(made, pairs(&[("P_A", "1"), ("P_b.c", "2"), ("A", "literal x"), ("V", "s")]));
    }

    #[test]
    fn what_is_optional_is_left_out_and_what_is_not_is_named_as_kubernetes_does() {
        use ContentKind::{ConfigMap, Secret};
        let none = pairs(&[]);
        assert_eq!(made(vec![from(ConfigMap, "no", "", true)], vec![var(Secret, "no", "A", true)]), none);
        assert_eq!(made(vec![], vec![var(Secret, "s", "no", true)]), none);
        for (from, env, message) in [
            (vec![from(ConfigMap, "no", "", false)], vec![], "configmap \"no\" not found"),
            (vec![from(Secret, "no", "", false)], vec![], "secret \"no\" not found"),
            (vec![], vec![var(ConfigMap, "m", "no", false)], "couldn't find key no in ConfigMap ns/m"),
            (vec![], vec![var(ConfigMap, "m", "bin", false)], "couldn't find key bin in ConfigMap ns/m"),
            (
                vec![],
                vec![var(Secret, "m", "A", true), var(Secret, "s", "no", false)],
                "couldn't find key no in Secret ns/s",
            ),
            (vec![], vec![var(Secret, "s", "raw", false)], "key raw of Secret ns/s cannot be a variable"),
            (vec![], vec![var(Secret, "s", "nul", false)], "key nul of Secret ns/s cannot be a variable"),
        ] {
            let reason = made(from, env).expect_err(message);
            assert!(reason.starts_with(message), "{reason}");
        }
    }

    #[test]
    fn only_documents_of_the_pods_namespace_are_seen() {
        let container =
            Container { env_from: vec![from(ContentKind::Secret, "s", "", false)], ..sample::container("c") };
        assert!(environment(&container, "other", &contents()).is_err());
    }
}
