//! Why a request is refused, as a client of Kubernetes reads it: the code, the reason that programs act on, and the sentence for people.

use serde_json::{Value, json};

use super::apply::ApplyError;
use super::kinds::Kind;
use super::patch::PatchError;
use super::selector::SelectorError;
use crate::store::StoreError;

/// A meta/v1 Status of a failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Of HTTP.
    pub code: u16,
    /// `NotFound`, `Conflict`: what a program acts on.
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Box<Details>>,
}

/// `details` of a Status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    pub group: String,
    /// The resource (`daemonsets`), except for Invalid: the kind (`DaemonSet`), as in Kubernetes.
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: Option<u32>,
    /// Of the metadata, not the details: the token by which a list that is too old may go on all the same.
    pub continue_: Option<String>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// `FieldValueInvalid`.
    pub reason: String,
    /// Without the field: `Invalid value: 3: must be …`.
    pub message: String,
    /// `spec.template.spec.containers[0].name`; empty where it is about the whole.
    pub field: String,
}

impl Cause {
    pub fn new(reason: &str, field: impl Into<String>, message: impl Into<String>) -> Cause {
        Cause { reason: reason.into(), message: message.into(), field: field.into() }
    }
}

impl ApiError {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { code, reason, message: message.into(), details: None }
    }

    fn about(code: u16, reason: &'static str, kind: &Kind, name: &str, message: String) -> ApiError {
        let details =
            Details { group: kind.group.into(), kind: kind.resource.into(), name: name.into(), ..Details::default() };
        ApiError { code, reason, message, details: Some(Box::new(details)) }
    }

    /// 404: there is no such object.
    pub fn not_found(kind: &Kind, name: &str) -> ApiError {
        ApiError::about(404, "NotFound", kind, name, format!("{} {name:?} not found", kind.group_resource()))
    }

    /// 404: nothing is served at this path.
    pub fn no_such_resource() -> ApiError {
        let mut error = ApiError::plain(404, "NotFound", "the server could not find the requested resource");
        error.details = Some(Box::default());
        error
    }

    /// 409.
    pub fn already_exists(kind: &Kind, name: &str) -> ApiError {
        let message = format!("{} {name:?} already exists", kind.group_resource());
        ApiError::about(409, "AlreadyExists", kind, name, message)
    }

    /// 409: the object is not what the writer expected. `why` is a sentence of its own.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> ApiError {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.group_resource());
        ApiError::about(409, "Conflict", kind, name, message)
    }

    /// 409: another has written since.
    pub fn modified(kind: &Kind, name: &str) -> ApiError {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(kind, name, why)
    }

    /// 422.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> ApiError {
        let shown: Vec<String> = causes.iter().map(Cause::to_string).collect();
        let shown = if shown.len() == 1 { shown.concat() } else { format!("[{}]", shown.join(", ")) };
        let of = if kind.group.is_empty() { kind.kind.to_owned() } else { format!("{}.{}", kind.kind, kind.group) };
        let message = format!("{of} {name:?} is invalid: {shown}");
        let details = Details {
            group: kind.group.into(),
            kind: kind.kind.into(),
            name: name.into(),
            causes,
            ..Details::default()
        };
        ApiError { code: 422, reason: "Invalid", message, details: Some(Box::new(details)) }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::plain(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> ApiError {
        ApiError::plain(401, "Unauthorized", "Unauthorized")
    }

    /// 403 about an object; `name` may be empty.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> ApiError {
        let of = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let message = format!("{}{of} is forbidden: {why}", kind.group_resource());
        ApiError::about(403, "Forbidden", kind, name, message)
    }

    /// 403 about a path that is no object's.
    pub fn forbidden_path(why: &str) -> ApiError {
        let mut error = ApiError::plain(403, "Forbidden", format!("forbidden: {why}"));
        error.details = Some(Box::default());
        error
    }

    /// 405.
    pub fn method_not_allowed() -> ApiError {
        let message = "the server does not allow this method on the requested resource";
        let mut error = ApiError::plain(405, "MethodNotAllowed", message);
        error.details = Some(Box::default());
        error
    }

    /// 406. `accepted`: what is offered.
    pub fn not_acceptable(accepted: &str) -> ApiError {
        let message = format!("only the following media types are accepted: {accepted}");
        ApiError::plain(406, "NotAcceptable", message)
    }

    /// 410: the client has to begin anew with a list.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::plain(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> ApiError {
        ApiError::plain(413, "RequestEntityTooLarge", message)
    }

    /// 415. `accepted`: what is understood.
    pub fn unsupported_media(accepted: &str) -> ApiError {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        ApiError::plain(415, "UnsupportedMediaType", message)
    }

    /// 429, to be tried again after so many seconds.
    pub fn too_many(retry_after_seconds: u32, message: impl Into<String>) -> ApiError {
        ApiError::plain(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    /// 500: our own fault, or the disk's.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::plain(500, "InternalError", format!("Internal error occurred: {}", message.into()))
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::plain(503, "ServiceUnavailable", message)
    }

    /// 504: this revision has not been yet.
    pub fn future_revision(asked: u64, newest: u64) -> ApiError {
        let message = format!("Timeout: Too large resource version: {asked}, current: {newest}");
        let mut error = ApiError::plain(504, "Timeout", message);
        let cause = Cause::new("ResourceVersionTooLarge", "", "Too large resource version");
        error.details = Some(Box::new(Details { causes: vec![cause], ..Details::default() }));
        error.retry_after(1)
    }

    fn retry_after(mut self, seconds: u32) -> ApiError {
        self.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// Adds a cause, as `NamespaceTerminating` to a 403.
    pub fn because(mut self, cause: Cause) -> ApiError {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The store was at fault, or there were too many at once: the same may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(self.code, 429 | 503 | 504)
    }

    /// Whether there was no such object.
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether another has written in between.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// The body of the answer.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            let shown = details.to_json();
            if let Some(continue_) = &details.continue_ {
                status["metadata"]["continue"] = json!(continue_);
            }
            // A Status that only says how to go on has no details of its own.
            if details.continue_.is_none() || shown != json!({}) {
                status["details"] = shown;
            }
        }
        status
    }
}

impl Details {
    fn to_json(&self) -> Value {
        let mut json = json!({});
        let texts = [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            json[key] = json!(text);
        }
        if !self.causes.is_empty() {
            let of = |c: &Cause| match c.field.is_empty() {
                true => json!({"reason": c.reason, "message": c.message}),
                false => json!({"reason": c.reason, "message": c.message, "field": c.field}),
            };
            json["causes"] = self.causes.iter().map(of).collect();
        }
        if let Some(seconds) = self.retry_after_seconds {
            json["retryAfterSeconds"] = json!(seconds);
        }
        json
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.field.is_empty() {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", self.field, self.message),
        }
    }
}

impl From<StoreError> for ApiError {
    /// A conflict is named by its key here; who knows the object says it better.
    fn from(error: StoreError) -> ApiError {
        match error {
            StoreError::Conflict { .. } => ApiError::plain(409, "Conflict", error.to_string()),
            StoreError::Compacted { asked, oldest } => {
                ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
            }
            StoreError::Future { asked, newest } => ApiError::future_revision(asked, newest),
            StoreError::Unfit { .. } => ApiError::too_large(error.to_string()),
            // Not passing: a session of a node that ends for it and begins anew would write no more.
            StoreError::Full { .. } => ApiError::plain(507, "StoreFull", error.to_string()),
            StoreError::Unavailable { .. } => ApiError::unavailable(chain(&error)).retry_after(1),
        }
    }
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> ApiError {
        let message = chain(&error);
        match error {
            PatchError::NotAPatch(_) | PatchError::Directive { .. } => ApiError::bad_request(message),
            PatchError::TooManyOperations(_) | PatchError::CopiesTooMuch(_) => ApiError::too_large(message),
            PatchError::Operation { .. } | PatchError::TooDeep(_) => ApiError::plain(
                422,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {message}"),
            ),
        }
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> ApiError {
        let message = error.to_string();
        match error {
            ApplyError::ManagedFieldsGiven | ApplyError::Keys { .. } => ApiError::bad_request(message),
            ApplyError::Stored => ApiError::internal(message),
            ApplyError::Conflicts(conflicts) => {
                let causes = conflicts.into_iter().map(|c| {
                    let of = if c.subresource.is_empty() {
                        String::new()
                    } else {
                        format!(" with subresource {:?}", c.subresource)
                    };
                    let message = format!("conflict with {:?}{of} using {}", c.manager, c.api_version);
                    Cause::new("FieldManagerConflict", c.field, message)
                });
                let details = Details { causes: causes.collect(), ..Details::default() };
                ApiError { code: 409, reason: "Conflict", message, details: Some(Box::new(details)) }
            }
        }
    }
}

impl From<SelectorError> for ApiError {
    fn from(error: SelectorError) -> ApiError {
        ApiError::bad_request(error.to_string())
    }
}

/// An error and what it comes from, as one sentence.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
