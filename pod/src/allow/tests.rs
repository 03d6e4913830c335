use super::*;
use crate::sample;
use crate::spec::{HostPathKind, PullPolicy, Volume, VolumeMount};

fn rule<T>(only: impl Into<Vec<T>>) -> Option<Rule<T>> {
    Some(Rule { only: only.into(), place: "the configuration file /c".into() })
}

fn path(path: &str, read_only: bool) -> AllowedPath {
    AllowedPath { path: path.into(), read_only }
}

/// An init container, then a main one that mounts `data`.
fn spec() -> PodSpec {
    let mut spec = sample::template(&["init", "main"]).spec;
    spec.containers[0].role = Role::Init;
    for container in &mut spec.containers {
        container.image = "busybox".into();
    }
    spec.volumes = vec![Volume {
        name: "data".into(),
        source: VolumeSource::HostPath { path: "/srv/data".into(), kind: HostPathKind::Unset },
    }];
    spec.containers[1].mounts =
        vec![VolumeMount { volume: "data".into(), mount_path: "/data".into(), ..VolumeMount::default() }];
    spec
}

fn paths(allow: &Allow, spec: &PodSpec) -> Vec<String> {
    allow.judge(spec).into_iter().map(|forbidden| forbidden.path).collect()
}

#[test]
fn without_rules_everything_is_allowed() {
    let mut spec = spec();
    spec.host_network = true;
    spec.containers[0].security.privileged = true;
    spec.containers[1].security.capabilities_add = vec!["ALL".into()];
    assert_eq!(Allow::default().judge(&spec), []);
}

#[test]
fn each_rule_names_the_field_itself_and_what_it_allows() {
    let mut spec = spec();
    (spec.host_network, spec.host_pid, spec.host_ipc) = (true, true, true);
    spec.containers[0].security.privileged = true;
    spec.containers[1].security.capabilities_add = vec!["NET_ADMIN".into(), "SYS_TIME".into()];
    let allow = Allow {
        host_paths: rule([path("/var/log", true)]),
        capabilities: rule(["NET_ADMIN".to_owned()]),
        privileged: rule([false]),
        host_namespaces: rule([HostNamespace::Pid]),
        registries: rule(["registry.example".to_owned()]),
    };
    assert_eq!(
        paths(&allow, &spec),
        [
            "hostNetwork",
            "hostIPC",
            "initContainers[0].image",
            "initContainers[0].securityContext.privileged",
            "containers[0].image",
            "containers[0].securityContext.capabilities.add[1]",
            "volumes[0].hostPath.path",
        ]
    );
    for forbidden in allow.judge(&spec) {
        let reason = forbidden.reason;
        assert!(reason.contains("allow-") && reason.contains("in the configuration file /c"), "{reason}");
    }
    let reason = &allow.judge(&spec)[6].reason;
    assert!(
        reason.starts_with("/srv/data is not allowed on this node") && reason.contains("only /var/log:ro"),
        "{reason}"
    );
}

#[test]
fn an_empty_rule_allows_nothing_and_one_of_all_everything() {
    let mut spec = spec();
    spec.containers[1].security.capabilities_add = vec!["ALL".into()];
    let none = Allow { capabilities: rule([]), host_paths: rule([]), registries: rule([]), ..Allow::default() };
    assert_eq!(none.judge(&spec).len(), 4);
    assert!(none.judge(&spec)[0].reason.contains("allows none"));
    let some = Allow { capabilities: rule(["NET_ADMIN".to_owned()]), ..Allow::default() };
    assert_eq!(some.judge(&spec).len(), 1, "all is more than one");
    let all = Allow { capabilities: rule(["ALL".to_owned()]), privileged: rule([true]), ..Allow::default() };
    assert_eq!(all.judge(&spec), []);
}

#[test]
fn paths_are_allowed_part_by_part_and_the_narrowest_entry_says_how() {
    let allow = Allow {
        host_paths: rule([path("/srv", true), path("/srv/app", false), path("/srv/app/keys", true)]),
        ..Allow::default()
    };
    for (at, expected) in [
        ("/srv", Some(false)),
        ("/srv/other", Some(false)),
        // What lies in it may only be read.
        ("/srv/app", Some(false)),
        ("/srv/app/other", Some(true)),
        ("/srv//app/./x", Some(true)),
        ("/srv/app/keys/k", Some(false)),
        ("/srv/application", Some(false)),
        ("/srvx", None),
        ("/", None),
    ] {
        assert_eq!(allow.may_write(Path::new(at)), expected, "{at}");
    }
    assert!(allow.host_path(Path::new("/srv"), Access::Read).is_ok());
    assert!(allow.host_path(Path::new("/srv"), Access::Write).unwrap_err().contains("readOnly: true"));
    let (app, made) = (Path::new("/srv/app"), Path::new("/srv/app/new"));
    assert!(allow.host_path(app, Access::Read).is_ok() && allow.host_path(app, Access::Make).is_ok());
    let why = allow.host_path(app, Access::Write).unwrap_err();
    assert!(why.contains("because /srv/app/keys in it may"), "{why}");
    assert!(allow.host_path(made, Access::Make).is_ok() && allow.host_path(made, Access::Write).is_ok());
    assert!(allow.host_path(Path::new("/srv/app/keys/new"), Access::Make).is_err());
    let everything = Allow { host_paths: rule([path("/", true)]), ..Allow::default() };
    assert_eq!(everything.may_write(Path::new("/etc")), Some(false));

    let mut reader = spec();
    reader.containers[1].mounts[0].read_only = true;
    assert_eq!(paths(&everything, &reader), [""; 0]);
    reader.volumes.push(Volume {
        name: "image".into(),
        source: VolumeSource::Image(ImageVolume { reference: "a.b/c".into(), pull_policy: PullPolicy::Never }),
    });
    let registries = Allow { registries: rule(["docker.io".to_owned()]), ..Allow::default() };
    assert_eq!(paths(&registries, &reader), ["volumes[1].image.reference"]);
    reader.containers[0].mounts = spec().containers[1].mounts.clone();
    assert_eq!(paths(&everything, &reader), ["volumes[0].hostPath.path"], "another container writes");
}

#[test]
fn registries_are_compared_with_the_name_that_is_pulled() {
    for (reference, name) in [
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1@sha256:ab", "docker.io/library/busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox"),
        ("docker.io/a/b:1", "docker.io/a/b"),
        ("a/b", "docker.io/a/b"),
        ("registry:5000/a", "registry:5000/a"),
        ("localhost/a:b", "localhost/a"),
    ] {
        assert_eq!(image_name(reference), name);
    }
    for (name, beginning, expected) in [
        ("docker.io/library/busybox", "docker.io", true),
        ("docker.io/library/busybox", "docker.io/library/", true),
        ("docker.io/library/busybox", "docker.io/library/busybox", true),
        ("docker.io/library/busybox", "docker.io/library/busy", false),
        ("docker.io.evil.example/a", "docker.io", false),
        ("registry:50001/a", "registry:5000", false),
    ] {
        assert_eq!(is_below(name, beginning), expected, "{name} {beginning}");
    }
}
