//! The node's own shutdown: logind is asked to wait, and meanwhile the pods end, those that are critical in the last part of
//! the time (Kubernetes' graceful node shutdown). In which order is `pod::turns`'.
//!
//! Started by the composition root where the configuration leaves any time for it. Facts about the interface:
//! org.freedesktop.login1(5); systemd's page about inhibitor locks. A lock of the kind `delay` is held by an open descriptor;
//! PrepareForShutdown tells that the shutdown begins (true) or was called off (false), and it goes on when the descriptor is closed,
//! or after InhibitDelayMaxSec. An agent that ends meanwhile closes it too. A node without logind is one that shuts down without waiting.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pod::time::Moment;
use pod::turns::Shutdown;
use tokio_stream::StreamExt as _;
use zbus::{Connection, MatchRule, MessageStream, OwnedFd, Variant};

use crate::board::{Board, Check};
use crate::config::Grace;
use crate::seams::{Clock, Machine};
use crate::status::ready::readiness;
use crate::turns::Turns;
use crate::worker::Shared;

const DESTINATION: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";
const INTERFACE: &str = "org.freedesktop.login1.Manager";
/// Whose the lock is, for `systemd-inhibit --list`.
const WHO: &str = "daemonlet";

/// How soon the bus is tried again when it was lost or does not know logind, and how seldom in the end: at a boot either may come later
/// than the agent, and some nodes have none.
const AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(600)];
/// logind answers in milliseconds; one that is started by the question needs a while.
const ANSWERED_WITHIN: Duration = Duration::from_secs(25);
/// Signals that wait: there are two in the life of a machine.
const SIGNALS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);
/// Of logind's time so much is kept back: for what was killed last to be gone, and for letting go of the lock.
pub const SPARE: Duration = Duration::from_millis(500);

/// What of the agent a shutdown concerns.
struct Node<'n, C> {
    turns: &'n Turns,
    board: &'n Board,
    clock: &'n C,
}

/// For ever; returns where systemd is not this node's init.
pub async fn follow<M: Machine>(grace: Grace, shared: Arc<Shared<M>>) {
    if !has_systemd() {
        tracing::info!("systemd is not this node's init: its shutdown does not wait for pods");
        return;
    }
    let node = Node { turns: &shared.turns, board: &shared.board, clock: shared.machine.clock() };
    let [mut pause, longest] = AGAIN;
    loop {
        let ended = match Connection::system().await {
            Ok(bus) => wait_for_shutdown(&bus, grace, &node, &mut pause).await,
            Err(why) => Err(why),
        };
        match ended {
            Ok(()) => {
                tracing::warn!("the system bus has ended: this node's shutdown does not wait for pods until it is back")
            }
            Err(why) => tracing::warn!(%why, "no lock on this node's shutdown: it does not wait for pods; tried again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// systemd runs this machine (sd_booted(3)).
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Until the bus ends. `pause` is put back to its least once there was an answer.
async fn wait_for_shutdown<C: Clock>(
    bus: &Connection,
    grace: Grace,
    node: &Node<'_, C>,
    pause: &mut Duration,
) -> zbus::Result<()> {
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(DESTINATION)
        .path(OBJECT)
        .interface(INTERFACE)
        .member("PrepareForShutdown")
        .build()?;
    let mut signals = MessageStream::for_match_rule(rule, bus, Some(SIGNALS_MAX)).await?;
    // logind gives no lock on a shutdown that has begun; nothing is to start in what is left of it.
    let (mut lock, mut until) = match within_time(is_preparing(bus)).await? {
        true => (None, begin(bus, grace, node).await),
        false => {
            node.goes_on();
            (Some(within_time(inhibit(bus)).await?), Moment(u64::MAX))
        }
    };
    [*pause, _] = AGAIN;
    tracing::info!(lock = lock.is_some(), "this node's shutdown waits for its pods");
    loop {
        // Dropped at any time, neither loses anything: a signal that was not taken stays in its queue.
        tokio::select! {
            signal = signals.next() => {
                let Some(signal) = signal else { return Ok(()) };
                if signal?.body().deserialize::<bool>()? {
                    until = begin(bus, grace, node).await;
                } else {
                    tracing::info!("the shutdown was called off: pods run again");
                    node.goes_on();
                    until = Moment(u64::MAX);
                    // Where it is still held it is good for the next shutdown too.
                    if lock.is_none() {
                        lock = Some(within_time(inhibit(bus)).await?);
                    }
                }
            }
            () = node.all_gone(until), if lock.is_some() && until != Moment(u64::MAX) => drop(lock.take()),
        }
    }
}

/// The pods begin to end. Until when they are waited for.
async fn begin<C: Clock>(bus: &Connection, grace: Grace, node: &Node<'_, C>) -> Moment {
    let begun = node.clock.now().boot;
    // One that does not answer waits at least as long as its own default.
    let longest = within_time(longest_delay(bus)).await.unwrap_or(LOGINDS_DEFAULT);
    let Grace { total, critical } = within(grace, longest.saturating_sub(SPARE));
    tracing::info!(seconds = total.as_secs_f32(), "the node shuts down: its pods end");
    node.turns.shut_down(Some(Shutdown { begun, ordinary: total.saturating_sub(critical), critical }));
    node.board.set_check(Check::Shutdown, Err("the node is shutting down".into()));
    begun.after(total).after(SPARE / 2)
}

/// InhibitDelayMaxSec where nobody has set it (logind.conf(5)).
const LOGINDS_DEFAULT: Duration = Duration::from_secs(5);

/// What is left of it where logind waits only so long: both parts shrink alike.
fn within(grace: Grace, longest: Duration) -> Grace {
    if grace.total <= longest {
        return grace;
    }
    let share = longest.as_secs_f64() / grace.total.as_secs_f64();
    Grace { total: longest, critical: grace.critical.mul_f64(share) }
}

impl<C: Clock> Node<'_, C> {
    fn goes_on(&self) {
        self.turns.shut_down(None);
        self.board.clear_check(Check::Shutdown);
    }

    /// Nothing of any pod is left, or it is so late.
    async fn all_gone(&self, until: Moment) {
        let gone = async {
            let mut version = self.board.version();
            loop {
                // A change from here on is not missed.
                version.mark_unchanged();
                let now = readiness(self.board);
                if (now.there.is_empty() && now.settled) || version.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = gone => tracing::info!("all pods have ended"),
            () = self.clock.sleep_until(until) => {
                tracing::warn!("the time for the shutdown is over; what still runs ends with the node");
            }
        }
    }
}

async fn within_time<T>(answer: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    let slow = |_| zbus::Error::Failure(format!("logind has not answered for {} s", ANSWERED_WITHIN.as_secs()));
    tokio::time::timeout(ANSWERED_WITHIN, answer).await.map_err(slow)?
}

async fn inhibit(bus: &Connection) -> zbus::Result<OwnedFd> {
    let body = ("shutdown", WHO, "the daemons end in their order", "delay");
    let answer = bus.call_method(Some(DESTINATION), OBJECT, Some(INTERFACE), "Inhibit", &body).await?;
    answer.body().deserialize()
}

async fn is_preparing(bus: &Connection) -> zbus::Result<bool> {
    property(bus, "PreparingForShutdown", |value| match value {
        Variant::Bool(preparing) => Some(preparing),
        _ => None,
    })
    .await
}

/// InhibitDelayMaxSec as logind has it.
async fn longest_delay(bus: &Connection) -> zbus::Result<Duration> {
    property(bus, "InhibitDelayMaxUSec", |value| match value {
        Variant::U64(micros) => Some(Duration::from_micros(micros)),
        _ => None,
    })
    .await
}

async fn property<T>(bus: &Connection, name: &str, take: impl Fn(Variant<'_>) -> Option<T>) -> zbus::Result<T> {
    let body = (INTERFACE, name);
    let answer =
        bus.call_method(Some(DESTINATION), OBJECT, Some("org.freedesktop.DBus.Properties"), "Get", &body).await?;
    let body = answer.body();
    take(body.deserialize()?).ok_or_else(|| zbus::Error::Failure(format!("logind's {name} is of another type")))
}

/// What logind says of this node, for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// InhibitDelayMaxSec.
    pub longest: Duration,
    /// An agent holds a lock.
    pub waits: bool,
}

/// Asks logind. Changes nothing.
pub async fn look() -> Result<Look, String> {
    let look = async {
        let bus = Connection::system().await?;
        let longest = longest_delay(&bus).await?;
        let answer = bus.call_method(Some(DESTINATION), OBJECT, Some(INTERFACE), "ListInhibitors", &()).await?;
        // What, who, why, mode, user and process of each.
        let locks: Vec<(String, String, String, String, u32, u32)> = answer.body().deserialize()?;
        let ours = |(what, who, _, mode, ..): &(String, String, String, String, u32, u32)| {
            who == WHO && mode == "delay" && what.split(':').any(|it| it == "shutdown")
        };
        Ok(Look { longest, waits: locks.iter().any(ours) })
    };
    within_time(look).await.map_err(|why: zbus::Error| why.to_string())
}

#[cfg(test)]
mod tests;
