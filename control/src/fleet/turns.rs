//! How many nodes are written for, or read for, at a time. When a thousand pods are made at once, or a thousand nodes come back, each of them wants
//! objects read and written; an object that is being written is a tree several times over, some 100 kB. They take turns, so that the crowd takes no
//! more memory than a few of them, and the store still has enough writes for one sync of the disk.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Enough for the store to be busy, and a few megabytes.
const TURNS_MAX: usize = 32;

static TURNS: Semaphore = Semaphore::const_new(TURNS_MAX);

/// Waits for one; until it is dropped it is taken. Only around what waits for the store and for nobody else: who holds one asks for no other.
pub async fn turn() -> Option<SemaphorePermit<'static>> {
    // Nobody closes it.
    TURNS.acquire().await.ok()
}
