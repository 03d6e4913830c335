//! One creation at a time for each pod. Its containers share a shim: asked for two of them at once while there is none, containerd may start
//! one for each, and the one that loses the race for the socket's name stays. Seen rarely; no test forces it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pod::name::Uid;
use tokio::sync::OwnedMutexGuard;

/// Whose creation is under way, by pod; what nobody holds or waits for any more goes with the next question.
#[derive(Debug, Default)]
pub struct Turns(Mutex<BTreeMap<Uid, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the pod's turn, which lasts until the guard is dropped.
    pub async fn of(&self, pod: &Uid) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            turns.get(pod).and_then(Weak::upgrade).unwrap_or_else(|| {
                let turn = Arc::new(tokio::sync::Mutex::new(()));
                turns.insert(pod.clone(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}
