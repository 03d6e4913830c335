//! Named rules of the three patches, most of them told on a DaemonSet.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{PatchError, json as json_patch, merge, strategic};
use crate::api::schema;

fn patched(object: Value, patch: Value) -> Value {
    strategic(&object, &patch, schema::kind("", "Pod").unwrap()).unwrap()
}

fn refusal(object: Value, patch: Value) -> String {
    strategic(&object, &patch, schema::kind("", "Pod").unwrap()).unwrap_err().to_string()
}

fn containers(list: Value) -> Value {
    json!({"spec": {"containers": list}})
}

fn names(object: &Value) -> Vec<&str> {
    let list = object["spec"]["containers"].as_array().unwrap();
    list.iter().map(|c| c["name"].as_str().unwrap()).collect()
}

#[test]
fn json_patch_applies_every_operation_or_none() {
    let object = json!({"a": [1, 2], "b": {"c": 1}});
    let all = json!([
        {"op": "test", "path": "/b/c", "value": 1},
        {"op": "add", "path": "/a/-", "value": 3},
        {"op": "remove", "path": "/a/0"},
        {"op": "replace", "path": "/b/c", "value": 2},
        {"op": "copy", "from": "/b/c", "path": "/d"},
        {"op": "move", "from": "/d", "path": "/e~1f"},
    ]);
    assert_eq!(json_patch(&object, &all).unwrap(), json!({"a": [2, 3], "b": {"c": 2}, "e/f": 2}));
    let last_fails = json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/b/c", "value": 2}]);
    assert!(matches!(json_patch(&object, &last_fails), Err(PatchError::Operation { number: 1, .. })));
    for wrong in [
        json!([{"op": "remove", "path": "/none"}]),
        json!([{"op": "replace", "path": "/none", "value": 1}]),
        json!([{"op": "add", "path": "/none/below", "value": 1}]),
        json!([{"op": "add", "path": "/a/7", "value": 1}]),
        json!([{"op": "move", "from": "/b", "path": "/b/c/d"}]),
    ] {
        assert!(matches!(json_patch(&object, &wrong), Err(PatchError::Operation { number: 0, .. })), "{wrong}");
    }
    for no_patch in [json!({}), json!([{"op": "none", "path": "/a"}]), json!([{"op": "add", "path": "a", "value": 1}])]
    {
        assert!(matches!(json_patch(&object, &no_patch), Err(PatchError::NotAPatch(_))), "{no_patch}");
    }
}

#[test]
fn a_json_patch_is_bounded_in_operations_and_in_what_it_copies() {
    let many = Value::Array(vec![json!({"op": "test", "path": "", "value": {}}); 10_001]);
    assert!(matches!(json_patch(&json!({}), &many), Err(PatchError::TooManyOperations(10_001))));
    let long = json!({"a": "x".repeat(100_000)});
    let copies: Vec<Value> = (0..40).map(|n| json!({"op": "copy", "from": "/a", "path": format!("/{n}")})).collect();
    let outcome = json_patch(&long, &Value::Array(copies.clone()));
    assert!(matches!(outcome, Err(PatchError::CopiesTooMuch(31))), "{outcome:?}");
    assert!(json_patch(&long, &Value::Array(copies[..31].to_vec())).is_ok());
    // Each copies all that there is into itself: 2^40 times as much in the end.
    let bomb: Vec<Value> = (0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/{n}")})).collect();
    let outcome = json_patch(&json!({"a": "x".repeat(100)}), &Value::Array(bomb));
    assert!(matches!(outcome, Err(PatchError::CopiesTooMuch(_))), "{outcome:?}");
}

#[test]
fn no_json_patch_makes_a_document_deeper_than_can_be_walked() {
    let deep = (0..90).fold(json!(1), |inner, _| json!({"a": inner}));
    let inside = "/a".repeat(90);
    let begin = json!({"op": "add", "path": "/w", "value": deep});
    for operation in [
        json!({"op": "copy", "from": "/w", "path": format!("/w{inside}")}),
        json!({"op": "move", "from": "/x", "path": format!("/w{inside}")}),
        json!({"op": "add", "path": format!("/w{inside}"), "value": deep}),
        json!({"op": "replace", "path": format!("/w{inside}"), "value": deep}),
    ] {
        let begin_x = json!({"op": "add", "path": "/x", "value": deep});
        let outcome = json_patch(&json!({}), &json!([begin, begin_x, operation]));
        assert!(matches!(outcome, Err(PatchError::TooDeep(2))), "{outcome:?}");
    }
    assert!(json_patch(&json!({}), &json!([begin, {"op": "copy", "from": "/w", "path": "/v"}])).is_ok());
    // Moves are bounded in what they handle, as copies are.
    let long = json!({"a": "x".repeat(100_000)});
    let there_and_back = |n: usize| match n % 2 {
        0 => json!({"op": "move", "from": "/a", "path": "/b"}),
        _ => json!({"op": "move", "from": "/b", "path": "/a"}),
    };
    let moves: Vec<Value> = (0..40).map(there_and_back).collect();
    assert!(matches!(json_patch(&long, &Value::Array(moves)), Err(PatchError::CopiesTooMuch(31))));
}

#[test]
fn merge_patch_merges_objects_replaces_the_rest_and_removes_nulls() {
    let object = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "t": "x"});
    let patch = json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [3], "t": {"u": 1}, "n": null});
    assert_eq!(merge(&object, &patch), json!({"a": {"c": 2, "d": {"f": 1}}, "l": [3], "t": {"u": 1}}));
}

#[test]
fn keyed_lists_are_merged_by_their_key_and_stand_as_the_patch_has_them() {
    let object = containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
    let patch = containers(json!([{"name": "c"}, {"name": "b", "image": "2"}]));
    let wanted = containers(json!([{"name": "a", "image": "1"}, {"name": "c"}, {"name": "b", "image": "2"}]));
    assert_eq!(patched(object, patch), wanted);
}

#[test]
fn an_item_that_the_patch_has_twice_becomes_one() {
    let patch = containers(json!([{"name": "a", "image": "1"}, {"name": "a", "command": ["x"]}]));
    let wanted = containers(json!([{"name": "a", "image": "1", "command": ["x"]}]));
    assert_eq!(patched(containers(json!([])), patch), wanted);
}

#[test]
fn lists_below_keyed_items_are_merged_too() {
    let object = containers(json!([{"name": "a", "env": [{"name": "X", "value": "1"}], "args": ["1"]}]));
    let patch = containers(json!([{"name": "a", "env": [{"name": "Y", "value": "2"}], "args": ["2"]}]));
    let wanted =
        json!([{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}], "args": ["2"]}]);
    assert_eq!(patched(object, patch), containers(wanted));
}

#[test]
fn null_removes_a_field_and_leaves_nothing_where_there_was_none() {
    let object = json!({"spec": {"hostNetwork": true, "nodeSelector": {"a": "1"}}});
    let patch = json!({"spec": {"hostNetwork": null, "hostPID": null, "nodeSelector": {"a": null, "b": "2"},
        "dnsConfig": {"options": null, "searches": ["x"]}}});
    assert_eq!(patched(object, patch), json!({"spec": {"nodeSelector": {"b": "2"}, "dnsConfig": {"searches": ["x"]}}}));
}

#[test]
fn an_item_is_deleted_by_its_key() {
    let object = containers(json!([{"name": "a"}, {"name": "b"}]));
    let patch = containers(json!([{"name": "a", "$patch": "delete"}, {"name": "none", "$patch": "delete"}]));
    assert_eq!(patched(object, patch), containers(json!([{"name": "b"}])));
}

#[test]
fn a_list_and_an_object_are_replaced_when_the_patch_says_so() {
    let object = json!({"spec": {"containers": [{"name": "a"}], "nodeSelector": {"a": "1"}}});
    let patch = json!({"spec": {"containers": [{"name": "b"}, {"$patch": "replace"}],
        "nodeSelector": {"b": "2", "$patch": "replace"}}});
    let wanted = json!({"spec": {"containers": [{"name": "b"}], "nodeSelector": {"b": "2"}}});
    assert_eq!(patched(object.clone(), patch), wanted);
    let emptied = json!({"spec": {"nodeSelector": {"$patch": "delete"}}});
    assert_eq!(patched(object, emptied)["spec"]["nodeSelector"], json!({}));
}

#[test]
fn an_undo_replaces_the_whole_template() {
    let daemonset = schema::kind("apps", "DaemonSet").unwrap();
    let object = json!({"spec": {"minReadySeconds": 5, "template": {"metadata": {"labels": {"new": "1"}},
        "spec": {"containers": [{"name": "new"}]}}}});
    let data = json!({"spec": {"template": {"$patch": "replace", "metadata": {"labels": {"old": "1"}},
        "spec": {"containers": [{"name": "old"}]}}}});
    let undone = strategic(&object, &data, daemonset).unwrap();
    let wanted = json!({"spec": {"minReadySeconds": 5, "template": {"metadata": {"labels": {"old": "1"}},
        "spec": {"containers": [{"name": "old"}]}}}});
    assert_eq!(undone, wanted);
}

#[test]
fn retain_keys_removes_what_it_does_not_name() {
    let volumes = |list: Value| json!({"spec": {"volumes": list}});
    let object = volumes(json!([{"name": "v", "emptyDir": {}}]));
    let patch = volumes(json!([{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]));
    assert_eq!(patched(object.clone(), patch), volumes(json!([{"name": "v", "hostPath": {"path": "/x"}}])));
    let unnamed = volumes(json!([{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/x"}}]));
    assert_eq!(refusal(object, unnamed), "spec.volumes[0].$retainKeys: does not name hostPath, which the patch sets");
}

#[test]
fn scalars_are_added_once_and_removed_by_value() {
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    let object = finalizers(json!(["a", "b"]));
    assert_eq!(patched(object.clone(), finalizers(json!(["b", "c"]))), finalizers(json!(["a", "b", "c"])));
    let removed = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "none"]}});
    assert_eq!(patched(object, removed), finalizers(json!(["b"])));
}

#[test]
fn the_order_that_is_asked_for_is_kept_and_others_keep_their_places() {
    let object = containers(json!([{"name": "x"}, {"name": "a"}, {"name": "y"}, {"name": "b"}, {"name": "z"}]));
    let ordered = |order: &[&str]| {
        let order: Vec<Value> = order.iter().map(|n| json!({"name": n})).collect();
        patched(object.clone(), json!({"spec": {"$setElementOrder/containers": order, "containers": [{"name": "n"}]}}))
    };
    assert_eq!(names(&ordered(&["a", "n", "b"])), ["x", "a", "y", "z", "n", "b"]);
    assert_eq!(names(&ordered(&["b", "a", "n"])), ["x", "y", "b", "a", "z", "n"]);
    let none = patched(object, json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}));
    assert_eq!(names(&none), ["x", "y", "b", "a", "z"]);
}

#[test]
fn an_order_that_contradicts_the_patch_is_refused() {
    let object = containers(json!([]));
    let order = |order: Value| json!({"spec": {"$setElementOrder/containers": order, "containers": [{"name": "a"}, {"name": "b"}]}});
    assert!(refusal(object.clone(), order(json!([{"name": "a"}]))).contains("does not name every item"));
    assert!(refusal(object, order(json!([{"name": "b"}, {"name": "a"}]))).contains("in another order"));
}

#[test]
fn what_has_no_meaning_is_refused_by_its_path() {
    let object = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
    let cases = [
        (json!([]), "patch: a strategic merge patch is a JSON object"),
        (containers(json!([{"image": "x"}])), "spec.containers[0]: the item has no name, by which it would be found"),
        (containers(json!(["x"])), "spec.containers[0]: an item of this list is an object"),
        (json!({"spec": {"$patch": "burn"}}), "spec: $patch must be replace, delete or merge, not burn"),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}),
            "metadata.$deleteFromPrimitiveList/finalizers: must be a list of the values to be removed",
        ),
    ];
    for (patch, reason) in cases {
        assert_eq!(refusal(object.clone(), patch), reason);
    }
}

#[test]
fn directives_never_get_into_an_object() {
    let patch = json!({"spec": {
        "$retainKeys": ["containers", "volumes", "affinity"],
        "containers": [{"name": "a"}],
        "$setElementOrder/containers": [{"name": "a"}],
        "volumes": [{"name": "v", "$retainKeys": ["name"]}, {"name": "w", "$patch": "delete"}],
        "affinity": {"nodeAffinity": {"$patch": "replace", "x": [{"$patch": "replace"}, {"y": 1}]}},
    }});
    let wanted = json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v"}],
        "affinity": {"nodeAffinity": {"x": [{"y": 1}]}}}});
    assert_eq!(patched(json!({}), patch.clone()), wanted);
    assert_eq!(patched(json!({"spec": {}}), patch), wanted);
}

/// JSON without nulls and directives, as objects in the store are.
fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![(0..3_i32).prop_map(Value::from), "[ab]".prop_map(Value::from), Just(json!(true))];
    scalar.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Objects of scalars and objects.
fn objects() -> impl Strategy<Value = Value> {
    let object = |inner| prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| json!(m));
    let scalar = (0..3_i32).prop_map(Value::from).boxed();
    object(
        prop_oneof![scalar.clone(), object(prop_oneof![scalar.clone(), object(scalar).boxed()].boxed()).boxed()]
            .boxed(),
    )
}

/// A pod whose lists have unique keys.
fn pod() -> impl Strategy<Value = Value> {
    let map = || prop::collection::btree_map("[a-c]", "[xy]", 0..3);
    let container = (map(), prop::collection::vec("[xy]", 0..3)).prop_map(|(env, args)| (env, args));
    let containers = prop::collection::btree_map("[a-d]", container, 0..4);
    (containers, map(), prop::collection::btree_set("[a-d]", 0..4)).prop_map(|(containers, labels, finalizers)| {
        let list: Vec<Value> = containers
            .into_iter()
            .map(|(name, (env, args))| {
                let env: Vec<Value> = env.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
                json!({"name": name, "env": env, "args": args})
            })
            .collect();
        json!({"metadata": {"labels": labels, "finalizers": finalizers}, "spec": {"containers": list}})
    })
}

proptest! {
    #[test]
    fn merge_patch_is_the_rfcs_own_definition(object in value(), patch in value()) {
        fn rfc(target: Option<&Value>, patch: &Value) -> Value {
            let Value::Object(patch) = patch else { return patch.clone() };
            let mut target = target.and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(name);
                } else {
                    let merged = rfc(target.get(name), value);
                    target.insert(name.clone(), merged);
                }
            }
            Value::Object(target)
        }
        prop_assert_eq!(merge(&object, &patch), rfc(Some(&object), &patch));
    }

    #[test]
    fn a_strategic_patch_changes_nothing_the_second_time(object in pod(), patch in pod()) {
        let once = patched(object, patch.clone());
        prop_assert_eq!(patched(once.clone(), patch), once);
    }

    #[test]
    fn what_a_strategic_patch_says_is_so_afterwards(object in pod(), patch in pod()) {
        let after = patched(object.clone(), patch.clone());
        for (label, value) in patch["metadata"]["labels"].as_object().unwrap() {
            prop_assert_eq!(&after["metadata"]["labels"][label], value);
        }
        for container in patch["spec"]["containers"].as_array().unwrap() {
            let found = after["spec"]["containers"].as_array().unwrap().iter().find(|c| c["name"] == container["name"]);
            prop_assert_eq!(&found.unwrap()["args"], &container["args"]);
        }
        let mut all = names(&object);
        all.extend(names(&patch).into_iter().filter(|n| !names(&object).contains(n)));
        let mut have = names(&after);
        let in_patch: Vec<&str> = have.iter().filter(|n| names(&patch).contains(n)).copied().collect();
        prop_assert_eq!(in_patch, names(&patch), "they stand as the patch has them");
        have.sort_unstable();
        all.sort_unstable();
        prop_assert_eq!(have, all);
    }

    #[test]
    fn without_rows_and_lists_a_strategic_patch_is_a_merge_patch(object in objects(), patch in objects()) {
        prop_assert_eq!(strategic(&object, &patch, &schema::PLAIN).unwrap(), merge(&object, &patch));
    }
}
