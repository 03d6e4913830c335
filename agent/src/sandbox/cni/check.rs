//! Whether a pod's connection is still what its plugins made (CNI specification, "CHECK"), and what is done where it is not.
//!
//! Driven by `sandbox::watch`. What can be seen is looked at here: the bridge, the pod's interface, its addresses, and the
//! rules of its ports (`mapped`). A pod that has nothing left but its loopback, or whose bridge is gone, gets new surroundings;
//! what only lies on the node is made again under it. An interface or an address that is elsewhere is told alone: a daemon with
//! the right to may have moved it. For the rest its plugins are asked, where their configuration has a CHECK (0.4.0 and later) and
//! does not forbid it, and what they say is told: a restart of daemons takes more than an opinion, and plugins have bad ones
//! (of version 1.1.1 portmap is never content with two families, and bandwidth crashes without limits) or speak for a service
//! that is away for a moment.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sched::{CloneFlags, setns};
use pod::name::Uid;
use serde_json::Value;

use super::mapped::Listed;
use super::plugin::{self, Call, PluginError, Verb};
use super::{Network, NetworkError, current, has_ports, mapped, with_result};
use crate::sandbox::record::{Found, NetworkRecord};

/// After a plugin could not make its part again.
const MEND_AGAIN: Duration = Duration::from_secs(300);
/// A CHECK only looks.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// The first version of the specification with a CHECK.
const FIRST_VERSION: (u32, u32) = (0, 4);
/// The thread only lists interfaces.
const THREAD_STACK_BYTES: usize = 128 * 1024;
/// Plugins of the CNI project: the one that makes nothing but rules on the node, which we look at ourselves and which it
/// can make again under the pod; and one that can be asked only where it limits something, and does not make its part twice.
const PORTS: &str = "portmap";
const LIMITS: &str = "bandwidth";
/// Error codes of the specification: a version, and a command, that the plugin does not know.
const NO_SUCH_CHECK: [u32; 2] = [1, 4];

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// Only what lies on the node for pods with ports of it: somebody may have taken packet rules away. Asks no plugin.
    Ports,
    /// The same where another plugin than the CNI project's leads the ports: it alone can say.
    OthersPorts,
}

impl Scope {
    fn includes(self, plugin: &Value) -> bool {
        let ours = plugin["type"] == PORTS;
        match self {
            Scope::Everything => true,
            Scope::Ports => ours && has_ports(plugin),
            Scope::OthersPorts => !ours && has_ports(plugin),
        }
    }
}

/// What is found out once in a look at many pods.
#[derive(Debug, Default)]
pub struct Once {
    listed: Listed,
    /// Plugins whose CHECK did not end: one wait for each is enough, and no other pod's is asked of it in this look.
    hung: BTreeSet<String>,
}

/// What came of looking at one pod's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// It is as it was made, or nobody can say: not connected, or a configuration without a CHECK.
    Sound,
    /// What was missing on the node is there again.
    Mended { reason: String },
    /// A plugin says that something is not as it made it, or cannot be asked, or cannot make it again.
    Fault { reason: String },
    /// The pod has lost its network.
    Gone { reason: String },
}

impl Network {
    /// See the top of the file.
    pub async fn check(&self, uid: &Uid, netns: &Path, scope: Scope, once: &mut Once) -> Result<Checked, NetworkError> {
        let Some(record) = self.connected(uid, netns)? else { return Ok(Checked::Sound) };
        if !record.plugins.iter().any(|plugin| scope.includes(plugin)) {
            return Ok(Checked::Sound);
        }
        let seen = if scope != Scope::Everything {
            None
        } else {
            let (path, interface, addresses) = (netns.to_owned(), record.interface.clone(), record.addresses.clone());
            let bridge = record.file.is_none().then(|| self.config.bridge.clone());
            crate::sandbox::blocking(move || look(&path, bridge.as_deref(), &interface, &addresses)).await
        };
        if let Some(seen) = seen {
            // Or it is just being given back: then it is no more when that has ended.
            let _held = self.hold(uid).await;
            return Ok(if self.still(&record, netns)? { seen } else { Checked::Sound });
        }
        let Some((index, reason)) = self.first_complaint(&record, scope, once).await else {
            return Ok(Checked::Sound);
        };
        // Nothing is given back or made between this look and the mending.
        let _held = self.hold(uid).await;
        if !self.still(&record, netns)? {
            return Ok(Checked::Sound);
        }
        // Another look may have mended it while this one waited.
        if record.plugins[index]["type"] == PORTS
            && self.complaint(&record, index, &mut Once::default()).await.is_none()
        {
            return Ok(Checked::Sound);
        }
        Ok(match self.mend(&record, index).await {
            true => Checked::Mended { reason },
            false => Checked::Fault { reason },
        })
    }

    /// Pods that are connected, of our own network or of the node's.
    pub fn all_connected(&self) -> Result<Vec<Uid>, NetworkError> {
        let failed = |source| NetworkError::Record { path: self.config.notes.run.clone(), source };
        Ok(self.config.notes.list().map_err(failed)?.into_iter().collect())
    }

    /// Whether a pod of this node is connected to our own network, whose rules are ours to keep.
    pub fn has_own(&self) -> Result<bool, NetworkError> {
        let own = |uid: Uid| Ok(matches!(self.record(&uid)?, Found::Record(record) if record.file.is_none()));
        self.all_connected()?.into_iter().map(own).find(|own| !matches!(own, Ok(false))).unwrap_or(Ok(false))
    }

    /// Whether the pod is connected as it was when the look began.
    fn still(&self, record: &NetworkRecord, netns: &Path) -> Result<bool, NetworkError> {
        let still = self.connected(&record.uid, netns)?.as_deref() == Some(record);
        if !still {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.uid);
        }
        Ok(still)
    }

    fn connected(&self, uid: &Uid, netns: &Path) -> Result<Option<Box<NetworkRecord>>, NetworkError> {
        Ok(match self.record(uid)? {
            Found::Record(record) if record.result.is_some() && current(&record, netns) => Some(record),
            Found::Record(_) | Found::Nothing | Found::Unreadable => None,
        })
    }

    /// The first plugin whose part is not as it made it, and why.
    async fn first_complaint(&self, record: &NetworkRecord, scope: Scope, once: &mut Once) -> Option<(usize, String)> {
        // Without a turn among the plugins that connect pods: one that hangs here is in nobody's way.
        for index in 0..record.plugins.len() {
            if scope.includes(&record.plugins[index])
                && let Some(reason) = self.complaint(record, index, once).await
            {
                return Some((index, reason));
            }
        }
        None
    }

    async fn complaint(&self, record: &NetworkRecord, index: usize, once: &mut Once) -> Option<String> {
        let config = &record.plugins[index];
        let kind = config["type"].as_str().unwrap_or_default();
        if kind == PORTS {
            return mapped::missing(&record.uid, config, &record.addresses, &mut once.listed).await;
        }
        let limits = config["runtimeConfig"].get("bandwidth").is_some();
        let hangs = once.hung.contains(kind);
        if hangs || record.no_check || !can_check(config["cniVersion"].as_str()) || (kind == LIMITS && !limits) {
            return None;
        }
        match self.run(record, Verb::Check, config).await {
            Ok(()) => None,
            Err(PluginError::Refused { code: Some(code), .. }) if NO_SUCH_CHECK.contains(&code) => None,
            // What plugins answer that were begun from the project's example.
            Err(PluginError::Refused { said, .. }) if said.contains("not implemented") => None,
            // It crashed: that says nothing of the pod.
            Err(error @ PluginError::Refused { code: None, .. }) => {
                tracing::info!(pod = %record.uid, %error, "a network plugin's CHECK failed in itself");
                None
            }
            Err(error) => {
                if matches!(error, PluginError::Slow { .. }) {
                    once.hung.insert(kind.to_owned());
                }
                Some(super::super::chain(&error))
            }
        }
    }

    /// Makes a plugin's part on the node again; false where that is not possible, or has not helped before.
    async fn mend(&self, record: &NetworkRecord, index: usize) -> bool {
        let config = &record.plugins[index];
        let failed = || self.mend_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if config["type"] != PORTS || failed().get(&record.uid).is_some_and(|at| at.elapsed() < MEND_AGAIN) {
            return false;
        }
        let left = {
            let _turn = self.at_once.acquire().await;
            self.config.notes.begin(&record.uid);
            // What is half there is in the way; what is not there is no fault of it.
            let _ = self.run(record, Verb::Del, config).await;
            let made = self.run(record, Verb::Add, config).await;
            self.config.notes.end(&record.uid);
            match made {
                Ok(()) => self.complaint(record, index, &mut Once::default()).await,
                Err(error) => Some(super::super::chain(&error)),
            }
        };
        match &left {
            Some(reason) => {
                tracing::warn!(pod = %record.uid, reason, "a plugin could not make its part of a network again");
                failed().insert(record.uid.clone(), Instant::now());
            }
            None => drop(failed().remove(&record.uid)),
        }
        left.is_none()
    }

    async fn run(&self, record: &NetworkRecord, verb: Verb, config: &Value) -> Result<(), PluginError> {
        let call = Call {
            verb,
            container_id: &record.uid.0,
            netns: &record.netns,
            interface: &record.interface,
            args: &record.args,
            bin_dirs: &self.config.bin_dirs,
            run_dir: &self.config.run_dir,
            timeout: CHECK_TIMEOUT,
        };
        plugin::run(&call, &with_result(config, record.result.as_ref())).await.map(|_| ())
    }
}

fn can_check(version: Option<&str>) -> bool {
    let mut parts = version.unwrap_or_default().split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= FIRST_VERSION
}

/// What of the pod's connection is gone or elsewhere; None where nothing is, or that cannot be found out. Looks for the bridge in
/// the calling thread's namespace.
fn look(netns: &Path, bridge: Option<&str>, interface: &str, addresses: &[IpAddr]) -> Option<Checked> {
    if let Some(bridge) = bridge.filter(|bridge| if_nametoindex(*bridge) == Err(Errno::ENODEV)) {
        return Some(Checked::Gone { reason: format!("the node's bridge {bridge} is gone") });
    }
    let list = || {
        setns(std::fs::File::open(netns).ok()?, CloneFlags::CLONE_NEWNET).ok()?;
        // An interface without an address is listed too, by its hardware address.
        let all = getifaddrs().ok()?.filter(|found| !found.flags.contains(InterfaceFlags::IFF_LOOPBACK));
        Some(all.map(|found| (found.interface_name, found.address)).collect::<Vec<_>>())
    };
    let found = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("interfaces".into()).stack_size(THREAD_STACK_BYTES);
        thread.spawn_scoped(scope, list).ok()?.join().ok()?
    })?;
    if found.is_empty() {
        return Some(Checked::Gone { reason: format!("its interface {interface} is gone, and it has no other") });
    }
    let there: Vec<IpAddr> = found
        .iter()
        .filter_map(|(_, address)| address.as_ref())
        .filter_map(|address| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
            (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
            _ => None,
        })
        .collect();
    let missing = addresses.iter().find(|address| !there.contains(address))?;
    Some(Checked::Fault {
        reason: format!("none of its interfaces has the address {missing} that {interface} was given"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_the_first_check_are_not_asked() {
        for (version, can) in
            [(Some("0.3.1"), false), (Some("0.4.0"), true), (Some("1.0.0"), true), (Some("x"), false), (None, false)]
        {
            assert_eq!(can_check(version), can, "{version:?}");
        }
    }
}
