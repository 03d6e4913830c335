use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn load(text: &str) -> Result<Config, String> {
    load_over(Settings::default(), text)
}

fn load_over(flags: Settings, text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    let prefix = format!("{}/", dir.path().display());
    Config::load(&flags, Some(&path)).map_err(|why| why.to_string().replace(&prefix, ""))
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = Config::load(&Settings::default(), None).unwrap();
    assert_eq!(config.manifest_dir, PathBuf::from("/etc/daemonlet/manifests"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:10348");
    assert_eq!(config.pod_cidrs[0].to_string(), "10.88.0.0/16");
    assert_eq!(config.max_pods, 110);
    assert_eq!(
        config.live.log_limits,
        LogLimits { max_file_size: 10 << 20, max_files: 5, budget: 1 << 30, retention: Duration::from_secs(86_400) }
    );
    assert_eq!(config.socket(), PathBuf::from("/run/daemonlet/daemonlet.sock"));
    assert!(config.seccomp_default && !config.seccomp_32_bit);
}

#[test]
fn every_key_of_the_file_is_read() {
    let config = load(
        "# a comment\nnode-name: n1\nmanifest-dir: /m\nimage-dir: /i\nstate-dir: /s\nrun-dir: /r\nlog-dir: /l\n\
         containerd: /c.sock\ncontainerd-namespace: ns\nlisten: localhost:1\nnode-label:\n  a: yes\n  b.c/d: '1'\n\
         node-taint: [x=y:NoSchedule, 'z:NoExecute']\nmax-pods: 3\ncni-bin-dir: [/p, /q]\n\
         pod-cidr: 198.18.0.0/16,fd00::/64\ncgroup-root: mine\ncluster-dns: [10.96.0.10, fd00::a]\ncluster-domain: example.org.\nlog-max-size: 1Mi\nlog-max-files: 2\nlog-budget: 2Mi\nlog-retention: 0\n\
         runtime-class:\n  crun: /usr/bin/crun\n  kata.qemu: io.containerd.kata.v2\n\
         seccomp-dir: /profiles\nseccomp-default: false\nseccomp-32-bit: true\npod-max-pids: 100\nsingle-process-oom-kill: true\nmemory-qos: true\nlogkeeper: /k\nregistry-config: /certs.d\nregistry-auth: /auth.json\n\
         image-pull-rate-limit: 1M\nimage-gc-high-threshold: 70\nimage-gc-low-threshold: 60\nimage-minimum-gc-age: 1h30m\n\
         image-maximum-gc-age: 48h\ncontrol: https://c.example.org\njoin-token-file: /t\nhealth-advertise: n1:10348\n",
    )
    .unwrap();
    assert_eq!(config.node_name.as_deref(), Some("n1"));
    assert_eq!(config.control.unwrap().to_string(), "https://c.example.org:6444");
    assert_eq!((config.join_token_file, config.health_advertise), (Some("/t".into()), Some("n1:10348".into())));
    assert_eq!(config.run_dir, PathBuf::from("/r"));
    assert_eq!(config.live.labels["a"], "yes");
    assert_eq!(config.live.taints.iter().map(taint_text).collect::<Vec<_>>(), ["x=y:NoSchedule", "z:NoExecute"]);
    assert_eq!(config.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["198.18.0.0/16", "fd00::/64"]);
    assert_eq!(
        config.live.log_limits,
        LogLimits { max_file_size: 1 << 20, max_files: 2, budget: 2 << 20, retention: Duration::ZERO }
    );
    assert_eq!(config.cni_bin_dirs, [PathBuf::from("/p"), PathBuf::from("/q")]);
    assert!(!config.seccomp_default && config.seccomp_32_bit);
    assert_eq!((config.pod_max_pids, config.single_process_oom_kill, config.memory_qos), (Some(100), true, true));
    assert_eq!(config.seccomp_dir, PathBuf::from("/profiles"));
    assert_eq!(config.runtime_classes["crun"], RuntimeClass::Program("/usr/bin/crun".into()));
    assert_eq!(config.cluster_dns.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.96.0.10", "fd00::a"]);
    assert_eq!(config.cluster_domain, "example.org");
    assert_eq!(config.registry_config, PathBuf::from("/certs.d"));
    assert_eq!(config.registry_auth, Some(PathBuf::from("/auth.json")));
    assert_eq!(config.image_pull_rate_limit, Some(1_000_000));
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let (minimum_age, maximum_age) = (hours(3) / 2, Some(hours(48)));
    assert_eq!(config.image_gc, ImageGc { high_threshold: 70, low_threshold: 60, minimum_age, maximum_age });
    assert_eq!(config.runtime_classes["kata.qemu"], RuntimeClass::Shim("io.containerd.kata.v2".into()));
}

#[test]
fn a_runtime_class_is_a_program_or_a_shim_and_a_flag_wins_over_its_name() {
    for bad in ["crun", "crun=", "=x.y", "crun=crun", "Crun=/usr/bin/crun", "a=b..c", "a=x.y/z", "a=../b.c"] {
        assert!(value::runtime_class(bad).is_err(), "{bad}");
    }
    let flags = Settings { runtime_class: vec![value::runtime_class("a=/flag").unwrap()], ..Settings::default() };
    let config = load_over(flags, "runtime-class: {a: /file, b: /file}\n").unwrap();
    assert_eq!(config.runtime_classes["a"], RuntimeClass::Program("/flag".into()));
    assert_eq!(config.runtime_classes["b"], RuntimeClass::Program("/file".into()));
    let why = load("runtime-class:\n  a: /x\n  a: /y\n").unwrap_err();
    assert!(why.starts_with("config.yaml:3: runtime-class: runtime class \"a\" is given twice"), "{why}");
    assert!(load("runtime-class: /usr/bin/crun\n").unwrap_err().contains("takes a map"));
}

#[test]
fn images_are_removed_at_the_kubelets_thresholds_which_must_make_sense() {
    let minimum_age = Duration::from_secs(120);
    let usual = ImageGc { high_threshold: 85, low_threshold: 80, minimum_age, maximum_age: None };
    assert_eq!(load("").unwrap().image_gc, usual);
    assert_eq!(load("image-maximum-gc-age: 0\n").unwrap().image_gc, usual);
    for (bad, why) in [
        ("image-gc-low-threshold: 85\n", "image-gc-low-threshold (85) must be below image-gc-high-threshold (85)"),
        ("image-gc-high-threshold: 101\n", "config.yaml:1: image-gc-high-threshold: \"101\" is not a whole number"),
        ("image-maximum-gc-age: 2m\n", "image-maximum-gc-age (120s) must be above image-minimum-gc-age (120s), or 0"),
        ("image-minimum-gc-age: 5\n", "config.yaml:1: image-minimum-gc-age: \"5\" is no duration"),
    ] {
        let said = load(bad).unwrap_err();
        assert!(said.starts_with(why), "{said}");
    }
    for bad in ["", "m", "1d", "-1s", "1.5h", "99999999999999999999s", "1000000h"] {
        assert!(value::duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_pod_has_as_many_processes_as_the_kernel_takes() {
    for (text, taken) in [("1", true), ("4194304", true), ("0", false), ("4194305", false)] {
        assert_eq!(load(&format!("pod-max-pids: {text}\n")).is_ok(), taken, "{text}");
        let flags = <Settings as clap::Args>::augment_args(clap::Command::new("daemonlet"));
        assert_eq!(flags.try_get_matches_from(["daemonlet", "--pod-max-pids", text]).is_ok(), taken, "{text}");
    }
}

#[test]
fn what_pods_may_have_is_everything_until_a_rule_says_otherwise() {
    assert_eq!(load("").unwrap().live.allow, Allow::default());
    let text = "allow-host-path: [/var/log:ro, /srv//app/]\nallow-capability: [cap_net_admin, SYS_TIME]\nallow-privileged: false\n\
                allow-host-namespace: [network, pid]\nallow-registry: [index.docker.io/library, 'registry:5000/team/']\n";
    let allow = load(text).unwrap().live.allow;
    let paths = allow.host_paths.unwrap();
    assert_eq!(paths.only.iter().map(ToString::to_string).collect::<Vec<_>>(), ["/var/log:ro", "/srv/app"]);
    assert!(
        paths.place.starts_with("the configuration file /") && paths.place.ends_with("/config.yaml"),
        "{}",
        paths.place
    );
    assert_eq!(allow.capabilities.unwrap().only, ["NET_ADMIN", "SYS_TIME"]);
    assert_eq!(allow.privileged.unwrap().only, [false]);
    assert_eq!(allow.host_namespaces.unwrap().only, [HostNamespace::Network, HostNamespace::Pid]);
    assert_eq!(allow.registries.unwrap().only, ["docker.io/library", "registry:5000/team"]);

    for none in ["[]", "none", "[none]"] {
        assert_eq!(
            load(&format!("allow-host-path: {none}\n")).unwrap().live.allow.host_paths.unwrap().only,
            [],
            "{none}"
        );
    }
    let flags = Settings { allow_registry: vec![Entry::Nothing], ..Settings::default() };
    let registries = load_over(flags, text).unwrap().live.allow.registries.unwrap();
    assert_eq!((registries.only.len(), registries.place.as_str()), (0, "the agent's flags"));
    for (bad, why) in [
        ("allow-host-path: [none, /a]\n", "allow-host-path: `none` stands alone"),
        ("allow-host-path: [a]\n", "config.yaml:1: allow-host-path: \"a\" is not an absolute path"),
        ("allow-host-path: [/a/../b]\n", "config.yaml:1: allow-host-path: \"/a/../b\" must not contain `..`"),
        (
            "allow-capability: NET_ADMINS\n",
            "config.yaml:1: allow-capability: \"NET_ADMINS\" is no capability: did you mean",
        ),
        ("allow-host-namespace: uts\n", "config.yaml:1: allow-host-namespace: \"uts\" is not one of"),
        ("allow-registry: busybox\n", "config.yaml:1: allow-registry: \"busybox\" is no registry"),
        ("allow-registry: docker.io/library/busybox:1\n", "config.yaml:1: allow-registry: "),
    ] {
        let said = load(bad).unwrap_err();
        assert!(said.starts_with(why), "{said}");
    }
}

#[test]
fn a_flag_wins_over_the_file_and_labels_are_united() {
    let flags = Settings {
        node_name: Some("flag".into()),
        node_label: vec![("a".into(), "flag".into())],
        ..Settings::default()
    };
    let config = load_over(flags, "node-name: file\nmax-pods: 7\nnode-label: {a: file, b: file}\n").unwrap();
    assert_eq!(config.node_name.as_deref(), Some("flag"));
    assert_eq!(config.max_pods, 7);
    assert_eq!(config.live.labels["a"], "flag");
    assert_eq!(config.live.labels["b"], "file");
}

#[test]
fn faults_are_named_with_file_and_line_all_at_once() {
    let why = load("node-name: N1\nfoo: 1\nlisten: nowhere\nnode-label: x\nmax-pods: 0\nmax-pods: 1\n").unwrap_err();
    let lines: Vec<_> = why.lines().collect();
    assert!(lines[0].starts_with("config.yaml:1: node-name: \"N1\" is no node name"), "{why}");
    assert!(lines[1].starts_with("config.yaml:2: foo: unknown key"), "{why}");
    assert!(lines[2].starts_with("config.yaml:3: listen: \"nowhere\""), "{why}");
    assert!(lines[3].starts_with("config.yaml:4: node-label: takes a map"), "{why}");
    assert!(lines[4].starts_with("config.yaml:5: max-pods: \"0\""), "{why}");
    assert!(lines[5].starts_with("config.yaml:6: max-pods: already given on line 5"), "{why}");
}

#[test]
fn what_is_no_map_is_refused_and_an_empty_file_is_not() {
    assert!(load("- a\n").unwrap_err().contains("config.yaml:1: the configuration is a map"));
    assert!(load("a: [\n").unwrap_err().contains("no YAML"));
    assert!(load("node-label: {a: {b: c}}\n").unwrap_err().contains("plain text"));
    assert!(load("node-name: &x n1\nmanifest-dir: *x\n").is_err());
    assert!(load("").is_ok());
    assert!(load("# only this\n").is_ok());
}

#[test]
fn values_are_checked() {
    for (check, good, bad) in [
        (value::cidrs as fn(&str) -> _, "10.0.0.0/8", "10.0.0.1/8"),
        (value::cidrs, "fd00::/64", "10.0.0.0/8,10.1.0.0/16"),
        (value::cidrs, "198.18.0.0/15", "198.18.0.0/31"),
    ] {
        assert!(check(good).is_ok(), "{good}");
        assert!(check(bad).is_err(), "{bad}");
    }
    assert_eq!(value::size("10Mi"), Ok(10 << 20));
    for bad in ["10", "1.5Gi", "-1", "99999999999Gi", "Mi", "10mb"] {
        assert!(value::size(bad).is_err(), "{bad}");
    }
    for bad in ["a", "a=b c", "=x", "a/b/c=x", "-a=x", "a=x-"] {
        assert!(value::label(bad).is_err(), "{bad}");
    }
    for bad in ["a", "a=b", "a=b:Never", ":NoSchedule"] {
        assert!(value::taint(bad).is_err(), "{bad}");
    }
    assert!(value::cgroup_root("kubepods").is_err());
    assert!(value::cgroup_root("a/b").is_err());
    assert!(value::listen("[::1]:80").is_ok());
}

#[test]
fn a_node_knows_its_hostname_os_and_architecture_by_itself() {
    let live = Live { labels: [("role".to_owned(), "edge".to_owned())].into(), ..Live::default() };
    let labels = node_labels("n1", &live);
    assert_eq!(labels["kubernetes.io/hostname"], "n1");
    assert_eq!(labels["kubernetes.io/os"], "linux");
    assert_eq!(labels["beta.kubernetes.io/arch"], labels["kubernetes.io/arch"]);
    assert_eq!(labels["role"], "edge");
}

#[tokio::test]
async fn labels_apply_live_and_other_keys_wait_for_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, "node-label: {a: '1'}\n").unwrap();
    let started = Config::load(&Settings::default(), Some(&path)).unwrap();
    let mut following = follow(started, Settings::default(), Some(path.clone()));

    let replace = |text: &str| {
        let beside = dir.path().join("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &path).unwrap();
    };
    replace("node-label: {a: '2'}\nmax-pods: 9\nlog-max-files: 3\n");
    let seen = wait(&mut following, |f| f.live.labels["a"] == "2").await;
    assert_eq!(seen.needs_restart, ["max-pods"]);
    assert_eq!(seen.live.log_limits.max_files, 3);

    replace("nonsense: 1\n");
    let seen = wait(&mut following, |f| f.fault.is_some()).await;
    assert_eq!(seen.live.labels["a"], "2", "what was in force stays");

    replace("node-label: {a: '3'}\n");
    let seen = wait(&mut following, |f| f.live.labels["a"] == "3").await;
    assert_eq!((seen.needs_restart.len(), seen.fault), (0, None));
}

async fn wait(following: &mut tokio::sync::watch::Receiver<Following>, fits: impl Fn(&Following) -> bool) -> Following {
    let wait = following.wait_for(|f| fits(f));
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time").unwrap().clone()
}

#[test]
fn control_endpoints_are_https_with_a_port_or_the_usual_one() {
    for (text, shown) in [
        ("https://c", "https://c:6444"),
        ("https://c:1/", "https://c:1"),
        ("https://[fd00::1]", "https://[fd00::1]:6444"),
        ("https://[fd00::1]:7", "https://[fd00::1]:7"),
        ("https://192.0.2.1:9", "https://192.0.2.1:9"),
    ] {
        assert_eq!(value::control(text).unwrap().to_string(), shown);
    }
    for text in [
        "",
        "c:1",
        "http://c",
        "https://",
        "https://:1",
        "https://c:0",
        "https://c:x",
        "https://c/p",
        "https://fd00::1",
    ] {
        assert!(value::control(text).is_err(), "{text}");
    }
}
