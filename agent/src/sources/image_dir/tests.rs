use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// Images as a list, with imports by file name: `x.tar` brings image `x`.
#[derive(Clone, Default)]
struct Fake {
    images: Arc<Mutex<Vec<PresentImage>>>,
    imports: Arc<AtomicUsize>,
    away: Arc<AtomicBool>,
    readings: Arc<Mutex<Vec<Reading>>>,
}

impl ImageStore for Fake {
    async fn images(&self, _: Look) -> Result<Vec<PresentImage>, ImportFailure> {
        if self.away.load(Ordering::SeqCst) {
            return Err(ImportFailure::Unavailable("nobody there".into()));
        }
        Ok(self.images.lock().unwrap().clone())
    }

    async fn import(&self, archive: &Path, stamp: &str) -> Result<Import, ImportFailure> {
        self.imports.fetch_add(1, Ordering::SeqCst);
        let content = std::fs::read_to_string(archive).unwrap();
        if content == "bad" {
            return Err(ImportFailure::Refused(format!("{}: bad", archive.display())));
        }
        let mut images = self.images.lock().unwrap();
        let mut stamps = images.iter().find(|i| i.name == content).map(|i| i.stamps.clone()).unwrap_or_default();
        stamps.push(stamp.to_owned());
        images.retain(|i| i.name != content);
        images.push(PresentImage { name: content.clone(), digest: format!("d-{stamp}"), stamps, ..Default::default() });
        Ok(Import { images: vec![(content, String::new())], skipped: Vec::new() })
    }

    fn first_reading(&self, reading: Reading) {
        self.readings.lock().unwrap().push(reading);
    }
}

struct Running {
    dir: tempfile::TempDir,
    store: Fake,
    rows: watch::Receiver<Vec<ImageOutcome>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn run(before: impl FnOnce(&Path)) -> Running {
    let dir = tempfile::tempdir().unwrap();
    before(dir.path());
    start(dir, Fake::default())
}

fn start(dir: tempfile::TempDir, store: Fake) -> Running {
    let (rows, task) = follow(dir.path().join("images"), store.clone());
    Running { dir, store, rows, task: tokio::spawn(task) }
}

impl Running {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("images").join(name)
    }

    async fn until(&mut self, what: &str, is: impl Fn(&[ImageOutcome]) -> bool) {
        let seen = tokio::time::timeout(Duration::from_secs(20), self.rows.wait_for(|rows| is(rows))).await.is_ok();
        assert!(seen, "{what}: {:?}", *self.rows.borrow());
    }
}

fn imported(rows: &[ImageOutcome], name: &str) -> bool {
    rows.iter().any(|r| r.state == ImageState::Imported && r.names == [name] && !r.file.is_empty())
}

fn make(dir: &Path) {
    std::fs::create_dir_all(dir.join("images")).unwrap();
}

#[tokio::test]
async fn archives_are_imported_when_they_are_there_closed_or_moved_in() {
    let mut node = run(|dir| {
        make(dir);
        std::fs::write(dir.join("images/a.tar"), "a").unwrap();
    });
    node.until("there before", |rows| imported(rows, "a")).await;
    std::fs::write(node.path("b.tgz"), "b").unwrap();
    node.until("written", |rows| imported(rows, "b")).await;
    std::fs::write(node.path("c.tar.zst.part"), "c").unwrap();
    std::fs::write(node.path(".d.tar"), "d").unwrap();
    std::fs::rename(node.path("c.tar.zst.part"), node.path("c.tar.zst")).unwrap();
    node.until("moved in", |rows| imported(rows, "c")).await;
    assert_eq!(node.store.imports.load(Ordering::SeqCst), 3, "the hidden file does not count");
}

#[tokio::test]
async fn a_restart_with_everything_imported_does_no_work() {
    let mut node = run(|dir| {
        make(dir);
        std::fs::write(dir.join("images/a.tar"), "a").unwrap();
    });
    node.until("imported", |rows| imported(rows, "a")).await;
    node.task.abort();
    let (mut rows, task) = follow(node.dir.path().join("images"), node.store.clone());
    let task = tokio::spawn(task);
    tokio::time::timeout(Duration::from_secs(20), rows.wait_for(|r| imported(r, "a"))).await.unwrap().unwrap();
    task.abort();
    assert_eq!(node.store.imports.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refused_archive_says_why_and_is_tried_again_only_when_it_changes() {
    let mut node = run(|dir| {
        make(dir);
        std::fs::write(dir.join("images/a.tar"), "bad").unwrap();
    });
    node.until("refused", |rows| rows.iter().any(|r| r.state == ImageState::Refused && r.message.contains("bad")))
        .await;
    std::fs::write(node.path("b.tar"), "b").unwrap();
    node.until("another", |rows| imported(rows, "b")).await;
    assert_eq!(node.store.imports.load(Ordering::SeqCst), 2, "the bad one was not tried again");
    std::fs::write(node.path("a.tar"), "good").unwrap();
    node.until("mended", |rows| imported(rows, "good") && rows.len() == 2).await;
}

#[tokio::test]
async fn a_missing_directory_and_an_absent_store_are_waited_for() {
    let store = Fake::default();
    store.away.store(true, Ordering::SeqCst);
    let mut node = start(tempfile::tempdir().unwrap(), store);
    make(node.dir.path());
    std::fs::write(node.path("a.tar"), "a").unwrap();
    node.until("shown as waiting", |rows| rows.iter().any(|r| r.message.contains("nobody there"))).await;
    assert_eq!(*node.store.readings.lock().unwrap(), [Reading::Begins], "not over while the store is away");
    node.store.away.store(false, Ordering::SeqCst);
    node.until("imported", |rows| imported(rows, "a")).await;
}

#[tokio::test]
async fn the_first_reading_begins_at_once_and_is_over_once_when_all_is_imported() {
    let mut node = run(|dir| {
        make(dir);
        std::fs::write(dir.join("images/a.tar"), "a").unwrap();
        std::fs::write(dir.join("images/b.tar"), "bad").unwrap();
    });
    assert_eq!(*node.store.readings.lock().unwrap(), [Reading::Begins], "before the first look");
    node.until("imported", |rows| imported(rows, "a")).await;
    std::fs::write(node.path("c.tar"), "c").unwrap();
    node.until("another", |rows| imported(rows, "c")).await;
    assert_eq!(*node.store.readings.lock().unwrap(), [Reading::Begins, Reading::IsOver]);
}

#[tokio::test]
async fn the_first_reading_of_a_missing_directory_is_over_at_once() {
    let node = run(|_| {});
    let over = async {
        while *node.store.readings.lock().unwrap() != [Reading::Begins, Reading::IsOver] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), over).await.expect("nothing to read");
}

#[tokio::test]
async fn of_two_archives_with_one_name_the_newer_wins_and_stays() {
    let mut node = run(|dir| {
        make(dir);
        std::fs::write(dir.join("images/z-old.tar"), "a").unwrap();
        let old = std::fs::File::options().append(true).open(dir.join("images/z-old.tar")).unwrap();
        old.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
        std::fs::write(dir.join("images/b-new.tar"), "a").unwrap();
    });
    let newer = |rows: &[ImageOutcome]| {
        rows.iter().any(|r| r.names == ["a"] && r.file.ends_with("b-new.tar"))
            && rows.iter().any(|r| r.file.ends_with("z-old.tar") && r.message.contains("newer archive"))
    };
    node.until("both", newer).await;
    std::fs::write(node.path("c.tar"), "c").unwrap();
    node.until("another scan", |rows| imported(rows, "c") && newer(rows)).await;
    assert_eq!(node.store.imports.load(Ordering::SeqCst), 3, "neither of the two was imported again");
}

#[tokio::test]
async fn a_damaged_image_asks_for_its_archive_again() {
    let mut node = run(|dir| {
        make(dir);
        std::fs::write(dir.join("images/a.tar"), "a").unwrap();
    });
    node.until("imported", |rows| imported(rows, "a")).await;
    node.store.images.lock().unwrap()[0].problem = Some("half of it is gone".into());
    std::fs::write(node.path("b.tar"), "b").unwrap();
    node.until("mended", |rows| imported(rows, "b") && imported(rows, "a")).await;
    assert_eq!(node.store.imports.load(Ordering::SeqCst), 3);
}

#[test]
fn only_archives_names_count() {
    for (name, counts) in [
        ("a.tar", true),
        ("a.tar.gz", true),
        ("a.tgz", true),
        ("a.tar.zst", true),
        ("a b.tar", true),
        (".a.tar", false),
        (".tar", false),
        ("a.tar.part", false),
        ("a.tar.tmp", false),
        ("a.tar~", false),
        ("a.zip", false),
        ("a\n.tar", false),
    ] {
        assert_eq!(is_archive_name(name.as_ref()), counts, "{name}");
    }
}
