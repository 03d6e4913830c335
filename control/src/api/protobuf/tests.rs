//! The table against two others of the same kinds: the messages of the crate k8s-pb say which field has which number and name, the Kubernetes types
//! which fields the JSON has.

use std::collections::BTreeMap;

use k8s_pb::api::{
    apps, authentication, authorization, coordination, core, discovery, events, policy, rbac, scheduling,
};
use k8s_pb::apimachinery::pkg::apis::meta;
use serde_json::json;

use super::*;
use crate::api::kinds::{by_kind, kinds};

/// Fields of 1.36, which the crate's messages of 1.35 do not have yet.
const NEWER: &[(&str, u64)] =
    &[("core.PodSpec", 43), ("core.PodStatus", 21), ("core.ResourceHealth", 6), ("core.VolumeMountStatus", 5)];

/// Writes messages with something in every field.
#[derive(Default)]
struct Full {
    /// Without [`NEWER`].
    older: bool,
    /// The field in which each number was put.
    numbers: BTreeMap<u64, &'static str>,
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

fn in_field(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn number_in_field(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

impl Full {
    fn message(&mut self, of: &str) -> Vec<u8> {
        let words = fields(of).unwrap_or_else(|| panic!("no message {of}"));
        let mut bytes = Vec::new();
        for word in words.split(' ') {
            let parts: Vec<&'static str> = word.splitn(3, ':').collect();
            let (number, name, code) = (parts[0].parse().unwrap(), parts[1], parts[2].trim_end_matches('!'));
            if self.older && NEWER.contains(&(of, number)) {
                continue;
            }
            let code = code.strip_prefix('*').unwrap_or(code);
            bytes.extend(match code.strip_prefix('m').filter(|code| !code.contains('.')) {
                Some("e") => in_field(number, &[in_field(1, b"key"), in_field(2, &in_field(1, b"x"))].concat()),
                Some(code) => in_field(number, &[in_field(1, b"key"), self.value(2, "value", code)].concat()),
                None => self.value(number, name, code),
            });
        }
        bytes
    }

    fn value(&mut self, number: u64, name: &'static str, code: &str) -> Vec<u8> {
        let unique = 1000 + self.numbers.len() as u64;
        match code {
            "s" | "y" => in_field(number, name.as_bytes()),
            "q" => in_field(number, &in_field(1, b"5")),
            "b" => number_in_field(number, 1),
            "i" => {
                self.numbers.insert(unique, name);
                number_in_field(number, unique)
            }
            "t" | "u" => in_field(number, &number_in_field(1, 5)),
            "x" => in_field(number, &[number_in_field(1, 0), number_in_field(2, 7)].concat()),
            "r" | "f" => in_field(number, &in_field(1, b"{\"a\":1}")),
            of => in_field(number, &self.message(of)),
        }
    }
}

fn plain(name: &str) -> String {
    name.trim_start_matches("r#").replace('_', "").to_lowercase()
}

/// Every field of a message is where `T` has it, under the same name.
fn same_as<T: prost::Message + Default + std::fmt::Debug>(of: &str) -> usize {
    let mut full = Full { older: true, ..Full::default() };
    let bytes = full.message(of);
    let read = T::decode(&*bytes).unwrap_or_else(|error| panic!("{of}: {error}"));
    // What the type does not have is dropped on the way.
    assert_eq!(read.encoded_len(), bytes.len(), "{of}: {read:?}");
    let shown = format!("{read:?}");
    let mut seen = 0;
    for (place, _) in shown.match_indices(": Some(") {
        let field = shown[..place].rsplit([' ', '{', '(']).next().unwrap();
        let value = &shown[place + ": Some(".len()..];
        let number: String = value.chars().take_while(char::is_ascii_digit).collect();
        let meant = match (value.strip_prefix('"'), number.parse::<u64>()) {
            // A map's value, a quantity.
            (Some(text), _) if text.starts_with("5\"") => continue,
            (Some(text), _) => text.split('"').next().unwrap(),
            (None, Ok(number)) => match full.numbers.get(&number) {
                Some(name) => name,
                None => continue,
            },
            (None, Err(_)) => continue,
        };
        assert_eq!(plain(field), plain(meant), "{of}: {shown}");
        seen += 1;
    }
    seen
}

#[test]
fn every_field_has_the_number_and_name_that_it_has_in_the_messages() {
    assert!(same_as::<core::v1::Pod>("core.Pod") > 300);
    assert!(same_as::<apps::v1::DaemonSet>("apps.DaemonSet") > 200);
    assert!(same_as::<core::v1::Node>("core.Node") > 30);
    same_as::<core::v1::Namespace>("core.Namespace");
    same_as::<core::v1::ConfigMap>("core.ConfigMap");
    same_as::<core::v1::Secret>("core.Secret");
    same_as::<core::v1::Event>("core.Event");
    same_as::<core::v1::ServiceAccount>("core.ServiceAccount");
    same_as::<core::v1::Service>("core.Service");
    same_as::<core::v1::Binding>("core.Binding");
    same_as::<apps::v1::ControllerRevision>("apps.ControllerRevision");
    same_as::<coordination::v1::Lease>("coordination.Lease");
    same_as::<discovery::v1::EndpointSlice>("discovery.EndpointSlice");
    same_as::<events::v1::Event>("events.Event");
    same_as::<rbac::v1::Role>("rbac.Role");
    same_as::<rbac::v1::ClusterRole>("rbac.ClusterRole");
    same_as::<rbac::v1::RoleBinding>("rbac.RoleBinding");
    same_as::<rbac::v1::ClusterRoleBinding>("rbac.ClusterRoleBinding");
    same_as::<scheduling::v1::PriorityClass>("scheduling.PriorityClass");
    same_as::<policy::v1::Eviction>("policy.Eviction");
    same_as::<authentication::v1::TokenReview>("authentication.TokenReview");
    same_as::<authentication::v1::TokenRequest>("authentication.TokenRequest");
    same_as::<authorization::v1::SubjectAccessReview>("authorization.SubjectAccessReview");
    same_as::<authorization::v1::SelfSubjectAccessReview>("authorization.SelfSubjectAccessReview");
    same_as::<authorization::v1::LocalSubjectAccessReview>("authorization.LocalSubjectAccessReview");
    same_as::<authorization::v1::SelfSubjectRulesReview>("authorization.SelfSubjectRulesReview");
    same_as::<meta::v1::DeleteOptions>("meta.DeleteOptions");
}

fn enveloped(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [in_field(1, api_version.as_bytes()), in_field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), in_field(1, &meta), in_field(2, raw), in_field(3, b""), in_field(4, b"")].concat()
}

#[test]
fn every_kind_comes_out_as_json_that_its_type_has() {
    for kind in kinds() {
        let of = root(&kind.api_version(), kind.kind).unwrap_or_else(|| panic!("{kind:?} has no message"));
        let body = enveloped(&kind.api_version(), kind.kind, &Full::default().message(&of));
        let object = decode(&body).unwrap();
        assert_eq!((kind.check)(&object), Ok(vec![]), "{object:#}");
        assert_eq!(object["kind"], kind.kind);
    }
}

#[test]
fn fields_that_are_no_pointers_are_left_out_when_they_are_empty_and_pointers_are_not() {
    let container =
        [in_field(1, b"c"), in_field(2, b""), in_field(6, &[number_in_field(2, 0), number_in_field(3, 80)].concat())];
    let spec = [
        in_field(2, &container.concat()),
        number_in_field(4, 0),
        in_field(10, b""),
        number_in_field(11, 0),
        number_in_field(21, 0),
    ];
    let metadata = [in_field(1, b"p"), in_field(8, b""), in_field(11, &[in_field(1, b"l"), in_field(2, b"")].concat())];
    let pod = [in_field(1, &metadata.concat()), in_field(2, &spec.concat())].concat();
    let object = decode(&enveloped("v1", "Pod", &pod)).unwrap();
    assert_eq!(
        object,
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "labels": { "l": "" } }, "spec": {
            "containers": [{ "name": "c", "ports": [{ "containerPort": 80 }] }],
            "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false } })
    );
}

#[test]
fn values_of_their_own_form_become_what_json_says_for_them() {
    let percent = [number_in_field(1, 1), number_in_field(2, 0), in_field(3, b"10%")].concat();
    let update = in_field(2, &in_field(1, &percent));
    let spec = in_field(2, &in_field(3, &update));
    let object = decode(&enveloped("apps/v1", "DaemonSet", &spec)).unwrap();
    assert_eq!(object["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "10%");
    let secret = in_field(2, &[in_field(1, b"k"), in_field(2, b"\x00\xff")].concat());
    assert_eq!(decode(&enveloped("v1", "Secret", &secret)).unwrap()["data"]["k"], "AP8=");
    let lease = in_field(2, &in_field(4, &[number_in_field(1, 1), number_in_field(2, 2000)].concat()));
    let lease = decode(&enveloped("coordination.k8s.io/v1", "Lease", &lease)).unwrap();
    assert_eq!(lease["spec"]["renewTime"], "1970-01-01T00:00:01.000002Z");
    let owner = in_field(1, &in_field(8, &number_in_field(1, 61)));
    assert_eq!(
        decode(&enveloped("v1", "ConfigMap", &owner)).unwrap()["metadata"]["creationTimestamp"],
        "1970-01-01T00:01:01Z"
    );
    let minus = in_field(2, &number_in_field(4, (-3_i64).cast_unsigned()));
    assert_eq!(decode(&enveloped("apps/v1", "DaemonSet", &minus)).unwrap()["spec"]["minReadySeconds"], -3);
}

#[test]
fn options_of_a_deletion_come_in_the_group_of_what_is_deleted() {
    let options = [number_in_field(1, 0), in_field(4, b"Orphan")].concat();
    let options = decode(&enveloped("apps/v1", "DeleteOptions", &options)).unwrap();
    assert_eq!((&options["gracePeriodSeconds"], &options["propagationPolicy"]), (&json!(0), &json!("Orphan")));
    assert!(by_kind("apps", "v1", "DaemonSet").is_some());
}

#[test]
fn what_is_not_ours_or_not_whole_is_refused_by_name() {
    let said = |body: &[u8]| decode(body).unwrap_err().to_string();
    assert!(said(b"{}").contains("does not begin"));
    assert!(said(&enveloped("apps/v1", "Deployment", b"")).contains("\"Deployment\" in \"apps/v1\""));
    assert!(said(&enveloped("v2", "Pod", b"")).contains("\"v2\""));
    let whole = enveloped("v1", "Pod", &Full::default().message("core.Pod"));
    for length in 4..whole.len() {
        let _ = decode(&whole[..length]);
    }
    let broken = in_field(2, &[0x0a, 0x05, 0x01]);
    assert_eq!(said(&enveloped("v1", "Pod", &broken)), "Pod.spec is not well-formed protobuf");
    let text = in_field(1, b"x");
    assert_eq!(
        said(&enveloped("v1", "Pod", &in_field(2, &[varint(1 << 3), varint(1)].concat()))),
        "Pod.spec.volumes has a value of another type"
    );
    assert!(said(&enveloped("apps/v1", "ControllerRevision", &in_field(2, &text))).contains("data is not JSON"));
}

#[test]
fn lines_stand_in_order_and_every_message_that_is_meant_is_there() {
    let names: Vec<&str> = MESSAGES.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert!(names.is_sorted());
    for line in MESSAGES.lines() {
        for word in line.split(' ').skip(1) {
            let code = word.splitn(3, ':').nth(2).unwrap().trim_start_matches('*').trim_end_matches('!');
            assert!(
                !code.contains('.') || fields(code.trim_start_matches("m")).is_some() || fields(code).is_some(),
                "{line}"
            );
        }
    }
}

#[test]
fn a_body_of_many_nothings_is_refused() {
    let containers = |count: usize| enveloped("v1", "Pod", &in_field(2, &[0x12, 0x00].repeat(count)));
    assert!(decode(&containers(1000)).is_ok());
    assert!(matches!(decode(&containers(VALUES_MAX)), Err(ProtobufError::TooMany)));
}
