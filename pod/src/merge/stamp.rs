//! Templates that ask for a new pod whenever what they use says something else: a digest of it becomes part of them.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::content::{Contents, Used, of_pod};
use crate::desired::{DesiredPod, DesiredSet, Wanted};
use crate::digest;
use crate::manifest::with_written_priority;
use crate::name::WorkloadKind;
use crate::spec::CONFIG_DIGEST_ANNOTATION;

/// Letters of a digest: as many as a revision has.
const LETTERS: usize = 10;

/// Writes the digest into every wanted pod that asks for it, and into its document, so that its record tells later what it
/// was admitted with. `salt` belongs to this node and is told nobody: a digest of a password would else give it away.
pub fn stamp(set: &mut DesiredSet, salt: &[u8]) {
    let contents = set.contents.clone();
    for wanted in set.workloads.values_mut() {
        if let Wanted::Run(pod) = wanted
            // An object is one pod, whatever it uses: a new one is the endpoint's to make.
            && pod.workload.kind != WorkloadKind::Control
            && pod.template.restarts_on_config_change()
        {
            mark(pod, &contents, salt);
        }
    }
}

fn mark(pod: &mut DesiredPod, contents: &Contents, salt: &[u8]) {
    let used = contents.of(of_pod(&pod.template.spec, &pod.workload.namespace));
    let letters = digest_of(&used, salt);
    let metadata = match pod.workload.kind {
        WorkloadKind::Pod | WorkloadKind::Control => "/metadata/annotations",
        WorkloadKind::DaemonSet => "/spec/template/metadata/annotations",
    };
    let mut document = pod.document.read();
    if let Some(annotations) = document.pointer_mut(metadata).and_then(Value::as_object_mut) {
        annotations.insert(CONFIG_DIGEST_ANNOTATION.to_owned(), letters.clone().into());
    }
    Arc::make_mut(&mut pod.template).annotations.insert(CONFIG_DIGEST_ANNOTATION.to_owned(), letters);
    let written = with_written_priority(&pod.template, pod.workload.kind, &document);
    pod.revision = digest::revision(pod.workload.kind, &written, &document);
    pod.document = document.into();
}

fn digest_of(used: &Used, salt: &[u8]) -> String {
    let mut sum = Sha256::new();
    let mut feed = |bytes: &[u8]| {
        // With its length, so that no two values meet.
        sum.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        sum.update(bytes);
    };
    feed(salt);
    for (key, content) in used {
        feed(key.to_string().as_bytes());
        let entries = content.iter().flat_map(|content| &content.entries);
        feed(if content.is_some() { b"there" } else { b"missing" });
        for (name, entry) in entries {
            feed(name.as_bytes());
            feed(entry.value.reveal());
        }
    }
    digest::letters(&sum.finalize(), LETTERS)
}
