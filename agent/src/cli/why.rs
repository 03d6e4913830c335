//! `why`: what each daemon, or one, waits for.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::{Failure, Machine, find};
use crate::http::rows::Kind;
use crate::status::why::{Answer, Reason};

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// A pod's name, a document's name, pod/NAME or ds/NAME
    pub name: Option<String>,
    /// Only this namespace
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Machine>,
}

pub fn run(client: &Client, args: &WhyArgs, out: &mut impl Write) -> Result<(), Failure> {
    let items = client.list(Kind::Why)?;
    let answers: Vec<Answer> = serde_json::from_value(Value::Array(items)).map_err(|why| {
        Failure::Refused(format!("the agent answered in other words; is it another version? ({why})"))
    })?;
    let names: Vec<String> = answers.iter().map(|answer| answer.name.clone()).collect();
    let meant: Vec<Answer> = answers.into_iter().filter(|answer| fits(args, answer)).collect();
    if let (Some(name), true) = (&args.name, meant.is_empty()) {
        let near = find::nearest(name, names.into_iter());
        let near = if near.is_empty() { String::new() } else { format!("; near: {}", near.join(", ")) };
        return Err(Failure::NotFound(format!("nothing is known of {name}{near}")));
    }
    if args.output.is_some() {
        return Ok(writeln!(out, "{:#}", json!({"items": meant}))?);
    }
    if meant.is_empty() {
        writeln!(out, "nothing is wanted of this node, and nothing fails")?;
    }
    let now = jiff::Timestamp::now();
    for answer in &meant {
        writeln!(out, "{}", head(answer))?;
        for reason in &answer.reasons {
            writeln!(out, "  {}", line(reason, now))?;
        }
    }
    Ok(())
}

fn fits(args: &WhyArgs, answer: &Answer) -> bool {
    let in_namespace = args.namespace.as_ref().is_none_or(|ns| answer.namespace == *ns);
    let named = args.name.as_ref().is_none_or(|name| match name.split_once('/') {
        Some(("ds" | "daemonset" | "daemonsets", ds)) => answer.kind == "DaemonSet" && answer.name == ds,
        Some(("pod" | "pods" | "po", plain)) => {
            answer.kind == "Pod" && answer.name == plain || answer.pods.iter().any(|pod| pod == plain)
        }
        _ => answer.name == *name || answer.pods.contains(name) || is_file(answer, name),
    });
    in_namespace && named
}

/// A refused file may have no readable name: then the file is the name.
fn is_file(answer: &Answer, name: &str) -> bool {
    let mut files = answer.reasons.iter().filter_map(|reason| reason.file.as_deref());
    files.any(|file| file.split(':').next().is_some_and(|path| path == name || path.rsplit('/').next() == Some(name)))
}

fn head(answer: &Answer) -> String {
    let kind = match answer.kind.as_str() {
        "DaemonSet" => "ds",
        "Pod" => "pod",
        "Node" => "node",
        "" => "file",
        other => other,
    };
    let place = if answer.namespace.is_empty() { String::new() } else { format!("{}/", answer.namespace) };
    let pods = if answer.pods.is_empty() { String::new() } else { format!(" ({})", answer.pods.join(", ")) };
    format!("{kind} {place}{}: {}{pods}", answer.name, answer.state.word())
}

fn line(reason: &Reason, now: jiff::Timestamp) -> String {
    let mut line = String::new();
    for part in [&reason.file, &reason.container].into_iter().flatten() {
        line.push_str(part);
        line.push_str(": ");
    }
    line.push_str(&reason.reason);
    if !reason.message.is_empty() {
        line.push_str(": ");
        line.push_str(&reason.message.replace('\n', "\n    "));
    }
    let next = reason.until.as_ref().and_then(|until| until.parse::<jiff::Timestamp>().ok());
    if let Some(left) = next.and_then(|next| std::time::Duration::try_from(next.duration_since(now)).ok()) {
        line.push_str(&format!(" (next try in {})", super::age::human(left)));
    }
    line
}
