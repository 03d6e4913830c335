//! The keeper's socket and the clients at it: who may come in, whole lines in, answers out, all of it bounded.
//!
//! Driven by `serve`. It knows nothing of what a request means.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use keeper::protocol::LINE_MAX;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

/// Clients at once: the agent's few requests in flight and a person. The one that came first gives way to a new one.
const CONNECTIONS_MAX: usize = 32;
/// An answer that a client does not read: a status of a thousand containers fits.
const ANSWER_MAX: usize = 1024 * 1024;

/// The listening socket and its connections.
#[derive(Debug)]
pub struct Door {
    pub listener: UnixListener,
    connections: BTreeMap<u64, Connection>,
    next_key: u64,
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// What a connection has for us.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Request(String),
    /// No whole line yet, or the connection is gone.
    None,
}

impl Door {
    /// Listens at `path`, replacing what a former keeper left there. The socket appears under its name when it is ready
    /// and closed to others.
    pub fn open(path: &Path) -> io::Result<Self> {
        let beside = path.with_extension(format!("{}", std::process::id()));
        if let Err(error) = std::fs::remove_file(&beside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = UnixListener::bind(&beside)?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        Ok(Self { listener, connections: BTreeMap::new(), next_key: 0 })
    }

    /// Lets in everyone who waits and may, with the keys of those let in.
    pub fn accept(&mut self) -> Vec<(&UnixStream, u64)> {
        let first = self.next_key;
        while let Ok((socket, _)) = self.listener.accept() {
            let may = getsockopt(&socket, PeerCredentials)
                .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
            if !may || socket.set_nonblocking(true).is_err() {
                continue;
            }
            if self.connections.len() >= CONNECTIONS_MAX {
                self.connections.pop_first();
            }
            self.connections.insert(self.next_key, Connection { socket, input: Vec::new(), output: Vec::new() });
            // Keys stay below the pipes' tokens; an old key that is met again is long gone.
            self.next_key = (self.next_key + 1) % (1 << 31);
        }
        self.connections.range(first..).map(|(key, connection)| (&connection.socket, *key)).collect()
    }

    /// The next whole line of a connection. One that ended, or that sends too long a line, is closed.
    pub fn read(&mut self, key: u64) -> Line {
        let Some(connection) = self.connections.get_mut(&key) else { return Line::None };
        let mut alive = connection.flush();
        while alive && !connection.input.contains(&b'\n') {
            let mut buffer = [0; LINE_MAX];
            match connection.socket.read(&mut buffer) {
                Ok(0) => alive = false,
                Ok(len) => connection.input.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => alive = false,
            }
            alive &= connection.input.contains(&b'\n') || connection.input.len() <= LINE_MAX;
        }
        let line = match connection.input.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let line: Vec<u8> = connection.input.drain(..=end).collect();
                Line::Request(String::from_utf8_lossy(&line[..end]).into_owned())
            }
            None => Line::None,
        };
        if !alive {
            self.connections.remove(&key);
        }
        line
    }

    /// Sends an answer, as much of it as goes now; the rest when the client reads.
    pub fn answer(&mut self, key: u64, text: &str) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.output.extend_from_slice(text.as_bytes());
        if !connection.flush() || connection.output.len() > ANSWER_MAX {
            self.connections.remove(&key);
        }
    }
}

impl Connection {
    /// False when the connection is broken.
    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(len) => {
                    self.output.drain(..len);
                }
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}
