//! Records of admitted pods: those that were set aside as damaged, and those of which this version can make no pod.

use std::fs;
use std::path::{Path, PathBuf};

use pod::manifest::Context;

use super::Line;
use crate::records;
use crate::worker::unusable;

/// Named in the line; the rest is counted.
const NAMED_MAX: usize = 3;

#[derive(Debug, Default)]
pub struct Found {
    /// Whole ones.
    pub good: usize,
    /// Files that a start of the agent set aside.
    pub damaged: Vec<PathBuf>,
    /// Names of pods, with why.
    pub unusable: Vec<String>,
    /// Why the directory cannot be read; None also where there is none yet.
    pub unreadable: Option<String>,
}

/// Blocking, a file a pod.
pub fn probe(state_dir: &Path) -> Found {
    let mut found = Found::default();
    let dir = records::directory(state_dir);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return found,
        Err(why) => return Found { unreadable: Some(format!("{}: {why}", dir.display())), ..found },
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|end| end.to_str()) {
            Some("damaged" | "damaged-old") => found.damaged.push(path),
            Some(_) => {}
            None => match records::read(&path) {
                Ok(record) => match unusable(&record, &Context::default()) {
                    Some(why) => found.unusable.push(format!("{} ({why})", record.name)),
                    None => found.good += 1,
                },
                Err(why) => found.unusable.push(format!("{} ({why})", path.display())),
            },
        }
    }
    found
}

pub fn judge(found: &Found) -> Line {
    const NAME: &str = "records";
    let some = |all: &[String]| {
        let more = if all.len() > NAMED_MAX { format!(" and {} more", all.len() - NAMED_MAX) } else { String::new() };
        format!("{}{more}", all.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", "))
    };
    if let Some(why) = &found.unreadable {
        return Line::fail(
            NAME,
            format!("cannot be listed: {why}"),
            "make the state directory readable; no pod is adopted without them",
        );
    }
    if !found.unusable.is_empty() {
        return Line::warn(
            NAME,
            format!("no pod can be made any more of that of {}", some(&found.unusable)),
            "put its manifest right, or the version of the agent that wrote it; its pod is ended and started anew by then",
        );
    }
    match found.damaged.as_slice() {
        [] => Line::ok(NAME, format!("{} whole", found.good)),
        damaged => Line::warn(
            NAME,
            format!(
                "set aside as damaged: {}",
                some(&damaged.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())
            ),
            "look at the disk (dmesg, smartctl); its pods go on by the record before, or were started anew: remove the files when they have told enough",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::doctor::Verdict;
    use crate::records::Records;
    use crate::status::sample;

    #[tokio::test]
    async fn unusable_and_damaged_records_warn_and_an_unreadable_directory_fails() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(judge(&probe(dir.path())).verdict, Verdict::Ok);
        let records = Records::new(dir.path());
        records.load(&Disk, |_| None).await.unwrap();
        let mut record = sample::running().1.pods[0].record.clone();
        record.document = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}})
        .into();
        records.save(&Disk, &record).await.unwrap();
        let line = judge(&probe(dir.path()));
        assert_eq!((line.verdict, line.found.as_str()), (Verdict::Ok, "1 whole"));
        fs::write(dir.path().join("records/0a1b.damaged"), "x").unwrap();
        let line = judge(&probe(dir.path()));
        assert!(line.verdict == Verdict::Warn && line.found.contains("0a1b.damaged"), "{line:?}");
        record.document = serde_json::json!({"kind": "OfTomorrow"}).into();
        records.save(&Disk, &record).await.unwrap();
        let line = judge(&probe(dir.path()));
        assert!(line.verdict == Verdict::Warn && line.found.contains(&record.name), "{line:?}");
        fs::remove_dir_all(dir.path().join("records")).unwrap();
        fs::write(dir.path().join("records"), "").unwrap();
        assert_eq!(judge(&probe(dir.path())).verdict, Verdict::Fail);
    }
}
