//! One line for each write: who, what, from where, and how it ended. Never what was written.
//!
//! Driven by `http` when a write has been answered. Lines go where all others go, to the journal, which stamps, bounds and rotates them; the
//! target `audit` tells them apart (DAEMONLET_LOG=audit=off is the way to do without them).

use std::net::IpAddr;

use super::authority::NODE_PREFIX;
use super::identity::Identity;
use super::rules::Attributes;

/// The longest value in a line; names of Kubernetes have 253 bytes at most, what is longer is somebody's attack.
const VALUE_MAX: usize = 253;

/// The code of a write whose client went away, or whose time ended, before it was answered: it may have happened.
pub const CUT_OFF: u16 = 0;

/// Groups whose objects are questions: nothing is written.
const REVIEWS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];

/// A write that was answered with this code (of HTTP, or [`CUT_OFF`]). `who`: whose request it was, and the other as whom he acted.
pub fn write(who: (&Identity, Option<&Identity>), what: &Attributes<'_>, from: IpAddr, code: u16) {
    let Attributes { verb, group, resource, subresource, namespace, name, path, .. } = *what;
    if REVIEWS.contains(&group) {
        return;
    }
    // Debug: what comes from outside is in quotes, and nothing in it ends the line.
    tracing::info!(
        target: "audit",
        user = ?bounded(&who.0.name),
        impersonated = who.1.map(|other| tracing::field::debug(bounded(&other.name))),
        verb = ?bounded(verb),
        what = ?bounded(&target(group, resource, subresource, path)),
        namespace = ?bounded(namespace),
        name = ?bounded(name),
        %from,
        code,
        "audit",
    );
}

/// A write of a node's through its session, or what was issued to it there. Statuses are left out: there are hundreds a second.
pub fn of_node(node: &str, verb: &str, what: &str, (namespace, name): (&str, &str), code: u16) {
    tracing::info!(
        target: "audit",
        user = ?bounded(&format!("{NODE_PREFIX}{node}")),
        verb,
        what,
        namespace = ?bounded(namespace),
        name = ?bounded(name),
        code,
        "audit",
    );
}

fn target(group: &str, resource: &str, subresource: &str, path: &str) -> String {
    if resource.is_empty() {
        return path.to_owned();
    }
    let mut target = resource.to_owned();
    if !subresource.is_empty() {
        target = format!("{target}/{subresource}");
    }
    if group.is_empty() { target } else { format!("{target}.{group}") }
}

fn bounded(text: &str) -> &str {
    match text.char_indices().find(|(at, character)| at + character.len_utf8() > VALUE_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_target_and_is_bounded() {
        assert_eq!(target("apps", "daemonsets", "status", ""), "daemonsets/status.apps");
        assert_eq!(target("", "", "", "/healthz"), "/healthz");
        assert_eq!(bounded(&"ä".repeat(400)).len(), 252);
        assert_eq!(bounded("kube-system"), "kube-system");
    }
}
