//! What is fuzzed: each parser with what it may hold, its words, and what has to be true of whatever it accepts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use agent::registry::credentials::AuthFile;
use agent::registry::{Credential, challenge, hosts, manifest};
use agent::runtime::containerd::capabilities::CapSet;
use agent::runtime::containerd::images::ImageError;
use agent::runtime::containerd::images::bundle::{self, Kind, kind_of};
use agent::runtime::containerd::images::config;
use agent::runtime::containerd::images::documents::{MAX_LIST, ManifestOrIndex};
use agent::runtime::containerd::images::platform::Platform;
use agent::runtime::containerd::images::tarball::Tarball;
use agent::runtime::containerd::seccomp::localhost;
use agent::sandbox::cni::configuration;
use agent::sandbox::cni::{addresses_of, plugin};
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde_json::Value;
use tests::image::{Image, Layout, digest, docker_archive};

pub struct Target {
    pub name: &'static str,
    pub rounds: u64,
    pub input_max: usize,
    /// What it may hold at once for an input of so many bytes.
    pub memory: fn(usize) -> usize,
    pub words: &'static [&'static str],
    /// Inputs beside those in files.
    pub more: fn() -> Vec<Vec<u8>>,
    pub judge: fn(&[u8]) -> Judged,
}

pub enum Judged {
    Accepted,
    /// With these words.
    Refused(String),
    /// It should not have been accepted so.
    Broken(String),
}

fn judged<T>(result: Result<T, String>, broken: impl FnOnce(T) -> Option<String>) -> Judged {
    match result {
        Ok(value) => broken(value).map_or(Judged::Accepted, Judged::Broken),
        Err(words) => Judged::Refused(words),
    }
}

/// As it is said where somebody reads it.
fn refused(reason: String) -> String {
    ImageError::Refused { image: "fuzz.example/a:1".to_owned(), reason }.sentence()
}

fn nothing() -> Vec<Vec<u8>> {
    Vec::new()
}

/// Text into structures of its own size: a list of empty elements is what grows most.
fn document(input: usize) -> usize {
    24 * input + (256 << 10)
}

/// Text into a document of any shape: a list within a list is what grows most.
fn value(input: usize) -> usize {
    64 * input + (256 << 10)
}

const JSON: &[&str] = &[
    "null",
    "true",
    "-1",
    "1e400",
    "18446744073709551616",
    "\"\"",
    "[]",
    "{}",
    "\\u0000",
    "\\ud800",
    "[[[[[[[[",
    "\u{feff}",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "digest",
    "size",
    "platform",
    "os",
    "architecture",
    "variant",
    "fsLayers",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512:",
    "../../etc/passwd",
    "/proc/self/fd/7",
    "User",
    "Env",
    "Volumes",
    "WorkingDir",
    "StopSignal",
    "4294967295:0",
    "SIGRTMIN+99",
    "auths",
    "auth",
    "identitytoken",
    "registrytoken",
    "credHelpers",
    "credsStore",
    "username",
    "password",
    "/v1/",
    "*",
    "?",
];

pub const CONFIG: Target = Target {
    name: "config",
    rounds: 3_000,
    input_max: 64 << 10,
    memory: document,
    words: JSON,
    more: nothing,
    judge: |input| {
        judged(config::read(input).map_err(refused), |config| {
            let climbs = config.run.volumes.iter().any(|path| path.split('/').any(|part| part == ".."));
            let lists = [&config.run.env, &config.run.entrypoint, &config.run.cmd];
            let zero = lists.iter().any(|list| list.iter().any(|text| text.contains('\0')));
            let long = lists.iter().any(|list| list.len() > MAX_LIST) || config.diff_ids.len() > MAX_LIST;
            (climbs || zero || long).then(|| format!("{config:?} was accepted"))
        })
    },
};

pub const MANIFEST: Target = Target {
    name: "manifest",
    rounds: 3_000,
    input_max: 64 << 10,
    memory: document,
    words: JSON,
    more: nothing,
    judge: |input| {
        let media_type = manifest::media_type(None, input);
        let parsed = serde_json::from_slice::<ManifestOrIndex>(input).map_err(|error| error.to_string());
        judged(media_type.and(parsed).map_err(refused), |parsed| match kind_of(&parsed) {
            Kind::Index(list) | Kind::Manifest(_, list) if list.len() > MAX_LIST => {
                Some("a list is too long".to_owned())
            }
            Kind::Neither(why) if why.is_empty() => Some("it is neither, and nobody knows why".to_owned()),
            _ => None,
        })
    },
};

pub const ARCHIVE: Target = Target {
    name: "archive",
    rounds: 500,
    input_max: 256 << 10,
    // Its documents are read whole (8 MiB at most), decompressors have windows of their own.
    memory: |input| 40 * input + (24 << 20),
    words: JSON,
    more: archives,
    judge: |input| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let file = tempfile::NamedTempFile::new_in(dir).unwrap();
        std::fs::write(file.path(), rebuilt(input)).unwrap();
        let planned = Tarball::open(file.path(), Arc::new(AtomicBool::new(false)))
            .and_then(|tarball| bundle::plan(&tarball, &Platform::new("linux", "amd64", ""), "fuzz"));
        let words = |error| ImageError::Archive { archive: "fuzz.tar".to_owned(), error }.sentence();
        judged(planned.map_err(words), |bundle| {
            let nameless = bundle.images.iter().any(|image| image.names.is_empty());
            let missing = bundle.images.iter().any(|image| !bundle.blobs.contains_key(&image.target.digest));
            (nameless || missing).then(|| format!("{:?} was accepted", bundle.images))
        })
    },
};

/// An archive as it is, or, for a document that says how an image's parts are to be made, an archive with these parts and right digests:
/// no mutation would get past the digests otherwise.
fn rebuilt(input: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut parts)) = serde_json::from_slice::<Value>(input) else { return input.to_vec() };
    let (Some(config), Some(mut manifest)) = (parts.remove("config"), parts.remove("manifest")) else {
        return input.to_vec();
    };
    let mut layout = Layout::default();
    let mut add = |content: Vec<u8>| {
        let named = (digest(&content), content.len());
        layout.blobs.insert(named.0.clone(), content);
        named
    };
    let (name, size) = add(config.to_string().into_bytes());
    if let Some(Value::Object(descriptor)) = manifest.get_mut("config") {
        descriptor.insert("digest".to_owned(), name.into());
        descriptor.insert("size".to_owned(), size.into());
    }
    add(Vec::new());
    let (name, size) = add(manifest.to_string().into_bytes());
    let mut index = parts.remove("index").unwrap_or_default();
    if let Some(Value::Object(descriptor)) = index.get_mut(0) {
        descriptor.insert("digest".to_owned(), name.into());
        descriptor.insert("size".to_owned(), size.into());
    }
    layout.manifests = index.as_array().cloned().unwrap_or_default();
    layout.bytes()
}

fn archives() -> Vec<Vec<u8>> {
    let image = || Image::empty("fuzz.example/a:1").platform("linux", "amd64").layer(Vec::new());
    let foreign = image().platform("linux", "s390x");
    vec![
        Layout::of(&[image()]).bytes(),
        Layout::of(&[image().gzip()]).bytes(),
        Layout::multi_platform("fuzz.example/a:1", &[image(), foreign]).bytes(),
        docker_archive(&[image()]),
    ]
}

pub const HOSTS: Target = Target {
    name: "hosts",
    rounds: 3_000,
    input_max: 64 << 10,
    // The TOML reader keeps places and errors for each bracket and word that it does not expect.
    memory: |input| 200 * input + (256 << 10),
    words: &[
        "server",
        "host",
        "capabilities",
        "ca",
        "client",
        "skip_verify",
        "header",
        "override_path",
        "dial_timeout",
        "pull",
        "resolve",
        "push",
        "=",
        "[host.\"https://a\"]\n",
        "[[host]]",
        "\"\"\"",
        "'''",
        "\"30s\"",
        "\"-1h\"",
        "1979-05-27",
        "0x7f",
        "inf",
        "nan",
        "{",
        "}",
        "[",
        "]",
        ".",
        "#",
        "\\u0000",
        "https://",
        "http://[::1]:0/",
        "user:pw@h",
        "%00",
        "?ns=",
    ],
    more: nothing,
    judge: |input| {
        let Ok(text) = std::str::from_utf8(input) else { return Judged::Refused("no UTF-8".to_owned()) };
        let parsed = hosts::parse(text, Path::new("/etc/certs.d/r.example/hosts.toml"), "r.example");
        judged(parsed.map_err(|error| error.to_string()), |hosts| {
            let last = hosts.last().is_some_and(|host| host.origin);
            let mirrors = hosts.iter().rev().skip(1).any(|host| host.origin || host.speaks_for_registry);
            let bare = |host: &hosts::Endpoint| host.url.username().is_empty() && host.url.password().is_none();
            (!last || mirrors || !hosts.iter().all(bare)).then(|| format!("{hosts:?} was accepted"))
        })
    },
};

pub const LOGIN: Target = Target {
    name: "login",
    rounds: 3_000,
    input_max: 64 << 10,
    memory: document,
    words: JSON,
    more: nothing,
    judge: |input| {
        let file = AuthFile::parse(input).map_err(|error| error.to_string());
        if let Ok(file) = &file
            && let Some(bad) =
                file.problems.iter().find(|problem| problem.trim().is_empty() || problem.len() > super::WORDS_MAX)
        {
            return Judged::Broken(format!("a problem has {} bytes", bad.len()));
        }
        let entries = Credential::from_docker_config(input).map_err(|error| error.to_string());
        judged(file.and(entries), |entries| {
            // Whatever a key is, it is matched without harm.
            let all = entries.iter().filter(|entry| entry.matches("r.example:5000", "team/app")).count();
            let debug = format!("{entries:?}");
            (all > entries.len() || debug.contains("password: Secret")).then(|| "a secret is shown".to_owned())
        })
    },
};

const NETWORKS: &[&str] = &[
    "null",
    "true",
    "-1",
    "[]",
    "{}",
    "\\u0000",
    "cniVersion",
    "0.4.0",
    "name",
    "type",
    "plugins",
    "ipam",
    "capabilities",
    "portMappings",
    "runtimeConfig",
    "disableCheck",
    "ips",
    "address",
    "interface",
    "interfaces",
    "eth0",
    "ip4",
    "ip6",
    "code",
    "msg",
    "details",
    "198.18.0.2/15",
    "fd00::2/64",
    "../../bin/sh",
];

pub const NETWORK: Target = Target {
    name: "network",
    rounds: 3_000,
    input_max: 64 << 10,
    memory: value,
    words: NETWORKS,
    more: nothing,
    judge: |input| {
        let read = [true, false].map(|list| configuration::parse(input, list));
        let [list, single] = read;
        judged(list.or(single), |found| {
            let typed = found.plugins.iter().all(|plugin| plugin["type"].as_str().is_some_and(|kind| !kind.is_empty()));
            let versioned = found.plugins.iter().all(|plugin| plugin["cniVersion"] == found.version.as_str());
            let programs = !found.programs().is_empty() && !found.programs().contains(&"");
            (!typed || !versioned || !programs || found.plugins.len() > 32).then(|| format!("{found:?} was accepted"))
        })
    },
};

pub const RESULT: Target = Target {
    name: "result",
    rounds: 3_000,
    input_max: 64 << 10,
    memory: value,
    words: NETWORKS,
    more: nothing,
    judge: |input| {
        // A plugin that fails says so in the same place.
        if let Some((said, _)) = plugin::refusal(input) {
            return Judged::Refused(said);
        }
        let result = serde_json::from_slice::<Value>(input).map_err(|error| error.to_string());
        let addresses = result.and_then(|result| addresses_of(&result).map_err(|error| error.to_string()));
        judged(addresses, |found| (found.is_empty() || found.len() > 16).then(|| format!("{} addresses", found.len())))
    },
};

pub const CHALLENGE: Target = Target {
    name: "challenge",
    rounds: 10_000,
    input_max: 16 << 10,
    memory: document,
    words: &[
        "Basic ",
        "Bearer ",
        "Digest ",
        "Negotiate",
        "realm=",
        "service=",
        "scope=",
        "error=",
        "\"",
        "\\\"",
        "\\",
        ",",
        "=",
        ";",
        "https://",
        "repository:a:pull",
        "\t",
        "  ",
        "token68==",
    ],
    more: nothing,
    judge: |input| {
        let mut headers = HeaderMap::new();
        for line in input.split(|byte| *byte == b'\n') {
            if let Ok(value) = HeaderValue::from_bytes(line) {
                headers.append(WWW_AUTHENTICATE, value);
            }
        }
        let found = challenge::of(&headers);
        let long = format!("{found:?}").len() > 8 * input.len() + 1_000;
        match found.len() {
            0 => Judged::Refused("no challenge that can be answered".to_owned()),
            1..=16 if !long => Judged::Accepted,
            n => Judged::Broken(format!("{n} challenges of {} bytes", input.len())),
        }
    },
};

pub const SECCOMP: Target = Target {
    name: "seccomp",
    rounds: 2_000,
    input_max: 64 << 10,
    memory: document,
    words: &[
        "null",
        "[]",
        "{}",
        "-1",
        "18446744073709551616",
        "\"\"",
        "\\u0000",
        "defaultAction",
        "archMap",
        "architectures",
        "subArchitectures",
        "syscalls",
        "names",
        "name",
        "action",
        "args",
        "includes",
        "excludes",
        "caps",
        "arches",
        "minKernel",
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_NOTIFY",
        "SCMP_ARCH_X86_64",
        "CAP_SYS_ADMIN",
        "CAP_FLY",
        "6.1",
    ],
    more: nothing,
    judge: |input| {
        let circumstances = localhost::Circumstances {
            capabilities: CapSet::default_of_containers(),
            architecture: "x86_64",
            kernel: (6, 1),
        };
        judged(localhost::profile(input, &circumstances), |profile| {
            let rules = profile.syscalls().iter().flatten();
            let strange =
                |name: &String| name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let bad = rules.clone().any(|rule| rule.names().is_empty() || rule.names().iter().any(strange));
            let listens = profile.listener_path().is_some();
            (bad || listens).then(|| "a rule of no system call, or a listener".to_owned())
        })
    },
};
