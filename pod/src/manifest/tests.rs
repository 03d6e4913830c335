use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::desired::{Object, UpdateStrategy};
use crate::name::Uid;
use crate::spec::{
    AppArmor, Container, ContainerResource, EnvFrom, EnvValue, HostPathKind, Medium, PodField, PullPolicy, Seccomp,
    SubPath, VolumeSource,
};

const SEED_RANDOM: &str = "\
# DaemonSet resource
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: random-refresher
spec:
  selector:
    matchLabels:
      app: random-refresher
  template:
    metadata:
      labels:
        app: random-refresher
    spec:
      # Also run on the the master even it's tainted
      tolerations:
      - key: node-role.kubernetes.io/master
        operator: Exists
      containers:
      - image: k8spatterns/random-generator:1.0
        name: random-generator
        command:
        - sh
        - -c
        - >-
          while true; do
            java RandomRunner /host_dev/random 100000;
            sleep 30;
          done
        volumeMounts:
        - mountPath: /host_dev
          name: devices
      volumes:
      # Expose devices into this daemon set
      - name: devices
        hostPath:
          path: /dev
";

const SEED_FLUENTD: &str = "\
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: fluentd-elasticsearch
  namespace: kube-system      # [1]
  labels:
    k8s-app: fluentd-logging  # [2]
spec:
  selector:
    matchLabels:
      name: fluentd-elasticsearch
  updateStrategy:
    type: RollingUpdate       # [3]
  template:
    metadata:
      labels:
        name: fluentd-elasticsearch
    spec:
      containers:
      - name: fluentd-elasticsearch
        image: fluent/fluentd-kubernetes-daemonset:elasticsearch  # [4]
        env:
        - name: testenv
          value: value
        resources:
          limits:
            memory: 200Mi
          requests:
            cpu:  100m
            memory: 200Mi
";

/// A Pod that uses every honoured field.
const FULL: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: full
  namespace: kube-system
  labels: {app: full}
  annotations: {daemonlet.dev/standby: \"true\"}
spec:
  hostNetwork: yes
  hostPID: on
  priorityClassName: system-node-critical
  terminationGracePeriodSeconds: 010
  nodeSelector: {disk: ssd}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions:
          - {key: zone, operator: In, values: [a, b]}
          matchFields:
          - {key: metadata.name, operator: In, values: [n1]}
  tolerations:
  - {key: a, operator: Exists, effect: NoExecute}
  securityContext: {runAsUser: 1000, supplementalGroups: [4, 5], seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: main
    image: example.com/main:1
    imagePullPolicy: Always
    command: [run]
    args: [$(NODE), \"1\"]
    workingDir: /srv
    env:
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    resources:
      limits: {cpu: 1.5, memory: 64Mi}
      requests: {cpu: 100m}
    ports: [{name: http, containerPort: 80, hostPort: 80}]
    volumeMounts:
    - {name: log, mountPath: /host/log, readOnly: true}
    securityContext:
      privileged: false
      runAsUser: 0x10
      allowPrivilegeEscalation: no
      capabilities: {add: [NET_ADMIN, CAP_SYS_TIME], drop: [ALL]}
  volumes:
  - name: log
    hostPath: {path: /var/log, type: Directory}
";

fn context() -> Context {
    Context { node_name: "node-1".into() }
}

fn of(text: &str) -> Parsed {
    parse("f.yaml", text.as_bytes(), &context())
}

/// The one pod of a text that is taken whole.
fn pod(text: &str) -> DesiredPod {
    let parsed = of(text);
    assert!(parsed.is_accepted(), "{:#?}\n{text}", parsed.rejections().map(ToString::to_string).collect::<Vec<_>>());
    match parsed.documents.into_iter().next().unwrap().result.unwrap() {
        Document::Workload(pod) => *pod,
        other => panic!("{other:?}"),
    }
}

fn container(text: &str) -> Container {
    pod(text).template.spec.containers[0].clone()
}

/// The rejections of a text, as they are printed.
fn refused(text: &str) -> Vec<String> {
    of(text).rejections().map(ToString::to_string).collect()
}

/// FULL with one piece replaced.
fn with(from: &str, to: &str) -> String {
    assert!(FULL.contains(from), "{from}");
    FULL.replacen(from, to, 1)
}

#[test]
fn seeds_are_taken_unchanged() {
    for seed in [SEED_RANDOM, SEED_FLUENTD] {
        let parsed = of(seed);
        assert!(parsed.is_accepted(), "{:?}", parsed.rejections().collect::<Vec<_>>());
        assert_eq!(parsed.documents.len(), 1);
        assert_eq!(parsed.documents[0].no_effect, []);
    }
    let random = pod(SEED_RANDOM);
    assert_eq!(random.workload.to_string(), "ds/default/random-refresher");
    assert_eq!((random.origin.line, random.update), (3, UpdateStrategy::RollingUpdate));
    let command = &random.template.spec.containers[0].command;
    assert_eq!(command[2], "while true; do\n  java RandomRunner /host_dev/random 100000;\n  sleep 30;\ndone");
    assert_eq!(
        random.template.spec.volumes[0].source,
        VolumeSource::HostPath { path: "/dev".into(), kind: HostPathKind::Unset }
    );
    let fluentd = container(SEED_FLUENTD);
    assert_eq!(fluentd.resources.memory_limit, Some(200 << 20));
    assert_eq!((fluentd.resources.cpu_request_milli, fluentd.resources.cpu_limit_milli), (Some(100), None));
    assert_eq!(fluentd.pull_policy, PullPolicy::IfNotPresent);
    // The edit that the second seed shows.
    let edited =
        SEED_FLUENTD.replace("type: RollingUpdate ", "rollingUpdate:\n      maxUnavailable: 1\n    type: OnDelete ");
    assert_eq!(pod(&edited).update, UpdateStrategy::OnDelete);
}

#[test]
fn empty_dirs_have_a_medium_and_a_size() {
    let of = |text: &str| {
        let text = with("hostPath: {path: /var/log, type: Directory}", &format!("emptyDir: {text}"));
        match pod(&text).template.spec.volumes[0].source.clone() {
            VolumeSource::EmptyDir(of) => (of.medium, of.size_limit),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(of("{}"), (Medium::Disk, None));
    assert_eq!(of("{medium: \"\", sizeLimit: 0}"), (Medium::Disk, None));
    assert_eq!(of("{sizeLimit: 1.5Gi}"), (Medium::Disk, Some(3 << 29)));
    assert_eq!(of("{medium: Memory, sizeLimit: 1Mi}"), (Medium::Memory, Some(1 << 20)));
    assert_eq!(of("{medium: HugePages}"), (Medium::HugePages(None), None));
    assert_eq!(of("{medium: HugePages-1Gi}"), (Medium::HugePages(Some(1 << 30)), None));
}

#[test]
fn the_group_of_volumes_is_every_containers_and_theirs() {
    let text = with("hostPath: {path: /var/log, type: Directory}", "emptyDir: {}");
    let found = &pod(&text.replacen("runAsUser: 1000", "fsGroup: 2000", 1)).template.spec;
    assert!(found.containers[0].security.supplemental_groups.contains(&2000), "{:?}", found.containers[0].security);
    let VolumeSource::EmptyDir(of) = &found.volumes[0].source else { panic!("{:?}", found.volumes) };
    assert_eq!(of.group, Some(2000));
}

#[test]
fn a_part_of_a_volume_is_named_or_expanded() {
    let of = |text: &str| pod(&with("readOnly: true", text)).template.spec.containers[0].mounts[0].sub_path.clone();
    assert_eq!(of("subPath: \"\""), None);
    assert_eq!(of("subPath: a/b"), Some(SubPath::Literal("a/b".into())));
    assert_eq!(of("subPathExpr: $(A)/b"), Some(SubPath::Expression("$(A)/b".into())));
}

#[test]
fn every_honoured_field_arrives() {
    let full = pod(FULL);
    let spec = &full.template.spec;
    assert_eq!((spec.host_network, spec.host_pid, spec.host_ipc), (true, true, false));
    assert_eq!(spec.priority, 2_000_001_000);
    assert_eq!(spec.termination_grace.as_secs(), 8, "0-prefixed integers are octal");
    assert!(full.template.standby());
    let terms = spec.placement.required_terms.as_ref().unwrap();
    assert_eq!((terms[0].labels[0].values.len(), terms[0].fields.len()), (2, 1));
    let main = &spec.containers[0];
    assert_eq!(main.env[0].value, EnvValue::Field(PodField::NodeName));
    assert_eq!(main.env[1].value, EnvValue::Field(PodField::Label("app".into())));
    assert_eq!(main.env[2].value, EnvValue::Literal("default".into()));
    assert!(
        matches!(&main.env[3].value, EnvValue::Resource { container, divisor, .. } if container == "main" && divisor.milli == 1)
    );
    assert_eq!((main.resources.cpu_limit_milli, main.resources.cpu_request_milli), (Some(1500), Some(100)));
    assert_eq!(main.resources.memory_request, Some(64 << 20), "a limit without request is the request");
    assert_eq!(main.security.run_as_user, Some(16), "the container's over the pod's");
    assert_eq!(main.security.capabilities_add, ["NET_ADMIN", "SYS_TIME"]);
    assert_eq!(main.security.supplemental_groups, [4, 5]);
    assert_eq!(main.security.seccomp, Some(Seccomp::RuntimeDefault));
    assert_eq!(main.security.allow_privilege_escalation, Some(false));
    assert!(main.mounts[0].read_only);
}

#[test]
fn what_names_a_pod_and_its_neighbours_arrives() {
    let text = with(
        "hostPID: on",
        "hostname: web\n  subdomain: db\n  setHostnameAsFQDN: true\n  dnsPolicy: None\n  \
         dnsConfig: {nameservers: [1.1.1.1, \"fd00::1\"], searches: [a.b, .], options: [{name: ndots, value: \"2\"}, {name: edns0}]}\n  \
         hostAliases: [{ip: 1.2.3.4, hostnames: [foo, bar.x]}]",
    );
    let naming = &pod(&text).template.spec.naming;
    assert_eq!((naming.hostname.as_deref(), naming.subdomain.as_deref()), (Some("web"), Some("db")));
    assert!(naming.fqdn_as_hostname);
    assert_eq!(naming.dns_policy, crate::spec::DnsPolicy::None);
    assert_eq!(naming.dns.nameservers.len(), 2);
    assert_eq!(naming.dns.searches, ["a.b", "."]);
    assert_eq!(naming.dns.options[0].value.as_deref(), Some("2"));
    assert_eq!(naming.dns.options[1].value, None);
    assert_eq!(naming.host_aliases[0].hostnames, ["foo", "bar.x"]);
    let searches = (0..33).map(|i| format!("d{i}")).collect::<Vec<_>>().join(", ");
    let refused = of(&with("hostPID: on", &format!("dnsConfig: {{searches: [{searches}]}}")));
    let reasons: Vec<String> = refused.rejections().map(ToString::to_string).collect();
    assert!(reasons[0].contains("spec.dnsConfig.searches: has 33 search domains"), "{reasons:?}");
}

#[test]
fn resources_of_the_pod_are_defaulted_from_its_containers_and_shared_with_them() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  hostnameOverride: db.example\n  \
         resources: {limits: {cpu: 2, memory: 1Gi, hugepages-2Mi: 4Mi}}\n  \
         containers:\n  - {name: a, image: i, resources: {requests: {cpu: 500m}, limits: {memory: 256Mi}}}\n  - {name: b, image: i}\n";
    let spec = pod(text).template.spec.clone();
    assert_eq!(spec.naming.hostname_override.as_deref(), Some("db.example"));
    let of_pod = spec.resources.as_ref().unwrap();
    assert_eq!((of_pod.cpu_request_milli, of_pod.cpu_limit_milli), (Some(500), Some(2000)));
    assert_eq!((of_pod.memory_request, of_pod.memory_limit), (Some(256 << 20), Some(1 << 30)));
    let requests: Vec<(&str, &str)> = of_pod.requests.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(requests, [("cpu", "500m"), ("hugepages-2Mi", "4Mi"), ("memory", "268435456")]);
    let [own, bare] = [0, 1].map(|index: usize| &spec.containers[index].resources);
    assert_eq!((own.effective_memory_limit(), bare.effective_memory_limit()), (Some(256 << 20), Some(1 << 30)));
    assert_eq!((bare.effective_cpu_limit_milli(), bare.memory_request), (Some(2000), None));
    assert_eq!(bare.effective_huge_pages()[&(2 << 20)], 4 << 20);
    assert_eq!(crate::qos::class(&spec), crate::qos::Class::Burstable);
}

#[test]
fn what_is_refused_is_refused_by_path_and_line() {
    let cases: &[(&str, &str, &str)] = &[
        ("  hostPID: on", "  hostPid: on", "10: spec.hostPid: unknown field: did you mean `hostPID`?"),
        ("kind: Pod", "kind: Pods", "2: kind: \"Pods\" is not run here: did you mean Pod?"),
        ("kind: Pod", "kind: ConfigMap", "8: spec: unknown field: Kubernetes has none of this name here"),
        ("kind: Pod", "kind: Deployment", "2: kind: Deployment is not run here"),
        ("apiVersion: v1", "apiVersion: v2", "1: apiVersion: must be v1 for a Pod"),
        ("  name: full", "  name: Full", "4: metadata.name: \"Full\" is not a valid name"),
        ("  name: full", "  generateName: full", "4: metadata.generateName: a document needs a name of its own"),
        ("{app: full}", "{app: 1}", "6: metadata.labels.app: must be a text, is a number: put it in quotes"),
        ("{app: full}", "{-x: full}", "6: metadata.labels['-x']: \"-x\" is not a valid key"),
        ("\"true\"}", "\"maybe\"}", "7: metadata.annotations['daemonlet.dev/standby']: must be \"true\" or \"false\""),
        ("hostPID: on", "hostPID: \"on\"", "10: spec.hostPID: must be true or false, is a text: remove its quotes"),
        (
            "hostPID: on",
            "initContainers: [{name: before, image: i, restartPolicy: Never}]",
            "10: spec.initContainers[0].restartPolicy: can only be Always",
        ),
        (
            "hostPID: on",
            "initContainers: [{name: before, image: i, lifecycle: {preStop: {sleep: {seconds: 1}}}}]",
            "10: spec.initContainers[0].lifecycle.preStop: an init container that runs to its end has no hooks",
        ),
        (
            "hostPID: on",
            "restartPolicy: Sometimes",
            "10: spec.restartPolicy: \"Sometimes\" is not one of Always, OnFailure, Never",
        ),
        ("hostPID: on", "dnsPolicy: Some", "10: spec.dnsPolicy: \"Some\" is not one of ClusterFirst, "),
        (
            "hostPID: on",
            "dnsPolicy: None",
            "10: spec.dnsPolicy: None takes everything from dnsConfig, which is missing",
        ),
        (
            "hostPID: on",
            "dnsPolicy: None\n  dnsConfig: {searches: [a]}",
            "11: spec.dnsConfig: needs at least one name server, since dnsPolicy is None",
        ),
        (
            "hostPID: on",
            "dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}",
            "10: spec.dnsConfig.nameservers: has 4 name servers: at most 3",
        ),
        ("hostPID: on", "dnsConfig: {nameservers: [ns]}", "10: spec.dnsConfig.nameservers[0]: \"ns\" is no IP address"),
        (
            "hostPID: on",
            "dnsConfig: {searches: [\"a\\nnameserver 1.1.1.1\"]}",
            "10: spec.dnsConfig.searches[0]: \"a\\nnameserver 1.1.1.1\" is not a search domain",
        ),
        ("hostPID: on", "dnsConfig: {options: [{value: x}]}", "10: spec.dnsConfig.options[0].name: is missing"),
        (
            "hostPID: on",
            "dnsConfig: {options: [{name: \"a b\"}]}",
            "10: spec.dnsConfig.options[0].name: must be one word",
        ),
        ("hostPID: on", "hostAliases: [{ip: a}]", "10: spec.hostAliases[0].ip: \"a\" is no IP address"),
        (
            "hostPID: on",
            "hostAliases: [{ip: 1.2.3.4, hostnames: [\"a b\"]}]",
            "10: spec.hostAliases[0].hostnames[0]: \"a b\" is not a valid name",
        ),
        ("hostPID: on", "hostname: a.b", "10: spec.hostname: \"a.b\" is not a valid name: at most 63"),
        ("hostPID: on", "subdomain: A", "10: spec.subdomain: \"A\" is not a valid name: at most 63"),
        (
            "hostPID: on",
            "hostPID: on\n  hostUsers: false",
            "11: spec.hostUsers: cannot be false with hostNetwork (Kubernetes does not allow it): drop one of the two",
        ),
        (
            "privileged: false",
            "procMount: Unmasked",
            "44: spec.containers[0].securityContext.procMount: can be Unmasked only with hostUsers: false",
        ),
        (
            "  hostPID: on",
            "  hostPID: on\n  shareProcessNamespace: true",
            "11: spec.shareProcessNamespace: cannot be true with hostPID",
        ),
        ("hostPID: on", "priority: 5", "10: spec.priority: must be 2000001000"),
        ("Seconds: 010", "Seconds: -1", "12: spec.terminationGracePeriodSeconds: must be 0 or more seconds"),
        (
            "operator: In, values: [a, b]",
            "operator: Gt, values: [a]",
            "19: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: must have one value",
        ),
        (
            "key: metadata.name",
            "key: metadata.uid",
            "21: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: only metadata.name can be matched",
        ),
        (
            "{key: a, operator: Exists",
            "{key: a, value: b, operator: Exists",
            "23: spec.tolerations[0].value: must be left out",
        ),
        ("{key: a, operator: Exists", "{value: b", "23: spec.tolerations[0]: a toleration without key"),
        (
            "runAsUser: 1000",
            "runAsUser: 4294967296",
            "24: spec.securityContext.runAsUser: must be between 0 and 2147483647",
        ),
        ("runAsUser: 1000", "fsGroup: -1", "24: spec.securityContext.fsGroup: must be between 0 and 2147483647"),
        (
            "runAsUser: 1000",
            "fsGroupChangePolicy: Never",
            "24: spec.securityContext.fsGroupChangePolicy: \"Never\" is not one of Always, OnRootMismatch",
        ),
        (
            "type: RuntimeDefault",
            "type: Localhost, localhostProfile: \"\"",
            "24: spec.securityContext.seccompProfile.localhostProfile: must name a file",
        ),
        (
            "type: RuntimeDefault",
            "type: Localhost",
            "24: spec.securityContext.seccompProfile.localhostProfile: is missing",
        ),
        (
            "type: RuntimeDefault",
            "type: Localhost, localhostProfile: a/../b",
            "24: spec.securityContext.seccompProfile.localhostProfile: must not contain `..`",
        ),
        (
            "type: RuntimeDefault",
            "type: Localhost, localhostProfile: /etc/a.json",
            "24: spec.securityContext.seccompProfile.localhostProfile: must be relative",
        ),
        (
            "type: RuntimeDefault",
            "type: RuntimeDefault, localhostProfile: a",
            "24: spec.securityContext.seccompProfile.localhostProfile: must be left out unless type is Localhost",
        ),
        (
            "runAsUser: 1000",
            "supplementalGroupsPolicy: Some",
            "24: spec.securityContext.supplementalGroupsPolicy: \"Some\" is not one of Merge, Strict",
        ),
        (
            "runAsUser: 1000",
            "seLinuxOptions: {type: \"a:b\"}",
            "24: spec.securityContext.seLinuxOptions.type: \"a:b\" is no part of an SELinux label",
        ),
        (
            "runAsUser: 1000",
            "sysctls: [{name: net.ipv4.tcp_syncookies, value: \"1\"}]",
            "24: spec.securityContext.sysctls[0].name: cannot be set with hostNetwork",
        ),
        (
            "runAsUser: 1000",
            "sysctls: [{name: kernel.core_pattern, value: \"|/x\"}]",
            "24: spec.securityContext.sysctls[0].name: \"kernel.core_pattern\" is not among the sysctls",
        ),
        (
            "runAsUser: 1000",
            "sysctls: [{name: kernel.shm_rmid_forced, value: 1+kernel.core_pattern=x}]",
            "24: spec.securityContext.sysctls[0].value: \"1+kernel.core_pattern=x\" is no value of it",
        ),
        (
            "runAsUser: 1000",
            "sysctls: [{name: kernel.shm_rmid_forced, value: \"1\"}, {name: kernel/shm_rmid_forced, value: \"0\"}]",
            "24: spec.securityContext.sysctls[1].name: is set twice",
        ),
        (
            "runAsUser: 1000",
            "appArmorProfile: {type: Localhost}",
            "24: spec.securityContext.appArmorProfile.localhostProfile: is missing",
        ),
        (
            "runAsUser: 1000",
            "appArmorProfile: {type: Localhost, localhostProfile: \"\"}",
            "24: spec.securityContext.appArmorProfile.localhostProfile: \"\" is no name of an AppArmor profile",
        ),
        (
            "runAsUser: 1000",
            "appArmorProfile: {type: Unconfined, localhostProfile: a}",
            "24: spec.securityContext.appArmorProfile.localhostProfile: must be left out unless type is Localhost",
        ),
        (
            "\"true\"}",
            "\"true\", container.apparmor.security.beta.kubernetes.io/main: open}",
            "7: metadata.annotations['container.apparmor.security.beta.kubernetes.io/main']: \"open\" is not one of",
        ),
        (
            "\"true\"}",
            "\"true\", container.apparmor.security.beta.kubernetes.io/main: localhost/}",
            "7: metadata.annotations['container.apparmor.security.beta.kubernetes.io/main']: \"\" is no name",
        ),
        (
            "\"true\"}",
            "\"true\", container.apparmor.security.beta.kubernetes.io/other: unconfined}",
            "7: metadata.annotations['container.apparmor.security.beta.kubernetes.io/other']: the pod has no container \"other\"",
        ),
        ("name: main", "name: Main", "26: spec.containers[0].name: \"Main\" is not a valid name"),
        ("image: example.com/main:1", "image: \"\"", "27: spec.containers[0].image: must not be empty"),
        ("    image: example.com/main:1\n", "", "26: spec.containers[0].image: is missing"),
        (
            "Policy: Always",
            "Policy: always",
            "28: spec.containers[0].imagePullPolicy: \"always\" is not one of Always, IfNotPresent, Never",
        ),
        ("\"1\"]", "1]", "30: spec.containers[0].args[1]: must be a text, is a number: put it in quotes"),
        ("/srv", "/x/../proc/self/fd/7", "31: spec.containers[0].workingDir: must not be in /proc"),
        ("/srv", "srv", "31: spec.containers[0].workingDir: \"srv\" must be an absolute path"),
        ("name: NODE", "name: A=B", "33: spec.containers[0].env[0].name: \"A=B\" is not a valid variable name"),
        (
            "spec.nodeName",
            "spec.nodename",
            "33: spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: \"spec.nodename\" cannot be shown",
        ),
        (
            "fieldRef: {fieldPath: spec.nodeName}",
            "secretKeyRef: {name: a}",
            "33: spec.containers[0].env[0].valueFrom.secretKeyRef.key: is missing",
        ),
        (
            "fieldRef: {fieldPath: spec.nodeName}",
            "configMapKeyRef: {name: a, key: ../b}",
            "33: spec.containers[0].env[0].valueFrom.configMapKeyRef.key: \"../b\" is not a valid key",
        ),
        (
            "fieldRef: {fieldPath: spec.nodeName}",
            "fileKeyRef: {key: a, path: ../b, volumeName: empty}",
            "33: spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: the pod has no emptyDir \"empty\"",
        ),
        (
            "fieldRef: {fieldPath: spec.nodeName}",
            "fileKeyRef: {key: a, path: b/../../c, volumeName: empty}",
            "33: spec.containers[0].env[0].valueFrom.fileKeyRef.path: must name a file in the volume",
        ),
        ("    workingDir: /srv", "    envFrom: [{prefix: a}]", "31: spec.containers[0].envFrom[0]: names no source"),
        (
            "    workingDir: /srv",
            "    envFrom: [{prefix: a=, secretRef: {name: b}}]",
            "31: spec.containers[0].envFrom[0].prefix: \"a=\" is not a valid variable name",
        ),
        (
            "    workingDir: /srv",
            "    envFrom: [{configMapRef: {name: B}}]",
            "31: spec.containers[0].envFrom[0].configMapRef.name: \"B\" is not a valid name",
        ),
        (
            "resource: limits.cpu",
            "containerName: other, resource: limits.cpu",
            "36: spec.containers[0].env[3].valueFrom.resourceFieldRef.containerName: the pod has no container \"other\"",
        ),
        (
            "divisor: 1m",
            "divisor: 3m",
            "36: spec.containers[0].env[3].valueFrom.resourceFieldRef.divisor: must be one of 1m, 1",
        ),
        ("memory: 64Mi", "memory: 64MB", "38: spec.containers[0].resources.limits.memory: \"64MB\" is not a quantity"),
        (
            "memory: 64Mi",
            "nvidia.com/gpu: 1",
            "38: spec.containers[0].resources.limits['nvidia.com/gpu']: not supported",
        ),
        (
            "memory: 64Mi",
            "memory: 64Mi, hugepages-3Mi: 3Mi",
            "38: spec.containers[0].resources.limits['hugepages-3Mi']: \"hugepages-3Mi\" names no size of pages",
        ),
        (
            "memory: 64Mi",
            "memory: 64Mi, hugepages-2Mi: 3Mi",
            "38: spec.containers[0].resources.limits['hugepages-2Mi']: must be whole pages: a multiple of 2Mi",
        ),
        (
            "cpu: 100m",
            "hugepages-2Mi: 4Mi, cpu: 100m",
            "39: spec.containers[0].resources.requests['hugepages-2Mi']: must be the same as its limit",
        ),
        ("hostPID: on", "resources: {limits: {hugepages-2Mi: 4Mi}}", "10: spec.resources: asks for huge pages alone"),
        (
            "hostPID: on",
            "resources: {limits: {cpu: 1}}",
            "10: spec.resources: container \"main\" has a limit of cpu beyond that of the pod",
        ),
        (
            "hostPID: on",
            "resources: {requests: {memory: 32Mi}}",
            "10: spec.resources.requests.memory: is less than what the pod's containers request together",
        ),
        (
            "hostPID: on",
            "resources: {limits: {cpu: 2, ephemeral-storage: 1Gi}}",
            "10: spec.resources.limits['ephemeral-storage']: a pod as a whole has cpu, memory",
        ),
        ("hostPID: on", "hostnameOverride: a_b", "10: spec.hostnameOverride: \"a_b\" is not a valid name"),
        (
            "hostPID: on",
            "hostnameOverride: a.b\n  hostNetwork: true",
            "10: spec.hostnameOverride: cannot stand beside hostNetwork",
        ),
        ("cpu: 100m", "cpu: 2", "39: spec.containers[0].resources.requests.cpu: 2 is more than the limit, 1.5"),
        (
            "\"true\"}",
            "\"true\", kubernetes.io/ingress-bandwidth: fast}",
            "7: metadata.annotations['kubernetes.io/ingress-bandwidth']: \"fast\" is no bandwidth such as 10M",
        ),
        (
            "containerPort: 80, hostPort: 80}",
            "containerPort: 80}, {containerPort: 80}",
            "40: spec.containers[0].ports[1]: port 80/TCP of the node is taken twice",
        ),
        ("hostPort: 80", "hostPort: 80, hostIP: x", "40: spec.containers[0].ports[0].hostIP: \"x\" is no IP address"),
        ("hostPort: 80", "hostPort: 81", "40: spec.containers[0].ports[0].hostPort: must be 80"),
        (
            "containerPort: 80, hostPort: 80",
            "containerPort: 0",
            "40: spec.containers[0].ports[0].containerPort: must be between 1 and 65535",
        ),
        (
            "mountPath: /host/log",
            "mountPath: host",
            "42: spec.containers[0].volumeMounts[0].mountPath: \"host\" must be an absolute path",
        ),
        (
            "mountPath: /host/log",
            "mountPath: /",
            "42: spec.containers[0].volumeMounts[0].mountPath: cannot be the root",
        ),
        (
            "{name: log, m",
            "{name: logs, m",
            "42: spec.containers[0].volumeMounts[0].name: the pod has no volume \"logs\": did you mean log?",
        ),
        (
            "readOnly: true",
            "subPath: /a",
            "42: spec.containers[0].volumeMounts[0].subPath: \"/a\" must be relative to the volume",
        ),
        ("readOnly: true", "subPath: a/../b", "42: spec.containers[0].volumeMounts[0].subPath: must not contain `..`"),
        (
            "readOnly: true",
            "subPathExpr: $(A)/..",
            "42: spec.containers[0].volumeMounts[0].subPathExpr: must not contain `..`",
        ),
        (
            "readOnly: true",
            "subPath: a, subPathExpr: b",
            "42: spec.containers[0].volumeMounts[0].subPathExpr: cannot stand beside subPath",
        ),
        (
            "privileged: false",
            "privileged: true",
            "46: spec.containers[0].securityContext.allowPrivilegeEscalation: cannot be false in a privileged container",
        ),
        ("runAsUser: 0x10", "{runAsUser: 0, runAsNonRoot: true}", "46: this is not YAML"),
        (
            "runAsUser: 0x10",
            "runAsUser: 0\n      runAsNonRoot: true",
            "43: spec.containers[0].securityContext: runAsNonRoot is true and runAsUser is 0",
        ),
        (
            "NET_ADMIN",
            "NET_ADMINS",
            "47: spec.containers[0].securityContext.capabilities.add[0]: \"NET_ADMINS\" is no capability: did you mean NET_ADMIN?",
        ),
        ("path: /var/log", "path: /var/../etc", "50: spec.volumes[0].hostPath.path: must not contain `..`"),
        ("path: /var/log", "path: var", "50: spec.volumes[0].hostPath.path: \"var\" must be an absolute path"),
        ("type: Directory", "type: Dir", "50: spec.volumes[0].hostPath.type: \"Dir\" is not one of"),
        (
            "hostPath: {path: /var/log, type: Directory}",
            "configMap: {name: a, items: [{key: k, path: ../k}]}",
            "50: spec.volumes[0].configMap.items[0].path: \"../k\" must not contain `..`",
        ),
        (
            "hostPath: {path: /var/log, type: Directory}",
            "secret: {secretName: a, items: [{key: k, path: /k}]}",
            "50: spec.volumes[0].secret.items[0].path: \"/k\" must be relative to the volume",
        ),
        (
            "hostPath: {path: /var/log, type: Directory}",
            "secret: {secretName: a, defaultMode: 01000}",
            "50: spec.volumes[0].secret.defaultMode: must be permission bits between 0 and 0777",
        ),
        (
            "hostPath: {path: /var/log, type: Directory}",
            "downwardAPI: {items: [{path: ..x, fieldRef: {fieldPath: metadata.name}}]}",
            "50: spec.volumes[0].downwardAPI.items[0].path: \"..x\" must not begin with `..`",
        ),
        (
            "hostPath: {path: /var/log, type: Directory}",
            "projected: {sources: [{podCertificate: {}}]}",
            "50: spec.volumes[0].projected.sources[0].podCertificate: not supported",
        ),
        (
            "hostPath: {path: /var/log, type: Directory}",
            "downwardAPI: {items: [{path: x, resourceFieldRef: {containerName: no-one, resource: limits.cpu}}]}",
            "50: spec.volumes[0].downwardAPI.items[0].resourceFieldRef.containerName: the pod has no container \"no-one\"",
        ),
        ("type: Directory}", "type: Directory}\n    emptyDir: {}", "49: spec.volumes[0]: names more than one source"),
        (
            "hostPath: {path: /var/log, type: Directory}",
            "emptyDir: {medium: memory}",
            "50: spec.volumes[0].emptyDir.medium: \"memory\" is not one of Memory, HugePages",
        ),
        (
            "hostPath: {path: /var/log, type: Directory}",
            "emptyDir: {medium: HugePages-3Mi}",
            "50: spec.volumes[0].emptyDir.medium: \"HugePages-3Mi\" is not one of",
        ),
        (
            "hostPath: {path: /var/log, type: Directory}",
            "emptyDir: {sizeLimit: -1}",
            "50: spec.volumes[0].emptyDir.sizeLimit: must not be negative",
        ),
        (
            "readOnly: true",
            "mountPropagation: Both",
            "42: spec.containers[0].volumeMounts[0].mountPropagation: \"Both\" is not one of None, HostToContainer",
        ),
        (
            "readOnly: true",
            "mountPropagation: Bidirectional",
            "42: spec.containers[0].volumeMounts[0].mountPropagation: Bidirectional is for privileged containers only",
        ),
        (
            "readOnly: true",
            "recursiveReadOnly: Enabled",
            "42: spec.containers[0].volumeMounts[0].recursiveReadOnly: may be used only where readOnly is true",
        ),
        (
            "readOnly: true",
            "readOnly: true, recursiveReadOnly: IfPossible, mountPropagation: HostToContainer",
            "42: spec.containers[0].volumeMounts[0].recursiveReadOnly: may be used only where mountPropagation is None",
        ),
        (
            "  - name: log\n",
            "  - name: log\n    name: log\n",
            "50: spec.volumes[0].name: stands twice, first on line 49",
        ),
    ];
    for (from, to, wanted) in cases {
        let refused = refused(&with(from, to));
        let wanted = format!("f.yaml:{wanted}");
        assert!(refused.iter().any(|r| r.starts_with(&wanted)), "{from} -> {to}: {refused:#?}");
        assert!(refused.len() <= 2, "{from} -> {to}: one fault is told once: {refused:#?}");
    }
}

#[test]
fn a_port_of_the_ipv6_loopback_that_can_lead_to_no_pod_is_refused() {
    let text = |more: &str, ip: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  {more}\n  containers:\n  - name: main\n    image: \"a:1\"\n    \
             ports: [{{containerPort: 80, hostPort: 80, hostIP: \"{ip}\"}}]\n"
        )
    };
    let refused = refused(&text("", "0:0::1"));
    assert!(refused[0].contains("ports[0].hostIP: a port of ::1 leads to no pod"), "{refused:#?}");
    for (more, ip) in [("", "127.0.0.1"), ("", "::"), ("hostNetwork: true", "::1")] {
        pod(&text(more, ip));
    }
}

#[test]
fn sysctls_are_known_by_their_names_with_dots() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  securityContext:\n    sysctls:\n    \
                - {name: net/ipv4/ip_local_port_range, value: \"1024 65000\"}\n    \
                - {name: net.ipv4.ip_local_reserved_ports, value: \"8080,9148-9150\"}\n  \
                containers:\n  - {name: main, image: \"a:1\"}\n";
    let sysctls = pod(text).template.spec.sysctls.clone();
    let expected =
        [("net.ipv4.ip_local_port_range", "1024 65000"), ("net.ipv4.ip_local_reserved_ports", "8080,9148-9150")];
    assert_eq!(sysctls, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let with_host_ipc = text.replace("  containers:", "  hostIPC: true\n  containers:");
    assert_eq!(pod(&with_host_ipc).template.spec.sysctls.len(), 2);
    let of_ipc = with_host_ipc.replace("net/ipv4/ip_local_port_range", "kernel.shm_rmid_forced");
    assert!(refused(&of_ipc)[0].contains("cannot be set with hostIPC"));
    for name in ["net.ipv4.ip_forward", "net.ipv4/tcp_syncookies", "net.ipv4.TCP_SYNCOOKIES", "../kernel/x", ""] {
        let refused = refused(&text.replace("net/ipv4/ip_local_port_range", &format!("\"{name}\"")));
        assert!(refused[0].contains("is not among"), "{name}: {refused:#?}");
    }
    for value in ["1;2", "$(X)", "0x10", "1\\n2", " ", ""] {
        let refused = refused(&text.replace("1024 65000", value));
        assert!(refused[0].contains("is no value of it"), "{value:?}: {refused:#?}");
    }
}

#[test]
fn the_containers_apparmor_profile_wins_over_its_annotation_over_the_pods() {
    let check = |annotation: &str, of_pod: &str, own: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations: {{{annotation}}}\nspec:\n  \
             securityContext: {{{of_pod}}}\n  containers:\n  - {{name: main, image: a:1, securityContext: {{{own}}}}}\n"
        );
        pod(&text).template.spec.containers[0].security.apparmor.clone()
    };
    const UNCONFINED: &str = "appArmorProfile: {type: Unconfined}";
    const DEFAULT: &str = "appArmorProfile: {type: RuntimeDefault}";
    const BY_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/main: localhost/mine";
    let mine = Some(AppArmor::Localhost("mine".into()));
    assert_eq!(check("", "", ""), None);
    assert_eq!(check("", UNCONFINED, ""), Some(AppArmor::Unconfined));
    assert_eq!(check("", UNCONFINED, DEFAULT), Some(AppArmor::RuntimeDefault));
    assert_eq!(check(BY_ANNOTATION, UNCONFINED, ""), mine);
    assert_eq!(check(BY_ANNOTATION, "", "appArmorProfile: {type: Localhost, localhostProfile: mine}"), mine);
    let both = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations: {{{BY_ANNOTATION}}}\nspec:\n  containers:\n  \
         - {{name: main, image: a:1, securityContext: {{{DEFAULT}}}}}\n"
    );
    let refused = refused(&both);
    assert!(refused.len() == 1 && refused[0].contains("something else"), "{refused:#?}");
}

#[test]
fn daemon_set_rules() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "      app: random-refresher\n  template",
            "      app: other\n  template",
            "13: spec.template.metadata.labels: do not match spec.selector",
        ),
        ("    matchLabels:\n      app: random-refresher\n", "    {}\n", "8: spec.selector: must not be empty"),
        (
            "    spec:\n",
            "    spec:\n      restartPolicy: Never\n",
            "16: spec.template.spec.restartPolicy: must be Always",
        ),
        (
            "spec:\n",
            "spec:\n  updateStrategy: {type: Recreate}\n",
            "8: spec.updateStrategy.type: \"Recreate\" is not one of",
        ),
        (
            "spec:\n",
            "spec:\n  updateStrategy: {rollingUpdate: {maxUnavailable: 0}}\n",
            "8: spec.updateStrategy.rollingUpdate: maxUnavailable and maxSurge cannot both be 0",
        ),
        (
            "spec:\n",
            "spec:\n  updateStrategy: {rollingUpdate: {maxUnavailable: 101%}}\n",
            "8: spec.updateStrategy.rollingUpdate.maxUnavailable: must be 0 or more",
        ),
        ("apps/v1", "extensions/v1beta1", "3: apiVersion: must be apps/v1 for a DaemonSet"),
        ("hostPath:", "hostpath:", "37: spec.template.spec.volumes[0].hostpath: unknown field"),
    ];
    for (from, to, wanted) in cases {
        assert!(SEED_RANDOM.contains(from), "{from}");
        let refused = refused(&SEED_RANDOM.replacen(from, to, 1));
        assert!(refused.iter().any(|r| r.starts_with(&format!("f.yaml:{wanted}"))), "{from} -> {to}: {refused:#?}");
    }
    let expressions = "    matchExpressions:\n    - {key: app, operator: In, values: [x, random-refresher]}\n    - {key: other, operator: DoesNotExist}\n";
    pod(&SEED_RANDOM.replacen("    matchLabels:\n      app: random-refresher\n", expressions, 1));
}

#[test]
fn fields_without_effect_are_listed() {
    let text = with("hostPID: on", "schedulerName: mine\n  serviceAccountName: a\n  affinity: null");
    let parsed = of(&text.replace("  affinity:\n    node", "  affinity:\n    podAffinity: {}\n    node"));
    // `affinity` stands twice.
    assert!(!parsed.is_accepted());
    let parsed = of(&with(
        "hostPID: on",
        "schedulerName: mine\n  serviceAccountName: a\n  enableServiceLinks: false\n  initContainers: []\n  hostAliases: null",
    ));
    assert!(parsed.is_accepted(), "an empty list and null count as absent");
    let listed: Vec<_> = parsed.documents[0].no_effect.iter().map(|n| (n.line, n.path.as_str())).collect();
    assert_eq!(listed, [(10, "spec.schedulerName"), (11, "spec.serviceAccountName"), (12, "spec.enableServiceLinks")]);
    let status =
        format!("{FULL}status: {{phase: Running}}\n").replace("metadata:\n", "metadata:\n  creationTimestamp: null\n");
    assert_eq!(of(&status).documents[0].no_effect.len(), 1);
}

#[test]
fn documents_stand_or_fall_one_by_one() {
    let text = format!(
        "---\n---\n{FULL}---\n# nothing\n---\nkind: Pod\napiVersion: v1\n---\n{SEED_FLUENTD}---\nkind: Service\napiVersion: v1\nmetadata: {{name: s}}\n---\na: [\n"
    );
    let parsed = of(&text);
    let lines: Vec<_> = parsed.documents.iter().map(|d| (d.line, d.result.is_ok())).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines.iter().map(|l| l.1).collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!(lines[0].0, 3);
    assert!(matches!(&parsed.documents[3].result, Ok(Document::Accepted { kind, .. }) if kind == "Service"));
    let whole = parsed.whole.unwrap();
    assert!(whole.reason.contains("not YAML") && whole.line > lines[3].0, "{whole}");
}

#[test]
fn a_document_that_is_no_yaml_takes_none_of_those_behind_it_along() {
    let broken = "kind: Pod\n bad: [\n";
    let parsed = of(&format!("{FULL}---\n{broken}---\n{SEED_FLUENTD}--- # another\n{broken}---\n{SEED_FLUENTD}"));
    let lines: Vec<_> = parsed.documents.iter().map(|d| (d.line, d.result.is_ok())).collect();
    let (full, seed) = (lines_of(FULL), lines_of(SEED_FLUENTD));
    assert_eq!(lines.iter().map(|line| line.1).collect::<Vec<_>>(), [true, true, false, true]);
    assert_eq!(lines[1].0, full + 5, "{lines:?}");
    assert_eq!(lines[3].0, full + 5 + seed + 4, "{lines:?}");
    let whole = parsed.whole.unwrap();
    assert!(whole.reason.contains("not YAML") && (full + 2..full + 5).contains(&whole.line), "{whole}");
}

fn lines_of(text: &str) -> u32 {
    u32::try_from(text.lines().count()).unwrap()
}

#[test]
fn a_field_that_is_missing_for_a_slip_of_the_pen_is_told_once() {
    let slip = with("image: example.com/main:1", "imagee: example.com/main:1");
    assert_eq!(refused(&slip), ["f.yaml:27: spec.containers[0].imagee: unknown field: did you mean `image`?"]);
    // A field that is missing beside a slip that is about another one stays a fault of its own.
    let both = with("    image: example.com/main:1\n", "    imagePullPolicyy: Always\n");
    let told = refused(&both);
    assert!(
        told.len() == 2 && told[0].contains("image: is missing") && told[1].contains("imagePullPolicyy"),
        "{told:?}"
    );
    let name = "apiVersion: v1\nkind: Pod\nmetadata: {namee: a}\nspec: {containers: [{name: c, image: i}]}\n";
    assert_eq!(refused(name), ["f.yaml:3: metadata.namee: unknown field: did you mean `name`?"]);
}

#[test]
fn refused_document_keeps_its_identity() {
    let parsed = of(&with("hostPID: on", "nonsense: on"));
    let identity = parsed.documents[0].identity.as_ref().unwrap();
    assert_eq!(identity.to_string(), "Pod kube-system/full");
    assert_eq!(identity.workload(Source::Static).unwrap().to_string(), "pod/kube-system/full");
}

#[test]
fn lists_are_taken_apart() {
    let item = |name: &str, extra: &str| {
        format!("- metadata: {{name: {name}}}\n  spec: {{containers: [{{name: c, image: i{extra}}}]}}\n")
    };
    let text =
        format!("apiVersion: v1\nkind: PodList\nmetadata: {{}}\nitems:\n{}{}", item("a", ""), item("b", ", imag: x"));
    let parsed = of(&text);
    assert_eq!(parsed.documents.iter().map(|d| d.line).collect::<Vec<_>>(), [5, 7]);
    let Ok(Document::Workload(a)) = &parsed.documents[0].result else { panic!("{parsed:#?}") };
    assert_eq!(a.document.read()["kind"], "Pod", "a record stands alone");
    assert_eq!(refused(&text), ["f.yaml:8: items[1].spec.containers[0].imag: unknown field: did you mean `image`?"]);
    let empty = of("apiVersion: v1\nkind: List\nitems: []\n");
    assert!(empty.is_accepted() && empty.documents.is_empty());
    assert_eq!(refused("apiVersion: v1\nkind: List\n").len(), 1);
}

#[test]
fn json_is_read_with_its_lines() {
    let json = serde_json::to_string_pretty(&pod(FULL).document).unwrap();
    let again = parse("f.json", json.as_bytes(), &context());
    assert!(again.is_accepted());
    let broken = parse("f.json", json.replacen("\"kube-system\"", "\"kube-system\",,", 1).as_bytes(), &context());
    assert!(broken.whole.unwrap().to_string().starts_with("f.json:"));
    let two = parse("f.json", b"{\"kind\":\"Pod\"}\n{\"kind\":\n\"Pod\",\"kind\":1}", &context());
    let told: Vec<_> = two.rejections().map(ToString::to_string).collect();
    assert_eq!(told[0], "f.json:1: apiVersion: is missing: it is required");
    assert!(told.iter().any(|r| r.starts_with("f.json:3: kind: stands twice, first on line 2")), "{told:?}");
    let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","annotations":{"x":"\ud83d\ude00\/\u00e9\t"}},
        "spec":{"containers":[{"name":"c","image":"i"}]}}"#;
    assert_eq!(pod(text).template.annotations["x"], "😀/é\t");
    // YAML in braces is no JSON, and fine.
    pod("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: i}]}}");
}

#[test]
fn file_as_a_whole() {
    let cases: &[(&[u8], u32, &str)] = &[
        (b"", 1, "empty"),
        (b" \n\t\n", 1, "empty"),
        (b"# only a comment\n---\n", 1, "no document"),
        (b"a: b\n\0", 2, "binary"),
        (b"a: b\n\xff\xfe", 2, "not UTF-8"),
        (b"a: *b\n", 1, "not YAML"),
        (b"a: &a [*a]\n", 1, "alias"),
        (b"a: !!python/object x\n", 1, "tag"),
    ];
    for (bytes, line, reason) in cases {
        let whole = parse("f.yaml", bytes, &context()).whole.unwrap_or_else(|| panic!("{bytes:?}"));
        assert!(whole.line == *line && whole.reason.contains(reason), "{whole}");
    }
    let large = vec![b' '; MAX_FILE_BYTES + 1];
    assert!(parse("f", &large, &context()).whole.unwrap().reason.contains("more than"));
    assert!(of(&format!("\u{feff}{FULL}")).is_accepted(), "a byte order mark is passed over");
}

#[test]
fn budgets_hold() {
    let bomb = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
        let row = vec![format!("*a{}", i - 1); 10].join(",");
        format!("{text}a{i}: &a{i} [{row}]\n")
    });
    let long = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 20].join(","));
    let chain = (1..300).fold("a0: &a0 []\n".to_owned(), |text, i| format!("{text}a{i}: &a{i} [*a{}]\n", i - 1));
    let cases = [
        (bomb, "values once its aliases"),
        (long, "bytes of text"),
        (chain, "nested deeper"),
        ("[".repeat(100_000), "nested deeper"),
        (format!("a: {}", "[".repeat(200)), "nested deeper"),
        ("- ".repeat(100_000), "nested deeper"),
        ("a: 1\n---\n".repeat(MAX_DOCUMENTS + 1), "more than 1000 documents"),
    ];
    for (text, reason) in cases {
        let whole = of(&text).whole.unwrap_or_else(|| panic!("{reason}"));
        assert!(whole.reason.contains(reason), "{whole}");
    }
    let many = format!("{FULL}\n{}", (0..500).map(|i| format!("x{i}: 1\n")).collect::<String>());
    assert_eq!(refused(&many).len(), 101, "the rest is counted in the last line");
}

#[test]
fn merge_keys_and_anchors_are_written_out() {
    let text = FULL.replacen("  - name: main\n", "  - &base\n    name: main\n", 1).replacen(
        "  volumes:",
        "  - {<<: *base, name: second, ports: []}\n  volumes:",
        1,
    );
    let pod = pod(&text);
    let [first, second] = &pod.template.spec.containers[..] else { panic!() };
    assert_eq!((second.name.as_str(), &second.image, &second.mounts), ("second", &first.image, &first.mounts));
    assert_eq!(pod.document.read()["spec"]["containers"][1]["<<"], json!(null), "what is recorded stands alone");
}

#[test]
fn record_is_read_back_and_forgives_what_is_only_a_rule() {
    for text in [FULL, SEED_RANDOM, SEED_FLUENTD] {
        let pod = pod(text);
        let again = parse_recorded(&pod.document, &pod.origin, &context()).unwrap();
        assert_eq!(again, pod);
    }
    let taken = pod(FULL);
    let mut older = taken.document.read();
    older["spec"]["goneField"] = json!(1);
    older["spec"]["os"] = json!({"name": "plan9"});
    older["metadata"]["labels"]["-bad"] = json!("x");
    let again = parse_recorded(&older.clone().into(), &taken.origin, &context()).unwrap();
    assert_eq!(again.template.spec, taken.template.spec);
    older["spec"]["containers"][0]["name"] = json!("../../etc");
    assert!(
        parse_recorded(&older.clone().into(), &taken.origin, &context()).is_err(),
        "a path never comes out of a name"
    );
    assert!(parse_recorded(&json!(null).into(), &taken.origin, &context()).is_err());
}

#[test]
fn defaults_are_kubernetes() {
    let plain = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i, securityContext: {}}]}\n";
    let pod = pod(plain);
    assert_eq!(pod.workload.namespace, "default");
    assert_eq!(pod.template.spec.termination_grace.as_secs(), 30);
    assert_eq!(pod.template.spec.containers[0].pull_policy, PullPolicy::Always);
    assert_eq!(pod.template.spec.containers[0].security, Default::default());
}

proptest! {
    /// Whatever stands in a file: no panic, a line for every fault, and what is taken reads back as the same.
    #[test]
    fn mutated_files_are_judged(edits in proptest::collection::vec((0usize..4000, any::<u8>(), 0u8..4), 1..6), which in 0usize..4) {
        let json = serde_json::to_vec_pretty(&pod(FULL).document).unwrap();
        let mut bytes = [FULL.as_bytes(), SEED_RANDOM.as_bytes(), SEED_FLUENTD.as_bytes(), &json][which].to_vec();
        for (at, byte, how) in edits {
            let at = at % bytes.len().max(1);
            match how {
                0 if !bytes.is_empty() => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes.insert(at, b"\n :-[]{}&*!|>'\"%@`#,?~0<"[usize::from(byte) % 24]),
                _ if !bytes.is_empty() => { bytes.remove(at); }
                _ => {}
            }
        }
        let parsed = parse("f.yaml", &bytes, &context());
        prop_assert!(parsed.rejections().all(|r| r.line >= 1 && !r.reason.is_empty()));
        for document in &parsed.documents {
            if let Ok(Document::Workload(pod)) = &document.result {
                let again = parse_recorded(&pod.document, &pod.origin, &context());
                prop_assert_eq!(again.as_ref(), Ok(pod.as_ref()));
                let text = serde_json::to_vec(&pod.document).unwrap();
                let parsed = parse("f.json", &text, &context());
                let Ok(Document::Workload(same)) = &parsed.documents[0].result else { panic!("{parsed:#?}") };
                prop_assert_eq!(&same.template, &pod.template);
            }
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let parsed = parse("f.yaml", &bytes, &context());
        prop_assert!(parsed.rejections().all(|r| r.line >= 1));
    }

    #[test]
    fn any_text_of_yaml_marks_is_judged(text in "[-a0:,\\[\\]{}&*!|>'\"%@#? \n\t~<]{0,80}") {
        let parsed = of(&text);
        prop_assert!(parsed.rejections().all(|r| r.line >= 1));
    }
}

#[test]
fn values_of_documents_are_references_in_the_template() {
    use crate::content::ContentKind::{ConfigMap, Secret};
    let text = "apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
  - name: main
    image: i
    envFrom:
    - {prefix: P_, configMapRef: {name: m, optional: true}}
    - {secretRef: {name: s}}
    env:
    - {name: A, valueFrom: {configMapKeyRef: {name: m, key: a.conf}}}
    - {name: B, valueFrom: {secretKeyRef: {name: s, key: b, optional: true}}}
    - {name: C, valueFrom: {resourceFieldRef: {resource: limits.hugepages-2Mi, divisor: 1Mi}}}
";
    let pod = pod(text);
    let main = &pod.template.spec.containers[0];
    let from =
        |kind, name: &str, prefix: &str, optional| EnvFrom { kind, name: name.into(), prefix: prefix.into(), optional };
    assert_eq!(main.env_from, [from(ConfigMap, "m", "P_", true), from(Secret, "s", "", false)]);
    let of = |kind, name: &str, key: &str, optional| EnvValue::Content {
        kind,
        name: name.into(),
        key: key.into(),
        optional,
    };
    assert_eq!(main.env[0].value, of(ConfigMap, "m", "a.conf", false));
    assert_eq!(main.env[1].value, of(Secret, "s", "b", true));
    assert!(
        matches!(&main.env[2].value, EnvValue::Resource { resource: ContainerResource::LimitsHugePages(name), .. } if name == "hugepages-2Mi")
    );
    assert_eq!(crate::content::of_pod(&pod.template.spec, "default").len(), 2);
}

/// Manifests in the manner of the DaemonSets that people publish; the node suites use some of them.
const KNOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/daemonsets");

#[test]
fn daemon_sets_as_people_publish_them_are_taken() {
    let mut seen = 0;
    for entry in std::fs::read_dir(KNOWN).unwrap() {
        let path = entry.unwrap().path();
        let parsed = parse(&path.display().to_string(), &std::fs::read(&path).unwrap(), &context());
        assert!(parsed.is_accepted(), "{:#?}", parsed.rejections().map(ToString::to_string).collect::<Vec<_>>());
        let sets = parsed.documents.iter().filter(|d| matches!(d.result, Ok(Document::Workload(_))));
        assert_eq!(sets.count(), 1, "{}", path.display());
        // Nothing that a node could do is taken without being done.
        for NoEffect { path: field, .. } in parsed.documents.iter().flat_map(|document| &document.no_effect) {
            let known = ["maxUnavailable", "serviceAccountName", "automountServiceAccountToken"];
            assert!(known.iter().any(|name| field.ends_with(name)), "{}: {field}", path.display());
        }
        seen += 1;
    }
    assert_eq!(seen, 8);
}

fn object(text: &str) -> Parsed {
    parse_object("pod/default/a", text.as_bytes(), &Context { node_name: "n1".into() })
}

#[test]
fn pod_object_is_itself_whatever_its_spec_says() {
    let text = |uid: &str, image: &str, more: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a","generateName":"a-","namespace":"x","uid":"{uid}","managedFields":[]{more}}},
               "spec":{{"containers":[{{"name":"c","image":"{image}"}}]}},"status":{{"phase":"Pending"}}}}"#
        )
    };
    let read = |text: String| {
        let parsed = object(&text);
        let [document] = &parsed.documents[..] else { panic!("{parsed:?}") };
        match &document.result {
            Ok(Document::Workload(pod)) => (**pod).clone(),
            other => panic!("{other:?}"),
        }
    };
    let pod = read(text("0a-1b", "i", ""));
    assert_eq!(pod.workload.to_string(), "control/x/a");
    assert_eq!(pod.object, Some(Object { uid: Uid("0a-1b".into()), ends: None, finished: false, owner: None }.into()));
    assert_eq!(pod.revision, read(text("0a-1b", "j", "")).revision);
    assert_ne!(pod.revision, read(text("0a-1c", "i", "")).revision);
    let ending = r#","deletionTimestamp":"2026-01-01T00:00:00Z","deletionGracePeriodSeconds":5"#;
    assert_eq!(read(text("0a-1b", "i", ending)).object.unwrap().ends, Some(Duration::from_secs(5)));
    assert!(read(text("0a-1b", "i", "").replace("Pending", "Failed")).object.unwrap().finished);
    let recorded = parse_recorded(&pod.document, &pod.origin, &Context { node_name: "n1".into() }).unwrap();
    assert_eq!(recorded, pod, "its record is read back through the same path");
}

#[test]
fn what_is_no_pod_object_is_refused_by_name_and_uids_do_not_climb() {
    for uid in ["", "../x", "a/b", "A", "-a", "."] {
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a","uid":"{uid}"}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}"#
        );
        let parsed = object(&text);
        assert!(parsed.rejections().any(|it| it.path == "metadata.uid"), "{uid}: {parsed:?}");
        assert_eq!(parsed.documents[0].identity.as_ref().unwrap().name, "a");
    }
    for text in ["", "{", "[]", r#"{"kind":"List","items":[]}"#, r#"{"apiVersion":"apps/v1","kind":"DaemonSet"}"#] {
        assert!(!object(text).is_accepted(), "{text}");
    }
}
