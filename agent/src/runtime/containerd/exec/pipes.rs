//! The FIFOs of one command, in a directory of its own. Opened here before the shim opens them, or it would wait.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

/// Between two looks at a pipe that nobody has open for writing, of which nothing else tells. A command is taken away within seconds.
const NOBODY_PAUSE: Duration = Duration::from_millis(100);

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

/// The other ends of a command's pipes, held for nobody: see [`hold`].
#[expect(dead_code, reason = "held until it is dropped, for what that keeps open")]
pub struct Held {
    outputs: JoinSet<()>,
    stdin: Option<pipe::Sender>,
}

/// For a command whose agent died: what it says is read and dropped. With nobody at the other end its shim waits in the command's start for
/// ever, and since containerd 1.7 tells no end of the whole container before that of its commands.
pub fn hold(dir: &Path) -> Held {
    let mut outputs = JoinSet::new();
    for name in ["out", "err"] {
        // What is not there, or no FIFO, waits for nobody.
        let Ok(reader) = pipe::OpenOptions::new().open_receiver(dir.join(name)) else { continue };
        outputs.spawn(async move {
            let mut dropped = [0; 4096];
            loop {
                if reader.readable().await.is_err() {
                    return;
                }
                match reader.try_read(&mut dropped) {
                    // Nobody writes at present: it has ended, or not begun.
                    Ok(0) => tokio::time::sleep(NOBODY_PAUSE).await,
                    Ok(_) => {}
                    Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        });
    }
    Held { outputs, stdin: pipe::OpenOptions::new().read_write(true).open_sender(dir.join("in")).ok() }
}

impl Writer {
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }
}
