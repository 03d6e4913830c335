//! What credential helpers said, kept for a while: a helper is one process for an image, not one for each of its blobs, also where it fails.
//! Driven by [`super::round`], which knows the helpers.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::credentials::Login;
use super::credentials::helper::HelperError;
use super::lock;

/// How long an answer is used. Helpers of clouds keep their own tokens for hours.
const ANSWER_LIFE: Duration = Duration::from_secs(300);

/// How long a helper that failed is left alone: as long as it may take to fail, so that one that hangs is not what a pull mostly waits for,
/// and short enough that one that is mended counts at the second try.
const FAILURE_LIFE: Duration = Duration::from_secs(30);

/// Helpers times servers; what does not fit is asked anew each time.
const HELD_MAX: usize = 64;

/// The helper's name, and the server's.
pub type HelperKey = (String, String);

/// A login, none, or why there is no answer.
type Answer = Result<Option<Login>, String>;

#[derive(Default)]
pub struct Helped {
    said: BTreeMap<HelperKey, (Answer, Instant)>,
    /// One process for each key: who comes second waits and finds the answer.
    turns: BTreeMap<HelperKey, Arc<tokio::sync::Mutex<()>>>,
}

/// What was said lately, or what `ask` says now; it is not polled in the first case. Dropped, `ask` goes on: who asks again finds its
/// answer, however short everybody's patience is.
pub async fn said(
    helped: &Arc<Mutex<Helped>>,
    key: HelperKey,
    ask: impl Future<Output = Result<Option<Login>, HelperError>> + Send + 'static,
) -> Answer {
    if let Some(answer) = lock(helped).get(&key, Instant::now()) {
        return answer;
    }
    let turn = lock(helped).turn(&key);
    let turn = turn.lock_owned().await;
    if let Some(answer) = lock(helped).get(&key, Instant::now()) {
        return answer;
    }
    let helped = Arc::clone(helped);
    let asked = tokio::spawn(async move {
        let answer = ask.await.map_err(|error| error.to_string());
        lock(&helped).put(key, answer.clone(), Instant::now());
        drop(turn);
        answer
    });
    asked.await.unwrap_or_else(|error| Err(format!("asking the credential helper ended early: {error}")))
}

impl Helped {
    fn get(&mut self, key: &HelperKey, now: Instant) -> Option<Answer> {
        self.said.retain(|_, (answer, since)| {
            let life = if answer.is_ok() { ANSWER_LIFE } else { FAILURE_LIFE };
            now.saturating_duration_since(*since) < life
        });
        self.said.get(key).map(|(answer, _)| answer.clone())
    }

    fn put(&mut self, key: HelperKey, answer: Answer, now: Instant) {
        if self.said.len() < HELD_MAX {
            self.said.insert(key, (answer, now));
        }
    }

    /// Held by who asks the helper.
    pub(super) fn turn(&mut self, key: &HelperKey) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        self.turns.entry(key.clone()).or_default().clone()
    }

    /// Logins may be what was refused: they are asked for anew. Failures are not: asking again is what they forbid.
    pub fn forget_logins(&mut self) {
        self.said.retain(|_, (answer, _)| answer.is_err());
    }

    pub fn clear(&mut self) {
        self.said.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::credentials::Secret;
    use super::*;

    fn key() -> HelperKey {
        ("helper".to_owned(), "r.example".to_owned())
    }

    fn broken() -> HelperError {
        HelperError::Failed { program: "docker-credential-helper".to_owned(), status: "exit status: 3".to_owned() }
    }

    #[tokio::test]
    async fn a_broken_helper_is_not_run_for_every_request() {
        let (helped, runs) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let ask = async || {
            let runs = Arc::clone(&runs);
            let run = async move {
                runs.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Err(broken())
            };
            said(&helped, key(), run).await
        };
        let both = tokio::join!(ask(), ask());
        for answer in [both.0, both.1, ask().await] {
            assert!(answer.unwrap_err().contains("exit status: 3"));
        }
        // A registry's refusal asks for other logins, not for the same failure once more.
        lock(&helped).forget_logins();
        ask().await.unwrap_err();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_answer_of_a_helper_that_nobody_waits_for_any_more_is_kept() {
        let helped: Arc<Mutex<Helped>> = Arc::default();
        let (answer, slow) = tokio::sync::oneshot::channel();
        let impatient = said(&helped, key(), async { Ok(slow.await.unwrap()) });
        tokio::time::timeout(Duration::from_millis(20), impatient).await.unwrap_err();
        let login = Login::Bearer(Secret::new("t"));
        answer.send(Some(login.clone())).unwrap();
        let other = said(&helped, key(), async { panic!("it has been asked") });
        let answer = tokio::time::timeout(Duration::from_secs(60), other).await.unwrap();
        assert_eq!(answer, Ok(Some(login)));
    }

    #[test]
    fn a_failure_is_forgotten_sooner_than_a_login_and_a_refused_login_at_once() {
        let now = Instant::now();
        let mut helped = Helped::default();
        let login = Login::Bearer(Secret::new("t"));
        let other = ("helper".to_owned(), "s.example".to_owned());
        helped.put(key(), Err("broken".to_owned()), now);
        helped.put(other.clone(), Ok(Some(login.clone())), now);
        let later = now + FAILURE_LIFE;
        assert_eq!(helped.get(&key(), later), None);
        assert_eq!(helped.get(&other, later), Some(Ok(Some(login))));
        helped.forget_logins();
        assert_eq!(helped.get(&other, later), None);
    }
}
