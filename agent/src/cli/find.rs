//! From a NAME to pods: a pod's name, or `ds/NAME` for all pods of a DaemonSet. Pure.

use serde_json::Value;

use super::Failure;

/// How many nearest names are offered.
const OFFERED_MAX: usize = 3;

pub fn field<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn namespace(pod: &Value) -> &str {
    field(pod, "/metadata/namespace")
}

pub fn name(pod: &Value) -> &str {
    field(pod, "/metadata/name")
}

/// The DaemonSet that a pod belongs to.
fn daemonset(pod: &Value) -> Option<&str> {
    let owner = pod.pointer("/metadata/ownerReferences/0")?;
    (owner["kind"] == "DaemonSet").then(|| field(owner, "/name"))
}

/// Whether this NAME means all pods of a DaemonSet.
pub fn is_daemonset(wanted: &str) -> bool {
    matches!(wanted.split_once('/'), Some(("ds" | "daemonset" | "daemonsets", _)))
}

/// Of an old pod and its successor the one that stays.
pub fn staying(pods: &[Value]) -> Option<&Value> {
    let leaving = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_some();
    pods.iter().rev().find(|pod| !leaving(pod)).or_else(|| pods.last())
}

/// The pods that are meant, in the list's order: at least one. Several only where they are of one DaemonSet, or an old
/// pod and its successor.
pub fn pods(list: Vec<Value>, wanted: &str, in_namespace: Option<&str>) -> Result<Vec<Value>, Failure> {
    let fits_namespace = |pod: &Value| in_namespace.is_none_or(|ns| namespace(pod) == ns);
    let fits = |pod: &Value| match wanted.split_once('/') {
        Some(("ds" | "daemonset" | "daemonsets", ds)) => daemonset(pod) == Some(ds),
        Some(("pod" | "pods" | "po", plain)) => name(pod) == plain,
        _ => name(pod) == wanted,
    };
    let found: Vec<&Value> = list.iter().filter(|pod| fits_namespace(pod) && fits(pod)).collect();
    if found.is_empty() {
        return Err(Failure::NotFound(not_found(&list, wanted, in_namespace)));
    }
    let first = namespace(found[0]);
    if let Some(other) = found.iter().map(|pod| namespace(pod)).find(|ns| *ns != first) {
        return Err(Failure::Usage(format!("{wanted} is in the namespaces {first} and {other}: choose one with -n")));
    }
    Ok(found.into_iter().cloned().collect())
}

fn not_found(list: &[Value], wanted: &str, in_namespace: Option<&str>) -> String {
    let place = in_namespace.map(|ns| format!(" in namespace {ns}")).unwrap_or_default();
    let names = list.iter().flat_map(|pod| {
        let own = (name(pod).to_owned(), namespace(pod));
        let ds = daemonset(pod).map(|ds| (format!("ds/{ds}"), namespace(pod)));
        std::iter::once(own).chain(ds)
    });
    let offered = nearest(wanted, names.map(|(name, ns)| format!("{name} (-n {ns})")));
    match offered.is_empty() {
        true => format!("no pod {wanted}{place}"),
        false => format!("no pod {wanted}{place}; near: {}", offered.join(", ")),
    }
}

/// The most similar names first; only such as share a good part of their letters or contain one another.
pub fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let bare = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let wanted = bare(wanted);
    let mut ranked: Vec<(usize, String)> = names
        .filter_map(|name| {
            let plain = bare(name.split(' ').next().unwrap_or_default());
            let contained = plain.contains(&wanted) || wanted.contains(&plain);
            let distance = if contained && !wanted.is_empty() { 0 } else { distance(&wanted, &plain) };
            (distance <= 2.max(wanted.len() / 3)).then_some((distance, name))
        })
        .collect();
    ranked.sort();
    ranked.dedup();
    ranked.into_iter().take(OFFERED_MAX).map(|(_, name)| name).collect()
}

/// Levenshtein's distance by letters. Names are at most 253 long.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list() -> Vec<Value> {
        let pod = |ns: &str, name: &str, ds: Option<&str>| {
            let owners = ds.map_or_else(|| json!([]), |ds| json!([{"kind": "DaemonSet", "name": ds}]));
            json!({"metadata": {"namespace": ns, "name": name, "ownerReferences": owners}})
        };
        vec![
            pod("default", "web-n1", None),
            pod("kube-system", "web-n1", None),
            pod("default", "logs-abcde", Some("logs")),
            pod("default", "logs-fghij", Some("logs")),
        ]
    }

    #[test]
    fn a_namespace_is_needed_only_where_the_name_is_ambiguous() {
        assert!(matches!(pods(list(), "web-n1", None), Err(Failure::Usage(_))));
        assert_eq!(pods(list(), "web-n1", Some("kube-system")).unwrap().len(), 1);
        assert_eq!(pods(list(), "logs-abcde", None).unwrap().len(), 1);
    }

    #[test]
    fn ds_name_means_all_its_pods() {
        assert_eq!(pods(list(), "ds/logs", None).unwrap().len(), 2);
        assert!(pods(list(), "ds/web-n1", None).is_err());
    }

    #[test]
    fn what_is_not_found_is_answered_with_the_nearest_names() {
        let Err(Failure::NotFound(why)) = pods(list(), "web", None) else { panic!("must not be found") };
        assert!(why.contains("web-n1 (-n default)"), "{why}");
        let Err(Failure::NotFound(why)) = pods(list(), "lgs-abcde", None) else { panic!("must not be found") };
        assert!(why.contains("logs-abcde"), "{why}");
        let Err(Failure::NotFound(why)) = pods(list(), "zzzzzzzzzz", None) else { panic!("must not be found") };
        assert_eq!(why, "no pod zzzzzzzzzz");
    }
}
