//! What a container finds at /sys/fs/cgroup under version 1 of the hierarchy: its own cgroup of each controller, read-only.
//!
//! Driven by `containers`. runc mounts that one by one, some two tenths of a millisecond each, while everybody waits for the container's
//! first instruction. Here it is done by bare system calls while containerd writes the container's record and prepares its snapshot,
//! and runc binds all of it in one piece. The cgroups themselves are made for it; runc takes them as they are, fills them and removes
//! them. What is made lies in the pod's directory, shut off from other mount namespaces, and goes as soon as the container has its own
//! copies; what a killed agent leaves goes with the pod's surroundings, or before the next try.
//!
//! Where anything is unusual (another runtime, systemd's cgroups, hierarchies that runc would treat otherwise) runc does it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::mount::{MsFlags, mount};
use oci_spec::runtime::{Mount, MountBuilder, Spec};
use tokio::task::JoinHandle;

use super::sub_paths::{Reach, open_up, reach, shut};
use super::{Containerd, OciRuntime, image_volumes};
use crate::mountinfo::unescape;
use crate::seams::{CgroupParent, CreateRun, StepError};
use crate::threads;

/// Where the hierarchies are mounted, here as in containers.
const PLACE: &str = "/sys/fs/cgroup";
/// What runc 1.1 puts a container's process into. It leaves it where it was in all others, and shows that.
const JOINED: [&str; 14] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "name=systemd",
];
/// Options of a mounted hierarchy that name no controller.
const PLAIN: [&str; 6] = ["rw", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"];
/// As runc mounts each.
const FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const READ_ONLY: MsFlags =
    FLAGS.union(MsFlags::MS_RDONLY).union(MsFlags::MS_RELATIME).union(MsFlags::MS_BIND).union(MsFlags::MS_REMOUNT);

/// The node's hierarchies by the names of their mount points; None: runc is to do it. Read once: they stay as long as the node runs.
#[derive(Debug, Default)]
pub struct Hierarchies(Mutex<Option<Option<Arc<Vec<String>>>>>);

impl Hierarchies {
    fn get(&self) -> Option<Arc<Vec<String>>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get_or_insert_with(|| {
                let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
                usual(&table).map(Arc::new)
            })
            .clone()
    }

    /// It did not work as thought: from now on runc does it.
    fn give_up(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(None);
    }
}

/// The hierarchies of version 1 in a mountinfo table, where each is mounted once and whole, below [`PLACE`], and its controllers are those
/// that runc has the container join.
fn usual(mountinfo: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for line in mountinfo.lines() {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        if right.next() != Some("cgroup") {
            continue;
        }
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, unescape(left.next()?));
        let name = Path::new(&point).strip_prefix(PLACE).ok()?.to_str()?.to_owned();
        let controllers: Vec<&str> = right.nth(1)?.split(',').filter(|option| !PLAIN.contains(option)).collect();
        let strange = |controller: &&str| !JOINED.contains(controller) || seen.contains(controller);
        if root != "/" || name.is_empty() || name.contains('/') || controllers.iter().any(strange) {
            return None;
        }
        seen.extend(controllers);
        names.push(name);
    }
    (!names.is_empty()).then_some(names)
}

/// It is there until this is dropped.
#[derive(Debug)]
pub struct View(PathBuf);

impl Drop for View {
    /// Blocks: a moment in which the kernel waits for all processors.
    fn drop(&mut self) {
        if let Err(error) = open_up(&self.0).and_then(|()| fs::remove_dir(&self.0)) {
            tracing::warn!(place = %self.0.display(), %error, "a view of cgroups stays until its pod is torn down");
        }
        for directory in self.0.ancestors().skip(1).take(2) {
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }
}

/// In the shut place: only what lies in that can be bound.
fn source(place: &Path) -> PathBuf {
    place.join("cgroup")
}

/// Makes the cgroups and the view of them. Blocks, some tenths of a millisecond.
fn make(place: PathBuf, names: &[String], cgroup: &Path) -> io::Result<View> {
    shut(&place)?;
    let view = View(place);
    let top = source(&view.0);
    fs::create_dir(&top)?;
    let nothing = None::<&str>;
    mount(Some("cgroup"), &top, Some("tmpfs"), FLAGS, Some("size=64k,mode=755"))?;
    for name in names {
        let own = Path::new(PLACE).join(name).join(cgroup);
        let shown = top.join(name);
        fs::create_dir_all(&own)?;
        fs::create_dir(&shown)?;
        mount(Some(&own), &shown, nothing, MsFlags::MS_BIND, nothing)?;
        mount(nothing, &shown, nothing, READ_ONLY, nothing)?;
        if name.contains(',') {
            name.split(',').try_for_each(|one| symlink(name, top.join(one)))?;
        }
    }
    mount(nothing, &top, nothing, READ_ONLY, nothing)?;
    Ok(view)
}

/// Puts the view in the place of runc's own; false: the container is to have none, or another.
fn put(spec: &mut Spec, place: &Path) -> bool {
    let is_it =
        |it: &&mut Mount| it.destination() == Path::new(PLACE) && it.typ().as_deref() == Some("cgroup") && is_read(it);
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let Some(found) = mounts.iter_mut().find(is_it) else { return false };
    let options = ["rbind", "rprivate", "ro", "nosuid", "noexec", "nodev", "relatime"].map(str::to_owned);
    let bind = MountBuilder::default().destination(PLACE).typ("bind").source(source(place)).options(options);
    *found = bind.build().expect("every field has a value");
    spec.set_mounts(Some(mounts));
    true
}

fn is_read(mount: &Mount) -> bool {
    mount.options().as_ref().is_some_and(|options| options.iter().any(|option| option == "ro"))
}

impl Containerd {
    /// Begins with the view for this run, and has the spec take it. None: runc does it.
    pub(super) fn cgroup_view(
        &self,
        run: &CreateRun<'_>,
        runtime: &OciRuntime,
        spec: &mut Spec,
    ) -> Option<JoinHandle<io::Result<View>>> {
        let CgroupParent::Cgroupfs(_) = &run.sandbox.cgroup else { return None };
        if *runtime != OciRuntime::default() || run.sandbox.users.is_some() {
            return None;
        }
        let names = self.cgroup_hierarchies.get()?;
        let of_run = image_volumes::way_of_run(&run.run)?;
        let place = self.config.run_dir.join("pods").join(&run.run.uid.0).join("cgroups").join(of_run);
        if !matches!(reach(self.client.peer_pid()), Ok(Reach::Ours)) || !put(spec, &place) {
            return None;
        }
        let cgroup = run.sandbox.cgroup.cgroups_path(&run.run.container_id());
        let cgroup = PathBuf::from(cgroup.trim_start_matches('/'));
        // In its turn: with many pods at once each thread more would keep its memory.
        Some(tokio::spawn(async move {
            let made = threads::in_turn(move || make(place, &names, &cgroup)).await;
            made.unwrap_or_else(|ended| Err(io::Error::other(ended)))
        }))
    }

    /// It stands, or why not.
    pub(super) async fn viewed(&self, making: Option<JoinHandle<io::Result<View>>>) -> Result<Option<View>, StepError> {
        let Some(making) = making else { return Ok(None) };
        match making.await.unwrap_or_else(|ended| Err(io::Error::other(ended))) {
            Ok(view) => Ok(Some(view)),
            Err(error) => {
                self.cgroup_hierarchies.give_up();
                let message = format!(
                    "cannot make what the container sees of its cgroups: {error}; runc makes it at the next try"
                );
                Err(StepError::new("CreateContainerError", message))
            }
        }
    }
}

/// The container has its own copies of it, or does not need it any more. Nobody waits for that.
pub(super) fn leave(view: Option<View>) {
    if view.is_some() {
        drop(tokio::spawn(threads::in_turn(move || drop(view))));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const USUAL: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn only_hierarchies_that_runc_would_show_the_same_way_are_shown_here() {
        let names = usual(USUAL).expect("they are usual");
        assert_eq!(names, ["cpu,cpuacct", "memory", "systemd"]);
        for strange in [
            "50 31 0:50 / /sys/fs/cgroup/misc rw - cgroup cgroup rw,misc\n",
            "50 31 0:50 /docker/a /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
            "50 31 0:50 / /cgroup/pids rw - cgroup cgroup rw,pids\n",
            "50 31 0:50 / /sys/fs/cgroup/again rw - cgroup cgroup rw,memory\n",
        ] {
            assert_eq!(usual(&format!("{USUAL}{strange}")), None, "{strange}");
        }
        assert_eq!(usual("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"), None);
    }

    #[test]
    fn it_takes_the_place_of_a_read_only_mount_of_cgroups_alone() {
        let spec = |mounts| -> Spec {
            let mut spec = Spec::default();
            spec.set_mounts(Some(serde_json::from_value(mounts).expect("mounts")));
            spec
        };
        let of = |options: &[&str]| json!([{"destination": PLACE, "type": "cgroup", "source": "cgroup", "options": options}]);
        let mut plain = spec(of(&["nosuid", "ro"]));
        assert!(put(&mut plain, Path::new("/run/d/pods/u/cgroups/c/0")));
        let mounts = serde_json::to_value(plain.mounts()).expect("serializes");
        assert_eq!(mounts[0]["source"], "/run/d/pods/u/cgroups/c/0/cgroup");
        assert_eq!(mounts[0]["type"], "bind");
        assert!(!put(&mut spec(of(&["nosuid", "rw"])), Path::new("/a")), "a privileged container writes there");
        let own = json!([{"destination": PLACE, "type": "bind", "source": "/x", "options": ["ro"]}]);
        assert!(!put(&mut spec(own), Path::new("/a")));
    }
}
