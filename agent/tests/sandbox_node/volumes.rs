//! Volumes of a pod's own, for as long as the pod lives.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use agent::seams::{Leave, Sandboxes as _};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use pod::observed::SandboxState;
use pod::spec::*;

use super::fixture::*;

fn empty_dir(name: &str, medium: Medium, size_limit: Option<u64>) -> Volume {
    Volume { name: name.into(), source: VolumeSource::EmptyDir(EmptyDir { medium, size_limit, group: None }) }
}

fn template_with(volumes: Vec<Volume>) -> PodTemplate {
    let mut template = template();
    template.spec.host_network = true;
    template.spec.volumes = volumes;
    template
}

/// Bytes of the file system at a place.
fn size(path: &PathBuf) -> u64 {
    let stat = nix::sys::statvfs::statvfs(path).unwrap();
    stat.blocks() * stat.fragment_size()
}

#[test]
fn empty_dirs_outlive_lost_surroundings_and_boots_and_go_with_the_pod() {
    on_a_node(|node| async move {
        let (sandboxes, record) = (node.open(), pod("data"));
        let template = template_with(vec![
            empty_dir("disk", Medium::Disk, None),
            empty_dir("memory", Medium::Memory, Some(1 << 20)),
        ]);
        let mounts_before = node.mounts().len();
        sandboxes.set_up(&record, &template).await.unwrap();
        let volumes = sandboxes.describe(&record, &template).await.unwrap().volumes;
        let (disk, memory) = (volumes["disk"].clone(), volumes["memory"].clone());
        assert!(disk.starts_with(node.dir.path().join("state")) && memory.starts_with(node.pod_dir(&record)));
        for path in [&disk, &memory] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o777);
            fs::write(path.join("kept"), "").unwrap();
        }
        let kept = |path: &PathBuf| path.join("kept").exists();
        let made = |state: &SandboxState| matches!(state, SandboxState::Connected { .. } | SandboxState::Made);

        // Under the agent's feet, then by a tear-down of surroundings whose pod lives on.
        umount2(&node.pod_dir(&record).join("ns/ipc"), MntFlags::MNT_DETACH).unwrap();
        assert!(matches!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Broken { .. }));
        for _ in 0..2 {
            sandboxes.tear_down(&record.uid, Leave::Volumes).await.unwrap();
            assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Absent);
            assert!(kept(&disk) && kept(&memory));
            assert_eq!(sandboxes.list().await.unwrap(), std::slice::from_ref(&record.uid));
        }
        let again = node.open();
        again.set_up(&record, &template).await.unwrap();
        assert!(made(&again.inspect(&record.uid, &template).await));
        assert_eq!(again.describe(&record, &template).await.unwrap().volumes, volumes);
        assert!(kept(&disk) && kept(&memory));

        // A power cut: the run directory is empty, what images had on the disk is nobody's.
        let uid = &record.uid;
        fs::create_dir_all(node.dir.path().join(format!("state/pods/{uid}/volumes/image/main/0"))).unwrap();
        umount2(&node.pod_dir(&record), MntFlags::MNT_DETACH).unwrap();
        fs::remove_dir(node.pod_dir(&record)).unwrap();
        assert!(matches!(again.inspect(uid, &template).await, SandboxState::Broken { .. }));
        again.tear_down(uid, Leave::Volumes).await.unwrap();
        assert_eq!(again.inspect(uid, &template).await, SandboxState::Absent);
        again.set_up(&record, &template).await.unwrap();
        assert!(kept(&disk) && !kept(&memory));

        // What is mounted in it, and where links in it lead, stays as it is.
        let outside = node.dir.path().join("outside");
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        std::os::unix::fs::symlink(&outside, disk.join("link")).unwrap();
        fs::create_dir(disk.join("mounted")).unwrap();
        mount(Some(&outside), &disk.join("mounted"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        again.tear_down(uid, Leave::Nothing).await.unwrap();
        assert!(kept(&outside) && !disk.exists() && !memory.exists());
        assert!(!node.dir.path().join("state/pods").join(&uid.0).exists());
        assert_eq!(node.mounts().len(), mounts_before, "{:?}", node.mounts());
        assert_eq!(again.list().await.unwrap(), []);
    });
}

#[test]
fn what_is_in_memory_is_no_larger_than_its_limit_and_the_pods() {
    on_a_node(|node| async move {
        let (sandboxes, record) = (node.open(), pod("sized"));
        let mut template = template_with(vec![
            empty_dir("small", Medium::Memory, Some(1 << 20)),
            empty_dir("large", Medium::Memory, Some(1 << 40)),
        ]);
        template.spec.containers[0].resources.memory_limit = Some(32 << 20);
        sandboxes.set_up(&record, &template).await.unwrap();
        let volumes = sandboxes.describe(&record, &template).await.unwrap().volumes;
        assert_eq!((size(&volumes["small"]), size(&volumes["large"])), (1 << 20, 32 << 20));
        let full = fs::write(volumes["small"].join("x"), vec![0; 2 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn huge_pages_that_a_node_lacks_keep_the_pod_waiting_with_what_to_do() {
    on_a_node(|node| async move {
        let (sandboxes, record) = (node.open(), pod("huge"));
        let template = template_with(vec![empty_dir("huge", Medium::HugePages(Some(1 << 41)), None)]);
        let error = sandboxes.set_up(&record, &template).await.unwrap_err();
        assert_eq!(error.reason, "FailedMount");
        assert!(error.message.contains("volume huge") && error.message.contains("nr_hugepages"), "{error}");
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}
