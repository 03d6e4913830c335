//! In which form a client wants its answer: the `Accept` header, as Kubernetes reads it.

use super::table::Include;

/// What an answer can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// The object as it is.
    Whole,
    /// Rows for people. The version of meta.k8s.io that the client speaks.
    Table { version: &'static str },
    /// Metadata alone.
    Partial { version: &'static str },
    /// The aggregated form of discovery, in this version.
    Discovery { version: &'static str },
}

/// What is said to a client that takes nothing of ours.
pub const OFFERED: &str = "application/json";

/// One alternative of the header, its parameters in small letters.
struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn of(text: &'a str) -> Clause<'a> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|part| part.split_once('=')).map(|(name, value)| (name.trim(), value.trim()));
        Clause { media, parameters: parameters.collect() }
    }

    fn parameter(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(own, _)| *own == name).map(|(_, value)| *value).unwrap_or_default()
    }

    fn is_json(&self) -> bool {
        matches!(self.media, "application/json" | "application/*" | "*/*")
    }

    /// None: not of ours.
    fn accept(&self) -> Option<Accept> {
        if !self.is_json() {
            return None;
        }
        let version = match self.parameter("v") {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            "v2" => "v2",
            "v2beta1" => "v2beta1",
            _ => "",
        };
        Some(match (self.parameter("as"), self.parameter("g"), version) {
            ("", _, _) => Accept::Whole,
            ("Table", "meta.k8s.io", version @ ("v1" | "v1beta1")) => Accept::Table { version },
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", version @ ("v1" | "v1beta1")) => {
                Accept::Partial { version }
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", version @ ("v2" | "v2beta1")) => {
                Accept::Discovery { version }
            }
            _ => return None,
        })
    }
}

/// The first alternative that is offered; None: there is none. An empty header takes everything.
pub fn accept(header: &str) -> Option<Accept> {
    if header.trim().is_empty() {
        return Some(Accept::Whole);
    }
    header.split(',').find_map(|clause| Clause::of(clause).accept())
}

/// Whether one of the alternatives is exactly this media type.
pub fn names(header: &str, media: &str) -> bool {
    header.split(',').any(|clause| Clause::of(clause).media == media)
}

/// The `includeObject` of a table's query.
pub fn include(text: Option<&str>) -> Option<Include> {
    match text {
        None | Some("Metadata") => Some(Include::Metadata),
        Some("None") => Some(Include::Nothing),
        Some("Object") => Some(Include::Object),
        Some(_) => None,
    }
}
