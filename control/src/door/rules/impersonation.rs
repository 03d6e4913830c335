//! Acting as another: who may, and who he is then. Kubernetes' rules: the verb `impersonate` on users, groups, service accounts, and on what else is said
//! of a user.
//!
//! Driven by `http`, which reads what is asked for from a request's headers.

use super::super::identity::{ANONYMOUS, AUTHENTICATED, Identity, UNAUTHENTICATED};
use super::{Attributes, Authorizer, refusal};
use crate::api::error::{ApiError, Details};

const ACCOUNT: &str = "system:serviceaccount:";
/// The group of the resources `userextras` and `uids`.
const AUTHENTICATION: &str = "authentication.k8s.io";

impl Authorizer {
    /// Who `user` is when he acts as `wanted`, of whom nothing but what was said is known. Errors: 403, 503.
    pub async fn act_as(&self, user: &Identity, wanted: Identity) -> Result<Identity, ApiError> {
        let account = wanted.name.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':'));
        let verb = "impersonate";
        let mut asked = vec![match account {
            Some((namespace, name)) => {
                Attributes { verb, resource: "serviceaccounts", namespace, name, ..Attributes::default() }
            }
            None => Attributes { verb, resource: "users", name: &wanted.name, ..Attributes::default() },
        }];
        asked.extend(wanted.groups.iter().map(|name| Attributes {
            verb,
            resource: "groups",
            name,
            ..Attributes::default()
        }));
        let group = AUTHENTICATION;
        asked.extend(wanted.uid.iter().map(|name| Attributes {
            verb,
            group,
            resource: "uids",
            name,
            ..Attributes::default()
        }));
        for (key, values) in &wanted.extra {
            let of = |name| Attributes {
                verb,
                group,
                resource: "userextras",
                subresource: key,
                name,
                ..Attributes::default()
            };
            asked.extend(values.iter().map(|name| of(name)));
        }
        for asked in &asked {
            let verdict = self.may(user, asked).await?;
            if !verdict.allowed {
                return Err(forbidden(asked, &refusal(user, asked, &verdict.reason)));
            }
        }
        let mut groups = wanted.groups.clone();
        if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
            groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        let of_all = if wanted.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
            groups.push(of_all.to_owned());
        }
        Ok(Identity { groups, ..wanted })
    }
}

fn forbidden(asked: &Attributes<'_>, why: &str) -> ApiError {
    let Attributes { group, resource, name, .. } = *asked;
    let of = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let details = Details { group: group.into(), kind: resource.into(), name: name.into(), ..Details::default() };
    let message = format!("{of} {name:?} is forbidden: {why}");
    ApiError { code: 403, reason: "Forbidden", message, details: Some(Box::new(details)) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::door::rules::roles::GROUP;
    use crate::door::testing::place;

    #[tokio::test]
    async fn who_acts_as_another_may_for_each_thing_that_he_says_of_him() {
        let place = place();
        let rules = json!([
            { "verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["jane"] },
            { "verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["ops"] },
            { "verbs": ["impersonate"], "apiGroups": [AUTHENTICATION], "resources": ["userextras/scopes"], "resourceNames": ["view"] },
            { "verbs": ["get"], "apiGroups": [""], "resources": ["serviceaccounts"] },
        ]);
        let role = json!({ "metadata": { "name": "r" }, "rules": rules });
        let account = json!([{ "verbs": ["impersonate"], "apiGroups": [""], "resources": ["serviceaccounts"] }]);
        let account = json!({ "metadata": { "name": "r", "namespace": "a" }, "rules": account });
        place.put(GROUP, "clusterroles", &role).await;
        place.put(GROUP, "roles", &account).await;
        for (resource, of, namespace) in [("clusterrolebindings", "ClusterRole", ""), ("rolebindings", "Role", "a")] {
            let binding = json!({ "metadata": { "name": "b", "namespace": namespace }, "roleRef": { "kind": of, "name": "r", "apiGroup": GROUP },
                "subjects": [{ "kind": "User", "name": "bob", "apiGroup": GROUP }] });
            place.put(GROUP, resource, &binding).await;
        }
        let authorizer = Authorizer::start(place.store.clone()).await.unwrap();
        let wanted = |name: &str, groups: &[&str]| Identity {
            name: name.into(),
            groups: groups.iter().copied().map(str::to_owned).collect(),
            ..Identity::default()
        };
        let bob = Identity::of("bob", &[]);
        let as_bob = |wanted: Identity| authorizer.act_as(&bob, wanted);
        assert_eq!(as_bob(wanted("jane", &["ops"])).await.unwrap().groups, ["ops", AUTHENTICATED]);
        let account = as_bob(wanted("system:serviceaccount:a:x", &[])).await.unwrap();
        assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED]);
        let extra = |value: &str| BTreeMap::from([("scopes".to_owned(), vec![value.to_owned()])]);
        assert!(as_bob(Identity { extra: extra("view"), ..wanted("jane", &[]) }).await.is_ok());
        let said = as_bob(wanted("root", &[])).await.unwrap_err();
        assert_eq!(
            (said.code, said.message.as_str()),
            (
                403,
                "users \"root\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
            )
        );
        for refused in [
            wanted("jane", &["ops", "system:masters"]),
            wanted("system:serviceaccount:b:x", &[]),
            Identity { extra: extra("edit"), ..wanted("jane", &[]) },
            Identity { uid: Some("7".into()), ..wanted("jane", &[]) },
        ] {
            assert_eq!(as_bob(refused.clone()).await.map_err(|error| error.code), Err(403), "{refused:?}");
        }
        let masters = Identity::of("root", &["system:masters"]);
        let nobody = authorizer.act_as(&masters, wanted(ANONYMOUS, &[])).await.unwrap();
        assert_eq!(nobody.groups, [UNAUTHENTICATED], "he has only what the other has");
    }
}
