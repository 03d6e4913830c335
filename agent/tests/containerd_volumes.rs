//! How volumes reach a container on a real containerd: what crosses a mount, and what does not.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agent::allowed::Allowed;
use agent::runtime::containerd::Containerd;
use agent::seams::Runtime as _;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use pod::allow::{Allow, AllowedPath, Rule};
use pod::spec::{
    EnvValue, EnvVar, HostPathKind, ImageVolume, Propagation, PullPolicy, RecursiveReadOnly, SubPath, Volume,
    VolumeMount, VolumeSource,
};
use support::pods::{TestContainerd, TestPod, exit_code};
use tests::image::{Image, Tarball};

/// A file system in memory with a propagation of its own, gone at the end with all that is mounted in it.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf, propagation: MsFlags) -> Mounted {
        fs::create_dir_all(&path).expect("made");
        mount(Some("test"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).expect("these tests need root");
        mount(None::<&str>, &path, None::<&str>, propagation, None::<&str>).expect("set");
        Mounted(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Runs the pod, with a look at the node as soon as it stands; what it printed.
async fn said(node: &TestContainerd, pod: &TestPod, meanwhile: impl FnOnce()) -> String {
    let runtime: Containerd = node.open();
    let mut run = pod.run(0, 0);
    run.go(&runtime).await;
    meanwhile();
    exit_code(&runtime, &run.create.run).await;
    let said = run.output().to_owned();
    runtime.delete(&run.id()).await.expect("deleted");
    said
}

#[tokio::test]
async fn later_mounts_cross_as_far_as_is_asked() {
    let node = TestContainerd::start();
    let wait = "until [ -e /data/go ]; do sleep 0.05; done; [ -e /data/sub/late ] && echo arrived; echo over";
    for (propagation, arrives) in [(Propagation::None, false), (Propagation::HostToContainer, true)] {
        let shared = Mounted::at(node.path().join("shared"), MsFlags::MS_SHARED);
        let mut pod = TestPod::new(&node, "a", wait);
        pod.host_path("data", shared.text(), "/data");
        pod.main().mounts[0].propagation = propagation;
        let mut inner = None;
        let said = said(&node, &pod, || {
            inner = Some(Mounted::at(shared.0.join("sub"), MsFlags::MS_SHARED));
            fs::write(shared.0.join("sub/late"), "").expect("written");
            fs::write(shared.0.join("go"), "").expect("written");
        })
        .await;
        assert!(said.contains("over"), "{said}");
        assert_eq!(said.contains("arrived"), arrives, "{propagation:?}: {said}");
    }

    let shared = Mounted::at(node.path().join("shared"), MsFlags::MS_SHARED);
    let script = "mkdir /data/inner && mount -t tmpfs inner /data/inner && touch /data/inner/x && touch /data/made; \
                  until [ -e /data/go ]; do sleep 0.05; done";
    let mut pod = TestPod::new(&node, "b", script);
    pod.host_path("data", shared.text(), "/data");
    pod.main().mounts[0].propagation = Propagation::Bidirectional;
    pod.main().security.privileged = true;
    said(&node, &pod, || {
        tests::wait::wait_for("the container has mounted", || {
            if shared.0.join("made").exists() { Ok(()) } else { Err("not yet".to_owned()) }
        });
        assert!(shared.0.join("inner/x").exists(), "the container's mount is not on the node");
        fs::write(shared.0.join("go"), "").expect("written");
    })
    .await;
}

#[tokio::test]
async fn a_private_mount_is_a_reason_with_what_to_do() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let private = Mounted::at(node.path().join("private"), MsFlags::MS_PRIVATE);
    let mut pod = TestPod::new(&node, "a", "exit 0");
    pod.host_path("data", private.text(), "/data");
    pod.main().security.privileged = true;
    for propagation in [Propagation::HostToContainer, Propagation::Bidirectional] {
        pod.main().mounts[0].propagation = propagation;
        let error = runtime.create(&pod.run(0, 0).create).await.expect_err("nothing would cross");
        assert_eq!(error.reason, "CreateContainerError");
        let advice = format!("mount --make-rshared {}", private.text());
        assert!(error.message.contains(&advice) && error.message.contains("volume data"), "{error}");
    }
}

#[tokio::test]
async fn what_is_mounted_below_a_read_only_mount_is_read_only_when_asked() {
    let node = TestContainerd::start();
    let data = node.path().join("data");
    let _below = Mounted::at(data.join("below"), MsFlags::MS_PRIVATE);
    let script = "touch /data/x 2>/dev/null && echo top; touch /data/below/x && echo below; echo over";
    let asked = [RecursiveReadOnly::Disabled, RecursiveReadOnly::IfPossible, RecursiveReadOnly::Enabled];
    for recursive in asked {
        let mut pod = TestPod::new(&node, "a", script);
        pod.host_path("data", Path::new(&data).to_str().expect("text"), "/data");
        pod.main().mounts[0].read_only = true;
        pod.main().mounts[0].recursive_read_only = recursive;
        let said = said(&node, &pod, || {}).await;
        assert!(said.contains("over") && !said.contains("top"), "{recursive:?}: {said}");
        assert_eq!(said.contains("below\n"), recursive == RecursiveReadOnly::Disabled, "{recursive:?}: {said}");
    }
}

/// Mounts a part of the volume `data`.
fn part(pod: &mut TestPod, sub_path: SubPath, place: &str, read_only: bool) {
    let (volume, mount_path, sub_path) = ("data".to_owned(), place.to_owned(), Some(sub_path));
    pod.main().mounts.push(VolumeMount { volume, mount_path, read_only, sub_path, ..VolumeMount::default() });
}

#[tokio::test]
async fn a_container_gets_the_part_of_a_volume_that_it_asks_for() {
    let node = TestContainerd::start();
    let data = node.path().join("data");
    fs::create_dir_all(data.join("real")).expect("made");
    fs::write(data.join("real/file"), "content").expect("written");
    // As configMaps are: every file is a link to where the content lies just now.
    std::os::unix::fs::symlink("real", data.join("..data")).expect("linked");
    std::os::unix::fs::symlink("..data/file", data.join("file")).expect("linked");
    let script = "cat /file; echo; cat /dir/file; echo; touch /ro/x 2>/dev/null || echo kept; touch /new/made; \
                  ls /new /dir; grep -c subpaths /proc/self/mountinfo";
    let mut pod = TestPod::new(&node, "a", script);
    pod.sandbox.volumes.insert("data".into(), data.clone());
    pod.main().env = vec![EnvVar { name: "WHO".into(), value: EnvValue::Literal("me".into()) }];
    part(&mut pod, SubPath::Literal("file".into()), "/file", false);
    part(&mut pod, SubPath::Literal("./real/".into()), "/dir", false);
    part(&mut pod, SubPath::Literal("real".into()), "/ro", true);
    part(&mut pod, SubPath::Expression("of-$(WHO)/deep".into()), "/new", false);
    let runs = node.path().join("agent-run");
    let said = said(&node, &pod, || {
        // It has its own copies: nothing is left of ours.
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
        assert!(!mounts.contains(runs.to_str().expect("text")), "{mounts}");
    })
    .await;
    for line in ["content\ncontent\nkept\n", "/new:\nmade", "/dir:\nfile"] {
        assert!(said.contains(line), "{said}");
    }
    assert!(data.join("of-me/deep/made").exists() && !data.join("real/x").exists());
}

#[tokio::test]
async fn a_part_that_leads_out_or_names_no_variable_is_a_reason() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let (data, outside) = (node.path().join("data"), node.path().join("outside"));
    fs::create_dir_all(&data).expect("made");
    fs::create_dir_all(&outside).expect("made");
    std::os::unix::fs::symlink(&outside, data.join("out")).expect("linked");
    let cases = [
        (SubPath::Literal("out".into()), "leads out of the volume"),
        (SubPath::Literal("out/made".into()), "leads out of the volume"),
        (SubPath::Expression("$(NOBODY)/x".into()), "no variable NOBODY"),
        (SubPath::Expression("$(UP)/outside".into()), "without `..`"),
    ];
    for (sub_path, why) in cases {
        let mut pod = TestPod::new(&node, "a", "exit 0");
        pod.sandbox.volumes.insert("data".into(), data.clone());
        pod.main().env = vec![EnvVar { name: "UP".into(), value: EnvValue::Literal("..".into()) }];
        part(&mut pod, sub_path.clone(), "/x", false);
        let error = runtime.create(&pod.run(0, 0).create).await.expect_err("it must not be mounted");
        assert_eq!(error.reason, "CreateContainerConfigError", "{sub_path:?}: {error}");
        assert!(error.message.contains(why), "{sub_path:?}: {error}");
    }
    assert_eq!(fs::read_dir(&outside).expect("there").count(), 0, "something was made outside");
    assert_eq!(runtime.observe(None).await.expect("observed").len(), 0, "a container is left");
}

/// Only these host paths may be shown.
fn allowing(paths: &[(&Path, bool)]) -> Allowed {
    let entry = |(path, read_only): &(&Path, bool)| AllowedPath {
        path: path.to_str().expect("text").into(),
        read_only: *read_only,
    };
    let only = paths.iter().map(entry).collect();
    let rule = Rule { only, place: "the configuration file /c".into() };
    Allowed::new(Allow { host_paths: Some(rule), ..Allow::default() })
}

/// CVE-2026-14891. What the runtime is handed was a directory within the list a moment ago; somebody who may write there puts
/// a link in its place, all the time.
#[tokio::test]
async fn a_host_path_that_is_swapped_for_a_link_never_leads_out_of_what_is_allowed() {
    const ROUNDS: u32 = 12;
    // Until both have happened: one in a few is the rarer of the two.
    const ROUNDS_MAX: u32 = 120;
    let node = TestContainerd::start();
    let (inside, outside) = (node.path().join("inside"), node.path().join("outside"));
    for directory in [&inside.join("data"), &outside] {
        fs::create_dir_all(directory).expect("made");
    }
    fs::write(outside.join("secret"), "secret").expect("written");
    std::os::unix::fs::symlink(&outside, inside.join("link")).expect("linked");
    let runtime = node.open_with(|config| config.allowed = allowing(&[(&inside, false)]));
    let over = Arc::new(AtomicBool::new(false));
    let swapping = {
        let (over, victim, link) = (Arc::clone(&over), inside.join("data"), inside.join("link"));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let swap = renameat2(AT_FDCWD, &victim, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE);
                swap.expect("both are there");
            }
        })
    };
    let mut pod = TestPod::new(&node, "a", "cat /data/secret; touch /data/made; echo over");
    pod.host_path_of(HostPathKind::Directory, "data", inside.join("data").to_str().expect("text"), "/data");
    let (mut ran, mut refused) = (0, 0);
    for attempt in 0..ROUNDS_MAX {
        if attempt >= ROUNDS && ran > 0 && refused > 0 {
            break;
        }
        let mut run = pod.run(0, attempt);
        match runtime.create(&run.create).await {
            Ok(_) => {
                runtime.start(&run.id()).await.expect("started");
                exit_code(&runtime, &run.create.run).await;
                let said = run.output().to_owned();
                // Before the deletion, so that one that sees it leaves nothing behind.
                runtime.delete(&run.id()).await.expect("deleted");
                assert!(said.contains("over") && !said.contains("secret\n") && !said.ends_with("secret"), "{said}");
                assert!(!said.starts_with("secret"), "{said}");
                ran += 1;
            }
            Err(error) => {
                assert_eq!(error.reason, "CreateContainerConfigError", "{error}");
                let field = "spec.volumes[0].hostPath.path";
                assert!(error.message.contains(field) && error.message.contains("allow-host-path"), "{error}");
                refused += 1;
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    swapping.join().expect("ended");
    assert!(!outside.join("made").exists());
    println!("{ran} ran, {refused} refused");
    assert!(ran > 0 && refused > 0, "{ran} ran, {refused} refused: nothing was raced");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(!mounts.contains(node.path().join("agent-run").to_str().expect("text")), "{mounts}");
}

#[tokio::test]
async fn under_rules_a_host_path_is_what_it_was_without_and_only_readable_all_the_way_down_where_the_rule_says_so() {
    let node = TestContainerd::start();
    let (inside, readable) = (node.path().join("inside"), node.path().join("readable"));
    fs::create_dir_all(&inside).expect("made");
    fs::write(inside.join("file"), "content").expect("written");
    let below = Mounted::at(inside.join("below"), MsFlags::MS_SHARED);
    fs::write(below.0.join("deep"), "").expect("written");
    let _readable = Mounted::at(readable.join("below"), MsFlags::MS_SHARED);
    let devices = Path::new("/dev");
    let allowed = allowing(&[(&inside, false), (&readable, true), (devices, false)]);
    let runtime = node.open_with(|config| config.allowed = allowed);
    let script = "cat /file; ls /data/below; touch /data/below/made && echo wrote; touch /ro/x /ro/below/x 2>/dev/null; \
                  ls /ro/below; head -c 1 /zero | wc -c; echo over";
    let mut pod = TestPod::new(&node, "a", script);
    for (name, host, place) in [
        ("data", inside.clone(), "/data"),
        ("file", inside.join("file"), "/file"),
        ("ro", readable.clone(), "/ro"),
        ("zero", "/dev/zero".into(), "/zero"),
    ] {
        pod.host_path_of(HostPathKind::Unset, name, host.to_str().expect("text"), place);
    }
    pod.main().mounts[2].read_only = true;
    let mut run = pod.run(0, 0);
    run.go(&runtime).await;
    exit_code(&runtime, &run.create.run).await;
    let said = run.output().to_owned();
    runtime.delete(&run.id()).await.expect("deleted");
    assert_eq!(said, "contentdeep\nwrote\n1\nover\n", "its lists differ");
    assert!(below.0.join("made").exists() && !readable.join("x").exists());

    let mut pod = TestPod::new(&node, "b", "exit 0");
    pod.host_path_of(HostPathKind::Unset, "ro", readable.to_str().expect("text"), "/ro");
    let error = runtime.create(&pod.run(0, 0).create).await.expect_err("it may only be read");
    assert!(error.message.contains("may only be read on this node"), "{error}");
}

/// The pod's volume `data` is this image.
fn image_volume(pod: &mut TestPod, reference: &str) {
    let of = ImageVolume { reference: reference.into(), pull_policy: PullPolicy::Never };
    pod.template.spec.volumes.push(Volume { name: "data".into(), source: VolumeSource::Image(of) });
}

/// KEP-4639, on whichever containerd is installed.
#[tokio::test]
async fn an_image_volume_shows_all_layers_read_only_without_programs_and_goes_with_its_run() {
    const CONTENT: &str = "docker.io/library/content:1";
    let node = TestContainerd::start();
    let below = Tarball::new().dir("models", 0o755).file("models/a", 0o644, b"below").file("gone", 0o644, b"");
    let above = Tarball::new().file("models/b", 0o755, b"#!/bin/sh\necho executed\n").file(".wh.gone", 0o644, b"");
    node.import(&Image::empty(CONTENT).layer(below.bytes()).layer(above.bytes()));
    node.import(&Image::empty("docker.io/library/single:1").layer(Tarball::new().file("one", 0o644, b"one").bytes()));
    let runtime = node.open();
    let views = || node.rows(&["snapshots", "ls"]).into_iter().filter(|row| row.contains("View")).count();
    let script = "cat /data/models/a; ls /data /data/models; touch /data/x 2>/dev/null || echo kept; \
                  /data/models/b 2>/dev/null || echo no program; cat /part/a; grep -c subpaths /proc/self/mountinfo; sleep 1";
    let mut pod = TestPod::new(&node, "a", script);
    image_volume(&mut pod, "content:1");
    let whole = VolumeMount { volume: "data".into(), mount_path: "/data".into(), ..VolumeMount::default() };
    pod.main().mounts.push(whole.clone());
    part(&mut pod, SubPath::Literal("models".into()), "/part", false);
    let mut run = pod.run(0, 0);
    run.go(&runtime).await;
    // What nothing refers to is collected: the container's record does.
    let collect = || {
        for words in [&["leases", "create", "--id", "collect"][..], &["leases", "delete", "--sync", "collect"]] {
            let (ok, text) = node.ctr(words);
            assert!(ok, "{text}");
        }
    };
    collect();
    assert_eq!(views(), 1);
    exit_code(&runtime, &run.create.run).await;
    let said = run.output().to_owned();
    assert_eq!(said, "below/data:\nmodels\n\n/data/models:\na\nb\nkept\nno program\nbelow0\n");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(!mounts.contains(node.path().join("agent-run").to_str().expect("text")), "{mounts}");
    runtime.delete(&run.id()).await.expect("deleted");
    assert_eq!((views(), node.rows(&["leases", "ls"]).len()), (0, 0));

    let mut single = TestPod::new(&node, "b", "cat /data/one; touch /data/x 2>/dev/null || echo kept");
    image_volume(&mut single, "single:1");
    single.main().mounts.push(whole);
    assert_eq!(self::said(&node, &single, || {}).await, "onekept\n");

    let mut missing = TestPod::new(&node, "c", "exit 0");
    image_volume(&mut missing, "content:1");
    part(&mut missing, SubPath::Literal("nowhere".into()), "/part", false);
    let error = runtime.create(&missing.run(0, 0).create).await.expect_err("there is no such part");
    assert!(error.reason == "CreateContainerConfigError" && error.message.contains("cannot open nowhere"), "{error}");
    collect();
    assert_eq!((views(), node.rows(&["leases", "ls"]).len()), (0, 0), "something is left");
}

#[tokio::test]
async fn what_an_interrupted_try_left_of_an_image_volume_is_neither_shown_nor_lost() {
    let node = TestContainerd::start();
    let layers = |kind: &str| -> BTreeSet<String> {
        let rows = node.rows(&["snapshots", "ls"]).into_iter().filter(|row| row.contains(kind));
        rows.filter_map(|row| row.split_whitespace().next().map(str::to_owned)).collect()
    };
    let import = |name: &str| {
        let before = layers("Committed");
        node.import(&Image::empty(name).layer(Tarball::new().file("name", 0o644, name.as_bytes()).bytes()));
        layers("Committed").difference(&before).next().cloned().expect("it has a layer")
    };
    let old = import("docker.io/library/old:1");
    import("docker.io/library/new:1");
    let runtime = node.open();
    let mut pod = TestPod::new(&node, "a", "cat /data/name; sleep 1");
    image_volume(&mut pod, "new:1");
    let whole = VolumeMount { volume: "data".into(), mount_path: "/data".into(), ..VolumeMount::default() };
    pod.main().mounts.push(whole);
    let run = pod.run(0, 0);
    // As of a try that was made while the name stood for another image.
    let view = format!("daemonlet-volume-{}-0", run.id());
    let (ok, text) = node.ctr(&["snapshots", "view", &view, &old]);
    assert!(ok, "{text}");
    runtime.create(&run.create).await.expect("created");
    // As of an agent that is killed between the record and the task.
    let (ok, text) = node.ctr(&["tasks", "delete", "--force", &run.id()]);
    assert!(ok, "{text}");
    // With its pipes, which were deleted along.
    let mut run = pod.run(0, 0);
    runtime.create(&run.create).await.expect("created again");
    for words in [&["leases", "create", "--id", "collect"][..], &["leases", "delete", "--sync", "collect"]] {
        let (ok, text) = node.ctr(words);
        assert!(ok, "{text}");
    }
    assert_eq!(layers("View"), BTreeSet::from([view]));
    runtime.start(&run.id()).await.expect("started");
    exit_code(&runtime, &run.create.run).await;
    assert_eq!(run.output(), "docker.io/library/new:1");
    runtime.delete(&run.id()).await.expect("deleted");
    assert_eq!((layers("View").len(), node.rows(&["leases", "ls"]).len()), (0, 0));
}
