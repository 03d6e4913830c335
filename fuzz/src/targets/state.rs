//! What the agent and the log keeper are told, and what they find of their own that a fault may have changed.

use std::collections::BTreeMap;

use agent::records;
use agent::sources::remote::Set;
use agent::uplink::convert::Assembly;
use agent::uplink::identity::Ticket;
use jiff::Timestamp;
use keeper::protocol::{Request, Status, Target as LogTarget};
use pod::manifest::{Context, Document, parse, parse_object};
use pod::name::Uid;
use pod::record::{ContainerMemory, Course, Lifecycle, PodFailure, Record, Verdict};
use prost::Message as _;
use proto::v1;

use super::{JSON, judged, nothing};
use crate::{Judged, Target};

fn node() -> Context {
    Context { node_name: "n1".to_owned() }
}

/// A pod's record: whole by its checksum, but of any version, or written by another hand.
pub const RECORD: Target = Target {
    name: "record",
    rounds: 2_000,
    input_max: 32 << 10,
    memory: |input| 600 * input + (4 << 20),
    words: JSON,
    more: records,
    judge: |input| {
        judged(records::decode(&records::sealed(input)), |record| {
            // A document that cannot be run any more is told of; it must not end the agent.
            drop(record.read_back(&node()));
            let written = serde_json::to_vec(&record).expect("a record has string keys only");
            match serde_json::from_slice::<Record>(&written) {
                Ok(again) if again == record => None,
                Ok(_) => Some("it is another record when it is read back".to_owned()),
                Err(why) => Some(format!("it cannot be read back: {why}")),
            }
        })
    },
};

fn records() -> Vec<Vec<u8>> {
    const DOCUMENT: &[u8] =
        br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#;
    let parsed = parse("a.json", DOCUMENT, &node());
    let Some(Ok(Document::Workload(desired))) = parsed.documents.into_iter().next().map(|document| document.result)
    else {
        panic!("the sample is a pod");
    };
    let fresh = Record {
        uid: Uid("4c1e7a52-6a0e-4b56-9f0e-3a0f3b6c2f11".to_owned()),
        workload: desired.workload,
        name: "a-n1".to_owned(),
        revision: desired.revision,
        origin: desired.origin,
        document: desired.document,
        admitted_at: Timestamp::UNIX_EPOCH,
        generation: 1,
        boot_id: "2b8d".to_owned(),
        lifecycle: Lifecycle::Running,
        containers: BTreeMap::new(),
        course: Course::default(),
    };
    let memory = ContainerMemory {
        started_attempt: Some(3),
        started_at: Some(Timestamp::UNIX_EPOCH),
        failures: 2,
        completed: true,
        verdict: Some(Verdict { attempt: 3, started: true, ready: false, since: Timestamp::UNIX_EPOCH }),
        ..ContainerMemory::default()
    };
    let mut old = fresh.clone();
    old.lifecycle = Lifecycle::Finished;
    old.containers.insert("c".to_owned(), Box::new(memory));
    old.course.failed = Some(Box::new(PodFailure { reason: "Evicted".to_owned(), message: "full".to_owned() }));
    [fresh, old].iter().map(|record| serde_json::to_vec(record).expect("a record has string keys only")).collect()
}

/// The pieces of a desired set, each with its length before it.
pub const DESIRED: Target = Target {
    name: "desired",
    rounds: 3_000,
    input_max: 32 << 10,
    memory: |input| 600 * input + (4 << 20),
    words: &["Pod", "ConfigMap", "Secret", "{}", "{\"kind\":\"Pod\"}", "\u{1}", "\u{8}\u{1}", "\u{12}\u{0}", "n1"],
    more: desired,
    judge: |mut input| {
        let mut assembly = Assembly::default();
        let mut sets = 0_usize;
        while !input.is_empty() {
            let taken = v1::Desired::decode_length_delimited(&mut input)
                .map_err(|error| error.to_string())
                .and_then(|piece| assembly.take(piece).map_err(|error| error.to_string()));
            match taken {
                Err(why) => return Judged::Refused(why),
                Ok(None) => {}
                Ok(Some(set)) => {
                    sets += 1;
                    look_at(&set);
                }
            }
        }
        if sets == 0 { Judged::Refused("no set is whole".to_owned()) } else { Judged::Accepted }
    },
};

fn look_at(set: &Set) {
    let _ = set.digest();
    for object in &set.objects {
        drop(parse_object(&object.name, &object.json, &node()));
    }
}

fn desired() -> Vec<Vec<u8>> {
    let object = |name: &str| {
        v1::Object {
        kind: "Pod".to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: "9f2c".to_owned(),
        json: br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","uid":"9f2c"},"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#
            .as_slice()
            .into(),
    }
    };
    let piece = |piece: u32, last: bool, objects: Vec<v1::Object>| v1::Desired {
        generation: Some(v1::Generation { epoch: 1, number: 7 }),
        piece,
        last,
        objects,
        ..v1::Desired::default()
    };
    let whole = piece(0, true, vec![object("a"), object("b")]).encode_length_delimited_to_vec();
    let mut two = piece(0, false, vec![object("a")]).encode_length_delimited_to_vec();
    two.extend(piece(1, true, vec![object("b")]).encode_length_delimited_to_vec());
    vec![whole, two, piece(0, true, Vec::new()).encode_length_delimited_to_vec()]
}

/// A join token, pasted by somebody.
pub const TICKET: Target = Target {
    name: "ticket",
    rounds: 10_000,
    input_max: 1 << 10,
    memory: |input| 8 * input + (64 << 10),
    words: &[".", "..", "\n", " ", "ab", "0", "é", "\0"],
    more: nothing,
    judge: |input| {
        let text = String::from_utf8_lossy(input);
        judged(Ticket::parse(&text).map_err(|error| error.to_string()), |ticket| {
            let plain = ticket.token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
            (!plain).then(|| format!("{:?} was accepted", ticket.token))
        })
    },
};

/// A line to the log keeper, and the two files that it reads at its start.
pub const KEEPER: Target = Target {
    name: "keeper",
    rounds: 10_000,
    // A name is at most 255 bytes long; a refusal repeats it.
    input_max: 600,
    memory: |input| 32 * input + (64 << 10),
    words: &[
        "open ",
        "close ",
        "forget ",
        "limits ",
        "status",
        "pods/",
        "..",
        "/",
        "\n",
        "\0",
        ".log",
        "-1",
        "18446744073709551616",
        "ok ",
    ],
    more: nothing,
    judge: |input| {
        let text = String::from_utf8_lossy(input);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        drop(Status::parse(&lines, "ok"));
        if let Ok(target) = LogTarget::parse(&text) {
            let climbs = target.pod_dir().split('/').any(|part| matches!(part, "" | "." | ".."));
            return if climbs { Judged::Broken(format!("{target:?} was accepted")) } else { Judged::Accepted };
        }
        let line = lines.first().map_or("", String::as_str);
        judged(Request::parse(line).map_err(|refusal| refusal.0), |request| {
            let again = Request::parse(&request.to_string());
            (again.as_ref() != Ok(&request)).then(|| format!("{request:?} is read back as {again:?}"))
        })
    },
};
