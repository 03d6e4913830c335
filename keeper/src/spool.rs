//! The file between a container's pipe and its log: bytes that were taken and are not written yet.
//!
//! Driven by `container`; `journal` says why it exists. Offsets are the stream's own: byte 0 is the first byte that the
//! container wrote. What is written is punched out, so the file takes a batch and a partial line at most, and nothing
//! at all while a stream is idle between whole lines. The file is made with a stream's first byte.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, SpliceFFlags, fallocate, splice};

/// Holes end at pages; a larger page only punches a little later.
const PAGE: u64 = 4096;

/// What became of taking bytes from a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// More bytes are in the spool now.
    Took,
    /// The pipe is empty, its writers live.
    Empty,
    /// The pipe is empty and nobody has it open for writing.
    End,
    /// The spool could not take them; they are still in the pipe.
    Failed,
}

/// One stream's spool.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: Option<File>,
    end: u64,
}

impl Spool {
    /// The spool at `path`, with what a former keeper left in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, end) = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => {
                let end = file.metadata()?.len();
                (Some(file), end)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, 0),
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.into(), file, end })
    }

    /// Offset behind the last byte taken.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Moves up to `most` bytes from the pipe, without ever holding them in memory.
    pub fn take(&mut self, pipe: &File, most: usize) -> Take {
        let file = match self.file.take() {
            Some(file) => file,
            None => match OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&self.path)
            {
                Ok(file) => file,
                Err(_) => return Take::Failed,
            },
        };
        let file = self.file.insert(file);
        let Ok(mut at) = i64::try_from(self.end) else {
            return Take::Failed;
        };
        loop {
            match splice(pipe, None, &*file, Some(&mut at), most, SpliceFFlags::SPLICE_F_NONBLOCK) {
                Ok(0) => return Take::End,
                Ok(bytes) => {
                    self.end += bytes as u64;
                    return Take::Took;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Take::Empty,
                Err(_) => return Take::Failed,
            }
        }
    }

    /// The bytes from `from` on, at most as many as `buffer` holds.
    pub fn peek<'b>(&self, from: u64, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let Some(file) = &self.file else { return Ok(&[]) };
        let wanted = usize::try_from(self.end.saturating_sub(from)).unwrap_or(usize::MAX).min(buffer.len());
        let slice = &mut buffer[..wanted];
        file.read_exact_at(slice, from)?;
        Ok(slice)
    }

    /// Gives back the memory of what lies before `done`; `from` is where the last call ended.
    pub fn release(&self, from: u64, done: u64) {
        let Some(file) = &self.file else { return };
        let start = from / PAGE * PAGE;
        let stop = if done == self.end { done.div_ceil(PAGE) * PAGE } else { done / PAGE * PAGE };
        if stop <= start {
            return;
        }
        if let (Ok(start), Ok(len)) = (i64::try_from(start), i64::try_from(stop - start)) {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // A file system without holes keeps the bytes until the container ends; tmpfs, ext4, xfs and btrfs have them.
            let _ = fallocate(file, flags, start, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt;

    fn pipe() -> (File, File) {
        let (reader, writer) = std::io::pipe().unwrap();
        let reader: OwnedFd = reader.into();
        (File::from(reader), File::from(OwnedFd::from(writer)))
    }

    #[test]
    fn bytes_move_once_and_a_second_keeper_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout.spool");
        let (reader, mut writer) = pipe();
        let mut spool = Spool::open(&path).unwrap();
        assert!(matches!(spool.take(&reader, 100), Take::Empty));
        writer.write_all(b"hello").unwrap();
        assert!(matches!(spool.take(&reader, 3), Take::Took));
        let mut again = Spool::open(&path).unwrap();
        assert!(matches!(again.take(&reader, 100), Take::Took));
        let mut buffer = [0; 10];
        assert_eq!(again.peek(1, &mut buffer).unwrap(), b"ello");
        drop(writer);
        assert!(matches!(again.take(&reader, 100), Take::End));
    }

    #[test]
    fn released_bytes_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let (reader, mut writer) = pipe();
        let mut spool = Spool::open(&dir.path().join("stdout.spool")).unwrap();
        let mut done = 0;
        for _ in 0..100 {
            writer.write_all(&[b'x'; 10_000]).unwrap();
            assert!(matches!(spool.take(&reader, 10_000), Take::Took));
            spool.release(done, spool.end());
            done = spool.end();
        }
        let meta = spool.file.as_ref().unwrap().metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks()), (1_000_000, 0));
    }
}
