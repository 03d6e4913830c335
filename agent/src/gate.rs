//! How many containers are created at once, and whose turn it is: by priority, then by arrival.
//!
//! Creating a container is work for containerd, its shims and runc; more of it at once than the machine has
//! processors for only makes every pod later. Starting a created one is nothing and does not pass here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Pods whose surroundings are made while their records are written: of more at once each is only in the others' way, and all take memory.
const EARLY_MAX: usize = 2;

/// See the top of the file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    state: Arc<Mutex<State>>,
    early: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    free: usize,
    arrivals: u64,
    /// Lowest key first: priority negated, then arrival.
    waiting: BTreeMap<(i64, u64), oneshot::Sender<Permit>>,
}

/// A place inside; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
}

impl Gate {
    /// A gate with room for `places`, at least one.
    pub fn new(places: usize) -> Gate {
        let state = State { free: places.max(1), arrivals: 0, waiting: BTreeMap::new() };
        Gate { state: Arc::new(Mutex::new(state)), early: Arc::new(Semaphore::new(EARLY_MAX)) }
    }

    /// A place for a pod's surroundings beside its admission; None while there is none.
    pub fn early(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.early).try_acquire_owned().ok()
    }

    /// Waits for a place. Cancel-safe: a place given to somebody who no longer waits goes to the next.
    pub async fn enter(&self, priority: i32) -> Permit {
        let receiver = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Permit { gate: self.clone() };
            }
            let (sender, receiver) = oneshot::channel();
            let arrival = state.arrivals;
            state.arrivals += 1;
            state.waiting.insert((-i64::from(priority), arrival), sender);
            receiver
        };
        receiver.await.expect("a waiting sender is only taken out to be sent to")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut state = self.gate.state();
            // Who no longer waits is passed over here, not by dropping a permit under the lock.
            loop {
                match state.waiting.pop_first() {
                    Some((_, sender)) if sender.is_closed() => {}
                    Some((_, sender)) => break Some(sender),
                    None => {
                        state.free += 1;
                        break None;
                    }
                }
            }
        };
        if let Some(sender) = next {
            // A receiver that went away just now drops the permit, which passes the place on.
            let _ = sender.send(Permit { gate: self.gate.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn higher_priority_enters_first_then_the_earlier() {
        let gate = Gate::new(1);
        let Poll::Ready(inside) = poll(pin!(gate.enter(0))) else { panic!("there is room for one") };
        let (mut low, mut high, mut low_late) = (pin!(gate.enter(0)), pin!(gate.enter(7)), pin!(gate.enter(0)));
        assert!(poll(low.as_mut()).is_pending());
        assert!(poll(high.as_mut()).is_pending());
        assert!(poll(low_late.as_mut()).is_pending());
        drop(inside);
        assert!(poll(low.as_mut()).is_pending());
        let Poll::Ready(inside) = poll(high.as_mut()) else { panic!("the higher priority is next") };
        drop(inside);
        assert!(poll(low_late.as_mut()).is_pending());
        assert!(poll(low.as_mut()).is_ready());
        assert!(poll(low_late.as_mut()).is_ready());
    }

    #[test]
    fn who_stopped_waiting_does_not_keep_the_place() {
        let gate = Gate::new(1);
        let Poll::Ready(inside) = poll(pin!(gate.enter(0))) else { panic!("there is room for one") };
        {
            let mut gone = pin!(gate.enter(9));
            assert!(poll(gone.as_mut()).is_pending());
        }
        drop(inside);
        assert!(poll(pin!(gate.enter(0))).is_ready());
    }
}
