//! A tar archive on disk, plain, gzip or zstd, as an index of its entries whose bytes are streamed on demand.
//!
//! Untrusted: nothing is ever written to a path that the archive names, no link is followed outside its own entries,
//! and only names, offsets and the documents asked for are held. A plain archive is seeked in; a compressed one is
//! decompressed once for the index and once more for each later [`Tarball::visit`], because its blobs may lie in any order
//! and a decompressed copy could fill the disk. Small documents met in the first pass are kept, so two passes do.
//!
//! Headers are walked here and parsed by the `tar` crate: its own iterator holds long names of any length in memory.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::documents::MAX_DOCUMENT;

/// Entries of one archive: 100 images of 20 layers in the old `docker save` form have 8,000.
const MAX_ENTRIES: usize = 16_384;
/// All entry and link names together; the names of MAX_ENTRIES blobs take 1.3 MB.
const MAX_NAMES: usize = 2 << 20;
/// One name. A blob's name has 77 bytes, old docker's layers 75; longer ones are nothing that we look for.
const MAX_NAME: usize = 1024;
/// An extension header (pax, GNU long name): names are the only thing we take from it.
const MAX_EXTENSION: u64 = 64 << 10;
/// What a compressed archive may decompress to: above any image, and the end of a bomb.
const MAX_INFLATED: u64 = 64 << 30;
/// zstd's window, as a power of two: 8 MiB is what RFC 8878 asks every decoder to take; more would be our memory.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;
/// Documents kept from the first pass of a compressed archive, together.
const MAX_KEPT: usize = 1 << 20;
/// One of them; manifests and configurations are a few kilobytes.
const MAX_KEPT_ONE: u64 = 128 << 10;
/// Links that lead to links.
const MAX_LINKS: usize = 8;
/// Passes over a compressed archive: index and blobs take two, documents too large to be kept one each.
const MAX_PASSES: u32 = 16;
const BLOCK: u64 = 512;

/// Why an archive's content is not taken. The archive's own name is added by whoever shows it.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("it cannot be read")]
    Io(#[source] io::Error),
    #[error("it cannot be decompressed: {0}")]
    Damaged(String),
    #[error("it is no tar archive (plain, gzip or zstd): {0}")]
    NotTar(String),
    #[error("it is no regular file")]
    NotFile,
    #[error("{entry}: the archive ends before the entry does: {expected} bytes announced, {actual} there")]
    Truncated { entry: String, expected: u64, actual: u64 },
    #[error("it has more than {limit} {what}")]
    TooMany { what: &'static str, limit: u64 },
    #[error("{entry}: {actual} bytes are more than the {limit} allowed for {what}")]
    TooLarge { entry: String, what: &'static str, actual: u64, limit: u64 },
    #[error("{entry}: is there twice")]
    Duplicate { entry: String },
    #[error("{entry}: missing in the archive, wanted by {wanted_by}")]
    Missing { entry: String, wanted_by: String },
    #[error("{entry}: expected digest {expected}, actual {actual}")]
    WrongDigest { entry: String, expected: String, actual: String },
    #[error("{entry}: expected {expected} bytes, actual {actual}")]
    WrongSize { entry: String, expected: u64, actual: u64 },
    #[error("{entry}: {reason}")]
    Document { entry: String, reason: String },
    #[error("no image in it is for this node ({node}): offered {}", offered.join(", "))]
    Platform { node: String, offered: Vec<String> },
    #[error("{0}")]
    Refused(String),
    #[error("the import was given up")]
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// A regular file in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Cleaned: relative, without `.` and `..`.
    pub name: String,
    pub size: u64,
    /// The first bytes, to see a layer's compression.
    pub head: [u8; 4],
    /// Of the data, in the decompressed stream.
    offset: u64,
}

enum Found {
    File(Entry),
    /// To another entry, cleaned.
    Link(String),
}

/// An archive with its index.
pub struct Tarball {
    file: File,
    compression: Compression,
    found: BTreeMap<String, Found>,
    kept: BTreeMap<String, Vec<u8>>,
    passes: Cell<u32>,
    cancelled: Arc<AtomicBool>,
}

impl Tarball {
    /// Opens and indexes. Blocking: a compressed archive is read to its end. `cancelled` ends this and later reads.
    pub fn open(path: &Path, cancelled: Arc<AtomicBool>) -> Result<Tarball, ArchiveError> {
        use nix::fcntl::OFlag;
        use std::os::unix::fs::OpenOptionsExt;
        // Without O_NONBLOCK a FIFO under the name of an archive would stop us here.
        let mut file = File::options()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY).bits())
            .open(path)
            .map_err(ArchiveError::Io)?;
        if !file.metadata().map_err(ArchiveError::Io)?.is_file() {
            return Err(ArchiveError::NotFile);
        }
        let mut magic = [0u8; 4];
        let have = read_up_to(&mut file, &mut magic).map_err(ArchiveError::Io)?;
        let compression = match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
            _ if have == 0 => return Err(ArchiveError::NotTar("it is empty".into())),
            _ => Compression::Plain,
        };
        let mut tarball = Tarball {
            file,
            compression,
            found: BTreeMap::new(),
            kept: BTreeMap::new(),
            passes: Cell::new(0),
            cancelled,
        };
        tarball.index()?;
        Ok(tarball)
    }

    /// The file under this name, through links inside the archive.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        let mut name = clean(name)?;
        for _ in 0..MAX_LINKS {
            match self.found.get(&name)? {
                Found::File(entry) => return Some(entry),
                Found::Link(target) => name = target.clone(),
            }
        }
        None
    }

    /// A whole document, at most [`MAX_DOCUMENT`] bytes.
    pub fn document(&self, entry: &Entry) -> Result<Vec<u8>, ArchiveError> {
        if entry.size > MAX_DOCUMENT {
            return Err(ArchiveError::TooLarge {
                entry: entry.name.clone(),
                what: "a document",
                actual: entry.size,
                limit: MAX_DOCUMENT,
            });
        }
        if let Some(bytes) = self.kept.get(&entry.name) {
            return Ok(bytes.clone());
        }
        let mut document = Vec::new();
        self.visit(&[entry], |_, reader| reader.read_to_end(&mut document).map(drop).map_err(unreadable))?;
        if document.len() as u64 != entry.size {
            return Err(truncated(entry, document.len() as u64));
        }
        Ok(document)
    }

    /// Calls `each` with a reader of exactly the entry's bytes (fewer where the archive ends early), in the archive's
    /// order, in one pass.
    pub fn visit(
        &self,
        entries: &[&Entry],
        mut each: impl FnMut(&Entry, &mut dyn Read) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let mut entries = entries.to_vec();
        entries.sort_by_key(|e| e.offset);
        entries.dedup();
        let mut stream = self.stream()?;
        for entry in entries {
            stream.forward_to(entry.offset)?;
            let mut data = (&mut stream).take(entry.size);
            each(entry, &mut data)?;
        }
        Ok(())
    }

    fn stream(&self) -> Result<Stream<'_>, ArchiveError> {
        self.passes.set(self.passes.get() + 1);
        if self.compression != Compression::Plain && self.passes.get() > MAX_PASSES {
            return Err(ArchiveError::TooMany {
                what: "large documents in a compressed archive",
                limit: MAX_PASSES.into(),
            });
        }
        (&self.file).seek(SeekFrom::Start(0)).map_err(ArchiveError::Io)?;
        let source = BufReader::with_capacity(64 << 10, &self.file);
        let reader = match self.compression {
            Compression::Plain => Reader::Plain(source),
            Compression::Gzip => Reader::Packed(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(source).map_err(ArchiveError::Io)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).map_err(ArchiveError::Io)?;
                Reader::Packed(Box::new(decoder))
            }
        };
        Ok(Stream { reader, position: 0, cancelled: &self.cancelled })
    }

    fn index(&mut self) -> Result<(), ArchiveError> {
        let length = match self.compression {
            Compression::Plain => self.file.metadata().map_err(ArchiveError::Io)?.len(),
            Compression::Gzip | Compression::Zstd => MAX_INFLATED,
        };
        let (mut found, mut kept, mut kept_bytes, mut name_bytes) = (BTreeMap::new(), BTreeMap::new(), 0, 0);
        let mut stream = self.stream()?;
        let mut walk = Walk::default();
        let mut count = 0usize;
        while let Some(member) = walk.next(&mut stream)? {
            count += 1;
            if count > MAX_ENTRIES {
                return Err(ArchiveError::TooMany { what: "entries", limit: MAX_ENTRIES as u64 });
            }
            let offset = stream.position;
            let end = offset.saturating_add(member.size);
            let shown = member.name.clone().unwrap_or_else(|| "an entry without a usable name".into());
            if end > length {
                let actual = length.saturating_sub(offset);
                return Err(match self.compression {
                    Compression::Plain => ArchiveError::Truncated { entry: shown, expected: member.size, actual },
                    Compression::Gzip | Compression::Zstd => ArchiveError::TooLarge {
                        entry: shown,
                        what: "a compressed archive's content",
                        actual: end,
                        limit: MAX_INFLATED,
                    },
                });
            }
            if let (Some(name), Some(kind)) = (member.name, member.kind) {
                name_bytes += name.len() + if let Kind::Link(target) = &kind { target.len() } else { 0 };
                if name_bytes > MAX_NAMES {
                    return Err(ArchiveError::TooMany { what: "bytes of names", limit: MAX_NAMES as u64 });
                }
                let value = match kind {
                    Kind::Link(target) => Found::Link(target),
                    Kind::File => {
                        let mut head = [0u8; 4];
                        let mut data = (&mut stream).take(member.size);
                        let have = read_up_to(&mut data, &mut head).map_err(unreadable)?;
                        let keep = self.compression != Compression::Plain
                            && member.size <= MAX_KEPT_ONE
                            && kept_bytes < MAX_KEPT
                            && matches!(head[0], b'{' | b'[');
                        if keep {
                            let mut document = head[..have].to_vec();
                            data.read_to_end(&mut document).map_err(unreadable)?;
                            kept_bytes += document.len();
                            kept.insert(name.clone(), document);
                        } else {
                            kept.remove(&name);
                        }
                        Found::File(Entry { name: name.clone(), size: member.size, head, offset })
                    }
                };
                // Later entries replace earlier ones, as tar has it; of the documents that name everything else there may be
                // only one, since other readers might see the other. Blobs are judged by their digests.
                if found.insert(name.clone(), value).is_some()
                    && matches!(name.as_str(), "index.json" | "manifest.json" | "oci-layout")
                {
                    return Err(ArchiveError::Duplicate { entry: name });
                }
            }
            // Past the data and its padding.
            let next = end.saturating_add(BLOCK - 1) / BLOCK * BLOCK;
            let reached = stream.forward_to(next.min(length))?;
            if reached < end {
                return Err(ArchiveError::Truncated { entry: shown, expected: member.size, actual: reached - offset });
            }
        }
        if count == 0 {
            return Err(ArchiveError::NotTar("it has no entries".into()));
        }
        drop(stream);
        (self.found, self.kept) = (found, kept);
        Ok(())
    }
}

pub(super) fn truncated(entry: &Entry, actual: u64) -> ArchiveError {
    ArchiveError::Truncated { entry: entry.name.clone(), expected: entry.size, actual }
}

/// A relative path without `.` and empty parts; None when it is absolute, climbs, or is too long to be of interest.
fn clean(name: &str) -> Option<String> {
    if name.starts_with('/') || name.len() > MAX_NAME || name.contains('\0') {
        return None;
    }
    let parts: Vec<&str> = name.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.is_empty() || parts.contains(&"..") { None } else { Some(parts.join("/")) }
}

/// Where a symbolic link of this entry leads inside the archive; None when outside.
fn follow(entry: &str, target: &str) -> Option<String> {
    if target.starts_with('/') || target.len() > MAX_NAME {
        return None;
    }
    let mut parts: Vec<&str> = entry.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    clean(&parts.join("/"))
}

struct Member {
    /// None: not UTF-8, absolute, climbing or overlong, so nothing that a document could rightly name.
    name: Option<String>,
    size: u64,
    /// None: a directory, device or anything else without use here.
    kind: Option<Kind>,
}

enum Kind {
    File,
    Link(String),
}

/// Reads headers, putting together what extension headers say of the member that follows them.
#[derive(Default)]
struct Walk {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax_size: Option<u64>,
    /// Headers read, extensions included: they too cost time.
    headers: usize,
}

impl Walk {
    fn next(&mut self, stream: &mut Stream<'_>) -> Result<Option<Member>, ArchiveError> {
        loop {
            self.headers += 1;
            if self.headers > 4 * MAX_ENTRIES {
                return Err(ArchiveError::TooMany { what: "headers", limit: 4 * MAX_ENTRIES as u64 });
            }
            let at = stream.position;
            let mut block = [0u8; 512];
            let have = read_up_to(stream, &mut block).map_err(unreadable)?;
            // The two blocks of zeros that end an archive are sometimes left out.
            if have == 0 || block.iter().all(|b| *b == 0) {
                return Ok(None);
            }
            if have < block.len() {
                return Err(if at == 0 {
                    ArchiveError::NotTar("it is shorter than one header".into())
                } else {
                    ArchiveError::Truncated {
                        entry: format!("header at byte {at}"),
                        expected: BLOCK,
                        actual: have as u64,
                    }
                });
            }
            let header = tar::Header::from_byte_slice(&block);
            let bad = |why: String| ArchiveError::NotTar(format!("the header at byte {at} is broken: {why}"));
            let sum = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
            if header.cksum().map_err(|e| bad(e.to_string()))? != sum {
                return Err(bad("its checksum is wrong".into()));
            }
            let size = header.entry_size().map_err(|e| bad(e.to_string()))?;
            let kind = header.entry_type();
            if kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() {
                let data = extension(stream, size)?;
                if kind.is_gnu_longname() {
                    self.long_name = Some(until_zero(data));
                } else if kind.is_gnu_longlink() {
                    self.long_link = Some(until_zero(data));
                } else {
                    self.pax(&data);
                }
                continue;
            }
            if kind.is_pax_global_extensions() {
                extension(stream, size)?;
                continue;
            }
            let name = self.long_name.take().unwrap_or_else(|| header.path_bytes().into_owned());
            let link = self.long_link.take().or_else(|| header.link_name_bytes().map(|l| l.into_owned()));
            let size = self.pax_size.take().unwrap_or(size);
            let name = String::from_utf8(name).ok().and_then(|n| clean(&n));
            let link = link.and_then(|l| String::from_utf8(l).ok());
            let has_data = kind.is_file() || kind.is_contiguous();
            let kind = match (&name, &link) {
                _ if has_data => Some(Kind::File),
                (Some(name), Some(link)) if kind.is_symlink() => follow(name, link).map(Kind::Link),
                (_, Some(link)) if kind.is_hard_link() => clean(link).map(Kind::Link),
                _ => None,
            };
            // Links and directories have no data, whatever their headers say; other kinds may have and are skipped.
            let no_data =
                header.entry_type().is_symlink() || header.entry_type().is_hard_link() || header.entry_type().is_dir();
            return Ok(Some(Member { name, size: if no_data { 0 } else { size }, kind }));
        }
    }

    fn pax(&mut self, data: &[u8]) {
        for record in tar::PaxExtensions::new(data).flatten() {
            match record.key_bytes() {
                b"path" => self.long_name = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.long_link = Some(record.value_bytes().to_vec()),
                b"size" => self.pax_size = record.value().ok().and_then(|v| v.parse().ok()),
                _ => {}
            }
        }
    }
}

/// The data of an extension header, and past its padding.
fn extension(stream: &mut Stream<'_>, size: u64) -> Result<Vec<u8>, ArchiveError> {
    if size > MAX_EXTENSION {
        return Err(ArchiveError::TooLarge {
            entry: format!("extension header before byte {}", stream.position),
            what: "an extension header",
            actual: size,
            limit: MAX_EXTENSION,
        });
    }
    let mut data = Vec::new();
    Read::by_ref(stream).take(size).read_to_end(&mut data).map_err(unreadable)?;
    if (data.len() as u64) < size {
        return Err(ArchiveError::Truncated {
            entry: "extension header".into(),
            expected: size,
            actual: data.len() as u64,
        });
    }
    stream.forward_to(stream.position.div_ceil(BLOCK) * BLOCK)?;
    Ok(data)
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Decompressors report a cut or damaged stream as an I/O error, which has no number of the system's.
fn unreadable(error: io::Error) -> ArchiveError {
    let words = error.to_string();
    match error.raw_os_error() {
        None if words == CANCELLED => ArchiveError::Cancelled,
        None => ArchiveError::Damaged(words),
        Some(_) => ArchiveError::Io(error),
    }
}

pub(super) fn read_failed(error: io::Error) -> ArchiveError {
    unreadable(error)
}

const CANCELLED: &str = "the import was given up";

enum Reader<'a> {
    Plain(BufReader<&'a File>),
    Packed(Box<dyn Read + 'a>),
}

/// The decompressed bytes, with the position in them.
struct Stream<'a> {
    reader: Reader<'a>,
    position: u64,
    cancelled: &'a AtomicBool,
}

impl Stream<'_> {
    /// Goes forward; the position reached, less than asked for where the stream ends (a plain file may be seeked past its
    /// end, then the next read finds nothing).
    fn forward_to(&mut self, position: u64) -> Result<u64, ArchiveError> {
        let distance = position.saturating_sub(self.position);
        if let Reader::Plain(file) = &mut self.reader {
            let step = i64::try_from(distance).map_err(|_| ArchiveError::NotTar("an entry's size is absurd".into()))?;
            file.seek_relative(step).map_err(ArchiveError::Io)?;
            self.position += distance;
        } else {
            io::copy(&mut Read::by_ref(self).take(distance), &mut io::sink()).map_err(unreadable)?;
        }
        Ok(self.position)
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            // Not ErrorKind::Interrupted: readers retry that for ever.
            return Err(io::Error::other(CANCELLED));
        }
        let n = match &mut self.reader {
            Reader::Plain(reader) => reader.read(buf)?,
            Reader::Packed(reader) => reader.read(buf)?,
        };
        self.position += n as u64;
        if matches!(self.reader, Reader::Packed(_)) && self.position > MAX_INFLATED {
            return Err(io::Error::other("it decompresses to more than is allowed"));
        }
        Ok(n)
    }
}

/// Fills the buffer as far as the stream goes.
fn read_up_to(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match reader.read(&mut buf[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}
