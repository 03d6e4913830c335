//! A blob's bytes as they arrive from one host: how a range's answer is read, and the bounds of the stream.

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};

use super::error::{Failure, RegistryError};
use super::{Registry, http};

/// A blob's bytes as they arrive. Never more than the size that was asked for; whether they are the right ones is the reader's to verify.
pub struct Blob {
    /// Where the bytes really begin: what was asked for, or 0 where the server ignores ranges.
    pub from: u64,
    /// Which host serves them, for progress, for a reason, and for [`Registry::blame`].
    pub host: String,
    pub(super) what: String,
    /// The registry itself, as opposed to a mirror.
    pub origin: bool,
    /// None when nothing is left to read.
    pub(super) body: Option<Response>,
    pub(super) left: u64,
    pub(super) registry: Registry,
}

impl Blob {
    /// The next bytes, or none when the blob is complete. After an error the rest has to be asked for anew. A host that stalls is blamed at
    /// once; one that is cut is not, because links are cut: who counts the cuts is the reader. Cancel-safe: bytes that have arrived stay for
    /// the next call.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        if self.left == 0 {
            self.body = None;
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        let stall = self.registry.shared.settings.patience.stall;
        let failure = match tokio::time::timeout(stall, body.chunk()).await {
            Ok(Ok(Some(chunk))) if chunk.len() as u64 <= self.left => {
                self.left -= chunk.len() as u64;
                return Ok(Some(chunk));
            }
            Ok(Ok(Some(_))) => {
                self.registry.blame(&self.host);
                Failure::Unusable { reason: "sends more bytes than the blob has by its descriptor".to_owned() }
            }
            Ok(Ok(None)) => Failure::Network { reason: format!("ended {} bytes before the blob's end", self.left) },
            Ok(Err(error)) => Failure::Network {
                reason: format!("was cut {} bytes before the blob's end: {}", self.left, http::causes(&error)),
            },
            Err(_) => {
                self.registry.blame(&self.host);
                Failure::Stalled { time: stall }
            }
        };
        self.body = None;
        Err(RegistryError::one(&self.what, &self.host, self.origin, failure))
    }
}

/// Where an answer's bytes begin; none where its range makes no sense and all should be asked for.
pub fn begin(response: &Response, size: u64, from: u64) -> Result<Option<u64>, Failure> {
    if response.status() == StatusCode::PARTIAL_CONTENT {
        return range(response.headers(), size, from);
    }
    match response.content_length() {
        Some(length) if length != size => Err(wrong_size(length, size)),
        _ => Ok(Some(0)),
    }
}

fn wrong_size(found: u64, expected: u64) -> Failure {
    Failure::Unusable { reason: format!("has {found} bytes for a blob of {expected} by its descriptor") }
}

/// `bytes 100-999/1000` (RFC 9110, section 14.4).
fn range(headers: &HeaderMap, size: u64, from: u64) -> Result<Option<u64>, Failure> {
    let parsed = headers.get(CONTENT_RANGE).and_then(|value| {
        let (range, total) = value.to_str().ok()?.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.trim().split_once('-')?;
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.trim().parse::<u64>().ok()))
    });
    match parsed {
        Some((_, _, Some(total))) if total != size => Err(wrong_size(total, size)),
        // All that is missing has to come, and nothing may be left out.
        Some((first, last, _)) if first <= from && last.checked_add(1) == Some(size) => Ok(Some(first)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn of(text: &str, size: u64, from: u64) -> Result<Option<u64>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, HeaderValue::from_str(text).unwrap());
        range(&headers, size, from)
    }

    #[test]
    fn a_range_counts_only_if_it_holds_all_that_is_missing() {
        assert_eq!(of("bytes 10-99/100", 100, 10), Ok(Some(10)));
        assert_eq!(of("bytes 10-99/*", 100, 10), Ok(Some(10)));
        assert_eq!(of("bytes 0-99/100", 100, 10), Ok(Some(0)));
        assert_eq!(of("bytes 11-99/100", 100, 10), Ok(None));
        assert_eq!(of("bytes 10-98/100", 100, 10), Ok(None));
        assert_eq!(of("bytes 10-18446744073709551615/100", 100, 10), Ok(None));
        assert_eq!(of("nonsense", 100, 10), Ok(None));
        assert!(of("bytes 10-99/200", 100, 10).is_err());
        assert_eq!(range(&HeaderMap::new(), 100, 10), Ok(None));
    }
}
