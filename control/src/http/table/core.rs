//! The small kinds: configuration, namespaces, events, services, leases.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{NONE, UNKNOWN, entries, items, labels, name, number, or_none, plain};
use super::{AGE, Cell, Column, NAME, Shown, age, column, wide};

/// What is listed before the rest is only counted.
const LISTED_MAX: usize = 3;

pub static NAMESPACE: Shown = Shown {
    columns: &[NAME, column("Status", Cell::Text), AGE],
    cells: |object, now| vec![name(object), plain(&object["status"]["phase"]).into(), age::created(object, now)],
};

pub static CONFIG_MAP: Shown = Shown {
    columns: &[NAME, column("Data", Cell::Number), AGE],
    cells: |object, now| {
        let count = entries(&object["data"]).saturating_add(entries(&object["binaryData"]));
        vec![name(object), count.into(), age::created(object, now)]
    },
};

pub static SECRET: Shown = Shown {
    columns: &[NAME, column("Type", Cell::Text), column("Data", Cell::Number), AGE],
    cells: |object, now| {
        vec![name(object), plain(&object["type"]).into(), entries(&object["data"]).into(), age::created(object, now)]
    },
};

pub static LEASE: Shown = Shown {
    columns: &[NAME, column("Holder", Cell::Text), AGE],
    cells: |object, now| vec![name(object), plain(&object["spec"]["holderIdentity"]).into(), age::created(object, now)],
};

pub static SERVICE: Shown = Shown {
    columns: &[
        NAME,
        column("Type", Cell::Text),
        column("Cluster-IP", Cell::Text),
        column("External-IP", Cell::Text),
        column("Port(s)", Cell::Text),
        AGE,
        wide("Selector", Cell::Text),
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let external = items(&spec["externalIPs"]).map(plain).collect::<Vec<_>>().join(",");
        let external = if spec["type"] == "ExternalName" { plain(&spec["externalName"]).to_owned() } else { external };
        let ports = items(&spec["ports"]).map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match port["nodePort"].as_i64() {
                Some(node) if node > 0 => format!("{}:{node}/{protocol}", port["port"]),
                _ => format!("{}/{protocol}", port["port"]),
            }
        });
        vec![
            name(object),
            spec["type"].as_str().unwrap_or("ClusterIP").into(),
            or_none(plain(&spec["clusterIP"])),
            or_none(&external),
            or_none(&ports.collect::<Vec<_>>().join(",")),
            age::created(object, now),
            labels(&spec["selector"]),
        ]
    },
};

pub static ENDPOINT_SLICE: Shown = Shown {
    columns: &[
        NAME,
        column("AddressType", Cell::Text),
        column("Ports", Cell::Text),
        column("Endpoints", Cell::Text),
        AGE,
    ],
    cells: |object, now| {
        let ports = items(&object["ports"]).map(|port| port["port"].as_i64().map_or("*".to_owned(), |p| p.to_string()));
        let ends = items(&object["endpoints"]).flat_map(|end| items(&end["addresses"])).map(|a| plain(a).to_owned());
        vec![
            name(object),
            plain(&object["addressType"]).into(),
            listed(ports.collect(), "<unset>"),
            listed(ends.collect(), "<unset>"),
            age::created(object, now),
        ]
    },
};

/// The first few, and how many more there are.
fn listed(all: Vec<String>, none: &str) -> Value {
    if all.is_empty() {
        return none.into();
    }
    let first = all.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join(",");
    let more = all.len().saturating_sub(LISTED_MAX);
    if more == 0 { first.into() } else { format!("{first} + {more} more...").into() }
}

const EVENT_COLUMNS: &[Column] = &[
    column("Last Seen", Cell::Text),
    column("Type", Cell::Text),
    column("Reason", Cell::Text),
    column("Object", Cell::Text),
    wide("Subobject", Cell::Text),
    wide("Source", Cell::Text),
    column("Message", Cell::Text),
    wide("First Seen", Cell::Text),
    wide("Count", Cell::Number),
    wide("Name", Cell::Name),
];

/// Where an event of either group has what both know.
struct EventFields {
    about: &'static str,
    message: &'static str,
    source: &'static str,
    reporter: &'static str,
    first: &'static str,
    last: &'static str,
    count: &'static str,
}

pub static EVENT: Shown = Shown {
    columns: EVENT_COLUMNS,
    cells: |object, now| {
        let fields = EventFields {
            about: "involvedObject",
            message: "message",
            source: "source",
            reporter: "reportingComponent",
            first: "firstTimestamp",
            last: "lastTimestamp",
            count: "count",
        };
        event(object, &fields, now)
    },
};

pub static EVENTS_EVENT: Shown = Shown {
    columns: EVENT_COLUMNS,
    cells: |object, now| {
        let fields = EventFields {
            about: "regarding",
            message: "note",
            source: "deprecatedSource",
            reporter: "reportingController",
            first: "deprecatedFirstTimestamp",
            last: "deprecatedLastTimestamp",
            count: "deprecatedCount",
        };
        event(object, &fields, now)
    },
};

fn event(object: &Value, fields: &EventFields, now: Timestamp) -> Vec<Value> {
    let once = &object["eventTime"];
    let first = if object[fields.first].is_string() { &object[fields.first] } else { once };
    let series = &object["series"];
    let last = [&series["lastObservedTime"], &object[fields.last], first].into_iter().find(|at| at.is_string());
    let count = series["count"].as_i64().or_else(|| object[fields.count].as_i64()).unwrap_or(1).max(1);
    let about = &object[fields.about];
    let kind = plain(&about["kind"]).to_lowercase();
    let about = match (kind.as_str(), plain(&about["name"])) {
        ("", "") => NONE.to_owned(),
        (kind, "") => kind.to_owned(),
        (kind, name) => format!("{kind}/{name}"),
    };
    let source = &object[fields.source];
    let component = [plain(&source["component"]), plain(&object[fields.reporter])].into_iter().find(|s| !s.is_empty());
    let host = [plain(&source["host"]), plain(&object["reportingInstance"])].into_iter().find(|s| !s.is_empty());
    let source = [component, host].into_iter().flatten().collect::<Vec<_>>().join(", ");
    vec![
        last.map_or(UNKNOWN.to_owned(), |at| age::since(at, now)).into(),
        plain(&object["type"]).into(),
        plain(&object["reason"]).into(),
        about.into(),
        plain(&object[fields.about]["fieldPath"]).into(),
        source.into(),
        plain(&object[fields.message]).trim().into(),
        age::since(first, now).into(),
        number(&count.into()),
        name(object),
    ]
}
