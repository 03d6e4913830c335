//! Bytes of a manifest file to desired pods, or to every reason why not: with file, line and field path.
//!
//! Driven by the sources (a file, the control endpoint's snapshot) and by whoever reads a record back
//! ([`parse_recorded`]: the same path). The Kubernetes types end here: what comes out is [`DesiredPod`]. It must not
//! know where files lie, what else exists, or what runs.

mod budget;
mod container;
mod content;
mod daemonset;
mod documents;
mod env;
mod findings;
mod handlers;
mod json;
mod mounts;
pub mod names;
mod naming;
mod object;
mod one;
mod placement;
mod pod;
mod priority_class;
mod projected;
pub mod quantity;
mod resources;
mod scalar;
mod security;
mod sysctls;
#[cfg(test)]
mod tests;
mod tree;
mod volumes;
mod walk;
mod yaml;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::content::{Content, ContentKey, ContentKind};
use crate::desired::{DesiredPod, Origin, Source};
use crate::name::{WorkloadKey, WorkloadKind};
use crate::received::Received;
use crate::spec::PodTemplate;

pub use one::{json_document, yaml_document};
pub use security::capability;

/// A larger file is not read: the kubelet's limit.
pub const MAX_FILE_BYTES: usize = 10 * 1024 * 1024;
/// Documents of one file. A node runs 110 pods; bundles bring a few dozen other documents each.
pub const MAX_DOCUMENTS: usize = 1000;

/// What parsing needs to know of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// A static pod's name is `<name>-<node>`.
    pub node_name: String,
}

/// Everything that one file says. Neither documents nor `whole`: an empty `List`, which asks for nothing on purpose.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// The file as it was named to [`parse`].
    pub file: String,
    /// In the file's order; the items of a `List` stand one by one.
    pub documents: Vec<DocumentOutcome>,
    /// What is wrong with the file as a whole: empty, binary, too large, or broken from this line on. The documents
    /// before that line are in `documents` and count.
    pub whole: Option<Rejection>,
}

impl Parsed {
    /// All rejections, in the order of the file's lines.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        let of_documents = self.documents.iter().filter_map(|d| d.result.as_ref().err()).flatten();
        of_documents.chain(self.whole.iter())
    }

    /// Every document was taken and nothing is wrong with the file.
    pub fn is_accepted(&self) -> bool {
        self.rejections().next().is_none()
    }
}

/// One document (or one item of a list) and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentOutcome {
    /// The line on which it starts, from 1.
    pub line: u32,
    /// Known as soon as kind and name can be read, also of a document that is refused: its last good version is held.
    pub identity: Option<Identity>,
    pub result: Result<Document, Vec<Rejection>>,
    /// Fields that are accepted and do nothing here.
    pub no_effect: Vec<NoEffect>,
    /// Of a pod object of the control endpoint that is refused: it is to end all the same, with this much time to do so. Its owner has asked for that, and
    /// what else it says matters no more.
    pub ends: Option<Duration>,
}

/// Which object a document describes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub kind: String,
    /// `default` where the document names none; empty for kinds that have no namespace.
    pub namespace: String,
    pub name: String,
}

impl Identity {
    /// The workload this is, for a Pod or DaemonSet.
    pub fn workload(&self, source: Source) -> Option<WorkloadKey> {
        let kind = match (self.kind.as_str(), source) {
            ("Pod", Source::Static) => WorkloadKind::Pod,
            ("Pod", Source::Control) => WorkloadKind::Control,
            ("DaemonSet", _) => WorkloadKind::DaemonSet,
            _ => return None,
        };
        Some(WorkloadKey { namespace: self.namespace.clone(), kind, name: self.name.clone() })
    }

    /// The document this is, for a ConfigMap or Secret.
    pub fn content(&self) -> Option<ContentKey> {
        let kind = ContentKind::of(&self.kind)?;
        Some(ContentKey { kind, namespace: self.namespace.clone(), name: self.name.clone() })
    }
}

impl fmt::Display for Identity {
    /// `Kind namespace/name`, or `Kind name` for kinds without namespace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A document that was taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// A Pod or a DaemonSet: `workload.kind` says which.
    Workload(Box<DesiredPod>),
    /// A kind that is accepted so that whole bundles can be dropped in, and that does nothing here.
    Accepted {
        kind: String,
        reason: String,
    },
    /// A ConfigMap or a Secret.
    Content {
        key: ContentKey,
        content: Arc<Content>,
    },
    PriorityClass(PriorityClass),
}

/// scheduling.k8s.io/v1 PriorityClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriorityClass {
    pub name: String,
    pub value: i32,
    /// It is the class of pods that name none.
    pub global_default: bool,
}

/// A reason why a document or a file is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {}{reason}", Prefix(.path))]
pub struct Rejection {
    pub file: String,
    /// From 1.
    pub line: u32,
    /// `spec.containers[0].image`; empty where no field is to blame.
    pub path: String,
    /// What is wrong and what to do, as the end of a sentence.
    pub reason: String,
}

/// A path and its colon, or nothing.
struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

/// A field that is accepted and does nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoEffect {
    pub line: u32,
    pub path: String,
    pub reason: String,
}

/// Whether Kubernetes brings the priority class of this name.
pub fn is_known_class(name: &str) -> bool {
    pod::PRIORITY_CLASSES.iter().any(|(known, _)| *known == name)
}

/// The template with the priority that its document writes, without what was looked up of PriorityClass documents: what a revision
/// is made of, so that another value of a class makes no new pod.
pub fn with_written_priority(template: &PodTemplate, kind: WorkloadKind, document: &Value) -> PodTemplate {
    let spec = match kind {
        WorkloadKind::Pod | WorkloadKind::Control => document.pointer("/spec"),
        WorkloadKind::DaemonSet => document.pointer("/spec/template/spec"),
    };
    let field = |name: &str| spec.and_then(|spec| spec.get(name));
    let class = field("priorityClassName").and_then(Value::as_str).filter(|name| !name.is_empty());
    let known = pod::PRIORITY_CLASSES.iter().find(|(name, _)| Some(*name) == class).map(|(_, value)| *value);
    let given = field("priority").and_then(Value::as_i64).and_then(|value| i32::try_from(value).ok());
    let mut template = template.clone();
    template.spec.priority = known.or(given).unwrap_or(0);
    template.spec.priority_class = class.map(str::to_owned);
    template
}

/// Reads a file. Every document is judged by itself: one that is refused stops no other.
pub fn parse(file: &str, bytes: &[u8], context: &Context) -> Parsed {
    let mut parsed = Parsed { file: file.to_owned(), ..Parsed::default() };
    match text(bytes) {
        Ok(text) => documents::read(text, &documents::Reading { file, context, source: Source::Static }, &mut parsed),
        Err((line, reason)) => parsed.whole = Some(whole(file, line, reason)),
    }
    parsed
}

/// Reads an object of the control endpoint, one JSON document: the same path as [`parse`]. `file`: what it is called.
pub fn parse_object(file: &str, bytes: &[u8], context: &Context) -> Parsed {
    let mut parsed = Parsed { file: file.to_owned(), ..Parsed::default() };
    let reading = documents::Reading { file, context, source: Source::Control };
    match text(bytes) {
        Ok(text) => documents::read_object(text, &reading, &mut parsed),
        Err((line, reason)) => parsed.whole = Some(whole(file, line, reason)),
    }
    // It is kept for as long as the file lies there.
    parsed.documents.shrink_to_fit();
    parsed
}

/// Reads a record's document back into what it was admitted as.
///
/// The same path as [`parse`], but it forgives: a field or value that this version refuses or does not know is passed
/// over, because the pod was accepted once. Only a document that cannot be run at all is refused.
pub fn parse_recorded(document: &Received, origin: &Origin, context: &Context) -> Result<DesiredPod, Vec<Rejection>> {
    documents::recorded(&document.read(), origin, context)
}

/// Reads back a ConfigMap or Secret that the store wrote ([`Content::to_document`]). It forgives as [`parse_recorded`] does.
pub fn parse_kept(document: &serde_json::Value, origin: &Origin) -> Result<(ContentKey, Content), Vec<Rejection>> {
    documents::kept(document, origin)
}

/// The file's characters, or the line and the reason why it has none.
fn text(bytes: &[u8]) -> Result<&str, (u32, String)> {
    if bytes.len() > MAX_FILE_BYTES {
        let reason = format!("the file has {} bytes, more than the {MAX_FILE_BYTES} allowed: split it", bytes.len());
        return Err((1, reason));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err((1, "the file is empty: delete it to end what it asked for".into()));
    }
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        return Err((line_of(bytes, at), "the file is binary (it has a NUL byte): a manifest is YAML or JSON".into()));
    }
    std::str::from_utf8(bytes)
        .map_err(|e| (line_of(bytes, e.valid_up_to()), "the file is not UTF-8: save it as UTF-8 text".into()))
}

fn line_of(bytes: &[u8], at: usize) -> u32 {
    let before = bytes.iter().take(at).filter(|b| **b == b'\n').count();
    u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
}

fn whole(file: &str, line: u32, reason: impl Into<String>) -> Rejection {
    Rejection { file: file.to_owned(), line, path: String::new(), reason: reason.into() }
}

/// A number as `spec.containers[].ports[]` has them, also of a recorded document: 80 and 80.0.
pub(crate) fn whole_number(value: &serde_json::Value) -> Option<u16> {
    match (value.as_u64(), value.as_f64()) {
        (Some(whole), _) => u16::try_from(whole).ok(),
        (None, Some(float)) if float.fract() == 0.0 && (0.0..=f64::from(u16::MAX)).contains(&float) => {
            Some(float as u16)
        }
        _ => None,
    }
}
