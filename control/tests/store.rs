//! What every store promises, asked of both: the embedded one and a real etcd behind TLS.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use control::store::embedded::{self, Embedded, RESTORED};
use control::store::etcd::{Connection, Etcd};
use control::store::{CHANGES_MAX, Change, Entry, Expected, Range, Store, StoreError, VALUE_MAX, Watch, Write};
use tests::etcd::TestEtcd;

/// A watch that has to say something says it by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// One test of each name for each store.
macro_rules! for_both {
    ($($name:ident),* $(,)?) => {
        mod of_embedded {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().expect("a directory");
                super::$name(&open(&dir.path().join("store"))).await;
            })*
        }
        mod of_etcd {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                let etcd = TestEtcd::start();
                super::$name(&connect(&etcd).await.expect("it answers")).await;
            })*
        }
    };
}

for_both!(
    a_write_replaces_only_what_it_expects,
    lists_are_pages_of_one_moment,
    a_watch_tells_everything_in_order_from_where_it_was_asked,
    what_is_compacted_is_gone_for_lists_and_watches_and_nothing_else,
    writers_that_race_lose_no_update,
    what_no_object_may_be_is_refused,
    large_objects_come_in_answers_of_bounded_size,
);

fn open(path: &Path) -> Embedded {
    Embedded::open(path).expect("a store can be made")
}

async fn connect(etcd: &TestEtcd) -> Result<Etcd, StoreError> {
    let identity = etcd.client();
    Etcd::connect(Connection {
        endpoints: vec![etcd.url()],
        authority: Some(etcd.authority().into()),
        identity: Some((identity.cert.into(), identity.key.into())),
    })
    .await
}

async fn put(store: &impl Store, key: &str, value: &str, expected: Expected) -> Result<u64, StoreError> {
    store.write(Write { key: key.to_owned(), value: Some(value.into()), expected }).await
}

async fn create(store: &impl Store, key: &str, value: &str) -> u64 {
    put(store, key, value, Expected::Absent).await.expect("it is new")
}

async fn delete(store: &impl Store, key: &str, at: u64) -> Result<u64, StoreError> {
    store.write(Write { key: key.to_owned(), value: None, expected: Expected::At(at) }).await
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

fn all(prefix: &str) -> Range {
    Range { prefix: prefix.to_owned(), ..Range::default() }
}

/// The next changes of a watch, as many as are wanted.
async fn told(watch: &mut impl Watch, wanted: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < wanted {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await;
        let next = next.unwrap_or_else(|_| panic!("only {} of {wanted} changes were told", changes.len()));
        let next = next.expect("nothing is compacted");
        assert!(next.changes.last().is_none_or(|last| last.revision <= next.revision));
        changes.extend(next.changes);
    }
    changes
}

async fn a_write_replaces_only_what_it_expects(store: &impl Store) {
    let nothing = store.get("/pods/a").await.expect("read");
    assert_eq!(nothing.entry, None);
    assert!(matches!(
        put(store, "/pods/a", "x", Expected::At(7)).await,
        Err(StoreError::Conflict { current: None, .. })
    ));
    assert!(matches!(delete(store, "/pods/a", 7).await, Err(StoreError::Conflict { current: None, .. })));
    let none = Write { key: "/pods/a".into(), value: None, expected: Expected::Absent };
    assert!(matches!(store.write(none).await, Err(StoreError::Conflict { current: None, .. })));

    let first = create(store, "/pods/a", "one").await;
    assert!(first > nothing.revision);
    let one = Entry { key: "/pods/a".into(), value: b"one".to_vec(), revision: first, created: first };
    let found = store.get("/pods/a").await.expect("read");
    assert_eq!((found.entry.as_ref(), found.revision), (Some(&one), first));
    for expected in [Expected::Absent, Expected::At(first + 1), Expected::At(0)] {
        let refused = put(store, "/pods/a", "two", expected).await;
        assert!(
            matches!(&refused, Err(StoreError::Conflict { current: Some(current), .. }) if *current == one),
            "{refused:?}"
        );
    }
    let second = put(store, "/pods/a", "two", Expected::At(first)).await.expect("as expected");
    let found = store.get("/pods/a").await.expect("read").entry.expect("there");
    assert_eq!((found.value.as_slice(), found.revision, found.created), (&b"two"[..], second, first));
    assert!(second > first, "a refused write takes no revision from another");

    let gone = delete(store, "/pods/a", second).await.expect("as expected");
    let found = store.get("/pods/a").await.expect("read");
    assert_eq!((found.entry, found.revision), (None, gone));
    let again = create(store, "/pods/a", "three").await;
    assert_eq!(store.get("/pods/a").await.expect("read").entry.expect("there").created, again);
}

async fn lists_are_pages_of_one_moment(store: &impl Store) {
    for name in ["b", "a", "d", "c"] {
        create(store, &format!("/pods/x/{name}"), name).await;
    }
    // Neighbours that share letters are not of the list.
    create(store, "/pods/xa/z", "z").await;
    create(store, "/pod", "z").await;
    let range = Range { limit: Some(2), ..all("/pods/x/") };
    let first = store.list(&range).await.expect("listed");
    assert_eq!((keys(&first.entries), first.more), (vec!["/pods/x/a", "/pods/x/b"], true));

    // Meanwhile the world goes on.
    let c = store.get("/pods/x/c").await.expect("read").entry.expect("there");
    put(store, "/pods/x/c", "new", Expected::At(c.revision)).await.expect("as expected");
    let d = store.get("/pods/x/d").await.expect("read").entry.expect("there");
    delete(store, "/pods/x/d", d.revision).await.expect("as expected");
    create(store, "/pods/x/e", "e").await;

    let next = Range { after: Some("/pods/x/b".into()), at: Some(first.revision), ..range.clone() };
    let second = store.list(&next).await.expect("listed");
    assert_eq!((second.entries, second.more, second.revision), (vec![c, d], false, first.revision));
    let now = store.list(&all("/pods/x/")).await.expect("listed");
    assert_eq!(keys(&now.entries), ["/pods/x/a", "/pods/x/b", "/pods/x/c", "/pods/x/e"]);
    assert_eq!(now.entries[2].value, b"new");
    let exact = Range { limit: Some(4), ..all("/pods/x/") };
    assert!(!store.list(&exact).await.expect("listed").more);
    let rest = Range { after: Some("/pods/x/c".into()), ..all("/pods/x/") };
    assert_eq!(keys(&store.list(&rest).await.expect("listed").entries), ["/pods/x/e"]);
    assert_eq!(store.list(&all("/nodes/")).await.expect("listed").entries, []);

    let future = Range { at: Some(now.revision + 1000), ..all("/pods/x/") };
    assert!(matches!(store.list(&future).await, Err(StoreError::Future { .. })));
}

async fn large_objects_come_in_answers_of_bounded_size(store: &impl Store) {
    let large = "x".repeat(1 << 20);
    for name in 0..12 {
        create(store, &format!("/large/{name:02}"), &large).await;
    }
    for name in 0..100 {
        create(store, &format!("/small/{name:03}"), "x").await;
    }
    let mut range = Range { limit: Some(100), ..all("/large/") };
    let mut found = Vec::new();
    loop {
        let page = store.list(&range).await.expect("listed");
        let bytes: usize = page.entries.iter().map(|entry| entry.value.len()).sum();
        assert!(bytes <= 24 << 20, "{bytes}");
        range.after = page.entries.last().map(|entry| entry.key.clone());
        range.at = Some(page.revision);
        found.extend(page.entries.into_iter().map(|entry| entry.key));
        if !page.more {
            break;
        }
    }
    assert_eq!(found.len(), 12);
    assert!(found.is_sorted());
    // However it is asked for behind the scenes, a page has what it may have.
    let small = Range { limit: Some(90), counted: true, ..all("/small/") };
    let page = store.list(&small).await.expect("listed");
    assert_eq!((page.entries.len(), page.more, page.remaining), (90, true, Some(10)));
    assert_eq!(store.list(&all("/small/")).await.expect("listed").entries.len(), 100);
    let mut watch = store.watch("/large/", 0).await.expect("it is kept");
    let mut told = 0;
    while told < 12 {
        let changes = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").expect("told").changes;
        let bytes: usize = changes.iter().filter_map(|change| change.now.as_ref()).map(|now| now.value.len()).sum();
        assert!(bytes <= 4 << 20, "{bytes}");
        told += changes.len();
    }
}

async fn a_watch_tells_everything_in_order_from_where_it_was_asked(store: &impl Store) {
    let before = create(store, "/pods/a", "0").await;
    let start = create(store, "/pods/b", "0").await;
    let mut early = store.watch("/pods/", before).await.expect("it is kept");
    let mut watch = store.watch("/pods/", start).await.expect("it is kept");
    let two = put(store, "/pods/a", "1", Expected::At(before)).await.expect("as expected");
    create(store, "/nodes/a", "0").await;
    let gone = delete(store, "/pods/a", two).await.expect("as expected");
    let back = create(store, "/pods/a", "2").await;

    let entry =
        |value: &str, revision, created| Entry { key: "/pods/a".to_owned(), value: value.into(), revision, created };
    let change = |revision, now, before| Change { key: "/pods/a".to_owned(), revision, now, before };
    let expected = [
        change(two, Some(entry("1", two, before)), Some(entry("0", before, before))),
        change(gone, None, Some(entry("1", two, before))),
        change(back, Some(entry("2", back, back)), None),
    ];
    assert_eq!(told(&mut watch, 3).await, expected);
    assert_eq!(told(&mut early, 4).await[1..], expected);
    // Who comes late is told all the same, and more than fits into one answer in several.
    let mut last = back;
    let many = CHANGES_MAX + 20;
    for value in 0..many {
        last = put(store, "/pods/a", &value.to_string(), Expected::At(last)).await.expect("as expected");
    }
    let mut late = store.watch("/pods/", back).await.expect("it is kept");
    let changes = told(&mut late, many).await;
    assert!(changes.is_sorted_by(|a, b| a.revision < b.revision));
    assert_eq!(changes.last().and_then(|change| change.now.as_ref()).map(|entry| entry.revision), Some(last));
    // Nothing of others, and nothing twice.
    create(store, "/podsx", "0").await;
    let end = create(store, "/pods/end", "0").await;
    assert_eq!(told(&mut late, 1).await[0].revision, end);
    assert!(matches!(store.watch("/pods/", end + 1000).await, Err(StoreError::Future { .. })));
}

async fn what_is_compacted_is_gone_for_lists_and_watches_and_nothing_else(store: &impl Store) {
    let first = create(store, "/pods/a", "0").await;
    create(store, "/pods/kept", "k").await;
    let dead = create(store, "/pods/dead", "d").await;
    let mut last = first;
    for value in 1..50 {
        last = put(store, "/pods/a", &value.to_string(), Expected::At(last)).await.expect("as expected");
    }
    let upto = delete(store, "/pods/dead", dead).await.expect("as expected");
    let after = put(store, "/pods/a", "after", Expected::At(last)).await.expect("as expected");
    store.compact(upto).await.expect("compacted");
    store.compact(first).await.expect("it has been done");

    let then = store.list(&Range { at: Some(upto), ..all("/pods/") }).await.expect("it is kept");
    assert_eq!(keys(&then.entries), ["/pods/a", "/pods/kept"]);
    assert_eq!(then.entries[0].value, b"49");
    let gone = store.list(&Range { at: Some(upto - 1), ..all("/pods/") }).await;
    assert!(matches!(gone, Err(StoreError::Compacted { .. })), "{gone:?}");
    match store.watch("/pods/", first).await {
        Err(error) => assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}"),
        Ok(mut watch) => {
            let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("it is told");
            assert!(matches!(next, Err(StoreError::Compacted { .. })), "{next:?}");
        }
    }
    // From where it was compacted everything is told, with what was before.
    let mut watch = store.watch("/pods/", upto).await.expect("it is kept");
    let change = told(&mut watch, 1).await.pop().expect("one");
    assert_eq!((change.revision, change.before.map(|entry| entry.value)), (after, Some(b"49".to_vec())));
    let found = store.get("/pods/kept").await.expect("read").entry.expect("there");
    assert_eq!(found.value, b"k");
}

async fn writers_that_race_lose_no_update(store: &impl Store) {
    let start = create(store, "/counter", "0").await;
    let writer = || async {
        for _ in 0..20 {
            loop {
                let found = store.get("/counter").await.expect("read").entry.expect("there");
                let value: u64 = String::from_utf8_lossy(&found.value).parse().expect("a number");
                match put(store, "/counter", &(value + 1).to_string(), Expected::At(found.revision)).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let mut watch = store.watch("/counter", start).await.expect("it is kept");
    tokio::join!(writer(), writer(), writer(), writer(), writer());
    let values: Vec<String> = told(&mut watch, 100)
        .await
        .into_iter()
        .map(|change| String::from_utf8_lossy(&change.now.expect("there").value).into_owned())
        .collect();
    assert_eq!(values, (1..=100).map(|value: u64| value.to_string()).collect::<Vec<_>>());
}

async fn what_no_object_may_be_is_refused(store: &impl Store) {
    let big = "x".repeat(VALUE_MAX + 1);
    for (key, value) in [("", "v"), ("/a\0b", "v"), ("/a", &big)] {
        let refused = put(store, key, value, Expected::Absent).await;
        assert!(matches!(refused, Err(StoreError::Unfit { .. })), "{refused:?}");
    }
    create(store, "/a", "").await;
    assert_eq!(store.get("/a").await.expect("read").entry.expect("there").value, b"");
}

#[tokio::test]
async fn the_embedded_store_keeps_everything_over_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = open(&path);
    let first = create(&store, "/pods/a", "0").await;
    let second = put(&store, "/pods/a", "1", Expected::At(first)).await.expect("as expected");
    assert!(Embedded::open(&path).is_err(), "two would write over each other");
    drop(store);
    let store = reopened(&path).await;
    let mut watch = store.watch("/pods/", first).await.expect("it is kept");
    assert_eq!(told(&mut watch, 1).await[0].revision, second);
    assert!(put(&store, "/pods/a", "2", Expected::At(second)).await.expect("as expected") > second);
}

/// The thread of a dropped store ends by itself, and its file is locked until then.
async fn reopened(path: &Path) -> Embedded {
    tests::wait::wait_for("the file is free", || Embedded::open(path).map_err(|error| format!("{error:?}")))
}

#[tokio::test]
async fn a_copy_put_back_gives_no_revision_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = open(&path);
    let first = create(&store, "/pods/a", "0").await;
    let of_copy = store.clone();
    let to = copy.clone();
    tokio::task::spawn_blocking(move || of_copy.backup(&to)).await.expect("it ends").expect("copied");
    let lost = put(&store, "/pods/a", "lost", Expected::At(first)).await.expect("as expected");
    assert!(embedded::restore(&copy, &path).is_err(), "it is open");
    drop(store);
    drop(reopened(&path).await);
    tests::wait::wait_for("it is put back", || embedded::restore(&copy, &path).map_err(|error| format!("{error:?}")));

    let store = reopened(&path).await;
    let found = store.get("/pods/a").await.expect("read");
    assert_eq!(found.entry.expect("there").value, b"0");
    assert_eq!(found.revision, first + RESTORED);
    let gone = store.watch("/pods/", lost).await.map(drop);
    assert!(matches!(gone, Err(StoreError::Compacted { .. })), "{gone:?}");
    let again = put(&store, "/pods/a", "2", Expected::At(first)).await.expect("as expected");
    assert!(again > lost);
    // The same copy once more.
    drop(store);
    drop(reopened(&path).await);
    tests::wait::wait_for("it is put back", || embedded::restore(&copy, &path).map_err(|error| format!("{error:?}")));
    assert!(reopened(&path).await.get("/pods/a").await.expect("read").revision > again);
}

#[tokio::test]
async fn a_copy_replaces_a_store_that_is_damaged_and_that_is_set_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = open(&path);
    let first = create(&store, "/pods/a", "0").await;
    let to = copy.clone();
    tokio::task::spawn_blocking(move || store.backup(&to)).await.expect("it ends").expect("copied");
    drop(reopened(&path).await);
    for damage in ["", "this is no store"] {
        // Another file: whoever had the store open may still write to the one that was there.
        let damaged = dir.path().join("other");
        std::fs::write(&damaged, damage).expect("written");
        std::fs::rename(&damaged, &path).expect("in its place");
        let put_back = || embedded::restore(&copy, &path).map_err(|error| format!("{error:?}"));
        tests::wait::wait_for("it is put back", put_back);
        let found = reopened(&path).await.get("/pods/a").await.expect("read");
        assert_eq!((found.entry.expect("there").value, found.revision), (b"0".to_vec(), first + RESTORED));
        assert_eq!(std::fs::read_to_string(dir.path().join("store.damaged")).expect("kept"), damage);
        drop(reopened(&path).await);
    }
}

#[tokio::test]
async fn compaction_gives_the_room_back_and_lets_writes_through() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("store"));
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    for round in 0..60 {
        let writes = (0..100_u32).map(|key| {
            let expected = last.get(&key).map_or(Expected::Absent, |at| Expected::At(*at));
            let (store, name) = (&store, format!("/pods/{key}"));
            async move { (key, put(store, &name, &"v".repeat(100 + round), expected).await.expect("as expected")) }
        });
        for (key, at) in futures_of(writes).await {
            last.insert(key, at);
        }
    }
    let newest = store.get("/pods/1").await.expect("read").revision;
    let (compacted, written) = tokio::join!(store.compact(newest), put(&store, "/late", "x", Expected::Absent));
    compacted.expect("compacted");
    written.expect("it is new");
    let page = store.list(&all("/pods/")).await.expect("listed");
    assert_eq!(page.entries.len(), 100);
    assert!(page.entries.iter().all(|entry| last.values().any(|at| *at == entry.revision)));
}

/// A file system of this size, in memory.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(size: &str) -> Disk {
        let dir = tempfile::tempdir().expect("a directory");
        let options = format!("size={size}");
        nix::mount::mount(
            Some("test"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("these tests need root");
        Disk(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_loses_nothing_and_heals() {
    let disk = Disk::of("4m");
    let store = open(&disk.0.path().join("store"));
    let first = create(&store, "/pods/a", "0").await;
    let mut watch = store.watch("/pods/", first).await.expect("it is kept");
    let filler = disk.0.path().join("filler");
    // Until nothing fits any more.
    let _ = std::fs::write(&filler, vec![1; 4 << 20]);
    let big = "x".repeat(VALUE_MAX);
    let mut written: BTreeMap<String, u64> = BTreeMap::new();
    let error = loop {
        let key = format!("/pods/full-{}", written.len());
        match put(&store, &key, &big, Expected::Absent).await {
            Ok(at) => written.insert(key, at),
            Err(error) => break error,
        };
    };
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert_eq!(store.get("/pods/a").await.expect("it is read all the same").entry.expect("there").revision, first);

    std::fs::remove_file(&filler).expect("it is there");
    let healed = create(&store, "/pods/healed", "1").await;
    let changes = told(&mut watch, written.len() + 1).await;
    assert_eq!(changes.last().map(|change| change.revision), Some(healed));
    for (key, at) in written {
        assert_eq!(store.get(&key).await.expect("read").entry.map(|entry| entry.revision), Some(at), "{key}");
    }
}

/// All at once.
async fn futures_of<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut done = Vec::new();
    let mut waiting: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        waiting.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

#[tokio::test]
async fn an_etcd_that_is_away_is_said_and_found_again() {
    let mut etcd = TestEtcd::start();
    let store = connect(&etcd).await.expect("it answers");
    let first = create(&store, "/pods/a", "0").await;
    let mut watch = store.watch("/pods/", first).await.expect("it is kept");
    etcd.down();
    let error = store.get("/pods/a").await.expect_err("it is away");
    assert!(matches!(&error, StoreError::Unavailable { place, .. } if *place == etcd.url()), "{error:?}");
    let ended = tokio::time::timeout(PATIENCE, watch.next()).await.expect("it is told");
    assert!(matches!(ended, Err(StoreError::Unavailable { .. })), "{ended:?}");
    etcd.up();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let found = loop {
        match store.get("/pods/a").await {
            Ok(found) => break found,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error:?}"),
        }
    };
    assert_eq!(found.entry.expect("it was durable").revision, first);
}

#[tokio::test]
async fn nobody_without_a_certificate_comes_into_etcd() {
    let etcd = TestEtcd::start();
    let connection =
        Connection { endpoints: vec![etcd.url()], authority: Some(etcd.authority().into()), identity: None };
    assert!(matches!(Etcd::connect(connection).await.map(drop), Err(StoreError::Unavailable { .. })));
}
