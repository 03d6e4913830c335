use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::allow::{Allow, Rule};
use crate::content::{Content, ContentKind, Entry, Hidden};
use crate::manifest::{Document, DocumentOutcome, PriorityClass};
use crate::sample;
use crate::spec::{EnvValue, EnvVar, PodTemplate, RESTART_ON_CONFIG_CHANGE_ANNOTATION};

fn identity(key: &WorkloadKey) -> Identity {
    let kind = if key.kind == WorkloadKind::Pod { "Pod" } else { "DaemonSet" };
    Identity { kind: kind.into(), namespace: key.namespace.clone(), name: key.name.clone() }
}

fn rejection(file: &str, line: u32) -> Rejection {
    Rejection { file: file.into(), line, path: "spec".into(), reason: "is wrong".into() }
}

fn outcome(line: u32, key: Option<&WorkloadKey>, result: Result<Document, Vec<Rejection>>) -> DocumentOutcome {
    DocumentOutcome { line, identity: key.map(identity), result, no_effect: Vec::new(), ends: None }
}

fn wants(line: u32, key: &WorkloadKey) -> DocumentOutcome {
    wants_template(line, key, sample::template(&["a"]))
}

fn wants_template(line: u32, key: &WorkloadKey, template: PodTemplate) -> DocumentOutcome {
    outcome(line, Some(key), Ok(Document::Workload(Box::new(sample::desired(key, template)))))
}

fn refused(file: &str, line: u32, key: Option<&WorkloadKey>) -> DocumentOutcome {
    outcome(line, key, Err(vec![rejection(file, line)]))
}

fn file(name: &str, documents: Vec<DocumentOutcome>) -> Parsed {
    Parsed { file: name.into(), documents, whole: None }
}

fn broken(name: &str) -> Parsed {
    Parsed { file: name.into(), documents: Vec::new(), whole: Some(rejection(name, 1)) }
}

fn static_files(files: Vec<Parsed>) -> Snapshot {
    Snapshot { source: Source::Static, said: Said::Files(files), kept: BTreeMap::new() }
}

fn recorded(key: &WorkloadKey, source: Source, file: &str) -> Recorded {
    let origin = Origin { source, file: file.into(), line: 1 };
    Recorded {
        uid: Uid(key.to_string()),
        workload: key.clone(),
        name: format!("{}-xxxxx", key.name),
        origin,
        live: true,
        ports: Vec::new(),
    }
}

fn node() -> Node {
    Node { name: "n1".into(), ..Node::default() }
}

fn merged(snapshots: &[Snapshot], recorded: &[Recorded]) -> Merged {
    merge(snapshots, recorded, &node(), 110)
}

fn file_of(wanted: &Wanted) -> &str {
    match wanted {
        Wanted::Run(pod) => &pod.origin.file,
        Wanted::Hold { .. } => "held",
        Wanted::Forbidden { .. } => "forbidden",
        Wanted::End { .. } => "ends",
        Wanted::Gone => "gone",
    }
}

fn fate_in<'m>(merged: &'m Merged, file: &str) -> &'m Fate {
    &merged.outcomes.iter().find(|o| o.origin.file == file).expect("an outcome").fate
}

#[test]
fn static_beats_control_and_the_loser_learns_who_won() {
    let d = sample::daemonset("d");
    let control = Snapshot {
        source: Source::Control,
        said: Said::Files(vec![file("a", vec![wants(1, &d)])]),
        kept: BTreeMap::new(),
    };
    let merged = merged(&[control, static_files(vec![file("z", vec![wants(1, &d)])])], &[]);
    assert_eq!(file_of(&merged.set.wanted(&d)), "z");
    let winner = Origin { source: Source::Static, file: "z".into(), line: 1 };
    assert_eq!(fate_in(&merged, "a"), &Fate::Duplicate { winner });
}

#[test]
fn recorded_claim_stays_and_without_one_the_first_file_wins() {
    let d = sample::daemonset("d");
    let both = [static_files(vec![file("b", vec![wants(1, &d)]), file("a", vec![wants(1, &d)])])];
    assert_eq!(file_of(&merged(&both, &[]).set.wanted(&d)), "a");
    assert_eq!(file_of(&merged(&both, &[recorded(&d, Source::Static, "b")]).set.wanted(&d)), "b");
}

#[test]
fn refused_document_holds_its_workload_and_stops_nothing_else() {
    let (d, e) = (sample::daemonset("d"), sample::daemonset("e"));
    let files = vec![file("a", vec![refused("a", 1, Some(&d)), wants(9, &e)])];
    let merged = merged(&[static_files(files)], &[recorded(&d, Source::Static, "a")]);
    assert_eq!(merged.set.wanted(&d), Wanted::Hold { reason: "a:1: spec: is wrong".into() });
    assert_eq!(file_of(&merged.set.wanted(&e)), "a");
}

#[test]
fn bad_edit_is_not_an_invitation_for_a_duplicate() {
    let d = sample::daemonset("d");
    let files = vec![file("a", vec![refused("a", 1, Some(&d))]), file("b", vec![wants(1, &d)])];
    let snapshots = [static_files(files)];
    assert_eq!(file_of(&merged(&snapshots, &[recorded(&d, Source::Static, "a")]).set.wanted(&d)), "held");
    assert_eq!(file_of(&merged(&snapshots, &[]).set.wanted(&d)), "b");
}

#[test]
fn broken_file_holds_all_that_was_admitted_from_it() {
    let (d, e, f) = (sample::daemonset("d"), sample::daemonset("e"), sample::daemonset("f"));
    let records =
        [recorded(&d, Source::Static, "a"), recorded(&e, Source::Static, "b"), recorded(&f, Source::Static, "c")];
    let files = vec![broken("a"), file("b", vec![refused("b", 1, None)]), file("c", vec![])];
    let merged = merged(&[static_files(files)], &records);
    assert_eq!(file_of(&merged.set.wanted(&d)), "held");
    assert_eq!(file_of(&merged.set.wanted(&e)), "held");
    assert_eq!(file_of(&merged.set.wanted(&f)), "gone");
}

#[test]
fn source_that_was_not_heard_holds_everything() {
    let (d, e) = (sample::daemonset("d"), sample::daemonset("e"));
    let silent = Snapshot {
        source: Source::Static,
        said: Said::NotHeard { reason: "not mounted".into() },
        kept: BTreeMap::new(),
    };
    let control = Snapshot {
        source: Source::Control,
        said: Said::Files(vec![file("c", vec![wants(1, &d)])]),
        kept: BTreeMap::new(),
    };
    let records = [recorded(&d, Source::Static, "a"), recorded(&e, Source::Control, "c")];
    let merged = merged(&[silent, control], &records);
    assert_eq!(merged.set.wanted(&d), Wanted::Hold { reason: "not mounted".into() });
    assert_eq!(file_of(&merged.set.wanted(&e)), "held");
}

#[test]
fn a_source_that_is_silent_or_not_asked_holds_its_own_and_nothing_else() {
    let of_control = |name: &str| WorkloadKey { kind: WorkloadKind::Control, ..sample::daemonset(name) };
    let (ours, theirs) = (sample::daemonset("d"), of_control("e"));
    let records = [recorded(&ours, Source::Static, "a"), recorded(&theirs, Source::Control, "c")];
    let silent = |source| Snapshot { source, said: Said::NotHeard { reason: "silent".into() }, kept: BTreeMap::new() };
    let empty = |source| Snapshot { source, said: Said::Files(Vec::new()), kept: BTreeMap::new() };
    let (statics, control) = (Source::Static, Source::Control);
    for (snapshots, gone_ours, gone_theirs) in [
        (vec![empty(statics)], true, false),
        (vec![empty(statics), silent(control)], true, false),
        (vec![silent(statics), empty(control)], false, true),
        (vec![empty(statics), empty(control)], true, true),
    ] {
        let set = merged(&snapshots, &records).set;
        let gone = |key| set.wanted(key) == Wanted::Gone;
        assert_eq!((gone(&ours), gone(&theirs)), (gone_ours, gone_theirs), "{snapshots:?}");
    }
}

#[test]
fn workload_that_moved_to_another_file_is_the_same() {
    let d = sample::daemonset("d");
    let merged = merged(&[static_files(vec![file("b", vec![wants(1, &d)])])], &[recorded(&d, Source::Static, "a")]);
    assert_eq!(file_of(&merged.set.wanted(&d)), "b");
}

#[test]
fn daemonset_for_other_nodes_is_gone_and_a_pod_for_another_is_refused() {
    let (d, p) = (sample::daemonset("d"), sample::static_pod("p"));
    let mut elsewhere = sample::template(&["a"]);
    elsewhere.spec.placement.node_name = Some("n2".into());
    let files = vec![
        file("d", vec![wants_template(1, &d, elsewhere.clone())]),
        file("p", vec![wants_template(1, &p, elsewhere)]),
    ];
    let merged = merged(&[static_files(files)], &[recorded(&d, Source::Static, "d")]);
    assert_eq!(merged.set.wanted(&d), Wanted::Gone);
    assert!(matches!(fate_in(&merged, "d"), Fate::NotForThisNode { reason } if reason.contains("n2")));
    let Fate::Refused { rejections } = fate_in(&merged, "p") else { panic!("{:?}", merged.outcomes) };
    assert!(rejections[0].reason.starts_with("NodeAffinity"), "{rejections:?}");
}

/// The endpoint's labels count once the node has joined; until they are read nobody is sent away for want of them.
#[test]
fn a_daemonset_that_labels_not_read_yet_may_want_here_stays_as_its_records_say() {
    let d = sample::daemonset("d");
    let mut template = sample::template(&["a"]);
    template.spec.placement.node_selector.insert("rack".into(), "r1".into());
    let snapshots = [static_files(vec![file("d", vec![wants_template(1, &d, template)])])];
    for (provisional, held) in [(true, true), (false, false)] {
        let node = Node { provisional, ..node() };
        let merged = merge(&snapshots, &[recorded(&d, Source::Static, "d")], &node, 110);
        assert_eq!(matches!(merged.set.wanted(&d), Wanted::Hold { .. }), held);
        assert!(matches!(fate_in(&merged, "d"), Fate::NotForThisNode { .. }));
    }
}

#[test]
fn full_node_keeps_who_is_there_and_takes_newcomers_by_priority_then_name() {
    let keys = ["a", "b", "c", "d"].map(sample::daemonset);
    let documents = keys.iter().enumerate().map(|(i, key)| {
        let mut template = sample::template(&["a"]);
        template.spec.priority = if key.name == "c" { 100 } else { 0 };
        wants_template(u32::try_from(i).unwrap() + 1, key, template)
    });
    let snapshots = [static_files(vec![file("f", documents.collect())])];
    let merged = merge(&snapshots, &[recorded(&keys[3], Source::Static, "f")], &node(), 3);
    let files: Vec<_> = keys.iter().map(|key| file_of(&merged.set.workloads[key]).to_owned()).collect();
    assert_eq!(files, ["f", "held", "f", "f"]);
    assert!(matches!(merged.outcomes[1].fate, Fate::OutOfPods { .. }));
}

#[test]
fn static_pod_does_not_take_the_name_of_another_workloads_pod() {
    let p = sample::static_pod("d");
    let mut other = recorded(&sample::daemonset("d"), Source::Static, "a");
    other.name = "d-n1".into();
    let merged = merged(&[static_files(vec![file("p", vec![wants(1, &p)])])], &[other]);
    assert_eq!(file_of(&merged.set.wanted(&p)), "held");
    assert!(matches!(fate_in(&merged, "p"), Fate::Refused { .. }));
}

#[test]
fn documents_on_one_line_have_fates_of_their_own() {
    let (d, e) = (sample::daemonset("d"), sample::daemonset("e"));
    let snapshots = [static_files(vec![
        file("a", vec![wants(1, &d)]),
        file("list", vec![wants(1, &d), wants(1, &e), wants(1, &e)]),
    ])];
    let merged = merged(&snapshots, &[]);
    let fates: Vec<_> = merged.outcomes.iter().map(|o| matches!(o.fate, Fate::Duplicate { .. })).collect();
    assert_eq!(fates, [false, true, false, true]);
}

fn any_file() -> impl Strategy<Value = Parsed> {
    let key = || {
        (0_u8..3, any::<bool>()).prop_map(|(n, pod)| {
            let name = format!("w{n}");
            if pod { sample::static_pod(&name) } else { sample::daemonset(&name) }
        })
    };
    let document = (key(), 0_u8..6, 0_i32..3);
    (0_u8..4, prop::collection::vec(document, 0..4), any::<bool>()).prop_map(|(name, documents, whole)| {
        let name = format!("f{name}");
        let documents = documents.into_iter().enumerate().map(|(i, (key, what, priority))| {
            let line = u32::try_from(i).unwrap() + 1;
            let mut template = sample::template(&["a"]);
            template.spec.priority = priority;
            match what {
                0 => refused(&name, line, Some(&key)),
                1 => refused(&name, line, None),
                2 => {
                    template.spec.placement.node_name = Some("n2".into());
                    wants_template(line, &key, template)
                }
                _ => wants_template(line, &key, template),
            }
        });
        Parsed { documents: documents.collect(), whole: whole.then(|| rejection(&name, 99)), file: name }
    })
}

fn any_record() -> impl Strategy<Value = Recorded> {
    (0_u8..4, any::<bool>(), 0_u8..4, any::<bool>()).prop_map(|(n, control, f, live)| {
        let source = if control { Source::Control } else { Source::Static };
        let mut record = recorded(&sample::daemonset(&format!("w{n}")), source, &format!("f{f}"));
        record.live = live;
        record
    })
}

/// Files with their names once: a directory has no two of one name.
fn distinct(files: Vec<Parsed>) -> Vec<Parsed> {
    let by_name: BTreeMap<String, Parsed> = files.into_iter().map(|f| (f.file.clone(), f)).collect();
    by_name.into_values().collect()
}

proptest! {
    #[test]
    fn merge_does_not_depend_on_order(
        of_static in prop::collection::vec(any_file(), 0..5).prop_map(distinct),
        of_control in prop::option::of(prop::collection::vec(any_file(), 0..5).prop_map(distinct)),
        records in prop::collection::vec(any_record(), 0..5),
        max_pods in 0_usize..5,
        rotate in 0_usize..5,
    ) {
        let control = |files: Option<Vec<Parsed>>| Snapshot {
            source: Source::Control,
            said: files.map_or(Said::NotHeard { reason: "silent".into() }, Said::Files),
            kept: BTreeMap::new(),
        };
        let there = merge(
            &[static_files(of_static.clone()), control(of_control.clone())], &records, &node(), max_pods,
        );
        let turn = |mut files: Vec<Parsed>| { files.reverse(); let n = files.len().max(1); files.rotate_left(rotate % n); files };
        let mut turned = records.clone();
        turned.reverse();
        let back = merge(
            &[control(of_control.map(turn)), static_files(turn(of_static))], &turned, &node(), max_pods,
        );
        prop_assert_eq!(&there, &back);
        let live = |key: &&WorkloadKey| records.iter().any(|r| r.live && r.workload == **key);
        let runs = |w: &Wanted| matches!(w, Wanted::Run(_));
        let newcomers = there.set.workloads.iter().filter(|(k, w)| runs(w) && !live(k)).count();
        let kept: BTreeSet<_> = records.iter().filter(|r| r.live).map(|r| &r.workload)
            .filter(|k| there.set.wanted(k) != Wanted::Gone).collect();
        prop_assert!(newcomers == 0 || newcomers + kept.len() <= max_pods);
    }
}

fn with_ports(host_network: bool, ports: &[(u16, &str, Option<&str>)]) -> PodTemplate {
    let mut template = sample::template(&["a"]);
    template.spec.host_network = host_network;
    template.spec.containers[0].ports = ports
        .iter()
        .map(|(port, protocol, ip)| crate::spec::ContainerPort {
            name: None,
            port: *port,
            protocol: (*protocol).into(),
            host_port: Some(*port),
            host_ip: ip.map(|ip| ip.parse().unwrap()),
        })
        .collect();
    template
}

fn taking(key: &WorkloadKey, live: bool, template: &PodTemplate) -> Recorded {
    Recorded { ports: crate::ports::of_spec(&template.spec), live, ..recorded(key, Source::Static, "x.yaml") }
}

#[test]
fn a_port_of_the_node_belongs_to_one_pod_and_who_was_admitted_keeps_it() {
    let (a, b) = (sample::daemonset("a"), sample::daemonset("b"));
    let template = with_ports(false, &[(80, "TCP", None)]);
    let files = [static_files(vec![
        file("a.yaml", vec![wants_template(1, &a, template.clone())]),
        file("b.yaml", vec![wants_template(1, &b, with_ports(true, &[(80, "TCP", None)]))]),
    ])];
    let runs = |merged: &Merged, key: &WorkloadKey| matches!(merged.set.workloads[key], Wanted::Run(_));
    let fresh = merged(&files, &[]);
    assert!(runs(&fresh, &a) && !runs(&fresh, &b));
    let with_record = merged(&files, &[taking(&b, true, &template)]);
    assert!(!runs(&with_record, &a) && runs(&with_record, &b));
    let Wanted::Hold { reason } = &with_record.set.workloads[&a] else { panic!() };
    assert_eq!(
        reason,
        "spec.template.spec.containers[0].ports[0].hostPort: NodePorts: port 80/TCP of the node is taken by ds/default/b; give one of them another hostPort"
    );
    let refused = with_record.outcomes.iter().find_map(|o| match &o.fate {
        Fate::Refused { rejections } => Some(rejections[0].path.clone()),
        _ => None,
    });
    assert_eq!(refused.as_deref(), Some("spec.template.spec.containers[0].ports[0].hostPort"));
    // Another protocol, another address, an own successor: no clash.
    let other = with_ports(false, &[(80, "UDP", None), (81, "TCP", Some("127.0.0.1"))]);
    let beside = with_ports(false, &[(80, "TCP", None), (81, "TCP", Some("127.0.0.2"))]);
    let files = [static_files(vec![
        file("a.yaml", vec![wants_template(1, &a, other.clone())]),
        file("b.yaml", vec![wants_template(1, &b, beside)]),
    ])];
    let both = merged(&files, &[taking(&a, true, &other)]);
    assert!(runs(&both, &a) && runs(&both, &b));
}

#[test]
fn a_port_is_free_when_the_pod_that_had_it_is_gone_not_when_it_is_told_to_end() {
    let (a, b) = (sample::daemonset("a"), sample::daemonset("b"));
    let template = with_ports(false, &[(80, "TCP", None)]);
    let files = [static_files(vec![file("b.yaml", vec![wants_template(1, &b, template.clone())])])];
    for (records, runs) in [(vec![taking(&a, false, &template)], false), (vec![], true)] {
        let merged = merged(&files, &records);
        assert_eq!(matches!(merged.set.workloads[&b], Wanted::Run(_)), runs);
    }
    // An edit that asks for a port that another one has is not taken: what runs goes on.
    let old = with_ports(false, &[(90, "TCP", None)]);
    let merged = merged(&files, &[taking(&b, true, &old), taking(&a, true, &template)]);
    assert!(matches!(merged.set.workloads[&b], Wanted::Hold { .. }));
}

fn content_document(kind: &str, line: u32, values: &[(&str, &str)], immutable: bool) -> DocumentOutcome {
    let entry = |text: &str| Entry { value: Hidden::new(text.as_bytes().to_vec()), binary: false };
    let entries = values.iter().map(|(key, text)| ((*key).to_owned(), entry(text))).collect();
    let content = Content { entries, immutable, ..Content::default() };
    let identity = Identity { kind: kind.into(), namespace: "default".into(), name: "c".into() };
    let key = identity.content().expect("a ConfigMap or Secret");
    DocumentOutcome {
        line,
        identity: Some(identity),
        result: Ok(Document::Content { key, content: content.into() }),
        no_effect: Vec::new(),
        ends: None,
    }
}

fn map(line: u32, text: &str) -> DocumentOutcome {
    content_document("ConfigMap", line, &[("k", text)], false)
}

fn refused_map(file: &str) -> DocumentOutcome {
    DocumentOutcome { result: Err(vec![rejection(file, 1)]), ..map(1, "") }
}

fn map_key() -> ContentKey {
    ContentKey { kind: ContentKind::ConfigMap, namespace: "default".into(), name: "c".into() }
}

/// What the ConfigMap `c` says after these snapshots of one source, each with what the one before left.
fn says(history: &[Said]) -> (Option<String>, Merged) {
    let mut last = Merged::default();
    for said in history {
        let kept = last.kept.iter().map(|((_, key), kept)| (key.clone(), kept.clone())).collect();
        last = merged(&[Snapshot { source: Source::Static, said: said.clone(), kept }], &[]);
    }
    let content = last.set.contents.get(&map_key());
    let text = content.map(|c| String::from_utf8_lossy(c.entries["k"].value.reveal()).into_owned());
    (text, last)
}

fn files(files: Vec<Parsed>) -> Said {
    Said::Files(files)
}

#[test]
fn of_two_documents_of_one_name_the_first_file_counts_in_any_order_unless_the_other_counted_before() {
    let (a, b) = (file("a.yaml", vec![map(1, "a")]), file("b.yaml", vec![map(1, "b")]));
    for both in [vec![a.clone(), b.clone()], vec![b.clone(), a.clone()]] {
        let (text, merged) = says(&[files(both)]);
        assert_eq!(text.as_deref(), Some("a"));
        assert_eq!(*fate_in(&merged, "a.yaml"), Fate::Accepted);
        assert!(matches!(fate_in(&merged, "b.yaml"), Fate::Duplicate { winner } if winner.file == "a.yaml"));
    }
    let (text, merged) = says(&[files(vec![b.clone()]), files(vec![a, b])]);
    assert_eq!(text.as_deref(), Some("b"));
    assert!(matches!(fate_in(&merged, "a.yaml"), Fate::Duplicate { winner } if winner.file == "b.yaml"));
    let (text, merged) = says(&[files(vec![file("a.yaml", vec![map(1, "a"), map(1, "b")])])]);
    assert_eq!((text.as_deref(), merged.outcomes.len()), (Some("a"), 2));
}

#[test]
fn what_cannot_be_read_says_what_it_said_last_and_what_is_gone_is_gone() {
    let good = || files(vec![file("a.yaml", vec![map(1, "good")])]);
    let not_heard = Said::NotHeard { reason: "not mounted".into() };
    for (after, expected) in [
        (vec![not_heard.clone()], Some("good")),
        (vec![not_heard.clone(), not_heard.clone()], Some("good")),
        (vec![files(vec![broken("a.yaml")])], Some("good")),
        (vec![files(vec![file("a.yaml", vec![refused_map("a.yaml")])])], Some("good")),
        (vec![files(vec![file("a.yaml", vec![refused("a.yaml", 1, None)])])], Some("good")),
        (vec![files(vec![broken("a.yaml")]), files(vec![file("a.yaml", vec![map(1, "new")])])], Some("new")),
        // Another file takes over only when the first one says nothing of it.
        (
            vec![files(vec![file("a.yaml", vec![refused_map("a.yaml")]), file("b.yaml", vec![map(1, "b")])])],
            Some("good"),
        ),
        (vec![files(vec![file("a.yaml", vec![]), file("b.yaml", vec![map(1, "b")])])], Some("b")),
        (vec![files(vec![broken("b.yaml")])], None),
        (vec![files(vec![])], None),
        (vec![files(vec![]), not_heard], None),
    ] {
        let mut history = vec![good()];
        history.extend(after);
        assert_eq!(says(&history).0.as_deref(), expected, "{history:?}");
    }
    assert_eq!(says(&[files(vec![file("a.yaml", vec![refused_map("a.yaml")])])]).0, None, "there never was a good one");
}

#[test]
fn an_immutable_document_does_not_change_but_may_be_taken_away() {
    let of = |text: &str, immutable| {
        files(vec![file("a.yaml", vec![content_document("ConfigMap", 1, &[("k", text)], immutable)])])
    };
    let (text, merged) = says(&[of("a", true), of("b", true)]);
    assert_eq!(text.as_deref(), Some("a"));
    assert!(matches!(fate_in(&merged, "a.yaml"), Fate::Refused { rejections } if rejections[0].path == "immutable"));
    assert_eq!(
        says(&[of("a", true), of("a", false), of("b", false)]).0.as_deref(),
        Some("a"),
        "nor does it cease to be so"
    );
    assert_eq!(says(&[of("a", true), files(vec![]), of("b", true)]).0.as_deref(), Some("b"));
}

#[test]
fn what_the_node_does_not_allow_is_a_bad_edit_whatever_source_it_comes_from() {
    let rule = Rule { only: vec![false], place: "the configuration file /c".into() };
    let node = Node { allow: Allow { privileged: Some(rule), ..Allow::default() }, ..node() };
    for (source, kind) in [(Source::Static, WorkloadKind::Pod), (Source::Control, WorkloadKind::DaemonSet)] {
        let key = WorkloadKey { kind, ..sample::daemonset("d") };
        let mut template = sample::template(&["a"]);
        template.spec.containers[0].security.privileged = true;
        let said = Snapshot { source, ..static_files(vec![file("f", vec![wants_template(1, &key, template)])]) };
        let spec = if kind == WorkloadKind::Pod { "spec" } else { "spec.template.spec" };
        for recorded in [vec![], vec![recorded(&key, source, "f")]] {
            let merged = merge(std::slice::from_ref(&said), &recorded, &node, 110);
            let Wanted::Forbidden { reason } = merged.set.wanted(&key) else { panic!("{merged:?}") };
            let path = format!("{spec}.containers[0].securityContext.privileged");
            assert!(reason.starts_with(&format!("{path}: is not allowed")), "{reason}");
            let Fate::Refused { rejections } = fate_in(&merged, "f") else { panic!("{merged:?}") };
            assert_eq!((rejections.len(), &rejections[0].path), (1, &path));
        }
    }
}

#[test]
fn static_documents_beat_those_of_control() {
    let control = Snapshot { source: Source::Control, ..static_files(vec![file("z", vec![map(1, "control")])]) };
    let merged = merged(&[control, static_files(vec![file("s", vec![map(1, "static")])])], &[]);
    assert_eq!(merged.set.contents.get(&map_key()).expect("is there").entries["k"].value.reveal(), b"static");
    assert!(matches!(fate_in(&merged, "z"), Fate::Duplicate { winner } if winner.source == Source::Static));
    assert_eq!(merged.kept.len(), 2, "each source has its own, for the day when the other one has none");
}

/// The revision of a pod whose template uses the ConfigMap `c`, when that says `text`.
fn stamped(kind: WorkloadKind, annotated: bool, text: Option<&str>, salt: &[u8]) -> (String, DesiredPod) {
    let key = WorkloadKey { kind, ..sample::daemonset("d") };
    let mut template = sample::template(&["a"]);
    let value = EnvValue::Content { kind: ContentKind::ConfigMap, name: "c".into(), key: "k".into(), optional: true };
    template.spec.containers[0].env.push(EnvVar { name: "V".into(), value });
    if annotated {
        template.annotations.insert(RESTART_ON_CONFIG_CHANGE_ANNOTATION.into(), "true".into());
    }
    let mut documents = vec![wants_template(1, &key, template)];
    documents.extend(text.map(|text| map(2, text)));
    let mut merged = merged(&[static_files(vec![file("f", documents)])], &[]);
    stamp(&mut merged.set, salt);
    let Wanted::Run(pod) = merged.set.wanted(&key) else { panic!("it is wanted") };
    (pod.revision.clone(), *pod)
}

#[test]
fn other_values_are_another_revision_only_where_the_template_asks_for_it() {
    for kind in [WorkloadKind::Pod, WorkloadKind::DaemonSet] {
        let revision = |annotated, text| stamped(kind, annotated, text, b"salt").0;
        let all =
            [revision(true, None), revision(true, Some("")), revision(true, Some("a")), revision(true, Some("b"))];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 4, "{all:?}");
        assert_eq!(revision(true, Some("a")), all[2]);
        assert_eq!(revision(false, Some("a")), revision(false, Some("b")));
        let (revision, pod) = stamped(kind, true, Some("a"), b"pepper");
        assert_ne!(revision, all[2], "whoever knows the digest and not the salt cannot try passwords");
        // A later version that hashes again what was recorded comes to the same.
        assert_eq!(crate::digest::revision(kind, &pod.template, &pod.document.read()), revision);
    }
}

fn class(line: u32, name: &str, value: i32, global_default: bool) -> DocumentOutcome {
    let class = PriorityClass { name: name.into(), value, global_default };
    let identity = Identity { kind: "PriorityClass".into(), namespace: String::new(), name: name.into() };
    DocumentOutcome {
        line,
        identity: Some(identity),
        result: Ok(Document::PriorityClass(class)),
        no_effect: Vec::new(),
        ends: None,
    }
}

fn of_class(line: u32, key: &WorkloadKey, name: &str) -> DocumentOutcome {
    let mut template = sample::template(&["a"]);
    template.spec.priority_class = Some(name.into());
    wants_template(line, key, template)
}

fn priority(merged: &Merged, key: &WorkloadKey) -> Option<(i32, Option<String>)> {
    match &merged.set.workloads[key] {
        Wanted::Run(pod) => Some((pod.template.spec.priority, pod.template.spec.priority_class.clone())),
        Wanted::Hold { .. } | Wanted::Forbidden { .. } | Wanted::End { .. } | Wanted::Gone => None,
    }
}

#[test]
fn pod_has_the_value_of_its_class_wherever_the_class_stands_and_keeps_its_revision() {
    let d = sample::daemonset("d");
    let snapshots = [static_files(vec![
        file("a", vec![of_class(1, &d, "high")]),
        file("z", vec![class(1, "high", 7, false), class(9, "high", 8, false)]),
    ])];
    let with = merged(&snapshots, &[]);
    assert_eq!(priority(&with, &d), Some((7, Some("high".into()))));
    let winner = Origin { source: Source::Static, file: "z".into(), line: 1 };
    assert_eq!(with.outcomes[2].fate, Fate::Duplicate { winner });
    let mut template = sample::template(&["a"]);
    template.spec.priority_class = Some("high".into());
    let Wanted::Run(pod) = &with.set.workloads[&d] else { panic!("it is wanted") };
    assert_eq!(pod.revision, sample::desired(&d, template).revision);
}

#[test]
fn pod_of_an_unknown_class_is_refused_until_there_is_one_and_ends_nothing() {
    let d = sample::daemonset("d");
    let snapshots = [static_files(vec![file("a", vec![of_class(1, &d, "high")])])];
    let without = merged(&snapshots, &[recorded(&d, Source::Static, "a")]);
    assert!(matches!(without.set.wanted(&d), Wanted::Hold { .. }));
    let Fate::Refused { rejections } = fate_in(&without, "a") else { panic!("{without:?}") };
    assert_eq!(rejections[0].path, "spec.template.spec.priorityClassName");
    assert!(rejections[0].reason.starts_with("no PriorityClass with name high was found"));
}

#[test]
fn pod_without_a_class_has_that_of_the_global_default_and_well_known_names_need_none() {
    let (d, e, p) = (sample::daemonset("d"), sample::daemonset("e"), sample::static_pod("p"));
    let mut own = sample::desired(&p, sample::template(&["a"]));
    own.document = serde_json::json!({"spec": {"priority": 3}}).into();
    let own = outcome(20, Some(&p), Ok(Document::Workload(Box::new(own))));
    let classes = vec![class(1, "all", 9, true), class(2, "least", 5, true), class(3, "other", 1, false)];
    let pods = vec![wants(1, &d), of_class(9, &e, "system-node-critical"), own];
    let merged = merged(&[static_files(vec![file("c", classes), file("d", pods)])], &[]);
    assert_eq!(priority(&merged, &d), Some((5, Some("least".into()))));
    assert_eq!(priority(&merged, &e).unwrap().1.as_deref(), Some("system-node-critical"));
    assert_eq!(priority(&merged, &p), Some((0, None)), "what it says itself stays as it is read");
}

fn object(name: &str, uid: &str, ends: Option<u64>) -> Parsed {
    let ends = ends.map(std::time::Duration::from_secs);
    let key = WorkloadKey { namespace: "default".into(), kind: WorkloadKind::Control, name: name.into() };
    let mut outcome = wants(1, &key);
    let Ok(Document::Workload(pod)) = &mut outcome.result else { panic!("it is wanted") };
    pod.object =
        Some(crate::desired::Object { uid: Uid(uid.into()), ends, finished: uid == "done", owner: None }.into());
    outcome.identity = Some(Identity { kind: "Pod".into(), namespace: "default".into(), name: name.into() });
    file(&format!("pod/default/{name}"), vec![outcome])
}

fn from_control(objects: Vec<Parsed>) -> Snapshot {
    Snapshot { source: Source::Control, said: Said::Files(objects), kept: BTreeMap::new() }
}

fn control(name: &str) -> WorkloadKey {
    WorkloadKey { namespace: "default".into(), kind: WorkloadKind::Control, name: name.into() }
}

#[test]
fn pod_object_that_cannot_be_read_any_more_can_still_be_ended() {
    let read = |more: &str| {
        let object = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a","namespace":"default","uid":"u1"{more}}},"spec":{{"tomorrow":1}}}}"#
        );
        let parsed = crate::manifest::parse_object("pod/default/a", object.as_bytes(), &Default::default());
        let merged = merged(&[from_control(vec![parsed])], &[]);
        assert!(matches!(fate_in(&merged, "pod/default/a"), Fate::Refused { .. }), "{more}");
        merged.set.wanted(&control("a"))
    };
    let ends = |seconds| Wanted::End { grace: std::time::Duration::from_secs(seconds) };
    assert!(matches!(read(""), Wanted::Hold { .. }));
    let ending = r#","deletionTimestamp":"2026-01-01T00:00:00Z""#;
    assert_eq!(read(ending), ends(30));
    assert_eq!(read(&format!(r#"{ending},"deletionGracePeriodSeconds":5"#)), ends(5));
}

#[test]
fn object_that_is_being_deleted_ends_within_the_time_it_was_given() {
    let merged = merged(&[from_control(vec![object("a", "u1", Some(7)), object("b", "u2", None)])], &[]);
    let grace = std::time::Duration::from_secs(7);
    assert_eq!(merged.set.wanted(&control("a")), Wanted::End { grace });
    assert_eq!(file_of(&merged.set.wanted(&control("b"))), "pod/default/b");
}

#[test]
fn static_pod_has_its_name_before_an_object_of_the_same_name() {
    let key = sample::static_pod("web");
    let (name, other) = (format!("web-{}", node().name), "web");
    let statics = static_files(vec![file("a", vec![wants(1, &key)])]);
    let merged = merged(&[statics, from_control(vec![object(&name, "u1", None), object(other, "u2", None)])], &[]);
    let winner = Origin { source: Source::Static, file: "a".into(), line: 1 };
    assert_eq!(fate_in(&merged, &format!("pod/default/{name}")), &Fate::Duplicate { winner });
    assert_eq!(merged.set.wanted(&control(&name)), Wanted::Gone);
    assert_eq!(file_of(&merged.set.wanted(&key)), "a");
    assert_eq!(file_of(&merged.set.wanted(&control(other))), "pod/default/web", "its name is another one");
}

#[test]
fn document_that_takes_a_name_over_waits_for_it_and_is_not_refused_and_the_object_is_told_that_it_lost() {
    let key = sample::static_pod("web");
    let name = format!("web-{}", node().name);
    for (uid, ends) in [("u1", None), ("u1", Some(3)), ("done", None)] {
        let statics = static_files(vec![file("a", vec![wants(1, &key)])]);
        let held = Recorded { name: name.clone(), ..recorded(&control(&name), Source::Control, "pod/default/x") };
        let merged = merged(&[statics, from_control(vec![object(&name, uid, ends)])], &[held]);
        assert_eq!(fate_in(&merged, "a"), &Fate::Accepted, "{uid} {ends:?}");
        assert!(matches!(merged.set.wanted(&key), Wanted::Hold { reason } if reason.contains("has ended")));
        let lost = fate_in(&merged, &format!("pod/default/{name}"));
        assert!(matches!(lost, Fate::Duplicate { .. }), "{uid} {ends:?}: {lost:?}");
    }
}

#[test]
fn object_with_the_uid_of_another_pod_takes_nothing_from_it() {
    let key = sample::static_pod("web");
    let record = Recorded { uid: Uid("u1".into()), ..recorded(&key, Source::Static, "a") };
    let statics = static_files(vec![file("a", vec![wants(1, &key)])]);
    let merged = merged(&[statics, from_control(vec![object("x", "u1", None)])], &[record]);
    assert_eq!(file_of(&merged.set.wanted(&control("x"))), "held");
    assert!(matches!(fate_in(&merged, "pod/default/x"), Fate::Refused { .. }));
}

#[test]
fn object_that_has_finished_is_not_run_once_more_by_a_node_that_knows_nothing_of_it() {
    let snapshot = [from_control(vec![object("a", "done", None)])];
    assert_eq!(merged(&snapshot, &[]).set.wanted(&control("a")), Wanted::Gone);
    let record = Recorded { uid: Uid("done".into()), ..recorded(&control("a"), Source::Control, "pod/default/a") };
    assert_eq!(file_of(&merged(&snapshot, &[record]).set.wanted(&control("a"))), "pod/default/a");
}

#[test]
fn documents_that_wait_for_each_other_are_refused_by_name_and_what_runs_of_them_is_kept() {
    let keys = [sample::static_pod("a"), sample::static_pod("b"), sample::static_pod("c")];
    let after = |key: &WorkloadKey, after: &str| {
        let mut outcome = wants(1, key);
        let Ok(Document::Workload(pod)) = &mut outcome.result else { panic!("it is wanted") };
        let annotations = &mut std::sync::Arc::make_mut(&mut pod.template).annotations;
        annotations.insert(crate::spec::AFTER_ANNOTATION.into(), after.into());
        outcome
    };
    let files = [
        file("a", vec![after(&keys[0], "b")]),
        file("b", vec![after(&keys[1], "a")]),
        file("c", vec![after(&keys[2], "a")]),
    ];
    let merged = merged(&[static_files(files.to_vec())], &[]);
    for (at, way) in
        [("a", "default/a after default/b after default/a"), ("b", "default/b after default/a after default/b")]
    {
        let Fate::Refused { rejections } = fate_in(&merged, at) else { panic!("{at} is not refused") };
        assert_eq!(rejections[0].path, "metadata.annotations['daemonlet.dev/after']");
        assert!(rejections[0].reason.contains(way), "{}", rejections[0].reason);
    }
    assert_eq!(keys.each_ref().map(|key| file_of(&merged.set.wanted(key)).to_owned()), ["held", "held", "c"]);
}
