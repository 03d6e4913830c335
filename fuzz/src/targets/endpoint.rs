//! What clients and nodes send to the control endpoint.

use agent::uplink::identity;
use control::api::apply::{Force, Writer, apply, update};
use control::api::invalid::Causes;
use control::api::kinds::{Kind, by_kind};
use control::api::{patch, protobuf, selector, validate};
use control::door::authority;
use control::http::query::Query;
use control::http::request::Target as Path;
use serde_json::Value;

use super::{JSON, judged, nothing};
use crate::{Judged, Target, WORDS_MAX};

/// Several trees of the same document: as it came, as it was, as it becomes, and who owns its fields.
fn trees(input: usize) -> usize {
    600 * input + (4 << 20)
}

fn daemonset() -> &'static Kind {
    by_kind("apps", "v1", "DaemonSet").expect("it is served")
}

/// A body as kubectl writes it for built-in kinds.
pub const PROTOBUF: Target = Target {
    name: "protobuf",
    rounds: 5_000,
    input_max: 32 << 10,
    memory: trees,
    words: &[
        "k8s\0",
        "v1",
        "apps/v1",
        "Pod",
        "ConfigMap",
        "\n\u{0}",
        "\u{12}\u{4}",
        "\u{1a}\u{ff}",
        "\u{8}\u{96}\u{1}",
    ],
    more: bodies,
    judge: |input| {
        judged(protobuf::decode(input).map_err(|error| error.to_string()), |object| {
            let named = object["kind"].is_string() && object["apiVersion"].is_string();
            (!named).then(|| "an object without a kind".to_owned())
        })
    },
};

/// A field of a message with a length: number below 16.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    bytes.extend(u8::try_from(content.len()).map_or_else(|_| vec![0x80, 1], |len| vec![len]));
    bytes.extend_from_slice(content);
    bytes
}

fn bodies() -> Vec<Vec<u8>> {
    let body = |api_version: &str, kind: &str, object: &[u8]| {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), field(1, &meta), field(2, object)].concat()
    };
    let metadata = field(1, &[field(1, b"a"), field(3, b"default")].concat());
    let entry = field(2, &[field(1, b"key"), field(2, b"value")].concat());
    let container = field(2, &[field(1, b"c"), field(2, b"i:1")].concat());
    vec![
        body("v1", "ConfigMap", &[metadata.clone(), entry].concat()),
        body("v1", "Pod", &[metadata.clone(), field(2, &container)].concat()),
        body("v1", "Namespace", &metadata),
    ]
}

/// `{"type": "json"|"merge"|"strategic", "object": …, "patch": …}`.
pub const PATCH: Target = Target {
    name: "patch",
    rounds: 4_000,
    input_max: 16 << 10,
    // A patch may copy parts of the object several times.
    memory: |input| 600 * input + (64 << 20),
    words: PATCHES,
    more: nothing,
    judge: |input| {
        let Ok(Value::Object(mut parts)) = serde_json::from_slice::<Value>(input) else {
            return Judged::Refused("no document".to_owned());
        };
        let mut part = |name: &str| parts.remove(name).unwrap_or_default();
        let (kind, object, changes) = (part("type"), part("object"), part("patch"));
        let changed = match kind.as_str() {
            Some("json") => patch::json(&object, &changes),
            Some("strategic") => patch::strategic(&object, &changes, daemonset().schema),
            _ => Ok(patch::merge(&object, &changes)),
        };
        judged(changed.map_err(|error| error.to_string()), |changed| {
            // It can be written and read again: it is what is stored.
            let text = changed.to_string();
            serde_json::from_str::<Value>(&text).err().map(|why| format!("what comes out cannot be read: {why}"))
        })
    },
};

const PATCHES: &[&str] = &[
    "null",
    "[]",
    "{}",
    "-1",
    "\"\"",
    "add",
    "remove",
    "replace",
    "move",
    "copy",
    "test",
    "op",
    "path",
    "from",
    "value",
    "/spec/template/spec/containers/0",
    "/spec",
    "/-",
    "/~0~1",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "delete",
    "replace",
    "merge",
    "containers",
    "name",
    "ports",
    "containerPort",
    "tolerations",
    "managedFields",
    "f:spec",
    "k:{\"name\":\"c\"}",
    "v:\"a\"",
    ".",
];

/// `{"live": … or null, "applied": …}`: a DaemonSet, as it is and as a server-side apply wants it.
pub const APPLY: Target = Target {
    name: "apply",
    rounds: 2_000,
    input_max: 16 << 10,
    memory: |input| 2_000 * input + (8 << 20),
    words: PATCHES,
    more: nothing,
    judge: |input| {
        let Ok(Value::Object(mut parts)) = serde_json::from_slice::<Value>(input) else {
            return Judged::Refused("no document".to_owned());
        };
        let live = parts.remove("live").filter(Value::is_object);
        let Some(applied) = parts.remove("applied").filter(Value::is_object) else {
            return Judged::Refused("nothing is applied".to_owned());
        };
        let writer = Writer {
            kind: daemonset().schema,
            manager: "fuzz",
            api_version: "apps/v1",
            subresource: "",
            ignored: &["status"],
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        drop(update(live.as_ref(), &applied, &writer));
        let made = apply(live.as_ref(), &applied, &writer, Force::Yes);
        judged(made.map_err(|error| cut(&error.to_string())), |made| {
            match apply(Some(&made), &applied, &writer, Force::No) {
                Ok(again) if again == made => None,
                Ok(again) => Some(format!("applied twice it is another: {made}, then {again}")),
                Err(why) => Some(format!("applied by the same once more: {why}")),
            }
        })
    },
};

/// Conflicts are listed whole, as Kubernetes does.
fn cut(words: &str) -> String {
    words.chars().take(WORDS_MAX / 4).collect()
}

/// An object that somebody creates.
pub const CREATE: Target = Target {
    name: "create",
    rounds: 3_000,
    input_max: 16 << 10,
    memory: trees,
    words: JSON,
    more: nothing,
    judge: |input| {
        let Ok(mut object) = serde_json::from_slice::<Value>(input) else {
            return Judged::Refused("no document".to_owned());
        };
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let Some(kind) = by_kind(group, version, text("kind")) else {
            return Judged::Refused("no such kind".to_owned());
        };
        match (kind.check)(&object) {
            Err(mistyped) => return Judged::Refused(cut(&mistyped.to_string())),
            Ok(unknown) => unknown.iter().for_each(|place| place.remove_from(&mut object)),
        }
        kind.strategy.prepare_create(&mut object, jiff::Timestamp::UNIX_EPOCH);
        kind.strategy.defaults(&mut object);
        let mut causes = Causes::default();
        validate::metadata(kind, &object, &mut causes);
        kind.strategy.validate(&object, &mut causes);
        if !causes.is_empty() {
            let words: Vec<_> = causes.into_vec().into_iter().map(|cause| cause.message).collect();
            return match words.iter().find(|words| words.trim().is_empty()) {
                Some(_) => Judged::Broken("it is invalid without a word".to_owned()),
                None => Judged::Refused(words[0].chars().filter(|c| !c.is_control()).take(WORDS_MAX / 4).collect()),
            };
        }
        let mut again = object.clone();
        kind.strategy.defaults(&mut again);
        if again != object {
            return Judged::Broken(format!("with its defaults once more it is another: {object}, then {again}"));
        }
        match (kind.check)(&object) {
            Ok(unknown) if unknown.is_empty() => Judged::Accepted,
            Ok(unknown) => Judged::Broken(format!("the endpoint wrote unknown fields into it: {unknown:?}")),
            Err(why) => Judged::Broken(format!("with its defaults it is of another type: {why}")),
        }
    },
};

/// A label selector in the first line, a field selector in the second.
pub const SELECTORS: Target = Target {
    name: "selectors",
    rounds: 10_000,
    input_max: 4 << 10,
    memory: |input| 400 * input + (256 << 10),
    words: &[
        "=",
        "==",
        "!=",
        "!",
        " in ",
        " notin ",
        "(",
        ")",
        ",",
        "a",
        "a/b",
        ">",
        "<",
        "metadata.name",
        "spec.nodeName=",
        "\\,",
        " ",
    ],
    more: nothing,
    judge: |input| {
        let text = String::from_utf8_lossy(input);
        let (labels, fields) = text.split_once('\n').unwrap_or((&text, ""));
        let fields = selector::fields(fields, selector::selectable("", "Pod")).map_err(|error| shown(&error));
        let labels = selector::labels(labels).map_err(|error| shown(&error));
        judged(labels.and(fields), |found| {
            let _ = found.matches(&Value::Null);
            None
        })
    },
};

/// As an answer shows it: what was asked is repeated in it.
fn shown(error: &selector::SelectorError) -> String {
    cut(&error.to_string().replace(char::is_control, "?"))
}

/// `PATH?QUERY`.
pub const REQUEST: Target = Target {
    name: "request",
    rounds: 10_000,
    input_max: 4 << 10,
    memory: |input| 600 * input + (256 << 10),
    words: &[
        "/api/v1",
        "/apis/apps/v1",
        "namespaces",
        "%2f",
        "%00",
        "%ff",
        "?",
        "&",
        "=",
        "limit=",
        "continue=",
        "watch=1",
        "resourceVersion=",
        "resourceVersionMatch=Exact",
        "timeoutSeconds=",
        "fieldManager=",
        "force=true",
        "dryRun=All",
        "-1",
        "gracePeriodSeconds=",
        "propagationPolicy=Orphan",
        "labelSelector=",
        "18446744073709551616",
    ],
    more: nothing,
    judge: |input| {
        let Ok(text) = std::str::from_utf8(input) else { return Judged::Refused("no UTF-8".to_owned()) };
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let query = Query::of(query);
        let options = [
            query.list(daemonset()).err(),
            query.watch(daemonset()).err(),
            query.write("daemonsets", "kubectl/v1.20").err(),
            query.force(true).err(),
            query.delete(None).err(),
        ];
        if let Some(error) = options.into_iter().flatten().next() {
            return Judged::Refused(cut(&error.to_string().replace(char::is_control, "?")));
        }
        judged(Path::of(path).map_err(|why| cut(&why)), |_| None)
    },
};

/// A node's request for its certificate.
pub const CERTIFICATE: Target = Target {
    name: "certificate",
    rounds: 2_000,
    input_max: 8 << 10,
    memory: |input| 64 * input + (256 << 10),
    words: &["\u{30}\u{0}", "\u{2}\u{1}\u{0}", "\u{3}\u{2}\u{0}", "\u{6}\u{3}", "\u{5}\u{0}"],
    more: || vec![identity::request().expect("a key can be made").1],
    judge: |input| {
        judged(authority::Request::parse(input).map_err(|error| cut(&error.to_string())), |request| {
            (request.key().len() != 64).then(|| "a key without a sum".to_owned())
        })
    },
};
