//! What ConfigMap and Secret documents hold: kept, handed on, never shown.
//!
//! Made by `manifest`, chosen by `merge`, read by [`crate::resolve`] (environments) and written to disk by the agent's store.
//! Must not know who uses it. No type here shows a value when it is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::desired::Origin;
use crate::secret::DockerConfig;
use crate::spec::{Container, EnvValue, PodSpec, Projection, Volume, VolumeSource};

/// Bytes of all values of one document, as in Kubernetes (MaxSecretSize).
pub const MAX_CONTENT_BYTES: usize = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContentKind {
    ConfigMap,
    Secret,
}

impl ContentKind {
    /// As documents write it.
    pub fn word(self) -> &'static str {
        match self {
            ContentKind::ConfigMap => "ConfigMap",
            ContentKind::Secret => "Secret",
        }
    }

    /// As Kubernetes writes it where one is missing.
    pub fn resource(self) -> &'static str {
        match self {
            ContentKind::ConfigMap => "configmap",
            ContentKind::Secret => "secret",
        }
    }

    /// The kind that a document names, if it is one of these.
    pub fn of(kind: &str) -> Option<ContentKind> {
        match kind {
            "ConfigMap" => Some(ContentKind::ConfigMap),
            "Secret" => Some(ContentKind::Secret),
            _ => None,
        }
    }
}

/// Which document is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentKey {
    pub kind: ContentKind,
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.word(), self.namespace, self.name)
    }
}

/// Bytes that are never shown. Shared: there is one copy of each value in the agent.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(Arc<[u8]>);

impl Hidden {
    pub fn new(bytes: Vec<u8>) -> Hidden {
        Hidden(bytes.into())
    }

    /// The bytes themselves, for the one who gives them to a container.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The value of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Hidden,
    /// From `binaryData`: for files only, never a variable.
    pub binary: bool,
}

/// What one document holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// A Secret's `type`; None where it names none (Opaque), and for a ConfigMap.
    pub secret_type: Option<String>,
    /// `immutable: true`: an edit of the values is refused.
    pub immutable: bool,
    pub entries: BTreeMap<String, Entry>,
}

impl Content {
    /// Credentials of registries, where this Secret's type says that it holds some.
    pub fn login(&self) -> Option<DockerConfig> {
        let key = crate::secret::login_key(self.secret_type.as_deref()?)?;
        Some(DockerConfig::from(self.entries.get(key)?.value.clone()))
    }

    /// The values under their keys, whatever else the document says.
    pub fn same_values(&self, other: &Content) -> bool {
        self.entries == other.entries
    }

    /// The document again, for the store: `manifest` reads it back.
    pub fn to_document(&self, key: &ContentKey) -> Value {
        let mut document = json!({
            "apiVersion": "v1",
            "kind": key.kind.word(),
            "metadata": {"namespace": key.namespace, "name": key.name},
            "immutable": self.immutable,
        });
        let encoded = |which: &dyn Fn(&Entry) -> bool| -> serde_json::Map<String, Value> {
            let entries = self.entries.iter().filter(|(_, entry)| which(entry));
            entries.map(|(key, entry)| (key.clone(), encode_base64(entry.value.reveal()).into())).collect()
        };
        match key.kind {
            ContentKind::Secret => {
                document["data"] = encoded(&|_| true).into();
                if let Some(secret_type) = &self.secret_type {
                    document["type"] = secret_type.clone().into();
                }
            }
            ContentKind::ConfigMap => {
                let texts = self.entries.iter().filter(|(_, entry)| !entry.binary);
                // What is not binary was read from a text.
                let text = |entry: &Entry| Value::from(String::from_utf8_lossy(entry.value.reveal()).into_owned());
                document["data"] =
                    texts.map(|(key, entry)| (key.clone(), text(entry))).collect::<serde_json::Map<_, _>>().into();
                document["binaryData"] = encoded(&|entry| entry.binary).into();
            }
        }
        document
    }
}

/// A document that was good, and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub origin: Origin,
    pub content: Arc<Content>,
}

/// All documents that count at one moment. Cheap to hand on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents(Arc<BTreeMap<ContentKey, Arc<Content>>>);

impl Contents {
    pub fn new(documents: BTreeMap<ContentKey, Arc<Content>>) -> Contents {
        Contents(Arc::new(documents))
    }

    /// These and what is here.
    pub fn with(&self, more: &BTreeMap<ContentKey, Arc<Content>>) -> Contents {
        if more.is_empty() {
            return self.clone();
        }
        let mut all = BTreeMap::clone(&self.0);
        all.extend(more.iter().map(|(key, content)| (key.clone(), content.clone())));
        Contents::new(all)
    }

    pub fn get(&self, key: &ContentKey) -> Option<&Arc<Content>> {
        self.0.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ContentKey, &Arc<Content>)> {
        self.0.iter()
    }

    /// The very same value, not just an equal one: nothing has been merged since.
    pub fn is(&self, other: &Contents) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What these documents hold at present; None where one is not there.
    pub fn of(&self, keys: BTreeSet<ContentKey>) -> Used {
        keys.into_iter()
            .map(|key| {
                let content = self.get(&key).cloned();
                (key, content)
            })
            .collect()
    }
}

/// What somebody uses, as it was when it was looked up.
pub type Used = BTreeMap<ContentKey, Option<Arc<Content>>>;

/// The documents of which a container's environment is made.
pub fn of_environment(container: &Container, namespace: &str) -> BTreeSet<ContentKey> {
    let key = |kind: ContentKind, name: &str| ContentKey { kind, namespace: namespace.into(), name: name.into() };
    let whole = container.env_from.iter().map(|from| key(from.kind, &from.name));
    let single = container.env.iter().filter_map(|var| match &var.value {
        EnvValue::Content { kind, name, .. } => Some(key(*kind, name)),
        EnvValue::Literal(_)
        | EnvValue::Field(_)
        | EnvValue::Resource { .. }
        | EnvValue::File { .. }
        | EnvValue::Known(_) => None,
    });
    whole.chain(single).collect()
}

/// The documents that are fixed when a container is created: those of its environment, and those of which it mounts a part.
pub fn of_creation(container: &Container, spec: &PodSpec, namespace: &str) -> BTreeSet<ContentKey> {
    let parts = container.mounts.iter().filter(|mount| mount.sub_path.is_some());
    let volumes = parts.filter_map(|mount| spec.volumes.iter().find(|volume| volume.name == mount.volume));
    volumes.flat_map(|volume| of_volume(volume, namespace)).chain(of_environment(container, namespace)).collect()
}

/// All documents that a pod in this namespace uses.
pub fn of_pod(spec: &PodSpec, namespace: &str) -> BTreeSet<ContentKey> {
    let files = spec.volumes.iter().flat_map(|volume| of_volume(volume, namespace));
    spec.containers.iter().flat_map(|container| of_environment(container, namespace)).chain(files).collect()
}

fn of_volume(volume: &Volume, namespace: &str) -> Vec<ContentKey> {
    let sources = match &volume.source {
        VolumeSource::Projected(projected) => projected.sources.as_slice(),
        VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) | VolumeSource::Image(_) => &[],
    };
    let documents = sources.iter().filter_map(|source| match source {
        Projection::Content { kind, name, .. } => {
            Some(ContentKey { kind: *kind, namespace: namespace.to_owned(), name: name.clone() })
        }
        Projection::Downward(_) | Projection::Token { .. } => None,
    });
    documents.collect()
}

/// RFC 4648, with padding.
pub fn encode_base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::base64;

    #[test]
    fn base64_is_written_as_it_is_read() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmE=", "fooba")] {
            assert_eq!(encode_base64(bytes.as_bytes()), text);
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(base64(&encode_base64(&all)), Some(all));
    }

    #[test]
    fn no_value_is_ever_shown() {
        let entry = Entry { value: Hidden::new(b"hush".to_vec()), binary: false };
        let content = Content { entries: [("key".to_owned(), entry)].into(), ..Content::default() };
        let key = ContentKey { kind: ContentKind::Secret, namespace: "ns".into(), name: "s".into() };
        let origin = Origin { source: crate::desired::Source::Static, file: "f".into(), line: 1 };
        let kept = Kept { origin, content: Arc::new(content) };
        let contents = Contents::new([(key, kept.content.clone())].into());
        let shown = format!("{contents:?} {kept:?} {:?}", EnvValue::Known(Hidden::new(b"hush".to_vec())));
        assert!(!shown.contains("hush") && shown.contains('…'), "{shown}");
    }
}
