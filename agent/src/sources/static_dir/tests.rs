//! Against real directories; every wait is for a condition, with a bound.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::*;

/// Far more than any of these needs, also on a busy machine; far less than the slow scan.
const BOUND: Duration = Duration::from_secs(20);

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - {{name: c, image: i}}\n")
}

fn rename_in(dir: &Path, name: &str, text: &str) {
    let aside = dir.join(format!(".{name}.new"));
    fs::write(&aside, text).unwrap();
    fs::rename(aside, dir.join(name)).unwrap();
}

struct Followed {
    dir: PathBuf,
    receiver: watch::Receiver<Snapshot>,
}

impl Followed {
    fn of(dir: impl Into<PathBuf>) -> Followed {
        let dir = dir.into();
        Followed { receiver: follow(dir.clone(), Context { node_name: "n".into() }, &dir.with_extension("state")), dir }
    }

    async fn until(&mut self, what: &str, is: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let found = tokio::time::timeout(BOUND, self.receiver.wait_for(|s| is(s))).await.map(|s| s.unwrap().clone());
        found.unwrap_or_else(|_| {
            let there = self.receiver.borrow();
            let faults: Vec<_> = there.files.values().filter_map(|p| p.whole.clone()).collect();
            panic!("never came: {what}; there is {:?} {:?} {faults:?}", there.not_heard, pods(&there))
        })
    }

    /// Waits until the directory is heard and holds exactly these pods (as `file:pod`).
    async fn until_pods(&mut self, wanted: &[&str]) -> Snapshot {
        self.until(&format!("{wanted:?}"), |s| s.not_heard.is_none() && pods(s) == wanted).await
    }

    fn whole(&self, name: &str) -> String {
        let snapshot = self.receiver.borrow();
        let parsed = snapshot.files.get(self.dir.join(name).to_str().unwrap());
        parsed.and_then(|p| p.whole.as_ref()).map(|r| r.reason.clone()).unwrap_or_default()
    }
}

/// `file:pod` of all documents, in order.
fn pods(snapshot: &Snapshot) -> Vec<String> {
    let mut pods = Vec::new();
    for (path, parsed) in &snapshot.files {
        let file = path.rsplit('/').next().unwrap();
        pods.extend(parsed.documents.iter().map(|d| format!("{file}:{}", d.identity.as_ref().unwrap().name)));
    }
    pods
}

#[tokio::test]
async fn files_come_change_and_go() {
    let dir = TempDir::new().unwrap();
    rename_in(dir.path(), "a.yaml", &pod("one"));
    let mut followed = Followed::of(dir.path());
    let first = followed.until_pods(&["a.yaml:one"]).await;
    assert_eq!(first.generation, 1);
    rename_in(dir.path(), "b.yml", &pod("two"));
    rename_in(dir.path(), "c.json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"three"}}"#);
    let more = followed.until_pods(&["a.yaml:one", "b.yml:two", "c.json:three"]).await;
    let key = dir.path().join("a.yaml").display().to_string();
    assert!(Arc::ptr_eq(&first.files[&key], &more.files[&key]), "an unchanged file is not parsed again");
    rename_in(dir.path(), "a.yaml", &pod("other"));
    fs::remove_file(dir.path().join("b.yml")).unwrap();
    followed.until_pods(&["a.yaml:other", "c.json:three"]).await;
    fs::rename(dir.path().join("a.yaml"), dir.path().join("a.yaml.bak")).unwrap();
    followed.until_pods(&["c.json:three"]).await;
}

#[tokio::test]
async fn editors_leftovers_and_hidden_files_do_not_count() {
    let dir = TempDir::new().unwrap();
    for name in [
        ".a.yaml",
        "a.yaml~",
        "a.yaml.bak",
        ".a.yaml.swp",
        "a.yaml.orig",
        "#a.yaml#",
        "#a.yaml",
        ".#a.yaml",
        "a",
        "yaml",
        "a.txt",
    ] {
        fs::write(dir.path().join(name), pod("x")).unwrap();
    }
    fs::write(dir.path().join("b.yaml"), pod("counted")).unwrap();
    let mut followed = Followed::of(dir.path());
    followed.until_pods(&["b.yaml:counted"]).await;
}

#[tokio::test]
async fn file_written_in_place_is_taken_at_close() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("old.yaml"), pod("before")).unwrap();
    let mut followed = Followed::of(dir.path());
    followed.until_pods(&["old.yaml:before"]).await;
    let mut new = fs::File::create(dir.path().join("new.yaml")).unwrap();
    new.write_all(pod("half").as_bytes()).unwrap();
    let mut old = fs::File::create(dir.path().join("old.yaml")).unwrap();
    old.write_all(pod("after").as_bytes()).unwrap();
    // Comes after both in inotify's order, and makes a snapshot: neither is in it.
    rename_in(dir.path(), "z.yaml", &pod("z"));
    followed.until_pods(&["old.yaml:before", "z.yaml:z"]).await;
    new.write_all(format!("---\n{}", pod("half2")).as_bytes()).unwrap();
    drop(new);
    drop(old);
    followed.until_pods(&["new.yaml:half", "new.yaml:half2", "old.yaml:after", "z.yaml:z"]).await;
}

#[tokio::test]
async fn missing_directory_is_not_heard_from_and_taken_when_it_comes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a/b/manifests");
    let mut followed = Followed::of(&path);
    let none = followed.until("tried", |s| s.generation > 0).await;
    assert!(none.not_heard.unwrap().contains("does not exist"));
    fs::create_dir_all(&path).unwrap();
    rename_in(&path, "a.yaml", &pod("one"));
    followed.until_pods(&["a.yaml:one"]).await;
    fs::rename(dir.path().join("a/b"), dir.path().join("a/c")).unwrap();
    let gone = followed.until("not heard", |s| s.not_heard.is_some()).await;
    assert_eq!(pods(&gone), ["a.yaml:one"], "what was there is still told");
    fs::rename(dir.path().join("a/c"), dir.path().join("a/b")).unwrap();
    followed.until_pods(&["a.yaml:one"]).await;
    rename_in(&path, "b.yaml", &pod("two"));
    followed.until_pods(&["a.yaml:one", "b.yaml:two"]).await;
}

#[tokio::test]
async fn replaced_directory_is_followed() {
    let dir = TempDir::new().unwrap();
    for (name, pods) in [("v1", "one"), ("v2", "two"), ("v3", "three")] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("a.yaml"), pod(pods)).unwrap();
    }
    let path = dir.path().join("manifests");
    symlink("v1", &path).unwrap();
    let mut followed = Followed::of(&path);
    followed.until_pods(&["a.yaml:one"]).await;
    // A swap of the link.
    symlink("v2", dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), &path).unwrap();
    followed.until_pods(&["a.yaml:two"]).await;
    rename_in(&dir.path().join("v2"), "a.yaml", &pod("four"));
    followed.until_pods(&["a.yaml:four"]).await;
    // A directory renamed to where the link leads.
    fs::rename(dir.path().join("v2"), dir.path().join("v2.old")).unwrap();
    fs::rename(dir.path().join("v3"), dir.path().join("v2")).unwrap();
    followed.until_pods(&["a.yaml:three"]).await;
    rename_in(&dir.path().join("v2"), "a.yaml", &pod("five"));
    followed.until_pods(&["a.yaml:five"]).await;
}

#[tokio::test]
async fn config_map_directories_are_followed() {
    let dir = TempDir::new().unwrap();
    let write = |version: &str, name: &str| {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("a.yaml"), pod(name)).unwrap();
    };
    write("..1", "one");
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let mut followed = Followed::of(dir.path());
    followed.until_pods(&["a.yaml:one"]).await;
    write("..2", "two");
    symlink("..2", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    followed.until_pods(&["a.yaml:two"]).await;
    // A link that comes later, to a file elsewhere that is then replaced.
    let elsewhere = TempDir::new().unwrap();
    rename_in(elsewhere.path(), "b.yaml", &pod("b1"));
    symlink(elsewhere.path().join("b.yaml"), dir.path().join("b.yaml")).unwrap();
    followed.until_pods(&["a.yaml:two", "b.yaml:b1"]).await;
    rename_in(elsewhere.path(), "b.yaml", &pod("b2"));
    followed.until_pods(&["a.yaml:two", "b.yaml:b2"]).await;
}

#[tokio::test]
async fn what_is_no_manifest_is_reported_and_stops_nothing() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    nix::unistd::mkfifo(&at("fifo.yaml"), Mode::S_IRUSR).unwrap();
    fs::create_dir(at("dir.yaml")).unwrap();
    symlink("loop.yaml", at("loop.yaml")).unwrap();
    symlink("nowhere", at("dangling.yaml")).unwrap();
    symlink("/dev/zero", at("device.yaml")).unwrap();
    fs::File::create(at("large.yaml")).unwrap().set_len(11 << 20).unwrap();
    fs::write(at("binary.yaml"), b"a: \0").unwrap();
    fs::write(at("empty.yaml"), b"").unwrap();
    fs::write(at("half.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: x").unwrap();
    fs::write(at("good.yaml"), pod("good")).unwrap();
    let mut followed = Followed::of(dir.path());
    followed.until_pods(&["good.yaml:good"]).await;
    for (name, reason) in [
        ("fifo.yaml", "FIFO"),
        ("dir.yaml", "directory"),
        ("loop.yaml", "loop"),
        ("dangling.yaml", "does not exist"),
        ("device.yaml", "device"),
        ("large.yaml", "more than"),
        ("binary.yaml", "binary"),
        ("empty.yaml", "empty"),
        ("half.yaml", "not YAML"),
    ] {
        assert!(followed.whole(name).contains(reason), "{name}: {}", followed.whole(name));
    }
    // And they are taken as soon as they are put right.
    fs::remove_file(at("fifo.yaml")).unwrap();
    rename_in(dir.path(), "fifo.yaml", &pod("file"));
    fs::remove_file(at("loop.yaml")).unwrap();
    fs::hard_link(at("good.yaml"), at("loop.yaml")).unwrap();
    followed.until_pods(&["fifo.yaml:file", "good.yaml:good", "loop.yaml:good"]).await;
}

#[tokio::test]
async fn bad_edit_is_told_as_one() {
    let dir = TempDir::new().unwrap();
    rename_in(dir.path(), "a.yaml", &pod("one"));
    let mut followed = Followed::of(dir.path());
    followed.until_pods(&["a.yaml:one"]).await;
    fs::write(dir.path().join("a.yaml"), "").unwrap();
    followed.until("the bad edit", |s| s.files.values().any(|p| p.whole.is_some())).await;
    assert!(followed.whole("a.yaml").contains("empty"));
}

#[tokio::test]
async fn many_files_are_all_there() {
    let dir = TempDir::new().unwrap();
    for i in 0..300 {
        fs::write(dir.path().join(format!("{i:03}.yaml")), pod(&format!("p{i}"))).unwrap();
    }
    let mut followed = Followed::of(dir.path());
    followed.until("300", |s| pods(s).len() == 300).await;
    for i in 0..300 {
        rename_in(dir.path(), &format!("{i:03}.yaml"), &pod(&format!("q{i}")));
    }
    followed.until("300 changed", |s| pods(s).iter().all(|p| p.contains(":q"))).await;
}
