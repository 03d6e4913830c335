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
