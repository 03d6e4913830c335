//! Named rules of server-side apply, most of them told on a DaemonSet of two owners.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{ApplyError, Force, Writer, apply, update};
use crate::api::schema;

fn writer(manager: &str) -> Writer<'_> {
    let kind = schema::kind("", "Pod").unwrap();
    let now = Timestamp::from_second(1000).unwrap();
    Writer { kind, manager, api_version: "v1", subresource: "", ignored: &["status"], now }
}

/// A pod with these labels and this spec.
fn pod(labels: Value, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels}, "spec": spec})
}

fn applied(live: Option<&Value>, config: &Value, manager: &str) -> Value {
    apply(live, config, &writer(manager), Force::No).unwrap_or_else(|e| panic!("{e}"))
}

/// Without owners.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

/// What `manager` owns.
fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().find(|e| e["manager"] == manager).map_or(Value::Null, |e| e["fieldsV1"].clone())
}

#[test]
fn an_applied_object_is_what_was_said_and_its_fields_are_the_appliers() {
    let config = pod(
        json!({"app": "a"}),
        json!({"containers": [{"name": "c", "image": "1", "ports": [{"containerPort": 80}], "args": ["x"], "resources": {}}],
            "nodeSelector": {"a": "b"}}),
    );
    let object = applied(None, &config, "m");
    assert_eq!(bare(&object), config);
    let wanted = json!({
        "f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {
            "f:nodeSelector": {},
            "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {}, "f:resources": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}},
        },
    });
    assert_eq!(owned(&object, "m"), wanted);
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["operation"], &entry["apiVersion"], &entry["time"], &entry["fieldsType"]),
        (&json!("Apply"), &json!("v1"), &json!("1970-01-01T00:16:40Z"), &json!("FieldsV1"))
    );
}

#[test]
fn what_is_applied_again_changes_nothing_at_all() {
    let config = pod(json!({"app": "a"}), json!({"containers": [{"name": "c"}], "nodeSelector": {"a": "b"}}));
    let once = applied(None, &config, "m");
    let later = Writer { now: Timestamp::from_second(2000).unwrap(), ..writer("m") };
    assert_eq!(apply(Some(&once), &config, &later, Force::No).unwrap(), once);
}

#[test]
fn fields_that_are_no_longer_applied_go_unless_another_owns_them() {
    let both = pod(json!({"x": "1", "y": "1"}), json!({"hostNetwork": true}));
    let first = applied(None, &both, "m");
    let second = applied(Some(&first), &pod(json!({"y": "1"}), json!({})), "n");
    let third = applied(Some(&second), &pod(json!({}), json!({})), "m");
    assert_eq!(bare(&third), pod(json!({"y": "1"}), json!({})));
    let fourth = applied(Some(&third), &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}), "n");
    assert_eq!(owned(&fourth, "n"), Value::Null);
    assert!(fourth["metadata"].get("labels").is_none_or(|l| l == &json!({})), "{fourth}");
}

#[test]
fn an_item_that_is_no_longer_applied_goes_with_its_defaults() {
    let config = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        pod(json!({}), json!({"containers": list}))
    };
    let mut live = applied(None, &config(&["a", "b"]), "m");
    live["spec"]["containers"][1]["terminationMessagePath"] = json!("/dev/termination-log");
    let less = applied(Some(&live), &config(&["a"]), "m");
    assert_eq!(less["spec"]["containers"], json!([{"name": "a"}]));
}

#[test]
fn an_item_that_another_uses_stays_with_what_the_other_said() {
    let mine = pod(json!({}), json!({"containers": [{"name": "a", "image": "1", "tty": true}]}));
    let theirs = pod(json!({}), json!({"containers": [{"name": "a", "stdin": true}]}));
    let live = applied(Some(&applied(None, &mine, "m")), &theirs, "n");
    let left = applied(Some(&live), &pod(json!({}), json!({})), "m");
    assert_eq!(left["spec"]["containers"], json!([{"name": "a", "stdin": true}]));
}

#[test]
fn another_value_for_anothers_field_is_a_conflict_and_force_takes_it_over() {
    let first = applied(None, &pod(json!({}), json!({"containers": [{"name": "a", "image": "1"}]})), "m");
    let config = pod(json!({}), json!({"containers": [{"name": "a", "image": "2"}]}));
    let refused = apply(Some(&first), &config, &writer("n"), Force::No).unwrap_err();
    let text = "Apply failed with 1 conflict: conflict with \"m\" using v1: .spec.containers[name=\"a\"].image";
    assert_eq!(refused.to_string(), text);
    let forced = apply(Some(&first), &config, &writer("n"), Force::Yes).unwrap();
    assert_eq!(forced["spec"]["containers"][0]["image"], "2");
    assert_eq!(owned(&forced, "m")["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"], json!({".": {}, "f:name": {}}));
    assert!(owned(&forced, "n")["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"]["f:image"].is_object());
}

#[test]
fn the_same_value_is_shared_without_a_conflict() {
    let config = pod(json!({"x": "1"}), json!({}));
    let both = applied(Some(&applied(None, &config, "m")), &config, "n");
    assert_eq!(owned(&both, "m"), owned(&both, "n"));
    let one_left = applied(Some(&both), &pod(json!({}), json!({})), "m");
    assert_eq!(one_left["metadata"]["labels"], json!({"x": "1"}));
}

#[test]
fn one_value_is_taken_or_left_as_a_whole() {
    let first = applied(None, &pod(json!({}), json!({"nodeSelector": {"a": "1"}})), "m");
    let other = pod(json!({}), json!({"nodeSelector": {"b": "2"}}));
    let refused = apply(Some(&first), &other, &writer("n"), Force::No).unwrap_err();
    assert!(refused.to_string().ends_with("conflict with \"m\" using v1: .spec.nodeSelector"), "{refused}");
    let forced = apply(Some(&first), &other, &writer("n"), Force::Yes).unwrap();
    assert_eq!(forced["spec"]["nodeSelector"], json!({"b": "2"}));
    assert_eq!(owned(&forced, "m"), json!({"f:metadata": {"f:labels": {}}}));
}

#[test]
fn sets_are_united_and_each_takes_its_own_away() {
    let finalizers =
        |list: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": list}});
    let first = applied(None, &finalizers(json!(["a", "b"])), "m");
    let second = applied(Some(&first), &finalizers(json!(["b", "c"])), "n");
    assert_eq!(second["metadata"]["finalizers"], json!(["a", "b", "c"]));
    let third = applied(Some(&second), &finalizers(json!(["a"])), "m");
    assert_eq!(third["metadata"]["finalizers"], json!(["a", "b", "c"]));
    let fourth = applied(Some(&third), &finalizers(json!(["c"])), "n");
    assert_eq!(fourth["metadata"]["finalizers"], json!(["a", "c"]));
    assert_eq!(owned(&fourth, "m")["f:metadata"]["f:finalizers"], json!({"v:\"a\"": {}}));
}

#[test]
fn keyed_items_stand_in_the_order_that_is_applied() {
    let config = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        pod(json!({}), json!({"containers": list}))
    };
    let first = applied(None, &config(&["a", "b"]), "m");
    let more = applied(Some(&first), &config(&["x"]), "n");
    let turned = applied(Some(&more), &config(&["c", "b", "a"]), "m");
    let names: Vec<&str> =
        turned["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["x", "c", "b", "a"]);
}

#[test]
fn ports_are_told_apart_by_number_and_protocol_whose_default_counts() {
    let ports = |list: Value| pod(json!({}), json!({"containers": [{"name": "a", "ports": list}]}));
    let first = applied(None, &ports(json!([{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}])), "m");
    assert_eq!(first["spec"]["containers"][0]["ports"].as_array().unwrap().len(), 2);
    let named = ports(json!([{"containerPort": 53, "protocol": "TCP", "name": "dns"}]));
    let second = applied(Some(&first), &named, "n");
    let wanted =
        json!([{"containerPort": 53, "protocol": "TCP", "name": "dns"}, {"containerPort": 53, "protocol": "UDP"}]);
    assert_eq!(second["spec"]["containers"][0]["ports"], wanted);
}

#[test]
fn items_without_their_keys_or_twice_are_refused_by_their_path() {
    for list in [json!([{"image": "x", "name": null}, 1]), json!([{"name": "a"}, {"name": "a"}])] {
        let config = pod(json!({}), json!({"containers": list}));
        let refused = apply(None, &config, &writer("m"), Force::No).unwrap_err();
        assert_eq!(refused, ApplyError::Keys { path: ".spec.containers".into() });
    }
    let mut given = pod(json!({}), json!({}));
    given["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(apply(None, &given, &writer("m"), Force::No), Err(ApplyError::ManagedFieldsGiven));
}

#[test]
fn an_object_that_was_never_applied_belongs_to_before_first_apply() {
    let live = pod(json!({"x": "1"}), json!({}));
    let refused = apply(Some(&live), &pod(json!({"x": "2"}), json!({})), &writer("m"), Force::No).unwrap_err();
    assert!(
        refused.to_string().contains("conflict with \"before-first-apply\" using v1: .metadata.labels.x"),
        "{refused}"
    );
}

#[test]
fn what_a_door_does_not_write_is_neither_changed_nor_owned() {
    let mut config = pod(json!({}), json!({}));
    config["status"] = json!({"phase": "Failed"});
    let object = applied(None, &config, "m");
    assert_eq!((object.get("status"), owned(&object, "m").get("f:status")), (None, None));
    let status = Writer { subresource: "status", ignored: &["spec", "metadata"], ..writer("m") };
    let written = apply(Some(&object), &config, &status, Force::No).unwrap();
    assert_eq!(written["status"], json!({"phase": "Failed"}));
    let entries = written["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.iter().filter(|e| e["subresource"] == "status").count(), 1);
}

#[test]
fn an_update_takes_what_it_changes_from_whoever_had_it() {
    let first =
        applied(None, &pod(json!({"x": "1", "y": "1"}), json!({"containers": [{"name": "a"}, {"name": "b"}]})), "m");
    let mut new = first.clone();
    new["metadata"]["labels"] = json!({"x": "2", "z": "1"});
    new["spec"]["containers"] = json!([{"name": "a"}]);
    let updated = update(Some(&first), &new, &writer("edit"));
    assert_eq!(owned(&updated, "edit"), json!({"f:metadata": {"f:labels": {"f:x": {}, "f:z": {}}}}));
    let left = json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}});
    assert_eq!(owned(&updated, "m"), left);
    assert_eq!(update(Some(&updated), &updated, &writer("idle")), updated, "who changes nothing owns nothing");
    let mut emptied = updated.clone();
    emptied["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(update(Some(&updated), &emptied, &writer("edit"))["metadata"].get("managedFields"), None);
}

#[test]
fn owners_that_a_write_names_are_what_it_begins_with() {
    let live = update(None, &pod(json!({"x": "1", "y": "1"}), json!({})), &writer("client-side"));
    // kubectl makes an applier of whoever updated; what is not applied any more then goes.
    let mut migrated = live.clone();
    migrated["metadata"]["managedFields"][0]["manager"] = json!("m");
    migrated["metadata"]["managedFields"][0]["operation"] = json!("Apply");
    let taken = update(Some(&live), &migrated, &writer("kubectl"));
    assert_eq!(taken["metadata"]["managedFields"], migrated["metadata"]["managedFields"]);
    let less = applied(Some(&taken), &pod(json!({"x": "1"}), json!({})), "m");
    assert_eq!(less["metadata"]["labels"], json!({"x": "1"}));
    // What cannot be read, is empty, or comes by another door says nothing.
    for nothing in [json!([]), json!([{"manager": "m"}]), Value::Null] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = nothing;
        assert_eq!(update(Some(&live), &new, &writer("kubectl")), live);
    }
    let status = Writer { subresource: "status", ..writer("kubectl") };
    assert_eq!(update(Some(&live), &migrated, &status), live);
}

#[test]
fn whoever_updates_again_keeps_what_it_had_and_loses_what_it_removes() {
    let labelled = |labels: Value, live: &Value| {
        let mut new = live.clone();
        new["metadata"]["labels"] = labels;
        new
    };
    let live = update(None, &pod(json!({}), json!({})), &writer("made"));
    let x = update(Some(&live), &labelled(json!({"x": "1"}), &live), &writer("edit"));
    let later = Writer { now: Timestamp::from_second(2000).unwrap(), ..writer("edit") };
    let again = update(Some(&x), &labelled(json!({"x": "2"}), &x), &later);
    assert_eq!(again["metadata"]["managedFields"], x["metadata"]["managedFields"], "nothing has changed hands");
    let both = update(Some(&x), &labelled(json!({"x": "1", "y": "1"}), &x), &later);
    assert_eq!(owned(&both, "edit")["f:metadata"]["f:labels"], json!({"f:x": {}, "f:y": {}}));
    let less = update(Some(&both), &labelled(json!({"y": "1"}), &both), &later);
    assert_eq!(owned(&less, "edit")["f:metadata"]["f:labels"], json!({"f:y": {}}));
}

#[test]
fn a_null_is_as_if_it_were_not_there() {
    let object = applied(None, &pod(json!({"x": null, "y": "1"}), json!({"nodeName": null})), "m");
    assert_eq!(bare(&object), pod(json!({"y": "1"}), json!({})));
    assert_eq!(owned(&object, "m"), json!({"f:metadata": {"f:labels": {"f:y": {}}}, "f:spec": {}}));
}

#[test]
fn entries_stand_as_kubernetes_writes_them() {
    let early = Writer { now: Timestamp::from_second(500).unwrap(), ..writer("edit") };
    let updated = update(None, &pod(json!({"x": "1"}), json!({})), &early);
    let object = applied(Some(&updated), &pod(json!({"y": "1"}), json!({})), "m");
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!((&entries[0]["operation"], &entries[1]["operation"]), (&json!("Apply"), &json!("Update")));
}

#[test]
fn only_the_last_ten_that_updated_are_remembered_by_name() {
    let mut object = update(None, &pod(json!({}), json!({})), &writer("first"));
    for n in 0..12 {
        let mut new = object.clone();
        new["metadata"]["labels"][format!("l{n}")] = json!("1");
        // The later, the earlier in the alphabet.
        let manager = format!("m{}", 50 - n);
        let at = Writer { now: Timestamp::from_second(2000 + n).unwrap(), ..writer(&manager) };
        object = update(Some(&object), &new, &at);
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 11);
    let ancient = owned(&object, "ancient-changes");
    assert!(ancient["f:metadata"]["f:labels"]["f:l1"].is_object() && owned(&object, "m48").is_object(), "{ancient}");
}

#[test]
fn sets_of_fields_are_read_as_they_are_written_whatever_the_order_of_keys() {
    let text = json!({"f:a": {".": {}, "f:b": {}}, "f:l": {"k:{\"protocol\":\"TCP\",\"port\":80}": {}, "v:\"x\"": {}, "i:3": {}}});
    let fields = Fields::of_json(&text).unwrap();
    let wanted = json!({"f:a": {".": {}, "f:b": {}}, "f:l": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}, "v:\"x\"": {}, "i:3": {}}});
    assert_eq!(fields.to_json(), wanted);
    assert_eq!(fields.paths(), [".a", ".a.b", ".l[port=80,protocol=\"TCP\"]", ".l[=\"x\"]", ".l[3]"]);
    for wrong in [json!([]), json!({"x:a": {}}), json!({"f": {}}), json!({"k:x": {}}), json!({"f:a": 1})] {
        assert_eq!(Fields::of_json(&wrong), None, "{wrong}");
    }
}

/// A configuration of a few fields of every sort.
fn config() -> impl Strategy<Value = Value> {
    let map = || prop::collection::btree_map("[a-c]", "[12]", 0..3);
    let container = (prop::option::of("[12]"), map());
    let containers = prop::collection::btree_map("[a-c]", container, 0..3);
    (map(), containers, prop::collection::btree_set("[a-c]", 0..3), prop::option::of(map())).prop_map(
        |(labels, containers, finalizers, selector)| {
            let list: Vec<Value> = containers
                .into_iter()
                .map(|(name, (image, env))| {
                    let env: Vec<Value> = env.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
                    json!({"name": name, "image": image, "env": env})
                })
                .collect();
            let spec = json!({"containers": list, "nodeSelector": selector});
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels, "finalizers": finalizers}, "spec": spec})
        },
    )
}

/// Whether everything that `said` has is so in `object`; empty containers ask for nothing.
fn holds(object: &Value, said: &Value) -> bool {
    match said {
        Value::Null => true,
        Value::Object(map) => map.iter().all(|(k, v)| holds(&object[k], v)),
        Value::Array(items) => items.iter().all(|item| match item.get("name") {
            Some(name) => {
                object.as_array().into_iter().flatten().any(|have| have["name"] == *name && holds(have, item))
            }
            None => object.as_array().is_some_and(|have| have.contains(item)),
        }),
        scalar => object == scalar,
    }
}

proptest! {
    #[test]
    fn whoever_applied_last_by_force_has_what_it_said_and_applying_again_is_nothing(
        steps in prop::collection::vec((0..3_usize, config()), 1..8),
    ) {
        let managers = ["m", "n", "o"];
        let mut live: Option<Value> = None;
        for (who, config) in &steps {
            let object = apply(live.as_ref(), config, &writer(managers[*who]), Force::Yes).unwrap();
            prop_assert!(holds(&object, config), "{object} does not hold {config}");
            let again = apply(Some(&object), config, &writer(managers[*who]), Force::No).unwrap();
            prop_assert_eq!(&again, &object);
            live = Some(object);
        }
    }

    #[test]
    fn without_conflicts_everybodys_word_holds_and_all_is_gone_when_all_say_nothing(
        steps in prop::collection::vec((0..3_usize, config()), 1..8),
    ) {
        let managers = ["m", "n", "o"];
        let mut said = [Value::Null, Value::Null, Value::Null];
        let mut live: Option<Value> = None;
        for (who, config) in &steps {
            match apply(live.as_ref(), config, &writer(managers[*who]), Force::No) {
                Ok(object) => {
                    said[*who] = config.clone();
                    live = Some(object);
                }
                Err(ApplyError::Conflicts(list)) => prop_assert!(!list.is_empty()),
                Err(other) => panic!("{other}"),
            }
            for said in &said {
                prop_assert!(holds(live.as_ref().unwrap_or(&Value::Null), said));
            }
        }
        let nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
        for manager in managers {
            live = Some(apply(live.as_ref(), &nothing, &writer(manager), Force::No).unwrap());
        }
        prop_assert_eq!(live, Some(nothing));
    }

    #[test]
    fn an_update_is_kept_as_it_is_and_owns_what_differs(first in config(), second in config()) {
        let live = apply(None, &first, &writer("m"), Force::No).unwrap();
        let updated = update(Some(&live), &second, &writer("edit"));
        prop_assert_eq!(bare(&updated), second);
    }
}
