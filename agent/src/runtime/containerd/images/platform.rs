//! Which of the platforms that an image offers runs on this node (OCI image index, `platform`).

use std::fmt;

use serde::Deserialize;

/// `os`, `architecture` and `variant`, in Go's words (linux, amd64, v8).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl Platform {
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        Platform { os: os.into(), architecture: architecture.into(), variant: variant.into() }.normal()
    }

    /// The machine that this program runs on.
    pub fn of_this_node() -> Platform {
        Platform::new("linux", std::env::consts::ARCH, highest_variant())
    }

    /// How well an image for `self` suits `node`: None not at all, else the higher the better.
    pub fn rank_on(&self, node: &Platform) -> Option<u8> {
        let offered = self.clone().normal();
        if offered.os != node.os || offered.architecture != node.architecture {
            return None;
        }
        let (offered, node) = (level(&offered.variant)?, level(&node.variant)?);
        (offered <= node).then_some(offered)
    }

    /// Entries that are no image at all, as build tools add for attestations.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }

    /// One spelling for each platform; the variant that an architecture has anyway is written out.
    fn normal(mut self) -> Platform {
        self.os.make_ascii_lowercase();
        let written = self.architecture.to_ascii_lowercase();
        let (architecture, variant) = match written.as_str() {
            "x86_64" | "x86-64" | "amd64" => ("amd64", if self.variant.is_empty() { "v1" } else { &self.variant }),
            "aarch64" | "arm64" => ("arm64", if self.variant.is_empty() { "v8" } else { &self.variant }),
            "armhf" => ("arm", "v7"),
            "armel" => ("arm", "v6"),
            "arm" => ("arm", if self.variant.is_empty() { "v7" } else { &self.variant }),
            "i386" | "x86" | "386" => ("386", ""),
            "powerpc64" | "ppc64le" => ("ppc64le", ""),
            "loongarch64" | "loong64" => ("loong64", ""),
            other => (other, self.variant.as_str()),
        };
        Platform { os: self.os.clone(), architecture: architecture.to_owned(), variant: variant.to_owned() }
    }
}

/// `v8.2` is 82, `v7` is 70, none is 0. None for a variant of another form: such an image is not taken.
fn level(variant: &str) -> Option<u8> {
    if variant.is_empty() {
        return Some(0);
    }
    let (major, minor) = variant.strip_prefix('v')?.split_once('.').unwrap_or((variant.strip_prefix('v')?, "0"));
    major.parse::<u8>().ok()?.checked_mul(10)?.checked_add(minor.parse().ok().filter(|m| *m < 10)?)
}

/// The x86-64 psABI level that this processor has.
#[cfg(target_arch = "x86_64")]
fn highest_variant() -> &'static str {
    use std::is_x86_feature_detected as has;
    let v2 = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = v2 && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("lzcnt") && has!("movbe");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, _, _) => "v2",
        _ => "v1",
    }
}

/// What the architecture means where nothing more is known.
#[cfg(not(target_arch = "x86_64"))]
fn highest_variant() -> &'static str {
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(image: (&str, &str, &str), node: (&str, &str, &str)) -> Option<u8> {
        let image = Platform { os: image.0.into(), architecture: image.1.into(), variant: image.2.into() };
        image.rank_on(&Platform::new(node.0, node.1, node.2))
    }

    #[test]
    fn an_image_suits_its_own_architecture_and_no_newer_variant() {
        assert_eq!(rank(("linux", "amd64", ""), ("linux", "x86_64", "v3")), Some(10));
        assert!(
            rank(("linux", "amd64", "v3"), ("linux", "amd64", "v3"))
                > rank(("linux", "amd64", ""), ("linux", "amd64", "v3"))
        );
        assert_eq!(rank(("linux", "amd64", "v4"), ("linux", "amd64", "v3")), None);
        assert_eq!(rank(("linux", "arm64", ""), ("linux", "aarch64", "")), Some(80));
        assert_eq!(rank(("linux", "arm64", "v8"), ("linux", "arm64", "")), Some(80));
        assert_eq!(rank(("linux", "arm", "v6"), ("linux", "arm", "v7")), Some(60));
        assert_eq!(rank(("linux", "arm", "v7"), ("linux", "arm", "v6")), None);
        assert_eq!(rank(("linux", "arm", "v7"), ("linux", "arm64", "")), None);
        assert_eq!(rank(("windows", "amd64", ""), ("linux", "amd64", "")), None);
        assert_eq!(rank(("linux", "riscv64", ""), ("linux", "riscv64", "")), Some(0));
        assert_eq!(rank(("linux", "amd64", "zen9"), ("linux", "amd64", "v3")), None);
        assert_eq!(rank(("linux", "amd64", "v255"), ("linux", "amd64", "v3")), None);
    }

    #[test]
    fn this_node_suits_itself() {
        let node = Platform::of_this_node();
        assert!(node.rank_on(&node).is_some(), "{node}");
    }
}
