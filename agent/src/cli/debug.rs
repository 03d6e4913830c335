//! `debug bundle`: one archive with what a bug report needs. Values that may be secrets are left out ([`censor`]); no Secret, ConfigMap, record,
//! key or log of a container is in it.
//!
//! Needs no agent: what it would have said is then missing, and the archive says so.

mod censor;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::client::Client;
use super::{Failure, doctor};
use crate::config::{self, Config, Settings};
use crate::http::rows::Kind;

/// Bytes of one file of the archive; of a longer one its end, where the news are.
const PART_MAX: usize = 8 << 20;
/// How long one program may take to print what it knows.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(20);
/// Names listed of one directory tree.
const NAMES_MAX: usize = 5_000;
/// How deep a directory tree is listed.
const DEPTH_MAX: usize = 4;

#[derive(Debug, Subcommand)]
pub enum Debug {
    /// Write an archive with what a bug report needs, secrets left out
    Bundle(BundleArgs),
}

#[derive(Debug, Args)]
pub struct BundleArgs {
    /// Where to write it; a file that is there already is left alone [default: ./daemonlet-debug-HOST-TIME.tar.gz]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The agent's configuration file; an agent that answers tells its places itself
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How far back the journal is read, as journalctl says it
    #[arg(long, value_name = "TIME", default_value = "-24h")]
    pub since: String,
}

pub fn run(client: &Client, word: &Debug, out: &mut impl Write) -> Result<(), Failure> {
    let Debug::Bundle(args) = word;
    let now = jiff::Timestamp::now();
    let host = config::hostname().unwrap_or_else(|_| "node".into());
    let name = format!("daemonlet-debug-{host}-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    // For its owner alone: what was left out is what we know to be secret.
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let file = file.map_err(|why| Failure::Refused(format!("cannot write {}: {why}", path.display())))?;
    let mut bundle = Bundle {
        archive: tar::Builder::new(GzEncoder::new(file, Compression::default())),
        top: name,
        at: now,
        missing: Vec::new(),
    };
    let written = fill(&mut bundle, client, args).and_then(|()| bundle.finish());
    match written {
        Ok(missing) => {
            writeln!(out, "{}", path.display())?;
            for line in missing {
                writeln!(out, "  not in it: {line}")?;
            }
            Ok(writeln!(
                out,
                "Secrets, ConfigMaps, keys, records and containers' logs are not in it, and values of env are left out. Read it before you send it."
            )?)
        }
        Err(why) => {
            // A torn archive helps nobody.
            let _gone = fs::remove_file(&path);
            Err(Failure::Refused(format!("cannot write {}: {why}", path.display())))
        }
    }
}

/// The archive in the making.
struct Bundle<W: Write> {
    archive: tar::Builder<W>,
    top: String,
    at: jiff::Timestamp,
    missing: Vec<String>,
}

impl<W: Write> Bundle<W> {
    /// One file, or in its place a line of what is missing. Only the archive itself can fail.
    fn part(&mut self, name: &str, content: Result<String, String>) -> io::Result<()> {
        match content {
            Ok(content) => {
                let bytes = content.as_bytes();
                self.put(name, &bytes[bytes.len().saturating_sub(PART_MAX)..])
            }
            Err(why) => {
                self.missing.push(format!("{name}: {}", why.trim().replace('\n', " ")));
                Ok(())
            }
        }
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len()).unwrap_or_default());
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.at.as_second()).unwrap_or_default());
        self.archive.append_data(&mut header, format!("{}/{name}", self.top), bytes)
    }

    /// What is missing, which is the archive's last file too.
    fn finish(mut self) -> io::Result<Vec<String>> {
        let missing = self.missing.join("\n");
        if !missing.is_empty() {
            self.put("missing.txt", missing.as_bytes())?;
        }
        self.archive.into_inner()?.flush()?;
        Ok(self.missing)
    }
}

fn fill<W: Write>(bundle: &mut Bundle<W>, client: &Client, args: &BundleArgs) -> io::Result<()> {
    bundle.part("version.txt", Ok(format!("daemonlet {}\n{}\n", env!("CARGO_PKG_VERSION"), bundle.at)))?;
    for kind in [Kind::Node, Kind::Pods, Kind::Why, Kind::Files, Kind::Images, Kind::Events] {
        let items = client.list(kind).map(|items| {
            let mut items = Value::Array(items);
            censor::object(&mut items);
            format!("{:#}\n", json!({ "items": items }))
        });
        bundle.part(&format!("agent/{}.json", kind.name()), items.map_err(|why| why.to_string()))?;
    }
    let flags = Settings { run_dir: client.socket().parent().map(PathBuf::from), ..Settings::default() };
    let configured = Config::load(&flags, args.config.as_deref()).map_err(|why| why.to_string());
    if let Some(file) = &args.config {
        bundle.part("configuration.yaml", tail(file).map(|text| censor::text(&text)))?;
    }
    match configured {
        Ok(config) => {
            let lines = doctor::lines(client, &config, args.config.as_deref());
            let mut said = json!({"lines": lines.1});
            censor::object(&mut said);
            bundle.part("doctor.json", Ok(format!("{said:#}\n")))?;
            let places = lines.0;
            for (name, dir) in [
                ("run", &places.run_dir),
                ("state", &places.state_dir),
                ("manifests", &places.manifest_dir),
                ("images", &places.image_dir),
                ("logs", &places.log_dir.join("pods")),
                ("networks", &places.cni_conf_dir),
            ] {
                bundle.part(&format!("directories/{name}.txt"), listing(dir))?;
            }
        }
        Err(why) => bundle.part("doctor.json", Err(why))?,
    }
    if let Some(pid) = process(client.socket()) {
        for file in ["status", "limits", "smaps_rollup", "cgroup"] {
            bundle.part(&format!("process/{file}"), tail(Path::new(&format!("/proc/{pid}/{file}"))))?;
        }
    }
    for file in [
        "/etc/os-release",
        "/proc/version",
        "/proc/meminfo",
        "/proc/loadavg",
        "/proc/pressure/cpu",
        "/proc/pressure/memory",
        "/proc/pressure/io",
        "/proc/self/mountinfo",
        "/proc/cgroups",
        "/proc/uptime",
    ] {
        let name = file.trim_start_matches('/').replace('/', "-");
        bundle.part(&format!("machine/{name}.txt"), tail(Path::new(file)))?;
    }
    let since = format!("--since={}", args.since);
    let units = [
        "-u",
        "daemonlet.service",
        "-u",
        "daemonlet-logkeeper.service",
        "-u",
        "daemonlet-control.service",
        "-u",
        "containerd.service",
    ];
    let journal: Vec<&str> = ["--no-pager", "-o", "short-iso-precise", &since].into_iter().chain(units).collect();
    bundle.part("journal.txt", output("journalctl", &journal).map(|text| censor::text(&text)))?;
    for (name, program, words) in [
        (
            "units",
            "systemctl",
            &["--no-pager", "status", "daemonlet.service", "daemonlet-logkeeper.service", "containerd.service"][..],
        ),
        ("containerd", "containerd", &["--version"]),
        ("runc", "runc", &["--version"]),
        ("addresses", "ip", &["address"]),
        ("routes", "ip", &["route", "show", "table", "all"]),
        ("disks", "df", &["-h"]),
        ("inodes", "df", &["-i"]),
    ] {
        bundle.part(&format!("machine/{name}.txt"), output(program, words).map(|text| censor::text(&text)))?;
    }
    Ok(())
}

/// The end of a file that is small, or of which only the end matters.
fn tail(path: &Path) -> Result<String, String> {
    let metadata = fs::metadata(path).map_err(|why| format!("{}: {why}", path.display()))?;
    if !metadata.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(PART_MAX as u64).read_to_end(&mut bytes));
    read.map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The process at the other end of the agent's socket.
fn process(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).ok()?;
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    Some(peer.pid())
}

/// Names, kinds, sizes, modes and times of what is in a directory tree; no content.
fn listing(dir: &Path) -> Result<String, String> {
    let mut text = String::new();
    let mut left = NAMES_MAX;
    list(dir, dir, DEPTH_MAX, &mut left, &mut text).map_err(|why| format!("{}: {why}", dir.display()))?;
    if left == 0 {
        let _ = writeln!(text, "… only the first {NAMES_MAX} names");
    }
    Ok(text)
}

fn list(top: &Path, dir: &Path, depth: usize, left: &mut usize, text: &mut String) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;

    let mut entries: Vec<_> = fs::read_dir(dir)?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        // Links are not followed: entry.metadata() is of the link.
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        let at = jiff::Timestamp::from_second(metadata.mtime()).map(|at| at.to_string()).unwrap_or_default();
        let shown = path.strip_prefix(top).unwrap_or(&path).display().to_string();
        let target = fs::read_link(&path).map(|to| format!(" -> {}", to.display())).unwrap_or_default();
        let _ = writeln!(
            text,
            "{:06o} {:>6} {:>12} {at} {shown}{target}",
            metadata.mode(),
            metadata.uid(),
            metadata.size()
        );
        if metadata.is_dir() && depth > 1 {
            // One that cannot be read is listed, without what is in it.
            let _ = list(top, &path, depth - 1, left, text);
        }
    }
    Ok(())
}

/// What a program prints, its errors included, within its time.
fn output(program: &str, words: &[&str]) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|why| format!("{program}: {why}"))?;
    let mut stdout = child.stdout.take().ok_or("it has no output")?;
    // It is read beside, so that a pipe that is full stops nobody; whatever is beyond the bound is read and dropped.
    let reader = std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut piece = [0; 16 << 10];
        while let Ok(n @ 1..) = stdout.read(&mut piece) {
            kept.extend_from_slice(&piece[..n]);
            if kept.len() > 2 * PART_MAX {
                kept.drain(..PART_MAX);
            }
        }
        kept
    });
    let end = Instant::now() + PROGRAM_TIME_MAX;
    while child.try_wait().map_err(|why| why.to_string())?.is_none() {
        if Instant::now() > end {
            let _ended = child.kill();
            let _reaped = child.wait();
            return Err(format!("{program} took more than {} s", PROGRAM_TIME_MAX.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let kept = reader.join().unwrap_or_default();
    Ok(String::from_utf8_lossy(&kept).into_owned())
}
