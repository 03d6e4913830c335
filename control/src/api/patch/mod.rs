//! The three ways in which a PATCH request changes an object: JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes'
//! strategic merge patch. Each takes the object and the patch and gives the changed object; the object is not touched.
//!
//! JSON patch and merge patch are the crate `json-patch`'s work. What it lacks are bounds: they stand here.

mod order;
mod strategic;
#[cfg(test)]
mod tests;

use json_patch::{PatchOperation, patch_unsafe};
use serde_json::Value;

pub use strategic::strategic;

use super::depth::{DEPTH_MAX, is_deeper};

/// Operations of one JSON patch: Kubernetes' bound.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes of JSON that the copies and moves of one JSON patch may handle: Kubernetes' bound for copies, that of a request's body. Without it twenty
/// copies of a thing into itself make a million of it.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// 400 BadRequest.
    #[error("the body is no JSON patch: it must be a list of operations (RFC 6902)")]
    NotAPatch(#[source] serde_json::Error),
    /// 413 RequestEntityTooLarge.
    #[error("the patch has {0} operations, more than the {MAX_OPERATIONS} allowed: send several patches")]
    TooManyOperations(usize),
    /// 413 RequestEntityTooLarge.
    #[error("operation {0}: the patch copies or moves more than {MAX_COPIED_BYTES} bytes: send the values themselves")]
    CopiesTooMuch(usize),
    /// 422 Invalid.
    #[error("operation {0}: the object would be nested deeper than {DEPTH_MAX} levels")]
    TooDeep(usize),
    /// 422 Invalid.
    #[error("operation {number} cannot be applied")]
    Operation {
        /// From 0.
        number: usize,
        #[source]
        source: json_patch::PatchErrorKind,
    },
    /// 400 BadRequest.
    #[error("{path}: {reason}")]
    Directive {
        /// Of the patch, as `spec.containers[0]`.
        path: String,
        reason: String,
    },
}

/// `application/json-patch+json`.
pub fn json(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(count));
    }
    let json_patch::Patch(operations) = serde_json::from_value(patch.clone()).map_err(PatchError::NotAPatch)?;
    let mut changed = object.clone();
    let mut copied = 0_usize;
    for (number, operation) in operations.iter().enumerate() {
        if let Some(from) = moved_from(operation)
            && let Some(value) = changed.pointer(from)
        {
            copied = copied.saturating_add(value.to_string().len());
            if copied > MAX_COPIED_BYTES {
                return Err(PatchError::CopiesTooMuch(number));
            }
        }
        if puts_too_deep(operation, &changed) {
            return Err(PatchError::TooDeep(number));
        }
        // The copy above is given up when one fails, so nothing has to be undone.
        patch_unsafe(&mut changed, std::slice::from_ref(operation))
            .map_err(|e| PatchError::Operation { number, source: e.kind })?;
    }
    Ok(changed)
}

/// Where the value comes from that an operation puts elsewhere.
fn moved_from(operation: &PatchOperation) -> Option<&str> {
    match operation {
        PatchOperation::Copy(copy) => Some(copy.from.as_str()),
        PatchOperation::Move(moved) => Some(moved.from.as_str()),
        _ => None,
    }
}

/// Each copy of a thing into itself doubles its depth: a dozen of them need more stack than there is.
fn puts_too_deep(operation: &PatchOperation, object: &Value) -> bool {
    let (path, value) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Copy(copy) => (&copy.path, object.pointer(copy.from.as_str())),
        PatchOperation::Move(moved) => (&moved.path, object.pointer(moved.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return false,
    };
    value.is_some_and(|value| is_deeper(value, DEPTH_MAX.saturating_sub(path.tokens().count())))
}

/// `application/merge-patch+json`.
pub fn merge(object: &Value, patch: &Value) -> Value {
    let mut changed = object.clone();
    json_patch::merge(&mut changed, patch);
    changed
}
