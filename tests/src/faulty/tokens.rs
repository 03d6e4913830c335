//! The proxy's own token service: the distribution project's token protocol, as far as tests need it.

use super::{Seen, Shared};

/// Who gets a token.
#[derive(Debug, Clone, Default)]
pub struct Bearer {
    /// `user:password` in base64, as a Basic header has it.
    pub logins: Vec<String>,
    /// Whoever asks.
    pub anonymous: bool,
    /// This identity token, by POST.
    pub identity: Option<String>,
    /// Another server's `/token` than our own, for tokens across hosts.
    pub realm: Option<String>,
}

impl Bearer {
    pub fn anonymous() -> Bearer {
        Bearer { anonymous: true, ..Bearer::default() }
    }

    /// For this login in base64.
    pub fn login(base64: &str) -> Bearer {
        Bearer { logins: vec![base64.to_owned()], ..Bearer::default() }
    }

    pub fn identity(token: &str) -> Bearer {
        Bearer { identity: Some(token.to_owned()), ..Bearer::default() }
    }
}

/// A status, headers, a body.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// The token service's or the gate's own answer; none: the registry may answer.
pub fn gate(shared: &Shared, bearer: &Bearer, seen: &Seen, body: &str) -> Option<Reply> {
    let path = seen.line.split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/token") {
        return Some(grant(shared, bearer, seen, body));
    }
    let shown = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if shown.is_some_and(|token| shared.state().tokens.contains(token)) {
        return None;
    }
    let repository = path.trim_start_matches("/v2/");
    let repository = repository.split("/manifests/").next().and_then(|p| p.split("/blobs/").next()).unwrap_or_default();
    let scheme = if shared.secure { "https" } else { "http" };
    let own = format!("{scheme}://{}/token", shared.address);
    let realm = bearer.realm.as_deref().unwrap_or(&own);
    let challenge = format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:{repository}:pull\"");
    Some(Reply {
        status: 401,
        headers: vec![("WWW-Authenticate".to_owned(), challenge)],
        body: "{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"authentication required\"}]}".to_owned(),
    })
}

fn grant(shared: &Shared, bearer: &Bearer, seen: &Seen, body: &str) -> Reply {
    let basic = seen.header("authorization").and_then(|value| value.strip_prefix("Basic "));
    let good = match basic {
        Some(login) => bearer.logins.iter().any(|known| known == login),
        None if seen.line.starts_with("POST") => {
            bearer.identity.as_ref().is_some_and(|token| body.contains(&format!("refresh_token={token}")))
        }
        None => bearer.anonymous,
    };
    if !good {
        // As a careless service would: it repeats what it was given.
        let echo = basic.unwrap_or(body);
        let body = format!("{{\"errors\":[{{\"code\":\"DENIED\",\"message\":\"no such login {echo}\"}}]}}");
        return Reply { status: 401, headers: Vec::new(), body };
    }
    let mut state = shared.state();
    state.granted += 1;
    let token = format!("token-{}", state.granted);
    state.tokens.insert(token.clone());
    Reply { status: 200, headers: Vec::new(), body: format!("{{\"token\":\"{token}\",\"expires_in\":300}}") }
}
