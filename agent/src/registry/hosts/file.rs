//! One `hosts.toml`: text to endpoints. Pure. A key that is not known is refused with its line, because a rule that is silently ignored
//! would send requests, or credentials, where nobody wanted them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeString, DeTable, DeValue};
use toml::{Spanned, de};
use url::Url;

use super::{Capabilities, Endpoint, HostsError, Tls, origin};

/// Each of them may be asked for each blob; nobody keeps more mirrors.
const HOSTS_MAX: usize = 32;

/// Of a reason, in characters: it goes into a pod's status.
const REASON_MAX: usize = 500;

/// containerd waits 30 s by itself; an hour is a mistake in writing.
const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Text and place of one file, for errors.
struct Source<'a> {
    text: &'a str,
    path: &'a Path,
    registry: &'a str,
}

/// What a table says about one host, before it is known which.
struct Rules {
    capabilities: Capabilities,
    tls: Tls,
    headers: Vec<(String, String)>,
    override_path: bool,
    dial_timeout: Option<Duration>,
}

/// What a host is to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Mirror,
    /// Named by `server`.
    Server,
    /// The registry under its own name.
    Registry,
}

type Entry<'a> = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>);

/// The file's hosts in the order in which they stand there, then the registry itself (`server`, or its own name).
pub fn parse(text: &str, path: &Path, registry: &str) -> Result<Vec<Endpoint>, HostsError> {
    let source = Source { text, path, registry };
    let table = DeTable::parse(text).map_err(|error: de::Error| {
        source.error(error.span().map_or(0, |span| span.start), error.message().to_owned())
    })?;
    let mut endpoints = Vec::new();
    let mut server = None;
    let mut own = Vec::new();
    for (key, value) in in_order(table.get_ref()) {
        match key.get_ref().as_ref() {
            "server" => server = Some((source.text(value, "server")?, value.span().start)),
            "host" => {
                for (address, rules) in in_order(source.table(value, "host")?) {
                    let name = format!("host.{:?}", address.get_ref().as_ref());
                    let rules_of = source.rules(in_order(source.table(rules, &name)?), &name)?;
                    let url = source.url(address.get_ref().as_ref(), address.span().start, &rules_of)?;
                    endpoints.push(source.endpoint(url, rules_of, Role::Mirror));
                }
            }
            _ => own.push((key, value)),
        }
    }
    if endpoints.len() > HOSTS_MAX {
        return Err(source.error(0, format!("names {} hosts, at most {HOSTS_MAX} are asked", endpoints.len())));
    }
    let rules = source.rules(own, "")?;
    let last = match server {
        Some((address, at)) => {
            let url = source.url(&address, at, &rules)?;
            source.endpoint(url, rules, Role::Server)
        }
        None => {
            let own = origin(registry, rules.tls.clone())?;
            source.endpoint(own.url, rules, Role::Registry)
        }
    };
    endpoints.push(last);
    Ok(endpoints)
}

/// TOML tables have no order of their own, hosts have: that of the file.
fn in_order<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

impl Source<'_> {
    fn error(&self, at: usize, reason: impl Into<String>) -> HostsError {
        let line = self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        // It repeats what stands in the file.
        let reason = reason.into().chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_MAX).collect();
        HostsError { file: self.path.to_owned(), line: Some(line), reason }
    }

    fn expected<T>(&self, value: &Spanned<DeValue<'_>>, key: &str, what: &str) -> Result<T, HostsError> {
        Err(self.error(value.span().start, format!("{key}: expected {what}, found {}", value.get_ref().type_str())))
    }

    fn table<'a>(&self, value: &'a Spanned<DeValue<'a>>, key: &str) -> Result<&'a DeTable<'a>, HostsError> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            _ => self.expected(value, key, "a table"),
        }
    }

    fn text(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<String, HostsError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            _ => self.expected(value, key, "a string"),
        }
    }

    fn truth(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<bool, HostsError> {
        match value.get_ref() {
            DeValue::Boolean(truth) => Ok(*truth),
            _ => self.expected(value, key, "true or false"),
        }
    }

    /// A string, or an array of strings.
    fn texts(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<Vec<String>, HostsError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(vec![text.to_string()]),
            DeValue::Array(items) => items.iter().map(|item| self.text(item, key)).collect(),
            _ => self.expected(value, key, "a string or an array of strings"),
        }
    }

    fn rules(&self, entries: Vec<Entry<'_>>, of: &str) -> Result<Rules, HostsError> {
        let mut rules = Rules {
            capabilities: Capabilities { pull: true, resolve: true },
            tls: Tls::default(),
            headers: Vec::new(),
            override_path: false,
            dial_timeout: None,
        };
        for (key, value) in entries {
            let word = key.get_ref().as_ref();
            let name = if of.is_empty() { word.to_owned() } else { format!("{of}.{word}") };
            match word {
                "capabilities" => rules.capabilities = self.capabilities(value, &name)?,
                "ca" => rules.tls.ca = self.texts(value, &name)?.iter().map(|file| self.beside(file)).collect(),
                "client" => rules.tls.client = self.client(value, &name)?,
                "skip_verify" => rules.tls.skip_verify = self.truth(value, &name)?,
                "override_path" => rules.override_path = self.truth(value, &name)?,
                "dial_timeout" => rules.dial_timeout = Some(self.duration(value, &name)?),
                "header" => {
                    for (header, value) in in_order(self.table(value, &name)?) {
                        let word = header.get_ref().to_string();
                        if !is_header_name(&word) {
                            return Err(self.error(header.span().start, format!("{name}: {word:?} is no header name")));
                        }
                        for text in self.texts(value, &format!("{name}.{word}"))? {
                            if text.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
                                let reason = format!("{name}.{word}: the value contains a control character");
                                return Err(self.error(value.span().start, reason));
                            }
                            rules.headers.push((word.clone(), text));
                        }
                    }
                }
                _ => {
                    let known = if of.is_empty() { "server, host, " } else { "" };
                    return Err(self.error(
                        key.span().start,
                        format!(
                            "{name}: unknown key; known are {known}capabilities, ca, client, skip_verify, header, override_path and \
                             dial_timeout"
                        ),
                    ));
                }
            }
        }
        Ok(rules)
    }

    fn capabilities(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<Capabilities, HostsError> {
        let words = self.texts(value, key)?;
        if words.is_empty() {
            return Ok(Capabilities { pull: true, resolve: true });
        }
        let mut capabilities = Capabilities { pull: false, resolve: false };
        for word in words {
            match word.as_str() {
                "pull" => capabilities.pull = true,
                "resolve" => capabilities.resolve = true,
                // We never push; the word is containerd's and says nothing to us.
                "push" => {}
                _ => {
                    let reason = format!("{key}: unknown capability {word:?}; known are pull, resolve and push");
                    return Err(self.error(value.span().start, reason));
                }
            }
        }
        Ok(capabilities)
    }

    /// `"both.pem"`, `["a.pem", …]`, or `[["a.cert", "a.key"], …]`.
    fn client(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<Vec<(PathBuf, Option<PathBuf>)>, HostsError> {
        let what = "a file, or an array of files and of pairs of files";
        let items = match value.get_ref() {
            DeValue::String(file) => return Ok(vec![(self.beside(file), None)]),
            DeValue::Array(items) => items,
            _ => return self.expected(value, key, what),
        };
        let mut pairs = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(file) => pairs.push((self.beside(file), None)),
                DeValue::Array(_) => match self.texts(item, key)?.as_slice() {
                    [both] => pairs.push((self.beside(both), None)),
                    [cert, file] if file.is_empty() => pairs.push((self.beside(cert), None)),
                    [cert, file] => pairs.push((self.beside(cert), Some(self.beside(file)))),
                    more => {
                        let reason = format!("{key}: a pair is a certificate and its key, found {} files", more.len());
                        return Err(self.error(item.span().start, reason));
                    }
                },
                _ => return self.expected(item, key, what),
            }
        }
        Ok(pairs)
    }

    /// Go's notation: `500ms`, `1m30s`.
    fn duration(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<Duration, HostsError> {
        let text = self.text(value, key)?;
        let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        match parsed {
            Some(time) if !time.is_zero() && time <= DIAL_TIMEOUT_MAX => Ok(time),
            _ => {
                let limit = DIAL_TIMEOUT_MAX.as_secs();
                let reason = format!("{key}: expected a time like \"30s\" of at most {limit}s, found {text:?}");
                Err(self.error(value.span().start, reason))
            }
        }
    }

    /// A file's name counts from the directory of the hosts.toml.
    fn beside(&self, file: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(file)
    }

    /// The host's URL with its path: `/v2` is added unless it is there or override_path says that the path is all.
    fn url(&self, address: &str, at: usize, rules: &Rules) -> Result<Url, HostsError> {
        let whole = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        // What has an @ may carry a password, also where it is no URL.
        let shown = if address.contains('@') { "the address".to_owned() } else { format!("{address:?}") };
        let invalid = |why: &str| self.error(at, format!("{shown} {why}"));
        let mut url = Url::parse(&whole).map_err(|error| invalid(&format!("is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("is neither an http:// nor an https:// URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            // Shown without its address, which carries a password.
            return Err(self.error(at, "a URL here carries no user and password: put them into --registry-auth"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("has a query or a fragment, which no request could keep"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        let path = if rules.override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
        url.set_path(&path);
        Ok(url)
    }

    fn endpoint(&self, url: Url, rules: Rules, role: Role) -> Endpoint {
        let host = super::authority(&url);
        let same = host == self.registry || (self.registry == super::DOCKER_HUB && host == super::DOCKER_HUB_SERVER);
        let for_all = self.path.parent().and_then(Path::file_name).is_some_and(|dir| dir == super::DEFAULT_DIR);
        let speaks_for_registry = match role {
            Role::Mirror => false,
            Role::Server => same || !for_all,
            Role::Registry => true,
        };
        Endpoint {
            url,
            capabilities: rules.capabilities,
            tls: rules.tls,
            headers: rules.headers,
            dial_timeout: rules.dial_timeout,
            origin: role != Role::Mirror,
            speaks_for_registry,
            namespace: (!same).then(|| self.registry.to_owned()),
        }
    }
}

/// A token of RFC 9110.
fn is_header_name(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
