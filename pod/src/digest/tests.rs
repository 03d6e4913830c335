use super::*;
use crate::sample;

fn changed(kind: WorkloadKind, change: impl FnOnce(&mut PodTemplate)) -> bool {
    let before = sample::template(&["a"]);
    let mut after = before.clone();
    change(&mut after);
    of_template(kind, &before) != of_template(kind, &after)
}

#[test]
fn revision_is_ten_letters_of_the_alphabet_and_stays() {
    let revision = of_template(WorkloadKind::DaemonSet, &sample::template(&["a"]));
    assert_eq!(revision.len(), LETTERS);
    assert!(revision.bytes().all(|b| ALPHABET.contains(&b)), "{revision}");
    assert_eq!(revision, of_template(WorkloadKind::DaemonSet, &sample::template(&["a"])));
}

#[test]
fn spec_counts_for_both_kinds() {
    for kind in [WorkloadKind::Pod, WorkloadKind::DaemonSet] {
        assert!(changed(kind, |t| t.spec.containers[0].image.push('x')));
        assert!(changed(kind, |t| t.spec.termination_grace = Duration::from_secs(3)));
        assert!(changed(kind, |t| t.spec.containers[0].security.run_as_user = Some(0)));
        assert!(changed(kind, |t| t.spec.runtime_class = Some("crun".into())));
        assert!(changed(kind, |t| t.spec.containers[0].security.apparmor = Some(AppArmor::Unconfined)));
        assert!(changed(kind, |t| t.spec.containers[0].security.groups_policy = GroupsPolicy::Strict));
        assert!(changed(kind, |t| t.spec.containers[0].security.seccomp = Some(Seccomp::Localhost("a".into()))));
        assert!(changed(kind, |t| t.spec.containers[0].security.selinux = Some(SeLinux::default())));
        assert!(changed(kind, |t| t.spec.share_processes = true));
        assert!(changed(kind, |t| t.spec.own_users = true));
        assert!(changed(kind, |t| t.spec.containers[0].security.unmasked_proc = true));
        assert!(changed(kind, |t| t.spec.resources = Some(Box::default())));
        assert!(changed(kind, |t| t.spec.naming.hostname_override = Some("a".into())));
        assert!(changed(kind, |t| t.spec.sysctls = [("a".into(), "1".into())].into()));
        assert!(changed(kind, |t| t.spec.placement.required_terms = Some(Vec::new())));
    }
}

#[test]
fn labels_and_annotations_count_for_a_daemonset_only() {
    let restart = |t: &mut PodTemplate| {
        t.annotations.insert("kubectl.kubernetes.io/restartedAt".into(), "now".into());
    };
    let label = |t: &mut PodTemplate| {
        t.labels.insert("tier".into(), "node".into());
    };
    assert!(changed(WorkloadKind::DaemonSet, restart));
    assert!(changed(WorkloadKind::DaemonSet, label));
    assert!(!changed(WorkloadKind::Pod, restart));
    assert!(!changed(WorkloadKind::Pod, label));
}

#[test]
fn neighbouring_fields_do_not_run_into_each_other() {
    let with = |command: &[&str], args: &[&str]| {
        let mut template = sample::template(&["a"]);
        template.spec.containers[0].command = command.iter().map(|s| (*s).to_owned()).collect();
        template.spec.containers[0].args = args.iter().map(|s| (*s).to_owned()).collect();
        of_template(WorkloadKind::Pod, &template)
    };
    assert_ne!(with(&["a", "b"], &[]), with(&["a"], &["b"]));
    assert_ne!(with(&["ab"], &[]), with(&["a", "b"], &[]));
}

#[test]
fn every_change_of_a_written_template_counts_for_a_daemonset() {
    let template = sample::template(&["a"]);
    let of =
        |spec: Value| revision(WorkloadKind::DaemonSet, &template, &serde_json::json!({"spec": {"template": spec}}));
    let plain = of(serde_json::json!({"spec": {"containers": [{"name": "a"}]}}));
    let hint = of(serde_json::json!({"spec": {"containers": [{"name": "a"}], "schedulerName": "x"}}));
    let null = of(serde_json::json!({"metadata": null, "spec": {"containers": [{"name": "a"}]}}));
    let nested = of(serde_json::json!({"spec": {"containers": [{"name": "a", "schedulerName": "x"}]}}));
    assert_ne!(plain, hint);
    assert_ne!(hint, nested);
    assert_eq!(plain, null);
    assert!(plain.len() == LETTERS && plain.bytes().all(|b| ALPHABET.contains(&b)), "{plain}");
    let pod = |document: Value| revision(WorkloadKind::Pod, &template, &document);
    assert_eq!(pod(serde_json::json!({"spec": {}})), pod(serde_json::json!({"spec": {"schedulerName": "x"}})));
}
