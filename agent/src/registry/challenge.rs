//! `WWW-Authenticate`: what a registry wants to see before it answers (RFC 9110, section 11.6.1, and the distribution project's token
//! protocol). Input from the network, so all of it is bounded. Pure.

use http_auth::parser::ChallengeParser;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// A challenge has some hundred bytes; what comes after that much is not looked at.
const HEADER_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 8;
const CHALLENGES_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    /// Ask `realm` for a token.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The challenges that can be answered, in the order in which they came. What is malformed ends its header, not the others.
pub fn of(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for header in headers.get_all(WWW_AUTHENTICATE).iter().take(HEADERS_MAX) {
        if let Ok(text) = header.to_str() {
            parse(text, &mut challenges);
        }
    }
    challenges
}

fn parse(text: &str, challenges: &mut Vec<Challenge>) {
    if text.len() > HEADER_MAX {
        return;
    }
    for challenge in ChallengeParser::new(text) {
        let Ok(challenge) = challenge else { return };
        if challenges.len() >= CHALLENGES_MAX {
            return;
        }
        let value = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
        };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if challenge.scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            challenges.push(Challenge::Bearer { realm, service: value("service"), scope: value("scope") });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn parsed(lines: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
        }
        of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) }
    }

    #[test]
    fn what_registries_send_is_understood() {
        assert_eq!(
            parsed(&[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push",error="invalid_token""#
            ]),
            [bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/x:pull,push")
            )]
        );
        assert_eq!(parsed(&["bearer realm=\"a\""]), [bearer("a", None, None)]);
        assert_eq!(parsed(&["BASIC realm=\"Registry \\\"Realm\\\"\""]), [Challenge::Basic]);
        assert_eq!(
            parsed(&["Basic realm=x, Bearer realm=\"a\",service=\"s\""]),
            [Challenge::Basic, bearer("a", Some("s"), None)]
        );
        assert_eq!(parsed(&["Negotiate", "Basic realm=\"x\""]), [Challenge::Basic]);
    }

    #[test]
    fn what_cannot_be_answered_is_no_challenge() {
        assert_eq!(parsed(&["Bearer service=\"s\""]), []);
        assert_eq!(parsed(&["Digest realm=\"x\", nonce=\"y\""]), []);
        assert_eq!(parsed(&["Bearer realm=\"unterminated"]), []);
        assert_eq!(parsed(&[&format!("Bearer realm=\"{}\"", "a".repeat(9000))]), []);
        assert_eq!(parsed(&[]), []);
    }

    #[test]
    fn the_number_of_challenges_is_bounded() {
        let many = vec!["Basic realm=x"; 100].join(", ");
        assert_eq!(parsed(&[&many, &many]).len(), CHALLENGES_MAX);
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.append(WWW_AUTHENTICATE, value);
            }
            prop_assert!(of(&headers).len() <= CHALLENGES_MAX);
        }

        #[test]
        fn a_challenge_survives_being_written_and_read(
            realm in "[ -~]{1,60}", scope in "[ -~]{1,60}", noise in "(Basic realm=\"b\", )?",
        ) {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let line = format!("{noise}Bearer realm=\"{}\",scope=\"{}\"", quote(&realm), quote(&scope));
            let found = parsed(&[&line]);
            prop_assert_eq!(found.last(), Some(&bearer(&realm, None, Some(&scope))));
        }
    }
}
