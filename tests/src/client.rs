//! Clients of one agent: its command line, its loopback endpoint, its socket. They know words and JSON shapes of the contract only.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::wait::pause;

/// A client that hangs must not hang the suite: the longest answer (a followed log) ends by itself long before.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer that a test reads; more is a fault.
const BODY_MAX_BYTES: u64 = 64 << 20;

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Output {
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not JSON ({e}): {}\nstderr: {}", self.out, self.err))
    }
}

/// Runs a closure on a thread that has entered this network namespace.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/run/netns/{namespace}")).expect("the network namespace is there");
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            work()
        });
        entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a command to its end, with a bound.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let read = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // A pipe of our own child fails only when the child is gone, which its exit code tells better.
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(Box::new(child.stdout.take().expect("stdout is piped")));
    let err = read(Box::new(child.stderr.take().expect("stderr is piped")));
    let end = std::time::Instant::now() + CLIENT_TIMEOUT;
    let status = loop {
        match child.try_wait().expect("waiting for an own child does not fail") {
            Some(status) => break status,
            None if std::time::Instant::now() > end => {
                // It may have ended by itself just now.
                let _ = child.kill();
                let _ = child.wait();
                panic!("{command:?} did not end within {CLIENT_TIMEOUT:?}");
            }
            None => pause(Duration::from_millis(2)),
        }
    };
    Output {
        code: status.code().unwrap_or(-1),
        out: out.join().expect("the reader does not panic"),
        err: err.join().expect("the reader does not panic"),
    }
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {} {}", self.status, self.body))
    }
}

/// GET over TCP with this Host header.
pub fn get_tcp(address: &str, path: &str, host: &str) -> io::Result<Answer> {
    let address = address.parse().map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&address, CLIENT_TIMEOUT)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    request(stream, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

/// GET over a unix socket.
pub fn get_unix(socket: &Path, path: &str) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    request(stream, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

/// Sends the bytes as they are and reads one answer up to the end of the stream.
pub fn request(mut stream: impl Read + Write, request: &str) -> io::Result<Answer> {
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(BODY_MAX_BYTES).read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {:?}", String::from_utf8_lossy(&bytes)))
    })
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..split]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let chunked =
        headers.iter().any(|(key, value)| key.eq_ignore_ascii_case("transfer-encoding") && value.contains("chunked"));
    let body = &bytes[split + 4..];
    let body = if chunked { dechunk(body)? } else { body.to_vec() };
    Some(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size =
            usize::from_str_radix(std::str::from_utf8(&bytes[..line_end]).ok()?.split(';').next()?.trim(), 16).ok()?;
        bytes = &bytes[line_end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}

/// A pod as `get pods -o json` shows it. Every accessor answers "not there (yet)" with an empty value, so that waits can print it.
#[derive(Debug, Clone)]
pub struct Pod(pub Value);

impl Pod {
    fn text(&self, pointer: &str) -> String {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    pub fn name(&self) -> String {
        self.text("/metadata/name")
    }

    pub fn namespace(&self) -> String {
        self.text("/metadata/namespace")
    }

    pub fn uid(&self) -> String {
        self.text("/metadata/uid")
    }

    pub fn phase(&self) -> String {
        self.text("/status/phase")
    }

    pub fn ip(&self) -> String {
        self.text("/status/podIP")
    }

    pub fn owner(&self) -> String {
        self.text("/metadata/ownerReferences/0/name")
    }

    pub fn condition(&self, kind: &str) -> Option<&Value> {
        self.0.pointer("/status/conditions")?.as_array()?.iter().find(|condition| condition["type"] == kind)
    }

    pub fn ready(&self) -> bool {
        self.condition("Ready").is_some_and(|condition| condition["status"] == "True")
    }

    fn containers(&self) -> &[Value] {
        self.0.pointer("/status/containerStatuses").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub fn container(&self, name: &str) -> Option<&Value> {
        self.containers().iter().find(|status| status["name"] == name)
    }

    /// Restarts of all containers.
    pub fn restarts(&self) -> u64 {
        self.containers().iter().filter_map(|status| status["restartCount"].as_u64()).sum()
    }

    /// Id of a container in containerd, without `containerd://`; of the first when `name` is empty.
    pub fn container_id(&self, name: &str) -> String {
        let status = if name.is_empty() { self.containers().first() } else { self.container(name) };
        status
            .and_then(|status| status["containerID"].as_str())
            .unwrap_or_default()
            .trim_start_matches("containerd://")
            .to_owned()
    }

    /// The reason for which a container waits, or an empty word.
    pub fn waiting(&self, name: &str) -> String {
        self.container(name)
            .and_then(|s| s.pointer("/state/waiting/reason"))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    pub fn running(&self) -> bool {
        let containers = self.containers();
        self.phase() == "Running"
            && !containers.is_empty()
            && containers.iter().all(|status| status["state"]["running"].is_object())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_answer_is_put_together() {
        let answer =
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "abcde"));
    }
}
