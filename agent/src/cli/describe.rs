//! `describe pod`: everything that is known of a pod, for people.

use std::io::{self, Write};

use serde_json::Value;

use super::client::Client;
use super::find::{self, field};
use super::table::Table;
use super::{Failure, Named, get, pod_row};
use crate::http::rows::Kind;

pub fn pod(client: &Client, named: &Named, out: &mut impl Write) -> Result<(), Failure> {
    let pods = find::pods(client.list(Kind::Pods)?, &named.name, named.namespace.as_deref())?;
    let events = client.list(Kind::Events)?;
    let now = jiff::Timestamp::now();
    for (at, pod) in pods.iter().enumerate() {
        if at > 0 {
            writeln!(out, "\n")?;
        }
        describe(pod, &events, now, out)?;
    }
    Ok(())
}

fn describe(pod: &Value, events: &[Value], now: jiff::Timestamp, out: &mut impl Write) -> io::Result<()> {
    let mut line = |name: &str, value: &str| writeln!(out, "{:<17}{}", format!("{name}:"), or_none(value));
    line("Name", find::name(pod))?;
    line("Namespace", find::namespace(pod))?;
    line("Uid", field(pod, "/metadata/uid"))?;
    line("Node", &format!("{} ({})", field(pod, "/spec/nodeName"), or_none(field(pod, "/status/hostIP"))))?;
    line("Start Time", field(pod, "/status/startTime"))?;
    line("Labels", &pairs(pod.pointer("/metadata/labels")))?;
    line("Annotations", &pairs(pod.pointer("/metadata/annotations")))?;
    line("Status", &pod_row::status(pod))?;
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        line("Killed at", field(pod, "/metadata/deletionTimestamp"))?;
    }
    line("IP", field(pod, "/status/podIP"))?;
    let owner = pod.pointer("/metadata/ownerReferences/0");
    line("Controlled By", &owner.map_or(String::new(), |o| format!("{}/{}", field(o, "/kind"), field(o, "/name"))))?;
    line("QoS Class", field(pod, "/status/qosClass"))?;
    let lists = [
        ("Init Containers:", "/spec/initContainers", pod_row::inits(pod)),
        ("Containers:", "/spec/containers", pod_row::containers(pod)),
    ];
    for (title, place, statuses) in lists {
        if statuses.is_empty() && title != "Containers:" {
            continue;
        }
        writeln!(out, "{title}")?;
        for status in statuses {
            let spec = pod.pointer(place).and_then(Value::as_array).into_iter().flatten();
            let spec = spec.into_iter().find(|spec| spec["name"] == status["name"]);
            container(status, spec, out)?;
        }
    }
    writeln!(out, "Conditions:")?;
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    for condition in conditions.into_iter().flatten() {
        let why = [field(condition, "/reason"), field(condition, "/message")].join(" ");
        let why = why.trim().replace('\n', "\n                                   ");
        writeln!(out, "  {:<26}{:<7}{why}", field(condition, "/type"), field(condition, "/status"))?;
    }
    volumes(pod, out)?;
    let uid = field(pod, "/metadata/uid");
    // Also what is told of its DaemonSet: that an edit of it was refused.
    let of_owner = |event: &Value| {
        owner.is_some_and(|owner| {
            let same = |theirs: &str, ours: &str| field(event, theirs) == ours;
            same("/involvedObject/kind", field(owner, "/kind"))
                && same("/involvedObject/name", field(owner, "/name"))
                && same("/involvedObject/namespace", find::namespace(pod))
        })
    };
    let ours: Vec<&Value> =
        events.iter().filter(|event| field(event, "/involvedObject/uid") == uid || of_owner(event)).collect();
    if ours.is_empty() {
        return writeln!(out, "Events:          <none>");
    }
    writeln!(out, "Events:")?;
    let cells = |event: &&Value| {
        let text = |pointer: &str| field(event, pointer).to_owned();
        vec![format!("  {}", text("/type")), text("/reason"), get::last_seen(event, now), text("/message")]
    };
    let rows: Vec<Vec<String>> = ours.iter().map(cells).collect();
    Table::new(&["  Type", "Reason", "Age", "Message"]).print(&rows, out)
}

fn container(status: &Value, spec: Option<&Value>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "  {}:", field(status, "/name"))?;
    // A message of several lines stays under its own head.
    let under = |value: &str| value.trim_end().replace('\n', "\n                   ");
    let mut line = |name: &str, value: &str| writeln!(out, "    {:<15}{}", format!("{name}:"), or_none(&under(value)));
    line("Container ID", field(status, "/containerID"))?;
    line("Image", field(status, "/image"))?;
    line("Image ID", field(status, "/imageID"))?;
    line("State", &state(&status["state"]))?;
    if status["lastState"].as_object().is_some_and(|last| !last.is_empty()) {
        line("Last State", &state(&status["lastState"]))?;
    }
    line("Ready", if status["ready"] == true { "True" } else { "False" })?;
    line("Restart Count", &status["restartCount"].to_string())?;
    let Some(spec) = spec else { return Ok(()) };
    for (name, key) in [("Command", "command"), ("Args", "args")] {
        let words = spec[key].as_array().map_or(&[][..], Vec::as_slice);
        if !words.is_empty() {
            // As JSON: a word with blanks or line ends stays one word on one line.
            let words: Vec<String> = words.iter().map(Value::to_string).collect();
            line(name, &words.join(" "))?;
        }
    }
    for (name, key) in [("Limits", "limits"), ("Requests", "requests")] {
        let quantities = spec.pointer(&format!("/resources/{key}"));
        if quantities.is_some() {
            line(name, &pairs(quantities))?;
        }
    }
    for variable in spec["env"].as_array().into_iter().flatten() {
        let value = match variable.get("valueFrom") {
            Some(from) => origin(from),
            None => field(variable, "/value").to_owned(),
        };
        line("Environment", &format!("{}={value}", field(variable, "/name")))?;
    }
    for mount in spec["volumeMounts"].as_array().into_iter().flatten() {
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        line("Mount", &format!("{} from {} ({mode})", field(mount, "/mountPath"), field(mount, "/name")))?;
    }
    Ok(())
}

fn state(state: &Value) -> String {
    if let Some(running) = state.get("running") {
        return format!("Running since {}", or_none(field(running, "/startedAt")));
    }
    if let Some(waiting) = state.get("waiting") {
        return [field(waiting, "/reason"), field(waiting, "/message")].join(" ").trim().to_owned();
    }
    let Some(ended) = state.get("terminated") else { return String::new() };
    let code = &ended["exitCode"];
    let (reason, at, message) = (field(ended, "/reason"), field(ended, "/finishedAt"), field(ended, "/message"));
    format!("Terminated: {reason}, exit code {code}, at {at} {message}").trim_end().to_owned()
}

fn volumes(pod: &Value, out: &mut impl Write) -> io::Result<()> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if volumes.is_empty() {
        return Ok(());
    }
    writeln!(out, "Volumes:")?;
    for volume in volumes {
        writeln!(out, "  {:<16} {}", format!("{}:", field(volume, "/name")), source(volume))?;
    }
    Ok(())
}

/// What a volume shows: its kind as the document has it, and what it names.
fn source(volume: &Value) -> String {
    let kind = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
    let Some((kind, source)) = kind else { return "emptyDir".into() };
    let said = |key: &str| match &source[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut words = vec![kind.clone()];
    match kind.as_str() {
        "hostPath" => words.push(said("path")),
        "configMap" => words.push(said("name")),
        "secret" => words.push(said("secretName")),
        "image" => words.push(said("reference")),
        "emptyDir" => words.extend(["medium", "sizeLimit"].map(said)),
        "projected" => {
            let of = |one: &Value| {
                let (kind, source) = one.as_object()?.iter().next()?;
                let name = field(source, "/name");
                Some(if name.is_empty() { kind.clone() } else { format!("{kind} {name}") })
            };
            let sources = source["sources"].as_array().into_iter().flatten().filter_map(of);
            words.push(sources.collect::<Vec<_>>().join(", "));
        }
        _ => {}
    }
    words.retain(|word| !word.is_empty());
    let of_path = said("type");
    if kind == "hostPath" && !of_path.is_empty() {
        words.push(format!("({of_path})"));
    }
    if source["optional"] == true {
        words.push("(optional)".into());
    }
    words.join(" ")
}

/// Where a variable's value comes from, in words.
fn origin(from: &Value) -> String {
    let Some((kind, source)) = from.as_object().and_then(|from| from.iter().next()) else { return String::new() };
    let (key, name) = (field(source, "/key"), field(source, "/name"));
    match kind.as_str() {
        "configMapKeyRef" => format!("<key {key} of ConfigMap {name}>"),
        "secretKeyRef" => format!("<key {key} of Secret {name}>"),
        "fieldRef" => format!("<field {}>", field(source, "/fieldPath")),
        "resourceFieldRef" => {
            let of = [field(source, "/containerName"), field(source, "/resource")];
            format!("<resource {}>", of.into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(" "))
        }
        _ => from.to_string(),
    }
}

fn pairs(map: Option<&Value>) -> String {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    pairs.map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(", ")
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}
