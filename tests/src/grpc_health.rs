//! A server of grpc.health.v1.Health with no library: HTTP/2 as far as one unary call needs it (RFC 9113). For tests of gRPC probes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What it answers: the number of grpc.health.v1's ServingStatus, or [`UNIMPLEMENTED`].
pub type Answer = Arc<AtomicU32>;
pub const SERVING: u32 = 1;
pub const NOT_SERVING: u32 = 2;
/// Like a server of other services.
pub const UNIMPLEMENTED: u32 = 1000;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Serves on threads that end with their connections, and for ever on the listener.
pub fn serve(listener: TcpListener, answer: Answer) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            // A client that leaves in the middle has had enough.
            std::thread::spawn(move || one(stream, &answer));
        }
    });
}

fn one(mut stream: TcpStream, answer: &Answer) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface)?;
    if preface != PREFACE {
        return Err(io::Error::other("no HTTP/2"));
    }
    frame(&mut stream, SETTINGS, 0, 0, &[])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        match kind {
            SETTINGS if flags & ACK == 0 => frame(&mut stream, SETTINGS, ACK, 0, &[])?,
            PING if flags & ACK == 0 => frame(&mut stream, PING, ACK, 0, &payload)?,
            DATA | HEADERS if flags & END_STREAM != 0 => reply(&mut stream, id, answer.load(Ordering::Relaxed))?,
            _ => {}
        }
    }
}

fn reply(stream: &mut TcpStream, id: u32, answer: u32) -> io::Result<()> {
    // `:status: 200` of the static table, then literals that are not indexed (RFC 7541, 6.1 and 6.2.2).
    let mut head = vec![0x88];
    head.extend(literal("content-type", "application/grpc"));
    if answer == UNIMPLEMENTED {
        head.extend(literal("grpc-status", "12"));
        return frame(stream, HEADERS, END_HEADERS | END_STREAM, id, &head);
    }
    frame(stream, HEADERS, END_HEADERS, id, &head)?;
    let status = u8::try_from(answer).unwrap_or(0);
    frame(stream, DATA, 0, id, &[0, 0, 0, 0, 2, 8, status])?;
    frame(stream, HEADERS, END_HEADERS | END_STREAM, id, &literal("grpc-status", "0"))
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

fn frame(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let bytes = [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat();
    stream.write_all(&bytes)
}
