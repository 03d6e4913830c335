//! Pods and what stands beside them: manifests that people write, objects of the control endpoint, files that containers write.

use pod::env_file;
use pod::manifest::{Context, Document, DocumentOutcome, Parsed, parse, parse_kept, parse_object, parse_recorded};

use super::{judged, nothing};
use crate::{Judged, Target, WORDS_MAX};

/// A document of any shape, its tree with places, the pod that is made of it, and the same twice more, as it is read back.
fn tree(input: usize) -> usize {
    600 * input + (4 << 20)
}

const FIELDS: &[&str] = &[
    "null",
    "true",
    "-1",
    "0x10",
    "1e3",
    "10Mi",
    "9223372036854775808",
    "\"\"",
    "''",
    "[]",
    "{}",
    "---\n",
    "...\n",
    "- ",
    ": ",
    "&a ",
    "*a",
    "!!binary ",
    "<<: ",
    "|\n  ",
    ">-\n  ",
    "\t",
    "# ",
    "\u{feff}",
    "\\u0000",
    "\\ud800",
    "[[[[[[[[",
    "{{{{{{{{",
    "apiVersion",
    "kind",
    "List",
    "items",
    "Pod",
    "DaemonSet",
    "ConfigMap",
    "Secret",
    "PriorityClass",
    "metadata",
    "spec",
    "template",
    "selector",
    "containers",
    "initContainers",
    "volumes",
    "volumeMounts",
    "subPathExpr",
    "hostPath",
    "emptyDir",
    "projected",
    "downwardAPI",
    "valueFrom",
    "fieldRef",
    "resourceFieldRef",
    "$(A)",
    "$$(A)",
    "livenessProbe",
    "httpGet",
    "securityContext",
    "sysctls",
    "resources",
    "limits",
    "requests",
    "tolerations",
    "nodeAffinity",
    "matchExpressions",
    "updateStrategy",
    "../../etc",
    "/dev/../..",
    "127.0.0.1",
    "::1",
];

/// A file of the manifest directory.
pub const PODS: Target = Target {
    name: "pods",
    rounds: 1_500,
    input_max: 32 << 10,
    memory: tree,
    words: FIELDS,
    more: nothing,
    judge: |input| judge(&parse("fuzz.yaml", input, &node())),
};

/// An object of the control endpoint.
pub const OBJECT: Target = Target {
    name: "object",
    rounds: 2_000,
    input_max: 32 << 10,
    memory: tree,
    words: FIELDS,
    more: nothing,
    judge: |input| judge(&parse_object("pod default/fuzz", input, &node())),
};

/// What a container writes for its neighbour.
pub const VARIABLES: Target = Target {
    name: "variables",
    rounds: 10_000,
    input_max: 8 << 10,
    memory: |input| 4 * input + (64 << 10),
    words: &["A=", "B='", "'", "''", "=", "#", "\n", "\r\n", " ", "\t", "\\'", "\"", "$A", "\0"],
    more: nothing,
    judge: |input| {
        let Ok(text) = std::str::from_utf8(input) else { return Judged::Refused("no UTF-8".to_owned()) };
        judged(env_file::find(text, "A").map_err(|error| error.to_string()), |found| {
            found.filter(|value| value.contains('\'')).map(|value| format!("{value:?} was read out of quotes"))
        })
    },
};

fn node() -> Context {
    Context { node_name: "n1".to_owned() }
}

/// What was taken has to be read back by the next start of the agent as the same thing; what was refused says where and why.
fn judge(parsed: &Parsed) -> Judged {
    if let Some(long) = parsed.rejections().find(|one| one.to_string().len() > WORDS_MAX) {
        return Judged::Broken(format!("it is refused in {} bytes: {:.300}", long.to_string().len(), long.to_string()));
    }
    if let Some(bad) = parsed.documents.iter().find_map(read_back) {
        return Judged::Broken(bad);
    }
    match parsed.rejections().next() {
        Some(refused) => Judged::Refused(refused.to_string()),
        None => Judged::Accepted,
    }
}

/// What is wrong with a document that was taken.
fn read_back(outcome: &DocumentOutcome) -> Option<String> {
    match outcome.result.as_ref().ok()? {
        Document::Workload(taken) => match parse_recorded(&taken.document, &taken.origin, &node()) {
            Err(why) => Some(format!("it was taken and cannot be read back: {why:?}")),
            Ok(again) if again.template != taken.template => {
                Some(format!("it is another pod after a restart: {:?}, then {:?}", taken.template, again.template))
            }
            Ok(again) if again.revision != taken.revision => Some("it has another revision after a restart".to_owned()),
            Ok(_) => None,
        },
        Document::Content { key, content } => {
            let origin = pod::desired::Origin { source: pod::desired::Source::Static, file: String::new(), line: 1 };
            match parse_kept(&content.to_document(key), &origin) {
                Err(why) => Some(format!("it was taken and cannot be kept: {why:?}")),
                Ok(again) if (&again.0, &again.1) != (key, content.as_ref()) => {
                    Some("it is kept as another".to_owned())
                }
                Ok(_) => None,
            }
        }
        Document::Accepted { .. } | Document::PriorityClass(_) => None,
    }
}
