//! The selectors of a query: `labelSelector=app=a,tier in (x,y)` and `fieldSelector=spec.nodeName=n1`.

mod fields;
mod labels;

pub use fields::{FieldSelector, fields, selectable};
pub use labels::labels;

/// Requirements of one selector: more than any client sends, and each is judged for each object of a list.
const MAX_REQUIREMENTS: usize = 100;

/// Why a selector is not understood. 400 BadRequest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("labelSelector {selector:?}: {reason}")]
    Labels { selector: String, reason: String },
    #[error("fieldSelector {selector:?}: {reason}")]
    Fields { selector: String, reason: String },
}
