//! A test that cannot prove anything on this machine says so, to whoever reads its output and to `make test`, which counts.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// The file to which `scripts/test.sh` has skips written, a line each.
const SKIPS: &str = "DAEMONLET_TEST_SKIPS";

/// Says that the test of the calling thread is skipped, and why. The caller returns.
pub fn skipped(why: &str) {
    println!("skipped: {why}");
    if let Some(file) = std::env::var_os(SKIPS) {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        note(Path::new(&file), &test, why);
    }
}

/// One line, in one write: tests run side by side.
fn note(file: &Path, test: &str, why: &str) {
    let line = format!("{test}: {}\n", why.replace('\n', " "));
    let written =
        File::options().create(true).append(true).open(file).and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_skip_is_a_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("skips");
        note(&file, "a", "no\nDocker");
        note(&file, "b", "no containerd");
        assert_eq!(std::fs::read_to_string(&file).expect("written"), "a: no Docker\nb: no containerd\n");
    }
}
