//! Drivers that may panic on a file system that is damaged on purpose.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread's panics are caught, and told as errors.
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// What `act` gives; `None` where it panics, which whoever calls makes an error of. Nothing is printed of it: the first call
/// puts a hook before the process' own, which is asked for all other panics as before.
pub fn caught<T>(act: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            // A thread that is about to end has no such flag any more.
            if IS_EXPECTED.try_with(Cell::get).unwrap_or(false) {
                tracing::debug!("a file system's driver gave up: {panic}");
            } else {
                others(panic);
            }
        }));
    });
    let before = IS_EXPECTED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(act)).ok();
    IS_EXPECTED.set(before);
    done
}
