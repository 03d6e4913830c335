//! A command run in a container beside its own process, for probes, hooks and people: the words of [`Runtime::exec`].
//!
//! Driven by `probes` and by [`serve`]; what carries the streams to a person ([`frames`] over the socket, later another door)
//! is not known here.
//!
//! [`Runtime::exec`]: crate::seams::Runtime::exec

pub mod frames;
pub mod serve;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

/// Pieces of output that wait for their reader; each is at most [`PIECE_BYTES_MAX`] long.
pub const OUTPUT_PIECES_MAX: usize = 2;
/// Of one piece of a stream: what a pipe hands over at once.
pub const PIECE_BYTES_MAX: usize = 16 << 10;

/// A command to run in a container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exec<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The program and its arguments; no shell is between.
    pub command: &'a [String],
    /// A terminal of this size instead of pipes; its output is all on [`Stream::Out`].
    pub terminal: Option<TerminalSize>,
    pub caller: Caller,
}

/// For whom a command runs: whose bound counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A probe or a hook: waits for its turn.
    Node,
    /// Refused where too many run.
    Person,
}

/// Characters of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// For its turn, or for the runtime.
    #[default]
    Waits,
    /// The runtime answers, and is told to start it.
    Starts,
    Runs,
}

/// A command's streams. All are bounded: who does not read makes the command wait.
#[derive(Debug)]
pub struct ExecStreams {
    /// None: the command's stdin is /dev/null. The channel's end is the stream's.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    /// In the order in which it comes; nothing is sent after the command's end has been returned.
    pub output: mpsc::Sender<(Stream, Bytes)>,
    /// How far it has come; for who counts its time.
    pub stage: Option<watch::Sender<Stage>>,
    /// The newest size of the terminal; without a terminal it is not looked at.
    pub size: Option<watch::Receiver<TerminalSize>>,
}

/// Why a command has no exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    #[error("the container does not run")]
    NotRunning,
    /// The command itself cannot be started: no such program, not executable.
    #[error("{0}")]
    NotStarted(String),
    #[error("{0} commands of people run in this pod already; end one of them first")]
    TooMany(usize),
    /// The other side cannot be reached at present.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Failed(String),
}
