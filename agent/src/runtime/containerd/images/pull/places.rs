//! Who may fetch a blob now: the node has few places for downloads, and a slow registry must not hold all of them.
//!
//! Driven by `fetch`. A free place goes to the registry that has the fewest, among these to who came first; a registry that has none
//! may begin one although all are taken, so that what waits behind two slow registries still moves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Blobs of all images that are fetched at once: two images' worth. Each costs a few pieces of memory.
const AT_ONCE: usize = 6;
/// And with the one of each registry that has no other: slow registries beyond that many nobody has at one time.
const AT_ONCE_MAX: usize = 12;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Places {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Downloads by registry; none without any.
    taken: BTreeMap<String, usize>,
    waiting: VecDeque<(String, oneshot::Sender<Place>)>,
}

/// A download's place; dropped, it is free.
#[derive(Debug)]
pub struct Place {
    places: Places,
    registry: String,
}

impl Places {
    /// Waits for a place. Cancel-safe: a place that nobody takes is free again.
    pub async fn take(&self, registry: &str) -> Place {
        let (given, place) = oneshot::channel();
        self.state().waiting.push_back((registry.to_owned(), given));
        self.give();
        place.await.expect("who waits is forgotten only when it is gone")
    }

    /// Gives out what may be given out now.
    fn give(&self) {
        loop {
            let given = {
                let mut state = self.state();
                let Some(at) = state.next() else { return };
                let (registry, given) = state.waiting.remove(at).expect("it was found there");
                *state.taken.entry(registry.clone()).or_default() += 1;
                (given, Place { places: self.clone(), registry })
            };
            // Outside of the lock: where nobody waits any more, the place is dropped, which takes it.
            let _gone = given.0.send(given.1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who is next, if anybody may begin.
    fn next(&mut self) -> Option<usize> {
        self.waiting.retain(|(_, given)| !given.is_closed());
        let has = |registry: &str| self.taken.get(registry).copied().unwrap_or(0);
        let all: usize = self.taken.values().sum();
        let (at, fewest) =
            self.waiting.iter().map(|(registry, _)| has(registry)).enumerate().min_by_key(|(_, has)| *has)?;
        (all < AT_ONCE || (fewest == 0 && all < AT_ONCE_MAX)).then_some(at)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.places.state();
            if let Some(taken) = state.taken.get_mut(&self.registry) {
                *taken -= 1;
                if *taken == 0 {
                    state.taken.remove(&self.registry);
                }
            }
        }
        self.places.give();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// None: it has to wait.
    async fn at_once(places: &Places, registry: &str) -> Option<Place> {
        tokio::time::timeout(Duration::from_millis(1), places.take(registry)).await.ok()
    }

    async fn fill(places: &Places, registry: &str) -> Vec<Place> {
        let mut held = Vec::new();
        while let Some(place) = at_once(places, registry).await {
            held.push(place);
        }
        held
    }

    #[tokio::test(start_paused = true)]
    async fn slow_registries_do_not_keep_another_from_its_first_download() {
        let places = Places::default();
        let slow = fill(&places, "slow").await;
        assert_eq!(slow.len(), AT_ONCE, "alone it has all");
        let other = fill(&places, "other").await;
        let third = fill(&places, "third").await;
        assert_eq!((other.len(), third.len()), (1, 1));
        // One ends: the next is for who has the fewest, not for who came first.
        let (for_slow, for_third) = (places.take("slow"), places.take("third"));
        let (mut for_slow, mut for_third) = (Box::pin(for_slow), Box::pin(for_third));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut for_slow).await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut for_third).await.is_err());
        drop(third);
        assert_eq!(for_third.await.registry, "third");
        drop((slow, other));
        assert_eq!(for_slow.await.registry, "slow");
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_downloads_is_bounded_and_places_come_back() {
        let places = Places::default();
        let mut held = fill(&places, "slow").await;
        for n in 0..3 * AT_ONCE_MAX {
            held.extend(at_once(&places, &format!("r{n}")).await);
        }
        assert_eq!(held.len(), AT_ONCE_MAX);
        drop(held);
        assert_eq!(fill(&places, "any").await.len(), AT_ONCE);
        assert!(places.state().taken.is_empty() && places.state().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_keeps_no_place() {
        let places = Places::default();
        let held = fill(&places, "a").await;
        let waiting = Box::pin(places.take("a"));
        let mut waiting = waiting;
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut waiting).await.is_err());
        drop(held);
        // It was given a place and never looked.
        drop(waiting);
        assert_eq!(fill(&places, "a").await.len(), AT_ONCE);
    }
}
