//! A pod's network through CNI plugins (CNI specification 1.0.0): the node's own configuration or ours, addresses that are
//! recorded before they are asked for and given back whatever happens.
//!
//! Driven by `sandbox`. `configuration` says which plugins, `wishes` what they are told, `plugin` runs one, `masquerade`
//! keeps the node's rules, `flushes` hears when rules went, `check` looks at what stands, `conntrack` forgets the kernel's
//! paths to a pod that is gone, `reservations` reads what was given out, `survivors` ends plugins of a dead agent, `record`
//! (one level up) remembers.
//! The container id that plugins see is the pod's uid. Waits are asynchronous; the little files are read and written
//! inline, in microseconds.

pub mod check;
pub mod cidr;
pub mod configuration;
mod conntrack;
pub mod flushes;
pub mod follow;
pub(super) mod mapped;
mod masquerade;
pub mod plugin;
mod reservations;
mod survivors;
pub mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pod::name::Uid;
use serde::Deserialize;
use serde_json::Value;
#[cfg(test)]
use serde_json::json;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use super::namespaces;
use super::record::{Found, NetworkRecord, Notes};
use cidr::Cidr;
use configuration::{Configuration, ConfigurationError, OWN_NAME};
use plugin::{Call, PluginError, Verb};
use wishes::Wishes;

/// The pod's side of its connection.
const INTERFACE: &str = "eth0";
/// Waiting for an IPv6 address to be free takes the bridge plugin up to ten seconds; nothing else takes one.
const ADD_TIMEOUT: Duration = Duration::from_secs(30);
const DEL_TIMEOUT: Duration = Duration::from_secs(30);
/// Plugins at once, for each processor: they mostly compute, and take turns on locks of their own.
const PLUGINS_PER_CPU: usize = 2;
/// The node's rules are looked at again after this long: somebody may have flushed them.
const RULES_FOR: Duration = Duration::from_secs(300);
/// What cannot be had now (no iptables, no kernel module) is not asked for again with every pod.
const RULES_RETRY: Duration = Duration::from_secs(30);
/// Addresses that one result may have: one per family, and room for plugins that give more.
const ADDRESSES_MAX: usize = 16;
/// Characters that are shown of what is wrong in a result.
const WRONG_SHOWN_MAX: usize = 200;
/// What the network needs to know of its node.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// At most 15 letters, a network interface's name.
    pub bridge: String,
    pub cidrs: Vec<Cidr>,
    pub bin_dirs: Vec<PathBuf>,
    /// The node's own configurations.
    pub conf_dir: PathBuf,
    /// Records, one file per pod.
    pub notes: Notes,
    /// Where the address plugin keeps what it gave out.
    pub reservations: PathBuf,
    /// What tells our plugins from those of another agent.
    pub run_dir: PathBuf,
}

/// The names that plugins may want to know (CNI_ARGS).
#[derive(Debug, Clone, Copy)]
pub struct PodNames<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot connect the pod to the network {network}")]
    Add { network: String, source: PluginError },
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(
        "ports of the node cannot lead to the pod before the node's own loopback services are kept from pods: {reason}"
    )]
    Unguarded { reason: String },
    #[error(
        "the pod has a {field}, and no plugin of the network configuration {path} has the capability {capability}: add the plugin {plugin} with \"capabilities\": {{\"{capability}\": true}} to it, or take the {field} from the pod"
    )]
    Incapable { path: PathBuf, capability: &'static str, plugin: &'static str, field: &'static str },
    #[error("cannot give back the pod's addresses (tried again later)")]
    Del { source: PluginError },
    #[error("cannot make the bridge {bridge}")]
    Bridge { bridge: String, source: io::Error },
    #[error("cannot use what the CNI plugins answered: {reason}")]
    Result { reason: String },
    #[error("cannot read or write the network record {path}")]
    Record { path: PathBuf, source: io::Error },
    #[error("the pod's network namespace {path} is gone")]
    NoNamespace { path: PathBuf },
}

/// The network of this node's pods.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    at_once: Semaphore,
    /// When the node's rules are to be looked at next, and what became of them; None: with the next ADD.
    rules_due: Mutex<Option<(Instant, Result<(), String>)>>,
    /// One at a time makes, mends or gives back a pod's connection.
    held: std::sync::Mutex<BTreeMap<Uid, Arc<Mutex<()>>>>,
    /// When a plugin could not make its part for a pod again.
    mend_failed: std::sync::Mutex<BTreeMap<Uid, Instant>>,
}

impl Network {
    pub fn new(config: NetworkConfig) -> Network {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        Network {
            config,
            at_once: Semaphore::new(cpus.saturating_mul(PLUGINS_PER_CPU)),
            rules_due: Mutex::default(),
            held: std::sync::Mutex::default(),
            mend_failed: std::sync::Mutex::default(),
        }
    }

    /// The pod's addresses, when it is connected and the namespace is the one that was connected.
    pub fn addresses(&self, uid: &Uid, netns: &Path) -> Result<Option<Vec<IpAddr>>, NetworkError> {
        Ok(match self.record(uid)? {
            Found::Record(record) if record.result.is_some() && current(&record, netns) => Some(record.addresses),
            _ => None,
        })
    }

    /// Whether there is anything to give back that does not belong to this namespace.
    pub fn is_stale(&self, uid: &Uid, netns: &Path) -> Result<bool, NetworkError> {
        Ok(match self.record(uid)? {
            Found::Nothing => false,
            Found::Unreadable => true,
            Found::Record(record) => !current(&record, netns),
        })
    }

    /// ADD. Idempotent: an earlier, finished ADD answers from its record, an unfinished one is given back first.
    pub async fn connect(
        &self,
        uid: &Uid,
        pod: PodNames<'_>,
        netns: &Path,
        wishes: &Wishes,
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let _held = self.hold(uid).await;
        if let Some(addresses) = self.addresses(uid, netns)? {
            return Ok(addresses);
        }
        if !matches!(self.record(uid)?, Found::Nothing) {
            self.give_back(uid, Some(netns)).await?;
        }
        let number = namespaces::number(netns).ok_or_else(|| NetworkError::NoNamespace { path: netns.to_owned() })?;
        let configuration = self.configuration(wishes)?;
        check_capabilities(&configuration, wishes)?;
        let mut record = NetworkRecord {
            version: NetworkRecord::VERSION,
            uid: uid.clone(),
            interface: INTERFACE.into(),
            netns: netns.to_owned(),
            netns_number: number,
            args: arguments(uid, pod),
            plugins: configuration.plugins.iter().map(|plugin| wishes.told(plugin)).collect(),
            file: configuration.file,
            no_check: configuration.no_check,
            result: None,
            addresses: Vec::new(),
        };
        self.write(&record)?;
        let added = match record.file {
            Some(_) => self.add(&record).await,
            None => self.add_to_own(&record, wishes).await,
        };
        match added.and_then(|result| Ok((addresses_of(&result)?, result))) {
            Ok((addresses, result)) => {
                record.result = Some(result);
                record.addresses = addresses;
                self.write(&record)?;
                Ok(record.addresses)
            }
            Err(error) => {
                // What the plugin got before it failed is given back now, or when the pod is tried or removed next.
                if let Err(error) = self.give_back(uid, Some(netns)).await {
                    tracing::warn!(pod = %uid, error = %super::chain(&error), "an address is not given back yet");
                }
                Err(error)
            }
        }
    }

    /// DEL, from what is on disk. `netns`: where the namespace may still be. Ok when nothing is there.
    pub async fn disconnect(&self, uid: &Uid, netns: Option<&Path>) -> Result<(), NetworkError> {
        let _held = self.hold(uid).await;
        let given_back = self.give_back(uid, netns).await;
        if given_back.is_ok() {
            self.mend_failed.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
            // Who waits for it finds nothing to do.
            self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        }
        given_back
    }

    async fn give_back(&self, uid: &Uid, netns: Option<&Path>) -> Result<(), NetworkError> {
        let (plugins, result, args, interface, addresses) = match self.record(uid)? {
            Found::Record(r) => (r.plugins, r.result, r.args, r.interface, r.addresses),
            Found::Nothing if !self.holds_address(uid).await => return Ok(()),
            // Only a record of our own network can be lost: those of others are noted before their ADD.
            Found::Nothing | Found::Unreadable => {
                let own = configuration::own(&self.config, &Wishes::default());
                (own.plugins, None, String::new(), INTERFACE.to_owned(), Vec::new())
            }
        };
        let netns = netns.filter(|path| namespaces::is_pinned(path)).unwrap_or(Path::new(""));
        let call = Call {
            verb: Verb::Del,
            container_id: &uid.0,
            netns,
            interface: &interface,
            args: &args,
            bin_dirs: &self.config.bin_dirs,
            run_dir: &self.config.run_dir,
            timeout: DEL_TIMEOUT,
        };
        let _turn = self.at_once.acquire().await;
        self.config.notes.begin(uid);
        let mut first_error = None;
        for config in plugins.iter().rev() {
            // A plugin that fails does not keep the others from giving back what they have.
            match plugin::run(&call, &with_result(config, result.as_ref())).await {
                Ok(_) => {}
                // Nothing it did can be undone without it, and a pod that waits for it would neither end nor start again.
                Err(error @ plugin::PluginError::NotFound { .. })
                    if result.is_none() || netns.as_os_str().is_empty() =>
                {
                    tracing::warn!(pod = %uid, %error, "a plugin is gone: what it may have made on the node is left");
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        self.config.notes.end(uid);
        if plugins.iter().any(has_ports) {
            conntrack::forget(addresses).await;
        }
        match first_error {
            Some(source) => Err(NetworkError::Del { source }),
            None => self.config.notes.remove(uid).map_err(|source| self.record_error(uid, source)),
        }
    }

    /// Pods that have a record, or an address without a record.
    pub fn known(&self) -> Result<BTreeSet<Uid>, NetworkError> {
        let path = || self.config.notes.disk.clone();
        let mut known = self.config.notes.list().map_err(|source| NetworkError::Record { path: path(), source })?;
        known.extend(reservations::all(&self.reserved()).into_iter().filter_map(|(_, owner)| owner));
        Ok(known)
    }

    /// Ends plugins that a dead agent left running: what they still make would meet what is made now. Blocking;
    /// microseconds where none was running when that agent ended.
    pub fn end_survivors(&self) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Record { path: self.config.notes.run.clone(), source };
        let begun = self.config.notes.begun().map_err(failed)?;
        if !begun.is_empty() {
            survivors::end(&self.config.run_dir, &begun).map_err(failed)?;
            begun.iter().for_each(|uid| self.config.notes.end(uid));
        }
        Ok(())
    }

    /// Brings to the state disk what it did not take before.
    pub fn settle(&self) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Record { path: self.config.notes.disk.clone(), source };
        self.config.notes.settle().map_err(failed)
    }

    /// Frees reservations that name nobody: a plugin that was killed between making and writing the file.
    pub fn sweep_empty_reservations(&self) -> Result<(), NetworkError> {
        let mut in_use = BTreeSet::new();
        for uid in self.known()? {
            if let Found::Record(record) = self.record(&uid)? {
                in_use.extend(record.addresses);
            }
        }
        for (address, owner) in reservations::all(&self.reserved()) {
            if owner.is_none() && !in_use.contains(&address) {
                let freed = reservations::free(&self.reserved(), address);
                freed.map_err(|(path, source)| NetworkError::Record { path, source })?;
            }
        }
        Ok(())
    }

    /// Takes the bridge and the node's rules away. For taking the node down, when no pod is left.
    pub async fn remove_node_network(&self) -> Result<(), String> {
        masquerade::remove(&self.config.bridge, &self.config.cidrs).await.map_err(|error| super::chain(&error))?;
        *self.rules_due.lock().await = None;
        super::netlink::delete_link(&self.config.bridge)
            .map_err(|error| format!("cannot delete the bridge {}: {error}", self.config.bridge))
    }

    async fn hold(&self, uid: &Uid) -> OwnedMutexGuard<()> {
        let lock = self.held.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.clone()).or_default().clone();
        lock.lock_owned().await
    }

    /// Whether the address plugin of our own network knows this pod, though we have no record of it.
    async fn holds_address(&self, uid: &Uid) -> bool {
        let (directory, uid) = (self.reserved(), uid.clone());
        super::blocking(move || reservations::has(&directory, &uid)).await
    }

    fn reserved(&self) -> PathBuf {
        self.config.reservations.join(OWN_NAME)
    }

    fn configuration(&self, wishes: &Wishes) -> Result<Configuration, NetworkError> {
        let of_node = configuration::of_node(&self.config.conf_dir)?;
        Ok(of_node.unwrap_or_else(|| configuration::own(&self.config, wishes)))
    }

    /// The bridge first, and beside the plugins the node's rules.
    async fn add_to_own(&self, record: &NetworkRecord, wishes: &Wishes) -> Result<Value, NetworkError> {
        super::netlink::make_bridge(&self.config.bridge, hardware_address(&self.config))
            .map_err(|source| NetworkError::Bridge { bridge: self.config.bridge.clone(), source })?;
        if self.config.cidrs.iter().any(|cidr| !cidr.is_ipv4()) {
            // Nobody else can have the bridge's address. Asking for it first would keep pods from it for two seconds; where
            // that cannot be switched off (no IPv6, a read-only /proc) it does.
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/accept_dad", self.config.bridge), "0");
        }
        if wishes.has_ports() {
            // The plugin that maps ports lets packets to 127.0.0.0/8 in by the bridge: the guard stands before that.
            self.ensure_rules().await.map_err(|reason| NetworkError::Unguarded { reason })?;
            return self.add(record).await;
        }
        // Failing costs the pods only what lies beyond the node: they start all the same, and the log says it.
        let (added, _) = tokio::join!(self.add(record), self.ensure_rules());
        added
    }

    async fn add(&self, record: &NetworkRecord) -> Result<Value, NetworkError> {
        let call = Call {
            verb: Verb::Add,
            container_id: &record.uid.0,
            netns: &record.netns,
            interface: &record.interface,
            args: &record.args,
            bin_dirs: &self.config.bin_dirs,
            run_dir: &self.config.run_dir,
            timeout: ADD_TIMEOUT,
        };
        let _turn = self.at_once.acquire().await;
        self.config.notes.begin(&record.uid);
        let added = Self::each(&call, record).await;
        self.config.notes.end(&record.uid);
        added
    }

    /// Every plugin in turn, each told what the one before answered.
    async fn each(call: &Call<'_>, record: &NetworkRecord) -> Result<Value, NetworkError> {
        let mut result = None;
        for config in &record.plugins {
            let answer = plugin::run(call, &with_result(config, result.as_ref())).await;
            let network = || config["name"].as_str().unwrap_or_default().to_owned();
            result = Some(answer.map_err(|source| NetworkError::Add { network: network(), source })?);
        }
        Ok(result.unwrap_or(Value::Null))
    }

    /// Looks at the node's rules whatever was found last.
    pub async fn renew_rules(&self) -> Result<(), String> {
        *self.rules_due.lock().await = None;
        self.ensure_rules().await
    }

    /// Err says in words what is missing; what cannot be had is not tried again with every pod.
    async fn ensure_rules(&self) -> Result<(), String> {
        let mut due = self.rules_due.lock().await;
        if let Some((at, before)) = &*due
            && Instant::now() < *at
        {
            return before.clone();
        }
        let ensured = masquerade::ensure(&self.config.bridge, &self.config.cidrs).await;
        let ensured = ensured.map_err(|error| super::chain(&error));
        let again = match &ensured {
            Ok(()) => RULES_FOR,
            Err(reason) => {
                tracing::warn!(reason, "packet rules for pods are missing");
                RULES_RETRY
            }
        };
        *due = Instant::now().checked_add(again).map(|at| (at, ensured.clone()));
        ensured
    }

    fn record(&self, uid: &Uid) -> Result<Found, NetworkError> {
        self.config.notes.read(uid).map_err(|source| self.record_error(uid, source))
    }

    fn write(&self, record: &NetworkRecord) -> Result<(), NetworkError> {
        self.config.notes.write(record).map_err(|source| self.record_error(&record.uid, source))
    }

    fn record_error(&self, uid: &Uid, source: io::Error) -> NetworkError {
        NetworkError::Record { path: self.config.notes.run.join(format!("{uid}.json")), source }
    }
}

/// Nothing that a pod asks for is left out in silence.
fn check_capabilities(configuration: &Configuration, wishes: &Wishes) -> Result<(), NetworkError> {
    let Some(path) = &configuration.file else { return Ok(()) };
    let wanted = [
        (wishes.has_ports(), "portMappings", "portmap", "hostPort"),
        (wishes.has_bandwidth(), "bandwidth", "bandwidth", "bandwidth annotation"),
    ];
    let missing = wanted.into_iter().find(|(wants, capability, ..)| *wants && !configuration.understands(capability));
    match missing {
        None => Ok(()),
        Some((_, capability, plugin, field)) => {
            Err(NetworkError::Incapable { path: path.clone(), capability, plugin, field })
        }
    }
}

/// Whether the plugin was told of ports of the node.
fn has_ports(plugin: &Value) -> bool {
    plugin["runtimeConfig"]["portMappings"].as_array().is_some_and(|ports| !ports.is_empty())
}

/// The bridge's hardware address: locally administered, always the same on this node.
///
/// The bridge is made here with an address of its own because the plugin's way has a hole: a bridge that it made and left
/// before pinning the address loses it with its last port, and the ADD that meets this fails.
fn hardware_address(config: &NetworkConfig) -> [u8; 6] {
    use sha2::{Digest as _, Sha256};
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let digest = Sha256::digest(format!("{machine}/{}/{}", config.bridge, config.notes.disk.display()));
    [0x02, digest[0], digest[1], digest[2], digest[3], digest[4]]
}

fn with_result(config: &Value, result: Option<&Value>) -> Value {
    let mut config = config.clone();
    if let (Some(object), Some(result)) = (config.as_object_mut(), result) {
        object.insert("prevResult".into(), result.clone());
    }
    config
}

fn arguments(uid: &Uid, pod: PodNames<'_>) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={uid};K8S_POD_UID={uid}",
        pod.namespace, pod.name
    )
}

fn current(record: &NetworkRecord, netns: &Path) -> bool {
    namespaces::number(netns) == Some(record.netns_number)
}

/// The addresses of the pod's interface in a result: `ips[].address` in CIDR notation (specification, "Success"), or
/// `ip4` and `ip6` of versions before 0.3.0.
pub fn addresses_of(result: &Value) -> Result<Vec<IpAddr>, NetworkError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        ips: Vec<Ip>,
        #[serde(default)]
        interfaces: Vec<Interface>,
        ip4: Option<OldIp>,
        ip6: Option<OldIp>,
    }
    #[derive(Deserialize)]
    struct Ip {
        address: String,
        interface: Option<usize>,
    }
    #[derive(Deserialize)]
    struct Interface {
        #[serde(default)]
        name: String,
    }
    #[derive(Deserialize)]
    struct OldIp {
        ip: String,
    }
    let bad = |reason: String| NetworkError::Result { reason };
    let Answer { ips, interfaces, ip4, ip6 } =
        Answer::deserialize(result).map_err(|error| bad(plugin::plain(&error.to_string(), WRONG_SHOWN_MAX)))?;
    let of_pod = |ip: &&Ip| match ip.interface.and_then(|index| interfaces.get(index)) {
        Some(interface) => interface.name == INTERFACE,
        None => true,
    };
    let old = ip4.into_iter().chain(ip6).map(|old| old.ip);
    let texts: Vec<String> = ips.iter().filter(of_pod).map(|ip| ip.address.clone()).chain(old).collect();
    if texts.is_empty() || texts.len() > ADDRESSES_MAX {
        return Err(bad(format!("it has {} addresses of the interface {INTERFACE}", texts.len())));
    }
    let parse = |text: &String| {
        let address = text.split('/').next().unwrap_or_default();
        address.parse().map_err(|_| bad(format!("{:?} is no address", plugin::plain(text, WRONG_SHOWN_MAX))))
    };
    texts.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_result_and_a_result_without_any_is_an_error() {
        let two = json!({"cniVersion":"1.0.0","ips":[{"address":"198.18.0.2/15","gateway":"198.18.0.1"},{"address":"fd00::2/64"}]});
        let expected: Vec<IpAddr> = vec!["198.18.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses_of(&two).unwrap(), expected);
        for bad in [json!({}), json!({"ips":[]}), json!({"ips":[{"address":"x"}]}), json!([1]), json!({"ips":"no"})] {
            assert!(matches!(addresses_of(&bad), Err(NetworkError::Result { .. })), "{bad}");
        }
        let many: Vec<Value> = (0..40).map(|i| json!({"address": format!("198.18.0.{i}/15")})).collect();
        assert!(addresses_of(&json!({ "ips": many })).is_err());
    }

    #[test]
    fn an_old_plugins_result_and_another_interfaces_address_are_understood() {
        let old = json!({"ip4": {"ip": "198.18.0.2/15"}, "ip6": {"ip": "fd00::2/64"}});
        assert_eq!(addresses_of(&old).unwrap().len(), 2);
        let two = json!({
            "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/x"}, {"name": "net1", "sandbox": "/x"}],
            "ips": [{"address": "fd00::2/64", "interface": 1}, {"address": "198.18.9.2/24", "interface": 2},
                {"address": "198.18.0.2/15", "interface": 1}],
        });
        let expected: Vec<IpAddr> = vec!["fd00::2".parse().unwrap(), "198.18.0.2".parse().unwrap()];
        assert_eq!(addresses_of(&two).unwrap(), expected);
    }

    #[test]
    fn the_result_before_is_handed_on() {
        assert_eq!(with_result(&json!({}), Some(&json!({"a":1})))["prevResult"]["a"], 1);
    }
}
