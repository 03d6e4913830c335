//! Ends of containers' first processes as the kernel tells them, for shims that may not: containerd's shim in Rust (0.2.0) tells of no
//! end any more once containerd was restarted, though it answers rightly when it is asked.
//!
//! Driven by `containers::list` and by a start, for what runs under another shim than the usual one. A descriptor is its process and never
//! another one with its number. An end only wakes whoever looks; where containerd goes on to say that the process runs, it
//! is disbelieved after a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::task::AbortHandle;

use super::events::Heard;
use crate::readable;
use crate::seams::Wake;

/// Processes that are waited for: more than a full node has containers; for what is beyond there is the slow look.
const WAITED_MAX: usize = 512;
/// A shim that answers learns of an end within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the top of the file.
#[derive(Debug, Clone)]
pub struct Ends {
    waited: Arc<Mutex<BTreeMap<String, Waited>>>,
    patience: Duration,
}

impl Default for Ends {
    fn default() -> Ends {
        Ends { waited: Arc::default(), patience: PATIENCE }
    }
}

#[derive(Debug)]
struct Waited {
    pid: u32,
    /// Since when it is known to have ended.
    ended: Option<Instant>,
    waiting: Option<AbortHandle>,
}

impl Drop for Waited {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            waiting.abort();
        }
    }
}

impl Ends {
    /// Of a container that containerd says to run with this process of our PID namespace: whether it is known to have ended for so
    /// long that containerd will not learn of it. Wakes when it ends, and when its patience with containerd is over.
    pub fn is_over(&self, heard: &Arc<Heard>, id: &str, pid: u32) -> bool {
        let mut waited = self.lock();
        if let Some(known) = waited.get(id).filter(|known| known.pid == pid) {
            return known.ended.is_some_and(|ended| ended.elapsed() >= self.patience);
        }
        waited.remove(id);
        if waited.len() < WAITED_MAX {
            let waiting = tokio::spawn(self.clone().wait(Arc::clone(heard), id.to_owned(), pid)).abort_handle();
            waited.insert(id.to_owned(), Waited { pid, ended: None, waiting: Some(waiting) });
        }
        false
    }

    /// The container is created under such a shim.
    pub fn expect(&self, id: &str) {
        let mut waited = self.lock();
        if waited.len() < WAITED_MAX {
            waited.insert(id.to_owned(), Waited { pid: 0, ended: None, waiting: None });
        }
    }

    /// It has been started, with this process.
    pub fn started(&self, heard: &Arc<Heard>, id: &str, pid: u32) {
        let expected = self.lock().contains_key(id);
        if expected {
            self.is_over(heard, id, pid);
        }
    }

    /// The container is gone.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    async fn wait(self, heard: Arc<Heard>, id: String, pid: u32) {
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        match process.map(|process| pidfd_open(process, PidfdFlags::empty())) {
            Some(Ok(descriptor)) => {
                let Ok(descriptor) = readable::watch(descriptor) else { return };
                if descriptor.readable().await.is_err() {
                    return;
                }
            }
            Some(Err(rustix::io::Errno::SRCH)) => {}
            // What cannot be looked at has not ended for it.
            Some(Err(_)) | None => return,
        }
        if let Some(known) = self.lock().get_mut(&id).filter(|known| known.pid == pid) {
            known.ended = Some(Instant::now());
        }
        heard.push(Wake::Container(id.clone()));
        tokio::time::sleep(self.patience).await;
        heard.push(Wake::Container(id));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Waited>> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    async fn woken(heard: &Heard) {
        let wake = tokio::time::timeout(Duration::from_secs(10), heard.next()).await;
        assert_eq!(wake, Ok(Wake::Container("a".into())));
    }

    #[tokio::test]
    async fn an_end_wakes_at_once_and_containerd_is_disbelieved_only_after_a_while() {
        let (ends, heard) = (Ends { patience: Duration::from_millis(300), ..Ends::default() }, Arc::default());
        let mut process = Command::new("sleep").arg("1000").spawn().unwrap();
        ends.expect("a");
        // Nobody need look in between.
        ends.started(&heard, "a", process.id());
        process.kill().unwrap();
        woken(&heard).await;
        let at = Instant::now();
        assert!(
            at.elapsed() >= ends.patience || !ends.is_over(&heard, "a", process.id()),
            "its shim may be about to tell"
        );
        woken(&heard).await;
        assert!(ends.is_over(&heard, "a", process.id()));
        process.wait().unwrap();
        // Another run's process is another one.
        let mut next = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!ends.is_over(&heard, "a", next.id()));
        ends.forget("a");
        assert!(ends.lock().is_empty());
        next.kill().unwrap();
        next.wait().unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(100), heard.next()).await;
        assert!(quiet.is_err(), "what is gone wakes nobody: {quiet:?}");
    }

    #[tokio::test]
    async fn a_process_that_is_not_there_any_more_has_ended() {
        let (ends, heard) = (Ends { patience: Duration::from_millis(10), ..Ends::default() }, Arc::default());
        let mut process = Command::new("true").spawn().unwrap();
        let pid = process.id();
        process.wait().unwrap();
        assert!(!ends.is_over(&heard, "a", pid));
        woken(&heard).await;
        woken(&heard).await;
        assert!(ends.is_over(&heard, "a", pid));
    }
}
