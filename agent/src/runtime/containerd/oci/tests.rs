//! What a container gets, as values.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pod::desired::{Origin, Source};
use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::record::{Lifecycle, Record};
use pod::spec::{
    Container, ContainerResource, EnvValue, EnvVar, Placement, PodField, PodSpec, PodTemplate, Propagation, PullPolicy,
    Quantity, RecursiveReadOnly, Resources, RestartPolicy, SeLinux, Security, VolumeMount,
};
use serde_json::{Value, json};

use super::*;
use crate::runtime::containerd::image_facts::ImageConfig;
use crate::seams::{OwnUsers, Sandbox};

/// Everything that a spec is made of, to be changed by a test.
struct Case {
    record: Record,
    template: PodTemplate,
    sandbox: Sandbox,
    image: ImageFacts,
    host: Host,
    apparmor: AppArmor,
    host_devices: Vec<HostDevice>,
    volume_devices: BTreeMap<String, HostDevice>,
    image_volumes: BTreeMap<PathBuf, PathBuf>,
    sub_paths: BTreeMap<usize, SubPath>,
    recursive_read_only: Result<(), String>,
    seccomp_profile: Vec<u8>,
    selinux: selinux::Node,
    huge_pages: huge_pages::Node,
    memory: MemoryPolicy,
}

fn case() -> Case {
    let uid = Uid("5f0c".into());
    let container = Container {
        name: "main".into(),
        image: "busybox".into(),
        pull_policy: PullPolicy::IfNotPresent,
        command: vec![],
        args: vec![],
        working_dir: None,
        env: vec![],
        env_from: vec![],
        resources: Resources::default(),
        resize_policy: Default::default(),
        mounts: vec![],
        security: Security::default(),
        ports: vec![],
        stdin: false,
        tty: false,
        role: Default::default(),
        probes: Default::default(),
        hooks: Default::default(),
        last_words: Default::default(),
    };
    Case {
        record: Record {
            uid,
            workload: WorkloadKey { namespace: "default".into(), kind: WorkloadKind::DaemonSet, name: "a".into() },
            name: "a-x7f2k".into(),
            revision: "6d4f".into(),
            origin: Origin { source: Source::Static, file: "a.yaml".into(), line: 1 },
            document: Value::Null.into(),
            admitted_at: jiff::Timestamp::UNIX_EPOCH,
            generation: 1,
            boot_id: String::new(),
            lifecycle: Lifecycle::Running,
            containers: BTreeMap::new(),
            course: Default::default(),
        },
        template: PodTemplate {
            labels: BTreeMap::from([("app".into(), "a".into())]),
            annotations: BTreeMap::new(),
            spec: PodSpec {
                containers: vec![container],
                volumes: vec![],
                restart_policy: RestartPolicy::Always,
                termination_grace: Duration::from_secs(30),
                active_deadline: None,
                host_network: false,
                host_pid: false,
                host_ipc: false,
                own_users: false,
                share_processes: false,
                sysctls: Default::default(),
                priority: 0,
                priority_class: None,
                runtime_class: None,
                placement: Placement::default(),
                naming: Default::default(),
                image_pull_secrets: Vec::new(),
                resources: None,
            },
        },
        sandbox: Sandbox {
            namespaces: BTreeMap::from([
                ("network".into(), "/run/n/net".into()),
                ("ipc".into(), "/run/n/ipc".into()),
                ("uts".into(), "/run/n/uts".into()),
            ]),
            files: BTreeMap::from([
                ("/etc/hosts".into(), "/pods/hosts".into()),
                ("/dev/shm".into(), "/pods/shm".into()),
            ]),
            hostname: "a-x7f2k".into(),
            host_ips: vec!["198.18.0.1".parse().expect("an address")],
            pod_ips: vec!["198.18.0.9".parse().expect("an address")],
            users: None,
            ..Sandbox::default()
        },
        image: ImageFacts {
            name: "docker.io/library/busybox:latest".into(),
            digest: "sha256:ab".into(),
            chain_id: "sha256:cd".into(),
            config: ImageConfig {
                env: vec!["PATH=/bin".into(), "A=image".into()],
                entrypoint: vec!["/entry".into()],
                cmd: vec!["cmd".into()],
                ..ImageConfig::default()
            },
        },
        host: Host {
            capabilities: CapSet::ALL,
            kernel_capabilities: CapSet::ALL,
            storage: 50 << 30,
            nofile_hard: u64::MAX,
            oom_score_adj_min: -1000,
            cgroup_v2: false,
            swap_limits: true,
            thermal: vec![],
            architecture: "x86_64",
            kernel: (6, 1),
            cpus: 4,
            memory: 1000 << 20,
        },
        apparmor: AppArmor::Off,
        host_devices: vec![],
        volume_devices: BTreeMap::new(),
        image_volumes: BTreeMap::new(),
        sub_paths: BTreeMap::new(),
        recursive_read_only: Ok(()),
        seccomp_profile: vec![],
        selinux: selinux::Node::Off,
        huge_pages: Default::default(),
        memory: Default::default(),
    }
}

impl Case {
    fn main(&mut self) -> &mut Container {
        &mut self.template.spec.containers[0]
    }

    fn mount(&mut self, volume: &str, place: &str, read_only: bool) {
        self.sandbox.volumes.insert(volume.into(), format!("/host/{volume}").into());
        self.main().mounts.push(VolumeMount {
            volume: volume.into(),
            mount_path: place.into(),
            read_only,
            ..VolumeMount::default()
        });
    }

    fn try_spec(&self) -> Result<(Spec, Vec<Adapted>), SpecError> {
        let run = CreateRun {
            run: RunKey { uid: self.record.uid.clone(), container: "main".into(), attempt: 0 },
            workload: &self.record.workload,
            record: &self.record,
            template: &self.template,
            container: &self.template.spec.containers[0],
            sandbox: &self.sandbox,
            stdout: "/o".into(),
            stderr: "/e".into(),
            not_refreshed: "",
        };
        spec(&Inputs {
            run: &run,
            image: &self.image,
            accounts: &Accounts::default(),
            host: &self.host,
            apparmor: &self.apparmor,
            host_devices: &self.host_devices,
            volume_devices: &self.volume_devices,
            image_volumes: &self.image_volumes,
            sub_paths: &self.sub_paths,
            recursive_read_only: &self.recursive_read_only,
            node_name: "node-1",
            seccomp_default: true,
            memory: self.memory,
            seccomp_abi: seccomp::Abi::Native,
            seccomp_profile: &self.seccomp_profile,
            selinux: &self.selinux,
            huge_pages: &self.huge_pages,
            shim_group: "5f0c-runc-1.6",
        })
    }

    /// As runc reads it.
    fn json(&self) -> Value {
        let (spec, _) = self.try_spec().expect("a spec");
        serde_json::to_value(spec).expect("serializes")
    }

    fn adapted(&self) -> Vec<String> {
        let (_, adapted) = self.try_spec().expect("a spec");
        adapted.iter().map(|it| it.what.clone()).collect()
    }
}

/// Destinations in order.
fn places(json: &Value) -> Vec<&str> {
    json["mounts"].as_array().expect("a list").iter().filter_map(|it| it["destination"].as_str()).collect()
}

fn mount_at<'a>(json: &'a Value, place: &str) -> &'a Value {
    let all = json["mounts"].as_array().expect("a list");
    all.iter().find(|it| it["destination"] == place).unwrap_or_else(|| panic!("nothing at {place}"))
}

#[test]
fn what_the_library_presets_is_gone() {
    let json = case().json();
    for absent in ["hostname", "domainname", "hooks", "windows", "vm"] {
        assert_eq!(json.get(absent), None, "{absent}");
    }
    assert_eq!(json["linux"].get("sysctl"), None);
    assert_eq!(json["linux"].get("devices"), None);
    assert_eq!(json["process"]["noNewPrivileges"], false);
    assert_eq!(json["root"], json!({"path": "rootfs", "readonly": false}));
    assert_eq!(json["annotations"], json!({"io.containerd.runc.v2.group": "5f0c-runc-1.6"}));
}

#[test]
fn namespaces_are_joined_own_or_the_hosts() {
    let kinds = |json: &Value| {
        let all = json["linux"]["namespaces"].as_array().expect("a list").clone();
        all.iter().map(|it| format!("{} {}", it["type"], it["path"])).collect::<Vec<_>>().join(", ").replace('"', "")
    };
    let mut it = case();
    assert_eq!(kinds(&it.json()), "mount null, pid null, ipc /run/n/ipc, network /run/n/net, uts /run/n/uts");
    it.template.spec.host_pid = true;
    it.sandbox.namespaces.clear();
    it.host.cgroup_v2 = true;
    assert_eq!(kinds(&it.json()), "mount null, cgroup null");
    it.main().security.privileged = true;
    assert_eq!(kinds(&it.json()), "mount null");
}

#[test]
fn confinement_is_there_unless_privileged() {
    let mut it = case();
    let json = it.json();
    assert_eq!(json["linux"]["maskedPaths"].as_array().map(Vec::len), Some(MASKED_PATHS.len()));
    assert_eq!(json["linux"]["readonlyPaths"].as_array().map(Vec::len), Some(READONLY_PATHS.len()));
    assert_eq!(json["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(json["linux"]["resources"]["devices"][0]["allow"], false);
    assert!(mount_at(&json, "/sys")["options"].as_array().expect("a list").contains(&json!("ro")));

    it.main().security.privileged = true;
    let null = HostDevice { path: "/dev/x".into(), block: true, major: 7, minor: 1, mode: 0o660, uid: 0, gid: 6 };
    it.host_devices = vec![null];
    let json = it.json();
    for absent in ["maskedPaths", "readonlyPaths", "seccomp"] {
        assert_eq!(json["linux"].get(absent), None, "{absent}");
    }
    assert_eq!(json["linux"]["resources"]["devices"][0]["allow"], true);
    assert_eq!(json["linux"]["resources"]["devices"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        json["linux"]["devices"],
        json!([{"path": "/dev/x", "type": "b", "major": 7, "minor": 1, "fileMode": 0o660, "uid": 0, "gid": 6}])
    );
    assert!(mount_at(&json, "/sys/fs/cgroup")["options"].as_array().expect("a list").contains(&json!("rw")));
    assert_eq!(json["process"]["capabilities"]["effective"].as_array().map(Vec::len), Some(41));
}

#[test]
fn what_the_machine_cannot_give_is_left_out_and_said() {
    let mut it = case();
    it.main().security.privileged = true;
    it.main().resources.memory_limit = Some(1 << 20);
    it.template.spec.priority_class = Some("system-node-critical".into());
    it.host.capabilities = CapSet::ALL.without(CapSet::of(&["SYS_RESOURCE"]).expect("known"));
    it.host.oom_score_adj_min = 0;
    it.host.swap_limits = false;
    it.host.nofile_hard = 20_000;
    assert_eq!(
        it.adapted(),
        [
            "capabilities SYS_RESOURCE not given",
            "20000 open files instead of 1048576",
            "oom_score_adj 0 instead of -997",
            "the memory limit does not count swap"
        ]
    );
    let json = it.json();
    assert_eq!(json["process"]["oomScoreAdj"], 0);
    assert_eq!(json["process"]["rlimits"], json!([{"type": "RLIMIT_NOFILE", "hard": 20_000, "soft": 20_000}]));
    assert_eq!(json["linux"]["resources"]["memory"], json!({"limit": 1 << 20}));
}

#[test]
fn apparmor_confines_where_the_node_has_it_and_a_named_profile_is_a_must() {
    use spec::AppArmor::{Localhost, RuntimeDefault, Unconfined};
    let on = |default: Result<&str, &str>| AppArmor::On {
        default: default.map(str::to_owned).map_err(str::to_owned),
        loaded: BTreeSet::from(["mine".to_owned()]),
    };
    let check = |asked: Option<spec::AppArmor>, privileged, node: AppArmor| {
        let mut it = case();
        it.apparmor = node;
        it.main().security.apparmor = asked;
        it.main().security.privileged = privileged;
        let (spec, adapted) = it.try_spec().map_err(|error| (error.reason(), error.to_string()))?;
        let profile = spec.process().as_ref().and_then(|it| it.apparmor_profile().clone());
        Ok((profile, adapted.iter().map(ToString::to_string).collect::<Vec<_>>()))
    };
    let confined = |name: &str| Ok((Some(name.to_owned()), vec![]));
    let unconfined = || Ok((None, vec![]));
    let without = |why: &str| Ok((None, vec![format!("no AppArmor profile: {why}")]));
    for asked in [None, Some(RuntimeDefault)] {
        assert_eq!(check(asked.clone(), false, on(Ok("d"))), confined("d"));
        assert_eq!(check(asked.clone(), true, on(Ok("d"))), unconfined());
        assert_eq!(check(asked, false, on(Err("no parser"))), without("no parser"));
    }
    assert_eq!(check(None, false, AppArmor::Off), unconfined());
    assert_eq!(check(Some(RuntimeDefault), false, AppArmor::Off), without("this node's kernel has AppArmor off"));
    assert_eq!(check(Some(Unconfined), false, on(Err("no parser"))), unconfined());
    let named = |name: &str| Some(Localhost(name.into()));
    for privileged in [false, true] {
        assert_eq!(check(named("mine"), privileged, on(Err("no parser"))), confined("mine"));
    }
    for (name, node) in [("other", on(Ok("d"))), ("mine", AppArmor::Off)] {
        let (reason, why) = check(named(name), false, node).expect_err("not there");
        assert_eq!(reason, "CreateContainerConfigError");
        assert!(why.contains(&format!("{name:?}")) && why.contains("apparmor_parser -r"), "{why}");
    }
}

#[test]
fn what_tells_the_processors_heat_is_masked_where_it_is() {
    let mut it = case();
    it.host.thermal = vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()];
    let masked = it.json()["linux"]["maskedPaths"].clone();
    let masked = masked.as_array().expect("a list");
    assert_eq!(masked.len(), MASKED_PATHS.len() + 1);
    assert_eq!(masked.last(), Some(&json!("/sys/devices/system/cpu/cpu0/thermal_throttle")));
}

#[test]
fn no_container_swaps_where_the_kernel_can_be_told_so() {
    let check = |v2: bool, accounts: bool, limit: Option<u64>| {
        let mut it = case();
        (it.host.cgroup_v2, it.host.swap_limits) = (v2, accounts);
        it.main().resources.memory_limit = limit;
        let resources = it.json()["linux"]["resources"].clone();
        (resources["memory"]["swap"].as_u64(), resources["unified"]["memory.swap.max"].as_str().map(str::to_owned))
    };
    let none = Some("0".to_owned());
    assert_eq!(check(true, true, None), (None, none.clone()));
    assert_eq!(check(true, true, Some(1 << 30)), (Some(1 << 30), none));
    assert_eq!(check(true, false, Some(1 << 30)), (None, None));
    // v1 counts memory and swap together, and only with a limit.
    assert_eq!(check(false, true, Some(1 << 30)), (Some(1 << 30), None));
    assert_eq!(check(false, true, None), (None, None));
}

#[test]
fn policy_says_who_ends_for_want_of_memory_and_who_is_slowed_down_before() {
    let mut it = case();
    it.host.cgroup_v2 = true;
    it.main().resources.memory_limit = Some(100 << 20);
    it.memory = MemoryPolicy { single_process_oom_kill: true, throttled: true };
    let unified = |it: &Case| it.json()["linux"]["resources"]["unified"].clone();
    assert_eq!(unified(&it), json!({"memory.high": "94371840", "memory.swap.max": "0"}));
    it.main().resources.memory_limit = None;
    assert_eq!(unified(&it), json!({"memory.swap.max": "0"}));
    it.host.cgroup_v2 = false;
    assert_eq!(unified(&it), Value::Null, "version 1 has neither");
}

#[test]
fn huge_pages_are_what_is_asked_for_and_none_otherwise() {
    let mut it = case();
    let limits = |it: &Case| it.json()["linux"]["resources"]["hugepageLimits"].clone();
    assert_eq!(limits(&it), Value::Null, "nothing is set aside");
    it.huge_pages = huge_pages::Node { set_aside: [(2 << 20, 64 << 20)].into(), limited: true };
    assert_eq!(limits(&it), json!([{"pageSize": "2MB", "limit": 0}]));
    it.main().resources.within =
        Some(spec::Within { huge_pages: [(2 << 20, 32 << 20)].into(), ..Default::default() }.into());
    assert_eq!(limits(&it), json!([{"pageSize": "2MB", "limit": 32 << 20}]), "its pod's");
    it.main().resources.huge_pages = [(2 << 20, 128 << 20)].into();
    let refused = it.try_spec().unwrap_err();
    assert_eq!(refused.reason(), "CreateContainerConfigError");
}

#[test]
fn resources_are_the_kubelets_numbers() {
    let mut it = case();
    assert_eq!(it.json()["linux"]["resources"]["cpu"], json!({"shares": 2}));
    assert_eq!(it.json()["process"]["oomScoreAdj"], 1000);
    it.main().resources = Resources {
        cpu_request_milli: Some(100),
        cpu_limit_milli: Some(5),
        memory_request: Some(200 << 20),
        memory_limit: Some(300 << 20),
        ..Resources::default()
    };
    it.host.cgroup_v2 = true;
    let resources = &it.json()["linux"]["resources"];
    assert_eq!(resources["cpu"], json!({"shares": 102, "quota": 1000, "period": 100_000}));
    assert_eq!(resources["memory"], json!({"limit": 300 << 20, "swap": 300 << 20}));
    assert_eq!(resources["unified"], json!({"memory.oom.group": "1", "memory.swap.max": "0"}));
    assert_eq!(it.json()["process"]["oomScoreAdj"], 800);
    it.main().resources.memory_request = Some(2);
    assert_eq!(it.json()["process"]["oomScoreAdj"], 999);
    it.main().resources.memory_request = Some(1000 << 20);
    assert_eq!(it.json()["process"]["oomScoreAdj"], 3);
    it.main().resources.memory_request = Some(300 << 20);
    it.main().resources.cpu_request_milli = Some(5);
    assert_eq!(it.json()["process"]["oomScoreAdj"], -997);
}

#[test]
fn mounts_come_shallow_before_deep_and_files_give_way_to_volumes() {
    let mut it = case();
    it.mount("deep", "/a/b/c", true);
    it.mount("shallow", "/a/", false);
    it.mount("hosts", "/etc/hosts", false);
    let json = it.json();
    let own: Vec<&str> = places(&json).split_off(6);
    assert_eq!(own, ["/a", "/dev/shm", "/etc/hosts", "/a/b/c"]);
    assert_eq!(mount_at(&json, "/etc/hosts")["source"], "/host/hosts");
    assert_eq!(mount_at(&json, "/a/b/c")["options"], json!(["rbind", "rprivate", "ro"]));
    assert_eq!(mount_at(&json, "/a")["options"], json!(["rbind", "rprivate", "rw"]));
    let mut it = case();
    assert_eq!(mount_at(&it.json(), "/etc/hosts")["options"], json!(["rbind", "rprivate", "rw"]));
    it.main().security.read_only_root = true;
    assert_eq!(mount_at(&it.json(), "/etc/hosts")["options"], json!(["rbind", "rprivate", "ro"]));
    let shm = json!(["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"]);
    assert_eq!(mount_at(&it.json(), "/dev/shm")["options"], shm);
}

#[test]
fn a_volume_on_dev_replaces_what_would_lie_there() {
    let mut it = case();
    it.mount("devices", "/dev", false);
    assert_eq!(places(&it.json()), ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/shm", "/etc/hosts"]);
}

#[test]
fn a_device_that_is_mounted_may_be_used_and_no_other() {
    let mut it = case();
    it.mount("kmsg", "/dev/kmsg", true);
    let device = HostDevice { path: "/dev/kmsg".into(), block: false, major: 1, minor: 11, mode: 0, uid: 0, gid: 0 };
    it.volume_devices.insert("kmsg".into(), device.clone());
    it.volume_devices.insert("not-mounted".into(), HostDevice { minor: 1, ..device });
    assert_eq!(
        it.json()["linux"]["resources"]["devices"],
        json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}
        ])
    );
}

#[test]
fn a_part_of_a_volume_is_mounted_from_where_it_was_bound() {
    let mut it = case();
    it.mount("a", "/whole", false);
    it.mount("a", "/part", true);
    it.sub_paths.insert(
        1,
        SubPath {
            volume: "/host/a".into(),
            path: "b".into(),
            written: "b".into(),
            bound: "/run/bound/1".into(),
            host: None,
            image: None,
        },
    );
    let json = it.json();
    assert_eq!(mount_at(&json, "/whole")["source"], "/host/a");
    assert_eq!(mount_at(&json, "/part")["source"], "/run/bound/1");
    assert_eq!(mount_at(&json, "/part")["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn mounts_cross_as_far_as_is_asked_and_the_root_lets_them() {
    let mut it = case();
    it.mount("a", "/a", false);
    assert_eq!(it.json()["linux"].get("rootfsPropagation"), None);
    it.main().mounts[0].propagation = Propagation::HostToContainer;
    assert_eq!(mount_at(&it.json(), "/a")["options"], json!(["rbind", "rslave", "rw"]));
    assert_eq!(it.json()["linux"]["rootfsPropagation"], "rslave");
    it.main().mounts[0].propagation = Propagation::Bidirectional;
    assert_eq!(mount_at(&it.json(), "/a")["options"], json!(["rbind", "rshared", "rw"]));
    assert_eq!(it.json()["linux"]["rootfsPropagation"], "rshared");
}

#[test]
fn a_mount_is_recursively_read_only_or_that_is_said() {
    use RecursiveReadOnly::{Disabled, Enabled, IfPossible};
    let mut it = case();
    it.mount("a", "/a", true);
    for (asked, option) in [(Disabled, "ro"), (IfPossible, "rro"), (Enabled, "rro")] {
        it.main().mounts[0].recursive_read_only = asked;
        assert_eq!(mount_at(&it.json(), "/a")["options"], json!(["rbind", "rprivate", option]), "{asked:?}");
    }
    it.recursive_read_only = Err("this kernel is old".into());
    let error = it.try_spec().expect_err("it must").to_string();
    assert!(error.contains("/a") && error.contains("this kernel is old"), "{error}");
    it.main().mounts[0].recursive_read_only = IfPossible;
    assert_eq!(mount_at(&it.json(), "/a")["options"], json!(["rbind", "rprivate", "ro"]));
    let (_, adapted) = it.try_spec().expect("a spec");
    assert!(adapted.iter().any(|it| it.to_string().contains("below /a") && it.why.contains("old")), "{adapted:?}");
}

#[test]
fn a_mount_of_a_volume_that_was_not_set_up_is_an_error() {
    let mut it = case();
    it.mount("data", "/data", false);
    it.sandbox.volumes.clear();
    assert_eq!(it.try_spec().err(), Some(SpecError::NoVolume("data".into())));
}

#[test]
fn command_replaces_entrypoint_and_cmd_args_only_cmd() {
    let check = |command: &[&str], args: &[&str]| {
        let mut it = case();
        it.main().command = owned(command);
        it.main().args = owned(args);
        it.json()["process"]["args"].clone()
    };
    assert_eq!(check(&[], &[]), json!(["/entry", "cmd"]));
    assert_eq!(check(&["c"], &[]), json!(["c"]));
    assert_eq!(check(&[], &["a"]), json!(["/entry", "a"]));
    assert_eq!(check(&["c"], &["a"]), json!(["c", "a"]));
    let mut it = case();
    it.image.config.entrypoint.clear();
    it.image.config.cmd.clear();
    let error = it.try_spec().expect_err("nothing to run");
    assert_eq!((error.reason(), error), ("CreateContainerError", SpecError::NoCommand));
}

#[test]
fn environment_is_the_images_then_the_containers() {
    let mut it = case();
    let var = |name: &str, value: EnvValue| EnvVar { name: name.into(), value };
    let literal = |name: &str, value: &str| var(name, EnvValue::Literal(value.into()));
    let resource =
        |resource, milli| EnvValue::Resource { container: "main".into(), resource, divisor: Quantity { milli } };
    it.main().env = vec![
        literal("A", "own"),
        literal("B", "$(A) $(PATH) $$(A)"),
        var("POD", EnvValue::Field(PodField::Name)),
        var("NODE", EnvValue::Field(PodField::NodeName)),
        var("IP", EnvValue::Field(PodField::PodIp)),
        var("HASH", EnvValue::Field(PodField::Label("controller-revision-hash".into()))),
        var("CPUS", resource(ContainerResource::LimitsCpu, 0)),
        var("MEM", resource(ContainerResource::LimitsMemory, (1 << 20) * 1000)),
        var("REQ", resource(ContainerResource::RequestsCpu, 1000)),
    ];
    it.main().resources.cpu_request_milli = Some(1);
    it.main().command = vec!["run".into(), "$(POD)".into()];
    let json = it.json();
    assert_eq!(
        json["process"]["env"],
        json!([
            "PATH=/bin",
            "HOSTNAME=a-x7f2k",
            "A=own",
            "B=own $(PATH) $(A)",
            "POD=a-x7f2k",
            "NODE=node-1",
            "IP=198.18.0.9",
            "HASH=6d4f",
            "CPUS=4",
            "MEM=1000",
            "REQ=1"
        ])
    );
    assert_eq!(json["process"]["args"], json!(["run", "a-x7f2k"]));
}

#[test]
fn working_directories_that_lead_out_are_refused() {
    let check = |dir: &str| {
        let mut it = case();
        it.image.config.working_dir = dir.into();
        it.try_spec().map(|(spec, _)| spec.process().as_ref().expect("has one").cwd().clone())
    };
    assert_eq!(check(""), Ok("/".into()));
    assert_eq!(check("/srv/app"), Ok("/srv/app".into()));
    for dir in ["/proc/self/fd/7", "/proc//1/fd/3", "relative", "/a/../..", "/./proc/self/fd/7"] {
        assert_eq!(check(dir), Err(SpecError::WorkingDir(dir.into())), "{dir}");
    }
    let mut it = case();
    it.image.config.volumes = ["/data/../../etc".to_owned()].into();
    assert_eq!(it.try_spec().err(), Some(SpecError::ImageVolume("/data/../../etc".into())));
}

#[test]
fn image_volumes_are_writable_and_lie_below_what_the_container_mounts() {
    let mut it = case();
    it.image.config.volumes = ["/proc/x".to_owned(), "//".to_owned()].into();
    assert_eq!(it.adapted(), ["the image's volume // is not made", "the image's volume /proc/x is not made"]);
    it.main().security.read_only_root = true;
    it.mount("lib", "/var/lib/x", true);
    it.image_volumes = BTreeMap::from([("/var/lib".into(), "/state/v".into())]);
    let json = it.json();
    assert_eq!(mount_at(&json, "/var/lib")["source"], "/state/v");
    assert_eq!(mount_at(&json, "/var/lib")["options"], json!(["rbind", "rprivate", "rw"]));
    let order = places(&json);
    let position = |place| order.iter().position(|it| *it == place);
    assert!(position("/var/lib") < position("/var/lib/x"), "{order:?}");
}

#[test]
fn a_place_that_the_container_mounts_itself_is_no_image_volume() {
    let mut it = case();
    it.image.config.volumes =
        ["/data/", "/data/db", "/own/inner", "/etc/hosts", "/dev/x", "/"].map(str::to_owned).into();
    it.mount("own", "/own/", false);
    let run = CreateRun {
        run: RunKey { uid: it.record.uid.clone(), container: "main".into(), attempt: 3 },
        workload: &it.record.workload,
        record: &it.record,
        template: &it.template,
        container: &it.template.spec.containers[0],
        sandbox: &it.sandbox,
        stdout: "/o".into(),
        stderr: "/e".into(),
        not_refreshed: "",
    };
    let at = |name: &str| PathBuf::from(format!("/state/pods/5f0c/volumes/image/main/3/{name}"));
    let expected = BTreeMap::from([("/data".into(), at("~data")), ("/data/db".into(), at("~data~db"))]);
    assert_eq!(image_volumes::places(Path::new("/state"), &run, &it.image), expected);
}

#[test]
fn the_security_context_reaches_the_process() {
    let mut it = case();
    it.main().security = Security {
        run_as_user: Some(7),
        supplemental_groups: vec![9],
        allow_privilege_escalation: Some(false),
        read_only_root: true,
        seccomp: Some(Seccomp::Unconfined),
        capabilities_drop: vec!["ALL".into()],
        ..Security::default()
    };
    let json = it.json();
    assert_eq!(json["process"]["user"], json!({"uid": 7, "gid": 0, "additionalGids": [0, 9]}));
    assert_eq!(json["process"]["noNewPrivileges"], true);
    assert_eq!(json["process"]["capabilities"], json!({"bounding": [], "effective": [], "permitted": []}));
    assert_eq!(json["root"]["readonly"], true);
    assert_eq!(json["linux"].get("seccomp"), None);
    it.main().security.capabilities_add = vec!["FLY".into()];
    assert_eq!(it.try_spec().err(), Some(SpecError::UnknownCapability("FLY".into())));
}

#[test]
fn a_profile_of_the_nodes_own_replaces_the_default_and_a_bad_one_makes_no_container() {
    let mut it = case();
    it.main().security.seccomp = Some(Seccomp::Localhost("mine.json".into()));
    it.seccomp_profile = br#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["clock_settime"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_TIME"]}}]}"#
        .to_vec();
    assert_eq!(it.json()["linux"]["seccomp"], json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}));
    it.main().security.capabilities_add = vec!["SYS_TIME".into()];
    assert_eq!(it.json()["linux"]["seccomp"]["syscalls"][0]["names"], json!(["clock_settime"]));
    // Never unconfined: an empty file is as bad as any other.
    for file in ["", "{}"] {
        it.seccomp_profile = file.into();
        let error = it.try_spec().expect_err("refused");
        assert_eq!(error.reason(), "CreateContainerConfigError");
        assert!(error.to_string().contains("mine.json"), "{error}");
    }
    it.main().security.privileged = true;
    assert_eq!(it.json()["linux"].get("seccomp"), None);
}

#[test]
fn selinux_labels_are_set_where_the_node_has_them_and_told_where_it_has_not() {
    let mut it = case();
    it.main().security.selinux = Some(SeLinux { level: Some("s0:c1,c2".into()), ..SeLinux::default() });
    assert_eq!(it.adapted(), ["no SELinux label"]);
    assert_eq!(it.json()["process"].get("selinuxLabel"), None);
    it.selinux = selinux::Node::On { process: "u:r:container_t:s0".into(), file: "u:object_r:file_t:s0".into() };
    let json = it.json();
    assert_eq!(json["process"]["selinuxLabel"], "u:r:container_t:s0:c1,c2");
    assert_eq!(json["linux"]["mountLabel"], "u:object_r:file_t:s0:c1,c2");
    assert_eq!(it.adapted(), Vec::<String>::new());
    it.main().security.privileged = true;
    assert_eq!(it.json()["process"].get("selinuxLabel"), None);
}

#[test]
fn cgroups_path_is_in_the_drivers_form() {
    let mut it = case();
    let id = RunKey { uid: it.record.uid.clone(), container: "main".into(), attempt: 0 }.container_id();
    it.sandbox.cgroup = crate::seams::CgroupParent::Systemd("d-pod5f0c.slice".into());
    assert_eq!(it.json()["linux"]["cgroupsPath"], format!("d-pod5f0c.slice:daemonlet:{id}"));
    it.sandbox.cgroup = crate::seams::CgroupParent::Cgroupfs("/d/pod5f0c".into());
    assert_eq!(it.json()["linux"]["cgroupsPath"], format!("/d/pod5f0c/{id}"));
}

#[test]
fn specs_are_the_same_whatever_the_order_of_their_capabilities() {
    let of = |capabilities: &[&str], args: &[&str]| {
        json!({"process": {"args": args, "capabilities": {"bounding": capabilities}}}).to_string().into_bytes()
    };
    let spec = of(&["CAP_KILL", "CAP_CHOWN"], &["a", "b"]);
    assert!(is_same(&spec, &of(&["CAP_CHOWN", "CAP_KILL"], &["a", "b"])));
    assert!(!is_same(&spec, &of(&["CAP_CHOWN", "CAP_KILL"], &["b", "a"])));
    assert!(!is_same(&spec, &of(&["CAP_CHOWN"], &["a", "b"])));
    assert!(!is_same(b"no spec", b"no spec"));
}

#[test]
fn a_pod_with_users_of_its_own_has_them_in_its_namespace_and_on_its_files() {
    let mut it = case();
    it.sandbox.users = Some(OwnUsers { first: 7 << 16 });
    it.sandbox.namespaces.insert("user".into(), "/run/n/user".into());
    it.mount("data", "/data", false);
    it.mount("device", "/dev/x", false);
    let device = HostDevice { path: "/dev/x".into(), block: false, major: 1, minor: 1, mode: 0o600, uid: 0, gid: 0 };
    it.volume_devices.insert("device".into(), device);
    let json = it.json();
    let mapping = json!([{"containerID": 0, "hostID": 7 << 16, "size": 65536}]);
    assert_eq!((&json["linux"]["uidMappings"], &json["linux"]["gidMappings"]), (&mapping, &mapping));
    let namespaces = json["linux"]["namespaces"].as_array().expect("a list");
    assert!(namespaces.contains(&json!({"type": "user", "path": "/run/n/user"})), "{namespaces:?}");
    for place in ["/data", "/etc/hosts", "/dev/shm"] {
        let mount = mount_at(&json, place);
        assert_eq!((&mount["uidMappings"], &mount["gidMappings"]), (&mapping, &mapping), "{place}");
    }
    assert_eq!(mount_at(&json, "/dev/x").get("uidMappings"), None, "the kernel maps no devices");
    assert_eq!(mount_at(&json, "/proc").get("uidMappings"), None);
    assert!(json["linux"]["maskedPaths"].is_array());
    it.main().security.unmasked_proc = true;
    let json = it.json();
    assert_eq!((json["linux"].get("maskedPaths"), json["linux"].get("readonlyPaths")), (None, None));
    assert!(json["linux"]["seccomp"].is_object(), "that alone changes");
    it.main().security.run_as_user = Some(70_000);
    assert_eq!(it.try_spec().unwrap_err(), SpecError::BeyondOwnUsers(70_000));
}
