//! systemd's watchdog: told that the endpoint gets on, as long as it does.
//!
//! Getting on is that objects can be read by the way that clients and loops have. A process whose threads all wait for one another, or whose store
//! answers nobody any more, says nothing, and is started again; an answer that is an error is an answer. Clients cannot keep it from beating: it
//! goes past the doors, which are bounded by themselves.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::api::kinds;
use crate::api::objects::{ListQuery, Objects};

/// A quarter of the unit's WatchdogSec=.
const EVERY: Duration = Duration::from_secs(15);

/// For ever; at once done where no systemd listens.
pub async fn run(objects: Objects) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    loop {
        read(&objects).await;
        super::tell_systemd(&[NotifyState::Watchdog]);
        tokio::time::sleep(EVERY).await;
    }
}

async fn read(objects: &Objects) {
    let Some(namespaces) = kinds::by_resource("", "v1", "namespaces") else { return };
    let query = ListQuery { limit: Some(1), ..ListQuery::default() };
    // What it says is for /readyz.
    let _ = objects.list(namespaces, None, &query).await;
}
