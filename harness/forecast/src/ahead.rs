//! Work that is begun before anybody asks for it, by as many threads as there are other processors.

use std::fmt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, available_parallelism};

/// What is to be done, once.
type Work = Box<dyn FnOnce() + Send>;

/// Threads that do what they are told in the order in which they are told it. Once nobody can tell them anything they end.
pub(crate) struct Workers {
    queue: Sender<Work>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

impl Workers {
    /// One for each processor but the one that the caller uses, one at least; `None` where none can be had.
    pub(crate) fn start() -> Option<Self> {
        let others = available_parallelism().map_or(1, |all| all.get().max(2) - 1);
        let (queue, told) = channel::<Work>();
        let told = Arc::new(Mutex::new(told));
        let begun = (0..others).filter(|_| {
            let told = Arc::clone(&told);
            let next = move || told.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let work = move || {
                while let Ok(work) = next() {
                    work();
                }
            };
            Builder::new().name("forecast".into()).spawn(work).is_ok()
        });
        (begun.count() > 0).then_some(Self { queue })
    }

    /// Has one of them do `work`, when its turn comes.
    pub(crate) fn begin(&self, work: impl FnOnce() + Send + 'static) {
        // Where all of them ended nobody has begun with it, which nobody relies on.
        let _ = self.queue.send(Box::new(work));
    }
}
