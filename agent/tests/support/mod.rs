//! What the tests against real containerd share.
#![expect(dead_code, reason = "each test program uses its part of it")]

pub mod archives;
pub mod containerd;
pub mod pods;

use std::time::{Duration, Instant};

use pod::manifest::{Context, Document, parse};
use pod::spec::{Container, PullPolicy};
use tests::image::Tarball;
use tests::wait::PATIENCE;

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// `tests::wait::wait_for` for a test whose own tasks have to go on meanwhile.
#[track_caller]
pub fn soon(what: &str, mut ask: impl FnMut() -> Result<(), String>) -> impl Future<Output = ()> {
    soon_seen(what, async move || ask())
}

/// The same for a look that takes its time, and what it has seen.
#[track_caller]
pub fn soon_seen<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = match tokio::time::timeout_at(end.into(), ask()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(seen)) => seen,
                Err(_) => "a look that does not end".to_owned(),
            };
            assert!(Instant::now() < end, "{caller}: waited {PATIENCE:?} for: {what}\nlast seen: {seen}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A layer of this many bytes that do not compress.
pub fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..bytes / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    Tarball::new().file(&format!("noise-{seed}"), 0o644, &words.collect::<Vec<u8>>()).bytes()
}

/// A container as a manifest makes it, but for its image, whose name may be none.
pub fn container(image: &str, pull_policy: PullPolicy) -> Container {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: any}]}}";
    match parse("test.yaml", text.as_bytes(), &Context::default()).documents.pop().map(|it| it.result) {
        Some(Ok(Document::Workload(pod))) => {
            Container { image: image.into(), pull_policy, ..pod.template.spec.containers[0].clone() }
        }
        other => panic!("the tests' own manifest is refused: {other:?}"),
    }
}
