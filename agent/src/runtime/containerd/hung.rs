//! Looks at files that may never end: a hostPath on a network's file system that is gone holds its thread for ever.
//!
//! Driven by `containers`. Threads for what blocks are few and shared by the whole agent, so a look that hangs may cost one of
//! some, not each try another: as long as one hangs, its paths are not looked at again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::threads;

/// A look takes less than a millisecond.
const LOOK_TIME_MAX: Duration = Duration::from_secs(5);
/// Looks at a time, those that hang included.
const LOOKS_MAX: usize = threads::HOST_PATHS;

/// Why there is nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Hung {
    #[error("{} did not answer within {} s; is the file system gone?", .paths, .limit.as_secs())]
    Late { limit: Duration, paths: String },
    #[error("{} hangs since it was last looked at; end what its file system waits for, or unmount it (umount -l)", .path.display())]
    Still { path: PathBuf },
    #[error(
        "{LOOKS_MAX} looks at the node's files hang or are under way ({paths}); end what their file systems wait for, or unmount them (umount -l)"
    )]
    Many { paths: String },
    #[error("the look ended early")]
    Ended,
}

/// See the top of the file.
#[derive(Debug, Clone)]
pub struct Looks {
    limit: Duration,
    places: Arc<Semaphore>,
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    looks: BTreeMap<u64, Look>,
}

#[derive(Debug)]
struct Look {
    paths: Vec<PathBuf>,
    late: bool,
}

impl Default for Looks {
    fn default() -> Looks {
        Looks { limit: LOOK_TIME_MAX, places: Arc::new(Semaphore::new(LOOKS_MAX)), under_way: Arc::default() }
    }
}

impl Looks {
    /// What `work`, which looks at `paths`, returns.
    pub async fn look<T: Send + 'static>(
        &self,
        paths: Vec<PathBuf>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Hung> {
        if let Some(path) = self.hanging(&paths) {
            return Err(Hung::Still { path });
        }
        let place = tokio::time::timeout(self.limit, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(Hung::Many { paths: self.all() }) };
        // One of them may have begun to hang meanwhile.
        if let Some(path) = self.hanging(&paths) {
            return Err(Hung::Still { path });
        }
        let named = join(&paths);
        let number = {
            let mut state = lock(&self.under_way);
            state.next += 1;
            let number = state.next;
            state.looks.insert(number, Look { paths, late: false });
            number
        };
        let under_way = Arc::clone(&self.under_way);
        let looking = tokio::task::spawn_blocking(move || {
            let found = work();
            lock(&under_way).looks.remove(&number);
            drop(place);
            found
        });
        // Also where the caller goes away before: the thread hangs on.
        let _left = Left { under_way: &self.under_way, number };
        match tokio::time::timeout(self.limit, looking).await {
            Ok(found) => found.map_err(|_| Hung::Ended),
            Err(_) => Err(Hung::Late { limit: self.limit, paths: named }),
        }
    }

    fn hanging(&self, paths: &[PathBuf]) -> Option<PathBuf> {
        let state = lock(&self.under_way);
        let late = |path: &&PathBuf| state.looks.values().any(|look| look.late && look.paths.contains(path));
        paths.iter().find(late).cloned()
    }

    fn all(&self) -> String {
        let state = lock(&self.under_way);
        join(&state.looks.values().flat_map(|look| look.paths.clone()).collect::<Vec<_>>())
    }
}

/// A look that nobody waits for any more and that has not ended: its paths count as hanging until it does.
struct Left<'a> {
    under_way: &'a Mutex<UnderWay>,
    number: u64,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if let Some(look) = lock(self.under_way).looks.get_mut(&self.number) {
            look.late = true;
        }
    }
}

fn join(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn lock(state: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn looks() -> Looks {
        Looks { limit: Duration::from_secs(2), ..Looks::default() }
    }

    fn path(name: &str) -> Vec<PathBuf> {
        vec![PathBuf::from(name)]
    }

    #[tokio::test]
    async fn a_path_that_hangs_costs_one_thread_and_no_other_path() {
        let looks = looks();
        let (go_on, wait) = mpsc::channel::<()>();
        let hung = looks.look(path("/gone"), move || wait.recv().is_ok()).await;
        assert!(matches!(&hung, Err(Hung::Late { paths, .. }) if paths == "/gone"), "{hung:?}");
        let again = looks.look(path("/gone"), || -> bool { panic!("it is looked at again") }).await;
        assert_eq!(again, Err(Hung::Still { path: "/gone".into() }));
        assert_eq!(looks.look(path("/here"), || 7).await, Ok(7));
        // It comes back, and is looked at again.
        go_on.send(()).unwrap();
        for _ in 0..1_000 {
            if looks.look(path("/gone"), || true).await == Ok(true) {
                return;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("a path that answers again is not looked at");
    }

    #[tokio::test]
    async fn however_many_hang_threads_are_left() {
        let looks = looks();
        let mut held = Vec::new();
        for name in ["/a", "/b", "/c"] {
            let (go_on, wait) = mpsc::channel::<()>();
            held.push(go_on);
            assert!(looks.look(path(name), move || wait.recv().is_ok()).await.is_err());
        }
        let one_more = looks.look(path("/d"), || -> bool { panic!("it is looked at") }).await;
        assert_eq!(one_more, Err(Hung::Many { paths: "/a, /b, /c".into() }));
    }
}
