use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::disk::Disk;

fn set(number: u64) -> Set {
    let [kind, namespace, name, uid] = ["Secret", "a", "b", "c"].map(str::to_owned);
    let json = Bytes::from_static(b"{\"data\":{\"a\":\"c2VjcmV0\"}}\xff");
    let objects = vec![Object { kind, namespace, name, uid, json }];
    Set { generation: Generation { epoch: 3, number }, objects, surroundings: Surroundings::default() }
}

/// The Secret as an open file shows it: it is no text.
fn shown() -> String {
    STANDARD.encode(&set(1).objects[0].json)
}

/// What was accepted last, where that is what was found.
async fn newest(checkpoint: &Checkpoint<Disk>) -> Option<Set> {
    match checkpoint.load().await {
        Ok(Loaded::Newest { set, digest, .. }) => {
            assert_eq!(set.digest(), digest);
            Some(set)
        }
        _ => None,
    }
}

#[tokio::test]
async fn only_root_reads_it_and_a_damaged_generation_leaves_an_older_that_knows_nothing_of_newer_pods() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::new(dir.path(), Disk);
    assert_eq!(checkpoint.load().await, Ok(Loaded::Nothing));
    for number in [1, 2] {
        checkpoint.write(&set(number), &set(number).digest()).await.unwrap();
    }
    let place = dir.path().join("control");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode(&place), mode(&place.join("checkpoint")), mode(&place.join("checkpoint.old"))),
        (0o700, 0o600, 0o600)
    );
    assert_eq!(newest(&checkpoint).await, Some(set(2)));

    let path = place.join("checkpoint");
    let mut content = fs::read(&path).unwrap();
    let last = content.len() - 3;
    content[last] ^= 1;
    fs::write(&path, &content).unwrap();
    // The first look sets it aside, the next ones are not to forget that it was there.
    for _ in 0..3 {
        let found = checkpoint.load().await;
        assert!(matches!(&found, Ok(Loaded::Older { set: old, .. }) if *old == set(1)), "{found:?}");
    }
    fs::write(place.join("checkpoint.old"), "torn").unwrap();
    assert!(checkpoint.load().await.is_err(), "damaged is not the same as never written");
    checkpoint.write(&set(3), &set(3).digest()).await.unwrap();
    assert_eq!(newest(&checkpoint).await, Some(set(3)));
    fs::rename(place.join("checkpoint"), place.join("checkpoint.old")).unwrap();
    assert_eq!(newest(&checkpoint).await, Some(set(3)), "what was damaged once is forgotten");
}

/// What a version that sealed nothing has kept, or this one when nothing could be sealed, does not stay readable beside it.
#[tokio::test]
async fn no_generation_shows_secrets_once_they_can_be_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("control");
    let open = Checkpoint::new(dir.path(), Disk);
    assert_eq!(open.load().await, Ok(Loaded::Nothing));
    for number in [1, 2] {
        open.write(&set(number), &set(number).digest()).await.unwrap();
    }
    fs::write(place.join("checkpoint.damaged"), shown()).unwrap();
    let shows = || {
        let files = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).contains(&shown())).count()
    };
    assert_eq!(shows(), 3);
    let sealing = Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), TURNS));
    assert_eq!(sealing.look().await, Kept::Open { secrets: 1 });
    let Ok(Loaded::Newest { set: found, digest, sealed: false }) = sealing.load().await else { panic!("it is whole") };
    sealing.seal_anew(&found, &digest).await.unwrap();
    assert_eq!((shows(), newest(&sealing).await), (0, Some(set(2))));
    assert_eq!(sealing.look().await, Kept::Sealed);
    sealing.write(&set(3), &set(3).digest()).await.unwrap();
    assert!(place.join("checkpoint.old").exists(), "one that is sealed stays");
    // A version that opens nothing works by the records, and not by an older set.
    for path in ["checkpoint", "checkpoint.old"] {
        assert!(fs::read(place.join(path)).unwrap().starts_with(SEALED.as_bytes()), "{path}");
    }
}

/// A program with the words of systemd-creds, made of this line of shell.
fn creds(dir: &Path, line: &str) -> Sealing {
    let program = dir.join("creds");
    fs::write(&program, format!("#!/bin/sh\n{line}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    Sealing::by(program, Duration::from_secs(2))
}

/// It turns bytes round, so that what is sealed is not what was given.
const TURNS: &str = r#"case $1 in encrypt) base64 -w 0 | rev ;; decrypt) rev | base64 -d ;; esac"#;

fn content(dir: &Path) -> String {
    String::from_utf8_lossy(&fs::read(dir.join("control/checkpoint")).unwrap()).into_owned()
}

#[tokio::test]
async fn secrets_are_sealed_and_come_back_in_another_life() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = || Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), TURNS));
    let first = checkpoint();
    assert_eq!(first.load().await, Ok(Loaded::Nothing));
    for number in [1, 2] {
        first.write(&set(number), &set(number).digest()).await.unwrap();
    }
    assert!(content(dir.path()).starts_with(SEALED) && !content(dir.path()).contains(&shown()));
    assert_eq!(first.look().await, Kept::Sealed);
    assert_eq!(newest(&checkpoint()).await, Some(set(2)));
    // What has no Secrets asks nobody.
    let plain = Set { objects: Vec::new(), ..set(3) };
    let nobody = Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), "exit 1"));
    nobody.write(&plain, &plain.digest()).await.unwrap();
    assert_eq!((newest(&nobody).await, nobody.look().await), (Some(plain), Kept::Open { secrets: 0 }));
}

#[tokio::test]
async fn where_nothing_seals_the_set_is_kept_all_the_same() {
    for line in ["echo no key >&2; exit 1", "exec sleep 1000", "case $1 in encrypt) echo abc ;; *) exit 1 ;; esac"] {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), line));
        assert_eq!(checkpoint.load().await, Ok(Loaded::Nothing));
        checkpoint.write(&set(1), &set(1).digest()).await.unwrap();
        assert_eq!(checkpoint.look().await, Kept::Open { secrets: 1 }, "{line}");
        assert_eq!(newest(&checkpoint).await, Some(set(1)));
    }
    let dir = tempfile::tempdir().unwrap();
    let absent = Sealing::by(dir.path().join("absent"), Duration::from_secs(2));
    assert!(absent.key().await.is_none());
}

/// Neither an empty set nor the older one, which would end pods: the records say what runs until the endpoint is heard.
#[tokio::test]
async fn what_cannot_be_opened_counts_for_nothing_and_stays_for_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let good = || Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), TURNS));
    let first = good();
    assert_eq!(first.load().await, Ok(Loaded::Nothing));
    let plain = Set { objects: Vec::new(), ..set(1) };
    first.write(&plain, &plain.digest()).await.unwrap();
    first.write(&set(2), &set(2).digest()).await.unwrap();
    for line in ["echo the key is gone >&2; exit 1", "exec sleep 1000", "echo abc", "true"] {
        let lost = Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), line));
        let Unreadable { why, shut } = lost.load().await.unwrap_err();
        assert!(shut && why.contains("sealed and cannot be opened"), "{line}: {why}");
        assert!(matches!(lost.look().await, Kept::Unreadable(_)), "{line}");
    }
    assert!(Checkpoint::new(dir.path(), Disk).load().await.is_err());
    assert_eq!(newest(&good()).await, Some(set(2)), "the key is back");
    // A new set is kept whatever became of the old key.
    let other = r#"case $1 in encrypt) base64 -w 0 ;; decrypt) base64 -d ;; esac"#;
    let next = Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), other));
    assert!(next.load().await.is_err());
    next.write(&set(3), &set(3).digest()).await.unwrap();
    assert_eq!(newest(&next).await, Some(set(3)));
}

/// The real one, with a machine's key of its own.
#[tokio::test]
async fn systemd_creds_seals_and_opens() {
    let asked = Command::new("systemd-creds").arg("--version").stdout(Stdio::null()).status();
    if !asked.is_ok_and(|status| status.success()) {
        return ::tests::skip::skipped("systemd-creds is not installed");
    }
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    let line = format!("SYSTEMD_CREDENTIAL_SECRET={} exec systemd-creds \"$@\"", secret.display());
    let checkpoint = || Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), &line));
    assert_eq!(checkpoint().load().await, Ok(Loaded::Nothing));
    checkpoint().write(&set(1), &set(1).digest()).await.unwrap();
    assert!(content(dir.path()).starts_with(SEALED));
    assert_eq!(newest(&checkpoint()).await, Some(set(1)));
    fs::remove_file(&secret).unwrap();
    assert!(checkpoint().load().await.unwrap_err().why.contains("cannot be opened"));
}
