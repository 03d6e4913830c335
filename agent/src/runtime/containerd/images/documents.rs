//! The JSON documents of images, as far as we read them: OCI index and manifest (docker schema 2 has the same shape),
//! image configuration, and `manifest.json` of `docker save`. Untrusted: every list and map has a bound, so that a
//! document of a few megabytes cannot become hundreds in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::platform::Platform;

/// The largest JSON document that is read: what the OCI distribution specification asks registries to take.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Entries of one list (layers, manifests, environment): containerd's snapshotters end at 127 layers, the largest
/// published indexes have dozens of manifests.
pub const MAX_LIST: usize = 1024;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// OCI content descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: Annotations,
}

/// The annotations that mean something to us.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Annotations {
    /// containerd's and Docker's: the full name.
    #[serde(rename = "io.containerd.image.name", default)]
    pub image_name: Option<String>,
    /// OCI's: a full name or only a tag.
    #[serde(rename = "org.opencontainers.image.ref.name", default)]
    pub ref_name: Option<String>,
    /// Build tools': `attestation-manifest` is no image.
    #[serde(rename = "vnd.docker.reference.type", default)]
    pub reference_type: Option<String>,
}

/// An index or a manifest: which one it is shows in its members, since media types are often left out.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ManifestOrIndex {
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    #[serde(default, deserialize_with = "bounded_list_or_none")]
    pub manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    pub config: Option<Descriptor>,
    #[serde(default, deserialize_with = "bounded_list_or_none")]
    pub layers: Option<Vec<Descriptor>>,
    /// Schema 1, which nobody should meet any more.
    #[serde(rename = "fsLayers", default)]
    pub fs_layers: Option<IgnoredAny>,
}

/// One image of docker's `manifest.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct DockerImage {
    #[serde(rename = "Config")]
    pub config: String,
    #[serde(rename = "RepoTags", default, deserialize_with = "bounded_list")]
    pub repo_tags: Vec<String>,
    #[serde(rename = "Layers", default, deserialize_with = "bounded_list")]
    pub layers: Vec<String>,
}

/// Docker's `manifest.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct DockerImages {
    #[serde(deserialize_with = "bounded_list")]
    pub images: Vec<DockerImage>,
}

/// OCI image configuration. Its platform is written out: serde would hold the whole document, sixty times its size, to flatten one.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ImageConfig {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    #[serde(default, deserialize_with = "bounded_list")]
    pub diff_ids: Vec<Digest>,
}

/// `config` of the image configuration: how its author wants it run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct RunConfig {
    #[serde(rename = "User", default, deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(rename = "Env", default, deserialize_with = "bounded_list")]
    pub env: Vec<String>,
    #[serde(rename = "Entrypoint", default, deserialize_with = "bounded_list")]
    pub entrypoint: Vec<String>,
    #[serde(rename = "Cmd", default, deserialize_with = "bounded_list")]
    pub cmd: Vec<String>,
    #[serde(rename = "WorkingDir", default, deserialize_with = "null_is_default")]
    pub working_dir: String,
    #[serde(rename = "StopSignal", default, deserialize_with = "null_is_default")]
    pub stop_signal: String,
    #[serde(rename = "Volumes", default, deserialize_with = "bounded_keys")]
    pub volumes: BTreeMap<String, ()>,
}

/// A manifest that we write, for archives of `docker save`, which have none.
#[derive(Debug, Serialize)]
pub struct WrittenManifest {
    #[serde(rename = "schemaVersion")]
    pub schema_version: u8,
    #[serde(rename = "mediaType")]
    pub media_type: &'static str,
    pub config: WrittenDescriptor,
    pub layers: Vec<WrittenDescriptor>,
}

#[derive(Debug, Serialize)]
pub struct WrittenDescriptor {
    #[serde(rename = "mediaType")]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
}

impl From<&Descriptor> for WrittenDescriptor {
    fn from(d: &Descriptor) -> Self {
        WrittenDescriptor { media_type: d.media_type.clone(), digest: d.digest.to_string(), size: d.size }
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

fn bounded_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    d.deserialize_any(BoundedList(PhantomData))
}

fn bounded_list_or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<Vec<T>>, D::Error> {
    d.deserialize_any(BoundedList(PhantomData)).map(Some)
}

fn bounded_keys<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, ()>, D::Error> {
    d.deserialize_any(BoundedKeys)
}

/// A list of at most [`MAX_LIST`] elements; null is the empty one, as Go writes it.
struct BoundedList<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for BoundedList<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX_LIST} elements")
    }

    fn visit_unit<E>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element_seed(PhantomData::<T>.at_most(list.len()))? {
            list.push(element);
        }
        Ok(list)
    }
}

/// Refuses before the element beyond the bound is read.
trait AtMost<T>: Sized {
    fn at_most(self, have: usize) -> Seed<T>;
}

impl<T> AtMost<T> for PhantomData<T> {
    fn at_most(self, have: usize) -> Seed<T> {
        Seed { have, element: self }
    }
}

struct Seed<T> {
    have: usize,
    element: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Seed<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<T, D::Error> {
        if self.have >= MAX_LIST {
            return Err(serde::de::Error::custom(format_args!("a list has more than {MAX_LIST} elements")));
        }
        self.element.deserialize(d)
    }
}

/// The keys of a map whose values do not matter.
struct BoundedKeys;

impl<'de> Visitor<'de> for BoundedKeys {
    type Value = BTreeMap<String, ()>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a map of at most {MAX_LIST} keys")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut keys = BTreeMap::new();
        while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if keys.len() >= MAX_LIST {
                return Err(serde::de::Error::custom(format_args!("a map has more than {MAX_LIST} keys")));
            }
            keys.insert(key, ());
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_writes_for_nothing_is_read_as_nothing() {
        let config: ImageConfig = serde_json::from_str(
            r#"{"os":"linux","architecture":"amd64","config":{"User":"","Env":null,"Cmd":["a"],"Entrypoint":null,"Volumes":null},
                "rootfs":{"type":"layers","diff_ids":null},"history":[{}]}"#,
        )
        .unwrap();
        assert_eq!(config.config.cmd, ["a"]);
        assert_eq!(config.architecture, "amd64");
        let config: ImageConfig = serde_json::from_str(r#"{"config":null}"#).unwrap();
        assert!(config.config.env.is_empty());
    }

    #[test]
    fn a_list_beyond_its_bound_is_refused_before_it_is_held() {
        let d = r#"{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;
        let list = |n: usize| format!(r#"{{"manifests":[{}]}}"#, vec![d; n].join(","));
        let index: ManifestOrIndex = serde_json::from_str(&list(MAX_LIST)).unwrap();
        assert_eq!(index.manifests.unwrap().len(), MAX_LIST);
        let error = serde_json::from_str::<ManifestOrIndex>(&list(MAX_LIST + 1)).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        let volumes: Vec<String> = (0..MAX_LIST + 1).map(|i| format!(r#""/{i}":{{}}"#)).collect();
        let config = format!(r#"{{"config":{{"Volumes":{{{}}}}}}}"#, volumes.join(","));
        assert!(serde_json::from_str::<ImageConfig>(&config).is_err());
    }
}
