//! Logs where no node has a session: why there are none.

use std::pin::Pin;

use serde_json::Value;

use crate::api::error::ApiError;
use crate::http::{LogOptions, LogStream, Logs};

/// No node has one.
pub struct NoSession;

impl Logs for NoSession {
    fn open<'a>(
        &'a self,
        pod: &'a Value,
        _container: &'a str,
        _options: &'a LogOptions,
    ) -> Pin<Box<dyn Future<Output = Result<LogStream, ApiError>> + Send + 'a>> {
        Box::pin(async move {
            let node = &pod["spec"]["nodeName"];
            Err(ApiError::unavailable(format!(
                "node {node} has no session with this endpoint, so its logs cannot be had now"
            )))
        })
    }
}
