//! securityContext of the pod and of its containers, resolved into one.

use super::findings::{At, Findings};
use super::walk::nearest;
use super::{names, pod};
use crate::spec::{AppArmor, GroupsPolicy, SeLinux, Seccomp, Security};

/// Users and groups above this do not exist in Kubernetes (CVE-2024-40635: larger ones wrap to root).
const MAX_ID: i128 = i32::MAX as i128;

/// Before `appArmorProfile` was a field, a profile was given by an annotation of this prefix and the container's name.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Characters of a profile's name, as in Kubernetes.
const MAX_PROFILE_NAME: usize = 4095;
/// Characters of a part of an SELinux label: a label is at most a page of the kernel's.
const MAX_LABEL_PART: usize = 1023;

/// Linux's capabilities (linux/capability.h), without `CAP_`.
const CAPABILITIES: &[&str] = &[
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// The pod's own: what its containers start from.
pub fn pod(at: &At<'_>, findings: &mut Findings) -> Security {
    let mut groups = Vec::new();
    for item in at.list("supplementalGroups", findings) {
        groups.extend(id(&item, findings));
    }
    // As in Kubernetes every container is in the group of the pod's volumes.
    groups.extend(id_in(at, "fsGroup", findings).filter(|group| !groups.contains(group)));
    if let Some(policy) = at.text_in("fsGroupChangePolicy", findings)
        && !matches!(policy, "Always" | "OnRootMismatch")
    {
        pod::one_of::<()>(at, "fsGroupChangePolicy", policy, &["Always", "OnRootMismatch"], findings);
    }
    if let Some(policy) = at.text_in("seLinuxChangePolicy", findings)
        && !matches!(policy, "MountOption" | "Recursive")
    {
        pod::one_of::<()>(at, "seLinuxChangePolicy", policy, &["MountOption", "Recursive"], findings);
    }
    Security {
        run_as_user: id_in(at, "runAsUser", findings),
        run_as_group: id_in(at, "runAsGroup", findings),
        run_as_non_root: at.boolean_in("runAsNonRoot", findings).unwrap_or(false),
        supplemental_groups: groups,
        groups_policy: groups_policy(at, findings),
        seccomp: seccomp(at, findings),
        apparmor: apparmor(at, findings),
        selinux: selinux(at, findings),
        ..Security::default()
    }
}

/// The group of the volumes of the pod whose `spec` this is. What is wrong with it, [`pod`](fn@pod) says.
pub fn fs_group(spec: &At<'_>) -> Option<u32> {
    id_in(&spec.get("securityContext")?, "fsGroup", &mut Findings::default())
}

/// A container's, over the pod's.
pub fn container(at: &At<'_>, of_pod: &Security, own_users: bool, findings: &mut Findings) -> Security {
    let privileged = at.boolean_in("privileged", findings).unwrap_or(false);
    let escalation = at.boolean_in("allowPrivilegeEscalation", findings);
    if privileged
        && escalation == Some(false)
        && let Some(field) = at.get("allowPrivilegeEscalation")
    {
        findings.rule(&field, "cannot be false in a privileged container: drop one of the two");
    }
    let capabilities = at.get("capabilities");
    let mut capabilities_in = |key| match &capabilities {
        Some(at) => capability_list(at, key, findings),
        None => Vec::new(),
    };
    let capabilities_add = capabilities_in("add");
    let capabilities_drop = capabilities_in("drop");
    let security = Security {
        privileged,
        run_as_user: id_in(at, "runAsUser", findings).or(of_pod.run_as_user),
        run_as_group: id_in(at, "runAsGroup", findings).or(of_pod.run_as_group),
        run_as_non_root: at.boolean_in("runAsNonRoot", findings).unwrap_or(of_pod.run_as_non_root),
        read_only_root: at.boolean_in("readOnlyRootFilesystem", findings).unwrap_or(false),
        allow_privilege_escalation: escalation,
        capabilities_add,
        capabilities_drop,
        supplemental_groups: of_pod.supplemental_groups.clone(),
        groups_policy: of_pod.groups_policy,
        seccomp: seccomp(at, findings).or_else(|| of_pod.seccomp.clone()),
        apparmor: apparmor(at, findings).or_else(|| of_pod.apparmor.clone()),
        selinux: selinux(at, findings).or_else(|| of_pod.selinux.clone()),
        unmasked_proc: unmasked_proc(at, own_users, findings),
    };
    if security.run_as_non_root && security.run_as_user == Some(0) {
        findings.rule(at, "runAsNonRoot is true and runAsUser is 0, which is root: drop one of the two");
    }
    security
}

/// A capability's name without `CAP_`, upper case; `ALL` is one. Err: why it is none.
pub fn capability(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name == "ALL" || CAPABILITIES.contains(&name) {
        return Ok(name.to_owned());
    }
    let hint = match nearest(name, CAPABILITIES.iter().copied()) {
        Some(near) => format!(": did you mean {near}?"),
        None => ": see capabilities(7)".to_owned(),
    };
    Err(format!("{} is no capability{hint}", names::shown(text)))
}

fn capability_list(at: &At<'_>, key: &str, findings: &mut Findings) -> Vec<String> {
    let mut list = Vec::new();
    for item in at.list(key, findings) {
        let Some(text) = item.text(findings) else { continue };
        match capability(text) {
            Err(why) => findings.impossible(&item, why),
            Ok(name) if !list.contains(&name) => list.push(name),
            Ok(_) => {}
        }
    }
    list
}

/// `procMount`.
fn unmasked_proc(at: &At<'_>, own_users: bool, findings: &mut Findings) -> bool {
    match at.text_in("procMount", findings) {
        None | Some("" | "Default") => false,
        Some("Unmasked") => {
            if let (false, Some(field)) = (own_users, at.get("procMount")) {
                findings.impossible(
                    &field,
                    "can be Unmasked only with hostUsers: false: all of the node's /proc would be open",
                );
            }
            own_users
        }
        Some(other) => pod::one_of(at, "procMount", other, &["Default", "Unmasked"], findings).unwrap_or_default(),
    }
}

fn groups_policy(at: &At<'_>, findings: &mut Findings) -> GroupsPolicy {
    match at.text_in("supplementalGroupsPolicy", findings) {
        None | Some("Merge") => GroupsPolicy::Merge,
        Some("Strict") => GroupsPolicy::Strict,
        Some(other) => {
            let allowed = ["Merge", "Strict"];
            pod::one_of(at, "supplementalGroupsPolicy", other, &allowed, findings).unwrap_or_default()
        }
    }
}

fn seccomp(at: &At<'_>, findings: &mut Findings) -> Option<Seccomp> {
    let profile = at.get("seccompProfile")?;
    let kind = profile.need("type", findings)?.text(findings)?;
    let file = profile.get("localhostProfile");
    if let (Some(file), true) = (&file, kind != "Localhost") {
        findings.rule(file, "must be left out unless type is Localhost");
    }
    match kind {
        "RuntimeDefault" => Some(Seccomp::RuntimeDefault),
        "Unconfined" => Some(Seccomp::Unconfined),
        "Localhost" => {
            let file = profile.need("localhostProfile", findings)?;
            let path = file.text(findings)?;
            // An empty path ran the container unconfined (CVE-2023-2431).
            if let Some(reason) = no_descending_path(path) {
                findings.impossible(&file, reason);
                return None;
            }
            Some(Seccomp::Localhost(path.to_owned()))
        }
        other => pod::one_of(&profile, "type", other, &["RuntimeDefault", "Localhost", "Unconfined"], findings),
    }
}

/// Why this is no file below a directory.
fn no_descending_path(path: &str) -> Option<&'static str> {
    if path.trim().is_empty() {
        return Some("must name a file below the node's directory of seccomp profiles (--seccomp-dir)");
    }
    if path.starts_with('/') {
        return Some("must be relative: it is below the node's directory of seccomp profiles (--seccomp-dir)");
    }
    if path.split('/').any(|part| part == "..") || path.contains(char::is_control) {
        return Some("must not contain `..` or control characters");
    }
    (path.len() > MAX_PROFILE_NAME).then_some("is longer than a path may be")
}

fn selinux(at: &At<'_>, findings: &mut Findings) -> Option<SeLinux> {
    let options = at.get("seLinuxOptions")?;
    let mut part = |key: &str| {
        let part = options.get(key)?;
        let text = part.text(findings).filter(|text| !text.is_empty())?;
        // Only a level has colons and commas: `s0:c1,c2`. Anything else would be another part of the label.
        let more: &[char] = if key == "level" { &[':', ','] } else { &[] };
        if text.len() > MAX_LABEL_PART
            || !text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c) || more.contains(&c))
        {
            findings.impossible(&part, format!("{} is no part of an SELinux label", names::shown(text)));
            return None;
        }
        Some(text.to_owned())
    };
    let selinux = SeLinux { user: part("user"), role: part("role"), kind: part("type"), level: part("level") };
    (selinux != SeLinux::default()).then_some(selinux)
}

fn apparmor(at: &At<'_>, findings: &mut Findings) -> Option<AppArmor> {
    let profile = at.get("appArmorProfile")?;
    let kind = profile.need("type", findings)?;
    let kind_text = kind.text(findings)?;
    let name = profile.get("localhostProfile");
    if let (Some(name), true) = (&name, kind_text != "Localhost") {
        findings.rule(name, "must be left out unless type is Localhost");
    }
    match kind_text {
        "RuntimeDefault" => Some(AppArmor::RuntimeDefault),
        "Unconfined" => Some(AppArmor::Unconfined),
        "Localhost" => {
            let name = profile.need("localhostProfile", findings)?;
            localhost(&name, name.text(findings)?, findings)
        }
        other => pod::one_of(&profile, "type", other, &["RuntimeDefault", "Localhost", "Unconfined"], findings),
    }
}

/// An empty name would run the container unconfined (CVE-2023-2431).
fn localhost(at: &At<'_>, name: &str, findings: &mut Findings) -> Option<AppArmor> {
    if !is_profile_name(name) {
        findings.impossible(at, no_profile_name(name));
        return None;
    }
    Some(AppArmor::Localhost(name.to_owned()))
}

fn is_profile_name(name: &str) -> bool {
    !name.is_empty() && name.trim() == name && !name.contains(char::is_control) && name.len() <= MAX_PROFILE_NAME
}

fn no_profile_name(name: &str) -> String {
    format!("{} is no name of an AppArmor profile", names::shown(name))
}

/// Profiles given by annotations: the container's name, where it stands, and the profile. A value that is wrong is refused, but
/// it does not keep a pod from running that was admitted before these annotations counted.
pub fn annotated<'a>(metadata: &At<'a>, findings: &mut Findings) -> Vec<(&'a str, At<'a>, AppArmor)> {
    let Some(annotations) = metadata.get("annotations") else { return Vec::new() };
    let mut found = Vec::new();
    for (key, at) in annotations.entries(findings) {
        let Some(container) = key.strip_prefix(APPARMOR_ANNOTATION) else { continue };
        let profile = match at.node.text() {
            Some("runtime/default") => Some(AppArmor::RuntimeDefault),
            Some("unconfined") => Some(AppArmor::Unconfined),
            // As in Kubernetes: as if it were not there.
            Some("") => None,
            Some(text) => match text.strip_prefix("localhost/") {
                Some(name) if is_profile_name(name) => Some(AppArmor::Localhost(name.to_owned())),
                Some(name) => {
                    findings.rule(&at, no_profile_name(name));
                    None
                }
                None => {
                    let reason = format!(
                        "{} is not one of runtime/default, localhost/<profile>, unconfined",
                        names::shown(text)
                    );
                    findings.rule(&at, reason);
                    None
                }
            },
            // That it is no text is told by whoever reads all annotations.
            None => None,
        };
        found.extend(profile.map(|profile| (container, at, profile)));
    }
    found
}

fn id_in(at: &At<'_>, key: &str, findings: &mut Findings) -> Option<u32> {
    id(&at.get(key)?, findings)
}

fn id(at: &At<'_>, findings: &mut Findings) -> Option<u32> {
    let value = at.integer(findings)?;
    if !(0..=MAX_ID).contains(&value) {
        findings.impossible(at, format!("must be between 0 and {MAX_ID}"));
        return None;
    }
    u32::try_from(value).ok()
}
