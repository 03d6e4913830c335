//! The configuration file: YAML to [`Settings`], every fault with its line.
//!
//! Driven by [`Config::load`](super::Config::load) and the watch. Flat by design: a key has one value, a list of them,
//! or (node-label, runtime-class) a map. Values are read as text by the same functions as flags, so `1.10` stays what was written.

use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser};

use super::{ConfigError, Entry, Settings, value};

/// A configuration is a page of text; more is somebody else's file.
const FILE_MAX: u64 = 256 << 10;

/// Entries of a list or a map: more labels than any node has.
const ENTRIES_MAX: usize = 1024;

/// A piece of text and the line it is on, from 1.
#[derive(Debug, Clone, PartialEq)]
struct Text {
    text: String,
    line: usize,
}

#[derive(Debug, PartialEq)]
enum Value {
    One(Text),
    List(Vec<Text>),
    Map(Vec<(Text, Text)>),
}

struct Fault {
    line: usize,
    reason: String,
}

impl Fault {
    fn new(line: usize, reason: impl Into<String>) -> Fault {
        Fault { line, reason: reason.into() }
    }
}

/// Reads and checks the file. All faults at once.
pub fn read(path: &Path) -> Result<Settings, ConfigError> {
    let text = read_text(path).map_err(|why| ConfigError::Read { path: path.to_owned(), why })?;
    parse(&text).map_err(|faults| ConfigError::Refused {
        faults: faults.iter().map(|f| format!("{}:{}: {}", path.display(), f.line, f.reason)).collect(),
    })
}

fn read_text(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|why| why.to_string())?;
    if !file.metadata().map_err(|why| why.to_string())?.is_file() {
        return Err("not a regular file".into());
    }
    let mut text = String::new();
    let read = file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|why| why.to_string())?;
    match read as u64 > FILE_MAX {
        true => Err(format!("larger than {} KiB", FILE_MAX >> 10)),
        false => Ok(text),
    }
}

fn parse(text: &str) -> Result<Settings, Vec<Fault>> {
    let entries = entries(text).map_err(|fault| vec![fault])?;
    let mut settings = Settings::default();
    let mut faults = Vec::new();
    for (index, (key, value)) in entries.iter().enumerate() {
        if let Some((first, _)) = entries[..index].iter().find(|(earlier, _)| earlier.text == key.text) {
            faults.push(Fault::new(key.line, format!("{}: already given on line {}", key.text, first.line)));
            continue;
        }
        if let Err(Fault { line, reason }) = set(&mut settings, key, value) {
            faults.push(Fault::new(line, format!("{}: {reason}", key.text)));
        }
    }
    if faults.is_empty() { Ok(settings) } else { Err(faults) }
}

fn set(settings: &mut Settings, key: &Text, value: &Value) -> Result<(), Fault> {
    // Every field by name: a new setting does not compile until its key is decided.
    let Settings {
        node_name,
        manifest_dir,
        image_dir,
        cni_conf_dir,
        state_dir,
        log_dir,
        containerd,
        containerd_namespace,
        listen,
        node_label,
        node_taint,
        max_pods,
        cni_bin_dir,
        pod_cidr,
        cluster_dns,
        cluster_domain,
        cgroup_root,
        log_max_size,
        log_max_files,
        log_budget,
        log_retention,
        seccomp_dir,
        seccomp_default,
        seccomp_32_bit,
        pod_max_pids,
        single_process_oom_kill,
        memory_qos,
        runtime_class,
        registry_config,
        registry_auth,
        image_pull_rate_limit,
        image_gc_high_threshold,
        image_gc_low_threshold,
        image_minimum_gc_age,
        image_maximum_gc_age,
        shutdown_grace_period,
        shutdown_grace_period_critical_pods,
        allow_host_path,
        allow_capability,
        allow_privileged,
        allow_host_namespace,
        allow_registry,
        logkeeper,
        control,
        join_token_file,
        health_advertise,
        run_dir,
    } = settings;
    match key.text.as_str() {
        "node-name" => *node_name = Some(one(key, value, value::node_name)?),
        "manifest-dir" => *manifest_dir = Some(path(key, value)?),
        "image-dir" => *image_dir = Some(path(key, value)?),
        "cni-conf-dir" => *cni_conf_dir = Some(path(key, value)?),
        "state-dir" => *state_dir = Some(path(key, value)?),
        "run-dir" => *run_dir = Some(path(key, value)?),
        "log-dir" => *log_dir = Some(path(key, value)?),
        "containerd" => *containerd = Some(path(key, value)?),
        "containerd-namespace" => *containerd_namespace = Some(one(key, value, value::containerd_namespace)?),
        "listen" => *listen = Some(one(key, value, value::listen)?),
        "node-label" => *node_label = labels(key, value)?,
        "node-taint" => *node_taint = many(value, value::taint)?,
        "max-pods" => *max_pods = Some(one(key, value, |text| value::whole(text, 1, u32::MAX))?),
        "cni-bin-dir" => *cni_bin_dir = many(value, value::absolute)?,
        "pod-cidr" => {
            // Written as on the command line, or as a list of the one or two ranges.
            let joined = match value {
                Value::List(texts) => texts.iter().map(|t| t.text.as_str()).collect::<Vec<_>>().join(","),
                _ => one(key, value, |text| Ok(text.to_owned()))?,
            };
            *pod_cidr = Some(value::cidrs(&joined).map_err(|why| Fault::new(key.line, why))?);
        }
        "cluster-dns" => *cluster_dns = many(value, value::address)?,
        "cluster-domain" => *cluster_domain = Some(one(key, value, value::cluster_domain)?),
        "cgroup-root" => *cgroup_root = Some(one(key, value, value::cgroup_root)?),
        "log-max-size" => *log_max_size = Some(one(key, value, value::size)?),
        "log-max-files" => *log_max_files = Some(one(key, value, |text| value::whole(text, 2, 1000))?),
        "log-budget" => *log_budget = Some(one(key, value, value::size)?),
        "log-retention" => *log_retention = Some(one(key, value, value::duration)?),
        "seccomp-32-bit" => *seccomp_32_bit = Some(one(key, value, value::boolean)?),
        "seccomp-dir" => *seccomp_dir = Some(path(key, value)?),
        "pod-max-pids" => *pod_max_pids = Some(one(key, value, |text| value::whole(text, 1, value::PIDS_MAX))?),
        "single-process-oom-kill" => *single_process_oom_kill = Some(one(key, value, value::boolean)?),
        "memory-qos" => *memory_qos = Some(one(key, value, value::boolean)?),
        "seccomp-default" => *seccomp_default = Some(one(key, value, value::boolean)?),
        "runtime-class" => *runtime_class = runtime_classes(key, value)?,
        "registry-config" => *registry_config = Some(path(key, value)?),
        "registry-auth" => *registry_auth = Some(path(key, value)?),
        "image-pull-rate-limit" => *image_pull_rate_limit = Some(one(key, value, value::size)?),
        "image-gc-high-threshold" => *image_gc_high_threshold = Some(one(key, value, value::percent)?),
        "image-gc-low-threshold" => *image_gc_low_threshold = Some(one(key, value, value::percent)?),
        "image-minimum-gc-age" => *image_minimum_gc_age = Some(one(key, value, value::duration)?),
        "image-maximum-gc-age" => *image_maximum_gc_age = Some(one(key, value, value::duration)?),
        "shutdown-grace-period" => *shutdown_grace_period = Some(one(key, value, value::duration)?),
        "shutdown-grace-period-critical-pods" => {
            *shutdown_grace_period_critical_pods = Some(one(key, value, value::duration)?);
        }
        pod::allow::HOST_PATH => *allow_host_path = entries_of(value, value::allowed_path)?,
        pod::allow::CAPABILITY => *allow_capability = entries_of(value, value::capability)?,
        pod::allow::PRIVILEGED => *allow_privileged = Some(one(key, value, value::boolean)?),
        pod::allow::HOST_NAMESPACE => *allow_host_namespace = entries_of(value, value::host_namespace)?,
        pod::allow::REGISTRY => *allow_registry = entries_of(value, value::registry)?,
        "logkeeper" => *logkeeper = Some(path(key, value)?),
        "control" => *control = Some(one(key, value, value::control)?),
        "join-token-file" => *join_token_file = Some(path(key, value)?),
        "health-advertise" => *health_advertise = Some(one(key, value, value::host_port)?),
        _ => return Err(Fault::new(key.line, "unknown key; keys are the agent's flags without dashes in front")),
    }
    Ok(())
}

fn one<T>(key: &Text, value: &Value, read: impl Fn(&str) -> Result<T, String>) -> Result<T, Fault> {
    match value {
        Value::One(text) => read(&text.text).map_err(|why| Fault::new(text.line, why)),
        Value::List(_) | Value::Map(_) => Err(Fault::new(key.line, "takes one value")),
    }
}

fn path(key: &Text, value: &Value) -> Result<PathBuf, Fault> {
    one(key, value, value::absolute)
}

/// A list; a single value counts as a list of one.
fn many<T>(value: &Value, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Fault> {
    let read = |text: &Text| read(&text.text).map_err(|why| Fault::new(text.line, why));
    match value {
        Value::One(text) => Ok(vec![read(text)?]),
        Value::List(texts) => texts.iter().map(read).collect(),
        Value::Map(entries) => Err(Fault::new(entries.first().map_or(1, |(k, _)| k.line), "takes a list, not a map")),
    }
}

/// Of an allow-list. One without entries says that nothing is allowed, as `none` does.
fn entries_of<T>(value: &Value, read: impl Fn(&str) -> Result<Entry<T>, String>) -> Result<Vec<Entry<T>>, Fault> {
    match value {
        Value::List(texts) if texts.is_empty() => Ok(vec![Entry::Nothing]),
        _ => many(value, read),
    }
}

fn labels(key: &Text, value: &Value) -> Result<Vec<(String, String)>, Fault> {
    let Value::Map(entries) = value else { return Err(Fault::new(key.line, "takes a map of labels")) };
    let mut labels: Vec<(String, String)> = Vec::new();
    for (name, text) in entries {
        let checked = value::label_key(&name.text).and_then(|()| value::label_value(&text.text));
        checked.map_err(|why| Fault::new(name.line, why))?;
        if labels.iter().any(|(earlier, _)| *earlier == name.text) {
            return Err(Fault::new(name.line, format!("label {:?} is given twice", name.text)));
        }
        labels.push((name.text.clone(), text.text.clone()));
    }
    Ok(labels)
}

fn runtime_classes(key: &Text, value: &Value) -> Result<Vec<(String, super::RuntimeClass)>, Fault> {
    let Value::Map(entries) = value else { return Err(Fault::new(key.line, "takes a map of names to runtimes")) };
    let mut classes: Vec<(String, super::RuntimeClass)> = Vec::new();
    for (name, text) in entries {
        let class = value::runtime_class(&format!("{}={}", name.text, text.text));
        let class = class.map_err(|why| Fault::new(name.line, why))?;
        if classes.iter().any(|(earlier, _)| *earlier == class.0) {
            return Err(Fault::new(name.line, format!("runtime class {:?} is given twice", name.text)));
        }
        classes.push(class);
    }
    Ok(classes)
}

/// The top-level mapping. An empty file is an empty configuration.
fn entries(text: &str) -> Result<Vec<(Text, Value)>, Fault> {
    let mut events = Events { parser: Parser::new_from_str(text) };
    let mut entries = Vec::new();
    loop {
        match events.next()? {
            (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd, _) => {}
            (Event::StreamEnd, _) => return Ok(entries),
            (Event::MappingStart(..), _) if entries.is_empty() => entries = events.mapping()?,
            (Event::Scalar(text, ..), _) if text.is_empty() || text == "~" || text == "null" => {}
            (Event::MappingStart(..), line) => return Err(Fault::new(line, "one document only")),
            (_, line) => return Err(Fault::new(line, "the configuration is a map of keys")),
        }
    }
}

struct Events<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), Fault> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(why)) => Err(Fault::new(why.marker().line(), format!("no YAML: {}", why.info()))),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn mapping(&mut self) -> Result<Vec<(Text, Value)>, Fault> {
        let mut entries = Vec::new();
        while let Some(key) = self.scalar_or_end()? {
            let value = match self.next()? {
                (Event::Scalar(text, ..), line) => Value::One(Text { text: text.into_owned(), line }),
                (Event::SequenceStart(..), _) => Value::List(self.list()?),
                (Event::MappingStart(..), _) => Value::Map(self.flat_map()?),
                (_, line) => return Err(Fault::new(line, "takes a value, a list or a map")),
            };
            entries.push((key, value));
            bounded(entries.len(), &entries.last().map_or(0, |(k, _)| k.line))?;
        }
        Ok(entries)
    }

    fn list(&mut self) -> Result<Vec<Text>, Fault> {
        let mut texts = Vec::new();
        while let Some(text) = self.scalar_or_end()? {
            bounded(texts.len(), &text.line)?;
            texts.push(text);
        }
        Ok(texts)
    }

    fn flat_map(&mut self) -> Result<Vec<(Text, Text)>, Fault> {
        let mut entries = Vec::new();
        while let Some(key) = self.scalar_or_end()? {
            bounded(entries.len(), &key.line)?;
            let Some(value) = self.scalar_or_end()? else { return Err(Fault::new(key.line, "has no value")) };
            entries.push((key, value));
        }
        Ok(entries)
    }

    fn scalar_or_end(&mut self) -> Result<Option<Text>, Fault> {
        match self.next()? {
            (Event::Scalar(text, ..), line) => Ok(Some(Text { text: text.into_owned(), line })),
            (Event::SequenceEnd | Event::MappingEnd, _) => Ok(None),
            (Event::Alias(_), line) => Err(Fault::new(line, "aliases are not taken in a configuration")),
            (_, line) => Err(Fault::new(line, "plain text is expected here")),
        }
    }
}

fn bounded(entries: usize, line: &usize) -> Result<(), Fault> {
    match entries < ENTRIES_MAX {
        true => Ok(()),
        false => Err(Fault::new(*line, format!("more than {ENTRIES_MAX} entries"))),
    }
}
