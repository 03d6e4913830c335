//! The files of a projected volume (configMap, secret, downwardAPI and projected ones): from documents and the pod itself to
//! paths, modes and bytes. Driven by the worker before a pod's surroundings are made and whenever a document changes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::content::{ContentKey, ContentKind, Contents, Hidden};
use crate::downward::{self, NodeSize};
use crate::name::Uid;
use crate::record::Record;
use crate::spec::{DownwardField, DownwardValue, KeyToPath, PodTemplate, Projected, Projection, Volume, VolumeSource};

/// Bytes of all projected files of one pod: they lie in memory, and while they change there are two generations of them.
pub const MAX_POD_BYTES: usize = 24 * 1024 * 1024;

/// What the group of a volume may do with every file (Kubernetes' mask for volumes that nobody writes to).
const GROUP_READS: u32 = 0o440;

/// The files of one volume by their paths in it; every path is relative and never climbs.
pub type Files = BTreeMap<String, File>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Permission bits.
    pub mode: u32,
    /// The pod's `fsGroup`, which may read it then; None: root's.
    pub group: Option<u32>,
    pub content: Hidden,
}

/// Why a volume cannot be filled, in Kubernetes' words where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub struct Unfilled {
    pub volume: String,
    pub why: String,
}

/// Who the pod is.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    pub record: &'a Record,
    pub template: &'a PodTemplate,
    pub node: NodeSize,
}

/// Whether the pod has such volumes at all.
pub fn is_needed(template: &PodTemplate) -> bool {
    template.spec.volumes.iter().any(|volume| matches!(volume.source, VolumeSource::Projected(_)))
}

/// The entry of a [`token_key`]'s content.
pub const TOKEN: &str = "token";

/// Among the contents, the token for a pod's service account. No document has such a name.
pub fn token_key(namespace: &str, uid: &Uid, audience: &str, expiration_seconds: u64) -> ContentKey {
    let name = format!("token:{uid}:{expiration_seconds}:{audience}");
    ContentKey { kind: ContentKind::Secret, namespace: namespace.to_owned(), name }
}

/// The tokens that the pod's volumes show.
pub fn tokens(record: &Record, template: &PodTemplate) -> BTreeSet<ContentKey> {
    let sources = template.spec.volumes.iter().flat_map(|volume| match &volume.source {
        VolumeSource::Projected(projected) => projected.sources.as_slice(),
        VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) | VolumeSource::Image(_) => &[],
    });
    let key = |source: &Projection| match source {
        Projection::Token { audience, expiration_seconds, .. } => {
            Some(token_key(&record.workload.namespace, &record.uid, audience, *expiration_seconds))
        }
        Projection::Content { .. } | Projection::Downward(_) => None,
    };
    sources.filter_map(key).collect()
}

/// The files of all projected volumes, by the volumes' names.
pub fn files(pod: Pod<'_>, contents: &Contents) -> Result<BTreeMap<String, Files>, Unfilled> {
    let mut all = BTreeMap::new();
    let mut bytes = 0_usize;
    for Volume { name, source } in &pod.template.spec.volumes {
        let VolumeSource::Projected(projected) = source else { continue };
        let unfilled = |why: String| Unfilled { volume: name.clone(), why };
        let files = of_volume(projected, pod, contents).map_err(unfilled)?;
        bytes = files.values().fold(bytes, |sum, file| sum.saturating_add(file.content.reveal().len()));
        if bytes > MAX_POD_BYTES {
            return Err(unfilled(format!(
                "the pod's files come to more than {MAX_POD_BYTES} bytes: use fewer of them"
            )));
        }
        all.insert(name.clone(), files);
    }
    Ok(all)
}

fn of_volume(projected: &Projected, pod: Pod<'_>, contents: &Contents) -> Result<Files, String> {
    let mut files = Files::new();
    let make = |mode: Option<u32>, content: Hidden| {
        let mode = mode.unwrap_or(projected.default_mode);
        let mode = if projected.group.is_some() { mode | GROUP_READS } else { mode };
        File { mode, group: projected.group, content }
    };
    for source in &projected.sources {
        match source {
            Projection::Content { kind, name, items, optional } => {
                let key =
                    ContentKey { kind: *kind, namespace: pod.record.workload.namespace.clone(), name: name.clone() };
                files.extend(of_document(&key, items, *optional, contents, &make)?);
            }
            Projection::Downward(items) => {
                for item in items {
                    let text = downward_text(&item.value, pod)?;
                    let content = Hidden::new(text.into_bytes());
                    files.insert(item.path.clone(), make(item.mode, content));
                }
            }
            // Where nobody gives tokens the status says so.
            Projection::Token { path, audience, expiration_seconds } => {
                let Record { uid, workload, .. } = pod.record;
                let key = token_key(&workload.namespace, uid, audience, *expiration_seconds);
                let token = contents.get(&key).and_then(|token| token.entries.get(TOKEN));
                files.extend(token.map(|entry| (path.clone(), make(None, entry.value.clone()))));
            }
        }
    }
    match files.keys().find(|path| parents(path).any(|parent| files.contains_key(parent))) {
        Some(path) => Err(format!("{path} lies below a path that is a file itself")),
        None => Ok(files),
    }
}

fn of_document(
    key: &ContentKey,
    items: &[KeyToPath],
    optional: bool,
    contents: &Contents,
    make: &dyn Fn(Option<u32>, Hidden) -> File,
) -> Result<Files, String> {
    let Some(content) = contents.get(key) else {
        let missing = format!("{} {:?} not found", key.kind.resource(), key.name);
        return if optional { Ok(Files::new()) } else { Err(missing) };
    };
    if items.is_empty() {
        let all = content.entries.iter();
        return Ok(all.map(|(key, entry)| (key.clone(), make(None, entry.value.clone()))).collect());
    }
    let mut files = Files::new();
    for KeyToPath { key: wanted, path, mode } in items {
        match content.entries.get(wanted) {
            Some(entry) => {
                files.insert(path.clone(), make(*mode, entry.value.clone()));
            }
            None if optional => {}
            None => {
                let what = match key.kind {
                    ContentKind::ConfigMap => "configmap references non-existent config key",
                    ContentKind::Secret => "references non-existent secret key",
                };
                return Err(format!("{what}: {wanted}"));
            }
        }
    }
    Ok(files)
}

/// The directories in which a path lies.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn downward_text(value: &DownwardValue, pod: Pod<'_>) -> Result<String, String> {
    let Pod { record, template, node } = pod;
    let field = match value {
        DownwardValue::Field(field) => field,
        DownwardValue::Resource { container, resource, divisor } => {
            let of =
                template.spec.container(container).ok_or_else(|| format!("the pod has no container {container}"))?;
            return downward::resource(&of.resources, resource, *divisor, &node)
                .ok_or_else(|| "the node does not know its ephemeral storage".to_owned());
        }
    };
    Ok(match field {
        DownwardField::Name => record.name.clone(),
        DownwardField::Namespace => record.workload.namespace.clone(),
        DownwardField::Uid => record.uid.to_string(),
        DownwardField::Labels => downward::map_text(&downward::labels(record, template)),
        DownwardField::Annotations => downward::map_text(&downward::annotations(record, template)),
        DownwardField::Label(key) => downward::labels(record, template).remove(key).unwrap_or_default(),
        DownwardField::Annotation(key) => downward::annotations(record, template).remove(key).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Content, Entry};
    use crate::manifest::{Context, Document, parse};
    use crate::sample;

    fn template(volumes: &str) -> PodTemplate {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{app: x}}, annotations: {{note: 'a\"b'}}}}\nspec:\n  \
             containers: [{{name: c, image: i, resources: {{limits: {{cpu: 250m}}}}}}]\n  volumes:\n{volumes}"
        );
        let mut parsed = parse("f.yaml", text.as_bytes(), &Context::default());
        match parsed.documents.pop().map(|d| d.result) {
            Some(Ok(Document::Workload(pod))) => (*pod.template).clone(),
            other => panic!("{other:?} {:?}", parsed.whole),
        }
    }

    fn contents() -> Contents {
        let key = |kind, name: &str| ContentKey { kind, namespace: "default".into(), name: name.into() };
        let entry = |text: &str| Entry { value: Hidden::new(text.as_bytes().to_vec()), binary: text == "bin" };
        let content = |entries: &[(&str, &str)]| Content {
            entries: entries.iter().map(|(key, text)| ((*key).to_owned(), entry(text))).collect(),
            ..Content::default()
        };
        Contents::new(BTreeMap::from([
            (key(ContentKind::ConfigMap, "m"), content(&[("a", "1"), ("b", "bin")]).into()),
            (key(ContentKind::Secret, "s"), content(&[("a", "2"), ("p", "3")]).into()),
        ]))
    }

    /// Path, mode and text of each file of the volume `v`, or the reason.
    fn filled(volumes: &str) -> Result<Vec<(String, u32, String)>, String> {
        let (record, template) = (sample::record("u"), template(volumes));
        let node = NodeSize { cpus: 4, memory: 1 << 30, storage: 0 };
        let pod = Pod { record: &record, template: &template, node };
        let mut all = files(pod, &contents()).map_err(|unfilled| unfilled.to_string())?;
        let text = |file: &File| String::from_utf8(file.content.reveal().to_vec()).expect("text");
        let files = all.remove("v").expect("the volume is there");
        Ok(files.iter().map(|(path, file)| (path.clone(), file.mode, text(file))).collect())
    }

    fn expected(files: &[(&str, u32, &str)]) -> Result<Vec<(String, u32, String)>, String> {
        Ok(files.iter().map(|(path, mode, text)| ((*path).to_owned(), *mode, (*text).to_owned())).collect())
    }

    #[test]
    fn a_document_gives_all_its_keys_or_the_items_that_are_named() {
        let all = filled("  - {name: v, configMap: {name: m}}\n");
        assert_eq!(all, expected(&[("a", 0o644, "1"), ("b", 0o644, "bin")]));
        let items = "  - {name: v, secret: {secretName: s, defaultMode: 0400, items: [{key: a, path: x/y}, {key: p, path: z, mode: 0777}]}}\n";
        assert_eq!(filled(items), expected(&[("x/y", 0o400, "2"), ("z", 0o777, "3")]));
    }

    #[test]
    fn what_is_missing_is_told_as_kubernetes_does_unless_it_is_optional() {
        for (volume, why) in [
            ("configMap: {name: absent}", "configmap \"absent\" not found"),
            ("secret: {secretName: absent}", "secret \"absent\" not found"),
            (
                "configMap: {name: m, items: [{key: absent, path: x}]}",
                "configmap references non-existent config key: absent",
            ),
            ("secret: {secretName: s, items: [{key: absent, path: x}]}", "references non-existent secret key: absent"),
        ] {
            let reason = filled(&format!("  - {{name: v, {volume}}}\n")).unwrap_err();
            assert_eq!(reason, format!("MountVolume.SetUp failed for volume \"v\" : {why}"));
            let optional = volume.replacen("name: ", "optional: true, name: ", 1).replacen(
                "secretName: ",
                "optional: true, secretName: ",
                1,
            );
            assert_eq!(filled(&format!("  - {{name: v, {optional}}}\n")), expected(&[]), "{optional}");
        }
    }

    #[test]
    fn a_projected_volume_puts_its_sources_one_over_the_other() {
        let volume = "
  - name: v
    projected:
      defaultMode: 0440
      sources:
      - configMap: {name: m, items: [{key: a, path: d/a}]}
      - secret: {name: s}
      - serviceAccountToken: {path: token}
      - downwardAPI:
          items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: note, mode: 0400, fieldRef: {fieldPath: \"metadata.annotations['note']\"}}
          - {path: name, fieldRef: {fieldPath: metadata.name}}
          - {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}
";
        let files = expected(&[
            ("a", 0o440, "2"),
            ("cpu", 0o440, "250"),
            ("d/a", 0o440, "1"),
            ("labels", 0o440, "app=\"x\"\ncontroller-revision-hash=\"r\""),
            ("name", 0o440, "d-xxxxx"),
            ("note", 0o400, "a\"b"),
            ("p", 0o440, "3"),
        ]);
        assert_eq!(filled(volume), files);
        let clash = "  - {name: v, projected: {sources: [{secret: {name: s}}, {configMap: {name: m, items: [{key: a, path: p/a}]}}]}}\n";
        assert!(filled(clash).unwrap_err().contains("p/a lies below a path that is a file itself"));
    }

    #[test]
    fn a_pod_does_not_fill_the_memory_with_files() {
        let big = Entry { value: Hidden::new(vec![b'x'; 1 << 20]), binary: false };
        let key = ContentKey { kind: ContentKind::Secret, namespace: "default".into(), name: "s".into() };
        let content = Content { entries: [("a".to_owned(), big)].into(), ..Content::default() };
        let volumes = |count: usize| -> String {
            let one = |n: usize| format!("  - {{name: v{n}, secret: {{secretName: s}}}}\n");
            (0..count).map(one).collect()
        };
        for (count, fits) in [(24, true), (25, false)] {
            let (record, template) = (sample::record("u"), template(&volumes(count)));
            let pod = Pod { record: &record, template: &template, node: NodeSize::default() };
            let contents = Contents::new([(key.clone(), content.clone().into())].into());
            assert_eq!(files(pod, &contents).is_ok(), fits);
        }
    }
}
