//! What registries say, and what says how they are reached.

use std::path::Path;

use agent::registry::credentials::AuthFile;
use agent::registry::{Credential, challenge, hosts};
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::{JSON, document, judged, nothing};
use crate::{Judged, Target, WORDS_MAX};

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
                file.problems.iter().find(|problem| problem.trim().is_empty() || problem.len() > WORDS_MAX)
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
