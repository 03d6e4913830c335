//! Every parser that reads what others wrote, with what has to be true of it whatever it is given: it never panics, never holds more memory
//! than it says, what it refuses it refuses with words that fit into a status, and what it accepts keeps its promises.
//!
//! Two drivers: `tests/replay.rs` replays the corpus (`corpus/TARGET/*`) and goes through a fixed number of mutations (`make test`);
//! `src/bin/guided.rs` is led by coverage (`make fuzz`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

pub mod mutate;
mod targets;

use std::path::{Path, PathBuf};

use peak_alloc::PeakAlloc;
pub use targets::ALL;

/// What the process holds, and held at most: one examination at a time.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// An error goes into statuses, events and logs.
pub const WORDS_MAX: usize = 2_000;

/// One parser.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Mutations that `make test` goes through.
    pub rounds: u64,
    /// Bytes of an input.
    pub input_max: usize,
    /// Bytes that it may hold at once for an input of so many.
    pub memory: fn(usize) -> usize,
    /// Words of the format, for the mutations.
    pub words: &'static [&'static str],
    /// Inputs beside those in files.
    pub more: fn() -> Vec<Vec<u8>>,
    pub judge: fn(&[u8]) -> Judged,
}

/// What a parser made of an input.
#[derive(Debug)]
pub enum Judged {
    Accepted,
    /// With these words.
    Refused(String),
    /// It should not have been accepted so, or refused.
    Broken(String),
}

/// Whether it was accepted; Err: what is wrong with the parser.
///
/// # Errors
/// What is promised of every parser is not kept.
pub fn examine(target: &Target, input: &[u8]) -> Result<bool, String> {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let judged = (target.judge)(input);
    let held = MEMORY.peak_usage().saturating_sub(before);
    let bound = (target.memory)(input.len());
    if held > bound {
        return Err(format!("it held {held} bytes for an input of {}, at most {bound} are allowed", input.len()));
    }
    match judged {
        Judged::Accepted => Ok(true),
        Judged::Broken(why) => Err(why),
        Judged::Refused(words) if words.trim().is_empty() => Err("it is refused without a word".to_owned()),
        Judged::Refused(words) if words.len() > WORDS_MAX => Err(format!("it is refused in {} bytes", words.len())),
        Judged::Refused(words) if words.chars().any(|c| c.is_control() && c != '\n') => {
            Err(format!("it is refused with control characters: {words:?}"))
        }
        Judged::Refused(_) => Ok(false),
    }
}

/// Where a target's inputs lie.
pub fn corpus_dir(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// A target's inputs, those in files in the order of their names.
pub fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(corpus_dir(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    corpus.extend((target.more)());
    corpus
}
