//! Request bodies in Kubernetes' protobuf: what typed Go clients send, and kubectl's `create` and `auth can-i`.
//!
//! Called by the HTTP door, which knows nothing of the encoding; what comes out is the same JSON that a JSON client would have sent. A message's
//! fields are rows of a table (`messages.txt`), so that no code and no memory is spent on types: one line a message, one word a field
//! (`number:name:type`). A field without a name is embedded: its fields are the message's own. The types are
//!
//! | | | | |
//! |---|---|---|---|
//! | `s` | text | `t` `u` | a time, to the second or microsecond |
//! | `b` | true or false | `q` | a quantity |
//! | `i` | a whole number | `x` | a number or a percentage |
//! | `y` | bytes | `r` `f` | JSON in bytes |
//! | `*T` | a list | `mT` | a map from text (`me`: to lists of text) |
//!
//! and otherwise the name of a message. `!` after a type: an empty value is said too, because it differs from none. Everything else that is
//! empty is left out, since Go's encoder writes every field that is no pointer.

pub(super) mod read;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use read::{Field, Malformed, Reader};

/// What the body of such a request begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Values of one body: as many as of one in JSON. A message of nothing takes two bytes here, and a place in memory and some microseconds there.
const VALUES_MAX: usize = 200_000;

static MESSAGES: &str = include_str!("protobuf/messages.txt");

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    #[error("the body does not begin as Kubernetes' protobuf does (k8s and a zero byte)")]
    NoEnvelope,
    /// Kubernetes answers 415 for a kind that it has no protobuf of.
    #[error("no protobuf of kind {kind:?} in {api_version:?} is known here; send JSON")]
    UnknownKind { api_version: String, kind: String },
    #[error("{place} is not well-formed protobuf")]
    Malformed {
        place: String,
        #[source]
        source: Malformed,
    },
    #[error("it has more than {VALUES_MAX} values")]
    TooMany,
    #[error("{place} has a value of another type")]
    OtherType { place: String },
    #[error("{place} is not JSON")]
    NotJson {
        place: String,
        #[source]
        source: serde_json::Error,
    },
}

/// How many values a body may still have.
struct Left(Cell<usize>);

impl Left {
    fn take(&self, count: usize) -> Result<(), ProtobufError> {
        self.0.set(self.0.get().checked_sub(count).ok_or(ProtobufError::TooMany)?);
        Ok(())
    }
}

/// The object in a body, with apiVersion and kind as its envelope names them.
///
/// # Errors
/// The body is not well-formed, or of a kind that the table lacks.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let malformed = |source| ProtobufError::Malformed { place: "the envelope".to_owned(), source };
    let body = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoEnvelope)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Reader(body) {
        match field.map_err(malformed)? {
            (1, Field::Bytes(meta)) => {
                for field in Reader(meta) {
                    match field.map_err(malformed)? {
                        (1, Field::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Field::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let Some(of) = root(&api_version, &kind) else { return Err(ProtobufError::UnknownKind { api_version, kind }) };
    let mut object = Map::new();
    message(&of, raw, &mut object, &kind, &Left(Cell::new(VALUES_MAX)))?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

/// The message of a kind. DeleteOptions belong to every group.
fn root(api_version: &str, kind: &str) -> Option<String> {
    let group = match (kind, api_version) {
        ("DeleteOptions", _) => "meta",
        (_, "v1") => "core",
        _ => api_version.strip_suffix("/v1")?.split('.').next()?,
    };
    let name = format!("{group}.{kind}");
    fields(&name).is_some().then_some(name)
}

/// The words of a message's line. Found by name: a body may have as many messages as it may have values.
fn fields(message: &str) -> Option<&'static str> {
    static LINES: OnceLock<HashMap<&str, &str>> = OnceLock::new();
    LINES.get_or_init(|| MESSAGES.lines().filter_map(|line| line.split_once(' ')).collect()).get(message).copied()
}

/// One field's row.
struct Row {
    name: &'static str,
    code: &'static str,
}

fn row(fields: &'static str, number: u32) -> Option<Row> {
    fields.split(' ').find_map(|word| {
        let mut parts = word.splitn(3, ':');
        let of: u32 = parts.next()?.parse().ok()?;
        (of == number).then_some(())?;
        Some(Row { name: parts.next()?, code: parts.next()? })
    })
}

/// Puts a message's fields into an object. Fields that the table lacks are passed over, as by every reader of protobuf.
fn message(
    of: &str,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    place: &str,
    left: &Left,
) -> Result<(), ProtobufError> {
    let fields = fields(of).unwrap_or_default();
    for field in Reader(bytes) {
        left.take(1)?;
        let (number, value) = field.map_err(|source| ProtobufError::Malformed { place: place.to_owned(), source })?;
        let Some(Row { name, code }) = row(fields, number) else { continue };
        let place = || if name.is_empty() { place.to_owned() } else { format!("{place}.{name}") };
        if name.is_empty() {
            let bytes = value.bytes().ok_or_else(|| ProtobufError::OtherType { place: place() })?;
            message(code, bytes, into, &place(), left)?;
        } else if let Some(code) = code.strip_prefix('*') {
            let list = into.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { continue };
            match (code, value) {
                // Whole numbers may come packed.
                ("i", Field::Bytes(packed)) => {
                    let mut rest = packed;
                    while !rest.is_empty() {
                        left.take(1)?;
                        let number = read::varint(&mut rest)
                            .map_err(|source| ProtobufError::Malformed { place: place(), source })?;
                        list.push(number.cast_signed().into());
                    }
                }
                (code, value) => list.push(single(code, value, &place(), left)?),
            }
        } else if let Some(code) = code.strip_prefix('m').filter(|c| !c.contains('.')) {
            let map = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = map else { continue };
            let (key, value) = entry(code, value, &place(), left)?;
            map.insert(key, value);
        } else {
            let (code, kept) = code.strip_suffix('!').map_or((code, false), |code| (code, true));
            let value = single(code, value, &place(), left)?;
            let empty = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty() && !kept,
                Value::Bool(yes) => !yes && !kept,
                Value::Number(number) => number.as_i64() == Some(0) && code == "i" && !kept,
                Value::Array(_) | Value::Object(_) => false,
            };
            if !empty {
                into.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// A map's key and value.
fn entry(code: &str, value: Field<'_>, place: &str, left: &Left) -> Result<(String, Value), ProtobufError> {
    let other_type = || ProtobufError::OtherType { place: place.to_owned() };
    let malformed = |source| ProtobufError::Malformed { place: place.to_owned(), source };
    let empty = Field::Bytes(&[]);
    let (mut key, mut held) = (String::new(), empty);
    for field in Reader(value.bytes().ok_or_else(other_type)?) {
        match field.map_err(malformed)? {
            (1, Field::Bytes(text)) => key = utf8(text, place)?,
            (2, value) => held = value,
            _ => {}
        }
    }
    if code != "e" {
        return Ok((key, single(code, held, place, left)?));
    }
    let mut items = Vec::new();
    for field in Reader(held.bytes().ok_or_else(other_type)?) {
        left.take(1)?;
        if let (1, Field::Bytes(text)) = field.map_err(malformed)? {
            items.push(utf8(text, place)?.into());
        }
    }
    Ok((key, Value::Array(items)))
}

/// One value. Null: a time that was not set.
fn single(code: &str, value: Field<'_>, place: &str, left: &Left) -> Result<Value, ProtobufError> {
    let other_type = || ProtobufError::OtherType { place: place.to_owned() };
    if let (Field::Varint(number), "b" | "i") = (value, code) {
        return Ok(if code == "b" { (number != 0).into() } else { number.cast_signed().into() });
    }
    let bytes = value.bytes().ok_or_else(other_type)?;
    Ok(match code {
        "s" => utf8(bytes, place)?.into(),
        "y" => STANDARD.encode(bytes).into(),
        "q" => text_of(bytes, 1, place)?.into(),
        "t" | "u" => time(bytes, code == "u", place)?,
        "x" => number_or_text(bytes, place)?,
        "r" | "f" => json(bytes, place)?,
        "b" | "i" => return Err(other_type()),
        of => {
            let mut object = Map::new();
            message(of, bytes, &mut object, place, left)?;
            Value::Object(object)
        }
    })
}

fn utf8(bytes: &[u8], place: &str) -> Result<String, ProtobufError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ProtobufError::OtherType { place: place.to_owned() })?;
    Ok(text.to_owned())
}

/// The text in a field of a small message.
fn text_of(bytes: &[u8], wanted: u32, place: &str) -> Result<String, ProtobufError> {
    let mut text = String::new();
    for field in Reader(bytes) {
        let field = field.map_err(|source| ProtobufError::Malformed { place: place.to_owned(), source })?;
        if let (number, Field::Bytes(bytes)) = field
            && number == wanted
        {
            text = utf8(bytes, place)?;
        }
    }
    Ok(text)
}

/// The whole number in a field of a small message; 0 where it is left out.
fn number_of(bytes: &[u8], wanted: u32, place: &str) -> Result<i64, ProtobufError> {
    let mut number = 0;
    for field in Reader(bytes) {
        let field = field.map_err(|source| ProtobufError::Malformed { place: place.to_owned(), source })?;
        if let (of, Field::Varint(value)) = field
            && of == wanted
        {
            number = value.cast_signed();
        }
    }
    Ok(number)
}

fn time(bytes: &[u8], micros: bool, place: &str) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let other_type = || ProtobufError::OtherType { place: place.to_owned() };
    let nanos = i32::try_from(number_of(bytes, 2, place)?).map_err(|_| other_type())?;
    let at = Timestamp::new(number_of(bytes, 1, place)?, nanos).map_err(|_| other_type())?;
    let form = if micros { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(at.strftime(form).to_string().into())
}

fn number_or_text(bytes: &[u8], place: &str) -> Result<Value, ProtobufError> {
    let is_text = number_of(bytes, 1, place)? == 1;
    Ok(if is_text { text_of(bytes, 3, place)?.into() } else { number_of(bytes, 2, place)?.into() })
}

/// JSON in the first field of a message: what Go's RawExtension and FieldsV1 are.
fn json(bytes: &[u8], place: &str) -> Result<Value, ProtobufError> {
    let mut raw = &[][..];
    for field in Reader(bytes) {
        let field = field.map_err(|source| ProtobufError::Malformed { place: place.to_owned(), source })?;
        if let (1, Field::Bytes(bytes)) = field {
            raw = bytes;
        }
    }
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(raw).map_err(|source| ProtobufError::NotJson { place: place.to_owned(), source })
}
