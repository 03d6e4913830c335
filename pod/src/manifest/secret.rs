//! v1 Secret, of the two types that hold credentials of registries. The values of a Secret are in no finding.

use super::findings::{At, Findings};
use super::tree::Value;
use crate::secret::{DockerConfig, base64};

/// What a Secret may have at its top.
const FIELDS: [&str; 7] = ["apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable"];

/// The credentials. None: the findings say why not.
pub fn read(at: &At<'_>, findings: &mut Findings) -> Option<DockerConfig> {
    for (key, field) in at.entries(findings) {
        if !FIELDS.contains(&key) {
            findings.rule(&field, "unknown field");
        }
    }
    let version = at.need("apiVersion", findings)?;
    if version.text(findings)? != "v1" {
        findings.impossible(&version, "must be v1 for a Secret");
        return None;
    }
    let kind = at.get("type");
    let key = match kind.as_ref().map(|at| at.text(findings)) {
        Some(Some("kubernetes.io/dockerconfigjson")) => ".dockerconfigjson",
        Some(Some("kubernetes.io/dockercfg")) => ".dockercfg",
        _ => {
            findings.impossible(
                kind.as_ref().unwrap_or(at),
                "only Secrets of the types kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg (imagePullSecrets) are \
                 taken: other Secret documents are not built yet: put the values into the pod, or the files on the node and \
                 mount them with hostPath",
            );
            return None;
        }
    };
    // As in an API server, what is written plainly wins.
    let plain = at.get("stringData").and_then(|data| data.get(key));
    let json = match (&plain, at.get("data").and_then(|data| data.get(key))) {
        (Some(plain), _) => plain.text(findings)?.as_bytes().to_vec(),
        (None, Some(encoded)) => match base64(encoded.text(findings)?) {
            Some(json) => json,
            None => {
                findings.impossible(&encoded, "is not base64");
                return None;
            }
        },
        (None, None) => {
            findings.impossible(at, format!("has no {key} in data or stringData"));
            return None;
        }
    };
    if !serde_json::from_slice::<serde_json::Value>(&json).is_ok_and(|value| value.is_object()) {
        let blamed = plain.or_else(|| at.get("data")).unwrap_or_else(|| at.clone());
        findings.impossible(&blamed, format!("{key} is no JSON object as docker login writes it"));
        return None;
    }
    Some(DockerConfig::new(json))
}

/// Names in `imagePullSecrets`, in their order.
pub fn names_in(spec: &At<'_>, findings: &mut Findings) -> Vec<String> {
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
    use crate::manifest::{Context, Document, DocumentOutcome, parse};

    fn of(body: &str) -> DocumentOutcome {
        let text = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: login, namespace: ns}}\n{body}");
        let parsed = parse("s.yaml", text.as_bytes(), &Context::default());
        parsed.documents.into_iter().next().expect("it has one document")
    }

    #[test]
    fn both_types_are_read_encoded_or_plain() {
        let json = r#"{"auths":{}}"#;
        for body in [
            "type: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: eyJhdXRocyI6e319}",
            "type: kubernetes.io/dockercfg\nstringData: {.dockercfg: '{\"auths\":{}}'}",
        ] {
            let Ok(Document::PullSecret { key, config }) = of(body).result else { panic!("{body}") };
            assert_eq!((key.namespace.as_str(), key.name.as_str()), ("ns", "login"));
            assert_eq!(config.reveal(), json.as_bytes());
        }
    }

    #[test]
    fn what_is_no_login_is_refused_and_never_quoted() {
        for (body, reason) in [
            ("type: Opaque\ndata: {password: aHVzaA==}", "only Secrets of the types"),
            ("data: {password: aHVzaA==}", "only Secrets of the types"),
            ("type: kubernetes.io/dockerconfigjson\ndata: {.dockercfg: aHVzaA==}", "has no .dockerconfigjson"),
            ("type: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: 'hush!'}", "is not base64"),
            ("type: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: aHVzaA==}", "is no JSON object"),
            ("type: kubernetes.io/dockercfg\nstringData: {.dockercfg: '{}'}\nhush: 1", "unknown field"),
        ] {
            let outcome = of(body);
            let shown = format!("{outcome:?}");
            let rejections = outcome.result.expect_err(body);
            assert!(rejections.iter().any(|r| r.reason.contains(reason)), "{body}: {rejections:?}");
            assert!(!shown.contains("aHVzaA") && !shown.contains("hush!"), "{shown}");
        }
        let taken = of("type: kubernetes.io/dockercfg\nstringData: {.dockercfg: '{\"hush\": 1}'}");
        assert!(taken.result.is_ok() && !format!("{taken:?}").contains("hush"), "{taken:?}");
    }
}
