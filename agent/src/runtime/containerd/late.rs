//! Containers whose shim did not answer when they were last asked for: they are asked for again beside the look and not in it, so
//! that the other pods of their workload are seen at once.
//!
//! Driven by `containers::list`. containerd waits two seconds for a silent shim, an older one as long as it is let.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_client::tonic::Status;

use super::client::Client;
use super::containers::{Asked, ask};
use super::events::Heard;
use crate::seams::Wake;

/// Questions beside looks at a time: one a container, and no more than a full node's; past it a look waits as it did.
const BESIDE_MAX: usize = 128;

/// See the top of the file.
#[derive(Debug, Clone, Default)]
pub struct Late {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Did not answer when they were last asked for.
    silent: BTreeSet<String>,
    /// Are being asked for beside a look.
    asking: BTreeSet<String>,
}

impl Late {
    /// As [`ask`], but of what is known to be silent only that it was so: it is asked for beside, and when it answers, whoever looks
    /// is woken.
    pub async fn ask(
        &self,
        client: &Client,
        heard: &Arc<Heard>,
        ids: Vec<String>,
    ) -> Result<BTreeMap<String, Asked>, Status> {
        let mut begun = Vec::new();
        let (beside, now): (Vec<String>, Vec<String>) = {
            let mut state = self.lock();
            ids.into_iter().partition(|id| {
                let beside = state.may_be_beside(id);
                // Counted at once: the bound is on all of them together.
                if beside && state.asking.insert(id.clone()) {
                    begun.push(id.clone());
                }
                beside
            })
        };
        for id in begun {
            tokio::spawn(self.clone().again(client.clone(), Arc::clone(heard), id));
        }
        let mut answers = ask(client, &now).await?;
        self.note(&answers);
        answers.extend(beside.into_iter().map(|id| (id, Asked::Unanswered)));
        Ok(answers)
    }

    async fn again(self, client: Client, heard: Arc<Heard>, id: String) {
        let answer = ask(&client, std::slice::from_ref(&id)).await;
        let answers = {
            let mut state = self.lock();
            state.asking.remove(&id);
            // A containerd that is away says nothing about a shim: the next look is told so itself.
            let answers = !matches!(answer.as_ref().map(|it| it.get(&id)), Ok(Some(Asked::Unanswered)));
            answers && state.silent.remove(&id)
        };
        if answers {
            heard.push(Wake::Container(id));
        }
    }

    /// What has just been learnt of them, by whatever way.
    pub fn note(&self, answers: &BTreeMap<String, Asked>) {
        let mut state = self.lock();
        for (id, asked) in answers {
            match asked {
                Asked::Unanswered => state.silent.insert(id.clone()),
                Asked::NoTask | Asked::Task(_) => state.silent.remove(id),
            };
        }
    }

    /// The container is gone.
    pub fn forget(&self, id: &str) {
        self.lock().silent.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_be_beside(&mut self, id: &str) -> bool {
        self.silent.contains(id) && (self.asking.contains(id) || self.asking.len() < BESIDE_MAX)
    }
}
