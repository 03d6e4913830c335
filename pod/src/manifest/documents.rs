//! A file's text to documents, lists taken apart, and each document to its outcome.
//!
//! Driven by [`super::parse`] and [`super::parse_recorded`]: there is one way from a tree to a desired pod.

use super::findings::{At, Class, Fault, Findings};
use super::tree::{Node, Value};
use super::yaml::Broken;
use super::{
    Context, Document, DocumentOutcome, Identity, MAX_DOCUMENTS, Parsed, Rejection, content, daemonset, json, names,
    object, pod, priority_class, walk, yaml,
};
use crate::content::{Content, ContentKey, ContentKind};
use crate::desired::{DesiredPod, Origin, Source, UpdateStrategy};
use crate::digest;
use crate::fields::Place;
use crate::name::{WorkloadKey, WorkloadKind};

/// What the documents of one file have in common.
pub struct Reading<'a> {
    pub file: &'a str,
    pub context: &'a Context,
    pub source: Source,
}

/// Reads all documents of a text into `parsed`. A text that holds none is at fault, unless it is an empty list: that asks
/// for nothing in so many words, whereas a file may have run empty by accident.
pub fn read(text: &str, reading: &Reading<'_>, parsed: &mut Parsed) {
    let looks_like_json = text.trim_start().starts_with(['{', '[']);
    let mut broken = None;
    if looks_like_json {
        broken = read_with(json::read, text, reading, parsed).err();
        // A YAML document may begin with `{` too, without being JSON.
        if broken.is_some() && !reading.file.ends_with(".json") {
            let mut as_yaml = Parsed { file: parsed.file.clone(), ..Parsed::default() };
            if read_with(yaml::read, text, reading, &mut as_yaml).is_ok() {
                *parsed = as_yaml;
                return;
            }
        }
    } else if let Err(fault) = read_with(yaml::read, text, reading, parsed) {
        broken = Some(fault.clone());
        if yaml::pieces(text).nth(1).is_some() && parsed.documents.len() < MAX_DOCUMENTS {
            parsed.documents.clear();
            broken = one_by_one(text, reading, parsed).or(Some(fault));
        }
    }
    if let Some(Broken { line, reason }) = broken {
        parsed.whole = Some(Rejection { file: reading.file.to_owned(), line, path: String::new(), reason });
    }
}

/// Reads each document by itself, so that one that is broken takes none of those behind it along. The answer is what is wrong with the
/// first broken one; further ones stand among the documents.
fn one_by_one(text: &str, reading: &Reading<'_>, parsed: &mut Parsed) -> Option<Broken> {
    let mut first = None;
    for (before, piece) in yaml::pieces(text) {
        let mut surplus = None;
        let read = yaml::read_from(before, piece, &mut |root| {
            surplus = place(&root, reading, &mut parsed.documents).err();
            surplus.is_none()
        });
        if let Some(line) = surplus {
            return first.or_else(|| Some(too_many(line)));
        }
        let Err(Broken { line, reason }) = read else { continue };
        if first.is_none() {
            first = Some(Broken { line, reason });
            continue;
        }
        let rejection = Rejection { file: reading.file.to_owned(), line, path: String::new(), reason };
        let outcome =
            DocumentOutcome { line, identity: None, result: Err(vec![rejection]), no_effect: Vec::new(), ends: None };
        if add(&mut parsed.documents, line, || outcome).is_err() {
            break;
        }
    }
    first
}

fn too_many(line: u32) -> Broken {
    let reason = format!("the file has more than {MAX_DOCUMENTS} documents: split it; those from here on do not count");
    Broken { line, reason }
}

/// Reads one object in JSON; a list is none.
pub fn read_object(text: &str, reading: &Reading<'_>, parsed: &mut Parsed) {
    let mut documents = Vec::new();
    let read = json::read(text, &mut |root| {
        documents.push(outcome(&root, "", None, reading));
        documents.len() <= 1
    });
    let whole =
        |line, reason: String| Some(Rejection { file: reading.file.to_owned(), line, path: String::new(), reason });
    match (read, documents.len()) {
        (Ok(()), 1) => parsed.documents = documents,
        (Ok(()), _) => parsed.whole = whole(1, "it is not one JSON object".into()),
        (Err(Broken { line, reason }), _) => parsed.whole = whole(line, reason),
    }
}

fn read_with(
    reader: impl Fn(&str, &mut dyn FnMut(Node) -> bool) -> Result<(), Broken>,
    text: &str,
    reading: &Reading<'_>,
    parsed: &mut Parsed,
) -> Result<(), Broken> {
    let mut surplus = None;
    let mut roots = 0;
    reader(text, &mut |root| {
        roots += 1;
        surplus = place(&root, reading, &mut parsed.documents).err();
        surplus.is_none()
    })?;
    match surplus {
        Some(line) => Err(too_many(line)),
        None if roots == 0 => {
            Err(Broken { line: 1, reason: "the file holds no document: delete it to end what it asked for".into() })
        }
        None => Ok(()),
    }
}

/// Adds a document, or the items of a list one by one. The error is the line of the first one too many.
fn place(root: &Node, reading: &Reading<'_>, documents: &mut Vec<DocumentOutcome>) -> Result<(), u32> {
    let kind = root.get("kind").and_then(Node::text).unwrap_or_default();
    let (Some(item_kind), Some(Value::List(items))) = (list_kind(kind), root.get("items").map(|i| &i.value)) else {
        return add(documents, root.line, || outcome(root, "", None, reading));
    };
    let duplicates = root.duplicates();
    if duplicates.iter().any(|d| !d.path.starts_with("items[")) {
        // The list itself is ambiguous, so none of its items is taken.
        return add(documents, root.line, || outcome(root, "", None, reading));
    }
    for (index, item) in items.iter().enumerate() {
        add(documents, item.line, || outcome(item, &format!("items[{index}]"), item_kind, reading))?;
    }
    Ok(())
}

fn add(documents: &mut Vec<DocumentOutcome>, line: u32, make: impl FnOnce() -> DocumentOutcome) -> Result<(), u32> {
    if documents.len() >= MAX_DOCUMENTS {
        return Err(line);
    }
    documents.push(make());
    Ok(())
}

/// For a kind that is a list: what its items are where they do not say so.
fn list_kind(kind: &str) -> Option<Option<WorkloadKind>> {
    match kind {
        "List" => Some(None),
        "PodList" => Some(Some(WorkloadKind::Pod)),
        "DaemonSetList" => Some(Some(WorkloadKind::DaemonSet)),
        _ => None,
    }
}

fn outcome(root: &Node, path: &str, implied: Option<WorkloadKind>, reading: &Reading<'_>) -> DocumentOutcome {
    let mut findings = Findings::default();
    for duplicate in root.duplicates() {
        let reason = format!("stands twice, first on line {}: leave one", duplicate.first_line);
        let joint = if path.is_empty() || duplicate.path.starts_with('[') { "" } else { "." };
        findings.fault(duplicate.line, format!("{path}{joint}{}", duplicate.path), reason, Class::Rule);
    }
    let at = At { node: root, path: path.to_owned() };
    let identity = identity(&at, implied);
    let document = judge(&at, implied, identity.as_ref(), reading, &mut findings);
    let rejections = rejections(&findings, reading.file, |fault| !findings.is_explained(fault));
    let result = match document {
        Some(document) if rejections.is_empty() => Ok(document),
        _ => Err(rejections),
    };
    let no_effect = if result.is_ok() { findings.no_effect } else { Vec::new() };
    let is_object = reading.source == Source::Control && identity.as_ref().is_some_and(|it| it.kind == "Pod");
    let ends = if result.is_err() && is_object { object::ends(root) } else { None };
    DocumentOutcome { line: root.line, identity, result, no_effect, ends }
}

/// Reads a record's document; rule faults are forgiven.
pub fn recorded(
    document: &serde_json::Value,
    origin: &Origin,
    context: &Context,
) -> Result<DesiredPod, Vec<Rejection>> {
    let root = Node::from_json(document, origin.line);
    let at = At { node: &root, path: String::new() };
    let reading = Reading { file: &origin.file, context, source: origin.source };
    let mut findings = Findings::default();
    let identity = identity(&at, None);
    let kind = identity.as_ref().and_then(|identity| identity.workload(origin.source));
    let Some(key) = kind else {
        let at = &at;
        findings.impossible(at, "is neither a Pod nor a DaemonSet with a name");
        return Err(rejections(&findings, reading.file, |_| true));
    };
    let pod = workload(&at, key, &reading, &mut findings);
    let impossible = rejections(&findings, reading.file, |fault| fault.class == Class::Impossible);
    match pod {
        Some(pod) if impossible.is_empty() => Ok(DesiredPod { origin: origin.clone(), ..pod }),
        _ => Err(impossible),
    }
}

/// Reads a stored ConfigMap or Secret; rule faults are forgiven.
pub fn kept(document: &serde_json::Value, origin: &Origin) -> Result<(ContentKey, Content), Vec<Rejection>> {
    let root = Node::from_json(document, origin.line);
    let at = At { node: &root, path: String::new() };
    let mut findings = Findings::default();
    let key = identity(&at, None).and_then(|identity| identity.content());
    let Some(key) = key else {
        findings.impossible(&at, "is neither a ConfigMap nor a Secret with a name");
        return Err(rejections(&findings, &origin.file, |_| true));
    };
    let content = content::read(&at, key.kind, &mut findings);
    let impossible = rejections(&findings, &origin.file, |fault| fault.class == Class::Impossible);
    match content {
        Some(content) if impossible.is_empty() => Ok((key, content)),
        _ => Err(impossible),
    }
}

fn rejections(findings: &Findings, file: &str, which: impl Fn(&Fault) -> bool) -> Vec<Rejection> {
    let mut rejections: Vec<Rejection> = findings
        .faults
        .iter()
        .filter(|fault| which(fault))
        .map(|fault| Rejection {
            file: file.to_owned(),
            line: fault.line,
            path: fault.path.clone(),
            reason: fault.reason.clone(),
        })
        .collect();
    rejections.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
    if findings.dropped > 0 {
        let line = rejections.last().map_or(1, |r| r.line);
        let reason = format!("and {} more faults", findings.dropped);
        rejections.push(Rejection { file: file.to_owned(), line, path: String::new(), reason });
    }
    rejections
}

fn kind_of<'a>(at: &At<'a>, implied: Option<WorkloadKind>) -> Option<&'a str> {
    match (at.node.get("kind"), implied) {
        (None, Some(WorkloadKind::Pod)) => Some("Pod"),
        (None, Some(WorkloadKind::DaemonSet)) => Some("DaemonSet"),
        (kind, _) => kind.and_then(Node::text),
    }
}

/// Whatever else is wrong: kind and name say what the document is about. None also where they stand twice.
fn identity(at: &At<'_>, implied: Option<WorkloadKind>) -> Option<Identity> {
    let kind = kind_of(at, implied)?;
    let metadata = at.node.get("metadata")?;
    let name = metadata.get("name")?.text()?;
    let namespace = match (bystander(kind), metadata.get("namespace").and_then(Node::text)) {
        (Some(Bystander { namespaced: false, .. }), _) => "",
        _ if kind == PRIORITY_CLASS => "",
        (_, Some(namespace)) if !namespace.is_empty() => namespace,
        _ => "default",
    };
    Some(Identity { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
}

const PRIORITY_CLASS: &str = "PriorityClass";

/// The document's meaning. None: the findings say why not.
fn judge(
    at: &At<'_>,
    implied: Option<WorkloadKind>,
    identity: Option<&Identity>,
    reading: &Reading<'_>,
    findings: &mut Findings,
) -> Option<Document> {
    if !matches!(at.node.value, Value::Map(_)) {
        findings.impossible(
            at,
            format!("a document must be a mapping with apiVersion and kind, this is {}", at.node.value.kind()),
        );
        return None;
    }
    if at.node.get("kind").is_none() && implied.is_none() {
        at.need("apiVersion", findings);
        at.need("kind", findings);
        return None;
    }
    let Some(kind) = kind_of(at, implied) else {
        at.get("kind").or_else(|| at.need("kind", findings))?.text(findings);
        return None;
    };
    if let Some(bystander) = bystander(kind) {
        name(at, findings)?;
        return Some(Document::Accepted { kind: kind.to_owned(), reason: bystander.reason.to_owned() });
    }
    if kind == PRIORITY_CLASS {
        let name = name(at, findings)?;
        return priority_class::read(at, name, findings).map(Document::PriorityClass);
    }
    if let Some(kind) = ContentKind::of(kind) {
        name(at, findings)?;
        let content = content::read(at, kind, findings)?;
        let key = identity?.content()?;
        plain_names(at, &key.name, &key.namespace, findings);
        return Some(Document::Content { key, content: content.into() });
    }
    let (workload_kind, version) = match (kind, reading.source) {
        ("Pod", Source::Static) => (WorkloadKind::Pod, "v1"),
        ("Pod", Source::Control) => (WorkloadKind::Control, "v1"),
        ("DaemonSet", Source::Static) => (WorkloadKind::DaemonSet, "apps/v1"),
        (other, _) => {
            let kind = at.need("kind", findings)?;
            findings.impossible(&kind, foreign(other));
            return None;
        }
    };
    if implied.is_none() || at.get("apiVersion").is_some() {
        let written = at.need("apiVersion", findings)?;
        if written.text(findings)? != version {
            findings.impossible(&written, format!("must be {version} for a {kind}"));
            return None;
        }
    }
    walk::check(at.node, Place::root(workload_kind), &at.path, findings);
    name(at, findings);
    let key = identity?.workload(reading.source)?;
    name_rules(at, &key, reading, findings);
    Some(Document::Workload(Box::new(workload(at, key, reading, findings)?)))
}

/// `metadata.name`, or a fault.
fn name<'a>(at: &At<'a>, findings: &mut Findings) -> Option<&'a str> {
    at.need("metadata", findings)?.need("name", findings)?.text(findings)
}

/// What every name and namespace must be.
fn plain_names(at: &At<'_>, name: &str, namespace: &str, findings: &mut Findings) {
    let Some(metadata) = at.get("metadata") else { return };
    if let (Some(reason), Some(at)) = (names::dns_subdomain(name), metadata.get("name")) {
        findings.rule(&at, reason);
    }
    if let (Some(reason), Some(at)) = (names::dns_label(namespace), metadata.get("namespace")) {
        findings.rule(&at, reason);
    }
}

fn name_rules(at: &At<'_>, key: &WorkloadKey, reading: &Reading<'_>, findings: &mut Findings) {
    plain_names(at, &key.name, &key.namespace, findings);
    let Some(metadata) = at.get("metadata") else { return };
    /// Names of pods, as in Kubernetes.
    const MAX_POD_NAME: usize = 253;
    let suffix = match key.kind {
        WorkloadKind::Pod => reading.context.node_name.len(),
        WorkloadKind::DaemonSet => 5,
        // A name of its own.
        WorkloadKind::Control => return,
    };
    if key.name.len() + 1 + suffix > MAX_POD_NAME
        && let Some(at) = metadata.get("name")
    {
        findings.rule(
            &at,
            format!("is too long: with what is added to it the pod's name passes {MAX_POD_NAME} characters"),
        );
    }
}

/// The one way from a document to a desired pod.
fn workload(at: &At<'_>, key: WorkloadKey, reading: &Reading<'_>, findings: &mut Findings) -> Option<DesiredPod> {
    let (template, update) = match key.kind {
        WorkloadKind::Pod | WorkloadKind::Control => (pod::template(at, findings)?, UpdateStrategy::RollingUpdate),
        WorkloadKind::DaemonSet => daemonset::read(at, findings)?,
    };
    let mut document = at.node.to_json();
    let revision = digest::revision(key.kind, &template, &document);
    if let Some(map) = document.as_object_mut() {
        // An item of a PodList or DaemonSetList may leave these out; a record stands alone.
        let (kind, version) = match key.kind {
            WorkloadKind::Pod | WorkloadKind::Control => ("Pod", "v1"),
            WorkloadKind::DaemonSet => ("DaemonSet", "apps/v1"),
        };
        map.insert("kind".into(), kind.into());
        map.insert("apiVersion".into(), version.into());
    }
    let origin = Origin { source: reading.source, file: reading.file.to_owned(), line: at.node.line };
    let object = match key.kind {
        WorkloadKind::Pod | WorkloadKind::DaemonSet => None,
        WorkloadKind::Control => Some(object::read(at, template.spec.termination_grace, findings)?.into()),
    };
    let template = template.into();
    Some(DesiredPod { workload: key, template, revision, update, origin, document: document.into(), object })
}

/// A kind that may lie beside the workloads it belongs to.
struct Bystander {
    kind: &'static str,
    namespaced: bool,
    reason: &'static str,
}

fn bystander(kind: &str) -> Option<&'static Bystander> {
    const RBAC: &str = "no effect: there is no API server whose use it could allow";
    const fn row(kind: &'static str, namespaced: bool, reason: &'static str) -> Bystander {
        Bystander { kind, namespaced, reason }
    }
    const BYSTANDERS: &[Bystander] = &[
        row("ServiceAccount", true, "no effect on a node: give it to a control endpoint"),
        row("Role", true, RBAC),
        row("RoleBinding", true, RBAC),
        row("ClusterRole", false, RBAC),
        row("ClusterRoleBinding", false, RBAC),
        row("Service", true, "no effect: a daemon is reached through its node's address"),
        row("Namespace", false, "no effect: namespaces need no making here"),
        row("CustomResourceDefinition", false, "no effect: there is no API server to serve it"),
    ];
    BYSTANDERS.iter().find(|b| b.kind == kind)
}

/// Why a kind is not taken.
fn foreign(kind: &str) -> String {
    match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "ReplicationController" => {
            format!("{kind} is not run here: what every node is to run is a DaemonSet, what this node is to run a Pod")
        }
        "Job" | "CronJob" => format!("{kind} is not run here: use a Pod with restartPolicy OnFailure or Never"),
        "List" | "PodList" | "DaemonSetList" => {
            format!("a {kind} needs a list of `items`, and cannot stand in another list")
        }
        other => {
            let known = ["Pod", "DaemonSet", "ConfigMap", "Secret", PRIORITY_CLASS, "List"];
            match walk::nearest(other, known.into_iter()) {
                Some(near) => format!("{} is not run here: did you mean {near}?", names::shown(other)),
                None => format!("{} is not run here: use a Pod or a DaemonSet", names::shown(other)),
            }
        }
    }
}
