//! What comes out of images and of archives of them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use agent::registry::manifest;
use agent::runtime::containerd::images::ImageError;
use agent::runtime::containerd::images::bundle::{self, Kind, kind_of};
use agent::runtime::containerd::images::config;
use agent::runtime::containerd::images::documents::{MAX_LIST, ManifestOrIndex};
use agent::runtime::containerd::images::platform::Platform;
use agent::runtime::containerd::images::tarball::Tarball;
use serde_json::Value;
use tests::image::{Image, Layout, digest, docker_archive};

use super::{JSON, document, judged, nothing};
use crate::Target;

/// As it is said where somebody reads it.
fn refused(reason: String) -> String {
    ImageError::Refused { image: "fuzz.example/a:1".to_owned(), reason }.sentence()
}

pub const CONFIG: Target = Target {
    name: "config",
    rounds: 3_000,
    input_max: 64 << 10,
    memory: document,
    words: JSON,
    more: nothing,
    judge: |input| {
        judged(config::read(input).map_err(refused), |config| {
            let climbs = config.run.volumes.iter().any(|path| path.split('/').any(|part| part == ".."));
            let lists = [&config.run.env, &config.run.entrypoint, &config.run.cmd];
            let zero = lists.iter().any(|list| list.iter().any(|text| text.contains('\0')));
            let long = lists.iter().any(|list| list.len() > MAX_LIST) || config.diff_ids.len() > MAX_LIST;
            (climbs || zero || long).then(|| format!("{config:?} was accepted"))
        })
    },
};

pub const MANIFEST: Target = Target {
    name: "manifest",
    rounds: 3_000,
    input_max: 64 << 10,
    memory: document,
    words: JSON,
    more: nothing,
    judge: |input| {
        let media_type = manifest::media_type(None, input);
        let parsed = serde_json::from_slice::<ManifestOrIndex>(input).map_err(|error| error.to_string());
        judged(media_type.and(parsed).map_err(refused), |parsed| match kind_of(&parsed) {
            Kind::Index(list) | Kind::Manifest(_, list) if list.len() > MAX_LIST => {
                Some("a list is too long".to_owned())
            }
            Kind::Neither(why) if why.is_empty() => Some("it is neither, and nobody knows why".to_owned()),
            _ => None,
        })
    },
};

pub const ARCHIVE: Target = Target {
    name: "archive",
    rounds: 500,
    input_max: 256 << 10,
    // Its documents are read whole (8 MiB at most), decompressors have windows of their own.
    memory: |input| 40 * input + (24 << 20),
    words: JSON,
    more: archives,
    judge: |input| {
        let dir = std::env::temp_dir();
        let file = tempfile::NamedTempFile::new_in(dir).unwrap();
        std::fs::write(file.path(), rebuilt(input)).unwrap();
        let planned = Tarball::open(file.path(), Arc::new(AtomicBool::new(false)))
            .and_then(|tarball| bundle::plan(&tarball, &Platform::new("linux", "amd64", ""), "fuzz"));
        let words = |error| ImageError::Archive { archive: "fuzz.tar".to_owned(), error }.sentence();
        judged(planned.map_err(words), |bundle| {
            let nameless = bundle.images.iter().any(|image| image.names.is_empty());
            let missing = bundle.images.iter().any(|image| !bundle.blobs.contains_key(&image.target.digest));
            (nameless || missing).then(|| format!("{:?} was accepted", bundle.images))
        })
    },
};

/// An archive as it is, or, for a document that says how an image's parts are to be made, an archive with these parts and right digests:
/// no mutation would get past the digests otherwise.
fn rebuilt(input: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut parts)) = serde_json::from_slice::<Value>(input) else { return input.to_vec() };
    let (Some(config), Some(mut manifest)) = (parts.remove("config"), parts.remove("manifest")) else {
        return input.to_vec();
    };
    let mut layout = Layout::default();
    let mut add = |content: Vec<u8>| {
        let named = (digest(&content), content.len());
        layout.blobs.insert(named.0.clone(), content);
        named
    };
    let (name, size) = add(config.to_string().into_bytes());
    if let Some(Value::Object(descriptor)) = manifest.get_mut("config") {
        descriptor.insert("digest".to_owned(), name.into());
        descriptor.insert("size".to_owned(), size.into());
    }
    add(Vec::new());
    let (name, size) = add(manifest.to_string().into_bytes());
    let mut index = parts.remove("index").unwrap_or_default();
    if let Some(Value::Object(descriptor)) = index.get_mut(0) {
        descriptor.insert("digest".to_owned(), name.into());
        descriptor.insert("size".to_owned(), size.into());
    }
    layout.manifests = index.as_array().cloned().unwrap_or_default();
    layout.bytes()
}

fn archives() -> Vec<Vec<u8>> {
    let image = || Image::empty("fuzz.example/a:1").platform("linux", "amd64").layer(Vec::new());
    let foreign = image().platform("linux", "s390x");
    vec![
        Layout::of(&[image()]).bytes(),
        Layout::of(&[image().gzip()]).bytes(),
        Layout::multi_platform("fuzz.example/a:1", &[image(), foreign]).bytes(),
        docker_archive(&[image()]),
    ]
}
