//! What follows the question mark, as the options of each verb.

use serde_json::{Value, json};
use url::form_urlencoded;

use crate::api::error::{ApiError, Cause};
use crate::api::kinds::Kind;
use crate::api::objects::{DeleteOptions, FieldValidation, ListQuery, WatchQuery, WriteOptions};
use crate::api::selector;

/// Parameters of one request: more than any client sends.
const PARAMETERS_MAX: usize = 64;
/// The longest name of a field manager, as in Kubernetes.
const MANAGER_MAX: usize = 128;

/// The parameters in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(text: &str) -> Query {
        let pairs = form_urlencoded::parse(text.as_bytes()).take(PARAMETERS_MAX);
        Query(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The first value; None also where it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    }

    pub fn truth(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "false" && value != "0")
    }

    /// Whether it is there, also without a value.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let read = |text: &str| text.parse().map_err(|_| ApiError::bad_request(format!("{name}={text}: not a number")));
        self.get(name).map(read).transpose()
    }

    /// Not negative.
    pub fn count(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let read =
            |n: i64| u64::try_from(n).map_err(|_| ApiError::bad_request(format!("{name}={n}: less than nothing")));
        self.number(name)?.map(read).transpose()
    }

    fn revision(&self) -> Result<Option<u64>, ApiError> {
        let read = |text: &str| {
            text.parse().map_err(|_| {
                ApiError::bad_request(format!("resourceVersion={text}: Invalid value: invalid resource version"))
            })
        };
        let revision: Option<u64> = self.get("resourceVersion").map(read).transpose()?;
        Ok(revision.filter(|revision| *revision > 0))
    }

    fn selectors(&self, kind: &Kind) -> Result<(crate::selector::Selector, selector::FieldSelector), ApiError> {
        let labels = selector::labels(self.get("labelSelector").unwrap_or_default())?;
        let selectable = selector::selectable(kind.group, kind.kind);
        let fields = selector::fields(self.get("fieldSelector").unwrap_or_default(), selectable)?;
        Ok((labels, fields))
    }

    /// Of a list, and of what a deletion of many means.
    pub fn list(&self, kind: &Kind) -> Result<ListQuery, ApiError> {
        let (labels, fields) = self.selectors(kind)?;
        let revision = self.revision()?;
        let continue_ = self.get("continue").map(str::to_owned);
        let how = self.get("resourceVersionMatch");
        let mut causes = Vec::new();
        match how {
            None => {}
            Some(_) if self.get("resourceVersion").is_none() => {
                causes.push(forbidden("resourceVersionMatch", "it is forbidden unless resourceVersion is provided"));
            }
            Some(_) if continue_.is_some() => {
                causes.push(forbidden("resourceVersionMatch", "it is forbidden when continue is provided"));
            }
            Some("Exact") if revision.is_none() => {
                causes.push(forbidden("resourceVersionMatch", "\"Exact\" is forbidden for resourceVersion \"0\""));
            }
            Some("Exact" | "NotOlderThan") => {}
            Some(other) => causes.push(unknown("resourceVersionMatch", other, &["Exact", "NotOlderThan"])),
        }
        if self.get("sendInitialEvents").is_some() {
            causes.push(forbidden("sendInitialEvents", "it is forbidden for list"));
        }
        valid("ListOptions", causes)?;
        let limit = self.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        Ok(ListQuery { labels, fields, limit, continue_, revision, exact: how == Some("Exact") })
    }

    /// Of a watch. The second: it begins at the newest without what there is.
    pub fn watch(&self, kind: &Kind) -> Result<(WatchQuery, bool), ApiError> {
        let (labels, fields) = self.selectors(kind)?;
        let after = self.revision()?;
        let (initial, how) = (self.get("sendInitialEvents"), self.get("resourceVersionMatch"));
        let mut causes = Vec::new();
        match (initial, how) {
            (None, None) | (Some(_), Some("NotOlderThan")) => {}
            (None, Some(_)) => {
                causes.push(forbidden(
                    "resourceVersionMatch",
                    "it is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            (Some(_), None) => {
                causes.push(forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting it to \"NotOlderThan\"",
                ));
            }
            (Some(_), Some(other)) => causes.push(unknown("resourceVersionMatch", other, &["NotOlderThan"])),
        }
        valid("ListOptions", causes)?;
        let send_initial = self.truth("sendInitialEvents");
        let from_now = initial.is_some() && !send_initial && after.is_none();
        let bookmarks = self.truth("allowWatchBookmarks");
        Ok((WatchQuery { labels, fields, after, send_initial, bookmarks }, from_now))
    }

    fn dry_run(&self, of: &str) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(invalid(of, vec![unknown("dryRun", other, &["All"])])),
        }
    }

    /// Of a write. `agent`: the header, by whose beginning a writer without a name goes.
    pub fn write(&self, of: &str, agent: &str) -> Result<WriteOptions, ApiError> {
        let validation = match self.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                return Err(invalid(of, vec![unknown("fieldValidation", other, &["Ignore", "Strict", "Warn"])]));
            }
        };
        let manager = self.get("fieldManager").unwrap_or_else(|| agent.split('/').next().unwrap_or_default());
        let named = self.get("fieldManager").is_some();
        if named && (manager.len() > MANAGER_MAX || !manager.chars().all(|c| !c.is_control())) {
            let message = format!("Invalid value: {manager:?}: at most {MANAGER_MAX} printable characters");
            return Err(invalid(of, vec![Cause::new("FieldValueInvalid", "fieldManager", message)]));
        }
        let printable = |c: &char| !c.is_control();
        let manager = manager.chars().filter(printable).take(MANAGER_MAX).collect();
        Ok(WriteOptions { dry_run: self.dry_run(of)?, manager, validation, ..WriteOptions::default() })
    }

    /// What an apply and other patches say besides: whether fields are taken from their owners.
    pub fn force(&self, is_apply: bool) -> Result<bool, ApiError> {
        let mut causes = Vec::new();
        if is_apply && self.get("fieldManager").is_none() {
            let message = "Required value: is required for apply patch";
            causes.push(Cause::new("FieldValueRequired", "fieldManager", message));
        }
        if !is_apply && self.get("force").is_some() {
            causes.push(forbidden("force", "may not be specified for non-apply patch"));
        }
        valid("PatchOptions", causes)?;
        Ok(self.truth("force"))
    }

    /// Of a deletion: the body's, or the query's where there is no body.
    pub fn delete(&self, body: Option<&Value>) -> Result<DeleteOptions, ApiError> {
        let mut options = match body {
            Some(body) => DeleteOptions::read(body)?,
            None => {
                let orphan = self.get("orphanDependents").map(|_| self.truth("orphanDependents"));
                DeleteOptions::read(&json!({
                    "gracePeriodSeconds": self.number("gracePeriodSeconds")?,
                    "propagationPolicy": self.get("propagationPolicy"),
                    "orphanDependents": orphan,
                }))?
            }
        };
        options.dry_run |= self.dry_run("DeleteOptions")?;
        Ok(options)
    }
}

fn forbidden(field: &str, why: &str) -> Cause {
    Cause::new("FieldValueForbidden", field, format!("Forbidden: {why}"))
}

fn unknown(field: &str, value: &str, known: &[&str]) -> Cause {
    let known = known.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    Cause::new("FieldValueNotSupported", field, format!("Unsupported value: {value:?}: supported values: {known}"))
}

fn valid(of: &str, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() { Ok(()) } else { Err(invalid(of, causes)) }
}

/// 422 about the options themselves.
fn invalid(of: &str, causes: Vec<Cause>) -> ApiError {
    let shown = causes.iter().map(Cause::to_string).collect::<Vec<_>>().join(", ");
    let message = format!("{of}.meta.k8s.io \"\" is invalid: {shown}");
    let mut error = ApiError { code: 422, reason: "Invalid", message, details: None };
    for cause in causes {
        error = error.because(cause);
    }
    error
}
