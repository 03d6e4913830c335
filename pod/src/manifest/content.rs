//! v1 ConfigMap and Secret. What stands in them is in no finding: a reason names keys and sizes, never values.

use std::collections::BTreeMap;

use super::findings::{At, Findings};
use super::tree::Value;
use super::{names, walk};
use crate::content::{Content, ContentKind, Entry, Hidden, MAX_CONTENT_BYTES};
use crate::secret::{base64, login_key};

/// What a ConfigMap and a Secret may have at their top.
const CONFIG_MAP_FIELDS: [&str; 6] = ["apiVersion", "kind", "metadata", "data", "binaryData", "immutable"];
const SECRET_FIELDS: [&str; 7] = ["apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable"];
/// Keys that a Secret of a type must have, as in Kubernetes. Of the first two what is in the key is judged as well.
const NEEDED: [(&str, &[&str]); 2] =
    [("kubernetes.io/ssh-auth", &["ssh-privatekey"]), ("kubernetes.io/tls", &["tls.crt", "tls.key"])];
const BASIC_AUTH: &str = "kubernetes.io/basic-auth";
/// Longest key, as in Kubernetes.
const MAX_KEY: usize = 253;

/// The document's values. None: the findings say why not.
pub fn read(at: &At<'_>, kind: ContentKind, findings: &mut Findings) -> Option<Content> {
    let fields: &[&str] = match kind {
        ContentKind::ConfigMap => &CONFIG_MAP_FIELDS,
        ContentKind::Secret => &SECRET_FIELDS,
    };
    for (key, field) in at.entries(findings) {
        if !fields.contains(&key) {
            let hint = match walk::nearest(key, fields.iter().copied()) {
                Some(near) => format!("unknown field: did you mean `{near}`?"),
                None => "unknown field: Kubernetes has none of this name here".to_owned(),
            };
            findings.rule(&field, hint);
        }
    }
    let version = at.need("apiVersion", findings)?;
    if version.text(findings)? != "v1" {
        findings.impossible(&version, format!("must be v1 for a {}", kind.word()));
        return None;
    }
    let mut content =
        Content { immutable: at.boolean_in("immutable", findings).unwrap_or(false), ..Content::default() };
    match kind {
        ContentKind::ConfigMap => {
            values(at, "data", Form::Plain, &mut content.entries, findings);
            let mut binary = BTreeMap::new();
            values(at, "binaryData", Form::Encoded, &mut binary, findings);
            for (key, entry) in binary {
                if content.entries.contains_key(&key) {
                    findings.impossible(at, format!("the key {} stands in data and in binaryData", names::shown(&key)));
                }
                content.entries.insert(key, Entry { binary: true, ..entry });
            }
        }
        ContentKind::Secret => {
            values(at, "data", Form::Encoded, &mut content.entries, findings);
            // As in an API server, what is written plainly wins.
            values(at, "stringData", Form::Plain, &mut content.entries, findings);
            content.secret_type = at.text_in("type", findings).filter(|text| !text.is_empty()).map(str::to_owned);
            secret_type(at, &content, findings);
        }
    }
    let bytes: usize = content.entries.values().map(|entry| entry.value.reveal().len()).sum();
    if bytes > MAX_CONTENT_BYTES {
        findings.rule(at, format!("holds {bytes} bytes, more than the {MAX_CONTENT_BYTES} allowed: split it"));
    }
    Some(content)
}

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Encoded,
}

fn values(at: &At<'_>, field: &str, form: Form, into: &mut BTreeMap<String, Entry>, findings: &mut Findings) {
    let Some(map) = at.get(field) else { return };
    for (key, value) in map.entries(findings) {
        if let Some(reason) = bad_key(key) {
            // It becomes a file's name: nothing else may ever get through.
            findings.impossible(&value, reason);
        }
        // `key:` without a value is an empty text, as in Kubernetes.
        let text = if value.node.value == Value::Null { Some("") } else { value.text(findings) };
        let Some(text) = text else { continue };
        let bytes = match form {
            Form::Plain => text.as_bytes().to_vec(),
            Form::Encoded => match base64(text) {
                Some(bytes) => bytes,
                None => {
                    findings.impossible(&value, "is not base64");
                    continue;
                }
            },
        };
        into.insert(key.to_owned(), Entry { value: Hidden::new(bytes), binary: false });
    }
}

/// Kubernetes' IsConfigMapKey.
pub fn bad_key(key: &str) -> Option<String> {
    let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(letters) && key != "." && !key.starts_with("..");
    (!good).then(|| {
        format!(
            "{} is not a valid key: at most {MAX_KEY} letters, digits, `-`, `_` and `.`, not `.` and not beginning with `..`",
            names::shown(key)
        )
    })
}

/// What a Secret's type asks of it.
fn secret_type(at: &At<'_>, content: &Content, findings: &mut Findings) {
    let Some(secret_type) = content.secret_type.as_deref() else { return };
    let lacks = |key: &str| !content.entries.contains_key(key);
    if let Some(key) = login_key(secret_type) {
        let Some(entry) = content.entries.get(key) else {
            return findings.impossible(at, format!("has no {key} in data or stringData, which its type needs"));
        };
        if !serde_json::from_slice::<serde_json::Value>(entry.value.reveal()).is_ok_and(|value| value.is_object()) {
            findings.impossible(at, format!("{key} is no JSON object as docker login writes it"));
        }
    }
    if let Some((_, needed)) = NEEDED.iter().find(|(of, _)| *of == secret_type)
        && let Some(key) = needed.iter().find(|key| lacks(key))
    {
        findings.rule(at, format!("has no {key} in data or stringData, which its type needs"));
    }
    if secret_type == BASIC_AUTH && lacks("username") && lacks("password") {
        findings.rule(at, "has neither username nor password in data or stringData: its type needs one of them");
    }
}

/// Names in `imagePullSecrets`, in their order.
pub fn pull_secrets(spec: &At<'_>, findings: &mut Findings) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for item in spec.list("imagePullSecrets", findings) {
        // An entry without a name asks for nothing, in Kubernetes too.
        let name = item.get("name").filter(|at| at.node.value != Value::Null).and_then(|at| at.text(findings));
        if let Some(name) = name.filter(|name| !name.is_empty())
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use crate::content::{Content, ContentKind};
    use crate::desired::{Origin, Source};
    use crate::manifest::{Context, Document, DocumentOutcome, parse, parse_kept};

    fn of(kind: &str, body: &str) -> DocumentOutcome {
        let text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: it, namespace: ns}}\n{body}");
        let parsed = parse("s.yaml", text.as_bytes(), &Context::default());
        parsed.documents.into_iter().next().expect("it has one document")
    }

    fn taken(kind: &str, body: &str) -> Content {
        match of(kind, body).result {
            Ok(Document::Content { key, content }) => {
                assert_eq!((key.kind.word(), key.namespace.as_str(), key.name.as_str()), (kind, "ns", "it"));
                (*content).clone()
            }
            other => panic!("{body}: {other:?}"),
        }
    }

    fn value<'c>(content: &'c Content, key: &str) -> &'c [u8] {
        content.entries[key].value.reveal()
    }

    #[test]
    fn values_are_read_encoded_or_plain_and_the_plain_one_wins() {
        let secret = taken("Secret", "data: {a: Zm9v, b: Zm9v}\nstringData: {b: bar, c:}\nimmutable: true");
        assert_eq!(
            (value(&secret, "a"), value(&secret, "b"), value(&secret, "c")),
            (&b"foo"[..], &b"bar"[..], &b""[..])
        );
        assert!(secret.immutable && secret.secret_type.is_none() && secret.login().is_none());
        let map = taken("ConfigMap", "data:\n  a.conf: |\n    x = 1\n  n: '1'\nbinaryData: {b: /w==}");
        assert_eq!((value(&map, "a.conf"), value(&map, "b")), (&b"x = 1\n"[..], &[0xff][..]));
        assert!(map.entries["b"].binary && !map.entries["a.conf"].binary && !map.immutable);
        assert_eq!(taken("ConfigMap", "").entries.len(), 0);
    }

    #[test]
    fn both_types_of_registry_logins_are_logins() {
        let json = r#"{"auths":{}}"#;
        for body in [
            "type: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: eyJhdXRocyI6e319}",
            "type: kubernetes.io/dockercfg\nstringData: {.dockercfg: '{\"auths\":{}}'}",
        ] {
            assert_eq!(taken("Secret", body).login().expect("a login").reveal(), json.as_bytes());
        }
    }

    #[test]
    fn what_the_store_writes_is_read_back_as_it_was() {
        for (kind, body) in [
            ("ConfigMap", "data: {a: 'ä: \"1\"', e: ''}\nbinaryData: {b: /w==}\nimmutable: true"),
            ("Secret", "type: kubernetes.io/tls\nstringData: {tls.crt: c, tls.key: k}\ndata: {more: /w==}"),
        ] {
            let content = taken(kind, body);
            let Ok(Document::Content { key, .. }) = of(kind, body).result else { panic!("taken before") };
            let origin = Origin { source: Source::Static, file: "s.yaml".into(), line: 3 };
            let (again, read) = parse_kept(&content.to_document(&key), &origin).expect("it was written by us");
            assert_eq!((again, read), (key, content), "{kind}");
        }
        assert_eq!(ContentKind::of("Pod"), None);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_key_and_never_quoted() {
        let large = format!("data: {{a: {}}}", "hush".repeat(1 << 18));
        for (kind, body, reason) in [
            (
                "Secret",
                "type: kubernetes.io/dockerconfigjson\ndata: {.dockercfg: aHVzaA==}",
                "has no .dockerconfigjson",
            ),
            ("Secret", "data: {password: 'hush!'}", "is not base64"),
            ("Secret", "data: {password: 5}", "must be a text, is a number"),
            (
                "Secret",
                "type: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: aHVzaA==}",
                "is no JSON object",
            ),
            ("Secret", "stringdata: {a: hush}", "did you mean `stringData`?"),
            ("Secret", "type: kubernetes.io/tls\nstringData: {tls.crt: hush}", "has no tls.key"),
            ("Secret", "type: kubernetes.io/basic-auth\nstringData: {user: hush}", "neither username nor password"),
            ("Secret", "stringData: {../a: hush}", "is not a valid key"),
            ("ConfigMap", "data: {..data: hush}", "is not a valid key"),
            ("ConfigMap", "data: {a: hush}\nbinaryData: {a: aHVzaA==}", "stands in data and in binaryData"),
            ("ConfigMap", "data: [hush]", "must be a mapping"),
            ("ConfigMap", "immutable: hush", "must be true or false"),
            ("ConfigMap", &format!("{large}\nbinaryData: {{b: aHVzaA==}}"), "more than the 1048576 allowed"),
        ] {
            let outcome = of(kind, body);
            let shown = format!("{outcome:?}");
            let rejections = outcome.result.expect_err(body);
            assert!(rejections.iter().any(|r| r.reason.contains(reason)), "{reason}: {rejections:?}");
            assert!(!shown.contains("aHVzaA") && !shown.contains("hush"), "{shown}");
        }
        assert_eq!(taken("ConfigMap", &large).entries.len(), 1, "just within the limit");
        let shown = format!("{:?}", of("Secret", "type: Opaque\nstringData: {password: hush}"));
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn names_are_judged_as_kubernetes_does() {
        for (name, namespace) in [("Upper", "ns"), ("a", "n.s")] {
            let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}");
            assert!(!parse("s.yaml", text.as_bytes(), &Context::default()).is_accepted(), "{text}");
        }
    }
}
