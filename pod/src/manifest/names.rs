//! Which names Kubernetes allows. Each function says what is wrong, as the end of a sentence; None: nothing.

/// RFC 1123 label: container, volume and namespace names.
pub fn dns_label(text: &str) -> Option<String> {
    (!is_dns_label(text)).then(|| {
        format!(
            "{} is not a valid name: at most 63 lower-case letters, digits and `-`, a letter or digit at both ends",
            shown(text)
        )
    })
}

/// RFC 1123 subdomain: names of pods and DaemonSets.
pub fn dns_subdomain(text: &str) -> Option<String> {
    (!is_dns_subdomain(text)).then(|| {
        format!(
            "{} is not a valid name: at most 253 lower-case letters, digits, `-` and `.`, a letter or digit at both ends of each part",
            shown(text)
        )
    })
}

/// Search domains of a resolv.conf: as a subdomain, also with `_`, with a dot at its end, or the root alone (`.`).
pub fn search_domain(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let good = text == "." || is_dns_subdomain(&name.replace('_', "x"));
    (!good).then(|| {
        format!(
            "{} is not a search domain: at most 253 lower-case letters, digits, `-`, `_` and `.`, a letter or digit at both ends of each part",
            shown(text)
        )
    })
}

/// Keys of labels, annotations and taints: `name` or `prefix.example.com/name`.
pub fn qualified(text: &str) -> Option<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let good = prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_text(name);
    (!good).then(|| {
        format!(
            "{} is not a valid key: at most 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends, perhaps after `domain/`",
            shown(text)
        )
    })
}

/// Values of labels.
pub fn label_value(text: &str) -> Option<String> {
    (!is_label_text(text)).then(|| {
        format!(
            "{} is not a valid label value: at most 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends",
            shown(text)
        )
    })
}

/// Names of environment variables: printable ASCII without `=`.
pub fn env(text: &str) -> Option<String> {
    let good = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    (!good).then(|| format!("{} is not a valid variable name: printable ASCII characters other than `=`", shown(text)))
}

/// Names of ports (RFC 6335): at most 15 lower-case letters, digits and `-`, with a letter.
pub fn port(text: &str) -> Option<String> {
    let good = (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    (!good).then(|| {
        format!(
            "{} is not a valid port name: at most 15 lower-case letters, digits and single `-`, with a letter",
            shown(text)
        )
    })
}

fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Its parts may be longer than 63: only the whole is limited, as in Kubernetes.
fn is_dns_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && ends(bytes.first())
        && ends(bytes.last())
}

/// A text in quotes, with enough of it to recognise it.
pub fn shown(text: &str) -> String {
    const ENOUGH: usize = 80;
    match text.char_indices().nth(ENOUGH) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Judge = fn(&str) -> Option<String>;

    #[test]
    fn names_are_judged_as_in_kubernetes() {
        let long = "a".repeat(64);
        let longer = "a".repeat(254);
        let cases: &[(Judge, &[&str], &[&str])] = &[
            (dns_label, &["a", "a-1", "0"], &["", "A", "a.b", "-a", "a-", "ä", &long]),
            (dns_subdomain, &["a", "a.b-c", &long], &["", "a..b", ".a", "a_b", "A", &longer]),
            (
                qualified,
                &["a", "k8s-app", "A_b.c", "example.com/Name"],
                &["", "/a", "a/", "a/b/c", "-a", "UP.com/a", &long],
            ),
            (search_domain, &[".", "a.b", "a.b.", "_tcp.a"], &["", "..", "a b", "a\nnameserver", "-a"]),
            (label_value, &["", "a", "A.b_c"], &["-a", "a b", "a/", &long]),
            (env, &["A", "a.b-c", "1"], &["", "A=B", "a\nb", "ä"]),
            (port, &["http", "a1"], &["", "80", "HTTP", "a--b", "-a", "abcdefghijklmnop"]),
        ];
        for (index, (judge, good, bad)) in cases.iter().enumerate() {
            for name in *good {
                assert_eq!(judge(name), None, "{index}: {name}");
            }
            for name in *bad {
                assert!(judge(name).is_some(), "{index}: {name}");
            }
        }
    }
}
