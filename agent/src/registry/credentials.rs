//! Who we are at a registry: the entries of a docker `config.json` or of a pod's imagePullSecrets, and which of them are for which host and
//! repository. Driven by [`super::Registry`] for every call anew. It sends nothing; helper programs are run by [`helper`].

pub mod helper;
mod json;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use json::{Json, Object};

/// A config has a few lines a registry; Kubernetes keeps Secrets below 1 MiB too.
const FILE_MAX: u64 = 1 << 20;

/// Of a key in a message; names of hosts end at 253.
const KEY_SHOWN_MAX: usize = 255;

/// More registries than anybody logs in to.
const ENTRIES_MAX: usize = 1_000;

/// One entry of a docker config: for whom, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// `host`, `host:port`, `host/path`, `*.host`; a scheme and `/v1/`, `/v2/` after the host count for nothing, as in the kubelet.
    pub key: String,
    pub login: Login,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    Basic {
        user: String,
        password: Secret,
    },
    /// docker's `identitytoken`: a refresh token for the registry's token service.
    Identity(Secret),
    /// docker's `registrytoken`: sent to the registry as it is.
    Bearer(Secret),
}

/// Text that no log and no error shows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

/// A docker config that cannot be read. Says where, never what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CredentialError(String);

/// A docker `config.json` of this node, with the helper programs that only the node's owner may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthFile {
    pub entries: Vec<Credential>,
    /// `credHelpers`: host to the helper's name.
    pub helpers: BTreeMap<String, String>,
    /// `credsStore`: the helper for all other hosts.
    pub store: Option<String>,
    /// What could not be used, for the log and for the error of a pull that is then denied.
    pub problems: Vec<String>,
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one header that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Login {
    /// The texts that must not be shown, for masking what a server echoes: the secret, and as it goes over the wire.
    pub fn secrets(&self) -> Vec<String> {
        match self {
            Login::Basic { user, password } => vec![basic(user, password), password.reveal().to_owned()],
            Login::Identity(token) | Login::Bearer(token) => {
                let encoded = url::form_urlencoded::byte_serialize(token.reveal().as_bytes()).collect();
                vec![encoded, token.reveal().to_owned()]
            }
        }
    }
}

/// `user:password` in base64, as a Basic header has it (RFC 7617).
pub fn basic(user: &str, password: &Secret) -> String {
    STANDARD.encode(format!("{user}:{}", password.reveal()))
}

impl Credential {
    /// The entries of a `.dockerconfigjson` (`{"auths": {…}}`) or of the older `.dockercfg` (the inner object alone): what Secrets of the
    /// types kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg carry. Helpers named in it are not run: a Secret names no programs.
    pub fn from_docker_config(text: &[u8]) -> Result<Vec<Credential>, CredentialError> {
        let object = object(text)?;
        let auths = match object.get("auths") {
            Some(Json::Object(auths)) => auths,
            Some(_) => return Err(CredentialError("auths: expected an object".to_owned())),
            // The old format has no `auths`, and every value of it is an entry.
            None => &object,
        };
        let (entries, problems) = entries(auths);
        match problems.into_iter().next() {
            Some(problem) => Err(CredentialError(problem)),
            None => Ok(entries),
        }
    }

    /// Is this entry for this repository? As the kubelet matches imagePullSecrets: the host label by label (`*` and `?` within a
    /// label), the port exactly, the path as a prefix.
    pub fn matches(&self, host: &str, path: &str) -> bool {
        let key = Key::of(&self.key);
        let target = Key::of(&format!("{host}/{path}"));
        let labels = |host: &str| host.split('.').map(str::to_owned).collect::<Vec<_>>();
        let (wanted, found) = (labels(&key.host), labels(&target.host));
        key.port == target.port
            && wanted.len() == found.len()
            && wanted.iter().zip(&found).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
            && target.path.starts_with(&key.path)
    }

    /// How much of a name the key says: a longer path first, then a host without wildcards.
    fn weight(&self) -> (usize, bool) {
        let key = Key::of(&self.key);
        (key.path.len(), !key.host.contains(['*', '?']))
    }
}

/// The entries for a repository under any of these host names, the most exact first, none twice.
pub fn matching<'a>(entries: &'a [Credential], hosts: &[String], path: &str) -> Vec<&'a Credential> {
    let mut found: Vec<&Credential> =
        entries.iter().filter(|entry| hosts.iter().any(|host| entry.matches(host, path))).collect();
    found.sort_by_key(|entry| std::cmp::Reverse(entry.weight()));
    found
}

/// A key's parts: `https://index.docker.io/v1/` is the host index.docker.io without a path.
struct Key {
    host: String,
    port: String,
    path: String,
}

impl Key {
    fn of(text: &str) -> Key {
        let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let (authority, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        let path = match path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v2/")) {
            Some(rest) => format!("/{rest}"),
            None => path.to_owned(),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (authority, ""),
        };
        Key {
            host: host.to_ascii_lowercase(),
            port: port.to_owned(),
            path: if path == "/" { String::new() } else { path },
        }
    }
}

/// `*` for any run of bytes, `?` for one. Without recursion: on a mismatch the last star takes one byte more.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl AuthFile {
    /// A file that cannot be read or parsed is a problem, not an end: images that need no credential can still be pulled.
    pub fn read(path: &Path) -> AuthFile {
        let mut text = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut text));
        let parsed = match read {
            Ok(_) => AuthFile::parse(&text),
            Err(error) => Err(CredentialError(error.to_string())),
        };
        let mut file =
            parsed.unwrap_or_else(|error| AuthFile { problems: vec![error.to_string()], ..AuthFile::default() });
        for problem in &mut file.problems {
            *problem = format!("{}: {problem}", path.display());
        }
        file
    }

    pub fn parse(text: &[u8]) -> Result<AuthFile, CredentialError> {
        let object = object(text)?;
        let mut file = AuthFile::default();
        match object.get("auths") {
            Some(Json::Object(auths)) => (file.entries, file.problems) = entries(auths),
            Some(_) => file.problems.push("auths: expected an object".to_owned()),
            None => {}
        }
        match object.get("credHelpers") {
            Some(Json::Object(helpers)) => {
                for (host, name) in helpers.iter().take(ENTRIES_MAX) {
                    match match_text(name).filter(|name| helper::is_name(name)) {
                        Some(name) => {
                            let key = Key::of(host);
                            let port = if key.port.is_empty() { String::new() } else { format!(":{}", key.port) };
                            file.helpers.insert(format!("{}{port}", key.host), name.to_owned());
                        }
                        None => file.problems.push(format!("credHelpers.{}: expected a helper's name", short(host))),
                    }
                }
            }
            Some(_) => file.problems.push("credHelpers: expected an object".to_owned()),
            None => {}
        }
        match object.get("credsStore") {
            Some(Json::Text(name)) if name.is_empty() => {}
            Some(Json::Text(name)) if helper::is_name(name) => file.store = Some(name.clone()),
            Some(_) => file.problems.push("credsStore: expected a helper's name".to_owned()),
            None => {}
        }
        Ok(file)
    }
}

fn object(text: &[u8]) -> Result<Object, CredentialError> {
    if text.len() as u64 > FILE_MAX {
        return Err(CredentialError(format!("is larger than {FILE_MAX} bytes")));
    }
    // The parser's own message for wrong syntax has a place and no content; for wrong types it would have content, so types are
    // looked at by hand.
    match json::read(text) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(_) => Err(CredentialError("expected a JSON object".to_owned())),
        Err(error) => Err(CredentialError(format!("is no JSON: line {}, column {}", error.line(), error.column()))),
    }
}

/// What can be used, and what cannot and why. Entries without a login are placeholders that docker leaves for its credential store.
fn entries(auths: &Object) -> (Vec<Credential>, Vec<String>) {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    if auths.len() > ENTRIES_MAX {
        problems.push(format!("auths: more than {ENTRIES_MAX} entries, the others are not read"));
    }
    for (key, value) in auths.iter().take(ENTRIES_MAX) {
        match login(value) {
            Ok(Some(login)) => entries.push(Credential { key: key.clone(), login }),
            Ok(None) => {}
            Err(reason) => problems.push(format!("auths.{}: {reason}", short(key))),
        }
    }
    (entries, problems)
}

fn login(value: &Json) -> Result<Option<Login>, &'static str> {
    let Json::Object(entry) = value else { return Err("expected an object") };
    let text = |name: &str| match entry.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) if text.is_empty() => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text.as_str())),
        Some(_) => Err("expected strings"),
    };
    if let Some(token) = text("identitytoken")? {
        return Ok(Some(Login::Identity(Secret::new(token))));
    }
    if let Some(token) = text("registrytoken")? {
        return Ok(Some(Login::Bearer(Secret::new(token))));
    }
    if let Some(auth) = text("auth")? {
        let (user, password) = decode(auth).ok_or("auth: expected base64 of user:password")?;
        return Ok(Some(Login::Basic { user, password }));
    }
    match (text("username")?, text("password")?) {
        (Some(user), password) => {
            let password = Secret::new(password.unwrap_or_default());
            Ok(Some(Login::Basic { user: user.to_owned(), password }))
        }
        (None, Some(_)) => Err("a password without a username"),
        (None, None) => Ok(None),
    }
}

fn match_text(value: &Json) -> Option<&str> {
    match value {
        Json::Text(text) => Some(text),
        _ => None,
    }
}

/// A key in a message: it is whoever's who wrote the config.
fn short(key: &str) -> String {
    key.chars().filter(|c| !c.is_control()).take(KEY_SHOWN_MAX).collect()
}

fn decode(auth: &str) -> Option<(String, Secret)> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&base64::alphabet::STANDARD, config).decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Some tools pad the decoded text with zero bytes; docker drops them as well.
    Some((user.to_owned(), Secret::new(password.trim_end_matches('\0'))))
}
