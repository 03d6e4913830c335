//! `cargo metadata … | licences deny.toml`: checks every dependency's licence, name and source against the lists in deny.toml, for
//! machines without cargo-deny. It prints each fault in a line and ends with 1 if there is one.

use std::collections::BTreeSet;
use std::io::Read;

use anyhow::Context;
use serde_json::Value;

fn main() -> anyhow::Result<()> {
    let lists = std::env::args().nth(1).context("usage: cargo metadata --format-version 1 | licences deny.toml")?;
    let lists = std::fs::read_to_string(&lists).with_context(|| lists.clone())?;
    let mut metadata = String::new();
    std::io::stdin().read_to_string(&mut metadata)?;
    let metadata: Value = serde_json::from_str(&metadata).context("stdin is not the output of cargo metadata")?;
    let packages = metadata["packages"].as_array().context("the metadata has no packages")?;
    let faults = faults(packages, &Lists::of(&lists)?);
    for fault in &faults {
        println!("{fault}");
    }
    anyhow::ensure!(faults.is_empty(), "{} of {} packages are not allowed by deny.toml", faults.len(), packages.len());
    println!("{} packages: licences, bans and sources are in order", packages.len());
    Ok(())
}

struct Lists {
    licences: BTreeSet<String>,
    banned: BTreeSet<String>,
    registries: BTreeSet<String>,
}

impl Lists {
    fn of(text: &str) -> anyhow::Result<Self> {
        let list = |key: &str| {
            let start = text
                .lines()
                .position(|line| line.starts_with(&format!("{key} = [")))
                .with_context(|| format!("no list {key}"))?;
            let mut found = BTreeSet::new();
            for line in text.lines().skip(start) {
                // Every second piece between quotation marks is a value.
                found.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
                if line.contains(']') {
                    break;
                }
            }
            anyhow::Ok(found)
        };
        Ok(Self { licences: list("allow")?, banned: list("deny")?, registries: list("allow-registry")? })
    }
}

fn faults(packages: &[Value], lists: &Lists) -> Vec<String> {
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or_default();
        if !satisfied(licence, &lists.licences) {
            faults.push(format!("{name}: licence {licence:?} is not allowed"));
        }
        if lists.banned.contains(name) {
            faults.push(format!("{name}: banned"));
        }
        // A package without a source is a member of the workspace.
        if let Some(source) = package["source"].as_str() {
            let registry = source.strip_prefix("registry+").unwrap_or_default();
            if !lists.registries.contains(registry) {
                faults.push(format!("{name}: source {source} is not allowed"));
            }
        }
    }
    faults
}

/// Whether an SPDX expression can be met with the allowed licences. `/` is the old way to write OR; AND binds closer than OR.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest, allowed) && rest.is_empty()
}

fn either(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = both(words, allowed);
    while let ["OR", after @ ..] = *words {
        *words = after;
        met |= both(words, allowed);
    }
    met
}

fn both(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while let ["AND", after @ ..] = *words {
        *words = after;
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    match *words {
        ["(", inner @ ..] => {
            *words = inner;
            let met = either(words, allowed);
            let [")", after @ ..] = *words else { return false };
            *words = after;
            met
        }
        [licence, "WITH", exception, after @ ..] => {
            *words = after;
            allowed.contains(&format!("{licence} WITH {exception}"))
        }
        [licence, after @ ..] => {
            *words = after;
            allowed.contains(*licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_expression_is_met_only_by_allowed_licences() {
        let allowed: BTreeSet<String> =
            ["MIT", "BSD-3-Clause", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
        for (expression, met) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("(GPL-3.0 OR MIT) AND BSD-3-Clause", true),
            ("GPL-3.0 OR MIT AND ISC", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("Apache-2.0", false),
            ("", false),
            ("(MIT", false),
        ] {
            assert_eq!(satisfied(expression, &allowed), met, "{expression}");
        }
    }

    #[test]
    fn a_git_source_and_a_banned_name_are_faults() {
        let lists = Lists::of("allow = [\"MIT\"]\ndeny = [\n  \"bad\",\n]\nallow-registry = [\"r\"]\n").unwrap();
        let package = |name: &str, source: &str| json!({"name": name, "license": "MIT", "source": source});
        let packages = [package("good", "registry+r"), package("bad", "registry+r"), package("odd", "git+https://x")];
        assert_eq!(faults(&packages, &lists).len(), 2);
    }
}
