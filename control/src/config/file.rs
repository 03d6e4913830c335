//! The configuration file: YAML to [`Settings`], every fault with its line. Flat: a key has one value or a list of them.

use std::io::Read as _;
use std::path::Path;

use saphyr_parser::{Event, Parser};

use super::{ConfigError, Settings, value};

/// A configuration is a page of text; more is somebody else's file.
const FILE_MAX: u64 = 256 << 10;
/// Entries of a list.
const ENTRIES_MAX: usize = 1024;

/// A key with its values, and the line it is on.
#[derive(Debug, PartialEq)]
struct Entry {
    key: String,
    line: usize,
    values: Vec<String>,
    is_list: bool,
}

struct Fault {
    line: usize,
    reason: String,
}

/// Reads and checks the file. All faults at once.
pub fn read(path: &Path) -> Result<Settings, ConfigError> {
    let text = text(path).map_err(|why| ConfigError::Read { path: path.to_owned(), why })?;
    let refused = |faults: Vec<Fault>| ConfigError::Refused {
        faults: faults.iter().map(|f| format!("{}:{}: {}", path.display(), f.line, f.reason)).collect(),
    };
    let entries = entries(&text).map_err(|fault| refused(vec![fault]))?;
    let mut settings = Settings::default();
    let mut faults = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let Entry { key, line, .. } = entry;
        let earlier = entries[..index].iter().find(|earlier| earlier.key == *key);
        let done = match earlier {
            Some(earlier) => Err(format!("already given on line {}", earlier.line)),
            None => set(&mut settings, entry),
        };
        if let Err(reason) = done {
            faults.push(Fault { line: *line, reason: format!("{key}: {reason}") });
        }
    }
    if faults.is_empty() { Ok(settings) } else { Err(refused(faults)) }
}

fn text(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|why| why.to_string())?;
    if !file.metadata().map_err(|why| why.to_string())?.is_file() {
        return Err("not a regular file".into());
    }
    let mut text = String::new();
    let read = file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|why| why.to_string())?;
    if read as u64 > FILE_MAX { Err(format!("larger than {} KiB", FILE_MAX >> 10)) } else { Ok(text) }
}

fn set(settings: &mut Settings, entry: &Entry) -> Result<(), String> {
    // Every field by name: a new setting does not compile until its key is decided.
    let Settings {
        data_dir,
        listen,
        nodes_listen,
        tls_name,
        api_advertise,
        store,
        etcd_endpoints,
        etcd_ca,
        etcd_cert,
        etcd_key,
    } = settings;
    match entry.key.as_str() {
        "data-dir" => *data_dir = Some(one(entry, value::path)?),
        "listen" => *listen = Some(one(entry, value::listen)?),
        "nodes-listen" => *nodes_listen = Some(one(entry, value::listen)?),
        "tls-name" => *tls_name = entry.values.iter().map(|text| value::tls_name(text)).collect::<Result<_, _>>()?,
        "api-advertise" => *api_advertise = Some(one(entry, value::advertised)?),
        "store" => *store = Some(one(entry, value::store)?),
        // Written as on the command line, or as a list.
        "etcd-endpoints" => *etcd_endpoints = Some(value::urls(&entry.values.join(","))?),
        "etcd-ca" => *etcd_ca = Some(one(entry, value::path)?),
        "etcd-cert" => *etcd_cert = Some(one(entry, value::path)?),
        "etcd-key" => *etcd_key = Some(one(entry, value::path)?),
        _ => return Err("no such setting; keys are the flags of `daemonlet-control serve` without their dashes".into()),
    }
    Ok(())
}

fn one<T>(entry: &Entry, read: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
    match entry.values.as_slice() {
        [value] if !entry.is_list => read(value),
        _ => Err("one value is expected".into()),
    }
}

/// The keys and values of the one mapping that the file is.
fn entries(text: &str) -> Result<Vec<Entry>, Fault> {
    let mut entries: Vec<Entry> = Vec::new();
    // 0: outside; 1: in the mapping; 2: in a list of it.
    let mut depth = 0;
    let mut key: Option<(String, usize)> = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|e| Fault { line: e.marker().line().max(1), reason: format!("this is not YAML: {}", e.info()) })?;
        let line = span.start.line().max(1);
        let fault = |reason: &str| Fault { line, reason: reason.to_owned() };
        match event {
            Event::MappingStart(..) if depth == 0 => depth = 1,
            Event::MappingEnd => depth = 0,
            Event::SequenceStart(..) if depth == 1 && key.is_some() => {
                let (key, line) = key.take().expect("it was looked at");
                entries.push(Entry { key, line, values: Vec::new(), is_list: true });
                depth = 2;
            }
            Event::SequenceEnd => depth = 1,
            Event::Scalar(text, ..) => match (depth, key.take()) {
                (1, None) => key = Some((text.to_string(), line)),
                (1, Some((key, line))) => {
                    entries.push(Entry { key, line, values: vec![text.to_string()], is_list: false })
                }
                (2, _) => {
                    let list = entries.last_mut().ok_or_else(|| fault("a list without a key"))?;
                    if list.values.len() == ENTRIES_MAX {
                        return Err(fault("too many entries"));
                    }
                    list.values.push(text.to_string());
                }
                // A document without anything in it is an empty scalar.
                _ if text.is_empty() || text == "~" => {}
                _ => return Err(fault("a mapping of keys and values is expected")),
            },
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                return Err(fault("a value or a list of values is expected"));
            }
            Event::Alias(_) => return Err(fault("aliases are not read here")),
            _ => {}
        }
    }
    Ok(entries)
}
