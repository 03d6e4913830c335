//! configMap, secret, downwardAPI and projected volumes: each to a [`Projected`], by Kubernetes' rules for keys, paths and modes.

use std::collections::BTreeSet;

use super::findings::{At, Findings};
use super::tree::Value;
use super::{content, env, names};
use crate::content::ContentKind;
use crate::spec::{DownwardField, DownwardFile, DownwardValue, KeyToPath, Projected, Projection};

/// Permission bits of a file where neither item nor volume says more (Kubernetes).
const DEFAULT_MODE: u32 = 0o644;
/// Longest path and name (limits.h).
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;
/// Shortest life of a token that Kubernetes allows, and its default, in seconds.
const MIN_EXPIRATION: i128 = 600;
const DEFAULT_EXPIRATION: u64 = 3600;

/// The fields that a file may show.
const FIELDS: &str = "metadata.name, metadata.namespace, metadata.uid, metadata.labels, metadata.annotations, \
    metadata.labels['<key>'], metadata.annotations['<key>']";

/// `volumes[].configMap`.
pub fn config_map(at: &At<'_>, group: Option<u32>, findings: &mut Findings) -> Option<Projected> {
    let default_mode = mode(at, "defaultMode", findings).unwrap_or(DEFAULT_MODE);
    let source = document(at, ContentKind::ConfigMap, "name", findings)?;
    Some(Projected { sources: vec![source], default_mode, group })
}

/// `volumes[].secret`.
pub fn secret(at: &At<'_>, group: Option<u32>, findings: &mut Findings) -> Option<Projected> {
    let default_mode = mode(at, "defaultMode", findings).unwrap_or(DEFAULT_MODE);
    let source = document(at, ContentKind::Secret, "secretName", findings)?;
    Some(Projected { sources: vec![source], default_mode, group })
}

/// `volumes[].downwardAPI`.
pub fn downward_api(at: &At<'_>, group: Option<u32>, findings: &mut Findings) -> Option<Projected> {
    let default_mode = mode(at, "defaultMode", findings).unwrap_or(DEFAULT_MODE);
    Some(Projected { sources: vec![Projection::Downward(downward(at, findings))], default_mode, group })
}

/// `volumes[].projected`.
pub fn projected(at: &At<'_>, group: Option<u32>, findings: &mut Findings) -> Option<Projected> {
    let default_mode = mode(at, "defaultMode", findings).unwrap_or(DEFAULT_MODE);
    let mut sources = Vec::new();
    let mut taken = BTreeSet::new();
    for item in at.list("sources", findings) {
        let mut named = item.entries(findings);
        named.retain(|(_, at)| at.node.value != Value::Null);
        let source = match named.as_slice() {
            [("configMap", at)] => document(at, ContentKind::ConfigMap, "name", findings),
            [("secret", at)] => document(at, ContentKind::Secret, "name", findings),
            [("downwardAPI", at)] => Some(Projection::Downward(downward(at, findings))),
            [("serviceAccountToken", at)] => token(at, findings),
            // The field table knows the reason; this only keeps a record with it from being run.
            [(_, other)] => {
                findings
                    .impossible(other, "only configMap, secret, downwardAPI and serviceAccountToken can be projected");
                None
            }
            [] => {
                findings.impossible(&item, "names no source: give it a configMap, secret or downwardAPI");
                None
            }
            _ => {
                findings.impossible(&item, "names more than one source: make an entry of each");
                None
            }
        };
        let Some(source) = source else { continue };
        let paths: Vec<&String> = match &source {
            Projection::Content { items, .. } => items.iter().map(|item| &item.path).collect(),
            Projection::Downward(items) => items.iter().map(|item| &item.path).collect(),
            Projection::Token { path, .. } => vec![path],
        };
        for path in paths {
            if !taken.insert(path.clone()) {
                findings.rule(&item, format!("the path {} is taken by another source", names::shown(path)));
            }
        }
        sources.push(source);
    }
    Some(Projected { sources, default_mode, group })
}

fn document(at: &At<'_>, kind: ContentKind, name: &str, findings: &mut Findings) -> Option<Projection> {
    let name = env::document_name(at, name, findings)?;
    let optional = at.boolean_in("optional", findings).unwrap_or(false);
    let mut items = Vec::new();
    for item in at.list("items", findings) {
        let (Some(key), path) = (item.need("key", findings), path(&item, findings)) else { continue };
        let (Some(text), Some(path)) = (key.text(findings), path) else { continue };
        if let Some(reason) = content::bad_key(text) {
            findings.rule(&key, reason);
        }
        items.push(KeyToPath { key: text.to_owned(), path, mode: mode(&item, "mode", findings) });
    }
    Some(Projection::Content { kind, name, items, optional })
}

fn downward(at: &At<'_>, findings: &mut Findings) -> Vec<DownwardFile> {
    let mut files = Vec::new();
    for item in at.list("items", findings) {
        let path = path(&item, findings);
        let mode = mode(&item, "mode", findings);
        let value = match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(at), None) => field(&at, findings).map(DownwardValue::Field),
            (None, Some(at)) => resource(&at, findings),
            (None, None) => {
                findings.impossible(&item, "names no source: give it a fieldRef or a resourceFieldRef");
                None
            }
            (Some(_), Some(at)) => {
                findings.impossible(&at, "cannot stand beside a fieldRef: leave one of them");
                None
            }
        };
        if let (Some(path), Some(value)) = (path, value) {
            files.push(DownwardFile { path, mode, value });
        }
    }
    files
}

fn field(at: &At<'_>, findings: &mut Findings) -> Option<DownwardField> {
    let at = env::field_path(at, findings)?;
    let path = at.text(findings)?;
    let field = match path {
        "metadata.name" => DownwardField::Name,
        "metadata.namespace" => DownwardField::Namespace,
        "metadata.uid" => DownwardField::Uid,
        "metadata.labels" => DownwardField::Labels,
        "metadata.annotations" => DownwardField::Annotations,
        _ => match (env::keyed(path, "metadata.labels['"), env::keyed(path, "metadata.annotations['")) {
            (Some(key), _) => DownwardField::Label(key),
            (_, Some(key)) => DownwardField::Annotation(key),
            _ => {
                findings.impossible(&at, format!("{} cannot be a file: use one of {FIELDS}", names::shown(path)));
                return None;
            }
        },
    };
    if let DownwardField::Label(key) | DownwardField::Annotation(key) = &field
        && let Some(reason) = names::qualified(&key.to_lowercase())
    {
        findings.rule(&at, reason);
    }
    Some(field)
}

fn resource(at: &At<'_>, findings: &mut Findings) -> Option<DownwardValue> {
    at.need("containerName", findings)?;
    let (container, resource, divisor) = env::resource(at, "", findings)?;
    Some(DownwardValue::Resource { container, resource, divisor })
}

fn token(at: &At<'_>, findings: &mut Findings) -> Option<Projection> {
    let path = path(at, findings);
    let audience = at.text_in("audience", findings).unwrap_or_default().to_owned();
    let mut expiration_seconds = DEFAULT_EXPIRATION;
    if let Some(at) = at.get("expirationSeconds") {
        let seconds = at.integer(findings)?;
        if !(MIN_EXPIRATION..=1 << 32).contains(&seconds) {
            findings.rule(&at, format!("must be between {MIN_EXPIRATION} and {} seconds", 1_u64 << 32));
        }
        expiration_seconds = u64::try_from(seconds).unwrap_or(DEFAULT_EXPIRATION);
    }
    Some(Projection::Token { path: path?, audience, expiration_seconds })
}

/// A resourceFieldRef of a file names a container of the pod: known only when all have been read.
pub fn check_containers(spec: &At<'_>, containers: &BTreeSet<&str>, findings: &mut Findings) {
    for volume in spec.list("volumes", findings) {
        let own = volume.get("downwardAPI");
        let sources = volume.get("projected").map(|at| at.list("sources", findings)).unwrap_or_default();
        let projected = sources.iter().filter_map(|source| source.get("downwardAPI"));
        for at in own.into_iter().chain(projected) {
            for item in at.list("items", findings) {
                let Some(at) = item.get("resourceFieldRef").and_then(|at| at.get("containerName")) else { continue };
                if let Some(name) = at.text(findings)
                    && !containers.contains(name)
                {
                    findings.impossible(&at, format!("the pod has no container {}", names::shown(name)));
                }
            }
        }
    }
}

/// A file's path in the volume: relative, plain, and not one of the volume's own names, which begin with `..`.
fn path(item: &At<'_>, findings: &mut Findings) -> Option<String> {
    let at = item.need("path", findings)?;
    let text = at.text(findings)?;
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let reason = if text.starts_with('/') {
        "must be relative to the volume"
    } else if parts.contains(&"..") {
        "must not contain `..`"
    } else if text.starts_with("..") {
        "must not begin with `..`: such names are the volume's own"
    } else if parts.is_empty() || text.contains('\0') {
        "must name a file"
    } else if text.len() > MAX_PATH || parts.iter().any(|part| part.len() > MAX_NAME) {
        "is too long for a file's name"
    } else {
        return Some(parts.join("/"));
    };
    findings.impossible(&at, format!("{} {reason}", names::shown(text)));
    None
}

/// Permission bits, 0 to 0777.
fn mode(at: &At<'_>, field: &str, findings: &mut Findings) -> Option<u32> {
    let at = at.get(field)?;
    let bits = at.integer(findings)?;
    let mode = u32::try_from(bits).ok().filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        findings.impossible(&at, "must be permission bits between 0 and 0777 (511)");
    }
    mode
}
