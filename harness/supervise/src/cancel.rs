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
        if is_another(*FIRST.get_or_init(|| now), now) {
            std::process::exit(130);
        }
        cancel();
    });
    if let Err(e) = installed {
        tracing::debug!("signal handlers were there before: {e}");
    }
}

/// Whether a signal at `now` is another wish than that of the first one.
fn is_another(first: Instant, now: Instant) -> bool {
    now.duration_since(first) > TOGETHER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_together_are_one_wish() {
        let first = Instant::now();
        assert!(!is_another(first, first) && !is_another(first, first + TOGETHER));
        assert!(is_another(first, first + TOGETHER + Duration::from_millis(1)));
    }
}
