//! Our own programs: the agent and the log keeper.

use std::os::unix::net::UnixStream;
use std::path::Path;

use keeper::client::Keeper;
use serde_json::Value;

use super::Line;

/// Containers read, and how many of them fail to be written.
#[derive(Debug, PartialEq)]
pub struct KeeperState {
    pub version: String,
    pub containers: usize,
    /// Why log files cannot be written, of containers where they cannot.
    pub failing: Vec<String>,
}

pub fn probe_keeper(run_dir: &Path) -> Result<KeeperState, String> {
    // Asked first because the client waits for a keeper that is being restarted, and a person waits for us.
    UnixStream::connect(run_dir.join(keeper::protocol::SOCKET)).map_err(|why| why.to_string())?;
    let status = Keeper::new(run_dir).status().map_err(|why| why.to_string())?;
    let failing = status.containers.iter().map(|one| one.failing.clone()).filter(|why| !why.is_empty()).collect();
    Ok(KeeperState { version: status.version, containers: status.containers.len(), failing })
}

pub fn judge_keeper(found: &Result<KeeperState, String>, units: bool) -> Line {
    const NAME: &str = "log keeper";
    match found {
        Ok(state) if !state.failing.is_empty() => Line::fail(
            NAME,
            format!("cannot write {} logs: {}", state.failing.len(), state.failing[0]),
            "make room, or make the log directory writable; what cannot be written is counted and lost",
        ),
        Ok(state) => Line::ok(NAME, format!("version {} reads {} containers", state.version, state.containers)),
        Err(why) => Line::fail(
            NAME,
            format!("does not answer: {why}"),
            match units {
                true => {
                    "start it (systemctl enable --now daemonlet-logkeeper); without it daemons that print a lot are blocked"
                }
                false => "start the agent, which starts it; without it daemons that print a lot are blocked",
            },
        ),
    }
}

/// What the agent says of itself.
pub fn judge_agent(found: &Result<Value, String>, how_to_start: &str) -> Line {
    const NAME: &str = "agent";
    let node = match found {
        Ok(node) => node,
        Err(why) => return Line::fail(NAME, why.clone(), how_to_start),
    };
    let checks = node.pointer("/daemonlet/checks").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| check["ok"] != true)
        .map(|check| format!("{}: {}", text(check, "name"), text(check, "reason")))
        .collect();
    let restart = node.pointer("/daemonlet/needsRestart").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let restart: Vec<&str> = restart.iter().filter_map(Value::as_str).collect();
    match (failed.is_empty(), restart.is_empty()) {
        (false, _) => Line::fail(NAME, format!("answers, and fails: {}", failed.join("; ")), "see daemonlet why"),
        (true, false) => Line::warn(
            NAME,
            format!("needs restart for: {}", restart.join(", ")),
            "restart the agent (systemctl restart daemonlet, where its unit runs it); containers go on running",
        ),
        (true, true) => Line::ok(NAME, "answers, and all its checks are ok"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_silent_keeper_fails() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(judge_keeper(&probe_keeper(dir.path()), true).verdict, Verdict::Fail);
        let state = |failing| Ok(KeeperState { version: "1".into(), containers: 3, failing });
        assert_eq!(judge_keeper(&state(vec![]), true).verdict, Verdict::Ok);
        assert_eq!(judge_keeper(&state(vec!["no space".into()]), true).verdict, Verdict::Fail);
    }

    #[test]
    fn an_agent_that_is_silent_or_not_ready_fails() {
        assert_eq!(judge_agent(&Err("no agent answers".into()), "start it").verdict, Verdict::Fail);
        let node = |ok: bool, restart: &[&str]| json!({"daemonlet": {"checks": [{"name": "containerd", "ok": ok, "reason": "down"}], "needsRestart": restart}});
        assert_eq!(judge_agent(&Ok(node(true, &[])), "").verdict, Verdict::Ok);
        assert_eq!(judge_agent(&Ok(node(true, &["listen"])), "").verdict, Verdict::Warn);
        let line = judge_agent(&Ok(node(false, &[])), "");
        assert_eq!((line.verdict, line.found.as_str()), (Verdict::Fail, "answers, and fails: containerd: down"));
    }
}
