//! `kubectl logs`: the options of the query, and the bytes as the pod's node sends them.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connection::Stream;
use super::query::Query;
use super::reply::{self, Reply, TEXT};
use crate::api::error::{ApiError, Details};
use crate::api::invalid::Causes;

/// A client that has read nothing for so long is cut off: a node has few streams. Long enough for somebody who reads page by page.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(600);

/// What is wanted of a container's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    pub follow: bool,
    /// Of the run before this one.
    pub previous: bool,
    /// A time before each line.
    pub timestamps: bool,
    /// Lines from the end; None: all.
    pub tail: Option<u64>,
    /// Only lines from here on.
    pub since: Option<Timestamp>,
    /// Bytes after which it ends.
    pub limit_bytes: Option<u64>,
}

/// A log as it comes; ends when the sender is dropped. Dropping it ends the sending.
pub type LogStream = mpsc::Receiver<Bytes>;

/// Where logs come from: the session of the node on which the pod is.
pub trait Logs: Send + Sync {
    /// Errors: a Status that says why there is none (no session with the node, no such run).
    fn open<'a>(
        &'a self,
        pod: &'a Value,
        container: &'a str,
        options: &'a LogOptions,
    ) -> Pin<Box<dyn Future<Output = Result<LogStream, ApiError>> + Send + 'a>>;
}

impl LogOptions {
    pub fn of(query: &Query, now: Timestamp) -> Result<LogOptions, ApiError> {
        check_bounds(query)?;
        let since = match (query.get("sinceTime"), query.count("sinceSeconds")?) {
            (Some(_), Some(_)) => {
                return Err(ApiError::bad_request("at most one of sinceTime and sinceSeconds may be given"));
            }
            (Some(time), None) => {
                let read = |_| ApiError::bad_request(format!("sinceTime={time}: not a time"));
                Some(time.parse::<Timestamp>().map_err(read)?)
            }
            (None, Some(seconds)) => {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                Some(Timestamp::from_second(now.as_second().saturating_sub(seconds)).unwrap_or(Timestamp::MIN))
            }
            (None, None) => None,
        };
        Ok(LogOptions {
            follow: query.truth("follow"),
            previous: query.truth("previous"),
            timestamps: query.truth("timestamps"),
            tail: query.count("tailLines")?,
            since,
            limit_bytes: query.count("limitBytes")?,
        })
    }
}

/// As Kubernetes has them. Error: 422.
fn check_bounds(query: &Query) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    for (name, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        if let Some(number) = query.number(name)?.filter(|number| *number < least) {
            let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            causes.invalid(name, &number.into(), why);
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let causes = causes.into_vec();
    let shown: Vec<String> = causes.iter().map(ToString::to_string).collect();
    let mut error = ApiError::bad_request(format!("PodLogOptions \"\" is invalid: {}", shown.join(", ")));
    (error.code, error.reason) = (422, "Invalid");
    error.details = Some(Box::new(Details { kind: "PodLogOptions".into(), causes, ..Details::default() }));
    Err(error)
}

/// The container that is meant. Error: 400, none or an unknown one is named where there are several.
fn container<'a>(pod: &'a Value, query: &'a Query) -> Result<&'a str, ApiError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let of = |list: &str| pod["spec"][list].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str());
    let containers: Vec<&str> = of("containers").collect();
    match (query.get("container"), containers.as_slice()) {
        (Some(wanted), _) if lists.iter().any(|list| of(list).any(|own| own == wanted)) => Ok(wanted),
        (Some(wanted), _) => Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        (None, [one]) => Ok(one),
        (None, several) => {
            let several = several.join(" ");
            Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{several}]"
            )))
        }
    }
}

/// The log of a pod. `held` until its end.
pub async fn answer(
    logs: &dyn Logs,
    pod: &Value,
    query: &Query,
    now: Timestamp,
    held: Stream,
) -> Result<Reply, ApiError> {
    let options = LogOptions::of(query, now)?;
    let container = container(pod, query)?;
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return Ok(reply::bytes(StatusCode::OK, TEXT, ""));
    }
    let mut stream = logs.open(pod, container, &options).await?;
    let (pieces, answer) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let piece = tokio::select! {
                piece = stream.recv() => piece,
                // The client has gone; the node is told by the dropped stream.
                () = pieces.closed() => None,
            };
            let Some(piece) = piece else { break };
            match timeout(UNREAD_TIME_MAX, pieces.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => break,
                Err(_) => {
                    held.peer.cut();
                    break;
                }
            }
        }
    });
    Ok(reply::pieces(TEXT, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_kubernetes_refuses_are_refused_by_name() {
        let of = |query: &str| LogOptions::of(&Query::of(query), Timestamp::UNIX_EPOCH);
        for query in ["tailLines=-1", "sinceSeconds=0", "limitBytes=0"] {
            let refused = of(query).unwrap_err();
            let name = query.split('=').next().unwrap();
            assert_eq!((refused.code, refused.reason), (422, "Invalid"), "{query}");
            assert_eq!(refused.details.unwrap().causes[0].field, name);
        }
        assert_eq!(of("tailLines=0&sinceSeconds=1&limitBytes=1").unwrap().tail, Some(0));
        assert_eq!(of("tailLines=x").unwrap_err().code, 400);
    }
}
