//! One thing to wait on for everything that is recorded.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Rung whenever a witness has something new.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.rung.notify_all();
    }

    /// How often it has been rung.
    pub(crate) fn rings(&self) -> u64 {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits up to `limit` until it has been rung more than `heard` times.
    pub(crate) fn wait(&self, heard: u64, limit: Duration) {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits looks again in any case, so why this returned does not matter.
        drop(self.rung.wait_timeout_while(rings, limit, |rings| *rings <= heard));
    }
}
