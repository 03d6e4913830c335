//! Tokens: what they say, and for how long they are good.

use super::super::testing::{Place, at, place};
use super::*;

struct World {
    place: Place,
    clock: Clock,
    accounts: ServiceAccounts,
}

async fn world() -> World {
    let place = place();
    let clock = Clock::at(at(0));
    let accounts = ServiceAccounts::new(&Authority::generate(at(0)).unwrap(), place.store.clone(), clock.clone());
    place
        .put(
            "",
            "serviceaccounts",
            &json!({ "metadata": { "namespace": "kube-system", "name": "fluentd", "uid": "u1" } }),
        )
        .await;
    place.put("", "pods", &pod("fluentd-abcde", "p1", "worker")).await;
    World { place, clock, accounts }
}

fn pod(name: &str, uid: &str, node: &str) -> Value {
    json!({
        "metadata": { "namespace": "kube-system", "name": name, "uid": uid },
        "spec": { "nodeName": node, "serviceAccountName": "fluentd" },
    })
}

fn bound(uid: &str) -> Value {
    json!({ "spec": { "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "fluentd-abcde", "uid": uid } } })
}

fn administrator() -> Identity {
    Identity::of("admin", &["system:masters"])
}

impl World {
    async fn request(&self, request: &Value, by: &Identity) -> Result<Value, ApiError> {
        self.accounts.request("kube-system", "fluentd", request, by).await
    }

    async fn token(&self, request: &Value) -> String {
        let answer = self.request(request, &administrator()).await.unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn who(&self, token: &str) -> Result<Identity, ApiError> {
        self.accounts.who(token, &[]).await.map(|(identity, _)| identity)
    }
}

#[tokio::test]
async fn a_bound_token_names_account_and_pod_and_is_good_for_an_hour() {
    let world = world().await;
    let answer = world.request(&bound("p1"), &administrator()).await.unwrap();
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer["status"]["expirationTimestamp"], at(3600).to_string());
    let token = answer["status"]["token"].as_str().unwrap();
    let identity = world.who(token).await.unwrap();
    assert_eq!(identity.name, "system:serviceaccount:kube-system:fluentd");
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
    assert_eq!(identity.groups, groups);
    assert_eq!(identity.uid.as_deref(), Some("u1"));
    assert_eq!(identity.extra["authentication.kubernetes.io/pod-name"], ["fluentd-abcde"]);
    assert_eq!(identity.extra["authentication.kubernetes.io/node-name"], ["worker"]);
    world.clock.set(at(3600 + LEEWAY - 1));
    assert!(world.who(token).await.is_ok());
    world.clock.set(at(3600 + LEEWAY));
    assert_eq!(world.who(token).await.unwrap_err().code, 401);
    world.clock.set(at(-LEEWAY - 1));
    assert!(world.who(token).await.is_err(), "not yet");
}

#[tokio::test]
async fn a_token_dies_with_its_pod_and_with_its_account() {
    let world = world().await;
    let (of_pod, free) = (world.token(&bound("p1")).await, world.token(&json!({})).await);
    let mut ending = pod("fluentd-abcde", "p1", "worker");
    ending["metadata"]["deletionTimestamp"] = json!(at(30).to_string());
    world.place.put("", "pods", &ending).await;
    assert!(world.who(&of_pod).await.is_ok(), "until its grace is over");
    world.clock.set(at(30 + LEEWAY + 1));
    assert!(world.who(&of_pod).await.is_err());
    world.place.put("", "pods", &pod("fluentd-abcde", "p2", "worker")).await;
    assert!(world.who(&of_pod).await.is_err(), "another pod of that name");
    assert!(world.who(&free).await.is_ok());
    let account = json!({ "metadata": { "namespace": "kube-system", "name": "fluentd", "uid": "u2" } });
    world.place.put("", "serviceaccounts", &account).await;
    assert!(world.who(&free).await.is_err(), "another account of that name");
    world.place.delete("", "serviceaccounts", &account).await;
    assert!(world.who(&free).await.is_err());
}

#[tokio::test]
async fn only_our_own_signature_counts() {
    let world = world().await;
    let token = world.token(&json!({})).await;
    let other =
        ServiceAccounts::new(&Authority::generate(at(0)).unwrap(), world.place.store.clone(), world.clock.clone());
    assert!(other.who(&token, &[]).await.is_err());
    let parts: Vec<&str> = token.split('.').collect();
    let header = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let unsigned = format!("{}.{}.", header(r#"{"alg":"none","typ":"JWT"}"#), parts[1]);
    let public = format!("{}.{}.{}", header(r#"{"alg":"HS256","typ":"JWT"}"#), parts[1], parts[2]);
    let changed = {
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        format!("{}.{}.{}", parts[0], header(&claims.replace("fluentd", "default")), parts[2])
    };
    let long = "a".repeat(TOKEN_MAX + 1);
    for bad in ["", "a.b.c", &unsigned, &public, &changed, &long, &token[..token.len() - 4]] {
        assert_eq!(world.who(bad).await.unwrap_err().code, 401, "{bad:.80}");
    }
}

#[tokio::test]
async fn audiences_are_kept_apart() {
    let world = world().await;
    let vault = world.token(&json!({ "spec": { "audiences": ["vault", "other"] } })).await;
    assert!(world.who(&vault).await.is_err(), "not for the API");
    let asked = ["vault".to_owned(), "x".to_owned()];
    let (_, good_for) = world.accounts.who(&vault, &asked).await.unwrap();
    assert_eq!(good_for, ["vault"]);
    assert!(world.accounts.who(&vault, &asked[1..]).await.is_err());
    let many: Vec<String> = (0..=AUDIENCES_MAX).map(|n| n.to_string()).collect();
    assert_eq!(world.request(&json!({ "spec": { "audiences": many } }), &administrator()).await.unwrap_err().code, 422);
}

#[tokio::test]
async fn a_token_is_asked_for_within_the_rules() {
    let world = world().await;
    let code = async |request: Value| world.request(&request, &administrator()).await.map_or_else(|e| e.code, |_| 201);
    assert_eq!(code(json!({ "spec": { "expirationSeconds": 599 } })).await, 422);
    assert_eq!(code(json!({ "spec": { "expirationSeconds": 600 } })).await, 201);
    assert_eq!(code(json!({ "spec": { "expirationSeconds": (1_u64 << 32) + 1 } })).await, 422);
    assert_eq!(code(bound("another")).await, 409);
    assert_eq!(code(json!({ "spec": { "boundObjectRef": { "kind": "Pod", "name": "none" } } })).await, 404);
    assert_eq!(code(json!({ "spec": { "boundObjectRef": { "kind": "Node", "name": "worker" } } })).await, 400);
    let mut foreign = pod("other", "p3", "worker");
    foreign["spec"]["serviceAccountName"] = json!("default");
    world.place.put("", "pods", &foreign).await;
    assert_eq!(code(json!({ "spec": { "boundObjectRef": { "kind": "Pod", "name": "other" } } })).await, 400);
    let nobody = world.accounts.request("kube-system", "nobody", &json!({}), &administrator()).await;
    assert_eq!(nobody.unwrap_err().code, 404);
}

#[tokio::test]
async fn a_node_gets_tokens_only_for_pods_that_run_on_it() {
    let world = world().await;
    let node = |name: &str| Identity::of(&format!("system:node:{name}"), &["system:nodes"]);
    assert!(world.request(&bound("p1"), &node("worker")).await.is_ok());
    assert_eq!(world.request(&bound("p1"), &node("other")).await.unwrap_err().code, 403);
    assert_eq!(world.request(&json!({}), &node("worker")).await.unwrap_err().code, 403);
    let mut mirror = pod("fluentd-abcde", "p1", "worker");
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    world.place.put("", "pods", &mirror).await;
    assert_eq!(world.request(&bound("p1"), &node("worker")).await.unwrap_err().code, 403, "it made that pod itself");
}

#[tokio::test]
async fn whoever_has_the_public_key_can_check_a_token() {
    let world = world().await;
    let token = world.token(&json!({})).await;
    let key = &world.accounts.public_keys()["keys"][0];
    let verify = DecodingKey::from_ec_components(key["x"].as_str().unwrap(), key["y"].as_str().unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.set_audience(&[ISSUER]);
    let decoded = decode::<Value>(&token, &verify, &validation).unwrap();
    assert_eq!(decoded.header.kid.as_deref(), key["kid"].as_str());
    assert_eq!(decoded.claims["iss"], world.accounts.configuration()["issuer"]);
}
