//! Roles and their bindings.

use serde_json::Value;

use super::text::{items, name, plain};
use super::{AGE, Cell, NAME, Shown, age, column, wide};

pub static ROLE: Shown = Shown {
    columns: &[NAME, column("Created At", Cell::Text)],
    cells: |object, _| vec![name(object), plain(&object["metadata"]["creationTimestamp"]).into()],
};

pub static BINDING: Shown = Shown {
    columns: &[
        NAME,
        column("Role", Cell::Text),
        AGE,
        wide("Users", Cell::Text),
        wide("Groups", Cell::Text),
        wide("ServiceAccounts", Cell::Text),
    ],
    cells: |object, now| {
        let role = format!("{}/{}", plain(&object["roleRef"]["kind"]), plain(&object["roleRef"]["name"]));
        let accounts =
            of_kind(object, "ServiceAccount", |s| format!("{}/{}", plain(&s["namespace"]), plain(&s["name"])));
        let plainly = |subject: &Value| plain(&subject["name"]).to_owned();
        vec![
            name(object),
            role.into(),
            age::created(object, now),
            of_kind(object, "User", plainly),
            of_kind(object, "Group", plainly),
            accounts,
        ]
    },
};

fn of_kind(object: &Value, kind: &str, show: impl Fn(&Value) -> String) -> Value {
    let found = items(&object["subjects"]).filter(|subject| subject["kind"] == kind).map(show);
    found.collect::<Vec<_>>().join(", ").into()
}
