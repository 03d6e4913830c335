//! The control endpoint as seen from this node: whether it is reached, until when the node's certificate lets it in, and how what it wanted
//! last lies on the disk. No line where the node has nothing to do with one.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Line, Places};
use crate::checkpoint::{Checkpoint, Kept, Sealing};
use crate::config::ControlUrl;
use crate::disk::Disk;
use crate::registry::names::Names;
use crate::status::time;
use crate::uplink::{Identity, Place};

/// For a connection, where no agent says how it stands.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long a certificate that has ended still renews itself (docs/joining.md).
const RENEWS_FOR: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Clocks that differ by less are the same.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(1);

#[derive(Debug)]
pub struct Found {
    endpoint: String,
    reached: Reached,
    /// None: the node has not joined.
    identity: Result<Option<Identity>, String>,
    kept: Kept,
    now: Timestamp,
}

#[derive(Debug)]
enum Reached {
    /// The agent's word.
    Session(Result<(), String>),
    /// No agent answers.
    Connection(Result<(), String>),
}

/// None: no endpoint is configured. Blocking, for a few seconds.
pub fn probe(places: &Places) -> Option<Found> {
    let said = places.agent.as_ref().map(|node| node.pointer("/daemonlet/control").filter(|said| !said.is_null()));
    let configured = places.control.clone();
    let (endpoint, session) = match said {
        Ok(said) => {
            let text = |key: &str| said.and_then(|said| said[key].as_str()).unwrap_or_default().to_owned();
            let is_connected = said?["connected"] == true;
            (text("endpoint"), Some(if is_connected { Ok(()) } else { Err(text("why")) }))
        }
        Err(_) => (configured.as_ref()?.to_string(), None),
    };
    let state_dir = places.state_dir.clone();
    let look = async move {
        let reached = match session {
            Some(session) => Reached::Session(session),
            None => Reached::Connection(connect(configured.as_ref()).await),
        };
        let (identity, kept) = on_disk(&state_dir).await;
        Found { endpoint, reached, identity, kept, now: Timestamp::now() }
    };
    // The command line has a runtime of its own, in which nothing may block.
    std::thread::scope(|scope| {
        let looked = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.ok().map(|runtime| runtime.block_on(look))
        });
        looked.join().ok().flatten()
    })
}

async fn connect(url: Option<&ControlUrl>) -> Result<(), String> {
    let Some(ControlUrl { host, port }) = url else { return Ok(()) };
    let attempt = async {
        let found = Names::default().addresses(host, *port).await.map_err(|error| error.to_string())?;
        let mut last = "it has no address".to_owned();
        for address in found {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(()),
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        Err(last)
    };
    timeout(CONNECT_MAX, attempt).await.unwrap_or_else(|_| Err(format!("no answer for {} s", CONNECT_MAX.as_secs())))
}

/// Reads and changes nothing.
async fn on_disk(state_dir: &Path) -> (Result<Option<Identity>, String>, Kept) {
    let identity = Place::new(state_dir).look(&Disk).await;
    (identity, Checkpoint::new(state_dir, Disk).sealed_by(Sealing::default()).look().await)
}

pub fn judge(found: &Found) -> Vec<Line> {
    vec![judge_endpoint(found), judge_certificate(found), judge_checkpoint(&found.kept)]
}

fn judge_endpoint(Found { endpoint, reached, .. }: &Found) -> Line {
    const NAME: &str = "control endpoint";
    match reached {
        Reached::Session(Ok(())) => Line::ok(NAME, format!("in session with {endpoint}")),
        Reached::Connection(Ok(())) => Line::ok(NAME, format!("{endpoint} takes connections")),
        Reached::Session(Err(why)) | Reached::Connection(Err(why)) => Line::warn(
            NAME,
            format!("no session with {endpoint}: {why}; the daemons run as it wanted them last"),
            "see that daemonlet-control runs there and that its nodes' port is reached from here; it is tried again by itself",
        ),
    }
}

fn judge_certificate(Found { identity, now, .. }: &Found) -> Line {
    const NAME: &str = "node certificate";
    const REJOIN: &str = "daemonlet rejoin --join-token-file F, with a token of `daemonlet-control token create` there";
    let identity = match identity {
        Ok(Some(identity)) => identity,
        Ok(None) => return Line::warn(NAME, "none: the node has not joined the control endpoint", REJOIN),
        Err(why) => return Line::warn(NAME, format!("it cannot be read: {why}"), REJOIN),
    };
    let Identity { node, since, until, .. } = identity;
    let later = |moment: &Timestamp, by: SignedDuration| moment.checked_add(by).unwrap_or(*moment);
    match () {
        () if *since > later(now, CLOCKS_DIFFER) => Line::fail(
            NAME,
            format!("it was given on {}, and the clock says {}: no certificate is good yet", time(*since), time(*now)),
            "set the clock (systemd-timesyncd, chrony)",
        ),
        () if later(until, RENEWS_FOR) < *now => {
            Line::warn(NAME, format!("it ended on {}, too long ago to be renewed", time(*until)), REJOIN)
        }
        () if until < now => Line::warn(
            NAME,
            format!("it ended on {}", time(*until)),
            "it is renewed once the endpoint is reached; see that the clock here and there is right",
        ),
        () if identity.renew_at() < *now => Line::warn(
            NAME,
            format!("of {node}, until {}; it was to be renewed on {}", time(*until), time(identity.renew_at())),
            "see that the endpoint is reached; the agent's log says why it is not renewed",
        ),
        () => Line::ok(NAME, format!("of {node}, until {}", time(*until))),
    }
}

fn judge_checkpoint(kept: &Kept) -> Line {
    const NAME: &str = "control checkpoint";
    match kept {
        Kept::Nothing => Line::ok(NAME, "none yet"),
        Kept::Sealed => Line::ok(NAME, "sealed by systemd-creds: it is opened on this machine alone"),
        Kept::Open { secrets: 0 } => Line::ok(NAME, "without Secrets, so nothing in it is sealed"),
        Kept::Open { secrets } => Line::warn(
            NAME,
            format!("root's alone, and not encrypted: systemd-creds has not sealed it; Secrets in it: {secrets}"),
            "install systemd 250 or later (the program systemd-creds) and restart the agent; its log says why it was not sealed",
        ),
        Kept::Unreadable(why) => Line::fail(
            NAME,
            format!("it cannot be read ({why}): after a boot, daemons with Secrets wait for the endpoint"),
            "see that the endpoint is reached, which writes a new one; or put /var/lib/systemd/credential.secret back",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict::{self, Fail, Ok as Good, Warn};

    const DAY: i64 = 24 * 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("within the range of times")
    }

    /// Of a certificate from day 100 to day 130.
    fn certificate(today: i64) -> Line {
        let text = String::new;
        let (since, until) = (at(100 * DAY), at(130 * DAY));
        let identity = Identity { node: "n".into(), key: text(), chain: text(), authority: text(), since, until };
        judge_certificate(&found(Reached::Session(Ok(())), Ok(Some(identity)), today))
    }

    fn found(reached: Reached, identity: Result<Option<Identity>, String>, today: i64) -> Found {
        Found { endpoint: "https://e:1".into(), reached, identity, kept: Kept::Nothing, now: at(today * DAY) }
    }

    #[test]
    fn an_endpoint_that_is_not_reached_warns_with_the_reason() {
        let endpoint = |reached| judge_endpoint(&found(reached, Ok(None), 0));
        assert_eq!(endpoint(Reached::Session(Ok(()))).verdict, Good);
        assert_eq!(endpoint(Reached::Connection(Ok(()))).verdict, Good);
        for reached in [Reached::Session(Err("refused".into())), Reached::Connection(Err("refused".into()))] {
            let line = endpoint(reached);
            assert!(line.verdict == Warn && line.found.contains("https://e:1: refused"), "{line:?}");
        }
    }

    #[test]
    fn a_certificate_is_judged_by_its_days_and_the_clock() {
        let cases: [(i64, Verdict, &str); 6] = [
            (99, Fail, "clock"),
            (101, Good, "until 1970-05-11"),
            (121, Warn, "was to be renewed on 1970-05-01"),
            (131, Warn, "it ended on"),
            (130 + 364, Warn, "it ended on"),
            (130 + 366, Warn, "too long ago"),
        ];
        for (today, verdict, words) in cases {
            let line = certificate(today);
            assert!(line.verdict == verdict && line.found.contains(words), "day {today}: {line:?}");
        }
        assert!(certificate(130 + 366).fix.contains("rejoin"));
        for identity in [Ok(None), Err("damaged".to_owned())] {
            assert_eq!(judge_certificate(&found(Reached::Session(Ok(())), identity, 0)).verdict, Warn);
        }
    }

    #[test]
    fn secrets_that_are_not_sealed_warn_and_what_cannot_be_read_fails() {
        let verdict = |kept: Kept| judge_checkpoint(&kept).verdict;
        assert_eq!([Kept::Nothing, Kept::Sealed, Kept::Open { secrets: 0 }].map(verdict), [Good; 3]);
        assert_eq!(verdict(Kept::Open { secrets: 2 }), Warn);
        assert_eq!(verdict(Kept::Unreadable("the key is gone".into())), Fail);
    }
}
