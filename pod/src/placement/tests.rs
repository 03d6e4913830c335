use super::*;
use crate::sample;

const ALL: [WorkloadKind; 2] = [WorkloadKind::Pod, WorkloadKind::DaemonSet];

fn node(labels: &[(&str, &str)], taints: &[(&str, &str, TaintEffect)]) -> Node {
    let taint = |(key, value, effect): &(&str, &str, TaintEffect)| Taint {
        key: (*key).into(),
        value: (*value).into(),
        effect: *effect,
    };
    Node {
        name: "n1".into(),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        taints: taints.iter().map(taint).collect(),
        ..Node::default()
    }
}

fn with(change: impl FnOnce(&mut crate::spec::Placement)) -> PodTemplate {
    let mut template = sample::template(&["a"]);
    change(&mut template.spec.placement);
    template
}

fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
    Requirement { key: key.into(), operator, values: values.iter().map(|v| (*v).into()).collect() }
}

fn requires(terms: Vec<NodeSelectorTerm>) -> PodTemplate {
    with(|p| p.required_terms = Some(terms))
}

fn runs(node: &Node, template: &PodTemplate) -> bool {
    decide(node, WorkloadKind::DaemonSet, template) == Placement::Runs
}

#[test]
fn node_name_and_selector_decide_for_both_kinds() {
    for kind in ALL {
        let here = with(|p| p.node_name = Some("n1".into()));
        let there = with(|p| p.node_name = Some("n2".into()));
        let ssd = with(|p| drop(p.node_selector.insert("disk".into(), "ssd".into())));
        assert_eq!(decide(&node(&[], &[]), kind, &here), Placement::Runs);
        assert!(matches!(decide(&node(&[], &[]), kind, &there), Placement::Not { .. }));
        assert_eq!(decide(&node(&[("disk", "ssd")], &[]), kind, &ssd), Placement::Runs);
        let Placement::Not { reason } = decide(&node(&[("disk", "hdd")], &[]), kind, &ssd) else { panic!() };
        assert_eq!(reason, "nodeSelector asks for disk=ssd, the node's label is disk=hdd");
    }
}

#[test]
fn every_operator_means_what_kubernetes_means() {
    use Operator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
    let node = node(&[("zone", "a"), ("cpus", "8"), ("word", "x")], &[]);
    let cases = [
        ("zone", In, &["a", "b"][..], true),
        ("zone", In, &["b"], false),
        ("absent", In, &["b"], false),
        ("zone", NotIn, &["a"], false),
        ("zone", NotIn, &["b"], true),
        ("absent", NotIn, &["b"], true),
        ("zone", Exists, &[], true),
        ("absent", Exists, &[], false),
        ("zone", DoesNotExist, &[], false),
        ("absent", DoesNotExist, &[], true),
        ("cpus", Gt, &["7"], true),
        ("cpus", Gt, &["8"], false),
        ("cpus", Lt, &["9"], true),
        ("cpus", Lt, &["8"], false),
        ("word", Gt, &["7"], false),
        ("absent", Lt, &["7"], false),
    ];
    for (key, operator, values, expected) in cases {
        let term = NodeSelectorTerm { labels: vec![requirement(key, operator, values)], fields: vec![] };
        assert_eq!(runs(&node, &requires(vec![term])), expected, "{key} {operator:?} {values:?}");
    }
}

#[test]
fn any_term_suffices_all_requirements_of_it_must_hold_and_empty_ones_match_nothing() {
    let node = node(&[("zone", "a")], &[]);
    let label = |value: &str| requirement("zone", Operator::In, &[value]);
    let name = |value: &str| requirement("metadata.name", Operator::In, &[value]);
    let term = |labels: Vec<_>, fields: Vec<_>| NodeSelectorTerm { labels, fields };
    assert!(runs(&node, &requires(vec![term(vec![label("b")], vec![]), term(vec![label("a")], vec![])])));
    assert!(runs(&node, &requires(vec![term(vec![label("a")], vec![name("n1")])])));
    assert!(!runs(&node, &requires(vec![term(vec![label("a")], vec![name("n2")])])));
    assert!(!runs(&node, &requires(vec![term(vec![], vec![])])));
    assert!(!runs(&node, &requires(vec![])));
}

#[test]
fn no_schedule_keeps_new_pods_away_and_no_execute_ends_them() {
    let template = sample::template(&["a"]);
    let schedule = node(&[], &[("k", "v", TaintEffect::NoSchedule)]);
    let execute = node(&[], &[("k", "v", TaintEffect::NoExecute)]);
    let prefer = node(&[], &[("k", "v", TaintEffect::PreferNoSchedule)]);
    assert!(matches!(decide(&schedule, WorkloadKind::DaemonSet, &template), Placement::Stays { .. }));
    assert!(matches!(decide(&execute, WorkloadKind::DaemonSet, &template), Placement::Not { .. }));
    assert!(runs(&prefer, &template));
}

#[test]
fn taints_do_not_apply_to_static_pods() {
    let node = node(&[], &[("k", "v", TaintEffect::NoSchedule), ("k", "v", TaintEffect::NoExecute)]);
    assert_eq!(decide(&node, WorkloadKind::Pod, &sample::template(&["a"])), Placement::Runs);
}

#[test]
fn toleration_matches_by_key_value_and_effect() {
    let tainted = node(&[], &[("k", "v", TaintEffect::NoSchedule)]);
    let toleration = |key: Option<&str>, exists, value: &str, effect| {
        let toleration = Toleration { key: key.map(Into::into), exists, value: value.into(), effect };
        runs(&tainted, &with(|p| p.tolerations.push(toleration)))
    };
    assert!(toleration(Some("k"), true, "", None));
    assert!(toleration(Some("k"), false, "v", Some(TaintEffect::NoSchedule)));
    assert!(toleration(None, true, "", None));
    assert!(!toleration(Some("k"), false, "w", None));
    assert!(!toleration(Some("j"), true, "", None));
    assert!(!toleration(Some("k"), true, "", Some(TaintEffect::NoExecute)));
    assert!(!toleration(None, false, "v", None));
}

#[test]
fn daemon_pods_tolerate_the_nodes_own_troubles() {
    let mut template = sample::template(&["a"]);
    for (key, effect) in AUTOMATIC {
        let tainted = node(&[], &[(key, "", effect)]);
        template.spec.host_network = true;
        assert!(runs(&tainted, &template), "{key}");
        template.spec.host_network = false;
        assert_eq!(runs(&tainted, &template), key != NETWORK_UNAVAILABLE.0, "{key}");
    }
    let control = node(&[], &[("node-role.kubernetes.io/control-plane", "", TaintEffect::NoSchedule)]);
    assert!(!runs(&control, &template));
}
