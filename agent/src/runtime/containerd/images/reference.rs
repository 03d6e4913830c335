//! Image names as containerd and Docker canonicalise them: `busybox` is `docker.io/library/busybox:latest`.
//!
//! Driven by `prepare`, the import and `images` words. Knows only text. The grammar is that of the distribution
//! project's references; it is parsed by hand because the one maintained crate for it compiles a regular expression of
//! more than 10 MB, which is this agent's whole memory budget, and lets Unicode letters into tags.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::digest::Digest;

/// A repository with its registry, at most (distribution's limit).
const MAX_NAME: usize = 255;
/// A tag (distribution's limit).
const MAX_TAG: usize = 128;

/// A canonical image reference. At least one of tag and digest is set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image name: Kubernetes' InvalidImageName.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no image name: {reason}")]
pub struct InvalidReference {
    pub name: String,
    pub reason: String,
}

impl Reference {
    /// The name without tag and digest: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// With the port where there is one: `docker.io`, `registry:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, `latest` where neither tag nor digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The name of the image record in containerd: `name:tag`, or `name@digest` where a digest is given, because a
    /// digest says more than the tag beside it.
    pub fn record_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, tag) => format!("{}:{}", self.name(), tag.as_deref().unwrap_or("latest")),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Reference, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference { name: text.chars().take(MAX_NAME).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(format!("the character {c:?} is not allowed"));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    // A colon after the last slash starts the tag; one before it belongs to the registry's port.
    let last = rest.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match rest[last..].find(':') {
        Some(i) => (&rest[..last + i], Some(&rest[last + i + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_registry(name);
    if let Some(registry) = registry {
        check_registry(registry)?;
    }
    for component in repository.split('/') {
        check_component(component)?;
    }
    if registry.is_none() && repository.len() == 64 && repository.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("64 hexadecimal digits are an image's id, not its name".into());
    }
    let registry = match registry {
        None | Some("index.docker.io") => "docker.io",
        Some(other) => other,
    };
    let repository = match registry {
        "docker.io" if !repository.contains('/') => format!("library/{repository}"),
        _ => repository.to_owned(),
    };
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Err(format!("it has more than {MAX_NAME} characters without its tag"));
    }
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// The part before the first slash is a registry when it could not be part of a repository on Docker Hub.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn check_registry(registry: &str) -> Result<(), String> {
    let bad = || format!("{registry:?} is no registry: expected host, host:port or [IPv6]:port");
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(bad)?;
            address.parse::<Ipv6Addr>().map_err(|_| bad())?;
            (None, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(bad)?) })
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let host_is_good = host.is_none_or(|h| h.split('.').all(label));
    let port_is_good = port.is_none_or(|p| !p.is_empty() && p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit()));
    if host_is_good && port_is_good { Ok(()) } else { Err(bad()) }
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn check_component(component: &str) -> Result<(), String> {
    if component.is_empty() {
        return Err("a part between slashes is empty".into());
    }
    if component.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("{component:?} has upper-case letters, a repository's name has none"));
    }
    let mut separator = String::new();
    for (i, c) in component.chars().enumerate() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            let joins = matches!(separator.as_str(), "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
            if !joins || (i == separator.len() && i > 0) {
                return Err(format!("{separator:?} in {component:?} is no separator"));
            }
            separator.clear();
        } else if matches!(c, '.' | '_' | '-') {
            separator.push(c);
        } else {
            return Err(format!("the character {c:?} in {component:?} is not allowed"));
        }
    }
    if separator.is_empty() { Ok(()) } else { Err(format!("{component:?} ends with {separator:?}")) }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let first_is_good = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let rest_is_good = tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if !first_is_good || !rest_is_good {
        return Err(format!("{tag:?} is no tag"));
    }
    if tag.len() > MAX_TAG {
        return Err(format!("its tag has more than {MAX_TAG} characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    fn check(text: &str, canonical: &str, record: &str) {
        let reference: Reference = text.parse().unwrap();
        assert_eq!((reference.to_string().as_str(), reference.record_name().as_str()), (canonical, record), "{text}");
    }

    #[test]
    fn names_are_made_canonical_as_docker_does() {
        for (text, canonical) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("test.com:tag", "docker.io/library/test.com:tag"),
            ("a/b", "docker.io/a/b:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("gcr.io/fluentd-elasticsearch/fluentd:v2.5.1", "gcr.io/fluentd-elasticsearch/fluentd:v2.5.1"),
            ("quay.io/fluentd_elasticsearch/fluentd:v2.5.2", "quay.io/fluentd_elasticsearch/fluentd:v2.5.2"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:Up", "localhost:5000/x:Up"),
            ("test:5000/repo", "test:5000/repo:latest"),
            ("[::1]:5000/x/y:t", "[::1]:5000/x/y:t"),
            ("[fd00::a]/x", "[fd00::a]/x:latest"),
            ("Upper/x", "Upper/x:latest"),
            ("a--b/c__d/e.f_g", "docker.io/a--b/c__d/e.f_g:latest"),
        ] {
            check(text, canonical, canonical);
        }
    }

    #[test]
    fn a_digest_names_the_record_and_the_tag_beside_it_does_not() {
        check(
            &format!("busybox@{D}"),
            &format!("docker.io/library/busybox@{D}"),
            &format!("docker.io/library/busybox@{D}"),
        );
        check(&format!("h:1/r:t@{D}"), &format!("h:1/r:t@{D}"), &format!("h:1/r@{D}"));
    }

    /// What is judged is what is pulled: every name that is one, put together from parts that are easily taken for others.
    #[test]
    fn the_allow_list_judges_the_name_that_is_pulled() {
        let registries =
            ["", "docker.io/", "index.docker.io/", "localhost/", "h:5000/", "Upper/", "[::1]:5/", "a.b/", "plain/"];
        let repositories = ["x", "library/x", "docker.io/x", "localhost/x", "a/b/c", "x.y", "x.y/z"];
        let digest = format!("@{D}");
        let mut compared = 0;
        for registry in registries {
            for repository in repositories {
                for tail in ["", ":1", ":A.b-c", digest.as_str(), &format!(":1{digest}")] {
                    let text = format!("{registry}{repository}{tail}");
                    if let Ok(reference) = text.parse::<Reference>() {
                        assert_eq!(pod::allow::image_name(&text), reference.name(), "{text}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 250, "{compared} names");
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        let id = "a".repeat(64);
        for (text, reason) in [
            ("", "empty"),
            ("a b", "character ' '"),
            ("a\n", "character"),
            ("bü", "character"),
            ("x:täg", "character"),
            ("busyBox", "upper-case"),
            ("a//b", "empty"),
            ("/a", "empty"),
            ("a/", "empty"),
            ("a:", "no tag"),
            ("a:-x", "no tag"),
            ("a:b:c", "no tag"),
            (":t", "empty"),
            ("a..b", "separator"),
            ("a___b", "separator"),
            (".a", "separator"),
            ("-a", "separator"),
            ("a-", "ends with"),
            ("-x.com/a", "registry"),
            ("x.com:/a", "registry"),
            ("x.com:port/a", "registry"),
            ("[::1/a", "registry"),
            ("[1.2.3.4]/a", "registry"),
            ("../a", "registry"),
            ("a@sha256:ff", "digest"),
            ("a@md5:ffffffffffffffffffffffffffffffff", "digest"),
            (&format!("a@{}", D.replace("ffff", "FFFF")), "digest"),
            (&format!("@{D}"), "empty"),
            (&long, "255"),
            (&tag, "128"),
            (&id, "id"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(error.reason.contains(reason), "{text:?}: {}", error.reason);
        }
    }
}
