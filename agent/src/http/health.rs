//! /livez, /readyz and /healthz, whole and check by check, in the words of Kubernetes' components.
//!
//! `livez` and `healthz` ask only whether the agent itself makes progress: a restart heals nothing else. `readyz` asks
//! for everything that a pod needs.

use std::collections::BTreeMap;

use hyper::{Response, StatusCode};

use super::reply::{self, Reply};
use crate::board::Check;

type Checks = BTreeMap<Check, Result<(), String>>;

/// The answer for a path below one of the three, None where the path is no other than that.
pub fn answer(path: &str, query: Option<&str>, checks: &Checks) -> Option<Response<Reply>> {
    let mut parts = path.strip_prefix('/')?.splitn(2, '/');
    let endpoint = parts.next()?;
    let asked: Vec<Check> = match endpoint {
        "livez" | "healthz" => vec![Check::Loop],
        "readyz" => checks.keys().copied().collect(),
        _ => return None,
    };
    let verbose = query
        .is_some_and(|query| query.split('&').any(|part| matches!(part, "verbose" | "verbose=true" | "verbose=1")));
    match parts.next() {
        None | Some("") => Some(all(endpoint, &asked, checks, verbose)),
        Some(name) => {
            let check = asked.iter().find(|check| check.name() == name)?;
            Some(match &checks[check] {
                Ok(()) => reply::text(StatusCode::OK, "ok"),
                Err(why) => {
                    reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", line(*check, &Err(why.clone()))))
                }
            })
        }
    }
}

fn all(endpoint: &str, asked: &[Check], checks: &Checks, verbose: bool) -> Response<Reply> {
    let failed = asked.iter().any(|check| checks[check].is_err());
    if !failed && !verbose {
        return reply::text(StatusCode::OK, "ok");
    }
    let lines: String = asked.iter().map(|check| format!("{}\n", line(*check, &checks[check]))).collect();
    match failed {
        false => reply::text(StatusCode::OK, format!("{lines}{endpoint} check passed\n")),
        true => reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{endpoint} check failed\n")),
    }
}

fn line(check: Check, outcome: &Result<(), String>) -> String {
    match outcome {
        Ok(()) => format!("[+]{} ok", check.name()),
        // One line a check, whatever the reason holds.
        Err(why) => format!("[-]{} failed: {}", check.name(), why.replace(['\n', '\r'], " ")),
    }
}
