//! One flag for the whole process: the user asked to stop.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static CANCELLED: AtomicBool = AtomicBool::new(false);
/// When the first signal came.
static FIRST: OnceLock<Instant> = OnceLock::new();
/// Signals that come together are one wish: timeout(1) sends its signal to the process and to its group.
const TOGETHER: Duration = Duration::from_millis(300);

/// Asks every wait in this process to end with [`crate::Error::Cancelled`].
pub fn cancel() {
    CANCELLED.store(true, Ordering::SeqCst);
}

/// Whether somebody asked to stop.
#[must_use]
pub fn cancelled() -> bool {
    CANCELLED.load(Ordering::SeqCst)
}

/// Makes Ctrl-C, SIGTERM and SIGHUP ask to stop; a later signal ends the process at once (its children die
/// with it). Does nothing when handlers are already installed.
pub fn cancel_on_signals() {
    let installed = ctrlc::set_handler(|| {
        let now = Instant::now();
        if now.duration_since(*FIRST.get_or_init(|| now)) > TOGETHER {
            std::process::exit(130);
        }
        cancel();
    });
    if let Err(e) = installed {
        tracing::debug!("signal handlers were there before: {e}");
    }
}
