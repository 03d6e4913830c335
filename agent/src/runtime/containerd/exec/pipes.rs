//! The FIFOs of one command, in a directory of its own. Opened here before the shim opens them, or it would wait.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;

/// Open pipes with their paths.
pub struct Pipes {
    dir: PathBuf,
    pub stdout: Reader,
    /// None: a terminal has one output.
    pub stderr: Option<Reader>,
    pub stdin: Option<Writer>,
}

/// Ends once the shim has closed its end: to be read only after the command has been started.
pub type Reader = pipe::Receiver;

pub struct Writer(pipe::Sender);

impl Pipes {
    /// `stdin`: whether there is one; `terminal`: whether both outputs are one.
    pub fn make(dir: &Path, stdin: bool, terminal: bool) -> io::Result<Pipes> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let fifo = |name: &str| -> io::Result<PathBuf> {
            let path = dir.join(name);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            Ok(path)
        };
        let reader = |name: &str| -> io::Result<Reader> { pipe::OpenOptions::new().open_receiver(fifo(name)?) };
        // Also for reading, since there is no reader yet; it closes before the shim's own reader does.
        let writer = |name: &str| -> io::Result<Writer> {
            Ok(Writer(pipe::OpenOptions::new().read_write(true).open_sender(fifo(name)?)?))
        };
        Ok(Pipes {
            dir: dir.to_owned(),
            stdout: reader("out")?,
            stderr: if terminal { None } else { Some(reader("err")?) },
            stdin: if stdin { Some(writer("in")?) } else { None },
        })
    }

    /// As containerd wants them: empty where there is none.
    pub fn stdin_path(&self) -> String {
        self.stdin.as_ref().map(|_| self.path("in")).unwrap_or_default()
    }

    pub fn stdout_path(&self) -> String {
        self.path("out")
    }

    pub fn stderr_path(&self) -> String {
        self.stderr.as_ref().map(|_| self.path("err")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }
}

impl Writer {
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }
}
