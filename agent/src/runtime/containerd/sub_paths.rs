//! subPath, and host paths under rules: a part of a volume, resolved by descriptors and bound through them.
//!
//! Driven by `containers`. What lies in a volume is its containers' to change at any time, also while we look: a name that
//! was checked and is then mounted by name leads out of the volume when somebody swaps it for a link in between
//! (CVE-2017-1002101, CVE-2021-25741). So each part is opened once, by the kernel's rules of staying beneath the volume
//! (openat2(2)), and what was opened is bound to a place that only we can write: there the runtime finds it. Links within
//! the volume are followed, as files of configMaps need. The binds lie at `<run-dir>/pods/<uid>/subpaths/<container>/
//! <attempt>/<index>` and go as soon as the container has its own copies of them; what a killed agent leaves there goes
//! with the pod's surroundings, or before the next try.
//!
//! Where the node has rules for host paths ([`pod::allow`]), these come the same way, whole volumes too: what was opened is
//! judged by its real path and bound by its descriptor, so that a link changed in between gains nothing (CVE-2026-14891).
//! Their binds have with them what is mounted below, so they lie where no mount crosses to other mount namespaces (a copy
//! there could not be taken away with them). Where containerd has a mount namespace of its own they must cross, and come
//! without what is mounted below.
//!
//! Image volumes are mounted here too, for as long as the container's creation takes.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use containerd_client::types::Mount;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use pod::allow::{Access, Allow};
use pod::name::WorkloadKind;
use pod::spec::{SubPath as Asked, VolumeSource};

use super::image_volumes;
use crate::mountinfo;
use crate::seams::CreateRun;

/// The kernel gives up on a path whose directories are moved while it looks, and asks to be asked again.
const TRIES_MAX: u32 = 128;
/// A swapped name may be gone for a moment when it is to be made, or there again.
const RACES_MAX: u32 = 16;

/// Mount options must fit into a page; some fifty layers do.
const OPTIONS_MAX: usize = 4095;
/// Where binds of host paths lie, below the run's own directory.
const HOST: &str = "host";

/// A part of a volume that a container mounts.
#[derive(Clone, PartialEq)]
pub struct SubPath {
    /// The volume on the host.
    pub volume: PathBuf,
    /// Relative, and does not climb; empty: the whole volume. Never shown: an expression may have taken it from a Secret.
    pub path: PathBuf,
    /// As the manifest has it.
    pub written: String,
    /// Where it is bound for the container's creation.
    pub bound: PathBuf,
    /// Of a host path, where the node has rules for these.
    pub host: Option<Box<HostPart>>,
    /// Of an image volume: how it is mounted, at `volume`.
    pub image: Option<Arc<Vec<Mount>>>,
}

/// What is special about some volumes of a container.
#[derive(Debug, Clone, Copy)]
pub struct Volumes<'a> {
    /// The rules for host paths, where the node has some.
    pub allow: Option<&'a Arc<Allow>>,
    /// How image volumes are mounted, by name.
    pub images: &'a BTreeMap<String, Arc<Vec<Mount>>>,
}

/// By what a part of the host's tree is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPart {
    pub allow: Arc<Allow>,
    /// What the container may do with it.
    pub access: Access,
    /// The volume's field in the document.
    pub field: String,
    /// The host path as the document has it.
    pub written: String,
}

impl SubPath {
    /// The volume as it is, and not a part of it.
    pub fn is_whole(&self) -> bool {
        self.path.as_os_str().is_empty()
    }
}

impl std::fmt::Debug for SubPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SubPath { volume, path: _, written, bound, host, image: _ } = self;
        let mut shown = f.debug_struct("SubPath");
        shown.field("volume", volume).field("written", written).field("bound", bound).field("host", host).finish()
    }
}

/// Why a part cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    #[error("{path} leads out of the volume at {volume}; a link in it must not", path = .part.written, volume = .part.volume.display())]
    LeadsOut { part: SubPath },
    #[error("cannot open {path} in the volume at {volume}", path = .part.written, volume = .part.volume.display())]
    Open { part: SubPath, source: io::Error },
    #[error("cannot make the directory {path} in the volume at {volume}", path = .part.written, volume = .part.volume.display())]
    Make { part: SubPath, source: io::Error },
    #[error("{field}: {written} {why}")]
    Forbidden { field: String, written: String, why: String },
    #[error("cannot open {volume} on this node", volume = .volume.display())]
    OpenHost { volume: PathBuf, source: io::Error },
    #[error("cannot mount the image of a volume at {place}")]
    Image { place: PathBuf, source: io::Error },
    #[error("cannot bind a part of a volume at {place}")]
    Bind { place: PathBuf, source: io::Error },
}

/// The parts that the container mounts, by the mount's place among its mounts. `expand` works out `$(VAR)`. Pure.
pub fn places(
    run_dir: &Path,
    run: &CreateRun<'_>,
    volumes: Volumes<'_>,
    expand: impl Fn(&str) -> Result<String, String>,
) -> Result<BTreeMap<usize, SubPath>, String> {
    let mut places = BTreeMap::new();
    for (index, mount) in run.container.mounts.iter().enumerate() {
        let image = volumes.images.get(&mount.volume).cloned();
        let host = volumes.allow.and_then(|allow| host_part(run, &mount.volume, mount.read_only, allow)).map(Box::new);
        let whole = String::new();
        let (path, written) = match &mount.sub_path {
            None => (String::new(), &whole),
            Some(Asked::Literal(path)) => (path.clone(), path),
            Some(Asked::Expression(text)) => {
                (expand(text).map_err(|why| format!("subPathExpr {text:?}: {why}"))?, text)
            }
        };
        let parts = Path::new(&path).components().filter(|part| *part != Component::CurDir);
        let path: PathBuf = parts.collect();
        if path.as_os_str().is_empty() && host.is_none() && image.is_none() {
            continue;
        }
        if !path.components().all(|part| matches!(part, Component::Normal(_))) || written.contains('\0') {
            return Err(format!("what subPathExpr {written:?} comes to must be relative and without `..`"));
        }
        let Some(of_run) = image_volumes::way_of_run(&run.run) else {
            return Err(format!("the run {} cannot name a directory", run.run));
        };
        let mut bound = run_dir.join("pods").join(&run.run.uid.0).join("subpaths").join(of_run);
        let volume = match &image {
            Some(_) => bound.join(format!("image-{index}")),
            // Told by the spec, as of every volume that was not set up.
            None => match run.sandbox.volumes.get(&mount.volume) {
                Some(volume) => volume.clone(),
                None => continue,
            },
        };
        if host.is_some() {
            bound.push(HOST);
        }
        bound.push(index.to_string());
        let bound = if image.is_some() && path.as_os_str().is_empty() { volume.clone() } else { bound };
        let written = written.clone();
        places.insert(index, SubPath { volume, path, written, bound, host, image });
    }
    Ok(places)
}

/// None: the volume is none of the host's.
fn host_part(run: &CreateRun<'_>, volume: &str, read_only: bool, allow: &Arc<Allow>) -> Option<HostPart> {
    let index = run.template.spec.volumes.iter().position(|it| it.name == volume)?;
    let VolumeSource::HostPath { path, .. } = &run.template.spec.volumes[index].source else { return None };
    let spec = match run.workload.kind {
        WorkloadKind::Pod | WorkloadKind::Control => "spec",
        WorkloadKind::DaemonSet => "spec.template.spec",
    };
    Some(HostPart {
        allow: Arc::clone(allow),
        access: if read_only { Access::Read } else { Access::Write },
        field: format!("{spec}.volumes[{index}].hostPath.path"),
        written: path.clone(),
    })
}

/// Whether the place for binds of host paths may be shut off from other mount namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// containerd sees our mounts as we do.
    Ours,
    /// It sees what reaches it of them.
    Others,
}

/// Whether containerd, by its pid, has our mounts. Others also where it is in another process namespace.
pub fn reach(containerd: Option<i32>) -> io::Result<Reach> {
    let namespace = |process: &str| match fs::read_link(format!("/proc/{process}/ns/mnt")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    };
    let Some(its) = containerd.map_or(Ok(None), |pid| namespace(&pid.to_string()))? else { return Ok(Reach::Others) };
    Ok(if Some(its) == namespace("self")? { Reach::Ours } else { Reach::Others })
}

/// Binds that are undone when this is dropped.
#[derive(Debug, Default)]
pub struct Bound {
    places: Vec<PathBuf>,
    /// Where host paths are bound, shut off.
    shut: Option<PathBuf>,
    /// Real paths of what is bound of the host's, by the places.
    host: BTreeMap<PathBuf, PathBuf>,
}

impl Bound {
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.shut.is_none()
    }

    /// Whether anything is mounted below what is bound here.
    pub fn has_below(place: &Path) -> io::Result<bool> {
        Ok(mountinfo::read()?.iter().any(|mounted| mounted.point.starts_with(place) && mounted.point != place))
    }

    /// Where the host's path leads to that is bound here; None: nothing of the host's is.
    pub fn real(&self, place: &Path) -> Option<&Path> {
        self.host.get(place).map(PathBuf::as_path)
    }
}

impl Drop for Bound {
    /// Some ten microseconds each. What cannot be undone goes with the pod's surroundings.
    fn drop(&mut self) {
        for place in &self.places {
            if let Err(error) = unbind(place) {
                tracing::warn!(place = %place.display(), %error, "a bound part of a volume stays until its pod is torn down");
            }
        }
        if let Some(shut) = &self.shut
            && let Err(error) = open_up(shut)
        {
            tracing::warn!(place = %shut.display(), %error, "a place for host paths stays until its pod is torn down");
        }
        // The place of host paths, the run's, the container's and the pod's directory, where they are empty.
        for place in &self.places {
            for directory in place.ancestors().skip(1).take(4) {
                if fs::remove_dir(directory).is_err() || directory.ends_with("subpaths") {
                    break;
                }
            }
        }
    }
}

/// Opens every part, makes a directory where nothing is, and binds what was opened to its place. Blocking: a volume may
/// lie in a file system that does not answer.
pub fn bind(parts: &[SubPath], reach: Reach) -> Result<Bound, SubPathError> {
    let mut bound = Bound::default();
    for part in parts {
        if let Some(image) = &part.image {
            let failed = |source| SubPathError::Image { place: part.volume.clone(), source };
            // What a killed agent left.
            unbind(&part.volume).map_err(failed)?;
            DirBuilder::new().recursive(true).mode(0o700).create(&part.volume).map_err(failed)?;
            bound.places.push(part.volume.clone());
            mount_image(image, &part.volume).map_err(failed)?;
            if part.is_whole() {
                continue;
            }
        }
        let found = open(part)?;
        let failed = |source| SubPathError::Bind { place: part.bound.clone(), source };
        // What a killed agent left.
        unbind(&part.bound).map_err(failed)?;
        if let (Some(_), Some(host)) = (&part.host, part.bound.parent()) {
            if reach == Reach::Ours && bound.shut.is_none() {
                bound.shut = Some(host.to_owned());
                shut(host).map_err(failed)?;
            }
            bound.host.insert(part.bound.clone(), real(&found).map_err(failed)?);
        }
        place(&found, &part.bound).map_err(failed)?;
        bound.places.push(part.bound.clone());
        let by_descriptor = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
        // A part comes without what is mounted below, as the kubelet binds it. In another mount namespace a copy with mounts in
        // it could not be taken away again.
        let whole = part.is_whole() && reach == Reach::Ours;
        let below = if whole { MsFlags::MS_REC } else { MsFlags::empty() };
        mount(Some(by_descriptor.as_str()), &part.bound, None::<&str>, MsFlags::MS_BIND | below, None::<&str>)
            .map_err(|errno| failed(errno.into()))?;
    }
    Ok(bound)
}

/// Makes a place of which no mount reaches other mount namespaces, and which no bind of what lies above takes along: a
/// container that has /run would find there, with other rules, what another mount of it has.
pub fn shut(place: &Path) -> io::Result<()> {
    // What a killed agent left.
    open_up(place)?;
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("daemonlet"), place, Some("tmpfs"), flags, Some("size=64k,mode=0700"))?;
    Ok(mount(None::<&str>, place, None::<&str>, MsFlags::MS_UNBINDABLE, None::<&str>)?)
}

/// Takes it away. Ok when it is not there.
pub fn open_up(place: &Path) -> io::Result<()> {
    loop {
        // With all that is bound in it, and only here.
        match mount(None::<&str>, place, None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>) {
            Ok(()) => umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?,
            Err(Errno::ENOENT | Errno::EINVAL) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Read-only, and nothing in it counts as a program or a device (KEP-4639).
fn mount_image(mounts: &[Mount], at: &Path) -> io::Result<()> {
    let [image] = mounts else {
        return Err(io::Error::other(format!("its snapshot has {} mounts and not one", mounts.len())));
    };
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let source = image.source.as_str();
    if image.r#type == "bind" {
        mount(Some(source), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        return Ok(mount(
            None::<&str>,
            at,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags,
            None::<&str>,
        )?);
    }
    let of_data = |option: &&String| !matches!(option.as_str(), "ro" | "rw" | "bind" | "rbind");
    let data = image.options.iter().filter(of_data).cloned().collect::<Vec<_>>().join(",");
    if data.len() > OPTIONS_MAX {
        let layers = data.split(',').find_map(|it| it.strip_prefix("lowerdir=")).map_or(0, |it| it.split(':').count());
        return Err(io::Error::other(format!(
            "its {layers} layers are too many to be mounted (their paths must fit into {OPTIONS_MAX} bytes); build it with fewer: a last stage FROM scratch with one COPY --from"
        )));
    }
    Ok(mount(Some(source), at, Some(image.r#type.as_str()), flags, Some(data.as_str()))?)
}

fn real(found: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/thread-self/fd/{}", found.as_raw_fd()))
}

/// Judges what was opened.
fn judge(part: &SubPath, found: &OwnedFd, access: Access) -> Result<(), SubPathError> {
    if part.host.is_none() {
        return Ok(());
    }
    let real = real(found).map_err(|source| SubPathError::OpenHost { volume: part.volume.clone(), source })?;
    judge_path(part, &real, access)
}

/// Judges a path without links.
fn judge_path(part: &SubPath, real: &Path, access: Access) -> Result<(), SubPathError> {
    let Some(host) = &part.host else { return Ok(()) };
    host.allow.host_path(real, access).map_err(|why| {
        let why =
            if real == Path::new(&host.written) { why } else { format!("leads to {}, which {why}", real.display()) };
        SubPathError::Forbidden { field: host.field.clone(), written: host.written.clone(), why }
    })
}

/// A directory for a directory, a file for everything else.
fn place(found: &OwnedFd, at: &Path) -> io::Result<()> {
    if let Some(parent) = at.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match File::from(found.try_clone()?).metadata()?.is_dir() {
        true => fs::create_dir(at),
        false => File::create_new(at).map(drop),
    }
}

/// Ok when nothing is there.
fn unbind(at: &Path) -> io::Result<()> {
    loop {
        // What was mounted in the volume meanwhile came here too: it is not to go from there.
        match mount(None::<&str>, at, None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
        match umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    match fs::symlink_metadata(at)?.is_dir() {
        true => fs::remove_dir(at),
        false => fs::remove_file(at),
    }
}

/// What the part is at this moment, and nothing that is not in the volume.
fn open(part: &SubPath) -> Result<OwnedFd, SubPathError> {
    let opened = |source: Errno| match source {
        Errno::EXDEV => SubPathError::LeadsOut { part: part.clone() },
        errno => SubPathError::Open { part: part.clone(), source: errno.into() },
    };
    if let (true, Some(host)) = (part.is_whole(), &part.host) {
        let plain = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let found = openat(AT_FDCWD, &part.volume, plain, Mode::empty());
        let found =
            found.map_err(|errno| SubPathError::OpenHost { volume: part.volume.clone(), source: errno.into() })?;
        judge(part, &found, host.access)?;
        return Ok(found);
    }
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = openat(AT_FDCWD, &part.volume, directory, Mode::empty()).map_err(opened)?;
    judge(part, &root, Access::Read)?;
    for _ in 0..RACES_MAX {
        match beneath(&root, &part.path, OFlag::empty()) {
            Ok(found) => {
                judge(part, &found, part.host.as_ref().map_or(Access::Read, |host| host.access))?;
                return Ok(found);
            }
            // Nothing can be made in an image.
            Err(Errno::ENOENT) if part.image.is_some() => return Err(opened(Errno::ENOENT)),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(opened(errno)),
        }
        match make(part, &root) {
            Ok(()) | Err(Unmade::Failed(Errno::ENOENT | Errno::EEXIST)) => {}
            Err(Unmade::Forbidden(why)) => return Err(*why),
            Err(Unmade::Failed(Errno::EXDEV)) => return Err(opened(Errno::EXDEV)),
            Err(Unmade::Failed(errno)) => return Err(SubPathError::Make { part: part.clone(), source: errno.into() }),
        }
    }
    Err(opened(Errno::ENOENT))
}

/// Opens without using: a FIFO does not block, a device does not wake. Nothing on the way leaves the volume.
fn beneath(root: &OwnedFd, path: &Path, more: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | more)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut tries = 0;
    loop {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) if tries < TRIES_MAX => tries += 1,
            other => return other,
        }
    }
}

/// Makes the directories of the path that are missing, with the volume's own mode (as the kubelet does): who may write to
/// the volume may write there. Each is made in one that was opened beneath the volume, and judged there.
fn make(part: &SubPath, root: &OwnedFd) -> Result<(), Unmade> {
    let meta = File::from(root.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?);
    let mode = meta.metadata().map_err(|_| Errno::EIO)?.mode() & 0o777;
    let mut parent = root.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    let mut way = PathBuf::new();
    let mut names = part.path.components();
    while let Some(name) = names.next() {
        way.push(name);
        parent = match beneath(root, &way, OFlag::O_DIRECTORY) {
            Ok(found) => found,
            Err(Errno::ENOENT) => {
                let name = Path::new(name.as_os_str());
                let at = real(&parent).map_err(|_| Errno::EIO)?;
                let wanted = at.join(name).join(names.as_path());
                judge_path(part, &wanted, Access::Make).map_err(|why| Unmade::Forbidden(Box::new(why)))?;
                mkdirat(&parent, name, Mode::from_bits_truncate(mode))?;
                let plain = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let made = openat(&parent, name, plain, Mode::empty())?;
                // Whatever the umask is; the group and its bit come from the directory above.
                let inherited = File::from(made.try_clone().map_err(|_| Errno::EMFILE)?);
                let inherited = inherited.metadata().map_err(|_| Errno::EIO)?.mode() & 0o2000;
                fchmod(&made, Mode::from_bits_truncate(mode | inherited))?;
                made
            }
            Err(errno) => return Err(errno.into()),
        };
    }
    Ok(())
}

/// Why a directory is not made.
enum Unmade {
    Forbidden(Box<SubPathError>),
    Failed(Errno),
}

impl From<Errno> for Unmade {
    fn from(errno: Errno) -> Unmade {
        Unmade::Failed(errno)
    }
}

#[cfg(test)]
mod tests;
