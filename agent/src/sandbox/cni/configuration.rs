//! Which plugins connect a pod: the node's own network configuration where it has one, else ours.
//!
//! Driven by `cni`. The node's is read as containerd reads it: the first file by name of those that end in .conf,
//! .conflist or .json counts, and when that one is broken no other takes its place, because pods would get addresses of
//! a network that nobody meant. Only reads.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::NetworkConfig;
use super::wishes::Wishes;

/// The name of our own network, and of the address plugin's directory.
pub const OWN_NAME: &str = "daemonlet";
const OWN_VERSION: &str = "1.0.0";
/// Programs that our own network needs, and those that it needs for pods with a hostPort or a bandwidth.
pub const OWN_PROGRAMS: [&str; 2] = ["bridge", "host-local"];
pub const OWN_MORE: [&str; 2] = ["portmap", "bandwidth"];
/// A network configuration is a page; read into a document it may take fifty times as much memory.
const FILE_MAX_BYTES: u64 = 256 << 10;
/// Plugins of one list: a handful in the field.
const PLUGINS_MAX: usize = 32;
/// What a configuration without a version is written for (specification, "cniVersion").
const OLDEST_VERSION: &str = "0.1.0";

/// A list of plugins, in the order in which they are called.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    pub name: String,
    pub version: String,
    /// `disableCheck`.
    pub no_check: bool,
    pub plugins: Vec<Value>,
    /// None: ours.
    pub file: Option<PathBuf>,
}

impl Configuration {
    /// The programs that it needs, in the order of their first use: plugins, and what gives them addresses.
    pub fn programs(&self) -> Vec<&str> {
        let mut programs = Vec::new();
        for plugin in &self.plugins {
            for program in [&plugin["type"], &plugin["ipam"]["type"]].into_iter().filter_map(Value::as_str) {
                if !programs.contains(&program) {
                    programs.push(program);
                }
            }
        }
        programs
    }

    /// Whether one of its plugins says that it understands this.
    pub fn understands(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin["capabilities"][capability] == true)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("cannot read the directory {path} of network configurations")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot read the network configuration {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the network configuration {path} is broken: {why}; mend or remove it (the first file by name counts, as in containerd)"
    )]
    Broken { path: PathBuf, why: String },
}

/// The node's own configuration; None where it has none.
pub fn of_node(directory: &Path) -> Result<Option<Configuration>, ConfigurationError> {
    let Some(path) = first(directory)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = fs::File::open(&path).and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|source| ConfigurationError::Read { path: path.clone(), source })?;
    let broken = |why: String| ConfigurationError::Broken { path: path.clone(), why };
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(broken(format!("it has more than {FILE_MAX_BYTES} bytes")));
    }
    let list = path.extension().is_some_and(|end| end == "conflist");
    let read = parse(&bytes, list);
    read.map(|configuration| Some(Configuration { file: Some(path.clone()), ..configuration })).map_err(broken)
}

/// `list`: of a file that ends in .conflist. Err says in words what is wrong with it.
pub fn parse(bytes: &[u8], list: bool) -> Result<Configuration, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("no JSON: {error}"))?;
    if list { of_list(&value) } else { of_single(value) }
}

/// The first file of the directory that is a configuration by its name.
fn first(directory: &Path) -> Result<Option<PathBuf>, ConfigurationError> {
    let failed = |source| ConfigurationError::Directory { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut first: Option<PathBuf> = None;
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let named = path.extension().is_some_and(|end| ["conf", "conflist", "json"].iter().any(|known| end == *known));
        if named && !path.is_dir() && first.as_ref().is_none_or(|first| path < *first) {
            first = Some(path);
        }
    }
    Ok(first)
}

fn of_list(value: &Value) -> Result<Configuration, String> {
    let map = value.as_object().ok_or("it is no mapping")?;
    let (name, version) = (name(map)?, version(map)?);
    let plugins = map.get("plugins").and_then(Value::as_array).ok_or("it has no list `plugins`")?;
    if plugins.is_empty() || plugins.len() > PLUGINS_MAX {
        return Err(format!("it has {} plugins", plugins.len()));
    }
    let each = plugins.iter().enumerate().map(|(index, plugin)| {
        let plugin = plugin.as_object().filter(|plugin| plugin.get("type").is_some_and(is_type));
        let mut plugin = plugin.ok_or_else(|| format!("plugins[{index}] names no type"))?.clone();
        plugin.insert("name".into(), name.clone().into());
        plugin.insert("cniVersion".into(), version.clone().into());
        Ok(Value::Object(plugin))
    });
    let plugins = each.collect::<Result<_, String>>()?;
    // Early lists have it as a text.
    let no_check = map.get("disableCheck").is_some_and(|value| *value == true || *value == "true");
    Ok(Configuration { name, version, no_check, plugins, file: None })
}

/// A file with one plugin.
fn of_single(value: Value) -> Result<Configuration, String> {
    let map = value.as_object().ok_or("it is no mapping")?;
    if !map.get("type").is_some_and(is_type) {
        let list = if map.contains_key("plugins") { ": a list of plugins belongs into a .conflist" } else { "" };
        return Err(format!("it names no type{list}"));
    }
    let (name, version) = (map.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(), version(map)?);
    let mut plugin = value;
    plugin["cniVersion"] = version.clone().into();
    Ok(Configuration { name, version, no_check: false, plugins: vec![plugin], file: None })
}

fn name(map: &Map<String, Value>) -> Result<String, String> {
    let name = map.get("name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() { Err("it has no name".into()) } else { Ok(name.to_owned()) }
}

fn version(map: &Map<String, Value>) -> Result<String, String> {
    match map.get("cniVersion") {
        None => Ok(OLDEST_VERSION.into()),
        Some(Value::String(version)) if version.is_empty() => Ok(OLDEST_VERSION.into()),
        Some(Value::String(version)) => Ok(version.clone()),
        Some(_) => Err("cniVersion must be a text".into()),
    }
}

fn is_type(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

/// Ours: a bridge, and behind it only what this pod asks for.
pub fn own(config: &NetworkConfig, wishes: &Wishes) -> Configuration {
    let mut plugins = vec![bridge(config)];
    let [ports, limits] = OWN_MORE;
    let more = |kind: &str, capability: &str| json!({"cniVersion": OWN_VERSION, "name": OWN_NAME, "type": kind, "capabilities": {capability: true}});
    if wishes.has_ports() {
        let mut portmap = more(ports, "portMappings");
        // Connections from the node itself and from the pod to itself come back by the way they came.
        portmap["snat"] = true.into();
        plugins.push(portmap);
    }
    if wishes.has_bandwidth() {
        plugins.push(more(limits, "bandwidth"));
    }
    Configuration { name: OWN_NAME.into(), version: OWN_VERSION.into(), no_check: false, plugins, file: None }
}

/// The bridge plugin's configuration. It gives the bridge its address, makes a pair of interfaces and the routes, and
/// turns forwarding on; masquerading is done once for all pods (`masquerade`).
fn bridge(config: &NetworkConfig) -> Value {
    let ranges: Vec<Value> = config.cidrs.iter().map(|cidr| json!([{"subnet": cidr.to_string()}])).collect();
    let default = |ipv4: bool| if ipv4 { "0.0.0.0/0" } else { "::/0" };
    let families: BTreeSet<&str> = config.cidrs.iter().map(|cidr| default(cidr.is_ipv4())).collect();
    let routes: Vec<Value> = families.iter().map(|dst| json!({"dst": dst})).collect();
    json!({
        "cniVersion": OWN_VERSION,
        "name": OWN_NAME,
        "type": "bridge",
        "bridge": config.bridge,
        "isGateway": true,
        "ipMasq": false,
        "hairpinMode": true,
        "ipam": {"type": "host-local", "dataDir": config.reservations, "ranges": ranges, "routes": routes},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::record::Notes;

    fn read(files: &[(&str, &str)]) -> Result<Option<Configuration>, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::create_dir(dir.path().join("00-directory.conf")).unwrap();
        of_node(dir.path()).map_err(|error| error.to_string())
    }

    const LIST: &str =
        r#"{"name":"n","cniVersion":"0.4.0","disableCheck":true,"plugins":[{"type":"a","name":"x"},{"type":"b"}]}"#;

    #[test]
    fn the_first_file_by_name_counts() {
        let single = r#"{"name":"one","type":"bridge"}"#;
        let found = read(&[("20-b.conf", single), ("10-a.conflist", LIST), ("05-a.txt", "x")]).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str(), found.no_check), ("n", "0.4.0", true));
        assert_eq!(found.plugins[0], json!({"type": "a", "name": "n", "cniVersion": "0.4.0"}));
        let found = read(&[("20-b.conf", single), ("30.json", LIST)]).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("one", "0.1.0"));
        assert_eq!(read(&[("README", "x")]), Ok(None));
        assert!(!found.understands("portMappings"));
        assert_eq!(of_node(Path::new("/nonexistent/net.d")).unwrap(), None);
    }

    #[test]
    fn a_broken_first_file_is_named_and_no_other_takes_its_place() {
        let refused = |name: &str, text: &str| read(&[(name, text), ("99.conflist", LIST)]).unwrap_err();
        for (name, text, why) in [
            ("1.conflist", "{", "1.conflist is broken: no JSON"),
            ("1.conflist", "[]", "it is no mapping"),
            ("1.conflist", r#"{"plugins":[{"type":"a"}]}"#, "it has no name"),
            ("1.conflist", r#"{"name":"n"}"#, "it has no list `plugins`"),
            ("1.conflist", r#"{"name":"n","plugins":[]}"#, "it has 0 plugins"),
            ("1.conflist", r#"{"name":"n","plugins":[{}]}"#, "plugins[0] names no type"),
            ("1.conflist", r#"{"name":"n","cniVersion":1,"plugins":[{"type":"a"}]}"#, "cniVersion must be a text"),
            ("1.conf", LIST, "it names no type: a list of plugins belongs into a .conflist"),
        ] {
            assert!(refused(name, text).contains(why), "{text}: {}", refused(name, text));
        }
    }

    #[test]
    fn ours_has_a_range_and_a_route_for_each_family() {
        let config = NetworkConfig {
            bridge: "daemonlet0".into(),
            cidrs: vec!["198.18.0.0/15".parse().unwrap(), "fd00:88::/64".parse().unwrap()],
            bin_dirs: vec![],
            conf_dir: "/c".into(),
            notes: Notes { run: "/r/network".into(), disk: "/s/network".into() },
            reservations: "/r/cni".into(),
            run_dir: "/r".into(),
        };
        let plugins = own(&config, &Wishes::default()).plugins;
        assert_eq!(plugins.len(), 1);
        assert_eq!(own(&config, &Wishes::default()).programs(), OWN_PROGRAMS);
        assert_eq!(plugins[0]["ipam"]["ranges"], json!([[{"subnet":"198.18.0.0/15"}],[{"subnet":"fd00:88::/64"}]]));
        assert_eq!(plugins[0]["ipam"]["routes"], json!([{"dst":"0.0.0.0/0"},{"dst":"::/0"}]));
    }
}
