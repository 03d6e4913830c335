//! How much one document may hold once its aliases are written out.

use thiserror::Error;

/// Nodes of one document. The largest CRDs in use have about 40,000; a pod has a hundred.
pub const MAX_NODES: usize = 200_000;
/// Levels of nesting. CRD schemas reach 60; every level costs stack in the passes that follow.
pub const MAX_DEPTH: usize = 128;
/// Bytes of text in one document, aliases written out: as much as a file may have.
pub const MAX_TEXT: usize = super::MAX_FILE_BYTES;

/// What a part of a document costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    nodes: usize,
    text: usize,
}

/// A document that is too large once it is written out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Excess {
    #[error("the document has more than {MAX_NODES} values once its aliases are written out: split it")]
    Nodes,
    #[error("the document has more than {MAX_TEXT} bytes of text once its aliases are written out: split it")]
    Text,
    #[error("the document is nested deeper than {MAX_DEPTH} levels: no Kubernetes object is")]
    Depth,
}

impl Budget {
    /// Plus some nodes and bytes of text.
    pub fn add(self, nodes: usize, text: usize) -> Result<Budget, Excess> {
        self.add_all(Budget { nodes, text })
    }

    /// Plus a part that is repeated.
    pub fn add_all(self, part: Budget) -> Result<Budget, Excess> {
        let sum = Budget { nodes: self.nodes.saturating_add(part.nodes), text: self.text.saturating_add(part.text) };
        if sum.nodes > MAX_NODES {
            return Err(Excess::Nodes);
        }
        if sum.text > MAX_TEXT {
            return Err(Excess::Text);
        }
        Ok(sum)
    }

    /// What was spent since `before`.
    pub fn since(self, before: Budget) -> Budget {
        Budget { nodes: self.nodes.saturating_sub(before.nodes), text: self.text.saturating_sub(before.text) }
    }
}

/// Refuses what lies deeper than [`MAX_DEPTH`].
pub fn check_depth(depth: usize) -> Result<(), Excess> {
    if depth > MAX_DEPTH { Err(Excess::Depth) } else { Ok(()) }
}
