//! Randomness, from the operating system: ids and secrets.

use ring::rand::{SecureRandom as _, SystemRandom};

/// Letters and digits that nobody mistakes for others; 32 of them, so that each is five bits.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// The operating system gives none.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no randomness")]
pub struct NoRandomness;

/// So many letters and digits, five bits each.
pub fn text(length: usize) -> Result<String, NoRandomness> {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}
