//! Who is thrown out: join tokens that are not to let anybody in any more, and nodes whose keys are not to be good for anything.
//!
//! Driven by the program's words `token list`, `token revoke` and `node revoke`.

use jiff::Timestamp;

use super::super::stored;
use super::{JoinError, Joining, Keys, NODES, TOKENS, TOKENS_LIMIT, TRIES, Token, fit};
use crate::store::{Entry, Expected, Range, Store as _, StoreError, Write};

/// Below it is whose keys are good for which node's name.
pub const KEYS: &str = NODES;

/// A join token, without what lets its bearer in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub id: String,
    pub expires: Timestamp,
    /// How many nodes may still join with it.
    pub uses: u32,
    /// It lets only this one in.
    pub node: Option<String>,
}

impl Joining {
    /// Tokens that let somebody in.
    pub async fn tokens(&self) -> Result<Vec<Known>, JoinError> {
        let range = Range { prefix: TOKENS.into(), limit: Some(TOKENS_LIMIT), ..Range::default() };
        let now = self.clock.now();
        let page = self.store.list(&range).await?;
        let tokens = page.entries.iter().filter_map(|entry| Token::from_bytes(&entry.value));
        let good = tokens.filter(|token| token.expires > now && token.uses > 0);
        Ok(good.map(|Token { id, expires, uses, node, .. }| Known { id, expires, uses, node }).collect())
    }

    /// The token lets nobody in any more. False: there is none of this id.
    pub async fn revoke_token(&self, id: &str) -> Result<bool, JoinError> {
        let key = format!("{TOKENS}{id}");
        let mut last = None;
        for _ in 0..TRIES {
            let Some(entry) = self.store.get(&key).await?.entry else { return Ok(false) };
            let write = Write { key: key.clone(), value: None, expected: Expected::At(entry.revision) };
            match self.store.write(write).await {
                Ok(_) => return Ok(true),
                // A node has joined with it just now.
                Err(error @ StoreError::Conflict { .. }) => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.expect("it was tried at least once").into())
    }

    /// No certificate of this node's is good for anything any more, not even to be renewed. That holds for a name of which nothing is known, too: a node
    /// that joined after the copy was made from which the store was put back has the authority's word. False: none of this name has joined, as far as is
    /// known.
    pub async fn revoke_node(&self, node: &str) -> Result<bool, JoinError> {
        fit(node)?;
        let nobodys = Keys { keys: Vec::new(), until: Timestamp::MAX, coming: None };
        let mut last = None;
        for _ in 0..TRIES {
            let known = self.keys(node).await?;
            let has_keys = known.as_ref().is_some_and(|(keys, _)| !keys.keys.is_empty());
            let expected = known.map_or(Expected::Absent, |(_, revision)| Expected::At(revision));
            // One without keys may have called since.
            let object = stored("", "nodes", "", node);
            let is_known = has_keys || self.store.get(&object).await?.entry.is_some();
            match self.remember(node, &nobodys, expected).await {
                Ok(()) => return Ok(is_known),
                // It was renewed just now.
                Err(error @ StoreError::Conflict { .. }) => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.expect("it was tried at least once").into())
    }
}

/// The node whose name this entry below [`KEYS`] says to be nobody's: it is thrown out.
pub fn nobodys(entry: &Entry) -> Option<&str> {
    let keys = Keys::from_bytes(&entry.value)?;
    entry.key.strip_prefix(KEYS).filter(|_| keys.keys.is_empty())
}
