//! Probes and hooks of a container, with Kubernetes' defaults and rules (v1 Probe, Lifecycle).

use std::time::Duration;

use super::findings::{At, Findings};
use super::tree::Value;
use super::{names, pod};
use crate::spec::{Handler, Hooks, HttpGet, PortReference, Probe, Probes, Role, Scheme};

/// Signals that may be asked for by name (v1 Signal on Linux), besides SIGRTMIN+n and SIGRTMAX-n.
const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// What may stand in a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Probe,
    Hook,
}

/// `startupProbe`, `livenessProbe`, `readinessProbe`.
pub fn probes(container: &At<'_>, role: Role, findings: &mut Findings) -> Probes {
    let mut read = |key: &str, many: bool, ends: bool| {
        let at = container.get(key)?;
        refuse_on_init(&at, role, "probes", findings);
        probe(&at, many, ends, findings)
    };
    Probes {
        startup: read("startupProbe", false, true),
        liveness: read("livenessProbe", false, true),
        readiness: read("readinessProbe", true, false),
    }
}

fn refuse_on_init(at: &At<'_>, role: Role, what: &str, findings: &mut Findings) {
    if role == Role::Init {
        let reason =
            format!("an init container that runs to its end has no {what}: remove it, or set restartPolicy: Always");
        findings.rule(at, reason);
    }
}

/// `many`: more than one success may be asked for. `ends`: its failure ends the container.
fn probe(at: &At<'_>, many: bool, ends: bool, findings: &mut Findings) -> Option<Probe> {
    let handler = handler(at, Place::Probe, findings);
    let mut number = |key: &str, default: u32| match at.get(key).map(|at| (at.integer(findings), at)) {
        None | Some((None | Some(0), _)) => default,
        Some((Some(number), at)) => match u32::try_from(number) {
            Ok(number) if i32::try_from(number).is_ok() => number,
            _ => {
                findings.rule(&at, "must be between 0 and 2147483647");
                default
            }
        },
    };
    let seconds = |number: u32| Duration::from_secs(number.into());
    let (delay, period, timeout) =
        (number("initialDelaySeconds", 0), number("periodSeconds", 10), number("timeoutSeconds", 1));
    let (success_threshold, failure_threshold) = (number("successThreshold", 1), number("failureThreshold", 3));
    if !many
        && success_threshold != 1
        && let Some(at) = at.get("successThreshold")
    {
        findings.rule(&at, "must be 1: only a readiness probe can ask for more");
    }
    let grace = at.get("terminationGracePeriodSeconds").and_then(|at| {
        let seconds = at.integer(findings)?;
        match u64::try_from(seconds) {
            _ if !ends => {
                findings.rule(&at, "has no meaning in a readiness probe, which ends nothing: remove it");
                None
            }
            Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
            _ => {
                findings.rule(&at, "must be 1 or more seconds");
                None
            }
        }
    });
    Some(Probe {
        handler: handler?,
        initial_delay: seconds(delay),
        period: seconds(period),
        timeout: seconds(timeout),
        success_threshold,
        failure_threshold,
        grace,
    })
}

/// `lifecycle`.
pub fn hooks(container: &At<'_>, role: Role, grace: Duration, findings: &mut Findings) -> Hooks {
    let Some(at) = container.get("lifecycle") else { return Hooks::default() };
    let mut hook = |key: &str| {
        let at = at.get(key)?;
        refuse_on_init(&at, role, "hooks", findings);
        let handler = handler(&at, Place::Hook, findings)?;
        if let (Handler::Sleep(time), Some(seconds)) = (&handler, at.get("sleep").and_then(|at| at.get("seconds")))
            && *time > grace
        {
            let reason = format!("must be at most {}, the pod's terminationGracePeriodSeconds", grace.as_secs());
            findings.rule(&seconds, reason);
        }
        Some(handler)
    };
    Hooks { post_start: hook("postStart"), pre_stop: hook("preStop"), stop_signal: stop_signal(&at, findings) }
}

fn stop_signal(at: &At<'_>, findings: &mut Findings) -> Option<String> {
    let at = at.get("stopSignal")?;
    let signal = at.text(findings).filter(|signal| !signal.is_empty())?;
    let real_time = |prefix: &str, most: u8| {
        let number = signal.strip_prefix(prefix).and_then(|number| number.parse::<u8>().ok());
        number.is_some_and(|number| (1..=most).contains(&number))
    };
    let known = SIGNALS.contains(&signal)
        || matches!(signal, "SIGRTMIN" | "SIGRTMAX")
        || real_time("SIGRTMIN+", 15)
        || real_time("SIGRTMAX-", 14);
    if !known {
        findings
            .impossible(&at, format!("{} is no signal of Linux by its name, such as SIGUSR1", names::shown(signal)));
        return None;
    }
    Some(signal.to_owned())
}

/// The one thing that a probe or a hook does.
fn handler(at: &At<'_>, place: Place, findings: &mut Findings) -> Option<Handler> {
    const PROBES: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
    const HOOKS: [&str; 4] = ["exec", "httpGet", "sleep", "tcpSocket"];
    let kinds = if place == Place::Probe { &PROBES } else { &HOOKS };
    let named: Vec<(&str, At<'_>)> = at
        .entries(findings)
        .into_iter()
        .filter(|(key, entry)| kinds.contains(key) && entry.node.value != Value::Null)
        .collect();
    match &named[..] {
        [(kind, at)] => one(kind, at, place, findings),
        [] => {
            let kinds = if place == Place::Probe { PROBES.join(", ") } else { HOOKS[..3].join(", ") };
            findings.impossible(at, format!("says nothing to do: give it one of {kinds}"));
            None
        }
        [_, (_, other), ..] => {
            findings.impossible(other, "is a second thing to do: leave one");
            None
        }
    }
}

fn one(kind: &str, at: &At<'_>, place: Place, findings: &mut Findings) -> Option<Handler> {
    match kind {
        "exec" => exec(at, findings),
        "httpGet" => http_get(at, findings).map(Handler::HttpGet),
        "tcpSocket" if place == Place::Hook => {
            let reason = "cannot be done by a hook (nor can it in Kubernetes): use exec, httpGet or sleep";
            findings.impossible(at, reason);
            None
        }
        "tcpSocket" => {
            let host = text(at, "host", findings);
            Some(Handler::TcpSocket { host, port: port(at, findings)? })
        }
        "grpc" => match port(at, findings)? {
            PortReference::Number(port) => {
                Some(Handler::Grpc { port, service: text(at, "service", findings).unwrap_or_default() })
            }
            PortReference::Name(_) => {
                findings.impossible(&at.get("port")?, "must be a number: a grpc probe knows no names of ports");
                None
            }
        },
        // The one kind that is left.
        _ => {
            let seconds = at.need("seconds", findings)?;
            let Ok(time) = u64::try_from(seconds.integer(findings)?) else {
                findings.impossible(&seconds, "must be 0 or more seconds");
                return None;
            };
            Some(Handler::Sleep(Duration::from_secs(time)))
        }
    }
}

fn exec(at: &At<'_>, findings: &mut Findings) -> Option<Handler> {
    let command = at.need("command", findings)?;
    let words = at.texts_in("command", findings);
    if words.is_empty() {
        findings.impossible(&command, "must have at least one word: the program");
        return None;
    }
    if words.iter().any(|word| word.contains('\0')) {
        findings.impossible(&command, "must not contain a NUL character");
    }
    Some(Handler::Exec(words))
}

fn http_get(at: &At<'_>, findings: &mut Findings) -> Option<HttpGet> {
    let port = port(at, findings);
    let path = text(at, "path", findings).unwrap_or_else(|| "/".into());
    if path.chars().any(|c| c.is_control())
        && let Some(at) = at.get("path")
    {
        findings.impossible(&at, "must not contain control characters");
    }
    let scheme = match at.text_in("scheme", findings) {
        None | Some("" | "HTTP") => Scheme::Http,
        Some("HTTPS") => Scheme::Https,
        Some(other) => pod::one_of(at, "scheme", other, &["HTTP", "HTTPS"], findings)?,
    };
    let mut headers = Vec::new();
    for header in at.list("httpHeaders", findings) {
        let Some(name) = header.need("name", findings) else { continue };
        let Some(key) = name.text(findings) else { continue };
        if !is_header_name(key) {
            findings.impossible(&name, format!("{} is no name of an HTTP header", names::shown(key)));
        }
        let value = header.text_in("value", findings).unwrap_or_default();
        if value.chars().any(|c| c.is_control() && c != '\t')
            && let Some(at) = header.get("value")
        {
            findings.impossible(&at, "must not contain control characters");
        }
        headers.push((key.to_owned(), value.to_owned()));
    }
    Some(HttpGet { path, port: port?, host: text(at, "host", findings), scheme, headers })
}

/// RFC 9110, 5.6.2: token.
fn is_header_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A text that is not empty.
fn text(at: &At<'_>, key: &str, findings: &mut Findings) -> Option<String> {
    at.text_in(key, findings).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// `port`: a number, or the name of one of the container's ports.
fn port(at: &At<'_>, findings: &mut Findings) -> Option<PortReference> {
    let at = at.need("port", findings)?;
    if let Value::Text(name) = &at.node.value {
        if let Some(reason) = names::port(name) {
            findings.impossible(&at, reason);
            return None;
        }
        return Some(PortReference::Name(name.clone()));
    }
    match u16::try_from(at.integer(findings)?) {
        Ok(number) if number > 0 => Some(PortReference::Number(number)),
        _ => {
            findings.impossible(&at, "must be between 1 and 65535");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::findings::Findings;
    use super::super::yaml;
    use super::*;

    /// The hooks, the probes, or the faults of a container that is written like this.
    fn read(text: &str, role: Role) -> Result<(Probes, Hooks), Vec<String>> {
        let mut node = None;
        assert!(yaml::read(text, &mut |read| node.replace(read).is_none()).is_ok(), "{text}");
        let at = At { node: node.as_ref().expect("a document"), path: String::new() };
        let mut findings = Findings::default();
        let probes = probes(&at, role, &mut findings);
        let hooks = hooks(&at, role, Duration::from_secs(30), &mut findings);
        match findings.faults.is_empty() {
            true => Ok((probes, hooks)),
            false => Err(findings.faults.into_iter().map(|f| format!("{}: {}", f.path, f.reason)).collect()),
        }
    }

    #[test]
    fn probe_has_kubernetes_defaults_also_for_numbers_that_are_zero() {
        let text = "livenessProbe: {httpGet: {port: web}, periodSeconds: 0, timeoutSeconds: 0, failureThreshold: 0}";
        let probe = read(text, Role::Main).unwrap().0.liveness.unwrap();
        let get = HttpGet {
            path: "/".into(),
            port: PortReference::Name("web".into()),
            host: None,
            scheme: Scheme::Http,
            headers: vec![],
        };
        let second = Duration::from_secs(1);
        assert_eq!(probe.handler, Handler::HttpGet(get));
        assert_eq!((probe.initial_delay, probe.period, probe.timeout), (Duration::ZERO, 10 * second, second));
        assert_eq!((probe.success_threshold, probe.failure_threshold, probe.grace), (1, 3, None));
    }

    #[test]
    fn every_handler_is_read() {
        let text = "
startupProbe: {exec: {command: [test, -e, /up]}, terminationGracePeriodSeconds: 5}
livenessProbe: {grpc: {port: 50, service: a}}
readinessProbe: {tcpSocket: {port: 80, host: 127.0.0.1}, successThreshold: 2}
lifecycle:
  postStart: {httpGet: {port: 8443, scheme: HTTPS, path: /a?b, httpHeaders: [{name: Host, value: x}]}}
  preStop: {sleep: {seconds: 3}}
  stopSignal: SIGRTMIN+3
";
        let (probes, hooks) = read(text, Role::Main).unwrap();
        let handler = |probe: Option<Probe>| probe.map(|probe| probe.handler).unwrap();
        assert_eq!(probes.startup.as_ref().and_then(|probe| probe.grace), Some(Duration::from_secs(5)));
        assert_eq!(handler(probes.startup), Handler::Exec(vec!["test".into(), "-e".into(), "/up".into()]));
        assert_eq!(handler(probes.liveness), Handler::Grpc { port: 50, service: "a".into() });
        let socket = Handler::TcpSocket { host: Some("127.0.0.1".into()), port: PortReference::Number(80) };
        assert_eq!(handler(probes.readiness), socket);
        let Some(Handler::HttpGet(get)) = hooks.post_start else { panic!("{:?}", hooks.post_start) };
        assert_eq!((get.scheme, get.path.as_str(), get.headers.len()), (Scheme::Https, "/a?b", 1));
        assert_eq!(hooks.pre_stop, Some(Handler::Sleep(Duration::from_secs(3))));
        assert_eq!(hooks.stop_signal.as_deref(), Some("SIGRTMIN+3"));
    }

    #[test]
    fn what_kubernetes_refuses_is_refused_by_its_path() {
        for (text, path) in [
            ("livenessProbe: {}", "livenessProbe: says nothing to do"),
            ("livenessProbe: {exec: {command: []}}", "livenessProbe.exec.command: must have"),
            ("livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}", "livenessProbe.tcpSocket: is a second"),
            ("livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}", "livenessProbe.successThreshold: must be 1"),
            ("livenessProbe: {tcpSocket: {port: 1}, periodSeconds: -1}", "livenessProbe.periodSeconds: must be"),
            ("livenessProbe: {tcpSocket: {port: 0}}", "livenessProbe.tcpSocket.port: must be between"),
            ("livenessProbe: {tcpSocket: {port: no_name}}", "livenessProbe.tcpSocket.port: \"no_name\" is not"),
            ("livenessProbe: {grpc: {port: web}}", "livenessProbe.grpc.port: must be a number"),
            ("livenessProbe: {httpGet: {port: 1, scheme: FTP}}", "livenessProbe.httpGet.scheme: \"FTP\""),
            (
                "readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 1}",
                "readinessProbe.terminationGracePeriodSeconds: has no meaning",
            ),
            ("lifecycle: {preStop: {tcpSocket: {port: 1}}}", "lifecycle.preStop.tcpSocket: cannot be done by a hook"),
            ("lifecycle: {preStop: {sleep: {seconds: 31}}}", "lifecycle.preStop.sleep.seconds: must be at most 30"),
            ("lifecycle: {stopSignal: SIGFOO}", "lifecycle.stopSignal: \"SIGFOO\" is no signal"),
        ] {
            let faults = read(text, Role::Sidecar).unwrap_err();
            assert!(faults.len() == 1 && faults[0].starts_with(path), "{text}: {faults:?}");
        }
        let faults = read("livenessProbe: {tcpSocket: {port: 1}}", Role::Init).unwrap_err();
        assert!(faults[0].starts_with("livenessProbe: an init container"), "{faults:?}");
    }
}
