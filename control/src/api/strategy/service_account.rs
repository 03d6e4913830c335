//! v1 ServiceAccount. Its tokens are made when they are asked for, and never kept.

use serde_json::Value;

use super::Strategy;

#[derive(Debug)]
pub struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn defaults(&self, object: &mut Value) {
        if let Some(fields) = object.as_object_mut() {
            for field in ["secrets", "imagePullSecrets"] {
                super::tidy::drop_empty(fields, field);
            }
        }
    }
}
