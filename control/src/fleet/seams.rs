//! What the fleet is to others: the source of logs for the API's door, and the loops' ears.

use std::pin::Pin;

use serde_json::Value;

use super::{Fleet, LogWanted, Witness};
use crate::api::error::ApiError;
use crate::contacts::Contacts;
use crate::http::{LogOptions, LogStream, Logs};

impl Logs for Fleet {
    fn open<'a>(
        &'a self,
        pod: &'a Value,
        container: &'a str,
        options: &'a LogOptions,
    ) -> Pin<Box<dyn Future<Output = Result<LogStream, ApiError>> + Send + 'a>> {
        let LogOptions { follow, previous, timestamps, tail, since, limit_bytes } = options.clone();
        let container = container.to_owned();
        let wanted = LogWanted { container, follow, previous, timestamps, tail, since, limit: limit_bytes };
        Box::pin(self.log(pod, wanted))
    }
}

impl Witness for Contacts {
    fn opened(&self, node: &str) {
        Contacts::opened(self, node);
    }

    fn heard(&self, node: &str, failing: &str) {
        Contacts::heard(self, node, failing);
    }

    fn closed(&self, node: &str) {
        Contacts::closed(self, node);
    }

    fn advertised(&self, node: &str, address: Option<&str>) {
        Contacts::advertised(self, node, address);
    }
}
