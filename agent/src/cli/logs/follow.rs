//! `logs -f`: what is written from now on, across rotations, restarts of the container and of the agent, and with the pod that
//! takes the place of one that goes.
//!
//! The end is told by the agent alone: a pod that is gone and that no document asks for any more. One that does not answer says
//! nothing: the log goes on without it.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher as _};
use serde_json::Value;

use super::{Failure, Log, LogsArgs, Place, Then, cannot, note, open, places, status_of};
use crate::cli::client::Client;
use crate::cli::find::{self, field};
use crate::cli::pod_row;
use crate::http::rows::Kind;
use crate::log_file::LogFile;

/// How often the agent is asked what runs, and the safety net for inotify.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub fn follow(
    client: &Client,
    log_dir: &Path,
    args: &LogsArgs,
    mut logs: Vec<Log>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    // All hints say the same: one that waits is enough.
    let (hints, hint) = mpsc::sync_channel(1);
    // Without inotify (no instances left) the slow look alone goes on.
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own opening and reading are events too, and must not wake us.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _waits_already = hints.try_send(());
        }
    })
    .ok();
    for log in &logs {
        watch(&mut watcher, log);
    }
    let mut uid = logs.first().map(|log| log.place.uid.clone()).unwrap_or_default();
    // What follows is of the same namespace, also where the name was enough to find it.
    let of_place =
        logs.first().and_then(|log| log.place.pod_dir.split_once('_')).map(|(namespace, _)| namespace.to_owned());
    let namespace = args.namespace.clone().or(of_place);
    let mut asked: Option<Instant> = None;
    loop {
        // Asked before reading: what it wrote before its end is printed after we have learned of that.
        let due = asked.is_none_or(|asked| asked.elapsed() >= LOOK_AGAIN);
        let look = if due { Look::take(client, &args.name, namespace.as_deref(), &uid) } else { Look::Unknown };
        if due {
            asked = Some(Instant::now());
        }
        for log in &mut logs {
            go_on(log, out)?;
        }
        match look {
            Look::Unknown => {}
            Look::Here(pod) => {
                // A container that is not known yet is one later.
                let wanted = places(&pod, args).unwrap_or_default();
                let over = !wanted.is_empty() && wanted.iter().all(|place| is_over(&pod, place));
                for place in wanted {
                    restarted(log_dir, args, &mut logs, place, &mut watcher, out)?;
                }
                if over {
                    return end(&mut logs, out);
                }
            }
            Look::Successor(pod) => {
                end(&mut logs, out)?;
                logs.clear();
                note(&format!("goes on with pod {}", find::name(&pod)));
                uid = field(&pod, "/metadata/uid").to_owned();
                // Nothing of it has been looked at.
                asked = None;
                continue;
            }
            Look::Over => return end(&mut logs, out),
        }
        out.flush()?;
        match hint.recv_timeout(LOOK_AGAIN) {
            // All hints that have come meanwhile say the same.
            Ok(()) => while hint.try_recv().is_ok() {},
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// What the agent says of what is followed.
enum Look {
    /// It does not answer, or the pod's place is empty for a moment.
    Unknown,
    Here(Value),
    /// The pod is gone, and this one has its name or is of its set.
    Successor(Value),
    Over,
}

impl Look {
    fn take(client: &Client, name: &str, namespace: Option<&str>, uid: &str) -> Look {
        let Ok(pods) = client.list(Kind::Pods) else { return Look::Unknown };
        if let Some(pod) = pods.iter().find(|pod| field(pod, "/metadata/uid") == uid) {
            return Look::Here(pod.clone());
        }
        match find::pods(pods, name, namespace) {
            Ok(pods) => find::staying(&pods).map_or(Look::Unknown, |pod| Look::Successor(pod.clone())),
            Err(_) if is_wanted(client, name, namespace) => Look::Unknown,
            Err(_) => Look::Over,
        }
    }
}

/// Whether an accepted document asks for what has the name.
fn is_wanted(client: &Client, name: &str, namespace: Option<&str>) -> bool {
    let (Ok(files), Ok(node)) = (client.list(Kind::Files), client.list(Kind::Node)) else { return true };
    let node = node.first().map_or("", |node| field(node, "/metadata/name"));
    let (set, name) = match name.split_once('/') {
        Some(("ds" | "daemonset" | "daemonsets", name)) => (true, name),
        Some((_, name)) => (false, name),
        None => (false, name),
    };
    files.iter().filter(|file| file["state"] == "Accepted").any(|file| {
        let named = match field(file, "/kind") {
            "DaemonSet" => set && field(file, "/name") == name,
            "Pod" => !set && name.strip_suffix(node).and_then(|it| it.strip_suffix('-')) == Some(field(file, "/name")),
            _ => false,
        };
        named && namespace.is_none_or(|namespace| namespace == field(file, "/namespace"))
    })
}

/// Prints what has come, over rotations.
fn go_on(log: &mut Log, out: &mut impl Write) -> Result<(), Failure> {
    let Log { place, dir, current, printer } = log;
    current.print(|line| printer.print(line, out))?;
    let same = |why: io::Error| match why.kind() {
        // Between a rename and the new file, or the pod is gone: nothing newer at present.
        io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(cannot(place, &why)),
    };
    match dir.current(place.attempt) {
        Ok(named) if named.identity == current.identity => return Ok(()),
        Ok(_) => {}
        Err(why) => return same(why).map(drop),
    }
    let mut newer: Vec<LogFile> = dir.files(place.attempt).or_else(same)?;
    // Where ours is no longer kept, all that is kept is newer.
    if let Some(ours) = newer.iter().position(|file| file.identity == current.identity) {
        newer.drain(..=ours);
    }
    for file in newer {
        // What was written between our last read and the rotation.
        current.print(|line| printer.print(line, out))?;
        current.finish(|line| printer.print(line, out))?;
        *current = file;
        current.print(|line| printer.print(line, out))?;
    }
    Ok(())
}

/// A run that is newer than the one that is followed, or a container of which nothing was there: its log takes over.
fn restarted(
    log_dir: &Path,
    args: &LogsArgs,
    logs: &mut Vec<Log>,
    place: Place,
    watcher: &mut Option<notify::RecommendedWatcher>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let at = logs.iter().position(|log| log.place.container == place.container);
    if at.is_some_and(|at| logs[at].place.attempt >= place.attempt) {
        return Ok(());
    }
    // The run before may have come and gone since the last look; of those before it nothing is kept.
    let seen = at.map(|at| logs[at].place.attempt);
    let between = place.attempt.checked_sub(1).filter(|before| seen.is_some_and(|seen| *before > seen));
    if let Some(at) = at {
        finish(&mut logs[at], out)?;
    }
    for attempt in between.into_iter().chain([place.attempt]) {
        let log = match open(log_dir, Place { attempt, ..place.clone() }, args, None, Then::Follow, out) {
            Ok(log) => log,
            // It has not begun to write.
            Err(Failure::NotFound(_)) => continue,
            Err(why) => return Err(why),
        };
        if attempt > 0 && seen.is_some() {
            note(&format!("container {} was restarted; this is its run {attempt}", place.container));
        }
        watch(watcher, &log);
        match logs.iter_mut().find(|it| it.place.container == place.container) {
            Some(before) => {
                finish(before, out)?;
                *before = log;
            }
            None => logs.push(log),
        }
    }
    Ok(())
}

/// The run is over and no other follows it in this pod.
fn is_over(pod: &Value, place: &Place) -> bool {
    // What comes is another pod, or nothing: the agent says which once this one is gone.
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return false;
    }
    if matches!(field(pod, "/status/phase"), "Succeeded" | "Failed") {
        return true;
    }
    let init = pod_row::inits(pod).iter().find(|status| status["name"] == place.container.as_str());
    if init.is_some_and(|status| pod_row::is_sidecar(pod, status)) {
        return false;
    }
    let ended = status_of(pod, &place.container).map_or(&Value::Null, |status| &status["state"]["terminated"]);
    match field(pod, "/spec/restartPolicy") {
        "Never" => !ended.is_null(),
        "OnFailure" => ended["exitCode"] == 0,
        _ => init.is_some() && ended["exitCode"] == 0,
    }
}

fn end(logs: &mut [Log], out: &mut impl Write) -> Result<(), Failure> {
    for log in logs {
        go_on(log, out)?;
        finish(log, out)?;
    }
    Ok(out.flush()?)
}

fn finish(log: &mut Log, out: &mut impl Write) -> Result<(), Failure> {
    let Log { current, printer, .. } = log;
    current.finish(|line| printer.print(line, out))?;
    Ok(printer.cut(out)?)
}

fn watch(watcher: &mut Option<notify::RecommendedWatcher>, log: &Log) {
    if let Some(watcher) = watcher {
        let _slow_look_instead = watcher.watch(log.dir.watch_path().as_ref(), RecursiveMode::NonRecursive);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn over(policy: &str, container: &str, change: impl FnOnce(&mut Value)) -> bool {
        let ended = |name: &str, code: u8| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
        let mut pod = json!({
            "metadata": {},
            "spec": {"restartPolicy": policy, "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}]},
            "status": {
                "phase": "Running",
                "initContainerStatuses": [ended("init", 0), ended("side", 0)],
                "containerStatuses": [ended("well", 0), ended("badly", 1), {"name": "runs", "state": {"running": {}}}],
            },
        });
        change(&mut pod);
        let (pod_name, uid, pod_dir) = ("p".into(), "u".into(), "a_p_u".into());
        is_over(&pod, &Place { pod: pod_name, uid, pod_dir, container: container.into(), attempt: 0 })
    }

    #[test]
    fn a_container_is_over_when_nothing_starts_it_again() {
        let cases = [
            ("Never", "badly", true),
            ("Never", "runs", false),
            ("OnFailure", "well", true),
            ("OnFailure", "badly", false),
            ("Always", "well", false),
            ("Always", "init", true),
            ("Never", "side", false),
            ("OnFailure", "side", false),
        ];
        for (policy, container, expected) in cases {
            assert_eq!(over(policy, container, |_| {}), expected, "{policy} {container}");
        }
        for container in ["well", "runs", "side", "init"] {
            assert!(over("Always", container, |pod| pod["status"]["phase"] = json!("Succeeded")), "{container}");
        }
    }

    #[test]
    fn a_pod_that_ends_for_its_successor_is_not_over() {
        let terminating = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        for (policy, container) in [("Never", "badly"), ("OnFailure", "well"), ("Always", "init")] {
            assert!(!over(policy, container, terminating), "{policy} {container}");
        }
    }
}
