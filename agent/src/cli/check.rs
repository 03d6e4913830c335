//! `check`: what the agent would say of manifest files. Needs no agent, starts nothing.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;

use clap::Args;
use pod::manifest::{Context, Parsed, Rejection, parse};
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

/// Rejections on stdout, one a line; exit code 1 where there is one.
pub fn run(args: &CheckArgs, out: &mut impl Write) -> Result<(), Failure> {
    let node_name = config::hostname().unwrap_or_else(|_| "node".into());
    let context = Context { node_name };
    let mut accepted = true;
    let mut judged: Vec<Value> = Vec::new();
    for file in &args.files {
        let parsed = match read(file) {
            Ok(bytes) => parse(file, &bytes, &context),
            Err(why) => unreadable(file, &why),
        };
        accepted &= parsed.is_accepted();
        match args.output {
            Some(Machine::Json) => judged.push(to_json(&parsed)),
            None => parsed.rejections().try_for_each(|rejection| writeln!(out, "{rejection}"))?,
        }
    }
    if args.output.is_some() {
        writeln!(out, "{:#}", json!({"files": judged}))?;
    }
    if accepted { Ok(()) } else { Err(Failure::Refused(String::new())) }
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
            let no_effect: Vec<Value> = document
                .no_effect
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
