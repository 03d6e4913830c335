//! Content digests (OCI image specification, descriptor.md): `sha256:<64 hex>` or `sha512:<128 hex>`.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};

/// A digest that was checked when it was parsed: known algorithm, lower-case hexadecimal of the right length. It is
/// therefore safe as a part of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Digest {
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: expected sha256: or sha512: with lower-case hexadecimal digits")]
pub struct InvalidDigest(String);

impl Digest {
    /// The sha256 of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    pub fn algorithm(&self) -> &str {
        self.text.split(':').next().unwrap_or_default()
    }

    pub fn hex(&self) -> &str {
        self.text.split(':').nth(1).unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A hasher that computes a digest of this one's algorithm.
    pub fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" { Hasher::Sha512(Box::default()) } else { Hasher::sha256() }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Digest, InvalidDigest> {
        let lower_hex = |hex: &str| hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match text.split_once(':') {
            Some(("sha256", hex)) if hex.len() == 64 && lower_hex(hex) => Ok(Digest { text: text.to_owned() }),
            Some(("sha512", hex)) if hex.len() == 128 && lower_hex(hex) => Ok(Digest { text: text.to_owned() }),
            _ => Err(InvalidDigest(text.chars().take(160).collect())),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Digest, InvalidDigest> {
        text.parse()
    }
}

/// A digest in the making.
pub enum Hasher {
    Sha256(Box<Sha256>),
    Sha512(Box<Sha512>),
}

impl Hasher {
    pub fn sha256() -> Hasher {
        Hasher::Sha256(Box::default())
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::Sha512(hash) => hash.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        let (algorithm, bytes) = match self {
            Hasher::Sha256(hash) => ("sha256", hash.finalize().to_vec()),
            Hasher::Sha512(hash) => ("sha512", hash.finalize().to_vec()),
        };
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Digest { text: format!("{algorithm}:{hex}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_algorithms_with_exact_lower_case_hex_are_digests() {
        let empty = Digest::of(b"");
        assert_eq!(empty.as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!((empty.algorithm(), empty.hex().len()), ("sha256", 64));
        for bad in ["", "sha256", "sha256:", "sha256:../../etc/passwd", "md5:00", &empty.as_str().to_uppercase()] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let long = format!("sha512:{}", "0".repeat(128)).parse::<Digest>().unwrap();
        assert_eq!(long.hasher().finish().hex().len(), 128);
    }
}
