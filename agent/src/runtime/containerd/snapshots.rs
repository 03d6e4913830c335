//! Snapshots: a container's writable layer, and a short look into an image's files.
//!
//! Driven by `containers`. A writable snapshot is prepared after its container's record, which keeps garbage
//! collection off it; a view is rooted by its own label for the milliseconds that it lives.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use containerd_client::services::v1::snapshots::{
    MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use containerd_client::tonic::{Code, Status};
use containerd_client::types::Mount;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::client::{Client, QUICK, bounded, found};
use super::user::Accounts;
use crate::seams::OwnUsers;
use crate::threads;

/// More of /etc/passwd or /etc/group is not read: tens of thousands of accounts fit.
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

/// A fresh writable snapshot `key` on `parent`, with the ids of its files mapped to `users`; one that an interrupted try left is removed
/// first.
pub async fn prepare(
    client: &Client,
    snapshotter: &str,
    (key, parent): (&str, &str),
    users: Option<OwnUsers>,
) -> Result<Vec<Mount>, Status> {
    let mapped = |OwnUsers { first }| {
        let mapping = format!("0:{first}:{}", OwnUsers::COUNT);
        ["uidmapping", "gidmapping"].map(|of| (format!("containerd.io/snapshot/{of}"), mapping.clone()))
    };
    let labels: HashMap<String, String> = users.into_iter().flat_map(mapped).collect();
    let request = || PrepareSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: labels.clone(),
    };
    match bounded(QUICK, client.snapshots().prepare(client.request(request()))).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            remove(client, snapshotter, key).await?;
            bounded(QUICK, client.snapshots().prepare(client.request(request()))).await
        }
        answer => answer,
    }
    .map(|answer| answer.mounts)
}

/// Removes a snapshot; Ok when there is none.
pub async fn remove(client: &Client, snapshotter: &str, key: &str) -> Result<(), Status> {
    let request = RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    found(bounded(QUICK, client.snapshots().remove(client.request(request))).await).map(|_| ())
}

/// Bytes that a writable snapshot takes beside the image; 0 when there is none.
pub async fn bytes(client: &Client, snapshotter: &str, key: &str) -> Result<u64, Status> {
    let request = UsageRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let usage = found(bounded(QUICK, client.snapshots().usage(client.request(request))).await)?;
    Ok(usage.and_then(|usage| u64::try_from(usage.size).ok()).unwrap_or(0))
}

/// /etc/passwd and /etc/group of the image whose layers end in `chain_id`; None where the snapshotter's mounts are no
/// directories that can be read without mounting.
pub async fn accounts(client: &Client, snapshotter: &str, chain_id: &str) -> Result<Option<Accounts>, Status> {
    // Derived, so that a view which a crash left behind is met and removed by the next look.
    let key = format!("daemonlet-look-{chain_id}");
    let request = ViewSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.clone(),
        parent: chain_id.to_owned(),
        labels: HashMap::from([("containerd.io/gc.root".to_owned(), "look".to_owned())]),
    };
    let mounts = match bounded(QUICK, client.snapshots().view(client.request(request))).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            let request = MountsRequest { snapshotter: snapshotter.to_owned(), key: key.clone() };
            bounded(QUICK, client.snapshots().mounts(client.request(request))).await?.mounts
        }
        answer => answer?.mounts,
    };
    let layers = layers(&mounts);
    let read = threads::in_turn(move || {
        layers.map(|layers| Accounts {
            passwd: read_topmost(&layers, "etc/passwd"),
            group: read_topmost(&layers, "etc/group"),
        })
    })
    .await
    .map_err(|error| Status::internal(format!("reading the image's accounts: {error}")));
    remove(client, snapshotter, &key).await?;
    read
}

/// Waits until what was written into this snapshot is on the disk: containerd notes durably that it is whole, and a power cut would leave it
/// with empty files under that note, for ever. One that is no directory is left to containerd, which syncs by itself where it can.
pub async fn sync(mounts: &[Mount]) -> io::Result<()> {
    let Some(top) = layers(mounts).and_then(|layers| layers.into_iter().next()) else { return Ok(()) };
    let synced = threads::in_turn(move || match File::open(&top) {
        // The whole file system, and not file by file: many small ones would take as many turns of the disk.
        Ok(directory) => nix::unistd::syncfs(&directory).map_err(io::Error::from),
        // Where containerd's directories are not ours to see.
        Err(_) => Ok(()),
    });
    synced.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Directories of an overlay or bind mount, topmost first.
fn layers(mounts: &[Mount]) -> Option<Vec<String>> {
    let [mount] = mounts else { return None };
    match mount.r#type.as_str() {
        "bind" => Some(vec![mount.source.clone()]),
        "overlay" => {
            let option = |name: &str| mount.options.iter().find_map(|it| it.strip_prefix(name));
            let lower = option("lowerdir=")?.split(':').map(str::to_owned);
            Some(option("upperdir=").map(str::to_owned).into_iter().chain(lower).collect())
        }
        _ => None,
    }
}

/// Directories of the image that a fresh writable snapshot stands on, topmost first; None as with [`accounts`].
pub fn image_layers(mounts: &[Mount]) -> Option<Vec<String>> {
    let mut layers = layers(mounts)?;
    // What is above the image is the run's own, and empty.
    if mounts.iter().any(|mount| mount.options.iter().any(|option| option.starts_with("upperdir="))) {
        layers.remove(0);
    }
    Some(layers)
}

/// The file from the topmost layer that has it; empty where none has, where it is deleted (a whiteout), no regular
/// file, a link, or not text. Layers are an image's, so never followed out of them.
fn read_topmost(layers: &[String], name: &str) -> String {
    for layer in layers {
        match open_beneath(Path::new(layer), name) {
            Ok(file) => return read_text(file).unwrap_or_default(),
            Err(Errno::ENOENT) => {}
            Err(_) => return String::new(),
        }
    }
    String::new()
}

/// What it is, is decided on a descriptor that opens nothing: opening a device of the image's making already acts on the
/// machine (a watchdog starts, a tape rewinds).
pub fn open_beneath(layer: &Path, name: &str) -> Result<File, Errno> {
    let dir = File::open(layer).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let found = openat2(&dir, name, how)?;
    if SFlag::from_bits_truncate(fstat(&found)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    open(format!("/proc/thread-self/fd/{}", found.as_raw_fd()).as_str(), flags, Mode::empty()).map(File::from)
}

fn read_text(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_topmost_layer_wins_and_links_are_not_followed() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let make = |layer: &str| {
            let dir = temp.path().join(layer);
            std::fs::create_dir_all(dir.join("etc")).expect("made");
            dir
        };
        let (top, bottom, linked) = (make("top"), make("bottom"), make("linked"));
        std::fs::write(bottom.join("etc/passwd"), "bottom").expect("written");
        std::fs::write(top.join("etc/group"), "top").expect("written");
        std::fs::write(bottom.join("etc/group"), "bottom").expect("written");
        symlink("/etc/passwd", linked.join("etc/passwd")).expect("linked");
        let text = |dirs: &[&Path], name: &str| {
            read_topmost(&dirs.iter().map(|dir| dir.to_str().expect("text").to_owned()).collect::<Vec<_>>(), name)
        };
        assert_eq!(text(&[&top, &bottom], "etc/passwd"), "bottom");
        assert_eq!(text(&[&top, &bottom], "etc/group"), "top");
        assert_eq!(text(&[&linked, &bottom], "etc/passwd"), "");
        assert_eq!(text(&[&top], "etc/passwd"), "");
    }

    #[test]
    fn what_is_no_regular_file_is_not_even_opened() {
        let temp = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(temp.path().join("etc")).expect("made");
        let fifo = temp.path().join("etc/passwd");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("made");
        let (opened, told) = std::sync::mpsc::channel();
        let writer = {
            let fifo = fifo.clone();
            // Opens when, and only when, somebody else opens the other end.
            std::thread::spawn(move || opened.send(File::options().write(true).open(fifo).is_ok()))
        };
        let layers = [temp.path().to_str().expect("text").to_owned()];
        for _ in 0..20 {
            assert_eq!(read_topmost(&layers, "etc/passwd"), "");
            assert!(told.recv_timeout(std::time::Duration::from_millis(10)).is_err(), "it was opened");
        }
        drop(open(&fifo, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).expect("opened"));
        writer.join().expect("ended").expect("told");
    }

    #[test]
    fn layers_of_overlay_and_bind() {
        let mount = |kind: &str, source: &str, options: &[&str]| Mount {
            r#type: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.iter().map(|it| (*it).to_owned()).collect(),
        };
        assert_eq!(layers(&[mount("bind", "/a", &["ro"])]), Some(vec!["/a".into()]));
        assert_eq!(
            layers(&[mount("overlay", "overlay", &["index=off", "lowerdir=/a:/b"])]),
            Some(vec!["/a".into(), "/b".into()])
        );
        assert_eq!(layers(&[mount("ext4", "/dev/x", &[])]), None);
    }
}
