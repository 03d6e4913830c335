//! What a simulation's manifests ask for.

use std::fmt::Write;

use pod::desired::DesiredPod;
use pod::manifest::{Context, Document, parse};

/// Workloads of one simulation: three DaemonSets, one of them OnDelete, one with two containers, init containers, a sidecar and
/// hooks, after the fourth, a static pod.
pub const WORKLOADS: u64 = 4;

/// Sizes of the static pod.
pub const SIZES: u64 = 4;

pub fn context() -> Context {
    Context { node_name: "n1".into() }
}

pub fn workload(index: u64, version: u64) -> DesiredPod {
    let text = match index {
        0 => daemonset("alpha", "RollingUpdate", version, &["main"], false),
        1 => daemonset("beta", "OnDelete", version, &["main"], true),
        2 => {
            let text = daemonset("gamma", "RollingUpdate", version, &["main", "side"], false);
            let text = text.replace(
                "metadata: {labels: {app: gamma}}",
                "metadata: {labels: {app: gamma}, annotations: {daemonlet.dev/after: delta}}",
            );
            let hooks = "lifecycle: {postStart: {exec: {command: [up]}}, preStop: {exec: {command: [down]}}}";
            format!(
                "{text}
      initContainers:
      - {{name: first, image: image-gamma, imagePullPolicy: Never}}
      - {{name: helper, image: image-gamma, imagePullPolicy: Never, restartPolicy: Always, {hooks}}}
      - {{name: second, image: image-gamma, imagePullPolicy: Never}}
"
            )
        }
        // Versions that differ in size only: the pod is resized, in every second one by a new run.
        _ => format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: delta}}
spec:
  terminationGracePeriodSeconds: 5
{}
  - {{name: sized, image: image-delta, imagePullPolicy: Never, resources: {{limits: {{cpu: {}m, memory: {}}}}},
     resizePolicy: [{{resourceName: cpu, restartPolicy: RestartContainer}}]}}
",
            container_list("  ", "delta", &["main"], version / SIZES),
            10 + version % SIZES / 2,
            10 + version % SIZES,
        ),
    };
    read(&text)
}

/// The only document of a manifest.
pub fn read(text: &str) -> DesiredPod {
    let mut parsed = parse("simulation.yaml", text.as_bytes(), &context());
    match parsed.documents.pop().map(|d| d.result) {
        Some(Ok(Document::Workload(desired))) => *desired,
        other => panic!("the simulation's own manifest is refused: {other:?} {:?}", parsed.whole),
    }
}

fn daemonset(name: &str, update: &str, version: u64, containers: &[&str], host_network: bool) -> String {
    format!(
        "apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  updateStrategy: {{type: {update}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      hostNetwork: {host_network}
{}",
        container_list("      ", name, containers, version)
    )
}

fn container_list(indent: &str, image: &str, names: &[&str], version: u64) -> String {
    let mut text = format!("{indent}containers:\n");
    for name in names {
        let _ = writeln!(text, "{indent}- {{name: {name}, image: image-{image}, imagePullPolicy: IfNotPresent,");
        let _ = writeln!(text, "{indent}   env: [{{name: V, value: \"{version}\"}}]}}");
    }
    text
}
