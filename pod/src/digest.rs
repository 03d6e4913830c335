//! What makes two pods the same running thing: a revision is a short hash over all that counts.
//!
//! Every struct is taken apart field by field, so that a new field does not compile until somebody has decided. What
//! counts: of a Pod document the spec, for labels and annotations do not touch what runs; not even
//! [`STANDBY_ANNOTATION`](crate::spec::STANDBY_ANNOTATION), because `plan` makes or removes the standing successor of
//! a running pod at any time. Of a DaemonSet the whole template as it is written, fields without effect here included: that
//! is Kubernetes' rule, and how `kubectl rollout restart` works.
//!
//! A version that hashes differently must not restart what runs: `plan` compares a pod by hashing its template again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::content::ContentKind;
use crate::name::WorkloadKind;
use crate::spec::{
    AppArmor, CONFIG_DIGEST_ANNOTATION, Container, ContainerPort, ContainerResource, DnsConfig, DnsOption, DnsPolicy,
    DownwardField, DownwardFile, DownwardValue, EmptyDir, EnvFrom, EnvValue, EnvVar, GroupsPolicy, Handler, Hooks,
    HostAlias, HostPathKind, HttpGet, ImageVolume, KeyToPath, LastWords, Medium, Naming, NodeSelectorTerm, Operator,
    Placement, PodField, PodSpec, PodTemplate, PortReference, Probe, Probes, Projected, Projection, Propagation,
    PullPolicy, Quantity, RecursiveReadOnly, Requirement, ResizePolicy, Resources, RestartPolicy, Role, Scheme,
    SeLinux, Seccomp, Security, SubPath, TaintEffect, Toleration, Volume, VolumeMount, VolumeSource,
};

/// Feeds several values, in this order.
macro_rules! feed_all {
    ($sum:expr, $($field:expr),+ $(,)?) => {{ $( $field.feed(&mut $sum); )+ }};
}

/// No vowels and nothing that looks like something else (Kubernetes' alphabet for generated names).
pub const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// 27^10 values: a chance of one in two hundred million million that an edit goes unnoticed. Fits into a label and a name.
const LETTERS: usize = 10;

/// The revision of a document of this kind, from which this template was read: ten letters of [`ALPHABET`]. A pod object is the
/// same pod as long as its uid is the same, whatever else it says.
pub fn revision(kind: WorkloadKind, template: &PodTemplate, document: &Value) -> String {
    match (kind, document.pointer("/spec/template")) {
        (WorkloadKind::DaemonSet, Some(written)) => {
            let mut sum = Sum(Sha256::new());
            written.feed(&mut sum);
            letters(&sum.0.finalize(), LETTERS)
        }
        (WorkloadKind::Control, _) => {
            let mut sum = Sum(Sha256::new());
            document.pointer("/metadata/uid").unwrap_or(&Value::Null).feed(&mut sum);
            letters(&sum.0.finalize(), LETTERS)
        }
        (WorkloadKind::Pod, _) | (WorkloadKind::DaemonSet, None) => of_template(kind, template),
    }
}

/// The revision as of what is read of the template: a Pod document's, and what records of DaemonSets' pods hold that were
/// written before fields without effect counted.
pub fn of_template(kind: WorkloadKind, template: &PodTemplate) -> String {
    let PodTemplate { labels, annotations, spec } = template;
    let mut sum = Sum(Sha256::new());
    match kind {
        WorkloadKind::Pod | WorkloadKind::Control => {
            spec.feed(&mut sum);
            if template.restarts_on_config_change() {
                annotations.get(CONFIG_DIGEST_ANNOTATION).feed(&mut sum);
            }
        }
        WorkloadKind::DaemonSet => feed_all!(sum, labels, annotations, spec),
    }
    letters(&sum.0.finalize(), LETTERS)
}

/// `count` letters out of a hash or of random bytes; at most as many as there are bytes.
pub fn letters(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect()
}

/// The hash in the making. Every value is written with its length or a tag, so that no two values meet.
struct Sum(Sha256);

impl Sum {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(bytes);
    }

    fn tag(&mut self, tag: &str) {
        self.bytes(tag.as_bytes());
    }
}

/// Something that counts.
trait Feed {
    fn feed(&self, sum: &mut Sum);
}

/// A document as it is written. null says no more than a field that is not there.
impl Feed for Value {
    fn feed(&self, sum: &mut Sum) {
        match self {
            Value::Null => sum.tag("null"),
            Value::Bool(value) => sum.tag(if *value { "true" } else { "false" }),
            Value::Number(number) => {
                sum.tag("number");
                sum.tag(&number.to_string());
            }
            Value::String(text) => {
                sum.tag("text");
                sum.tag(text);
            }
            Value::Array(items) => {
                sum.tag("list");
                sum.tag(&items.len().to_string());
                items.iter().for_each(|item| item.feed(sum));
            }
            Value::Object(fields) => {
                let written = || fields.iter().filter(|(_, value)| !value.is_null());
                sum.tag("fields");
                sum.tag(&written().count().to_string());
                for (name, value) in written() {
                    sum.tag(name);
                    value.feed(sum);
                }
            }
        }
    }
}

impl Feed for PodSpec {
    fn feed(&self, sum: &mut Sum) {
        let PodSpec {
            containers,
            volumes,
            restart_policy,
            termination_grace,
            active_deadline,
            host_network,
            host_pid,
            host_ipc,
            own_users,
            share_processes,
            sysctls,
            priority,
            priority_class,
            runtime_class,
            placement,
            naming,
            image_pull_secrets,
            resources,
        } = self;
        feed_all!(*sum, containers, volumes, restart_policy, termination_grace, host_network, host_pid, host_ipc);
        feed_all!(*sum, priority, priority_class, placement, naming);
        // Revisions of pods without these are as they were before these were known.
        if !image_pull_secrets.is_empty() {
            feed_all!(*sum, image_pull_secrets);
        }
        if runtime_class.is_some() {
            feed_all!(*sum, runtime_class);
        }
        if *own_users {
            sum.tag("own users");
        }
        if *share_processes {
            sum.tag("share processes");
        }
        if !sysctls.is_empty() {
            sum.tag("sysctls");
            sysctls.feed(sum);
        }
        if active_deadline.is_some() {
            sum.tag("active deadline");
            feed_all!(*sum, active_deadline);
        }
        if let Some(resources) = resources {
            sum.tag("resources of the pod");
            resources.feed(sum);
        }
    }
}

impl Feed for Naming {
    fn feed(&self, sum: &mut Sum) {
        let Naming { hostname, subdomain, fqdn_as_hostname, hostname_override, dns_policy, dns, host_aliases } = self;
        feed_all!(*sum, hostname, subdomain, fqdn_as_hostname, dns_policy, dns, host_aliases);
        if hostname_override.is_some() {
            sum.tag("hostname override");
            feed_all!(*sum, hostname_override);
        }
    }
}

impl Feed for DnsConfig {
    fn feed(&self, sum: &mut Sum) {
        let DnsConfig { nameservers, searches, options } = self;
        feed_all!(*sum, nameservers, searches, options);
    }
}

impl Feed for DnsOption {
    fn feed(&self, sum: &mut Sum) {
        let DnsOption { name, value } = self;
        feed_all!(*sum, name, value);
    }
}

impl Feed for HostAlias {
    fn feed(&self, sum: &mut Sum) {
        let HostAlias { ip, hostnames } = self;
        feed_all!(*sum, ip, hostnames);
    }
}

impl Feed for IpAddr {
    fn feed(&self, sum: &mut Sum) {
        sum.tag(&self.to_string());
    }
}

impl Feed for Placement {
    fn feed(&self, sum: &mut Sum) {
        let Placement { node_name, node_selector, required_terms, tolerations } = self;
        feed_all!(*sum, node_name, node_selector, required_terms, tolerations);
    }
}

impl Feed for NodeSelectorTerm {
    fn feed(&self, sum: &mut Sum) {
        let NodeSelectorTerm { labels, fields } = self;
        feed_all!(*sum, labels, fields);
    }
}

impl Feed for Requirement {
    fn feed(&self, sum: &mut Sum) {
        let Requirement { key, operator, values } = self;
        feed_all!(*sum, key, operator, values);
    }
}

impl Feed for Toleration {
    fn feed(&self, sum: &mut Sum) {
        let Toleration { key, exists, value, effect } = self;
        feed_all!(*sum, key, exists, value, effect);
    }
}

impl Feed for Container {
    fn feed(&self, sum: &mut Sum) {
        let Container {
            name,
            image,
            pull_policy,
            command,
            args,
            working_dir,
            env,
            env_from,
            resources,
            resize_policy,
            mounts,
            security,
            ports,
            stdin,
            tty,
            role,
            probes,
            hooks,
            last_words,
        } = self;
        feed_all!(*sum, name, image, pull_policy, command, args, working_dir, env, resources, mounts, security);
        feed_all!(*sum, ports, stdin, tty);
        if !env_from.is_empty() {
            feed_all!(*sum, env_from);
        }
        // Revisions of containers without these are as they were before these were known.
        if *role != Role::default() {
            feed_all!(*sum, role);
        }
        if *resize_policy != ResizePolicy::default() {
            let ResizePolicy { cpu_restarts, memory_restarts } = resize_policy;
            sum.tag("resize policy");
            feed_all!(*sum, cpu_restarts, memory_restarts);
        }
        if *probes != Probes::default() {
            feed_all!(*sum, probes);
        }
        if *hooks != Hooks::default() {
            feed_all!(*sum, hooks);
        }
        if *last_words != LastWords::default() {
            feed_all!(*sum, last_words);
        }
    }
}

impl Feed for Probes {
    fn feed(&self, sum: &mut Sum) {
        let Probes { startup, liveness, readiness } = self;
        sum.tag("probes");
        feed_all!(*sum, startup, liveness, readiness);
    }
}

impl Feed for Probe {
    fn feed(&self, sum: &mut Sum) {
        let Probe { handler, initial_delay, period, timeout, success_threshold, failure_threshold, grace } = self;
        feed_all!(*sum, handler, initial_delay, period, timeout, success_threshold, failure_threshold, grace);
    }
}

impl Feed for Handler {
    fn feed(&self, sum: &mut Sum) {
        match self {
            Handler::Exec(command) => {
                sum.tag("exec");
                command.feed(sum);
            }
            Handler::HttpGet(HttpGet { path, port, host, scheme, headers }) => {
                sum.tag("httpGet");
                feed_all!(*sum, path, port, host, scheme);
                for (name, value) in headers {
                    sum.tag("header");
                    feed_all!(*sum, name, value);
                }
            }
            Handler::TcpSocket { host, port } => {
                sum.tag("tcpSocket");
                feed_all!(*sum, host, port);
            }
            Handler::Grpc { port, service } => {
                sum.tag("grpc");
                feed_all!(*sum, port, service);
            }
            Handler::Sleep(time) => {
                sum.tag("sleep");
                time.feed(sum);
            }
        }
    }
}

impl Feed for PortReference {
    fn feed(&self, sum: &mut Sum) {
        match self {
            PortReference::Number(number) => {
                sum.tag("number");
                number.feed(sum);
            }
            PortReference::Name(name) => {
                sum.tag("name");
                name.feed(sum);
            }
        }
    }
}

impl Feed for Hooks {
    fn feed(&self, sum: &mut Sum) {
        let Hooks { post_start, pre_stop, stop_signal } = self;
        sum.tag("hooks");
        feed_all!(*sum, post_start, pre_stop, stop_signal);
    }
}

impl Feed for LastWords {
    fn feed(&self, sum: &mut Sum) {
        let LastWords { path, or_log } = self;
        sum.tag("last words");
        feed_all!(*sum, path, or_log);
    }
}

impl Feed for EnvVar {
    fn feed(&self, sum: &mut Sum) {
        let EnvVar { name, value } = self;
        feed_all!(*sum, name, value);
    }
}

impl Feed for EnvValue {
    fn feed(&self, sum: &mut Sum) {
        match self {
            EnvValue::Literal(value) => {
                sum.tag("literal");
                value.feed(sum);
            }
            EnvValue::Field(field) => {
                sum.tag("field");
                field.feed(sum);
            }
            EnvValue::Resource { container, resource, divisor } => {
                sum.tag("resource");
                feed_all!(*sum, container, resource, divisor);
            }
            EnvValue::Content { kind, name, key, optional } => {
                sum.tag("content");
                feed_all!(*sum, kind, name, key, optional);
            }
            EnvValue::File { volume, path, key, optional } => {
                sum.tag("file");
                feed_all!(*sum, volume, path, key, optional);
            }
            EnvValue::Known(value) => {
                sum.tag("known");
                sum.bytes(value.reveal());
            }
        }
    }
}

impl Feed for EnvFrom {
    fn feed(&self, sum: &mut Sum) {
        let EnvFrom { kind, name, prefix, optional } = self;
        sum.tag("env from");
        feed_all!(*sum, kind, name, prefix, optional);
    }
}

impl Feed for PodField {
    fn feed(&self, sum: &mut Sum) {
        match self {
            PodField::Name => sum.tag("name"),
            PodField::Namespace => sum.tag("namespace"),
            PodField::Uid => sum.tag("uid"),
            PodField::Label(key) => {
                sum.tag("label");
                key.feed(sum);
            }
            PodField::Annotation(key) => {
                sum.tag("annotation");
                key.feed(sum);
            }
            PodField::NodeName => sum.tag("node name"),
            PodField::ServiceAccountName => sum.tag("service account"),
            PodField::HostIp => sum.tag("host ip"),
            PodField::HostIps => sum.tag("host ips"),
            PodField::PodIp => sum.tag("pod ip"),
            PodField::PodIps => sum.tag("pod ips"),
        }
    }
}

impl Feed for Quantity {
    fn feed(&self, sum: &mut Sum) {
        let Quantity { milli } = self;
        sum.bytes(&milli.to_le_bytes());
    }
}

impl Feed for Resources {
    fn feed(&self, sum: &mut Sum) {
        // Huge pages are among the limits, and what is of the pod is fed with the pod.
        let Resources {
            cpu_request_milli,
            cpu_limit_milli,
            memory_request,
            memory_limit,
            limits,
            requests,
            huge_pages: _,
            within: _,
        } = self;
        feed_all!(*sum, cpu_request_milli, cpu_limit_milli, memory_request, memory_limit, limits, requests);
    }
}

impl Feed for Security {
    fn feed(&self, sum: &mut Sum) {
        let Security {
            privileged,
            run_as_user,
            run_as_group,
            run_as_non_root,
            read_only_root,
            allow_privilege_escalation,
            capabilities_add,
            capabilities_drop,
            supplemental_groups,
            groups_policy,
            seccomp,
            apparmor,
            selinux,
            unmasked_proc,
        } = self;
        feed_all!(*sum, privileged, run_as_user, run_as_group, run_as_non_root, read_only_root);
        feed_all!(*sum, allow_privilege_escalation, capabilities_add, capabilities_drop);
        feed_all!(*sum, supplemental_groups, seccomp, apparmor);
        // Revisions of containers without these are as they were before these were known.
        if *groups_policy != GroupsPolicy::default() {
            feed_all!(*sum, groups_policy);
        }
        if let Some(SeLinux { user, role, kind, level }) = selinux {
            sum.tag("selinux");
            feed_all!(*sum, user, role, kind, level);
        }
        if *unmasked_proc {
            sum.tag("unmasked proc");
        }
    }
}

impl Feed for Seccomp {
    fn feed(&self, sum: &mut Sum) {
        match self {
            Seccomp::RuntimeDefault => sum.tag("default"),
            Seccomp::Unconfined => sum.tag("unconfined"),
            Seccomp::Localhost(profile) => {
                sum.tag("localhost");
                feed_all!(*sum, profile);
            }
        }
    }
}

impl Feed for AppArmor {
    fn feed(&self, sum: &mut Sum) {
        match self {
            AppArmor::RuntimeDefault => sum.tag("default"),
            AppArmor::Unconfined => sum.tag("unconfined"),
            AppArmor::Localhost(profile) => {
                sum.tag("localhost");
                feed_all!(*sum, profile);
            }
        }
    }
}

impl Feed for ContainerPort {
    fn feed(&self, sum: &mut Sum) {
        let ContainerPort { name, port, protocol, host_port, host_ip } = self;
        feed_all!(*sum, name, port, protocol, host_port, host_ip);
    }
}

impl Feed for VolumeMount {
    fn feed(&self, sum: &mut Sum) {
        let VolumeMount { volume, mount_path, read_only, propagation, recursive_read_only, sub_path } = self;
        feed_all!(*sum, volume, mount_path, read_only);
        // Revisions of mounts without these are as they were before these were known.
        if *propagation != Propagation::default() {
            feed_all!(*sum, propagation);
        }
        if *recursive_read_only != RecursiveReadOnly::default() {
            feed_all!(*sum, recursive_read_only);
        }
        if sub_path.is_some() {
            feed_all!(*sum, sub_path);
        }
    }
}

impl Feed for Volume {
    fn feed(&self, sum: &mut Sum) {
        let Volume { name, source } = self;
        feed_all!(*sum, name, source);
    }
}

impl Feed for VolumeSource {
    fn feed(&self, sum: &mut Sum) {
        match self {
            VolumeSource::HostPath { path, kind } => {
                sum.tag("host path");
                feed_all!(*sum, path, kind);
            }
            VolumeSource::EmptyDir(EmptyDir { medium, size_limit, group }) => {
                sum.tag("empty dir");
                feed_all!(*sum, medium, size_limit);
                if group.is_some() {
                    feed_all!(*sum, group);
                }
            }
            VolumeSource::Image(ImageVolume { reference, pull_policy }) => {
                sum.tag("image");
                feed_all!(*sum, reference, pull_policy);
            }
            VolumeSource::Projected(Projected { sources, default_mode, group }) => {
                sum.tag("projected");
                feed_all!(*sum, sources, default_mode, group);
            }
        }
    }
}

impl Feed for Projection {
    fn feed(&self, sum: &mut Sum) {
        match self {
            Projection::Content { kind, name, items, optional } => {
                sum.tag("content");
                feed_all!(*sum, kind, name, items, optional);
            }
            Projection::Downward(items) => {
                sum.tag("downward");
                items.feed(sum);
            }
            Projection::Token { path, audience, expiration_seconds } => {
                sum.tag("token");
                feed_all!(*sum, path, audience, expiration_seconds);
            }
        }
    }
}

impl Feed for KeyToPath {
    fn feed(&self, sum: &mut Sum) {
        let KeyToPath { key, path, mode } = self;
        feed_all!(*sum, key, path, mode);
    }
}

impl Feed for DownwardFile {
    fn feed(&self, sum: &mut Sum) {
        let DownwardFile { path, mode, value } = self;
        feed_all!(*sum, path, mode, value);
    }
}

impl Feed for DownwardValue {
    fn feed(&self, sum: &mut Sum) {
        match self {
            DownwardValue::Field(field) => {
                sum.tag("field");
                field.feed(sum);
            }
            DownwardValue::Resource { container, resource, divisor } => {
                sum.tag("resource");
                feed_all!(*sum, container, resource, divisor);
            }
        }
    }
}

impl Feed for DownwardField {
    fn feed(&self, sum: &mut Sum) {
        match self {
            DownwardField::Name => sum.tag("name"),
            DownwardField::Namespace => sum.tag("namespace"),
            DownwardField::Uid => sum.tag("uid"),
            DownwardField::Labels => sum.tag("labels"),
            DownwardField::Annotations => sum.tag("annotations"),
            DownwardField::Label(key) => {
                sum.tag("label");
                key.feed(sum);
            }
            DownwardField::Annotation(key) => {
                sum.tag("annotation");
                key.feed(sum);
            }
        }
    }
}

impl Feed for SubPath {
    fn feed(&self, sum: &mut Sum) {
        match self {
            SubPath::Literal(path) => {
                sum.tag("sub path");
                path.feed(sum);
            }
            SubPath::Expression(path) => {
                sum.tag("sub path expression");
                path.feed(sum);
            }
        }
    }
}

impl Feed for Medium {
    fn feed(&self, sum: &mut Sum) {
        match self {
            Medium::Disk => sum.tag("disk"),
            Medium::Memory => sum.tag("memory"),
            Medium::HugePages(size) => {
                sum.tag("huge pages");
                size.feed(sum);
            }
        }
    }
}

impl Feed for ContainerResource {
    fn feed(&self, sum: &mut Sum) {
        match self {
            ContainerResource::LimitsCpu => sum.tag("limits.cpu"),
            ContainerResource::LimitsMemory => sum.tag("limits.memory"),
            ContainerResource::LimitsEphemeralStorage => sum.tag("limits.ephemeral-storage"),
            ContainerResource::RequestsCpu => sum.tag("requests.cpu"),
            ContainerResource::RequestsMemory => sum.tag("requests.memory"),
            ContainerResource::RequestsEphemeralStorage => sum.tag("requests.ephemeral-storage"),
            ContainerResource::LimitsHugePages(name) => {
                sum.tag("limits");
                name.feed(sum);
            }
            ContainerResource::RequestsHugePages(name) => {
                sum.tag("requests");
                name.feed(sum);
            }
        }
    }
}

/// Enums without data: each variant has a word that never changes.
macro_rules! feed_words {
    ($($name:ident { $($variant:ident => $word:literal),+ $(,)? })+) => {$(
        impl Feed for $name {
            fn feed(&self, sum: &mut Sum) {
                sum.tag(match self { $($name::$variant => $word),+ });
            }
        }
    )+};
}

feed_words! {
    ContentKind { ConfigMap => "config map", Secret => "secret" }
    RestartPolicy { Always => "always", OnFailure => "on failure", Never => "never" }
    DnsPolicy {
        ClusterFirst => "cluster first",
        ClusterFirstWithHostNet => "cluster first with host net",
        Default => "default",
        None => "none",
    }
    Operator { In => "in", NotIn => "not in", Exists => "exists", DoesNotExist => "absent", Gt => "gt", Lt => "lt" }
    TaintEffect { NoSchedule => "no schedule", PreferNoSchedule => "prefer", NoExecute => "no execute" }
    PullPolicy { Always => "always", IfNotPresent => "if not present", Never => "never" }
    Role { Init => "init", Sidecar => "sidecar", Main => "main" }
    Scheme { Http => "http", Https => "https" }
    GroupsPolicy { Merge => "groups merged", Strict => "groups strict" }
    Propagation {
        None => "propagation none",
        HostToContainer => "host to container",
        Bidirectional => "bidirectional",
    }
    RecursiveReadOnly {
        Disabled => "recursive read only disabled",
        IfPossible => "recursive read only if possible",
        Enabled => "recursive read only",
    }
    HostPathKind {
        Unset => "unset",
        DirectoryOrCreate => "directory or create",
        Directory => "directory",
        FileOrCreate => "file or create",
        File => "file",
        Socket => "socket",
        CharDevice => "char device",
        BlockDevice => "block device",
    }
}

macro_rules! feed_numbers {
    ($($number:ty),+) => {$(
        impl Feed for $number {
            fn feed(&self, sum: &mut Sum) {
                sum.bytes(&self.to_le_bytes());
            }
        }
    )+};
}

feed_numbers!(i32, u16, u32, u64);

impl Feed for bool {
    fn feed(&self, sum: &mut Sum) {
        sum.bytes(&[u8::from(*self)]);
    }
}

impl Feed for String {
    fn feed(&self, sum: &mut Sum) {
        sum.bytes(self.as_bytes());
    }
}

impl Feed for Duration {
    fn feed(&self, sum: &mut Sum) {
        sum.bytes(&self.as_nanos().to_le_bytes());
    }
}

impl<T: Feed> Feed for &T {
    fn feed(&self, sum: &mut Sum) {
        (*self).feed(sum);
    }
}

impl<T: Feed> Feed for Option<T> {
    fn feed(&self, sum: &mut Sum) {
        match self {
            None => sum.tag("none"),
            Some(value) => {
                sum.tag("some");
                value.feed(sum);
            }
        }
    }
}

impl<T: Feed> Feed for Vec<T> {
    fn feed(&self, sum: &mut Sum) {
        self.len().to_string().feed(sum);
        for value in self {
            value.feed(sum);
        }
    }
}

impl<K: Feed, V: Feed> Feed for BTreeMap<K, V> {
    fn feed(&self, sum: &mut Sum) {
        self.len().to_string().feed(sum);
        for (key, value) in self {
            key.feed(sum);
            value.feed(sum);
        }
    }
}

#[cfg(test)]
mod tests;
