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

#[tokio::test]
async fn only_root_reads_it_and_a_damaged_generation_falls_back_to_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::new(dir.path(), Disk);
    assert_eq!(checkpoint.load().await, Ok(None));
    for number in [1, 2] {
        checkpoint.write(&set(number), &set(number).digest()).await.unwrap();
    }
    let place = dir.path().join("control");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode(&place), mode(&place.join("checkpoint")), mode(&place.join("checkpoint.old"))),
        (0o700, 0o600, 0o600)
    );
    assert_eq!(checkpoint.load().await, Ok(Some((set(2), set(2).digest()))));

    let path = place.join("checkpoint");
    let mut content = fs::read(&path).unwrap();
    let last = content.len() - 3;
    content[last] ^= 1;
    fs::write(&path, &content).unwrap();
    assert_eq!(checkpoint.load().await, Ok(Some((set(1), set(1).digest()))));
    fs::write(place.join("checkpoint.old"), "torn").unwrap();
    assert!(checkpoint.load().await.is_err(), "damaged is not the same as never written");
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
    assert_eq!(first.load().await, Ok(None));
    for number in [1, 2] {
        first.write(&set(number), &set(number).digest()).await.unwrap();
    }
    assert!(content(dir.path()).starts_with(SEALED) && !content(dir.path()).contains("c2VjcmV0"));
    assert_eq!(first.look().await, Kept::Sealed);
    assert_eq!(checkpoint().load().await, Ok(Some((set(2), set(2).digest()))));
    // What has no Secrets asks nobody.
    let plain = Set { objects: Vec::new(), ..set(3) };
    let nobody = Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), "exit 1"));
    nobody.write(&plain, &plain.digest()).await.unwrap();
    assert_eq!(
        (nobody.load().await, nobody.look().await),
        (Ok(Some((plain.clone(), plain.digest()))), Kept::Open { secrets: 0 })
    );
}

#[tokio::test]
async fn where_nothing_seals_the_set_is_kept_all_the_same() {
    for line in ["echo no key >&2; exit 1", "exec sleep 1000", "case $1 in encrypt) echo abc ;; *) exit 1 ;; esac"] {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), line));
        assert_eq!(checkpoint.load().await, Ok(None));
        checkpoint.write(&set(1), &set(1).digest()).await.unwrap();
        assert_eq!(checkpoint.look().await, Kept::Open { secrets: 1 }, "{line}");
        assert_eq!(checkpoint.load().await, Ok(Some((set(1), set(1).digest()))));
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
    assert_eq!(first.load().await, Ok(None));
    let plain = Set { objects: Vec::new(), ..set(1) };
    first.write(&plain, &plain.digest()).await.unwrap();
    first.write(&set(2), &set(2).digest()).await.unwrap();
    for line in ["echo the key is gone >&2; exit 1", "exec sleep 1000", "echo abc", "true"] {
        let lost = Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), line));
        let why = lost.load().await.unwrap_err();
        assert!(why.contains("sealed and cannot be opened"), "{line}: {why}");
        assert!(matches!(lost.look().await, Kept::Unreadable(_)), "{line}");
    }
    assert!(Checkpoint::new(dir.path(), Disk).load().await.is_err());
    assert_eq!(good().load().await, Ok(Some((set(2), set(2).digest()))), "the key is back");
    // A new set is kept whatever became of the old key.
    let other = r#"case $1 in encrypt) base64 -w 0 ;; decrypt) base64 -d ;; esac"#;
    let next = Checkpoint::new(dir.path(), Disk).sealed_by(creds(dir.path(), other));
    assert!(next.load().await.is_err());
    next.write(&set(3), &set(3).digest()).await.unwrap();
    assert_eq!(next.load().await, Ok(Some((set(3), set(3).digest()))));
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
    assert_eq!(checkpoint().load().await, Ok(None));
    checkpoint().write(&set(1), &set(1).digest()).await.unwrap();
    assert!(content(dir.path()).starts_with(SEALED));
    assert_eq!(checkpoint().load().await, Ok(Some((set(1), set(1).digest()))));
    fs::remove_file(&secret).unwrap();
    assert!(checkpoint().load().await.unwrap_err().contains("cannot be opened"));
}
