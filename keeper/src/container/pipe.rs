//! The two pipes of a container and the file beside them that says where their lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use keeper::protocol::Target;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::spool::Spool;

/// The most that one pipe gets; the kernel's own default bound for those without privilege.
pub(super) const PIPE_MAX: usize = 1024 * 1024;
/// Linux gives every pipe this much.
const PIPE_MIN: usize = 64 * 1024;
/// What all pipes get together beyond the least: half of what the kernel lets one user have (pipe-user-pages-soft, 64 MiB)
/// before it shrinks new pipes of that user, and root in containers is the same user.
pub(super) const PIPES_ROOM: usize = 32 * 1024 * 1024;

/// One of the two pipes.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) pipe: File,
    pub(super) spool: Spool,
    /// What the pipe got out of the shared room.
    pub(super) grown: usize,
    /// There may be something in the pipe or a whole line in the spool.
    pub(super) ready: bool,
    /// Nobody had the pipe open for writing when it was last read.
    pub(super) ended: bool,
}

pub(super) fn read_target(path: &Path) -> io::Result<Target> {
    let file = OpenOptions::new().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)?;
    let mut text = String::new();
    file.take(keeper::protocol::TARGET_MAX as u64).read_to_string(&mut text)?;
    Target::parse(&text).map_err(io::Error::other)
}

/// Opens a pipe for reading without waiting for a writer, and gives it a share of `room`.
pub(super) fn open_pipe(path: &Path, room: usize) -> io::Result<(File, usize)> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let pipe = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if !pipe.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("is not a pipe"));
    }
    // The first pipes get the most, later ones less and less, so that there is always a share left.
    let share = (room / 8).min(PIPE_MAX);
    let mut wanted = if share < 2 * PIPE_MIN { 0 } else { 1 << share.ilog2() };
    let mut size = usize::try_from(fcntl(&pipe, FcntlArg::F_GETPIPE_SZ)?).unwrap_or(PIPE_MIN);
    while wanted > size {
        match fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(i32::try_from(wanted).unwrap_or(i32::MAX))) {
            Ok(got) => size = usize::try_from(got).unwrap_or(size),
            Err(_) => wanted /= 2,
        }
    }
    Ok((pipe, size.saturating_sub(PIPE_MIN)))
}
