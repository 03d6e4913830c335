//! What a container gets and does not get, seen from inside on a real containerd.

mod support;

use agent::seams::Runtime as _;
use pod::spec::{AppArmor, EnvValue, EnvVar, GroupsPolicy, HostPathKind, Seccomp};
use serde_json::json;
use support::pods::{TestContainerd, TestPod};
use tests::image::{Image, Tarball};

/// Runs the script to its end; everything that it printed.
async fn said(node: &TestContainerd, script: &str, change: impl FnOnce(&mut TestPod)) -> String {
    let runtime = node.open();
    let mut pod = TestPod::new(node, "a", script);
    change(&mut pod);
    let mut run = pod.run(0, 0);
    let (_, output) = run.finish(&runtime).await;
    runtime.delete(&run.id()).await.expect("deleted");
    output
}

/// The value of a line `name value` or `name: value`.
fn field<'a>(output: &'a str, name: &str) -> &'a str {
    let line = output.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {output}")).trim_start_matches(':').trim()
}

#[tokio::test]
async fn an_unprivileged_container_is_confined() {
    let node = TestContainerd::start();
    let script = "grep -E '^(Cap|NoNew|Seccomp)' /proc/self/status; echo proc $({ echo x >/proc/sys/kernel/domainname; } 2>&1); \
                  echo keys $(cat /proc/keys | wc -c); echo firmware $(ls /sys/firmware | wc -l); \
                  echo sys $(mkdir /sys/fs/x 2>&1); echo cgroup $(mkdir /sys/fs/cgroup/memory/x 2>&1); \
                  echo cgroups $(mkdir /sys/fs/cgroup/x 2>&1); \
                  echo mount $(mount -t tmpfs none /tmp 2>&1); echo node $(mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg 2>&1); \
                  echo null $(echo x 2>&1 >/dev/null && echo ok); echo random $(head -c 4 /dev/urandom | wc -c); \
                  echo pids $(ls /proc | grep -c '^[0-9]'); echo shm $(df -h /dev | tail -n 1)";
    let out = said(&node, script, |_| {}).await;
    // The fourteen; inheritable and ambient are empty.
    assert_eq!(field(&out, "CapBnd"), "00000000a80425fb");
    assert_eq!(field(&out, "CapEff"), "00000000a80425fb");
    assert_eq!(field(&out, "CapInh"), "0000000000000000");
    assert_eq!(field(&out, "CapAmb"), "0000000000000000");
    assert_eq!(field(&out, "NoNewPrivs"), "0");
    assert_eq!(field(&out, "Seccomp"), "2");
    assert!(field(&out, "proc").contains("Read-only"), "{out}");
    assert_eq!(field(&out, "keys"), "0");
    assert_eq!(field(&out, "firmware"), "0");
    assert!(field(&out, "sys").contains("Read-only"), "{out}");
    assert!(field(&out, "cgroup").contains("Read-only"), "{out}");
    // Where runc mounts them one by one (version 1), it leaves this directory writable.
    assert!(field(&out, "cgroups").contains("Read-only"), "{out}");
    assert!(field(&out, "mount").contains("not permitted") || field(&out, "mount").contains("denied"), "{out}");
    assert!(field(&out, "node").contains("not permitted"), "{out}");
    assert_eq!(field(&out, "null"), "ok");
    assert_eq!(field(&out, "random"), "4");
    assert!(field(&out, "pids").parse::<u32>().expect("a number") < 10, "{out}");
}

/// The smallest program for 32 bits that ends with 7: `mov ebx, 7; mov eax, 1; int 0x80`.
#[cfg(target_arch = "x86_64")]
fn program_of_32_bits() -> Vec<u8> {
    const CODE: [u8; 12] = [0xbb, 7, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xcd, 0x80];
    const BASE: u32 = 0x0804_8000;
    // ELF's header (32 bits, little-endian, executable, 386) and one program header: loaded readable and executable.
    let (halves, words) = (
        |all: &[u16]| all.iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<u8>>(),
        |all: &[u32]| all.iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<u8>>(),
    );
    let size = 84 + CODE.len() as u32;
    let mut program = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    program.extend(halves(&[2, 3]));
    program.extend(words(&[1, BASE + 84, 52, 0, 0]));
    program.extend(halves(&[52, 32, 1, 0, 0, 0]));
    program.extend(words(&[1, 0, BASE, BASE, size, size, 5, 0x1000]));
    program.extend(CODE);
    program
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_program_of_32_bits_runs_only_where_the_node_allows_it() {
    use std::os::unix::fs::PermissionsExt as _;

    use agent::runtime::containerd::seccomp::Abi;

    let node = TestContainerd::start();
    let place = node.path().join("of-32-bits");
    std::fs::create_dir(&place).expect("made");
    std::fs::write(place.join("seven"), program_of_32_bits()).expect("written");
    std::fs::set_permissions(place.join("seven"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    match std::process::Command::new(place.join("seven")).status() {
        Ok(status) if status.code() == Some(7) => {}
        other => return tests::skip::skipped(&format!("this kernel does not run programs of 32 bits: {other:?}")),
    }
    for (abi, code) in [(Abi::Native, "159"), (Abi::With32Bit, "7")] {
        let runtime = node.open_with(|config| config.seccomp_abi = abi);
        let mut pod = TestPod::new(&node, "a", "/there/seven; echo code $?");
        pod.host_path("there", &place.display().to_string(), "/there");
        let mut run = pod.run(0, 0);
        let (_, output) = run.finish(&runtime).await;
        runtime.delete(&run.id()).await.expect("deleted");
        assert_eq!(field(&output, "code"), code, "{abi:?}");
    }
}

#[tokio::test]
async fn a_privileged_container_gets_the_machine() {
    let node = TestContainerd::start();
    let runtime = node.open();
    runtime.version().await.expect("connected");
    let given = runtime.host().capabilities;
    let script = "grep -E '^(Cap|NoNew|Seccomp)' /proc/self/status; mount -t tmpfs none /tmp && echo mounted yes; \
                  echo devices $(ls /dev | wc -l); mkdir /sys/fs/cgroup/memory/inner && rmdir /sys/fs/cgroup/memory/inner && echo cgroup yes; \
                  mknod /tmp/k c 1 11 && exec 3</tmp/k && echo kmsg yes";
    let out = said(&node, script, |pod| pod.main().security.privileged = true).await;
    assert_eq!(field(&out, "CapEff"), format!("{:016x}", given.0));
    assert_eq!(field(&out, "Seccomp"), "0");
    assert_eq!(field(&out, "mounted"), "yes");
    assert_eq!(field(&out, "cgroup"), "yes");
    assert_eq!(field(&out, "kmsg"), "yes");
    // Without CAP_SYS_RESOURCE in containerd the container still runs, and its label says what it lacks.
    if !given.has("SYS_RESOURCE") {
        let pod = {
            let mut pod = TestPod::new(&node, "b", "exit 0");
            pod.main().security.privileged = true;
            pod
        };
        let run = pod.run(0, 0);
        runtime.create(&run.create).await.expect("created");
        let (_, info) = node.ctr(&["containers", "info", &run.id()]);
        assert!(info.contains("daemonlet.dev/adapted") && info.contains("SYS_RESOURCE"), "{info}");
    }
}

#[tokio::test]
async fn capabilities_and_privileges_are_as_asked() {
    let node = TestContainerd::start();
    let out = said(&node, "grep -E '^(Cap|NoNew|Seccomp)' /proc/self/status; id", |pod| {
        let security = &mut pod.main().security;
        security.capabilities_add = vec!["NET_ADMIN".into()];
        security.capabilities_drop = vec!["ALL".into()];
        security.allow_privilege_escalation = Some(false);
        security.run_as_user = Some(1234);
        security.run_as_group = Some(4321);
        security.supplemental_groups = vec![77];
        security.seccomp = Some(Seccomp::Unconfined);
    })
    .await;
    assert_eq!(field(&out, "CapBnd"), "0000000000001000");
    assert_eq!(field(&out, "NoNewPrivs"), "1");
    assert_eq!(field(&out, "Seccomp"), "0");
    assert!(out.contains("uid=1234 gid=4321 groups=77"), "{out}");
}

#[tokio::test]
async fn an_apparmor_profile_that_is_not_in_the_kernel_is_a_reason_and_never_left_out() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let mut pod = TestPod::new(&node, "a", "cat /proc/self/attr/current 2>&1");
    pod.main().security.apparmor = Some(AppArmor::Localhost("nobody-loaded-this".into()));
    let error = runtime.create(&pod.run(0, 0).create).await.expect_err("refused");
    assert_eq!(error.reason, "CreateContainerConfigError");
    assert!(error.message.contains("nobody-loaded-this"), "{error}");
    assert_eq!(runtime.observe(None).await.expect("observed"), []);
    // Unset: whatever this machine has, the container runs; what the profile forbids is proved on the booted machine.
    pod.main().security.apparmor = None;
    let mut run = pod.run(0, 0);
    let (_, out) = run.finish(&runtime).await;
    runtime.delete(&run.id()).await.expect("deleted");
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    assert!(enabled.starts_with('Y') || !out.contains("daemonlet-default"), "{out}");
}

#[tokio::test]
async fn a_seccomp_profile_of_the_nodes_own_confines_and_without_it_nothing_is_made() {
    let node = TestContainerd::start();
    let profiles = node.path().join("seccomp");
    let runtime = node.open_with(|config| config.seccomp_dir.clone_from(&profiles));
    let mut pod = TestPod::new(&node, "a", "mkdir /x 2>&1; chmod 700 /tmp 2>&1; grep Seccomp: /proc/self/status");
    pod.main().security.seccomp = Some(Seccomp::Localhost("team/no-mkdir.json".into()));
    let refused = async |pod: &TestPod, reason: &str| {
        let error = runtime.create(&pod.run(0, 0).create).await.expect_err("refused");
        assert_eq!(error.reason, "CreateContainerConfigError");
        assert!(error.message.contains("team/no-mkdir.json") && error.message.contains(reason), "{error}");
        assert_eq!(runtime.observe(None).await.expect("observed"), []);
    };
    refused(&pod, "there is no such file").await;
    let file = profiles.join("team/no-mkdir.json");
    std::fs::create_dir_all(profiles.join("team")).expect("made");
    std::fs::write(&file, "{}").expect("written");
    refused(&pod, "defaultAction").await;
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                     {"name": "chmod", "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                     {"names": ["fchmodat"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}}]}"#;
    std::fs::write(&file, profile).expect("written");
    let mut run = pod.run(0, 0);
    let (_, out) = run.finish(&runtime).await;
    runtime.delete(&run.id()).await.expect("deleted");
    // ENOSPC, which nothing else would answer.
    assert!(out.contains("No space left on device") && !out.contains("chmod"), "{out}");
    assert_eq!(field(&out, "Seccomp"), "2");
}

#[tokio::test]
async fn a_read_only_root_still_has_its_volumes() {
    let node = TestContainerd::start();
    let dir = node.path().join("volume");
    std::fs::create_dir_all(&dir).expect("made");
    let out = said(
        &node,
        "touch /x 2>&1; touch /data/y && echo wrote; touch /ro/z 2>&1; touch /dev/shm/s 2>&1 && echo shm",
        |pod| {
            pod.main().security.read_only_root = true;
            pod.host_path("data", dir.to_str().expect("text"), "/data");
            pod.host_path("ro", dir.to_str().expect("text"), "/ro");
            pod.main().mounts[1].read_only = true;
        },
    )
    .await;
    assert!(out.contains("/x: Read-only"), "{out}");
    assert!(out.contains("wrote"), "{out}");
    assert!(out.contains("/ro/z: Read-only"), "{out}");
    assert!(dir.join("y").exists() && !dir.join("z").exists());
}

#[tokio::test]
async fn the_hosts_dev_is_there_and_its_neighbours_stay_denied() {
    let node = TestContainerd::start();
    let Some(device) = ["/dev/fuse", "/dev/kvm"].into_iter().find(|it| std::path::Path::new(it).exists()) else {
        panic!("this machine has no device that could be denied");
    };
    // The seeds' random-refresher: all of /dev mounted, only the random device written.
    let script = format!("echo x >/host_dev/random && echo wrote; exec 3</host_dev{} && echo leaked", &device[4..]);
    let out = said(&node, &script, |pod| pod.host_path("devices", "/dev", "/host_dev")).await;
    assert!(out.contains("wrote") && out.contains("not permitted"), "{out}");
    assert!(!out.contains("leaked"), "{out}");
    // A device that is mounted by name may be used.
    let script = "(exec 3</device) && echo opened; mknod /m b 7 0; (exec 4</m) && echo leaked";
    let out = said(&node, script, |pod| pod.host_path("device", device, "/device")).await;
    assert!(out.contains("opened") && out.contains("not permitted"), "{out}");
    assert!(!out.contains("leaked"), "{out}");
    // The same device's node somewhere else, as a container could have made it in a directory that it shares: only
    // who asks for a device gets it.
    let planted = node.path().join("planted");
    let found = nix::sys::stat::stat(device).expect("it is there");
    let mode = nix::sys::stat::Mode::S_IRUSR;
    nix::sys::stat::mknod(&planted, nix::sys::stat::SFlag::S_IFCHR, mode, found.st_rdev).expect("tests are root");
    let planted = planted.to_str().expect("text");
    let script = "(exec 3</planted) && echo opened";
    let out = said(&node, script, |pod| pod.host_path("planted", planted, "/planted")).await;
    assert!(out.contains("not permitted") && !out.contains("opened"), "{out}");
    let asked = |pod: &mut TestPod| pod.host_path_of(HostPathKind::CharDevice, "planted", planted, "/planted");
    let out = said(&node, script, asked).await;
    assert!(out.contains("opened"), "{out}");
    // Mounted over /dev itself.
    let out = said(&node, "ls /dev; echo x >/dev/null && echo wrote", |pod| pod.host_path("d", "/dev", "/dev")).await;
    assert!(out.contains("wrote"), "{out}");
}

#[tokio::test]
async fn the_images_user_is_found_by_name_and_hostile_ones_are_refused() {
    let node = TestContainerd::start();
    let accounts = |user: &str, name: &str| {
        let layer = Tarball::new()
            .file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\napp:x:100:101::/srv:/bin/sh\n")
            .file("etc/group", 0o644, b"app:x:101:\nlogs:x:55:app\n");
        Image::busybox(name).expect("busybox").layer(layer.bytes()).config("User", user.into())
    };
    node.import(&accounts("app", "docker.io/library/named:1"));
    let out = said(&node, "id", |pod| pod.main().image = "named:1".into()).await;
    assert!(out.contains("uid=100(app) gid=101(app) groups=55(logs),101(app)"), "{out}");
    let strict = |pod: &mut TestPod| {
        pod.main().image = "named:1".into();
        pod.main().security.groups_policy = GroupsPolicy::Strict;
    };
    let out = said(&node, "id", strict).await;
    assert!(out.contains("uid=100(app) gid=101(app) groups=101(app)"), "{out}");

    node.import(&accounts("4294967296", "docker.io/library/wraps:1"));
    let runtime = node.open();
    let mut pod = TestPod::new(&node, "a", "id");
    pod.main().image = "wraps:1".into();
    let error = runtime.create(&pod.run(0, 0).create).await.expect_err("wraps to root");
    assert!(error.message.contains("4294967296"), "{error}");
    // CVE-2024-21626, CVE-2022-23648: an image's own working directory and VOLUMEs.
    let hostile = [
        ("WorkingDir", json!("/proc/self/fd/7"), "/proc/self/fd/7"),
        ("WorkingDir", json!("/srv/../../proc/1/fd/3"), "/srv/../../proc/1/fd/3"),
        ("Volumes", json!({"/data/../../etc": {}}), "/data/../../etc"),
    ];
    for (index, (key, value, why)) in hostile.into_iter().enumerate() {
        let name = format!("docker.io/library/hostile:{index}");
        node.import(&Image::busybox(&name).expect("busybox").config(key, value));
        pod.main().image = name;
        let error = runtime.create(&pod.run(0, 0).create).await.expect_err("it leads out");
        assert!(error.message.contains("refused") && error.message.contains(why), "{error}");
    }
    // The same behind a link in a layer, of the image's own choice and of the pod's. The first is one that runc does not mind.
    let linked = Tarball::new().symlink("here", "/proc/self/cwd").symlink("srv", "proc/self/fd/7/../../..");
    let image = Image::busybox("docker.io/library/linked:1").expect("busybox").layer(linked.bytes());
    node.import(&image.config("WorkingDir", json!("/here")));
    pod.main().image = "linked:1".into();
    for (dir, why) in [(None, "/proc/self/cwd"), (Some("/srv/made"), "/proc/self/fd/7/../../../made")] {
        pod.main().working_dir = dir.map(str::to_owned);
        let error = runtime.create(&pod.run(0, 0).create).await.expect_err("it leads out");
        assert_eq!(error.reason, "CreateContainerConfigError");
        assert!(error.message.contains("refused") && error.message.contains(why), "{error}");
    }
    pod.main().working_dir = None;
    pod.main().image = support::pods::IMAGE.into();
    pod.main().security.run_as_non_root = true;
    let error = runtime.create(&pod.run(0, 0).create).await.expect_err("is root");
    assert_eq!(error.reason, "CreateContainerConfigError");
    assert!(error.message.contains("runAsNonRoot"), "{error}");
    assert_eq!(runtime.observe(None).await.expect("observed"), []);
    // The look into the image left no snapshot behind.
    let left: Vec<_> = node.rows(&["snapshots", "list"]).into_iter().filter(|it| it.contains("look")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn environment_and_limits_arrive() {
    let node = TestContainerd::start();
    let script = "env; pwd; ulimit -n; cat /sys/fs/cgroup/memory/memory.limit_in_bytes; cat /proc/self/oom_score_adj; echo $0 $1";
    let out = said(&node, script, |pod| {
        let literal = |name: &str, value: &str| EnvVar { name: name.into(), value: EnvValue::Literal(value.into()) };
        let main = pod.main();
        main.env = vec![literal("A", "1"), literal("B", "$(A)-$(C)"), literal("PATH", "/bin")];
        main.args = vec!["zero".into(), "$(A)".into()];
        main.working_dir = Some("/made/here".into());
        main.resources.memory_limit = Some(64 << 20);
        main.resources.memory_request = Some(64 << 20);
        main.resources.cpu_limit_milli = Some(100);
    })
    .await;
    for line in ["A=1", "B=1-$(C)", "PATH=/bin", "HOSTNAME=the-host", "/made/here", "67108864", "zero 1"] {
        assert!(out.lines().any(|it| it == line), "{line} in {out}");
    }
}

#[tokio::test]
async fn image_volumes_are_writable_filled_fresh_for_each_run_and_gone_with_it() {
    let node = TestContainerd::start();
    let first = Tarball::new()
        .file("srv/data/kept", 0o640, b"first layer")
        .file("srv/data/deleted", 0o644, b"x")
        .file("own/hidden", 0o644, b"x")
        .symlink("srv/data/link", "/etc/hostname")
        .symlink("alias", "/srv/data");
    // A later layer changes one file and deletes another: what is copied is the image, not its layers.
    let second = Tarball::new().file("srv/data/.wh.deleted", 0o644, b"").file("srv/data/more", 0o644, b"second layer");
    let volumes = serde_json::json!({"/srv/data": {}, "/alias": {}, "/nothing/there": {}, "/own": {}});
    let image = Image::busybox("docker.io/library/volumes:1").expect("busybox");
    node.import(&image.layer(first.bytes()).layer(second.bytes()).config("Volumes", volumes));
    let own = node.path().join("own");
    std::fs::create_dir_all(&own).expect("made");

    let script = "cd /srv/data; echo all $(ls); echo kept $(cat kept) $(stat -c %a kept); echo more $(cat more); \
                  echo alias $(ls /alias); echo own $(ls /own); touch new /nothing/there/new /own/mine && echo wrote; \
                  touch /x 2>&1";
    let runtime = node.open();
    let mut pod = TestPod::new(&node, "a", script);
    pod.main().image = "volumes:1".into();
    pod.main().security.read_only_root = true;
    pod.host_path("own", own.to_str().expect("text"), "/own");
    let volumes = node.path().join(format!("agent/pods/{}/volumes/image/main", pod.record.uid));
    for attempt in 0..2 {
        let mut run = pod.run(0, attempt);
        let (code, out) = run.finish(&runtime).await;
        assert_eq!(field(&out, "all"), "kept link more", "run {attempt} {code}: {out}");
        assert_eq!(field(&out, "kept"), "first layer 640");
        assert_eq!(field(&out, "more"), "second layer");
        assert_eq!(field(&out, "own"), if attempt == 0 { "" } else { "mine" });
        assert!(out.contains("wrote") && out.contains("/x: Read-only"), "{out}");
        let of_run = volumes.join(attempt.to_string());
        assert!(of_run.join("~nothing~there/new").exists() && !of_run.join("~own").exists());
        runtime.delete(&run.id()).await.expect("deleted");
        assert!(!of_run.exists());
    }
    assert!(own.join("mine").exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("read");
    assert!(!mounts.contains(volumes.to_str().expect("text")), "{mounts}");
}
