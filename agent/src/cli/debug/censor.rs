//! What is left out of a bundle: values that may be secrets. Pure.
//!
//! Driven by the word `debug bundle`. Names stay, values go: a report is read by strangers.

use serde_json::Value;

/// What stands for a value that was left out.
pub const LEFT_OUT: &str = "<left out>";

/// A name with one of these in it is a secret's, whatever its value looks like.
const SECRET_WORDS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "api-key",
    "accesskey",
    "access-key",
    "credential",
    "private",
];
/// Short ones, which other words have in them as well: whole, or at a name's end (`requirepass`, `MYSQL_PWD`).
const SECRET_ENDS: [&str; 3] = ["pass", "pwd", "dsn"];
const SECRET_PARTS: [&str; 4] = ["pass", "pwd", "dsn", "auth"];

/// A pod or another object as the agent tells it: without the values of its env and of HTTP headers, its annotations' values but our own, and
/// what looks like a secret in its command lines.
pub fn object(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let is_output =
                fields.get("reason").is_some_and(|reason| reason == "Unhealthy" || reason == "ProbeWarning");
            if let Some(message) = fields.get_mut("message").filter(|_| is_output) {
                *message = LEFT_OUT.into();
            }
            for (key, field) in fields.iter_mut() {
                match (key.as_str(), field) {
                    ("env" | "httpHeaders", Value::Array(items)) => items.iter_mut().for_each(blank),
                    ("annotations", Value::Object(annotations)) => {
                        let foreign = annotations.iter_mut().filter(|(name, _)| !name.contains("daemonlet.dev/"));
                        foreign.for_each(|(_, value)| *value = LEFT_OUT.into());
                    }
                    // A container's last words, or the end of its log.
                    ("terminated", Value::Object(end)) => {
                        if let Some(message) = end.get_mut("message") {
                            *message = LEFT_OUT.into();
                        }
                    }
                    (key, Value::String(value)) if is_secret(key) => *value = LEFT_OUT.into(),
                    (_, Value::String(value)) => *value = text(value),
                    (_, field) => object(field),
                }
            }
        }
        Value::Array(items) => {
            // `--password X`: the word after a secret's name is its value.
            let mut before = false;
            for item in items {
                match item {
                    Value::String(word) => {
                        let names = is_secret(word) && word.starts_with('-') && !word.contains('=');
                        *word = if before { LEFT_OUT.to_owned() } else { text(word) };
                        before = names;
                    }
                    other => object(other),
                }
            }
        }
        _ => {}
    }
}

/// `{"name": …, "value": …}` without the value.
fn blank(item: &mut Value) {
    if let Some(value) = item.get_mut("value") {
        *value = LEFT_OUT.into();
    }
}

/// Where text ends a word.
const DELIMITERS: &str = " \t\n\"',;";

/// Text, word by word: `name=value`, `name: value`, `--name value` and `"name": "value"` of a secret's name, and the user and password of a URL.
pub fn text(given: &str) -> String {
    let mut out = String::with_capacity(given.len());
    let mut next = Next::Shown;
    let mut before = ' ';
    for piece in given.split_inclusive(|c| DELIMITERS.contains(c)) {
        let delimiter = piece.chars().next_back().filter(|c| DELIMITERS.contains(*c));
        let word = &piece[..piece.len() - delimiter.map_or(0, char::len_utf8)];
        let after = delimiter.unwrap_or(' ');
        next = match next {
            Next::HiddenUntil(quote) => match after {
                _ if after == quote => Next::Shown,
                _ => Next::HiddenUntil(quote),
            },
            Next::Hidden if !word.is_empty() => {
                out.push_str(LEFT_OUT);
                match before {
                    '"' | '\'' if after != before => Next::HiddenUntil(before),
                    _ => Next::Shown,
                }
            }
            Next::Hidden => Next::Hidden,
            Next::AfterColon if word.is_empty() => Next::AfterColon,
            Next::AfterColon if matches!(word, ":" | "=") => {
                out.push_str(word);
                Next::Hidden
            }
            Next::AfterColon | Next::Shown => {
                let (shown, hides) = censored(word);
                out.push_str(&shown);
                match hides {
                    true => Next::Hidden,
                    false if matches!(after, '"' | '\'') && is_secret(word) => Next::AfterColon,
                    false => Next::Shown,
                }
            }
        };
        if let (Some(delimiter), false) = (delimiter, matches!(next, Next::HiddenUntil(_))) {
            out.push(delimiter);
        }
        if after == '\n' {
            next = Next::Shown;
        }
        before = after;
    }
    out
}

/// What becomes of the next word.
#[derive(Clone, Copy)]
enum Next {
    Shown,
    Hidden,
    /// Hidden where a colon stands between: the name of a field of JSON was a secret's.
    AfterColon,
    /// And all others up to this quote.
    HiddenUntil(char),
}

/// A word as it may be shown, and whether the next one is a secret.
fn censored(word: &str) -> (String, bool) {
    if let Some((name, value)) = word.split_once('=')
        && is_secret(name)
    {
        return match value.is_empty() {
            true => (word.to_owned(), true),
            false => (format!("{name}={LEFT_OUT}"), false),
        };
    }
    if let Some((scheme, rest)) = word.split_once("://") {
        let authority = rest.split('/').next().unwrap_or_default();
        if let Some((_, host)) = authority.rsplit_once('@') {
            return (format!("{scheme}://{LEFT_OUT}@{host}{}", &rest[authority.len()..]), false);
        }
    }
    let bearer = ["bearer", "basic"].contains(&word.to_ascii_lowercase().as_str());
    let option = word.starts_with("--") && is_secret(word);
    (word.to_owned(), bearer || option || word.strip_suffix(':').is_some_and(is_secret))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    // A file's place says nothing of what is in it.
    let place = ["-file", "-dir", "-path", "name"].iter().any(|end| name.ends_with(end));
    let part = || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| SECRET_PARTS.contains(&part));
    let end = || SECRET_ENDS.iter().any(|end| name.ends_with(end)) && !name.ends_with("bypass");
    !place && (SECRET_WORDS.iter().any(|word| name.contains(word)) || end() || part())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn env_headers_annotations_and_secret_words_lose_their_values() {
        let mut pod = json!({
            "metadata": {"name": "a", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{hidden}", "daemonlet.dev/after": "b"}},
            "spec": {"containers": [{
                "command": ["server", "--password", "hidden", "--token=hidden", "--token-file=/run/token", "--db=postgres://user:hidden@db/x"],
                "env": [{"name": "LEVEL", "value": "hidden"}, {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": "hidden"}]}},
            }]},
            "status": {"containerStatuses": [{"lastState": {"terminated": {"exitCode": 3, "message": "hidden"}}}]},
            "events": [{"reason": "Unhealthy", "message": "Liveness probe failed: hidden"}],
        });
        object(&mut pod);
        let said = pod.to_string();
        assert!(!said.contains("hidden"), "{said}");
        for kept in [
            "LEVEL",
            "--password",
            "/run/token",
            "postgres://",
            "@db/x",
            "\"daemonlet.dev/after\":\"b\"",
            "\"key\":\"k\"",
        ] {
            assert!(said.contains(kept), "{kept} is missing in {said}");
        }
    }

    #[test]
    fn lines_of_a_journal_lose_what_they_should_not_tell() {
        let said = text(
            "pull failed url=https://u:hidden@r.example/v2/ Authorization: Bearer hidden\npassword: hidden next\nauth_token=hidden, done\n",
        );
        assert!(!said.contains("hidden"), "{said}");
        for kept in ["r.example/v2/", " next\n", ", done\n"] {
            assert!(said.contains(kept), "{kept} is missing in {said}");
        }
    }

    #[test]
    fn json_quoted_values_and_common_names_within_text_lose_theirs_too() {
        for given in [
            r#"{"password":"hidden","user":"kept"}"#,
            r#"{"auth": "hidden", "kept": 1}"#,
            r#"{"password": 'hidden of several words', "kept": 1}"#,
            r#"sh -c "DB_PASS=hidden MYSQL_PWD='hidden and hidden' run --kept""#,
            r#"redis --requirepass hidden --kept"#,
            r#"curl -H "Authorization: Basic hidden" kept"#,
            r#"passphrase="hidden hidden" kept"#,
            r#"POSTGRES_DSN=hidden AWS_ACCESSKEY=hidden kept"#,
        ] {
            let said = text(given);
            assert!(!said.contains("hidden") && said.contains("kept"), "{given} becomes {said}");
        }
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for line in [
            "container started workload=pod/default/a container=\"main\" attempt=0 pid=27304\n",
            "a proxy that is to be bypassed, of the author's \"authority\": pass it on; compass=north",
        ] {
            assert_eq!(text(line).replace("compass=<left out>", "compass=north"), line);
        }
    }
}
