//! The collector over a shelf in memory, whose disk fills and empties with its images.

use std::sync::Arc;

use super::*;
use crate::seams::Keep;

/// A disk of 100 bytes; each image takes ten.
#[derive(Clone, Default)]
struct Fake {
    images: Arc<Mutex<Vec<ShelvedImage>>>,
    marked: Arc<Mutex<Vec<String>>>,
    /// Other bytes on the disk.
    other: u64,
    retried: Arc<Mutex<u32>>,
    /// Becomes needed while it is removed.
    taken: Option<&'static str>,
    /// containerd fails at its removal.
    stuck: Option<&'static str>,
    marked_at: Arc<Mutex<Option<jiff::Timestamp>>>,
}

impl ImageShelf for Fake {
    async fn shelf(&self, wanted: &BTreeSet<String>) -> Result<Vec<ShelvedImage>, ShelfError> {
        let mut images = self.images.lock().unwrap().clone();
        images.iter_mut().filter(|i| wanted.contains(&i.names[0])).for_each(|i| i.keep = Some(Keep::Needed));
        Ok(images)
    }

    async fn mark_used(&self, images: &[ShelvedImage], now: jiff::Timestamp) -> Result<(), ShelfError> {
        self.marked_at.lock().unwrap().replace(now);
        self.marked.lock().unwrap().extend(images.iter().map(|image| image.digest.clone()));
        Ok(())
    }

    async fn remove(
        &self,
        image: &ShelvedImage,
        wanted: &(dyn Fn() -> BTreeSet<String> + Send + Sync),
    ) -> Result<Removed, ShelfError> {
        if wanted().contains(&image.names[0]) || self.taken == Some(image.names[0].as_str()) {
            return Ok(Removed::Kept);
        }
        if self.stuck == Some(image.names[0].as_str()) {
            return Err(ShelfError { message: "it is stuck".into(), unavailable: false });
        }
        self.images.lock().unwrap().retain(|i| i.digest != image.digest);
        Ok(Removed::Gone { freed: 10 })
    }

    async fn drop_abandoned(&self, _: &(dyn Fn() -> BTreeSet<String> + Send + Sync)) -> Result<usize, ShelfError> {
        Ok(0)
    }

    async fn disks(&self) -> Result<Vec<DiskUse>, ShelfError> {
        let used = self.other + 10 * self.images.lock().unwrap().len() as u64;
        Ok(vec![DiskUse { path: "/d".into(), capacity: 100, available: 100 - used, inodes: 0, inodes_free: 0 }])
    }

    async fn disk_moved(&self) -> Moved {
        std::future::pending().await
    }

    fn room_made(&self) {
        *self.retried.lock().unwrap() += 1;
    }
}

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).unwrap()
}

/// `a` was used longest ago.
fn shelf(names: &[(&str, Option<Keep>)]) -> Fake {
    let image = |(n, (name, keep)): (usize, &(&str, Option<Keep>))| ShelvedImage {
        names: vec![(*name).to_owned()],
        digest: (*name).to_owned(),
        last_used: at(i64::try_from(n).unwrap()),
        keep: *keep,
    };
    Fake { images: Arc::new(Mutex::new(names.iter().enumerate().map(image).collect())), ..Fake::default() }
}

struct Bench {
    board: Board,
    desired: watch::Sender<DesiredSet>,
    collector: Collector<Fake>,
    fake: Fake,
}

fn bench(fake: Fake, settings: ImageGc) -> Bench {
    let (board, _commands) = Board::new();
    let (desired, set) =
        watch::channel(DesiredSet { complete: true, heard: pod::desired::Source::ALL.into(), ..DesiredSet::default() });
    let collector = Collector::new(fake.clone(), settings, board.clone(), set);
    Bench { board, desired, collector, fake }
}

impl Bench {
    fn left(&self) -> Vec<String> {
        self.fake.images.lock().unwrap().iter().map(|image| image.digest.clone()).collect()
    }

    fn reasons(&self) -> Vec<String> {
        self.board.events().iter().map(|seen| seen.reason.clone()).collect()
    }
}

#[tokio::test]
async fn a_full_disk_loses_its_longest_unused_images_until_the_low_threshold_and_no_more() {
    let fake = Fake { other: 50, ..shelf(&[("a", None), ("b", Some(Keep::Pinned)), ("c", None), ("d", None)]) };
    let bench = bench(fake, ImageGc::default());
    bench.collector.look(at(1000)).await;
    assert_eq!(bench.left(), ["b", "c", "d"], "90% used, 80% after one");
    assert_eq!((bench.board.node().disk_pressure, bench.reasons()), (None, Vec::new()));
    assert_eq!(*bench.fake.retried.lock().unwrap(), 1, "what found no room is tried again");
}

#[tokio::test]
async fn below_the_high_threshold_nothing_is_removed() {
    let bench = bench(Fake { other: 54, ..shelf(&[("a", None), ("b", None), ("c", None)]) }, ImageGc::default());
    bench.collector.look(at(1000)).await;
    assert_eq!(bench.left().len(), 3);
}

#[tokio::test]
async fn a_disk_that_images_cannot_empty_is_said_until_it_has_room() {
    let mut bench = bench(Fake { other: 80, ..shelf(&[("a", None), ("b", Some(Keep::Needed))]) }, ImageGc::default());
    bench.collector.look(at(1000)).await;
    assert_eq!(bench.left(), ["b"]);
    let said = bench.board.node().disk_pressure.expect("90% are used");
    assert!(
        said.contains("90% full") && said.contains("images removed: 1 (10 B)") && said.contains("1 needed"),
        "{said}"
    );
    bench.collector.shelf.other = 81;
    bench.collector.look(at(1300)).await;
    assert_eq!(bench.reasons(), ["FreeDiskSpaceFailed"], "once, also when the numbers move");
    bench.collector.shelf.other = 10;
    bench.collector.look(at(2000)).await;
    assert_eq!(bench.board.node().disk_pressure, None);
}

#[tokio::test]
async fn nothing_is_removed_before_every_source_has_been_heard() {
    let bench = bench(Fake { other: 80, ..shelf(&[("a", None)]) }, ImageGc::default());
    bench.desired.send_modify(|set| set.complete = false);
    bench.collector.look(at(1000)).await;
    assert!(matches!(bench.collector.prune(false).await, Err(CollectError::Unheard { .. })));
    assert_eq!(bench.left(), ["a"]);
    assert_eq!(bench.reasons(), ["ImageGCFailed"]);
    assert!(bench.board.node().disk_pressure.is_some());
}

#[tokio::test]
async fn an_image_that_becomes_needed_at_the_last_moment_is_passed_over() {
    let fake = shelf(&[("a", None), ("b", None), ("c", None)]);
    let bench = bench(Fake { other: 60, taken: Some("a"), ..fake }, ImageGc::default());
    bench.collector.look(at(1000)).await;
    assert_eq!(bench.left(), ["a", "c"]);
}

#[tokio::test]
async fn an_old_image_goes_however_empty_the_disk_is() {
    let settings = ImageGc { maximum_age: Some(Duration::from_secs(500)), ..ImageGc::default() };
    let bench = bench(shelf(&[("a", None), ("b", Some(Keep::Lies))]), settings);
    bench.collector.look(at(400)).await;
    assert_eq!(bench.left().len(), 2);
    bench.collector.look(at(600)).await;
    assert_eq!(bench.left(), ["b"]);
}

#[tokio::test]
async fn the_end_of_a_use_is_written_down() {
    let bench = bench(shelf(&[("a", Some(Keep::Needed))]), ImageGc::default());
    bench.collector.look(at(10)).await;
    assert!(bench.fake.marked.lock().unwrap().is_empty());
    bench.fake.images.lock().unwrap()[0].keep = None;
    bench.collector.look(at(20)).await;
    bench.collector.look(at(30)).await;
    assert_eq!(*bench.fake.marked.lock().unwrap(), ["a"]);
}

#[tokio::test]
async fn a_dry_run_of_prune_removes_nothing_and_prune_everything_that_may_go() {
    let bench = bench(shelf(&[("a", None), ("b", Some(Keep::Pinned)), ("c", None)]), ImageGc::default());
    let would = bench.collector.prune(true).await.unwrap();
    assert_eq!((would.images.len(), bench.left().len()), (2, 3));
    let pruned = bench.collector.prune(false).await.unwrap();
    assert_eq!(
        pruned.images.iter().map(|(image, bytes)| (image.digest.as_str(), *bytes)).collect::<Vec<_>>(),
        [("a", 10), ("c", 10)]
    );
    assert_eq!(bench.left(), ["b"]);
}

#[tokio::test]
async fn a_prune_that_fails_midway_says_what_it_has_removed() {
    let fake = Fake { stuck: Some("b"), ..shelf(&[("a", None), ("b", None), ("c", None)]) };
    let bench = bench(fake, ImageGc::default());
    let pruned = bench.collector.prune(false).await.unwrap();
    let removed: Vec<&str> = pruned.images.iter().map(|(image, _)| image.digest.as_str()).collect();
    assert_eq!((removed, bench.left()), (vec!["a"], vec!["b".to_owned(), "c".to_owned()]));
    assert!(pruned.ended.unwrap().to_string().contains("stuck"));
    assert_eq!(*bench.fake.retried.lock().unwrap(), 1, "the room that was made is used");
    assert!(bench.collector.prune(false).await.is_err(), "nothing was removed");
}

#[tokio::test]
async fn a_prune_that_nobody_waits_for_removes_no_more() {
    let bench = bench(shelf(&[("a", None), ("b", None)]), ImageGc::default());
    let left = || bench.fake.images.lock().unwrap().len();
    bench.collector.prune_while(false, || left() == 2).await.unwrap();
    assert_eq!(left(), 1);
}
