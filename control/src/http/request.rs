//! The first line of a request: which object, which resource or which other path it is about, and what is to be done.

use hyper::Method;
use percent_encoding::percent_decode_str;

use super::query::Query;

/// What a path means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Resource(Resource),
    /// Anything else: discovery, documents, health.
    Path(String),
}

/// An object, a part of one, or all objects of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub resource: String,
    /// Empty: none was named.
    pub namespace: String,
    pub name: String,
    pub subresource: String,
}

/// Parts of a namespace itself, which come where a resource would.
const OF_NAMESPACES: &[&str] = &["status", "finalize"];

impl Target {
    /// Error: the path is no text once it is decoded, or a name in it has a slash.
    pub fn of(path: &str) -> Result<Target, String> {
        let decode = |part: &str| {
            let part = percent_decode_str(part).decode_utf8().map_err(|_| format!("{path:?} is not text"))?;
            if part.contains('/') || part.contains('\0') {
                Err(format!("a part of {path:?} has a slash"))
            } else {
                Ok(part.into_owned())
            }
        };
        let parts: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(decode).collect::<Result<_, String>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Ok(Target::Path(path.to_owned())),
        };
        let (namespace, rest) = match rest {
            [] => return Ok(Target::Path(path.to_owned())),
            // A namespace is in itself, as Kubernetes has it.
            ["namespaces", name, sub @ ..] if sub.first().is_none_or(|sub| OF_NAMESPACES.contains(sub)) => {
                (*name, rest)
            }
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            rest => ("", rest),
        };
        let (resource, rest) = rest.split_first().unwrap_or((&"", &[]));
        let (name, sub) = rest.split_first().unwrap_or((&"", &[]));
        Ok(Target::Resource(Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: (*resource).to_owned(),
            namespace: namespace.to_owned(),
            name: (*name).to_owned(),
            subresource: sub.join("/"),
        }))
    }
}

/// What is to be done with a resource, as Kubernetes' rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// None: no verb of this API.
    pub fn of(method: &Method, resource: &Resource, query: &Query) -> Option<Verb> {
        let one = !resource.name.is_empty();
        Some(match *method {
            Method::GET if query.truth("watch") && resource.subresource.is_empty() => Verb::Watch,
            Method::GET if one => Verb::Get,
            Method::GET => Verb::List,
            Method::POST => Verb::Create,
            Method::PUT if one => Verb::Update,
            Method::PATCH if one => Verb::Patch,
            Method::DELETE if one => Verb::Delete,
            Method::DELETE => Verb::DeleteCollection,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    /// Whether it can change something, and so is noted.
    pub fn writes(self) -> bool {
        !matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}
