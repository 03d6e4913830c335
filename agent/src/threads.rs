//! Who may hold how many of the threads for what blocks: file systems that do not answer hold theirs for ever.
//!
//! Read by the program's entry, which makes them, and by those who look. Each has a stack and a heap of its own, so there are as
//! few as keep a burst of pods moving while every share hangs; one that is not needed ends by itself. What is quick unless it
//! hangs takes turns ([`in_turn`]), so that a burst alone needs far fewer.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// Calls of the disk (records, volumes): the others are needed to start containers.
pub const DISK: usize = 5;
/// hostPaths, which may be a network's.
pub const HOST_PATHS: usize = 3;
/// Last lines of the log of what failed.
pub const TAILS: usize = 2;
/// Working directories of commands in containers.
pub const WORKING_DIRECTORIES: usize = 2;
/// The file systems of images.
pub const IMAGE_DISKS: usize = 1;
/// For what has no share: mounts, calls of the log keeper, measuring.
const OTHERS: usize = 3;

/// All of them.
pub const BLOCKING_MAX: usize = DISK + HOST_PATHS + TAILS + WORKING_DIRECTORIES + IMAGE_DISKS + OTHERS;

/// How many calls are under way at once while all are quick: what a disk and two processors keep busy with. The memory of a thread
/// that has ended is not given back by the C library.
const TURNS: usize = 4;

/// How long a call keeps its turn, and how long one waits for a turn: what takes longer hangs, and holds up nobody else.
const TURN: Duration = Duration::from_millis(20);

static TURNS_LEFT: Semaphore = Semaphore::const_new(TURNS);

/// Runs what may block on a thread of its own, a few at a time as long as none of them hangs. Dropped, it is not begun, or goes on
/// by itself.
///
/// # Errors
/// It panicked, or the runtime ends.
pub async fn in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    // Without one it begins all the same: its turn has taken too long to come.
    let turn = tokio::time::timeout(TURN, TURNS_LEFT.acquire()).await;
    let mut working = tokio::task::spawn_blocking(work);
    match tokio::time::timeout(TURN, &mut working).await {
        Ok(done) => done,
        Err(_) => {
            drop(turn);
            working.await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    /// One process a test under nextest, one for all under cargo test: no two of these at once.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    #[tokio::test]
    async fn quick_calls_share_few_threads() {
        let _alone = ALONE.lock().await;
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let calls = (0..200).map(|_| {
            let (now, most) = (now.clone(), most.clone());
            in_turn(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                now.fetch_sub(1, Ordering::SeqCst);
            })
        });
        let calls: Vec<_> = calls.map(Box::pin).collect();
        let mut set = tokio::task::JoinSet::new();
        calls.into_iter().for_each(|call| drop(set.spawn(call)));
        while let Some(done) = set.join_next().await {
            done.unwrap().unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= TURNS, "{most:?} at once");
    }

    #[tokio::test]
    async fn calls_that_hang_hold_up_nobody() {
        let _alone = ALONE.lock().await;
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let mut hanging = tokio::task::JoinSet::new();
        for _ in 0..TURNS {
            let held = held.clone();
            hanging.spawn(in_turn(move || drop(held.lock().map(|held| held.recv()))));
        }
        tokio::task::yield_now().await;
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), in_turn(|| 7)).await.unwrap().unwrap(), 7);
        drop(release);
        while let Some(done) = hanging.join_next().await {
            done.unwrap().unwrap();
        }
    }
}
