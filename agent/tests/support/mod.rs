//! What the tests against real containerd share.
#![expect(dead_code, reason = "each test program uses its part of it")]

pub mod archives;
pub mod containerd;
pub mod pods;

use std::time::{Duration, Instant};

use pod::manifest::{Context, Document, parse};
use pod::spec::{Container, PullPolicy};
use tests::wait::PATIENCE;

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// `tests::wait::wait_for` for a test whose own tasks have to go on meanwhile.
#[track_caller]
pub fn soon(what: &str, mut ask: impl FnMut() -> Result<(), String>) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + PATIENCE;
        while let Err(seen) = ask() {
            assert!(Instant::now() < end, "{caller}: waited {PATIENCE:?} for: {what}\nlast seen: {seen}");
            tokio::time::sleep(PAUSE).await;
        }
    }
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
