//! Priority classes: the value of a pod that names one, as Kubernetes' admission writes it into the pod: the record keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::desired::{DesiredPod, Origin, Source};
use crate::manifest::{Document, Parsed, PriorityClass, Rejection};
use crate::name::WorkloadKind;

/// All classes that documents of any source bring, by name and by where they stand.
#[derive(Debug, Default)]
pub struct Priorities {
    classes: BTreeMap<String, BTreeMap<Origin, PriorityClass>>,
}

impl Priorities {
    /// False where the same line (of a list, in JSON) has named the class before.
    pub fn claim(&mut self, class: PriorityClass, origin: &Origin) -> bool {
        let claims = self.classes.entry(class.name.clone()).or_default();
        let fresh = !claims.contains_key(origin);
        claims.entry(origin.clone()).or_insert(class);
        fresh
    }

    /// Documents that do not count, with the one that does: static beats control, then the first file, then the first line.
    pub fn losers(&self) -> impl Iterator<Item = (&str, &Origin, &Origin)> {
        self.classes.iter().flat_map(|(name, claims)| {
            let winner = claims.keys().next();
            claims.keys().skip(1).filter_map(move |loser| Some((name.as_str(), loser, winner?)))
        })
    }

    /// Gives the pod the value of its class. Its revision stays: another value makes no new pod. Err: the field to blame, and why
    /// the pod cannot be taken.
    pub fn resolve(&self, pod: &mut DesiredPod) -> Result<(), (&'static str, String)> {
        let class = match pod.template.spec.priority_class.as_deref() {
            // The well-known names have their values from the parser.
            Some(name) if crate::manifest::is_known_class(name) => return Ok(()),
            Some(name) => self.of(name).ok_or_else(|| {
                let why = format!(
                    "no PriorityClass with name {name} was found: put its document into the manifest directory, or leave the name out"
                );
                (path(pod, "priorityClassName"), why)
            })?,
            None => match self.default() {
                Some(class) => class,
                None => return Ok(()),
            },
        };
        match written(pod) {
            Some(_) if pod.template.spec.priority_class.is_none() => return Ok(()),
            Some(other) if other != i64::from(class.value) => {
                let why =
                    format!("must be {}, the value of {}, or be left out; it is {other}", class.value, class.name);
                return Err((path(pod, "priority"), why));
            }
            _ => {}
        }
        let spec = &mut Arc::make_mut(&mut pod.template).spec;
        (spec.priority, spec.priority_class) = (class.value, Some(class.name.clone()));
        Ok(())
    }

    fn of(&self, name: &str) -> Option<&PriorityClass> {
        self.classes.get(name)?.values().next()
    }

    /// Of several the one with the least value, as in Kubernetes.
    fn default(&self) -> Option<&PriorityClass> {
        let counting = self.classes.values().filter_map(|claims| claims.values().next());
        counting.filter(|class| class.global_default).min_by_key(|class| (class.value, &class.name))
    }
}

/// `spec.priority` as the document has it.
fn written(pod: &DesiredPod) -> Option<i64> {
    let document = pod.document.read();
    document.pointer(&format!("/{}", path(pod, "priority").replace('.', "/")))?.as_i64()
}

fn path(pod: &DesiredPod, field: &str) -> &'static str {
    match (pod.workload.kind, field) {
        (WorkloadKind::Pod | WorkloadKind::Control, "priority") => "spec.priority",
        (WorkloadKind::Pod | WorkloadKind::Control, _) => "spec.priorityClassName",
        (WorkloadKind::DaemonSet, "priority") => "spec.template.spec.priority",
        (WorkloadKind::DaemonSet, _) => "spec.template.spec.priorityClassName",
    }
}

/// Classes that pods of these files name and that none of the files brings, and values that contradict their class: what a node that
/// has these files and no others would refuse. Each with the place of the file, and of the document in it.
pub fn unresolved(files: &[Parsed]) -> Vec<([usize; 2], Rejection)> {
    let documents = || {
        files.iter().enumerate().flat_map(|(at, file)| {
            let all = file.documents.iter().enumerate();
            let taken = all.filter_map(|(index, it)| Some((index, it.line, it.result.as_ref().ok()?)));
            taken.map(move |(index, line, document)| ([at, index], file.file.clone(), line, document))
        })
    };
    let mut priorities: Priorities = Default::default();
    for (_, file, line, document) in documents() {
        if let Document::PriorityClass(class) = document {
            priorities.claim(class.clone(), &Origin { source: Source::Static, file, line });
        }
    }
    let refused = documents().filter_map(|(place, file, line, document)| {
        let Document::Workload(pod) = document else { return None };
        let (path, reason) = priorities.resolve(&mut DesiredPod::clone(pod)).err()?;
        Some((place, Rejection { file, line, path: path.to_owned(), reason }))
    });
    refused.collect()
}
