//! Every parser of images and registries that reads what others wrote, over a corpus and mutations of it: it never panics, never holds
//! more memory than it says, and what it refuses it refuses with words that fit into a status.
//!
//! `make test` replays the corpus (`corpus/TARGET/*`) and goes through a fixed number of mutations from a fixed seed. To look longer:
//! `FUZZ_ROUNDS=1000000 FUZZ_SEED=7 cargo nextest run --workspace --test fuzz`. A failure prints its input and leaves it in a file; put it
//! into the corpus under a name that says what it is. An input that ends the process (a stack that overflows) is left in that file too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod mutate;
mod targets;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use mutate::{Random, mutated};
use peak_alloc::PeakAlloc;
use targets::{Judged, Target};

/// What the process holds, and held at most: a test runs in a process of its own, or these alone with `--test-threads 1`.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// An error goes into statuses, events and logs.
const WORDS_MAX: usize = 2_000;

/// A generation's inputs are kept and mutated further when they got somewhere.
const KEPT_MAX: usize = 200;
const KEPT_SIZE_MAX: usize = 4 << 10;

fn run(target: &Target) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    corpus.extend((target.more)());
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let (rounds, seed) = (number("FUZZ_ROUNDS", target.rounds), number("FUZZ_SEED", 1));
    let last = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}.last", target.name));
    let file = File::create(&last).unwrap();
    let examine = |input: &[u8], what: &str| {
        file.set_len(input.len() as u64).unwrap();
        file.write_all_at(input, 0).unwrap();
        match catch_unwind(AssertUnwindSafe(|| examine(target, input))) {
            Ok(Ok(accepted)) => accepted,
            failed => {
                let why = failed.map_or_else(|_| "it panics".to_owned(), |judged| judged.unwrap_err());
                let shown: String =
                    input.iter().take(4_000).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
                panic!("{} with {what}: {why}\ninput (all of it in {}): {shown}", target.name, last.display());
            }
        }
    };
    for (n, input) in corpus.iter().enumerate() {
        examine(input, &format!("number {n} of the corpus"));
    }
    let mut random = Random::new(seed);
    let (mut accepted, seeds) = (0_u64, corpus.len());
    for round in 0..rounds {
        let input = mutated(&mut random, &corpus, target.words, target.input_max);
        if examine(&input, &format!("seed {seed}, round {round}")) {
            accepted += 1;
            // What is still good is a step to something stranger; what is long only takes time.
            match corpus.len() {
                _ if input.len() > KEPT_SIZE_MAX => {}
                full if full >= KEPT_MAX => corpus[seeds + random.below(full - seeds)] = input,
                _ => corpus.push(input),
            }
        }
    }
    println!("{}: {rounds} mutations of {seeds} inputs, {accepted} accepted", target.name);
    assert!(accepted > 0, "mutations that are never accepted prove little");
    std::fs::remove_file(last).unwrap();
}

/// Whether it was accepted; Err: what is wrong with the parser.
fn examine(target: &Target, input: &[u8]) -> Result<bool, String> {
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

#[test]
fn image_configurations() {
    run(&targets::CONFIG);
}

#[test]
fn manifests_and_indexes() {
    run(&targets::MANIFEST);
}

#[test]
fn image_archives() {
    run(&targets::ARCHIVE);
}

#[test]
fn seccomp_profiles() {
    run(&targets::SECCOMP);
}

#[test]
fn hosts_files() {
    run(&targets::HOSTS);
}

#[test]
fn docker_logins() {
    run(&targets::LOGIN);
}

#[test]
fn network_configurations() {
    run(&targets::NETWORK);
}

#[test]
fn network_results() {
    run(&targets::RESULT);
}

#[test]
fn challenges() {
    run(&targets::CHALLENGE);
}
