//! What is fuzzed, by who wrote it.

mod endpoint;
mod images;
mod node;
mod pods;
mod registries;
mod state;

use crate::{Judged, Target};

/// All of them, by name.
pub const ALL: &[Target] = &[
    images::CONFIG,
    images::MANIFEST,
    images::ARCHIVE,
    registries::HOSTS,
    registries::LOGIN,
    registries::CHALLENGE,
    node::NETWORK,
    node::RESULT,
    node::SECCOMP,
    pods::PODS,
    pods::OBJECT,
    pods::VARIABLES,
    state::RECORD,
    state::DESIRED,
    state::TICKET,
    state::KEEPER,
    endpoint::PROTOBUF,
    endpoint::PATCH,
    endpoint::APPLY,
    endpoint::CREATE,
    endpoint::SELECTORS,
    endpoint::REQUEST,
    endpoint::CERTIFICATE,
];

fn judged<T>(result: Result<T, String>, broken: impl FnOnce(T) -> Option<String>) -> Judged {
    match result {
        Ok(value) => broken(value).map_or(Judged::Accepted, Judged::Broken),
        Err(words) => Judged::Refused(words),
    }
}

fn nothing() -> Vec<Vec<u8>> {
    Vec::new()
}

/// Text into structures of its own size: a list of empty elements is what grows most.
fn document(input: usize) -> usize {
    24 * input + (256 << 10)
}

/// Text into a document of any shape: a list within a list is what grows most.
fn value(input: usize) -> usize {
    64 * input + (256 << 10)
}

const JSON: &[&str] = &[
    "null",
    "true",
    "-1",
    "1e400",
    "18446744073709551616",
    "\"\"",
    "[]",
    "{}",
    "\\u0000",
    "\\ud800",
    "[[[[[[[[",
    "\u{feff}",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "digest",
    "size",
    "platform",
    "os",
    "architecture",
    "variant",
    "fsLayers",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512:",
    "../../etc/passwd",
    "/proc/self/fd/7",
    "User",
    "Env",
    "Volumes",
    "WorkingDir",
    "StopSignal",
    "4294967295:0",
    "SIGRTMIN+99",
    "auths",
    "auth",
    "identitytoken",
    "registrytoken",
    "credHelpers",
    "credsStore",
    "username",
    "password",
    "/v1/",
    "*",
    "?",
];
