//! Tokens of service accounts: signed statements of who a daemon is, bound to the pod it runs in (Kubernetes' TokenRequest).
//!
//! Driven by `http` (the subresource `serviceaccounts/token`, TokenReview, the issuer's public keys), by `fleet` for projected volumes, and by
//! [`super::identity`]. A token is good while its signature, its time and its audience are, and while the account and the pod that it names exist
//! with the uids that they had.

mod jws;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::authority::{Authority, key_of};
use super::identity::{AUTHENTICATED, Identity};
use super::rules::is_mirror;
use super::stored;
use crate::api::error::{ApiError, Cause};
use crate::api::kinds::{self, Kind};
use crate::clock::Clock;
use crate::store::Store as _;
use crate::store::any::AnyStore;

/// Who signs, and the audience of a token that asks for none: a cluster's own name for its API.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Seconds that a token lasts unless it is said, at least, and at most (Kubernetes' own but the last, which is a flag there).
const LASTS: i64 = 3600;
const LASTS_MIN: i64 = 600;
const LASTS_MAX: i64 = 366 * 24 * 3600;
/// Clocks may differ by so many seconds.
const LEEWAY: i64 = 60;
/// The longest token that is looked at: ours have 900 bytes.
const TOKEN_MAX: usize = 16 << 10;
/// Audiences of one token.
const AUDIENCES_MAX: usize = 16;
/// What the user name of an account begins with, as in Kubernetes.
pub const PREFIX: &str = "system:serviceaccount:";
/// The group of all accounts; `system:serviceaccounts:NAMESPACE` is that of one namespace's.
pub const GROUP: &str = "system:serviceaccounts";

/// Signs and knows tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServiceAccounts {
    keys: Arc<Keys>,
    store: AnyStore,
    clock: Clock,
}

#[derive(Debug)]
struct Keys {
    sign: EncodingKey,
    verify: DecodingKey,
    /// The public key, an uncompressed point (SEC 1).
    point: Vec<u8>,
    id: String,
}

impl ServiceAccounts {
    pub fn new(authority: &Authority, store: AnyStore, clock: Clock) -> ServiceAccounts {
        let key = authority.tokens();
        let point = key.der_bytes().to_vec();
        let keys = Keys {
            sign: EncodingKey::from_ec_der(key.serialized_der()),
            verify: DecodingKey::from_ec_der(&point),
            id: key_of(&key.subject_public_key_info()),
            point,
        };
        ServiceAccounts { keys: Arc::new(keys), store, clock }
    }

    /// Answers a TokenRequest for an account. `by`: who asks; a node gets tokens only for pods that run on it.
    pub async fn request(
        &self,
        namespace: &str,
        account: &str,
        request: &Value,
        by: &Identity,
    ) -> Result<Value, ApiError> {
        let found = self.object("serviceaccounts", namespace, account).await?;
        let found = found.ok_or_else(|| ApiError::not_found(kind("serviceaccounts"), account))?;
        let spec = &request["spec"];
        let audiences = audiences(spec, account)?;
        let lasts = lasts(spec, account)?;
        let now = self.clock.now();
        let mut about = json!({
            "namespace": namespace,
            "serviceaccount": { "name": account, "uid": found["metadata"]["uid"] },
        });
        match self.bound(namespace, account, &spec["boundObjectRef"]).await? {
            Some(Bound::Pod(pod)) => {
                let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
                check_node(by, account, Some(node).filter(|_| !is_mirror(&pod)))?;
                about["pod"] = named(&pod);
                if !node.is_empty() {
                    let node =
                        self.object("nodes", "", node).await?.unwrap_or_else(|| json!({"metadata": {"name": node}}));
                    about["node"] = named(&node);
                }
            }
            Some(Bound::Secret(secret)) => {
                check_node(by, account, None)?;
                about["secret"] = named(&secret);
            }
            None => check_node(by, account, None)?,
        }
        let expires = now.as_second().saturating_add(lasts);
        let claims = json!({
            "aud": audiences,
            "exp": expires,
            "iat": now.as_second(),
            "nbf": now.as_second(),
            "iss": ISSUER,
            "jti": Uuid::new_v4().to_string(),
            "sub": format!("{PREFIX}{namespace}:{account}"),
            "kubernetes.io": about,
        });
        let expires = Timestamp::from_second(expires).unwrap_or(Timestamp::MAX);
        Ok(json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": { "name": account, "namespace": namespace, "creationTimestamp": now.strftime("%FT%TZ").to_string() },
            "spec": { "audiences": audiences, "expirationSeconds": lasts, "boundObjectRef": spec["boundObjectRef"] },
            "status": { "token": self.sign(&claims)?, "expirationTimestamp": expires.strftime("%FT%TZ").to_string() },
        }))
    }

    /// Whose token it is, and for which of the audiences it is good; none asked: our own. Errors: 401 where it is not good.
    pub async fn who(&self, token: &str, audiences: &[String]) -> Result<(Identity, Vec<String>), ApiError> {
        let refused = || ApiError::unauthorized();
        let own = [ISSUER.to_owned()];
        let asked = if audiences.is_empty() { &own[..] } else { audiences };
        let claims = self.verify(token, asked).ok_or_else(refused)?;
        let about = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(refused);
        let (namespace, account) = (text(&about["namespace"])?, text(&about["serviceaccount"]["name"])?);
        let uid = text(&about["serviceaccount"]["uid"])?;
        let found = self.object("serviceaccounts", &namespace, &account).await?.ok_or_else(refused)?;
        if found["metadata"]["uid"] != uid || self.has_left(&found) {
            return Err(refused());
        }
        let mut extra = BTreeMap::new();
        let mut tell = |key: &str, value: &Value| {
            if let Some(value) = value.as_str() {
                extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        for (claim, resource) in [("pod", "pods"), ("secret", "secrets")] {
            let bound = &about[claim];
            if bound.is_null() {
                continue;
            }
            let found = self.object(resource, &namespace, &text(&bound["name"])?).await?.ok_or_else(refused)?;
            if found["metadata"]["uid"] != bound["uid"] || self.has_left(&found) {
                return Err(refused());
            }
        }
        tell("pod-name", &about["pod"]["name"]);
        tell("pod-uid", &about["pod"]["uid"]);
        tell("node-name", &about["node"]["name"]);
        tell("node-uid", &about["node"]["uid"]);
        tell("credential-id", &json!(format!("JTI={}", claims["jti"].as_str().unwrap_or_default())));
        let good_for = asked.iter().filter(|audience| is_for(&claims, audience)).cloned().collect();
        let name = format!("{PREFIX}{namespace}:{account}");
        let groups = vec![GROUP.to_owned(), format!("{GROUP}:{namespace}"), AUTHENTICATED.to_owned()];
        Ok((Identity { name, groups, uid: Some(uid), extra }, good_for))
    }

    /// `/openid/v1/jwks`: the public key, for whoever checks a token himself (RFC 7517).
    pub fn public_keys(&self) -> Value {
        // The point is 4, x, y (SEC 1, 2.3.3), 32 bytes each.
        let coordinate = |range| self.keys.point.get(range).map(|bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes));
        json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": self.keys.id, "crv": "P-256", "alg": "ES256",
            "x": coordinate(1..33), "y": coordinate(33..65),
        }]})
    }

    /// `/.well-known/openid-configuration`.
    pub fn configuration(&self) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    fn sign(&self, claims: &Value) -> Result<String, ApiError> {
        jws::provide();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.keys.id.clone());
        encode(&header, claims, &self.keys.sign)
            .map_err(|error| ApiError::internal(format!("a token cannot be signed: {error}")))
    }

    /// The claims, where signature, issuer, audience and time are good.
    fn verify(&self, token: &str, audiences: &[String]) -> Option<Value> {
        if token.len() > TOKEN_MAX {
            return None;
        }
        jws::provide();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(audiences);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
        // The time is ours to judge, by the clock that was handed down.
        validation.validate_exp = false;
        let claims = decode::<Value>(token, &self.keys.verify, &validation).ok()?.claims;
        let now = self.clock.now().as_second();
        let (begins, ends) = (claims["nbf"].as_i64()?, claims["exp"].as_i64()?);
        let is_time = begins <= now.saturating_add(LEEWAY) && now < ends.saturating_add(LEEWAY);
        is_time.then_some(claims)
    }

    async fn object(&self, resource: &str, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
        let found = self.store.get(&stored("", resource, namespace, name)).await?.entry;
        Ok(found.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
    }

    /// A pod that ends keeps its identity until its time is over, as in Kubernetes.
    fn has_left(&self, object: &Value) -> bool {
        let deadline = object["metadata"]["deletionTimestamp"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        deadline.is_some_and(|deadline| deadline.as_second().saturating_add(LEEWAY) < self.clock.now().as_second())
    }

    async fn bound(&self, namespace: &str, account: &str, reference: &Value) -> Result<Option<Bound>, ApiError> {
        if reference.is_null() {
            return Ok(None);
        }
        let name = reference["name"].as_str().unwrap_or_default();
        let resource = match (reference["apiVersion"].as_str().unwrap_or("v1"), reference["kind"].as_str()) {
            ("v1", Some("Pod")) => "pods",
            ("v1", Some("Secret")) => "secrets",
            _ => {
                return Err(ApiError::bad_request(
                    "cannot bind token to object: only a v1 Pod or Secret can be bound to",
                ));
            }
        };
        let found = self.object(resource, namespace, name).await?;
        let found = found.ok_or_else(|| ApiError::not_found(kind(resource), name))?;
        let uid = &found["metadata"]["uid"];
        let asked = reference["uid"].as_str().filter(|asked| !asked.is_empty());
        if asked.is_some_and(|asked| uid != asked) {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record; the object might have been deleted and then recreated",
                asked.unwrap_or_default()
            );
            return Err(ApiError::conflict(kind(resource), name, &why));
        }
        if resource == "secrets" {
            return Ok(Some(Bound::Secret(found)));
        }
        let runs_as = found["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default");
        if runs_as != account {
            let why = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name"
            );
            return Err(ApiError::bad_request(why));
        }
        Ok(Some(Bound::Pod(found)))
    }
}

enum Bound {
    Pod(Value),
    Secret(Value),
}

/// A node may ask for the pods that run on it, and for nothing else.
fn check_node(by: &Identity, account: &str, bound_to: Option<&str>) -> Result<(), ApiError> {
    match by.node() {
        Some(node) if bound_to != Some(node) => {
            let why = format!("node {node} can only ask for a token that is bound to a pod on it");
            Err(ApiError::forbidden(kind("serviceaccounts"), account, &why))
        }
        _ => Ok(()),
    }
}

fn named(object: &Value) -> Value {
    let mut named = json!({ "name": object["metadata"]["name"] });
    if let Some(uid) = object["metadata"]["uid"].as_str() {
        named["uid"] = json!(uid);
    }
    named
}

fn is_for(claims: &Value, audience: &str) -> bool {
    match &claims["aud"] {
        Value::Array(all) => all.iter().any(|one| one == audience),
        one => one == audience,
    }
}

fn audiences(spec: &Value, account: &str) -> Result<Vec<String>, ApiError> {
    let own = || vec![ISSUER.to_owned()];
    let Some(asked) = spec["audiences"].as_array().filter(|asked| !asked.is_empty()) else { return Ok(own()) };
    let asked: Vec<String> = asked.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
    if asked.len() > AUDIENCES_MAX {
        let cause = Cause::new(
            "FieldValueTooMany",
            "spec.audiences",
            format!("Too many: must have at most {AUDIENCES_MAX} items"),
        );
        return Err(invalid(account, cause));
    }
    Ok(asked)
}

fn lasts(spec: &Value, account: &str) -> Result<i64, ApiError> {
    let field = "spec.expirationSeconds";
    match &spec["expirationSeconds"] {
        Value::Null => Ok(LASTS),
        seconds => match seconds.as_i64() {
            Some(seconds) if (LASTS_MIN..=1 << 32).contains(&seconds) => Ok(seconds.min(LASTS_MAX)),
            Some(seconds) if seconds < LASTS_MIN => {
                let why = format!("Invalid value: {seconds}: may not specify a duration less than 10 minutes");
                Err(invalid(account, Cause::new("FieldValueInvalid", field, why)))
            }
            _ => {
                let why = format!("Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds");
                Err(invalid(account, Cause::new("FieldValueInvalid", field, why)))
            }
        },
    }
}

fn invalid(account: &str, cause: Cause) -> ApiError {
    ApiError::invalid(kind("serviceaccounts"), account, vec![cause])
}

fn kind(resource: &str) -> &'static Kind {
    kinds::by_resource("", "v1", resource).expect("the table of kinds has every resource that is named here")
}

#[cfg(test)]
mod tests;
