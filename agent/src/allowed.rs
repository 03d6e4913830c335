//! The node's allow-list as it is at present, for whoever mounts: it changes with the configuration file.
//!
//! Set by `desired`, before anything is merged under it; asked by `sandbox` and the runtime.

use std::sync::{Arc, Mutex, PoisonError};

use pod::allow::Allow;

/// See the top of the file.
#[derive(Debug, Clone, Default)]
pub struct Allowed(Arc<Mutex<Arc<Allow>>>);

impl Allowed {
    pub fn new(allow: Allow) -> Allowed {
        let allowed = Allowed::default();
        allowed.set(allow);
        allowed
    }

    pub fn set(&self, allow: Allow) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if **known != allow {
            *known = Arc::new(allow);
        }
    }

    /// None: every host path is allowed, and none need be judged.
    pub fn host_paths(&self) -> Option<Arc<Allow>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.host_paths.is_some().then(|| Arc::clone(&known))
    }
}
