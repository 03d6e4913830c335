//! The rows. Change a verdict here and `check`, the agent and the documentation follow. One line a row, so that the
//! file reads as the table that it is.

use super::Verdict::{Honoured, NoEffect, Only, Refused};
use super::{Field, Shape};
use crate::name::WorkloadKind;
use Shape::{
    Any, Boolean, Integer, IntegerOrText, Integers, Object, Objects, Quantity, QuantityMap, Text, TextMap, Texts,
};

/// The table of a kind, in parts: the path that goes before each row, and the rows.
pub(super) fn parts(kind: WorkloadKind) -> &'static [(&'static str, &'static [Field])] {
    match kind {
        WorkloadKind::Pod => &[("", OBJECT), ("metadata", NAMED), ("metadata", METADATA), ("spec", POD_SPEC)],
        WorkloadKind::DaemonSet => &[
            ("", OBJECT),
            ("metadata", NAMED),
            ("metadata", METADATA),
            ("spec", DAEMON_SET_SPEC),
            ("spec.template.metadata", UNNAMED),
            ("spec.template.metadata", METADATA),
            ("spec.template.spec", POD_SPEC),
        ],
    }
}

const fn row(path: &'static str, shape: Shape, verdict: super::Verdict) -> Field {
    Field { path, shape, verdict }
}

const CLUSTER: &str = "written by the cluster";
const SCHEDULER: &str = "no scheduler takes part: the pod is already on this node";
const NO_ACCOUNT: &str = "there is no API server to talk to, so no token is mounted";
const NO_VOLUME: &str = "not built yet: only hostPath volumes can be used";
const CLOUD_VOLUME: &str = "not supported: mount it on the host and use hostPath";
const NO_PROBE: &str = "not built yet: remove the probe";
const NO_NAME: &str = "not built yet: the host name is the pod's name, or the node's with hostNetwork";
const WINDOWS: &str = "for Windows nodes only";

/// Any object.
#[rustfmt::skip]
pub(super) const OBJECT: &[Field] = &[
    row("apiVersion", Text, Honoured("")),
    row("kind", Text, Honoured("")),
    row("metadata", Object, Honoured("")),
    row("spec", Object, Honoured("")),
    row("status", Any, NoEffect(CLUSTER)),
];

/// Metadata of a document.
#[rustfmt::skip]
pub(super) const NAMED: &[Field] = &[
    row("name", Text, Honoured("a static pod runs as `<name>-<node>`")),
    row("namespace", Text, Honoured("default: `default`")),
    row("generateName", Text, Refused("a document needs a name of its own: use metadata.name")),
];

/// Metadata of a template.
#[rustfmt::skip]
pub(super) const UNNAMED: &[Field] = &[
    row("name", Text, NoEffect("pods are named after the DaemonSet")),
    row("namespace", Text, NoEffect("pods live in the DaemonSet's namespace")),
    row("generateName", Text, NoEffect("pods are named after the DaemonSet")),
];

/// Metadata of both.
#[rustfmt::skip]
pub(super) const METADATA: &[Field] = &[
    row("labels", TextMap, Honoured("")),
    row("annotations", TextMap, Honoured("`daemonlet.dev/standby: \"true\"` keeps a created successor waiting")),
    row("uid", Any, NoEffect("every new pod gets a new uid")),
    row("resourceVersion", Any, NoEffect(CLUSTER)),
    row("generation", Any, NoEffect(CLUSTER)),
    row("creationTimestamp", Any, NoEffect(CLUSTER)),
    row("deletionTimestamp", Any, NoEffect("remove the document to end the pod")),
    row("deletionGracePeriodSeconds", Any, NoEffect("remove the document to end the pod")),
    row("finalizers", Any, NoEffect("nothing here waits for a finalizer")),
    row("managedFields", Any, NoEffect(CLUSTER)),
    row("ownerReferences", Any, NoEffect(CLUSTER)),
    row("selfLink", Any, NoEffect(CLUSTER)),
];

/// `spec` of apps/v1 DaemonSet.
#[rustfmt::skip]
pub(super) const DAEMON_SET_SPEC: &[Field] = &[
    row("selector", Object, Honoured("must match the template's labels")),
    row("selector.matchLabels", TextMap, Honoured("")),
    row("selector.matchExpressions", Objects, Honoured("")),
    row("selector.matchExpressions[].key", Text, Honoured("")),
    row("selector.matchExpressions[].operator", Text, Honoured("In, NotIn, Exists, DoesNotExist")),
    row("selector.matchExpressions[].values", Texts, Honoured("")),
    row("template", Object, Honoured("its `spec` as a Pod's; any change of the template makes a new pod")),
    row("template.metadata", Object, Honoured("")),
    row("template.spec", Object, Honoured("")),
    row("updateStrategy", Object, Honoured("")),
    row("updateStrategy.type", Text, Honoured("RollingUpdate (default) or OnDelete")),
    row("updateStrategy.rollingUpdate", Object, Honoured("")),
    row("updateStrategy.rollingUpdate.maxUnavailable", IntegerOrText, NoEffect("on one node there is one pod to replace")),
    row("updateStrategy.rollingUpdate.maxSurge", IntegerOrText, NoEffect("on one node the old pod ends before the new one starts")),
    row("minReadySeconds", Integer, NoEffect("on one node nothing waits for the pod to be available")),
    row("revisionHistoryLimit", Integer, NoEffect("no history of revisions is kept on a node")),
];

/// `spec` of v1 Pod.
#[rustfmt::skip]
pub(super) const POD_SPEC: &[Field] = &[
    row("containers", Objects, Honoured("at least one; started in this order")),
    row("containers[].name", Text, Honoured("")),
    row("containers[].image", Text, Honoured("")),
    row("containers[].imagePullPolicy", Text, Honoured("Always, IfNotPresent, Never; default: Always for the tag latest or none, else IfNotPresent")),
    row("containers[].command", Texts, Honoured("`$(VAR)` is expanded")),
    row("containers[].args", Texts, Honoured("`$(VAR)` is expanded")),
    row("containers[].workingDir", Text, Honoured("never below /proc")),
    row("containers[].env", Objects, Honoured("")),
    row("containers[].env[].name", Text, Honoured("")),
    row("containers[].env[].value", Text, Honoured("`$(VAR)` is expanded")),
    row("containers[].env[].valueFrom", Object, Honoured("")),
    row("containers[].env[].valueFrom.fieldRef", Object, Honoured("")),
    row("containers[].env[].valueFrom.fieldRef.apiVersion", Text, Honoured("v1")),
    row("containers[].env[].valueFrom.fieldRef.fieldPath", Text, Honoured("metadata.name, .namespace, .uid, .labels['k'], .annotations['k'], spec.nodeName, spec.serviceAccountName, status.hostIP, .hostIPs, .podIP, .podIPs")),
    row("containers[].env[].valueFrom.resourceFieldRef", Object, Honoured("")),
    row("containers[].env[].valueFrom.resourceFieldRef.containerName", Text, Honoured("")),
    row("containers[].env[].valueFrom.resourceFieldRef.resource", Text, Honoured("limits or requests of cpu, memory, ephemeral-storage")),
    row("containers[].env[].valueFrom.resourceFieldRef.divisor", Quantity, Honoured("")),
    row("containers[].env[].valueFrom.configMapKeyRef", Object, Refused("not built yet: write the value into the manifest")),
    row("containers[].env[].valueFrom.secretKeyRef", Object, Refused("not built yet: there are no Secrets on this node so far")),
    row("containers[].env[].valueFrom.fileKeyRef", Object, Refused("not built yet: write the value into the manifest")),
    row("containers[].envFrom", Objects, Refused("not built yet: list the variables in env")),
    row("containers[].ports", Objects, Honoured("")),
    row("containers[].ports[].name", Text, Honoured("")),
    row("containers[].ports[].containerPort", Integer, Honoured("for show: a container may listen where it likes")),
    row("containers[].ports[].protocol", Text, Honoured("TCP (default), UDP, SCTP")),
    row("containers[].ports[].hostPort", Integer, Honoured("only with hostNetwork, and equal to containerPort")),
    row("containers[].ports[].hostIP", Text, Only("", "not built yet: the port is open on every address of the node")),
    row("containers[].resources", Object, Honoured("")),
    row("containers[].resources.limits", QuantityMap, Honoured("cpu, memory; ephemeral-storage without effect. No container swaps on cgroup v2; on v1 none beyond its memory limit")),
    row("containers[].resources.requests", QuantityMap, Honoured("cpu, memory; default: the limits; ephemeral-storage without effect")),
    row("containers[].resources.claims", Objects, Refused("not supported: dynamic resource allocation needs a cluster")),
    row("containers[].resizePolicy", Objects, NoEffect("changed resources make a new pod")),
    row("containers[].volumeMounts", Objects, Honoured("")),
    row("containers[].volumeMounts[].name", Text, Honoured("")),
    row("containers[].volumeMounts[].mountPath", Text, Honoured("absolute")),
    row("containers[].volumeMounts[].readOnly", Boolean, Honoured("")),
    row("containers[].volumeMounts[].recursiveReadOnly", Text, Only("Disabled", "not built yet: use readOnly")),
    row("containers[].volumeMounts[].mountPropagation", Text, Only("None", "not built yet: mounts made later do not cross")),
    row("containers[].volumeMounts[].subPath", Text, Only("", "not built yet: mount the whole volume, or a hostPath of the sub-directory")),
    row("containers[].volumeMounts[].subPathExpr", Text, Only("", "not built yet: mount the whole volume, or a hostPath of the sub-directory")),
    row("containers[].volumeDevices", Objects, Refused("not supported: use a hostPath volume of the device")),
    row("containers[].securityContext", Object, Honoured("")),
    row("containers[].securityContext.privileged", Boolean, Honoured("")),
    row("containers[].securityContext.capabilities", Object, Honoured("")),
    row("containers[].securityContext.capabilities.add", Texts, Honoured("")),
    row("containers[].securityContext.capabilities.drop", Texts, Honoured("")),
    row("containers[].securityContext.runAsUser", Integer, Honoured("")),
    row("containers[].securityContext.runAsGroup", Integer, Honoured("")),
    row("containers[].securityContext.runAsNonRoot", Boolean, Honoured("")),
    row("containers[].securityContext.readOnlyRootFilesystem", Boolean, Honoured("")),
    row("containers[].securityContext.allowPrivilegeEscalation", Boolean, Honoured("")),
    row("containers[].securityContext.seccompProfile", Object, Honoured("default: RuntimeDefault unless privileged")),
    row("containers[].securityContext.seccompProfile.type", Text, Honoured("RuntimeDefault, Unconfined; Localhost is not built yet")),
    row("containers[].securityContext.seccompProfile.localhostProfile", Text, Refused("not built yet: use RuntimeDefault or Unconfined")),
    row("containers[].securityContext.procMount", Text, Only("Default", "not built yet: /proc is always masked unless privileged")),
    row("containers[].securityContext.appArmorProfile", Object, Honoured("default: RuntimeDefault unless privileged, where the node has AppArmor")),
    row("containers[].securityContext.appArmorProfile.type", Text, Honoured("RuntimeDefault, Localhost, Unconfined; the annotation `container.apparmor.security.beta.kubernetes.io/<container>` is honoured too")),
    row("containers[].securityContext.appArmorProfile.localhostProfile", Text, Honoured("a profile that is loaded on the node; without it the container is not made")),
    row("containers[].securityContext.seLinuxOptions", Object, Refused("not supported: no SELinux labels are set")),
    row("containers[].securityContext.windowsOptions", Object, Refused(WINDOWS)),
    row("containers[].stdin", Boolean, Only("false", "not built yet: nothing can attach to a container")),
    row("containers[].stdinOnce", Boolean, Only("false", "not built yet: nothing can attach to a container")),
    row("containers[].tty", Boolean, Only("false", "not built yet: containers have no terminal")),
    row("containers[].terminationMessagePath", Text, Only("/dev/termination-log", "not built yet: messages of ended containers are not read")),
    row("containers[].terminationMessagePolicy", Text, Only("File", "not built yet: messages of ended containers are not read")),
    row("containers[].livenessProbe", Object, Refused(NO_PROBE)),
    row("containers[].readinessProbe", Object, Refused(NO_PROBE)),
    row("containers[].startupProbe", Object, Refused(NO_PROBE)),
    row("containers[].lifecycle", Object, Refused("not built yet: no hooks are run")),
    row("containers[].restartPolicy", Text, Refused("not built yet: the pod's restartPolicy counts")),
    row("containers[].restartPolicyRules", Objects, Refused("not built yet: the pod's restartPolicy counts")),
    row("initContainers", Objects, Refused("not built yet: only containers are run")),
    row("ephemeralContainers", Objects, Refused("a document cannot ask for ephemeral containers")),
    row("volumes", Objects, Honoured("")),
    row("volumes[].name", Text, Honoured("")),
    row("volumes[].hostPath", Object, Honoured("")),
    row("volumes[].hostPath.path", Text, Honoured("absolute, without `..`")),
    row("volumes[].hostPath.type", Text, Honoured("all types; a device may be used where it lies in /dev, or the type is CharDevice or BlockDevice")),
    row("volumes[].emptyDir", Object, Refused(NO_VOLUME)),
    row("volumes[].configMap", Object, Refused(NO_VOLUME)),
    row("volumes[].secret", Object, Refused(NO_VOLUME)),
    row("volumes[].downwardAPI", Object, Refused(NO_VOLUME)),
    row("volumes[].projected", Object, Refused(NO_VOLUME)),
    row("volumes[].image", Object, Refused(NO_VOLUME)),
    row("volumes[].gitRepo", Object, Refused("not supported, because it runs git as root: CVE-2024-10220")),
    row("volumes[].nfs", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].iscsi", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].fc", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].csi", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].ephemeral", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].persistentVolumeClaim", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].flexVolume", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].awsElasticBlockStore", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].azureDisk", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].azureFile", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].cephfs", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].cinder", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].flocker", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].gcePersistentDisk", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].glusterfs", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].photonPersistentDisk", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].portworxVolume", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].quobyte", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].rbd", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].scaleIO", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].storageos", Object, Refused(CLOUD_VOLUME)),
    row("volumes[].vsphereVolume", Object, Refused(CLOUD_VOLUME)),
    row("restartPolicy", Text, Honoured("Always (default), OnFailure, Never; Always in a DaemonSet")),
    row("terminationGracePeriodSeconds", Integer, Honoured("default 30")),
    row("activeDeadlineSeconds", Integer, Refused("not built yet: a pod has no deadline")),
    row("hostNetwork", Boolean, Honoured("")),
    row("hostPID", Boolean, Honoured("")),
    row("hostIPC", Boolean, Honoured("")),
    row("hostUsers", Boolean, Only("true", "not built yet: containers share the node's user namespace")),
    row("shareProcessNamespace", Boolean, Only("false", "not built yet: every container has its own process namespace, or the node's with hostPID")),
    row("securityContext", Object, Honoured("")),
    row("securityContext.runAsUser", Integer, Honoured("")),
    row("securityContext.runAsGroup", Integer, Honoured("")),
    row("securityContext.runAsNonRoot", Boolean, Honoured("")),
    row("securityContext.supplementalGroups", Integers, Honoured("")),
    row("securityContext.supplementalGroupsPolicy", Text, Only("Merge", "not built yet: groups of the image's /etc/group are added")),
    row("securityContext.seccompProfile", Object, Honoured("")),
    row("securityContext.seccompProfile.type", Text, Honoured("RuntimeDefault, Unconfined; Localhost is not built yet")),
    row("securityContext.seccompProfile.localhostProfile", Text, Refused("not built yet: use RuntimeDefault or Unconfined")),
    row("securityContext.fsGroup", Integer, Refused("not built yet: use supplementalGroups")),
    row("securityContext.fsGroupChangePolicy", Text, Refused("not built yet: there is no fsGroup")),
    row("securityContext.sysctls", Objects, Refused("not built yet: set them on the node")),
    row("securityContext.appArmorProfile", Object, Honoured("")),
    row("securityContext.appArmorProfile.type", Text, Honoured("RuntimeDefault, Localhost, Unconfined")),
    row("securityContext.appArmorProfile.localhostProfile", Text, Honoured("")),
    row("securityContext.seLinuxOptions", Object, Refused("not supported: no SELinux labels are set")),
    row("securityContext.seLinuxChangePolicy", Text, Refused("not supported: no SELinux labels are set")),
    row("securityContext.windowsOptions", Object, Refused(WINDOWS)),
    row("nodeName", Text, Honoured("a pod for another node is not run here")),
    row("nodeSelector", TextMap, Honoured("")),
    row("affinity", Object, Honoured("")),
    row("affinity.nodeAffinity", Object, Honoured("")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution", Object, Honoured("")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms", Objects, Honoured("any one must match")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions", Objects, Honoured("over the node's labels")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].key", Text, Honoured("")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].operator", Text, Honoured("In, NotIn, Exists, DoesNotExist, Gt, Lt")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].values", Texts, Honoured("")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields", Objects, Honoured("")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].key", Text, Honoured("metadata.name")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].operator", Text, Honoured("In, NotIn")),
    row("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].values", Texts, Honoured("one value")),
    row("affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution", Objects, NoEffect(SCHEDULER)),
    row("affinity.podAffinity", Object, NoEffect(SCHEDULER)),
    row("affinity.podAntiAffinity", Object, NoEffect(SCHEDULER)),
    row("tolerations", Objects, Honoured("")),
    row("tolerations[].key", Text, Honoured("")),
    row("tolerations[].operator", Text, Honoured("Equal (default), Exists")),
    row("tolerations[].value", Text, Honoured("")),
    row("tolerations[].effect", Text, Honoured("NoSchedule, PreferNoSchedule, NoExecute; default: all")),
    row("tolerations[].tolerationSeconds", Integer, NoEffect("what is tolerated is tolerated without end")),
    row("topologySpreadConstraints", Objects, NoEffect(SCHEDULER)),
    row("schedulerName", Text, NoEffect(SCHEDULER)),
    row("schedulingGates", Objects, Refused("not supported: nothing here would open the gate")),
    row("schedulingGroup", Object, NoEffect(SCHEDULER)),
    row("priority", Integer, Honoured("orders starts, and admission beyond the maximum number of pods")),
    row("priorityClassName", Text, Honoured("system-node-critical and system-cluster-critical have their values; others count as `priority` says, else 0")),
    row("preemptionPolicy", Text, NoEffect(SCHEDULER)),
    row("dnsPolicy", Text, Honoured("ClusterFirst, ClusterFirstWithHostNet, Default: all give the node's resolv.conf; None is not built yet")),
    row("dnsConfig", Object, Refused("not built yet: containers get the node's resolv.conf")),
    row("hostAliases", Objects, Refused("not built yet: /etc/hosts holds the pod's own name")),
    row("hostname", Text, Refused(NO_NAME)),
    row("hostnameOverride", Text, Refused(NO_NAME)),
    row("subdomain", Text, Refused(NO_NAME)),
    row("setHostnameAsFQDN", Boolean, Only("false", NO_NAME)),
    row("enableServiceLinks", Boolean, NoEffect("there are no Services on this node")),
    row("serviceAccountName", Text, NoEffect(NO_ACCOUNT)),
    row("serviceAccount", Text, NoEffect(NO_ACCOUNT)),
    row("automountServiceAccountToken", Boolean, NoEffect(NO_ACCOUNT)),
    row("imagePullSecrets", Objects, Honoured("Secret documents of the manifest directory, in the pod's namespace, of the types kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg")),
    row("imagePullSecrets[].name", Text, Honoured("")),
    row("readinessGates", Objects, Refused("not supported: nothing here would open the gate")),
    row("runtimeClassName", Text, Honoured("a runtime class of the agent's configuration (`runtime-class`); a pod with another one waits and says which there are")),
    row("overhead", QuantityMap, Refused("not supported: it belongs to a runtime class")),
    row("os", Object, Honoured("")),
    row("os.name", Text, Only("linux", "this node runs Linux")),
    row("resources", Object, Refused("not built yet: give each container its own resources")),
    row("resourceClaims", Objects, Refused("not supported: dynamic resource allocation needs a cluster")),
];
