//! `/livez`, `/readyz` and `/healthz`: what is well, in the words of Kubernetes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use super::query::Query;
use super::reply::{self, Reply, TEXT};

/// A check that has not answered by then has failed: probes have patience for a second or so.
const CHECK_TIME_MAX: Duration = Duration::from_secs(1);

/// Looks at one thing. Error: what is wrong with it.
pub type Look = dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync;

/// One line of the answer.
#[derive(Clone)]
pub struct Check {
    pub name: &'static str,
    /// Whether its failure means that a restart would help: it fails `/livez` too, else only `/readyz`.
    pub of_life: bool,
    pub look: Arc<Look>,
}

/// All checks, in the order in which they are shown.
#[derive(Clone, Default)]
pub struct Checks(pub Vec<Check>);

/// Whether this is a path of these.
pub fn is_place(path: &str) -> bool {
    matches!(name(path), "livez" | "readyz" | "healthz")
}

fn name(path: &str) -> &str {
    path.trim_start_matches('/').trim_end_matches('/')
}

/// None: no such path. The query's `verbose` shows all checks, `exclude` leaves one out.
pub async fn answer(checks: &Checks, path: &str, query: &Query) -> Option<Reply> {
    let name = name(path);
    let is_life = match name {
        "livez" => true,
        "readyz" | "healthz" => false,
        _ => return None,
    };
    let mut lines = String::from("[+]ping ok\n");
    let mut failed = false;
    for check in checks.0.iter().filter(|check| !is_life || check.of_life) {
        if query.get("exclude") == Some(check.name) {
            lines.push_str(&format!("[+]{} excluded: ok\n", check.name));
            continue;
        }
        let looked = tokio::time::timeout(CHECK_TIME_MAX, (check.look)()).await;
        match looked.unwrap_or_else(|_| Err(format!("no answer within {} s", CHECK_TIME_MAX.as_secs()))) {
            Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name)),
            Err(reason) => {
                failed = true;
                lines.push_str(&format!("[-]{} failed: {reason}\n", check.name));
            }
        }
    }
    Some(if failed {
        reply::bytes(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{lines}{name} check failed\n"))
    } else if query.has("verbose") {
        reply::bytes(StatusCode::OK, TEXT, format!("{lines}{name} check passed\n"))
    } else {
        reply::bytes(StatusCode::OK, TEXT, "ok")
    })
}
