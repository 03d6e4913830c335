//! The bodies of requests: bounded while they are read, and JSON whatever they came as.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value;
use tokio::time::timeout;

use crate::api::error::ApiError;
use crate::api::protobuf::{self, ProtobufError};

/// A larger body is refused: Kubernetes' limit, twice what a store takes of one object.
pub const BODY_MAX: usize = 3 << 20;
/// Between two pieces of a body: its request has a place meanwhile.
const FRAME_TIME_MAX: Duration = Duration::from_secs(10);
/// So much is read and dropped, because most clients read no answer while they still write; then the connection is closed on them.
const PASSED_OVER_MAX: usize = 4 * BODY_MAX;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const PATCHES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
                       application/apply-patch+yaml";

/// A body as a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub value: Value,
    /// Fields that stand in it twice.
    pub duplicates: Vec<String>,
}

/// How a patch is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// Reads all of it. Error: it is larger than `most` (at most [`BODY_MAX`]), or its client went away.
pub async fn read(headers: &HeaderMap, mut body: Incoming, most: usize) -> Result<Bytes, ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let mut length = 0_usize;
    let mut bytes = BytesMut::new();
    let late = |_| ApiError::bad_request(format!("the body stopped for {} s", FRAME_TIME_MAX.as_secs()));
    while let Some(frame) = timeout(FRAME_TIME_MAX, body.frame()).await.map_err(late)? {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("the body could not be read: {error}")))?;
        let Ok(piece) = frame.into_data() else { continue };
        length = length.saturating_add(piece.len());
        if length > PASSED_OVER_MAX {
            break;
        }
        if length <= most && announced.is_none_or(|announced| announced <= most as u64) {
            bytes.extend_from_slice(&piece);
        }
    }
    if length > most {
        return Err(ApiError::too_large(format!("the body is larger than {most} bytes")));
    }
    Ok(bytes.freeze())
}

/// The media type without its parameters; empty where none is said.
fn media(headers: &HeaderMap) -> &str {
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim()
}

/// The object of a body.
pub fn document(headers: &HeaderMap, body: &Bytes) -> Result<Document, ApiError> {
    match media(headers) {
        "" | JSON | "*/*" => text(body, pod::manifest::json_document),
        YAML => text(body, pod::manifest::yaml_document),
        PROTOBUF => match protobuf::decode(body) {
            Ok(value) => Ok(Document { value, duplicates: Vec::new() }),
            Err(error @ ProtobufError::UnknownKind { .. }) => {
                Err(ApiError { message: error.to_string(), ..ApiError::unsupported_media(ACCEPTED) })
            }
            Err(error) => Err(unreadable(&error)),
        },
        _ => Err(ApiError::unsupported_media(ACCEPTED)),
    }
}

/// The options of a deletion, where there are some.
pub fn options(headers: &HeaderMap, body: &Bytes) -> Result<Option<Value>, ApiError> {
    if body.is_empty() { Ok(None) } else { document(headers, body).map(|document| Some(document.value)) }
}

/// The patch of a body.
pub fn patch(headers: &HeaderMap, body: &Bytes) -> Result<(PatchType, Document), ApiError> {
    let of = match media(headers) {
        "application/json-patch+json" => PatchType::Json,
        "application/merge-patch+json" => PatchType::Merge,
        "application/strategic-merge-patch+json" => PatchType::Strategic,
        "application/apply-patch+yaml" => PatchType::Apply,
        _ => return Err(ApiError::unsupported_media(PATCHES)),
    };
    let reader = if of == PatchType::Apply { pod::manifest::yaml_document } else { pod::manifest::json_document };
    Ok((of, text(body, reader)?))
}

/// How a text becomes a document: its value, and which fields stand in it twice.
type Reader = fn(&str) -> Result<(Value, Vec<String>), String>;

fn text(body: &Bytes, reader: Reader) -> Result<Document, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    let (value, duplicates) =
        reader(text).map_err(|why| ApiError::bad_request(format!("the body cannot be read: {why}")))?;
    Ok(Document { value, duplicates })
}

fn unreadable(error: &dyn std::error::Error) -> ApiError {
    let why = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    ApiError::bad_request(format!("the body cannot be read: {error}{why}"))
}
