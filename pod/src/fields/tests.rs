use super::{Place, document};
use crate::name::WorkloadKind;

/// Committed beside the code, and made by [`document`].
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/pod-fields.md");

#[test]
fn committed_page_is_the_tables() {
    let page = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let committed = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(committed == page, "docs/pod-fields.md is old: run `UPDATE_DOCS=1 cargo test -p pod fields`");
}

#[test]
fn every_row_has_its_parents() {
    fn walk(place: &Place, path: &str) {
        for (name, below) in &place.below {
            let path = format!("{path}.{name}");
            assert!(below.field.is_some(), "{path} has no row of its own");
            walk(below, &path);
        }
    }
    walk(Place::root(WorkloadKind::Pod), "");
    walk(Place::root(WorkloadKind::DaemonSet), "");
}
