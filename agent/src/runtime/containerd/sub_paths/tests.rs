//! With the real system calls: these tests need root.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{RenameFlags, renameat2};

use super::*;

/// A volume with a secret beside it.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Case {
        let it = Case { dir: tempfile::tempdir().expect("made") };
        fs::create_dir_all(it.volume().join("inside")).expect("made");
        fs::create_dir(it.dir.path().join("outside")).expect("made");
        fs::write(it.dir.path().join("outside/secret"), "secret").expect("written");
        it
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn part(&self, path: &str) -> SubPath {
        let bound = self.dir.path().join("run/subpaths/main/0/0");
        SubPath { volume: self.volume(), path: path.into(), written: path.into(), bound, host: None, image: None }
    }
}

#[test]
fn a_part_is_bound_and_gone_with_what_holds_it() {
    let case = Case::new();
    fs::write(case.volume().join("inside/file"), "content").expect("written");
    symlink("inside", case.volume().join("..data")).expect("linked");
    symlink("..data/file", case.volume().join("link")).expect("linked");
    for (path, below) in [("inside", "file"), ("inside/file", ""), ("link", "")] {
        let part = case.part(path);
        for _ in 0..2 {
            let bound = bind(std::slice::from_ref(&part), Reach::Ours).expect("bound");
            let file = if below.is_empty() { part.bound.clone() } else { part.bound.join(below) };
            assert_eq!(fs::read_to_string(file).expect("read"), "content", "{path}");
            // As a killed agent leaves it.
            std::mem::forget(bound);
        }
        drop(bind(std::slice::from_ref(&part), Reach::Ours).expect("bound over what was left"));
        assert!(!case.dir.path().join("run/subpaths").exists(), "{path}");
    }
    assert!(case.volume().join("inside/file").exists());
}

#[test]
fn what_is_mounted_in_a_part_stays_on_the_host() {
    let case = Case::new();
    let volume = case.volume();
    let tmpfs = |at: &Path| mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounted");
    tmpfs(&volume);
    // As systemd has it on the whole node.
    mount(None::<&str>, &volume, None::<&str>, MsFlags::MS_SHARED, None::<&str>).expect("shared");
    fs::create_dir_all(volume.join("part/disk")).expect("made");
    tmpfs(&volume.join("part/disk"));
    fs::write(volume.join("part/disk/data"), "").expect("written");
    let part = case.part("part");
    drop(bind(std::slice::from_ref(&part), Reach::Ours).expect("bound"));
    let kept = volume.join("part/disk/data").exists();
    // What comes while it is bound, and what a killed agent leaves.
    let bound = bind(std::slice::from_ref(&part), Reach::Ours).expect("bound");
    fs::create_dir(volume.join("part/later")).expect("made");
    tmpfs(&volume.join("part/later"));
    fs::write(volume.join("part/later/data"), "").expect("written");
    std::mem::forget(bound);
    drop(bind(std::slice::from_ref(&part), Reach::Ours).expect("bound over what was left"));
    let kept_later = volume.join("part/later/data").exists();
    for at in ["part/later", "part/disk", ""] {
        // Perhaps it is gone: that is what this is about.
        let _ = umount2(&volume.join(at), MntFlags::MNT_DETACH);
    }
    assert!(kept && kept_later, "{kept} {kept_later}");
}

#[test]
fn what_is_missing_is_made_with_the_volumes_mode() {
    let case = Case::new();
    fs::set_permissions(case.volume(), fs::Permissions::from_mode(0o2777)).expect("set");
    drop(bind(&[case.part("a/b")], Reach::Ours).expect("bound"));
    for made in ["a", "a/b"] {
        let mode = fs::metadata(case.volume().join(made)).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o2777, "{made}");
    }
    fs::write(case.volume().join("file"), "").expect("written");
    assert!(matches!(
        bind(&[case.part("file/below")], Reach::Ours),
        Err(SubPathError::Make { .. } | SubPathError::Open { .. })
    ));
    symlink("nowhere", case.volume().join("dangling")).expect("linked");
    assert!(matches!(bind(&[case.part("dangling")], Reach::Ours), Err(SubPathError::Open { .. })));
    assert!(!case.volume().join("nowhere").exists());
}

#[test]
fn no_link_leads_out() {
    let case = Case::new();
    symlink(case.dir.path().join("outside"), case.volume().join("absolute")).expect("linked");
    symlink("../outside", case.volume().join("climbing")).expect("linked");
    symlink("/proc/self/root", case.volume().join("magic")).expect("linked");
    for path in ["absolute", "absolute/secret", "climbing", "climbing/secret", "climbing/made", "magic/etc"] {
        let error = bind(&[case.part(path)], Reach::Ours).expect_err(path);
        assert!(matches!(error, SubPathError::LeadsOut { .. }), "{path}: {error:?}");
    }
    assert_eq!(fs::read_dir(case.dir.path().join("outside")).expect("there").count(), 1);
    assert!(!case.dir.path().join("run").exists(), "nothing was bound");
}

/// Ends the thread that swaps, also where the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Acts while somebody exchanges the two all the time.
fn while_swapping(one: &Path, other: &Path, act: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let swap = renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE);
                swap.expect("both are there");
            }
        });
        let _ends = Over(&over);
        act();
    });
}

/// CVE-2017-1002101 and CVE-2021-25741: somebody swaps a directory for a link all the time.
#[test]
fn a_swap_while_we_look_never_leads_out() {
    const ROUNDS: usize = 3000;
    let case = Case::new();
    let (victim, link) = (case.volume().join("swapped"), case.volume().join("link"));
    fs::create_dir(&victim).expect("made");
    fs::write(victim.join("mine"), "mine").expect("written");
    symlink("../outside", &link).expect("linked");
    let (mut opened, mut refused) = (0, 0);
    while_swapping(&victim, &link, || {
        for round in 0..ROUNDS {
            // What is there, and what would have to be made on the other side of the link.
            let part = case.part(if round % 2 == 0 { "swapped" } else { "swapped/made" });
            match bind(std::slice::from_ref(&part), Reach::Ours) {
                Ok(_bound) => {
                    opened += 1;
                    assert!(!part.bound.join("secret").exists(), "the bind leads out of the volume");
                }
                Err(SubPathError::LeadsOut { .. } | SubPathError::Open { .. } | SubPathError::Make { .. }) => {
                    refused += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    });
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused: nothing was raced");
    assert_eq!(fs::read_dir(case.dir.path().join("outside")).expect("there").count(), 1, "made outside");
}

impl Case {
    /// A host path under the rule that only the volume's own directory may be shown.
    fn host(&self, name: &str) -> SubPath {
        let entry = pod::allow::AllowedPath { path: self.volume().to_str().expect("text").into(), read_only: false };
        let rule = pod::allow::Rule { only: vec![entry], place: "the configuration file /c".into() };
        let volume = self.volume().join(name);
        let host = HostPart {
            allow: Arc::new(Allow { host_paths: Some(rule), ..Allow::default() }),
            access: Access::Write,
            field: "spec.volumes[0].hostPath.path".into(),
            written: volume.to_str().expect("text").into(),
        };
        let bound = self.dir.path().join("run/subpaths/main/0/host/0");
        SubPath { volume, path: PathBuf::new(), written: String::new(), bound, host: Some(Box::new(host)), image: None }
    }
}

#[test]
fn a_host_path_comes_with_what_is_mounted_below_and_that_stays_on_the_host() {
    let case = Case::new();
    let volume = case.volume();
    let tmpfs = |at: &Path| mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounted");
    fs::create_dir(volume.join("data")).expect("made");
    tmpfs(&volume.join("data"));
    mount(None::<&str>, &volume.join("data"), None::<&str>, MsFlags::MS_SHARED, None::<&str>).expect("shared");
    fs::create_dir(volume.join("data/disk")).expect("made");
    tmpfs(&volume.join("data/disk"));
    fs::write(volume.join("data/disk/file"), "").expect("written");
    let part = case.host("data");
    let mut seen = Vec::new();
    for reach in [Reach::Ours, Reach::Others] {
        let bound = bind(std::slice::from_ref(&part), reach).expect("bound");
        // What another mount namespace has of it must not have mounts in it.
        let below = part.bound.join("disk/file").exists();
        assert_eq!(Bound::has_below(&part.bound.canonicalize().expect("there")).expect("read"), below);
        seen.push(below == (reach == Reach::Ours) && bound.real(&part.bound) == Some(&volume.join("data")));
        // As a killed agent leaves it.
        std::mem::forget(bound);
        drop(bind(std::slice::from_ref(&part), reach).expect("bound over what was left"));
        seen.push(volume.join("data/disk/file").exists() && !case.dir.path().join("run/subpaths").exists());
    }
    for at in ["data/disk", "data"] {
        // Perhaps it is gone: that is what this is about.
        let _ = umount2(&volume.join(at), MntFlags::MNT_DETACH);
    }
    assert_eq!(seen, [true; 4]);
}

/// CVE-2026-14891: the path is judged, and then somebody puts a link in its place.
#[test]
fn a_host_path_is_bound_as_what_was_judged_whatever_is_put_in_its_place() {
    const ROUNDS: usize = 3000;
    let case = Case::new();
    let (victim, link) = (case.volume().join("swapped"), case.volume().join("link"));
    fs::create_dir(&victim).expect("made");
    symlink("../outside", &link).expect("linked");
    let (mut opened, mut refused) = (0, 0);
    while_swapping(&victim, &link, || {
        for round in 0..ROUNDS {
            let mut part = case.host("swapped");
            // The whole of it, and a part that would have to be made.
            part.path = if round % 2 == 0 { PathBuf::new() } else { "made".into() };
            match bind(std::slice::from_ref(&part), Reach::Ours) {
                Ok(_bound) => {
                    opened += 1;
                    assert!(!part.bound.join("secret").exists(), "the bind leads out of what is allowed");
                }
                Err(SubPathError::Forbidden { why, .. }) => {
                    refused += 1;
                    assert!(why.contains("/outside, which is not allowed on this node"), "{why}");
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    });
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused: nothing was raced");
    assert_eq!(fs::read_dir(case.dir.path().join("outside")).expect("there").count(), 1, "made outside");
}

/// With the rules `[/:ro, /run]` one container's two mounts: the second is writable, and must not show the first.
#[test]
fn a_host_path_that_holds_the_run_directory_does_not_show_what_is_bound_there() {
    let case = Case::new();
    let volume = case.volume();
    fs::create_dir_all(volume.join("data")).expect("made");
    fs::write(volume.join("data/file"), "").expect("written");
    let run = volume.join("run");
    let part = |name: &str, index: &str| {
        let mut part = case.host(name);
        part.bound = run.join("subpaths/main/0/host").join(index);
        part
    };
    let parts = [part("", "0"), part("run", "1"), part("data", "2")];
    fs::create_dir_all(&run).expect("made");
    // Others mount elsewhere on the machine meanwhile.
    let here = || mountinfo::read().expect("read").iter().filter(|it| it.point.starts_with(case.dir.path())).count();
    let before = here();
    let bound = bind(&parts, Reach::Ours).expect("bound");
    let after = here();
    let shown = fs::read_dir(parts[1].bound.join("subpaths/main/0/host")).expect("there").count();
    let data = parts[2].bound.join("file").exists();
    drop(bound);
    assert!(data && shown == 0, "{data}, {shown} binds are seen through another");
    assert_eq!(after - before, 4, "the place and three binds");
    assert!(!run.join("subpaths").exists());
}

#[test]
fn nothing_is_made_where_only_reading_is_allowed() {
    let case = Case::new();
    let volume = case.volume();
    fs::create_dir_all(volume.join("app/keys")).expect("made");
    symlink("app/keys", volume.join("link")).expect("linked");
    let mut part = case.host("");
    let host = part.host.as_mut().expect("of the host");
    host.access = Access::Read;
    let mut allow = Allow::clone(&host.allow);
    let keys = volume.join("app/keys").to_str().expect("text").to_owned();
    allow.host_paths.as_mut().expect("a rule").only.push(pod::allow::AllowedPath { path: keys, read_only: true });
    host.allow = Arc::new(allow);
    for path in ["app/keys/made", "app/keys/made/deep", "link/made"] {
        (part.path, part.written) = (path.into(), path.into());
        let refused = bind(std::slice::from_ref(&part), Reach::Ours).expect_err(path);
        assert!(matches!(refused, SubPathError::Forbidden { .. }), "{path}: {refused:?}");
    }
    assert_eq!(fs::read_dir(volume.join("app/keys")).expect("there").count(), 0);
    part.path = "app/made".into();
    drop(bind(std::slice::from_ref(&part), Reach::Ours).expect("bound"));
    assert!(volume.join("app/made").exists());
    part.host.as_mut().expect("of the host").access = Access::Write;
    part.path = "app".into();
    assert!(matches!(bind(std::slice::from_ref(&part), Reach::Ours), Err(SubPathError::Forbidden { .. })));
}
