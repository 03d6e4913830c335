//! The table as a page for people: docs/pod-fields.md. A test compares the committed file with it.

use super::{Field, Verdict, status, table};

/// The page, as Markdown.
pub fn document() -> String {
    let mut page = String::from(
        "# What becomes of every field\n\n\
         This page is made from the field table in `pod/src/fields/table.rs`, which also drives `daemonlet check` and the\n\
         agent. To make it anew: `UPDATE_DOCS=1 cargo test -p pod fields`.\n\n\
         - **honoured**: done as Kubernetes does it, within the limits that the note names\n\
         - **no effect**: accepted, listed by `daemonlet check`, and does nothing on a node without a cluster\n\
         - **only** *value*: accepted with that value alone, which is the default or means \"off\"\n\
         - **refused**: a document with this field is not run; the reason says what to do\n\n\
         A field that is not on this page is refused as unknown. `null` counts as absent, and so does an empty list of a\n\
         refused field. A row speaks for all fields below it that have no row of their own.\n",
    );
    section(
        &mut page,
        "Any document",
        &[("", table::OBJECT), ("metadata.", table::NAMED), ("metadata.", table::METADATA)],
    );
    section(&mut page, "`spec` of a Pod, and `spec.template.spec` of a DaemonSet", &[("", table::POD_SPEC)]);
    section(&mut page, "A probe", &[("", table::HANDLER), ("", table::PROBE)]);
    section(
        &mut page,
        "A hook: `lifecycle.postStart`, `lifecycle.preStop`",
        &[("", table::HANDLER), ("", table::HOOK)],
    );
    section(
        &mut page,
        "`spec` of a DaemonSet",
        &[
            ("", table::DAEMON_SET_SPEC),
            ("template.metadata.", table::UNNAMED),
            ("template.metadata.", table::METADATA),
        ],
    );
    page.push_str("\n# What becomes of every field of a pod's status\n");
    shown(&mut page, "`status`", status::POD);
    shown(&mut page, "An item of `containerStatuses` and `initContainerStatuses`", status::CONTAINER);
    page
}

fn shown(page: &mut String, title: &str, rows: &[status::Row]) {
    page.push_str(&format!("\n## {title}\n\n| field | | |\n|---|---|---|\n"));
    for (path, shown) in rows {
        let (what, why) = match shown {
            status::Shown::Yes(note) => ("shown", note),
            status::Shown::No(reason) => ("left out", reason),
        };
        page.push_str(&format!("| `{path}` | {what} | {why} |\n"));
    }
}

fn section(page: &mut String, title: &str, parts: &[(&str, &[Field])]) {
    page.push_str(&format!("\n## {title}\n\n| field | | |\n|---|---|---|\n"));
    for (prefix, rows) in parts {
        for Field { path, verdict, .. } in *rows {
            let (what, why) = match verdict {
                Verdict::Honoured(note) => ("honoured".to_owned(), *note),
                Verdict::NoEffect(reason) => ("no effect".to_owned(), *reason),
                Verdict::Only("", reason) => ("only empty".to_owned(), *reason),
                Verdict::Only(value, reason) => (format!("only `{value}`"), *reason),
                Verdict::Refused(reason) => ("refused".to_owned(), *reason),
            };
            page.push_str(&format!("| `{prefix}{path}` | {what} | {why} |\n"));
        }
    }
}
