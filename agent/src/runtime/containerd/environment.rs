//! The environment and the command line of a container: the image's, then the container's, `$(VAR)` expanded.
//!
//! Pure; used by `oci`.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use pod::downward;
use pod::spec::{EnvValue, PodField};

use super::host::Host;
use super::image_facts::ImageConfig;
use crate::seams::CreateRun;

/// Where programs are looked for when the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the first process gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Environment {
    /// `NAME=value`, in the order of first mention.
    pub env: Vec<String>,
    /// The command line; may be empty.
    pub args: Vec<String>,
}

impl std::fmt::Debug for Environment {
    /// Values may be Secrets', also in the command line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Environment { env, args } = self;
        f.debug_struct("Environment").field("variables", &env.len()).field("words", &args.len()).finish()
    }
}

/// The container's own variables, and their names in the order of first mention. Err says which cannot be had and why.
fn declared<'a>(
    run: &CreateRun<'a>,
    host: &Host,
    node_name: &str,
) -> Result<(BTreeMap<String, String>, Vec<&'a str>), String> {
    // References see the container's own variables only, as in Kubernetes: the image's are not known to it.
    let mut declared: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for var in &run.container.env {
        let value = match &var.value {
            EnvValue::Literal(text) => expand(text, &declared),
            EnvValue::Field(field) => pod_field(run, field, node_name).ok_or_else(|| {
                format!("env {}: this node has no address yet; the container is created when it has one", var.name)
            })?,
            EnvValue::Resource { container, resource, divisor } => {
                let of = run.template.spec.containers.iter().find(|c| c.name == *container).ok_or_else(|| {
                    format!("env {}: resourceFieldRef names the container {container:?}, which the pod lacks", var.name)
                })?;
                downward::resource(&of.resources, resource, *divisor, &host.size())
                    .ok_or_else(|| format!("env {}: the node does not know its ephemeral storage", var.name))?
            }
            // Resolved before, and never expanded: what a document says is taken as it is.
            EnvValue::Known(value) => String::from_utf8_lossy(value.reveal()).into_owned(),
            EnvValue::Content { key, .. } | EnvValue::File { key, .. } => {
                return Err(format!("env {}: {key} was not looked up", var.name));
            }
        };
        if declared.insert(var.name.clone(), value).is_none() {
            order.push(&var.name);
        }
    }
    Ok((declared, order))
}

/// A text with `$(VAR)`, all of whose variables the container has. Err says which it lacks.
pub fn expanded(text: &str, run: &CreateRun<'_>, host: &Host, node_name: &str) -> Result<String, String> {
    let (declared, _) = declared(run, host, node_name)?;
    match missing(text, &declared) {
        Some(name) => Err(format!("the container has no variable {name}")),
        None => Ok(expand(text, &declared)),
    }
}

/// Environment and command line of `run`. Err says which variable cannot be had and why.
pub fn environment(
    run: &CreateRun<'_>,
    image: &ImageConfig,
    host: &Host,
    node_name: &str,
) -> Result<Environment, String> {
    let (declared, order) = declared(run, host, node_name)?;
    let mut env = vec![("PATH", PATH.to_owned()), ("HOSTNAME", run.sandbox.hostname.clone())];
    if run.container.tty {
        env.push(("TERM", "xterm".to_owned()));
    }
    for line in &image.env {
        if let Some((name, value)) = line.split_once('=') {
            set(&mut env, name, value.to_owned());
        }
    }
    for name in order {
        set(&mut env, name, declared[name].clone());
    }
    Ok(Environment {
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        args: command_line(run, image, &declared),
    })
}

/// Kubernetes' rule: `command` replaces entrypoint and cmd, `args` alone replaces cmd.
fn command_line(run: &CreateRun<'_>, image: &ImageConfig, declared: &BTreeMap<String, String>) -> Vec<String> {
    let expanded = |words: &[String]| words.iter().map(|word| expand(word, declared)).collect::<Vec<_>>();
    let (command, args) = (expanded(&run.container.command), expanded(&run.container.args));
    match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [image.entrypoint.clone(), args].concat(),
        (true, true) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    }
}

fn set<'a>(env: &mut Vec<(&'a str, String)>, name: &'a str, value: String) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => env.push((name, value)),
    }
}

/// `$(NAME)` becomes the value where one is known and stays where not; `$$` becomes `$`. Where a URL's host is meant (right
/// behind `://`), an IPv6 address gets the brackets that it needs there (RFC 3986, 3.2.2): Kubernetes makes a URL that is none.
fn expand(text: &str, vars: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match vars.get(name) {
                Some(value) if out.ends_with("://") && value.parse::<Ipv6Addr>().is_ok() => {
                    out.push_str(&format!("[{value}]"));
                }
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The first variable that is named in `text` and not known.
fn missing<'a>(text: &'a str, vars: &BTreeMap<String, String>) -> Option<&'a str> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        rest = after;
        if let Some(tail) = after.strip_prefix('$') {
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            if !vars.contains_key(name) {
                return Some(name);
            }
            rest = tail;
        }
    }
    None
}

/// None: it is an address, and there is none. It is fixed at the creation, so a wrong one would stay.
fn pod_field(run: &CreateRun<'_>, field: &PodField, node_name: &str) -> Option<String> {
    let first = |ips: &[std::net::IpAddr]| ips.first().map(ToString::to_string);
    let all = |ips: &[std::net::IpAddr]| {
        let joined = ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        (!joined.is_empty()).then_some(joined)
    };
    let pod_ips = if run.template.spec.host_network { &run.sandbox.host_ips } else { &run.sandbox.pod_ips };
    let known = match field {
        PodField::Name => run.record.name.clone(),
        PodField::Namespace => run.workload.namespace.clone(),
        PodField::Uid => run.run.uid.to_string(),
        PodField::Label(key) => downward::labels(run.record, run.template).remove(key).unwrap_or_default(),
        PodField::Annotation(key) => downward::annotations(run.record, run.template).remove(key).unwrap_or_default(),
        PodField::NodeName => node_name.to_owned(),
        PodField::ServiceAccountName => "default".to_owned(),
        PodField::HostIp => return first(&run.sandbox.host_ips),
        PodField::HostIps => return all(&run.sandbox.host_ips),
        PodField::PodIp => return first(pod_ips),
        PodField::PodIps => return all(pod_ips),
    };
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_once_and_unknown_ones_stay() {
        let vars = [("A", "1"), ("B", "$(A)"), ("SIX", "fd00::2"), ("FOUR", "198.18.0.2")];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (text, expanded) in [
            ("$(A)-$(B)", "1-$(A)"),
            ("$(C)", "$(C)"),
            ("$$(A)", "$(A)"),
            ("$A $( $", "$A $( $"),
            ("$(A", "$(A"),
            ("http://$(SIX):80/$(SIX)", "http://[fd00::2]:80/fd00::2"),
            ("http://$(FOUR):80", "http://198.18.0.2:80"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &vars), expanded, "{text}");
        }
    }
}
