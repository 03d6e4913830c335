//! Credentials of registries, out of Secret documents: kept, handed on, never shown.
//!
//! Made by `manifest`, carried by the desired set. What stands in them is the registries' client's to read.

use crate::content::Hidden;

/// A Secret's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    pub namespace: String,
    pub name: String,
}

/// A docker config as JSON: `{"auths": {…}}`, or the inner object alone (kubernetes.io/dockercfg).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerConfig(Hidden);

impl DockerConfig {
    pub fn new(json: Vec<u8>) -> DockerConfig {
        DockerConfig(Hidden::new(json))
    }

    /// The document itself, for the one who logs in with it.
    pub fn reveal(&self) -> &[u8] {
        self.0.reveal()
    }
}

impl From<Hidden> for DockerConfig {
    fn from(json: Hidden) -> DockerConfig {
        DockerConfig(json)
    }
}

/// The key under which a Secret of this type holds credentials of registries; None for all other types.
pub fn login_key(secret_type: &str) -> Option<&'static str> {
    match secret_type {
        "kubernetes.io/dockerconfigjson" => Some(".dockerconfigjson"),
        "kubernetes.io/dockercfg" => Some(".dockercfg"),
        _ => None,
    }
}

/// RFC 4648, with padding or without, as Go's encoder writes it; line ends within are borne. None for anything else.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let end = digits.iter().position(|b| *b == b'=').unwrap_or(digits.len());
    let (digits, padding) = digits.split_at(end);
    if padding.len() > 2 || padding.iter().any(|b| *b != b'=') || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = (bits << 6) | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_its_rfc_has_it() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zg", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9v\nYmE=", "fooba")]
        {
            assert_eq!(base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(base64("+/8="), Some(vec![0xfb, 0xff]));
        for bad in ["Z", "Zm9v!", "Zg===", "=Zg", "Zm-_"] {
            assert_eq!(base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_docker_config_is_never_shown() {
        assert_eq!(format!("{:?}", DockerConfig::new(b"password".to_vec())), "DockerConfig(…)");
    }
}
