//! `check`: what the agent would say of manifest files. Needs no agent, starts nothing.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;

use clap::Args;
use pod::after;
use pod::manifest::{Context, Document, DocumentOutcome, NoEffect, Parsed, Rejection, parse};
use pod::merge::unresolved;
use serde_json::{Value, json};

use super::{Failure, Machine};
use crate::config;

/// More than any manifest the agent takes; it says so itself.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Manifest files; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Machine>,
}

/// Rejections on stdout, one a line, and on stderr what is taken and has no effect; exit code 1 where something is refused.
pub fn run(args: &CheckArgs, out: &mut impl Write) -> Result<(), Failure> {
    let node_name = config::hostname().unwrap_or_else(|_| "node".into());
    let context = Context { node_name };
    let judge = |file: &String| match read(file) {
        Ok(bytes) => parse(file, &bytes, &context),
        Err(why) => unreadable(file, &why),
    };
    let mut files: Vec<Parsed> = args.files.iter().map(judge).collect();
    refuse(&mut files);
    let accepted = files.iter().all(Parsed::is_accepted);
    match args.output {
        Some(Machine::Json) => {
            let judged: Vec<Value> = files.iter().map(to_json).collect();
            writeln!(out, "{:#}", json!({"files": judged}))?;
        }
        None => {
            files.iter().flat_map(Parsed::rejections).try_for_each(|rejection| writeln!(out, "{rejection}"))?;
            tell_no_effect(&files);
        }
    }
    if accepted { Ok(()) } else { Err(Failure::Refused(String::new())) }
}

/// On stderr, so that stdout has rejections alone.
fn tell_no_effect(files: &[Parsed]) {
    for (file, document) in files.iter().flat_map(|file| file.documents.iter().map(move |it| (&file.file, it))) {
        for NoEffect { line, path, reason } in no_effect(document) {
            let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
            // Nobody may be reading.
            let _ = writeln!(io::stderr(), "{file}:{line}: {path}has no effect: {reason}");
        }
    }
}

/// What of a document has no effect: some of its fields, or the document as a whole (its path is empty).
fn no_effect(document: &DocumentOutcome) -> Vec<NoEffect> {
    let whole = match &document.result {
        Ok(Document::Accepted { reason, .. }) => {
            Some(NoEffect { line: document.line, path: String::new(), reason: reason.clone() })
        }
        Ok(_) | Err(_) => None,
    };
    whole.into_iter().chain(document.no_effect.iter().cloned()).collect()
}

/// What only shows once all files are known.
fn refuse(files: &mut [Parsed]) {
    for ([file, document], rejection) in unresolved(files) {
        files[file].documents[document].result = Err(vec![rejection]);
    }
    refuse_circles(files);
}

/// Documents of these files that wait for each other in a circle, as the agent refuses them.
fn refuse_circles(files: &mut [Parsed]) {
    let pods = files.iter().flat_map(|file| &file.documents).filter_map(|document| match &document.result {
        Ok(Document::Workload(pod)) => Some(&**pod),
        Ok(_) | Err(_) => None,
    });
    let circles = after::circles(&pods.collect::<Vec<_>>());
    for Parsed { file, documents, .. } in files {
        for document in documents {
            let Ok(Document::Workload(pod)) = &document.result else { continue };
            if let Some(way) = circles.get(&pod.workload) {
                let (path, reason) = after::refusal(pod.workload.kind, way);
                document.result = Err(vec![Rejection { file: file.clone(), line: document.line, path, reason }]);
            }
        }
    }
}

/// A FIFO would wait for ever and a device never end: regular files and standard input only.
fn read(file: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file == "-" {
        io::stdin().lock().take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    let metadata = Path::new(file).metadata()?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(io::Error::other(what));
    }
    File::open(file)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(file: &str, why: &io::Error) -> Parsed {
    let reason = format!("cannot be read: {why}");
    let whole = Rejection { file: file.to_owned(), line: 1, path: String::new(), reason };
    Parsed { file: file.to_owned(), documents: Vec::new(), whole: Some(whole) }
}

fn to_json(parsed: &Parsed) -> Value {
    let rejection = |r: &Rejection| json!({"line": r.line, "path": r.path, "reason": r.reason});
    let documents: Vec<Value> = parsed
        .documents
        .iter()
        .map(|document| {
            let no_effect: Vec<Value> = no_effect(document)
                .iter()
                .map(|n| json!({"line": n.line, "path": n.path, "reason": n.reason}))
                .collect();
            let rejections: Vec<Value> = document.result.as_ref().err().into_iter().flatten().map(rejection).collect();
            json!({
                "line": document.line,
                "kind": document.identity.as_ref().map(|i| i.kind.as_str()),
                "namespace": document.identity.as_ref().map(|i| i.namespace.as_str()),
                "name": document.identity.as_ref().map(|i| i.name.as_str()),
                "accepted": document.result.is_ok(),
                "rejections": rejections,
                "noEffect": no_effect,
            })
        })
        .collect();
    json!({
        "file": parsed.file,
        "accepted": parsed.is_accepted(),
        "rejections": parsed.rejections().map(rejection).collect::<Vec<_>>(),
        "documents": documents,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_priority_class_is_looked_for_in_all_files_that_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let of_class = |class: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  priorityClassName: {class}\n  containers: [{{name: c, image: i}}]\n"
            )
        };
        let pod = file("pod.yaml", &of_class("night"));
        let known = file("known.yaml", &of_class("system-node-critical"));
        let class = file(
            "class.yaml",
            "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: night}\nvalue: 7\n",
        );
        let check = |files: &[&String]| {
            let mut said = Vec::new();
            let args = CheckArgs { files: files.iter().map(|it| (*it).clone()).collect(), output: None };
            let accepted = run(&args, &mut said).is_ok();
            (accepted, String::from_utf8(said).unwrap())
        };
        let (accepted, said) = check(&[&pod, &known]);
        assert!(
            !accepted && said.contains("pod.yaml:1: spec.priorityClassName: no PriorityClass with name night"),
            "{said}"
        );
        assert_eq!(check(&[&pod, &class]), (true, String::new()));
        assert_eq!(check(&[&known]), (true, String::new()));
    }
}
