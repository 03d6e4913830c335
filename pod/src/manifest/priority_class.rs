//! scheduling.k8s.io/v1 PriorityClass.

use super::findings::{At, Findings};
use super::pod::PRIORITY_CLASSES;
use super::{PriorityClass, names, walk};

const FIELDS: [&str; 7] =
    ["apiVersion", "kind", "metadata", "value", "globalDefault", "description", "preemptionPolicy"];
/// Greater values are for the classes that Kubernetes brings.
const VALUE_MAX: i32 = 1_000_000_000;
/// Names that only those have.
const OF_THE_SYSTEM: &str = "system-";

/// None: the findings say why not.
pub fn read(at: &At<'_>, name: &str, findings: &mut Findings) -> Option<PriorityClass> {
    for (key, field) in at.entries(findings) {
        if !FIELDS.contains(&key) {
            let hint = match walk::nearest(key, FIELDS.iter().copied()) {
                Some(near) => format!("unknown field: did you mean `{near}`?"),
                None => "unknown field: Kubernetes has none of this name here".to_owned(),
            };
            findings.rule(&field, hint);
        }
    }
    let version = at.need("apiVersion", findings)?;
    if version.text(findings)? != "scheduling.k8s.io/v1" {
        findings.impossible(&version, "must be scheduling.k8s.io/v1 for a PriorityClass");
        return None;
    }
    let name_at = at.need("metadata", findings)?.need("name", findings)?;
    if let Some(reason) = names::dns_subdomain(name) {
        findings.rule(&name_at, reason);
    }
    // Kubernetes: one that is not written is 0.
    let value_at = at.get("value");
    let value = match &value_at {
        Some(value) => i32::try_from(value.integer(findings)?).ok(),
        None => Some(0),
    };
    let global_default = at.boolean_in("globalDefault", findings).unwrap_or(false);
    at.text_in("description", findings);
    if let Some(policy) = at.text_in("preemptionPolicy", findings)
        && !matches!(policy, "PreemptLowerPriority" | "Never")
    {
        let allowed = ["PreemptLowerPriority", "Never"];
        super::pod::one_of::<()>(at, "preemptionPolicy", policy, &allowed, findings);
    }
    let here = value_at.as_ref().unwrap_or(at);
    match (value, PRIORITY_CLASSES.iter().find(|(known, _)| *known == name)) {
        (None, _) => findings.impossible(here, "must be a 32-bit integer"),
        (Some(value), Some((_, known))) if value != *known || global_default => {
            findings.rule(here, format!("must be {known} for {name}, which Kubernetes brings: leave the document out"));
        }
        (Some(_), Some(_)) => {}
        (Some(_), None) if name.starts_with(OF_THE_SYSTEM) => {
            let reason = format!("must not begin with {OF_THE_SYSTEM}: such names are Kubernetes' own");
            findings.rule(&name_at, reason);
        }
        (Some(value), None) if value > VALUE_MAX => {
            findings.rule(here, format!("must be at most {VALUE_MAX}: greater values are Kubernetes' own"));
        }
        (Some(_), None) => {}
    }
    Some(PriorityClass { name: name.to_owned(), value: value?, global_default })
}

#[cfg(test)]
mod tests {
    use crate::manifest::{Context, Document, PriorityClass, parse};

    fn of(text: &str) -> Result<PriorityClass, String> {
        let text = format!("apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {{name: NAME}}\n{text}");
        let text =
            if text.contains("metadata: {name: s") { text.replacen("metadata: {name: NAME}\n", "", 1) } else { text };
        let parsed = parse("c.yaml", text.replace("NAME", "high").as_bytes(), &Context::default());
        match parsed.documents.into_iter().next().expect("one document").result {
            Ok(Document::PriorityClass(class)) => Ok(class),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn class_is_read_as_kubernetes_validates_it() {
        let class = |value, global_default| Ok(PriorityClass { name: "high".into(), value, global_default });
        assert_eq!(of("value: 1000000\ndescription: d\npreemptionPolicy: Never"), class(1_000_000, false));
        assert_eq!(of("value: -5\nglobalDefault: true"), class(-5, true));
        assert_eq!(of("{}".trim_matches(['{', '}'])), class(0, false));
        for (bad, why) in [
            ("value: 1000000001", "at most 1000000000"),
            ("value: 9999999999", "32-bit"),
            ("value: 1\npreemptionPolicy: Always", "PreemptLowerPriority"),
            ("values: 1", "did you mean `value`"),
            ("metadata: {name: system-mine}\nvalue: 1", "must not begin with system-"),
            ("metadata: {name: system-node-critical}\nvalue: 1", "must be 2000001000"),
        ] {
            let refused = of(bad).expect_err(bad);
            assert!(refused.contains(why), "{bad}: {refused}");
        }
        assert!(of("metadata: {name: system-node-critical}\nvalue: 2000001000").is_ok());
    }
}
