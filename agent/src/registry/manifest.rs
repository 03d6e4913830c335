//! What a registry sent for a manifest: which of the known documents it is, and whether it is the one that was asked for. Pure; the
//! document's content is its reader's to judge.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use sha2::{Digest, Sha256, Sha512};

/// The documents that are asked for, as an Accept header has them.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

const SCHEMA_1: &str = "is a Docker schema 1 manifest, which no runtime takes any more: build or push the image again";

/// `sha256:…` or `sha512:…` with lower-case digits of the right number.
pub fn is_digest(text: &str) -> bool {
    let digits = match text.split_once(':') {
        Some(("sha256", hex)) if hex.len() == 64 => hex,
        Some(("sha512", hex)) if hex.len() == 128 => hex,
        _ => return false,
    };
    digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The digest of these bytes by the algorithm of `like`, sha256 by itself.
pub fn digest(bytes: &[u8], like: Option<&str>) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match like {
        Some(like) if like.starts_with("sha512:") => format!("sha512:{}", hex(&Sha512::digest(bytes))),
        _ => format!("sha256:{}", hex(&Sha256::digest(bytes))),
    }
}

/// Which document this is: by the Content-Type, and where that says nothing by the document itself. The reason where it is none of ours.
pub fn media_type(content_type: Option<&str>, bytes: &[u8]) -> Result<String, String> {
    let stated = known_type(content_type)?;
    let document: BTreeMap<String, IgnoredAny> =
        serde_json::from_slice(bytes).map_err(|_| "sent something that is no JSON object for a manifest".to_owned())?;
    let has = |key: &str| document.contains_key(key);
    // Both shapes in one document: one reader would see an index and another a manifest, with the same digest.
    if has("manifests") && (has("layers") || has("config")) {
        return Err("sent a document that is an index and a manifest at once".to_owned());
    }
    if has("fsLayers") {
        return Err(SCHEMA_1.to_owned());
    }
    let named = match stated {
        Some(stated) => Some(stated),
        None => {
            let named = serde_json::from_slice::<Named>(bytes).ok().and_then(|named| named.media_type);
            known_type(named.as_deref())?
        }
    };
    match named {
        Some(named) => Ok(named),
        None if has("manifests") => Ok(OCI_INDEX.to_owned()),
        None if has("layers") && has("config") => Ok(OCI_MANIFEST.to_owned()),
        None => Err(format!("sent {} for a manifest", content_type.map_or("something unknown", short))),
    }
}

#[derive(serde::Deserialize)]
struct Named {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
}

/// One of the four that are asked for; none where the type says nothing; an error where it says schema 1.
pub fn known_type(stated: Option<&str>) -> Result<Option<String>, String> {
    let bare = stated.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match bare {
        Some(bare) if DOCKER_SCHEMA_1.contains(&bare.as_str()) => Err(SCHEMA_1.to_owned()),
        Some(bare) if ACCEPT.split(", ").any(|known| known.trim() == bare) => Ok(Some(bare)),
        _ => Ok(None),
    }
}

/// A foreign text for an error: not long.
fn short(text: &str) -> &str {
    text.get(..80).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

    #[test]
    fn the_type_is_the_header_s_then_the_document_s_then_its_shape_s() {
        let of = |header: Option<&str>, text: &str| media_type(header, text.as_bytes()).unwrap();
        let manifest = r#"{"config": {}, "layers": []}"#;
        assert_eq!(of(Some(DOCKER), manifest), DOCKER);
        assert_eq!(of(Some(&format!("{DOCKER}; charset=utf-8")), manifest), DOCKER);
        let named = format!(r#"{{"mediaType": "{DOCKER}", "config": {{}}, "layers": []}}"#);
        assert_eq!(of(Some("text/plain"), &named), DOCKER);
        assert_eq!(of(None, manifest), OCI_MANIFEST);
        assert_eq!(of(Some("application/json"), r#"{"manifests": []}"#), OCI_INDEX);
    }

    #[test]
    fn schema_1_is_refused_by_name() {
        for header in DOCKER_SCHEMA_1 {
            assert!(media_type(Some(header), b"{}").unwrap_err().contains("schema 1"));
        }
        let old = br#"{"schemaVersion": 1, "fsLayers": [], "history": []}"#;
        assert!(media_type(Some("application/json"), old).unwrap_err().contains("schema 1"));
    }

    #[test]
    fn a_document_that_is_two_things_or_none_is_refused() {
        assert!(media_type(None, br#"{"manifests": [], "layers": []}"#).is_err());
        assert!(media_type(Some(OCI_INDEX), br#"{"manifests": [], "config": {}}"#).is_err());
        for text in ["", "[]", "{}", "<html>", r#"{"layers": []}"#] {
            assert!(media_type(Some("text/html"), text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_digest_has_the_algorithm_that_was_asked_for() {
        assert_eq!(digest(b"", None), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!(is_digest(&digest(b"x", None)));
        let long = digest(b"x", Some("sha512:"));
        assert!(long.starts_with("sha512:") && is_digest(&long));
        for bad in ["", "sha256:", "sha256:zz", "md5:00", "sha256:../../x"] {
            assert!(!is_digest(bad));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(header in proptest::option::of("\\PC{0,90}"), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = media_type(header.as_deref(), &bytes);
        }
    }
}
