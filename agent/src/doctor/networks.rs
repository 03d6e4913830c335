//! The node's own CNI configurations: pods here do not use them, and must not get addresses that they give out.

use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Line;
use crate::config::Cidr;

/// A network configuration is a page.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Configurations that are looked at.
const FILES_MAX: usize = 100;

/// The configuration files, by name, and the ranges of addresses that they name.
#[derive(Debug)]
pub struct Networks {
    pub dir: PathBuf,
    pub files: Vec<(String, Vec<(IpAddr, u8)>)>,
}

/// Only reads.
pub fn probe(dir: &Path) -> Networks {
    let mut files: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.is_file()))
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .filter(|(name, _)| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end)))
        .take(FILES_MAX)
        .map(|(name, path)| (name, ranges(&read(&path))))
        .collect();
    files.sort();
    Networks { dir: dir.to_owned(), files }
}

fn read(path: &Path) -> Value {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    // What cannot be read names no range; whoever uses it will say what is wrong with it.
    read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Every `subnet` in it, at any depth: plugins nest them differently.
fn ranges(value: &Value) -> Vec<(IpAddr, u8)> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value.as_str()) {
                ("subnet" | "Network", Some(text)) => range(text).into_iter().collect(),
                _ => ranges(value),
            })
            .collect(),
        Value::Array(list) => list.iter().flat_map(ranges).collect(),
        _ => Vec::new(),
    }
}

fn range(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

pub fn judge(found: &Networks, ours: &[Cidr]) -> Line {
    const NAME: &str = "cni configurations";
    let dir = found.dir.display();
    for (file, ranges) in &found.files {
        for (address, prefix) in ranges {
            if let Some(own) = ours.iter().find(|own| overlap((own.address, own.prefix), (*address, *prefix))) {
                return Line::fail(
                    NAME,
                    format!("{dir}/{file} gives out {address}/{prefix}, pods here get addresses of {own}: some twice"),
                    "start the agent with another --pod-cidr",
                );
            }
        }
    }
    match found.files.is_empty() {
        true => Line::ok(NAME, format!("none in {dir}")),
        false => {
            let names: Vec<&str> = found.files.iter().map(|(name, _)| name.as_str()).collect();
            Line::ok(NAME, format!("{} in {dir}; pods here have a network of their own beside them", names.join(", ")))
        }
    }
}

/// Two ranges share addresses exactly when they agree in the shorter prefix.
fn overlap(a: (IpAddr, u8), b: (IpAddr, u8)) -> bool {
    let prefix = u32::from(a.1.min(b.1));
    let top = |value: u128, bits: u32| if prefix == 0 { 0 } else { value >> (bits - prefix.min(bits)) };
    match (a.0, b.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => top(a.to_bits().into(), 32) == top(b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => top(a.to_bits(), 128) == top(b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn judged(config: &str) -> Line {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("10-net.conflist"), config).unwrap();
        fs::write(dir.path().join("README"), "x").unwrap();
        judge(&probe(dir.path()), &[Cidr::v4([10, 88, 0, 0], 16)])
    }

    #[test]
    fn a_range_that_somebody_else_gives_out_fails() {
        let with = |subnet: &str| {
            format!(r#"{{"plugins":[{{"type":"bridge","ipam":{{"ranges":[[{{"subnet":"{subnet}"}}]]}}}}]}}"#)
        };
        assert_eq!(judged(&with("10.88.3.0/24")).verdict, Verdict::Fail);
        assert_eq!(judged(&with("10.0.0.0/8")).verdict, Verdict::Fail);
        assert_eq!(judged(&with("0.0.0.0/0")).verdict, Verdict::Fail);
        assert_eq!(judged(&with("10.89.0.0/16")).verdict, Verdict::Ok);
        assert_eq!(judged(&with("fd00::/64")).verdict, Verdict::Ok);
        assert_eq!(judged("no JSON").verdict, Verdict::Ok);
    }

    #[test]
    fn no_configurations_are_fine() {
        assert_eq!(judge(&probe(Path::new("/nonexistent/net.d")), &[]).verdict, Verdict::Ok);
    }
}
