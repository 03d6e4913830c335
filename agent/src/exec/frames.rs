//! What a person's end and the agent's say to each other about one command, and as bytes: a letter, a length, a payload.
//!
//! Used at both ends of the socket; any other stream of bytes would do. Stdin flows by credit: the agent says how much of it
//! has been taken, so that neither end holds more than [`WINDOW`] and the agent always hears when the other end is gone.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{PIECE_BYTES_MAX, Stream, TerminalSize};

/// Bytes of stdin on their way: what a pipe holds.
pub const WINDOW: usize = 64 << 10;
/// Of one payload: a command line has at most so much, and a stream's piece less.
const PAYLOAD_BYTES_MAX: usize = 256 << 10;
const HEAD_BYTES: usize = 5;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The pod's.
    pub uid: String,
    pub container: String,
    pub command: Vec<String>,
    pub stdin: bool,
    /// A terminal of this size.
    pub terminal: Option<(u16, u16)>,
}

/// From a person's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The first, and only that.
    Ask(Ask),
    Stdin(Bytes),
    /// Stdin is over.
    End,
    Size(TerminalSize),
}

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Output(Stream, Bytes),
    /// So many bytes of stdin have been taken.
    Taken(u32),
    /// The last: its exit code.
    Exited(u32),
    /// The last: there is none.
    Failed(Failed),
}

/// Why there is no exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub reason: Reason,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// No such pod or container.
    Absent,
    Refused,
    /// containerd cannot be reached.
    Unreachable,
}

/// The other end speaks otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what arrived is not understood ({0}); is it another version?")]
pub struct NotUnderstood(&'static str);

/// One of both directions.
pub trait Frame: Sized {
    fn encode(&self) -> Bytes;
    fn decode(letter: u8, payload: Bytes) -> Result<Self, NotUnderstood>;
}

impl Frame for Said {
    fn encode(&self) -> Bytes {
        match self {
            Said::Ask(ask) => frame(b'?', &serde_json::to_vec(ask).expect("an ask has only text keys")),
            Said::Stdin(bytes) => frame(b'0', bytes),
            Said::End => frame(b'e', &[]),
            Said::Size(TerminalSize { columns, rows }) => {
                frame(b's', &[columns.to_be_bytes(), rows.to_be_bytes()].concat())
            }
        }
    }

    fn decode(letter: u8, mut payload: Bytes) -> Result<Said, NotUnderstood> {
        match letter {
            b'?' => serde_json::from_slice(&payload).map(Said::Ask).map_err(|_| NotUnderstood("a wish")),
            b'0' if payload.len() <= PIECE_BYTES_MAX => Ok(Said::Stdin(payload)),
            b'e' => Ok(Said::End),
            b's' if payload.len() == 4 => {
                Ok(Said::Size(TerminalSize { columns: payload.get_u16(), rows: payload.get_u16() }))
            }
            _ => Err(NotUnderstood("a frame of a person's end")),
        }
    }
}

impl Frame for Heard {
    fn encode(&self) -> Bytes {
        match self {
            Heard::Output(Stream::Out, bytes) => frame(b'1', bytes),
            Heard::Output(Stream::Err, bytes) => frame(b'2', bytes),
            Heard::Taken(bytes) => frame(b't', &bytes.to_be_bytes()),
            Heard::Exited(code) => frame(b'x', &code.to_be_bytes()),
            Heard::Failed(failed) => frame(b'!', &serde_json::to_vec(failed).expect("it has only text keys")),
        }
    }

    fn decode(letter: u8, mut payload: Bytes) -> Result<Heard, NotUnderstood> {
        match letter {
            b'1' => Ok(Heard::Output(Stream::Out, payload)),
            b'2' => Ok(Heard::Output(Stream::Err, payload)),
            b't' if payload.len() == 4 => Ok(Heard::Taken(payload.get_u32())),
            b'x' if payload.len() == 4 => Ok(Heard::Exited(payload.get_u32())),
            b'!' => serde_json::from_slice(&payload).map(Heard::Failed).map_err(|_| NotUnderstood("a reason")),
            _ => Err(NotUnderstood("a frame of the agent")),
        }
    }
}

fn frame(letter: u8, payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    bytes.extend_from_slice(&[letter]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes.freeze()
}

/// Bytes on their way to being frames.
#[derive(Debug, Default)]
pub struct Frames {
    held: BytesMut,
}

impl Frames {
    /// Where what arrives is to be put.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.held.reserve(PIECE_BYTES_MAX);
        &mut self.held
    }

    /// The next whole frame, when there is one.
    pub fn take<F: Frame>(&mut self) -> Result<Option<F>, NotUnderstood> {
        if self.held.len() < HEAD_BYTES {
            return Ok(None);
        }
        let length = u32::from_be_bytes(self.held[1..HEAD_BYTES].try_into().expect("four bytes"));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > PAYLOAD_BYTES_MAX {
            return Err(NotUnderstood("a frame without an end"));
        }
        if self.held.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        let letter = self.held[0];
        self.held.advance(HEAD_BYTES);
        F::decode(letter, self.held.split_to(length).freeze()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways<F: Frame + PartialEq + std::fmt::Debug + Clone>(all: &[F]) {
        let bytes: Vec<u8> = all.iter().flat_map(|frame| frame.encode()).collect();
        for cut in [1, 2, 3, 7, bytes.len()] {
            let (mut frames, mut read) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                frames.buffer().extend_from_slice(piece);
                while let Some(frame) = frames.take::<F>().unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, all, "{cut}");
        }
    }

    #[test]
    fn frames_are_the_same_however_the_bytes_are_cut() {
        let ask = Ask {
            uid: "u".into(),
            container: "c".into(),
            command: vec!["ls".into(), "ü\n".into()],
            stdin: true,
            terminal: Some((80, 24)),
        };
        let size = TerminalSize { columns: 300, rows: 2 };
        both_ways(&[Said::Ask(ask), Said::Stdin(Bytes::from_static(b"a\0b")), Said::Size(size), Said::End]);
        let failed = Failed { reason: Reason::Absent, message: "no pod".into() };
        both_ways(&[
            Heard::Output(Stream::Out, Bytes::from_static(b"o")),
            Heard::Output(Stream::Err, Bytes::new()),
            Heard::Taken(70_000),
            Heard::Exited(137),
            Heard::Failed(failed),
        ]);
    }

    #[test]
    fn endless_and_foreign_frames_are_refused() {
        for bytes in [&b"0\xff\xff\xff\xff"[..], b"G\0\0\0\0", b"s\0\0\0\x01a", b"?\0\0\0\x02{]"] {
            let mut frames = Frames::default();
            frames.buffer().extend_from_slice(bytes);
            assert!(frames.take::<Said>().is_err(), "{bytes:?}");
        }
    }
}
