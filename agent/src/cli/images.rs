//! `images`: pull, import, export, list, prune and pin, carried out by the agent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Client, Frame};
use super::find::field;
use super::get::{self, GetArgs, Output, What};
use super::{Failure, Machine, colours};
use crate::board::ImageWord;
use crate::http::rows::Kind;
use crate::image_pull::bytes;

#[derive(Debug, Subcommand)]
pub enum Images {
    /// Show the images of this node, as `get images` does
    Ls(LsArgs),
    /// Pull an image now with the node's own credentials, whoever needs it; pin it to keep it while nothing does
    Pull(PullArgs),
    /// Import an OCI or docker archive that lies anywhere
    Import {
        /// tar, plain, gzip or zstd
        file: PathBuf,
    },
    /// Write images into one OCI archive
    Export {
        /// Images, and at the end the file to write; - for stdout
        #[arg(required = true, num_args = 2.., value_names = ["IMAGE", "FILE"])]
        words: Vec<String>,
    },
    /// Remove every image that no pod, pin or archive in the image directory needs
    Prune(PruneArgs),
    /// Keep an image although nothing needs it
    Pin(PinArgs),
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// One of them: an image, or the file that brought it
    pub name: Option<String>,
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Go on with each change
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct PullArgs {
    /// As in a manifest: busybox:1.36, registry.example/a/b@sha256:…
    pub image: String,
    /// A Secret of the manifest directory with a login of the registry, as in imagePullSecrets; may be repeated
    #[arg(long, value_name = "NAME")]
    pub secret: Vec<String>,
    /// The namespace of the Secrets
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub namespace: String,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Machine>,
}

#[derive(Debug, Args)]
pub struct PinArgs {
    pub image: String,
    /// No longer
    #[arg(long)]
    pub remove: bool,
}

pub fn run(client: &Client, word: Images, out: &mut impl Write) -> Result<(), Failure> {
    match word {
        Images::Ls(LsArgs { name, output, watch }) => {
            let args = GetArgs { what: What::Images, name, namespace: None, all_namespaces: false, output, watch };
            get::run(client, &args, out)
        }
        Images::Pull(args) => pull(client, args, out),
        Images::Import { file } => import(client, &file, out),
        Images::Export { words } => export(client, words, out),
        Images::Prune(args) => prune(client, &args, out),
        Images::Pin(args) => pin(client, args, out),
    }
}

fn pull(client: &Client, args: PullArgs, out: &mut impl Write) -> Result<(), Failure> {
    let PullArgs { image, secret: secrets, namespace } = args;
    // A line that is written over, where somebody looks.
    let mut progress = Progress { shown: io::stderr().is_terminal() && colours(), width: 0 };
    let done = client.image_word(&ImageWord::Pull { image, namespace, secrets }, |frame| {
        if let Frame::Line(line) = frame {
            progress.show(field(&line, "/progress"));
        }
        Ok(())
    });
    progress.show("");
    let done = done?;
    let (name, digest) = (field(&done, "/name"), field(&done, "/digest"));
    match done["size"].as_u64() {
        Some(size) => {
            let seconds = done["seconds"].as_f64().unwrap_or_default();
            writeln!(out, "{name} {digest} pulled: {} in {seconds:.1}s", bytes(size))?;
        }
        None => writeln!(out, "{name} {digest} is what the registry has")?,
    }
    Ok(())
}

/// The last line of a terminal.
struct Progress {
    shown: bool,
    width: usize,
}

impl Progress {
    fn show(&mut self, text: &str) {
        if !self.shown || (text.is_empty() && self.width == 0) {
            return;
        }
        let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let blanks = self.width.saturating_sub(plain.chars().count());
        // Nobody may be looking any more.
        let _unread =
            write!(io::stderr(), "\r{plain}{}{}", " ".repeat(blanks), if text.is_empty() { "\r" } else { "" });
        self.width = plain.chars().count();
    }
}

fn import(client: &Client, file: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let path = std::path::absolute(file).map_err(|why| Failure::Usage(format!("{}: {why}", file.display())))?;
    let done = client.image_word(&ImageWord::Import { file: path }, |_| Ok(()))?;
    for image in list(&done["images"]) {
        writeln!(out, "{} {} imported", field(image, "/name"), field(image, "/digest"))?;
    }
    for skipped in list(&done["skipped"]).iter().filter_map(Value::as_str) {
        writeln!(out, "left out: {skipped}")?;
    }
    Ok(())
}

fn export(client: &Client, mut words: Vec<String>, out: &mut impl Write) -> Result<(), Failure> {
    let file = words.pop().expect("clap wants two words");
    let word = ImageWord::Export { images: words };
    if file == "-" {
        if io::stdout().is_terminal() {
            return Err(Failure::Usage(
                "an archive is not written to a terminal; redirect stdout or name a file".into(),
            ));
        }
        client.image_word(&word, |frame| match frame {
            Frame::Bytes(piece) => Ok(out.write_all(&piece)?),
            Frame::Line(_) => Ok(()),
        })?;
        return Ok(());
    }
    let path = Path::new(&file);
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(Failure::Usage(format!("{file} is no regular file; write to stdout with -")));
    }
    let failed = |what: &Path, why: io::Error| Failure::Refused(format!("cannot write {}: {why}", what.display()));
    let mut partial = Partial::create(&file).map_err(|why| failed(path, why))?;
    let done = client.image_word(&word, |frame| match frame {
        Frame::Bytes(piece) => partial.archive.write_all(&piece).map_err(|why| failed(&partial.path, why)),
        Frame::Line(_) => Ok(()),
    })?;
    partial.finish(path).map_err(|why| failed(path, why))?;
    for image in list(&done["images"]) {
        writeln!(out, "{} {} written to {file}", field(image, "/name"), field(image, "/digest"))?;
    }
    Ok(())
}

/// An archive that is being written, beside the place where it is to lie; dropped before it is finished, it is removed. Root
/// may write it into a directory of everybody's: its name cannot be guessed, and nothing that lies there is written to or removed.
struct Partial {
    path: PathBuf,
    archive: File,
    finished: bool,
}

impl Partial {
    fn create(file: &str) -> io::Result<Partial> {
        let path = PathBuf::from(format!("{file}.{}.partial", uuid::Uuid::new_v4().simple()));
        // Never through a link: what is there already is an error.
        let archive = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Partial { path, archive, finished: false })
    }

    fn finish(mut self, place: &Path) -> io::Result<()> {
        self.archive.sync_all()?;
        fs::rename(&self.path, place)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            // Half an archive is of no use; what stays behind says so by its name.
            let _gone = fs::remove_file(&self.path);
        }
    }
}

fn prune(client: &Client, args: &PruneArgs, out: &mut impl Write) -> Result<(), Failure> {
    let done = client.image_word(&ImageWord::Prune { dry_run: args.dry_run }, |_| Ok(()))?;
    let ended = match done["endedEarly"].as_str() {
        Some(why) => Err(Failure::Refused(format!("not all that may go was removed: {why}"))),
        None => Ok(()),
    };
    if args.output.is_some() {
        writeln!(out, "{done:#}")?;
        return ended;
    }
    let verb = if args.dry_run { "would be removed" } else { "removed" };
    for image in list(&done["images"]) {
        let names: Vec<&str> = list(&image["names"]).iter().filter_map(Value::as_str).collect();
        let freed = bytes(image["bytes"].as_u64().unwrap_or(0));
        match args.dry_run {
            true => writeln!(out, "{} {verb} ({freed} packed)", names.join(","))?,
            false => writeln!(out, "{} {verb} ({freed} freed)", names.join(","))?,
        }
    }
    let (total, kept) = (bytes(done["bytes"].as_u64().unwrap_or(0)), field(&done, "/kept"));
    match (list(&done["images"]).is_empty(), args.dry_run) {
        (true, _) => writeln!(out, "nothing to remove (kept: {kept})")?,
        (false, true) => writeln!(out, "nothing was removed (--dry-run); kept would be: {kept}")?,
        (false, false) => writeln!(out, "{total} freed (kept: {kept})")?,
    }
    ended
}

fn pin(client: &Client, args: PinArgs, out: &mut impl Write) -> Result<(), Failure> {
    let PinArgs { image, remove } = args;
    let done = match client.image_word(&ImageWord::Pin { image: image.clone(), pinned: !remove }, |_| Ok(())) {
        Err(Failure::NotFound(why)) => {
            let rows = client.list(Kind::Images)?;
            let names = rows.iter().flat_map(|row| list(&row["names"])).filter_map(Value::as_str).map(str::to_owned);
            let near = super::find::nearest(&image, names);
            let near = if near.is_empty() { String::new() } else { format!("; near: {}", near.join(", ")) };
            return Err(Failure::NotFound(format!("{why}{near}")));
        }
        other => other?,
    };
    let said = if remove { "is pinned no longer" } else { "is pinned" };
    Ok(writeln!(out, "{} {said}", field(&done, "/name"))?)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_writes_through_no_link_and_removes_only_what_it_made() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, file) = (dir.path().join("victim"), dir.path().join("out.tar"));
        fs::write(&victim, "theirs").unwrap();
        let planted = dir.path().join("out.tar.partial");
        std::os::unix::fs::symlink(&victim, &planted).unwrap();
        let name = file.to_str().unwrap();
        let entries = || fs::read_dir(dir.path()).unwrap().count();

        let mut partial = Partial::create(name).unwrap();
        partial.archive.write_all(b"half").unwrap();
        assert_eq!(entries(), 3);
        drop(partial);
        assert!(entries() == 2 && planted.is_symlink(), "only its own file goes");

        // The place itself may be a link too: it is replaced.
        std::os::unix::fs::symlink(&victim, &file).unwrap();
        let mut partial = Partial::create(name).unwrap();
        partial.archive.write_all(b"whole").unwrap();
        partial.finish(&file).unwrap();
        assert!(!file.is_symlink() && fs::read(&file).unwrap() == b"whole");
        assert_eq!((fs::read_to_string(&victim).unwrap().as_str(), entries()), ("theirs", 3));
    }
}
