//! A join token: what it says, what of it is stored, and whether it is good. Pure but for the randomness of a new one.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::super::authority::hex;
use super::super::random::{self, NoRandomness};

/// Letters of an id, which is no secret, and of a secret: 40 and 160 bits.
const ID_LENGTH: usize = 8;
const SECRET_LENGTH: usize = 32;
/// The longest token that is looked at: id, secret and pin are 106 bytes.
pub const TOKEN_MAX: usize = 128;

/// As its bearer shows it. The third part, the authority's pin, is for him, not for us.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown<'a> {
    pub id: &'a str,
    pub secret: &'a str,
}

impl<'a> Shown<'a> {
    /// `id.secret` or `id.secret.pin`.
    pub fn parse(text: &'a str) -> Option<Shown<'a>> {
        let text = Some(text.trim()).filter(|text| text.len() <= TOKEN_MAX)?;
        let mut parts = text.split('.');
        let shown = Shown { id: parts.next()?, secret: parts.next()? };
        let pin_is_fit = parts.next().is_none_or(|pin| pin.len() == 64) && parts.next().is_none();
        let is_word = |word: &str, length| {
            word.len() == length && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        (pin_is_fit && is_word(shown.id, ID_LENGTH) && is_word(shown.secret, SECRET_LENGTH)).then_some(shown)
    }
}

/// What is stored of a token: enough to know it again, not enough to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    /// SHA-256 of the secret, as hexadecimal digits.
    pub hash: String,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// How many nodes may still join with it.
    pub uses: u32,
    /// It lets this node in, even with another key than before, and no other.
    pub node: Option<String>,
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It is not said whether there is one of this id.
    #[error("the join token is not known here, or its secret is wrong")]
    Unknown,
    #[error("the join token has expired")]
    Expired,
    #[error("the join token has been used as often as it may be")]
    UsedUp,
    #[error("the join token is another node's")]
    AnotherNodes,
}

impl Token {
    /// A new one, and its secret.
    pub fn generate(
        created: Timestamp,
        expires: Timestamp,
        uses: u32,
        node: Option<String>,
    ) -> Result<(Token, String), NoRandomness> {
        let secret = random::text(SECRET_LENGTH)?;
        let token = Token { id: random::text(ID_LENGTH)?, hash: hash(&secret), created, expires, uses, node };
        Ok((token, secret))
    }

    /// Whether its bearer may join under this name now.
    pub fn judge(&self, secret: &str, node: &str, now: Timestamp) -> Result<(), Bad> {
        // Of equal length always, so nothing is told by how long this takes.
        if !bool::from(hash(secret).as_bytes().ct_eq(self.hash.as_bytes())) {
            return Err(Bad::Unknown);
        }
        if self.expires <= now {
            return Err(Bad::Expired);
        }
        if self.uses == 0 {
            return Err(Bad::UsedUp);
        }
        match &self.node {
            Some(own) if own != node => Err(Bad::AnotherNodes),
            _ => Ok(()),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let Token { id, hash, created, expires, uses, node } = self;
        let token = json!({
            "id": id, "hash": hash, "created": created.to_string(), "expires": expires.to_string(), "uses": uses, "node": node,
        });
        token.to_string().into_bytes()
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Token> {
        let token: Value = serde_json::from_slice(bytes).ok()?;
        let text = |key: &str| token[key].as_str().map(str::to_owned);
        let time = |key: &str| token[key].as_str()?.parse().ok();
        Some(Token {
            id: text("id")?,
            hash: text("hash")?,
            created: time("created")?,
            expires: time("expires")?,
            uses: u32::try_from(token["uses"].as_u64()?).ok()?,
            node: text("node"),
        })
    }
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn only_what_looks_like_a_token_is_looked_up() {
        let (token, secret) = Token::generate(at(0), at(1), 1, None).unwrap();
        let whole = format!("{}.{secret}", token.id);
        let shown = Shown { id: &token.id, secret: &secret };
        assert_eq!(Shown::parse(&whole).as_ref(), Some(&shown));
        let with_pin = format!("{whole}.{}\n", "0".repeat(64));
        assert_eq!(Shown::parse(&with_pin).as_ref(), Some(&shown));
        let long = format!("{}.{secret}", "a".repeat(1 << 20));
        let climbing = format!("../../xx.{secret}");
        for bad in
            ["", ".", "a.b", token.id.as_str(), &format!("{with_pin}.x"), &format!("{whole}.short"), &long, &climbing]
        {
            assert_eq!(Shown::parse(bad), None, "{bad:.60}");
        }
    }

    #[test]
    fn a_token_lets_in_until_it_ends_is_used_up_or_is_another_nodes() {
        let (token, secret) = Token::generate(at(100), at(200), 1, None).unwrap();
        assert_eq!(token.judge(&secret, "a", at(199)), Ok(()));
        assert_eq!(token.judge(&secret, "a", at(200)), Err(Bad::Expired));
        assert_eq!(token.judge(&secret.replace(&secret[..1], "0"), "a", at(150)), Err(Bad::Unknown));
        let used = Token { uses: 0, ..token.clone() };
        assert_eq!(used.judge(&secret, "a", at(150)), Err(Bad::UsedUp));
        let bound = Token { node: Some("a".into()), ..token };
        assert_eq!(bound.judge(&secret, "a", at(150)), Ok(()));
        assert_eq!(bound.judge(&secret, "b", at(150)), Err(Bad::AnotherNodes));
        // Somebody without the secret is told nothing else.
        let gone = Token { expires: at(1), ..bound };
        assert_eq!(gone.judge("", "b", at(150)), Err(Bad::Unknown));
    }

    #[test]
    fn what_is_stored_of_a_token_comes_back_and_has_no_secret() {
        let later = at(5) + Duration::from_secs(24 * 3600);
        let (token, secret) = Token::generate(at(5), later, 3, Some("n".into())).unwrap();
        let bytes = token.to_bytes();
        assert_eq!(Token::from_bytes(&bytes).as_ref(), Some(&token));
        assert!(!String::from_utf8(bytes).unwrap().contains(&secret));
    }
}
