//! `Impersonate-User` and its companions: as whom a request is to be answered, as kubectl's `--as` says it.

use hyper::header::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::api::error::ApiError;
use crate::door::identity::Identity;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// Each of them is judged: more than anybody is in.
const CLAIMS_MAX: usize = 64;

/// Who is wanted: the name, and the groups and whatever else was said and no more. None: the request is its sender's own.
pub fn wanted(headers: &HeaderMap) -> Result<Option<Identity>, ApiError> {
    let mut wanted = Identity::default();
    let mut claims = 0;
    for (header, value) in headers.iter().filter(|(header, _)| header.as_str().starts_with("impersonate-")) {
        let value = text(value)?.to_owned();
        claims += 1;
        match header.as_str() {
            USER => wanted.name = value,
            GROUP => wanted.groups.push(value),
            UID => wanted.uid = Some(value),
            other => {
                let key = other.strip_prefix(EXTRA).ok_or_else(|| unknown(other))?;
                let key = percent_decode_str(key).decode_utf8().map_err(|_| unknown(other))?.to_lowercase();
                wanted.extra.entry(key).or_insert_with(Vec::new).push(value);
            }
        }
    }
    match (claims, wanted.name.as_str()) {
        (0, _) => Ok(None),
        (claims, _) if claims > CLAIMS_MAX => {
            Err(ApiError::bad_request(format!("more than {CLAIMS_MAX} headers Impersonate-… are too many")))
        }
        (_, "") => {
            // Groups alone would be somebody without a name.
            let Identity { groups, uid, extra, .. } = wanted;
            Err(ApiError::bad_request(format!(
                "requested groups {groups:?}, uid {uid:?}, extra {extra:?} without impersonating a user: add Impersonate-User (--as)"
            )))
        }
        _ => Ok(Some(wanted)),
    }
}

fn text(value: &HeaderValue) -> Result<&str, ApiError> {
    value.to_str().map_err(|_| ApiError::bad_request("a header Impersonate-… is not text"))
}

/// A header that we do not know may be a limit that its sender counts on: it is not passed over.
fn unknown(header: &str) -> ApiError {
    ApiError::bad_request(format!("the header {header} is none that is known here"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hyper::header::HeaderName;

    use super::*;

    fn of(headers: &[(&str, &str)]) -> Result<Option<Identity>, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        wanted(&map).map_err(|error| error.code)
    }

    #[test]
    fn headers_say_as_whom_and_nobody_is_without_a_name() {
        assert_eq!(of(&[("accept", "*/*")]), Ok(None));
        let asked = of(&[
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "a"),
            ("Impersonate-Group", "b"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-example.com%2Fscopes", "view"),
        ]);
        let extra = BTreeMap::from([("example.com/scopes".to_owned(), vec!["view".to_owned()])]);
        let jane = Identity { name: "jane".into(), groups: vec!["a".into(), "b".into()], uid: Some("7".into()), extra };
        assert_eq!(asked, Ok(Some(jane)));
        for refused in [("Impersonate-Group", "system:masters"), ("Impersonate-User", ""), ("Impersonate-Mode", "x")] {
            assert_eq!(of(&[refused]), Err(400), "{refused:?}");
        }
    }
}
