//! Every target over its corpus and mutations of it.
//!
//! `make test` goes through a fixed number of mutations from a fixed seed. To look longer:
//! `FUZZ_ROUNDS=1000000 FUZZ_SEED=7 cargo nextest run --workspace --test replay`, or `make fuzz`, which coverage leads. A failure prints its
//! input and leaves it in a file; put it into the corpus under a name that says what it is. An input that ends the process (a stack that
//! overflows) is left in that file too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fuzz::mutate::{Random, mutated};
use fuzz::{ALL, corpus, examine};

/// A generation's inputs are kept and mutated further when they got somewhere.
const KEPT_MAX: usize = 200;
const KEPT_SIZE_MAX: usize = 4 << 10;

/// Of an input, and of what is wrong with it: the rest is in the file.
const SHOWN_MAX: usize = 1_000;

fn run(name: &str) {
    let target = ALL.iter().find(|target| target.name == name).unwrap();
    let mut corpus = corpus(target);
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
                    input.iter().take(SHOWN_MAX).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
                panic!(
                    "{} with {what}: {why:.SHOWN_MAX$}\ninput (all of it in {}): {shown}",
                    target.name,
                    last.display()
                );
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

/// One test a target: each is a process of its own, so that memory can be counted.
macro_rules! targets {
    ($($test:ident => $name:literal,)*) => {
        const TESTED: &[&str] = &[$($name),*];

        $(
            #[test]
            fn $test() {
                run($name);
            }
        )*
    };
}

targets! {
    image_configurations => "config",
    manifests_and_indexes => "manifest",
    image_archives => "archive",
    hosts_files => "hosts",
    docker_logins => "login",
    challenges => "challenge",
    network_configurations => "network",
    network_results => "result",
    seccomp_profiles => "seccomp",
    pod_manifests => "pods",
    objects_of_the_endpoint => "object",
    files_of_variables => "variables",
    records => "record",
    desired_sets => "desired",
    join_tokens => "ticket",
    what_the_log_keeper_is_told => "keeper",
    protobuf_bodies => "protobuf",
    patches => "patch",
    applied_configurations => "apply",
    created_objects => "create",
    selectors => "selectors",
    request_lines => "request",
    certificate_requests => "certificate",
}

#[test]
fn every_target_is_tested() {
    assert_eq!(ALL.iter().map(|target| target.name).collect::<Vec<_>>(), TESTED);
}
