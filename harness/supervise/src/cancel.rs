//! One flag for the whole process: the user asked to stop.

use std::sync::atomic::{AtomicBool, Ordering};

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Asks every wait in this process to end with [`crate::Error::Cancelled`].
pub fn cancel() {
    CANCELLED.store(true, Ordering::SeqCst);
}

/// Whether somebody asked to stop.
#[must_use]
pub fn cancelled() -> bool {
    CANCELLED.load(Ordering::SeqCst)
}

/// Makes Ctrl-C, SIGTERM and SIGHUP ask to stop; a second signal ends the process at once (its children die
/// with it). Does nothing when handlers are already installed.
pub fn cancel_on_signals() {
    let installed = ctrlc::set_handler(|| {
        if cancelled() {
            std::process::exit(130);
        }
        cancel();
    });
    if let Err(e) = installed {
        tracing::debug!("signal handlers were there before: {e}");
    }
}
