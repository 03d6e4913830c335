//! Writes that are judged by what would be written: rights that are given away, and what nodes write. Everything else has been decided by
//! its name before.
//!
//! Driven by `objects` ([`Guard`]) with the object as it would be stored, whichever way it came: created, replaced, patched or applied.

use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use super::super::authority::MASTERS;
use super::super::identity::Identity;
use super::roles::{GROUP, RoleRef, Rule, missing};
use super::{Attributes, Authorizer, node};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::objects::Guard;

/// Rules that are named in a refusal: enough to see what is meant.
const NAMED_MAX: usize = 10;

/// One user's writes, by one request.
struct Admission {
    authorizer: Authorizer,
    user: Identity,
    /// What the request was allowed as.
    verb: &'static str,
}

impl Authorizer {
    /// What a write of this user, who was allowed this verb, is to be judged by; None: he may do everything.
    pub fn guard(&self, user: &Identity, verb: &'static str) -> Option<Arc<dyn Guard>> {
        let admission = || Admission { authorizer: self.clone(), user: user.clone(), verb };
        (!user.is_in(MASTERS)).then(|| Arc::new(admission()) as Arc<dyn Guard>)
    }
}

impl Guard for Admission {
    fn check<'a>(
        &'a self,
        kind: &'static Kind,
        sub: &'a str,
        new: &'a Value,
        old: Option<&'a Value>,
    ) -> Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send + 'a>> {
        Box::pin(async move {
            if old.is_none() && self.verb != "create" {
                self.creation(kind, new).await?;
            }
            if let Some(node) = self.user.node()
                && matches!(kind.group, "" | "coordination.k8s.io" | "events.k8s.io")
                && let Some(why) = node::refuses(node, kind.resource, sub, new, old)
            {
                return Err(ApiError::forbidden(kind, text(&new["metadata"]["name"]), why));
            }
            match (kind.group, kind.resource) {
                (GROUP, "roles" | "clusterroles") => self.role(kind, new, old).await,
                (GROUP, "rolebindings" | "clusterrolebindings") => self.binding(kind, new, old).await,
                _ => Ok(()),
            }
        })
    }
}

impl Admission {
    /// An apply or an update that makes what was not there is a creation too, and has to be allowed as one.
    async fn creation(&self, kind: &'static Kind, new: &Value) -> Result<(), ApiError> {
        let (namespace, name) = names(new);
        let Kind { group, resource, .. } = *kind;
        let asked = Attributes { verb: "create", group, resource, namespace, name, ..Attributes::default() };
        self.authorizer.check(&self.user, &asked, Some(kind)).await
    }

    /// A role gives no more than its writer has, unless he may `escalate` it.
    async fn role(&self, kind: &'static Kind, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        // Labels too: by them other roles take up what this one gives.
        if old.is_some_and(|old| is_only_collected(old, new)) {
            return Ok(());
        }
        let (namespace, name) = names(new);
        if self.may("escalate", kind.resource, namespace, name).await? {
            return Ok(());
        }
        let mut wanted = Rule::all_of(&new["rules"]);
        if !new["aggregationRule"].is_null() || old.is_some_and(|old| !old["aggregationRule"].is_null()) {
            // What others label later becomes this role's: nobody with less than everything can promise that.
            wanted = vec![everything(), everywhere()];
        }
        self.grants(kind, namespace, name, &wanted)
    }

    /// A binding gives no more than its writer has, unless he may `bind` that role.
    async fn binding(&self, kind: &'static Kind, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let given = ["roleRef", "subjects"];
        if old.is_some_and(|old| given.iter().all(|key| old[*key] == new[*key])) {
            return Ok(());
        }
        let (namespace, name) = names(new);
        let role = RoleRef::of(new);
        let resource = if role.is_cluster { "clusterroles" } else { "roles" };
        if self.may("bind", resource, namespace, &role.name).await? {
            return Ok(());
        }
        let wanted: Vec<Rule> = self.authorizer.roles().rules(namespace, &role).into_iter().cloned().collect();
        if wanted.is_empty() {
            // It gives nothing today, and whatever it is written with tomorrow.
            let why = format!(
                "user {:?} may not bind {resource} {:?}, which does not exist or has no rules",
                self.user.name, role.name
            );
            return Err(ApiError::forbidden(kind, name, &why));
        }
        self.grants(kind, namespace, name, &wanted)
    }

    async fn may(&self, verb: &str, resource: &str, namespace: &str, name: &str) -> Result<bool, ApiError> {
        let asked = Attributes { verb, group: GROUP, resource, namespace, name, ..Attributes::default() };
        Ok(self.authorizer.may(&self.user, &asked).await?.allowed)
    }

    fn grants(&self, kind: &Kind, namespace: &str, name: &str, wanted: &[Rule]) -> Result<(), ApiError> {
        let roles = self.authorizer.roles();
        let missing = missing(&roles.held(&self.user, namespace), wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = missing.iter().take(NAMED_MAX).map(shown).collect();
        let user = &self.user;
        let why = format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            user.groups,
            named.join("\n")
        );
        Err(ApiError::forbidden(kind, name, &why))
    }
}

/// Whether nothing but what the garbage collection changes is different: that has to be possible for whoever removes an owner.
fn is_only_collected(old: &Value, new: &Value) -> bool {
    let judged = |object: &Value| {
        let mut judged = object.clone();
        if let Some(metadata) = judged["metadata"].as_object_mut() {
            let own = ["resourceVersion", "managedFields", "generation", "ownerReferences", "finalizers"];
            metadata.retain(|field, _| !own.contains(&field.as_str()));
        }
        judged
    };
    judged(old) == judged(new)
}

fn names(object: &Value) -> (&str, &str) {
    (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

fn everything() -> Rule {
    Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() }
}

fn everywhere() -> Rule {
    Rule { verbs: all(), urls: all(), ..Rule::default() }
}

/// As Kubernetes prints a rule in such a refusal.
fn shown(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.names),
        ("NonResourceURLs", &rule.urls),
        ("Verbs", &rule.verbs),
    ];
    let parts = parts.into_iter().filter(|(_, values)| !values.is_empty());
    let parts: Vec<String> = parts.map(|(name, values)| format!("{name}:{values:?}")).collect();
    format!("{{{}}}", parts.join(", "))
}
