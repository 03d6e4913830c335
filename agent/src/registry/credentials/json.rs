//! A docker config as far as it matters, out of JSON: texts, and objects three deep. Whoever may write a Secret may write a megabyte of
//! brackets, which as a general JSON value would hold sixty megabytes; what is not asked for here is passed over and not held.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ENTRIES_MAX;

/// What an entry may say; all else in it is for others.
const FIELDS: [&str; 5] = ["auth", "username", "password", "identitytoken", "registrytoken"];

/// The members whose values are objects by host.
const BY_HOST: [&str; 2] = ["auths", "credHelpers"];

/// In the order of the text. Of each object at most one member more than is read, so that it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object(Vec<(String, Json)>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    Null,
    Text(String),
    Object(Object),
    /// A number, a truth value, an array, or an object where none is expected.
    Other,
}

impl Object {
    /// The last member of this name counts.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.0.iter().rfind(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Json)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

pub fn read(text: &[u8]) -> Result<Json, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Place::Top.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Where a value stands, which says what of it is held.
#[derive(Clone, Copy)]
enum Place {
    Top,
    ByHost,
    Entry,
    Leaf,
}

impl<'de> DeserializeSeed<'de> for Place {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Json, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Json::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let held = match self {
                Place::Leaf => None,
                _ if members.len() > ENTRIES_MAX => None,
                Place::Top if BY_HOST.contains(&key.as_str()) => Some(Place::ByHost),
                Place::Top | Place::ByHost => Some(Place::Entry),
                Place::Entry => FIELDS.contains(&key.as_str()).then_some(Place::Leaf),
            };
            match held {
                Some(place) => members.push((key, map.next_value_seed(place)?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match self {
            Place::Leaf => Ok(Json::Other),
            _ => Ok(Json::Object(Object(members))),
        }
    }
}
