//! Which tokens were shown of late, and whether they were good: who shows a good one does not wait for those of his address who guess, and the same
//! dead token shown again and again is one guess.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one is remembered after it was last shown.
const KEPT: Duration = Duration::from_secs(300);
/// Of the good ones, and of the others: so many at most. What is beyond counts as never seen.
const MOST: usize = 4096;
/// So long one that was not good is not looked at again: it does not become good, but a clock may be a little behind.
const SURE: Duration = Duration::from_secs(10);

/// A token, by a number that nobody can aim at: the key of the hash is chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark(u64);

/// What is known of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    New,
    Good,
    /// `lately`: so short a time ago that it is not worth another look.
    Wrong {
        lately: bool,
    },
}

#[derive(Debug, Default)]
pub struct Tokens {
    keyed: RandomState,
    of: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    good: HashMap<Mark, Instant>,
    wrong: HashMap<Mark, Instant>,
    tidied: Option<Instant>,
}

impl Tokens {
    pub fn mark(&self, token: &[u8]) -> Mark {
        Mark(self.keyed.hash_one(token))
    }

    pub fn seen(&self, token: Mark, now: Instant) -> Seen {
        let mut kept = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        kept.tidy(now);
        let since = |at: &Instant| now.saturating_duration_since(*at);
        match (kept.good.get(&token), kept.wrong.get(&token)) {
            (Some(at), _) if since(at) < KEPT => Seen::Good,
            (_, Some(at)) if since(at) < KEPT => Seen::Wrong { lately: since(at) < SURE },
            _ => Seen::New,
        }
    }

    /// It was looked at.
    pub fn note(&self, token: Mark, is_good: bool, now: Instant) {
        let mut kept = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { good, wrong, .. } = &mut *kept;
        let (of, other) = if is_good { (good, wrong) } else { (wrong, good) };
        other.remove(&token);
        if of.len() < MOST || of.contains_key(&token) {
            of.insert(token, now);
        }
    }
}

impl Kept {
    /// Forgets what is old, and gives its room back.
    fn tidy(&mut self, now: Instant) {
        let every = if self.good.len().max(self.wrong.len()) < MOST { KEPT } else { SURE };
        let tidied = *self.tidied.get_or_insert(now);
        if now.saturating_duration_since(tidied) < every {
            return;
        }
        self.tidied = Some(now);
        for of in [&mut self.good, &mut self.wrong] {
            of.retain(|_, at| now.saturating_duration_since(*at) < KEPT);
            of.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_again_for_a_while_and_a_bounded_number_of_them() {
        let (tokens, start) = (Tokens::default(), Instant::now());
        let (good, bad) = (tokens.mark(b"good"), tokens.mark(b"bad"));
        assert_eq!(tokens.seen(good, start), Seen::New);
        tokens.note(good, true, start);
        tokens.note(bad, false, start);
        assert_eq!(tokens.seen(good, start + KEPT / 2), Seen::Good);
        assert_eq!(tokens.seen(bad, start), Seen::Wrong { lately: true });
        assert_eq!(tokens.seen(bad, start + SURE), Seen::Wrong { lately: false });
        // A good one that has ended.
        tokens.note(good, false, start + SURE);
        assert_eq!(tokens.seen(good, start + SURE), Seen::Wrong { lately: true });
        assert_eq!(tokens.seen(bad, start + KEPT), Seen::New);
        for number in 0..MOST + 10 {
            tokens.note(tokens.mark(&number.to_be_bytes()), true, start + KEPT);
        }
        assert_eq!(tokens.of.lock().unwrap().good.len(), MOST);
        assert_eq!(tokens.seen(good, start + KEPT * 3), Seen::New);
        let kept = tokens.of.lock().unwrap();
        assert!(kept.good.capacity() + kept.wrong.capacity() == 0, "what is old takes no room");
    }
}
