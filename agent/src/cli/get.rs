//! `get`: lists, once or as they change.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::{Change, Client};
use super::find::{self, field};
use super::table::Table;
use super::{Failure, age, pod_row, yaml};
use crate::http::rows::Kind;
use crate::image_pull::bytes;

#[derive(Debug, Args)]
pub struct GetArgs {
    /// What to show
    #[arg(value_enum)]
    pub what: What,
    /// One of them: a pod's name or ds/NAME, a file, an image
    pub name: Option<String>,
    /// Only this namespace
    #[arg(short, long, value_name = "NS", conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    /// All namespaces, as without -n
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Go on with each change
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    #[value(aliases = ["pod", "po"])]
    Pods,
    #[value(alias = "file")]
    Files,
    #[value(alias = "image")]
    Images,
    #[value(aliases = ["event", "ev"])]
    Events,
    #[value(aliases = ["nodes", "no"])]
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Wide,
    Json,
    Yaml,
}

impl What {
    fn kind(self) -> Kind {
        match self {
            What::Pods => Kind::Pods,
            What::Files => Kind::Files,
            What::Images => Kind::Images,
            What::Events => Kind::Events,
            What::Node => Kind::Node,
        }
    }

    /// `apiVersion` and `kind` of the whole list; v1 where Kubernetes has such a list.
    fn list_type(self) -> (&'static str, &'static str) {
        match self {
            What::Pods => ("v1", "PodList"),
            What::Files => ("daemonlet.dev/v1", "FileList"),
            What::Images => ("daemonlet.dev/v1", "ImageList"),
            What::Events => ("v1", "EventList"),
            What::Node => ("v1", "NodeList"),
        }
    }
}

pub fn run(client: &Client, args: &GetArgs, out: &mut impl Write) -> Result<(), Failure> {
    if args.watch {
        return watch(client, args, out);
    }
    let all = client.list(args.what.kind())?;
    let items = select(args, all)?;
    let now = jiff::Timestamp::now();
    match args.output {
        Some(Output::Json) => writeln!(out, "{:#}", whole(args, items))?,
        Some(Output::Yaml) => out.write_all(yaml::to_yaml(&whole(args, items)).as_bytes())?,
        Some(Output::Wide) | None if items.is_empty() => {
            out.flush()?;
            // As kubectl: said beside the output, so that a script sees an empty list.
            let _unread = writeln!(std::io::stderr(), "No resources found");
        }
        Some(Output::Wide) | None => {
            let wide = args.output.is_some();
            let rows: Vec<_> = items.iter().map(|item| row(args.what, item, wide, now)).collect();
            Table::new(heads(args.what, wide)).print(&rows, out)?;
        }
    }
    Ok(())
}

fn watch(client: &Client, args: &GetArgs, out: &mut impl Write) -> Result<(), Failure> {
    if args.name.is_some() && args.what != What::Events {
        // A name that nothing has would be watched for ever. What has no event yet may have one.
        select(args, client.list(args.what.kind())?)?;
    }
    let wide = args.output == Some(Output::Wide);
    let mut table = Table::new(heads(args.what, wide));
    client.watch(args.what.kind(), |changes| {
        // An event that the ring has no place for any more is no news.
        let is_news = |change: &Change| args.what != What::Events || !change.deleted;
        let fits = |change: &Change| is_news(change) && fits(args, &change.object);
        let objects: Vec<Value> = changes.into_iter().filter(fits).map(|change| change.object).collect();
        let now = jiff::Timestamp::now();
        match args.output {
            Some(Output::Json) => objects.iter().try_for_each(|object| writeln!(out, "{object}"))?,
            Some(Output::Yaml) => {
                objects.iter().try_for_each(|object| write!(out, "---\n{}", yaml::to_yaml(object)))?;
            }
            Some(Output::Wide) | None => {
                let rows: Vec<_> = objects.iter().map(|object| row(args.what, object, wide, now)).collect();
                if !rows.is_empty() {
                    table.print(&rows, out)?;
                }
            }
        }
        Ok(out.flush()?)
    })
}

/// The items that are asked for; an error where a name is given and none has it.
fn select(args: &GetArgs, all: Vec<Value>) -> Result<Vec<Value>, Failure> {
    match (&args.name, args.what) {
        (Some(name), What::Pods) => find::pods(all, name, args.namespace.as_deref()),
        (Some(name), _) => {
            let names: Vec<String> = all.iter().map(|item| label(args.what, item)).collect();
            let found: Vec<Value> = all.into_iter().filter(|item| fits(args, item)).collect();
            if found.is_empty() {
                let near = find::nearest(name, names.into_iter());
                let near = if near.is_empty() { String::new() } else { format!("; near: {}", near.join(", ")) };
                return Err(Failure::NotFound(format!("nothing is called {name}{near}")));
            }
            Ok(found)
        }
        (None, _) => Ok(all.into_iter().filter(|item| fits(args, item)).collect()),
    }
}

fn fits(args: &GetArgs, item: &Value) -> bool {
    let namespace = match args.what {
        What::Pods | What::Events => Some(find::namespace(item)),
        What::Files => Some(field(item, "/namespace")),
        What::Images | What::Node => None,
    };
    let in_namespace = match (&args.namespace, namespace) {
        (Some(wanted), Some(namespace)) => wanted == namespace,
        _ => true,
    };
    let named = |name: &String| match args.what {
        What::Pods => find::pods(vec![item.clone()], name, None).is_ok(),
        What::Files => {
            let (file, ends) = (field(item, "/file"), field(item, "/name"));
            file == name || ends == name || file.rsplit('/').next() == Some(name)
        }
        What::Images => {
            let names = item["names"].as_array().map_or(&[][..], Vec::as_slice);
            let short = |image: &str| image == name || image.ends_with(&format!("/{name}"));
            let file = field(item, "/file");
            names.iter().filter_map(Value::as_str).any(short) || file == name || file.rsplit('/').next() == Some(name)
        }
        What::Events => field(item, "/involvedObject/name") == name,
        What::Node => field(item, "/metadata/name") == name,
    };
    in_namespace && args.name.as_ref().is_none_or(named)
}

fn label(what: What, item: &Value) -> String {
    match what {
        What::Pods | What::Node => field(item, "/metadata/name").to_owned(),
        What::Files => field(item, "/file").to_owned(),
        What::Images => item.pointer("/names/0").and_then(Value::as_str).unwrap_or_default().to_owned(),
        What::Events => field(item, "/involvedObject/name").to_owned(),
    }
}

/// One object where a name was given and one has it (or the node), else a list. A name of pods has the same shape at every moment,
/// also while an old pod and its successor stand side by side: ds/NAME is a list, another name the pod that stays.
fn whole(args: &GetArgs, mut items: Vec<Value>) -> Value {
    let one = args.name.is_some() || args.what == What::Node;
    match (&args.name, args.what) {
        (Some(name), What::Pods) if find::is_daemonset(name) => {}
        (Some(_), What::Pods) => {
            if let Some(pod) = find::staying(&items) {
                return pod.clone();
            }
        }
        _ if one && items.len() == 1 => return items.remove(0),
        _ => {}
    }
    let (version, kind) = args.what.list_type();
    json!({"apiVersion": version, "kind": kind, "metadata": {}, "items": items})
}

fn heads(what: What, wide: bool) -> &'static [&'static str] {
    match (what, wide) {
        (What::Pods, false) => &pod_row::HEADS,
        (What::Pods, true) => &pod_row::WIDE_HEADS,
        (What::Files, _) => &["FILE", "KIND", "NAMESPACE", "NAME", "STATE", "REASON"],
        (What::Images, false) => &["IMAGE", "SIZE", "STATE", "FILE"],
        (What::Images, true) => &["IMAGE", "SIZE", "STATE", "FILE", "PINNED", "DIGEST", "REASON"],
        (What::Events, false) => &["NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"],
        (What::Events, true) => &[
            "NAMESPACE",
            "LAST SEEN",
            "TYPE",
            "REASON",
            "OBJECT",
            "SUBOBJECT",
            "SOURCE",
            "MESSAGE",
            "FIRST SEEN",
            "COUNT",
            "NAME",
        ],
        (What::Node, false) => &["NAME", "STATUS", "ROLES", "VERSION"],
        (What::Node, true) => &[
            "NAME",
            "STATUS",
            "ROLES",
            "VERSION",
            "INTERNAL-IP",
            "OS-IMAGE",
            "KERNEL-VERSION",
            "CONTAINER-RUNTIME",
            "MISSING-CAPABILITIES",
        ],
    }
}

fn row(what: What, item: &Value, wide: bool, now: jiff::Timestamp) -> Vec<String> {
    let text = |pointer: &str| match field(item, pointer) {
        "" => "<none>".to_owned(),
        text => text.to_owned(),
    };
    match what {
        What::Pods => pod_row::row(item, wide, now),
        What::Files => {
            let place = match item["line"].as_u64() {
                Some(line) if line > 0 => format!("{}:{line}", field(item, "/file")),
                _ => text("/file"),
            };
            let reason = field(item, "/message").to_owned();
            vec![place, text("/kind"), text("/namespace"), text("/name"), text("/state"), reason]
        }
        What::Images => {
            let names = item["names"].as_array().map_or(&[][..], Vec::as_slice);
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            let names = if names.is_empty() { "<none>".to_owned() } else { names.join(",") };
            let size = bytes(item["size"].as_u64().unwrap_or(0));
            let mut row = vec![names, size, text("/state"), text("/file")];
            if wide {
                let pinned = if item["pinned"] == true { "yes" } else { "no" };
                row.extend([pinned.to_owned(), text("/digest"), field(item, "/message").to_owned()]);
            } else if let Some(state @ ("Refused" | "Pulling" | "BackOff")) = item["state"].as_str() {
                // Without the reason the row would only raise a question.
                row[2] = format!("{state}: {}", field(item, "/message"));
            }
            row
        }
        What::Events => event(item, wide, now),
        What::Node => node(item, wide),
    }
}

fn event(item: &Value, wide: bool, now: jiff::Timestamp) -> Vec<String> {
    let text = |pointer: &str| match field(item, pointer) {
        "" => "<none>".to_owned(),
        text => text.to_owned(),
    };
    let kind = field(item, "/involvedObject/kind").to_lowercase();
    let mut row = vec![
        text("/metadata/namespace"),
        last_seen(item, now),
        text("/type"),
        text("/reason"),
        format!("{kind}/{}", field(item, "/involvedObject/name")),
    ];
    let message = field(item, "/message").to_owned();
    match wide {
        false => row.push(message),
        true => row.extend([
            field(item, "/involvedObject/fieldPath").to_owned(),
            text("/source/component"),
            message,
            age::since(item["firstTimestamp"].as_str(), now),
            item["count"].as_u64().unwrap_or(1).to_string(),
            text("/metadata/name"),
        ]),
    }
    row
}

fn node(item: &Value, wide: bool) -> Vec<String> {
    let ready = item.pointer("/status/conditions/0/status").is_some_and(|status| status == "True");
    let labels = item.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: Vec<&str> =
        labels.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    let text = |pointer: &str| match field(item, pointer) {
        "" => "<none>".to_owned(),
        text => text.to_owned(),
    };
    let listed = |pointer: &str| {
        let words = item.pointer(pointer).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
    };
    let mut status = if ready { "Ready" } else { "NotReady" }.to_owned();
    let needs_restart = listed("/daemonlet/needsRestart");
    if !needs_restart.is_empty() {
        status.push_str(&format!(" (needs restart: {needs_restart})"));
    }
    let mut row = vec![
        text("/metadata/name"),
        status,
        if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") },
        text("/status/nodeInfo/kubeletVersion"),
    ];
    if wide {
        let addresses = item.pointer("/status/addresses").and_then(Value::as_array);
        let internal = addresses.into_iter().flatten().find(|address| address["type"] == "InternalIP");
        row.push(internal.map_or_else(|| "<none>".to_owned(), |address| field(address, "/address").to_owned()));
        row.extend(
            ["osImage", "kernelVersion", "containerRuntimeVersion"].map(|key| text(&format!("/status/nodeInfo/{key}"))),
        );
        let missing = listed("/daemonlet/missingCapabilities");
        row.push(if missing.is_empty() { "<none>".to_owned() } else { missing });
    }
    row
}

/// `5s`, or `5s (x3 over 2m)`.
pub fn last_seen(event: &Value, now: jiff::Timestamp) -> String {
    let time = |key: &str| age::since(event[key].as_str(), now);
    match event["count"].as_u64() {
        Some(count) if count > 1 => format!("{} (x{count} over {})", time("lastTimestamp"), time("firstTimestamp")),
        _ => time("lastTimestamp"),
    }
}
