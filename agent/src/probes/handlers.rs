//! Does what a probe or a hook asks: [`probe`] with its own timeout, [`hook`] without one.
//!
//! Driven by the prober and by the worker's hooks. A caller who drops the future ends what it does: a command is killed, a
//! connection closed. What the outcome means is decided elsewhere.

use std::net::IpAddr;
use std::time::Duration;

use pod::spec::{Container, Handler, PortReference, Probe};
use tokio::sync::{mpsc, watch};

use super::{grpc, http, tcp};
use crate::exec::{Caller, Exec, ExecError, ExecStreams, OUTPUT_PIECES_MAX, Stage};
use crate::seams::Runtime;

/// Of a command's output or a body, in bytes: the kubelet's bound. More is read from a command and forgotten.
pub const SAID_BYTES_MAX: usize = 10 << 10;

/// What a start may take beside the probe's timeout: a runtime that answers starts a command within 40 ms, on the busiest node
/// within seconds. One that takes longer hangs in this container, which is the container's failure.
const START_ROOM: Duration = Duration::from_secs(10);

/// Where a handler is carried out.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Of the run.
    pub container_id: &'a str,
    /// For the names of its ports.
    pub container: &'a Container,
    /// The pod's first address; with hostNetwork the node's. None: it has none at present.
    pub address: Option<IpAddr>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Success,
    /// A success with a remark.
    Warning(String),
    /// What was found, in the kubelet's words.
    Failure(String),
}

/// It could not be carried out: that says nothing about the container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotDone(pub String, pub Blame);

/// What is at fault where something could not be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// What was asked for: it will be so the next time.
    Asked,
    /// The node, at present.
    Node,
}

/// Whom a request over HTTP comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Probe,
    Hook,
}

/// Carries out a probe, within its timeout.
pub async fn probe<R: Runtime>(runtime: &R, probe: &Probe, target: Target<'_>) -> Result<Answer, NotDone> {
    let late = || Ok(Answer::Failure(late(probe, target)));
    if let Handler::Exec(command) = &probe.handler {
        let (stage, mut reached) = watch::channel(Stage::default());
        let timer = async {
            // A runtime that does not answer says nothing about the container, nor does one that is busy. An error: it never
            // starts, and the command's own end comes first.
            let _ = reached.wait_for(|stage| *stage != Stage::Waits).await;
            let runs =
                tokio::time::timeout(probe.timeout + START_ROOM, reached.wait_for(|stage| *stage == Stage::Runs));
            if runs.await.is_ok() {
                tokio::time::sleep(probe.timeout).await;
            }
        };
        // What loses is dropped, and with it the command.
        return tokio::select! {
            answer = exec(runtime, target.container_id, command, Some(stage)) => answer,
            () = timer => late(),
        };
    }
    match tokio::time::timeout(probe.timeout, one(runtime, &probe.handler, target, Purpose::Probe)).await {
        Ok(answer) => answer,
        Err(_) => late(),
    }
}

/// Carries out a hook, however long it takes.
pub async fn hook<R: Runtime>(runtime: &R, handler: &Handler, target: Target<'_>) -> Result<Answer, NotDone> {
    one(runtime, handler, target, Purpose::Hook).await
}

async fn one<R: Runtime>(
    runtime: &R,
    handler: &Handler,
    target: Target<'_>,
    purpose: Purpose,
) -> Result<Answer, NotDone> {
    match handler {
        Handler::Exec(command) => exec(runtime, target.container_id, command, None).await,
        Handler::HttpGet(get) => {
            let port = port(&get.port, target.container)?;
            http::get(get, host(get.host.as_ref(), target)?, port, purpose).await
        }
        Handler::TcpSocket { host: other, port: reference } => {
            let port = port(reference, target.container)?;
            Ok(tcp::connects(&host(other.as_ref(), target)?, port).await)
        }
        Handler::Grpc { port, service } => {
            let address = target.address.ok_or_else(no_address)?;
            Ok(grpc::check(address, *port, service).await)
        }
        Handler::Sleep(time) => {
            tokio::time::sleep(*time).await;
            Ok(Answer::Success)
        }
    }
}

/// Runs a command to its end, both outputs as one text.
async fn exec<R: Runtime>(
    runtime: &R,
    id: &str,
    command: &[String],
    stage: Option<watch::Sender<Stage>>,
) -> Result<Answer, NotDone> {
    let (output, mut pieces) = mpsc::channel(OUTPUT_PIECES_MAX);
    let streams = ExecStreams { stdin: None, output, stage, size: None };
    let running = runtime.exec(Exec { id, command, terminal: None, caller: Caller::Node }, streams);
    let reading = async {
        let mut said = Vec::new();
        while let Some((_, bytes)) = pieces.recv().await {
            let room = SAID_BYTES_MAX.saturating_sub(said.len());
            said.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        said
    };
    let (ended, said) = tokio::join!(running, reading);
    match ended {
        Ok(0) => Ok(Answer::Success),
        Ok(code) => {
            let said = String::from_utf8_lossy(&said);
            let said = said.trim_end();
            Ok(Answer::Failure(match said.is_empty() {
                true => format!("the command exited with code {code} and said nothing"),
                false => said.to_owned(),
            }))
        }
        Err(ExecError::NotStarted(why)) => Err(NotDone(format!("the command cannot be run: {why}"), Blame::Asked)),
        Err(why) => Err(NotDone(why.to_string(), Blame::Node)),
    }
}

fn late(probe: &Probe, target: Target<'_>) -> String {
    let seconds = probe.timeout.as_secs();
    let place = |other: Option<&String>, reference: &PortReference| {
        let host = host(other, target).map(|host| host.for_url()).unwrap_or_default();
        let port = port(reference, target.container).map(|port| port.to_string()).unwrap_or_default();
        format!("{host}:{port}")
    };
    match &probe.handler {
        Handler::Exec(command) => format!("command {:?} timed out after {seconds}s", command.join(" ")),
        Handler::HttpGet(get) => {
            let url = http::shown_url(get, &place(get.host.as_ref(), &get.port));
            format!("Get {url:?}: no answer within {seconds}s (timeoutSeconds)")
        }
        Handler::TcpSocket { host, port } => format!("dial tcp {}: i/o timeout", place(host.as_ref(), port)),
        Handler::Grpc { .. } => format!("timeout: health rpc did not complete within {seconds}s"),
        Handler::Sleep(_) => format!("still asleep after {seconds}s"),
    }
}

/// Whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    /// To be resolved on the node.
    Name(String),
}

impl Host {
    pub fn for_url(&self) -> String {
        match self {
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.clone(),
        }
    }
}

fn host(other: Option<&String>, target: Target<'_>) -> Result<Host, NotDone> {
    let Some(written) = other else { return target.address.map(Host::Address).ok_or_else(no_address) };
    let bare = written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(written);
    Ok(bare.parse().map_or_else(|_| Host::Name(written.clone()), Host::Address))
}

fn no_address() -> NotDone {
    NotDone("the pod has no address yet".into(), Blame::Node)
}

fn port(reference: &PortReference, container: &Container) -> Result<u16, NotDone> {
    match reference {
        PortReference::Number(number) => Ok(*number),
        PortReference::Name(name) => {
            let named = container.ports.iter().find(|port| port.name.as_ref() == Some(name));
            let none = || {
                let why = format!("the container has no port of the name {name}: add it to ports, or give a number");
                NotDone(why, Blame::Asked)
            };
            named.map(|port| port.port).ok_or_else(none)
        }
    }
}

#[cfg(test)]
mod tests;
