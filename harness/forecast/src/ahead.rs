//! Work that is begun before anybody asks for it, by as many threads as there are other processors.

use std::fmt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, available_parallelism};

/// Most threads: a forecast has no more to do at once.
const MOST: usize = 8;

/// What is to be done, once.
type Work = Box<dyn FnOnce() + Send>;

/// What is computed by whoever comes to it first: a worker, or who asks for it.
pub(crate) type Begun<T> = Arc<OnceLock<T>>;

/// Threads that do what they are told in the order in which they are told it. Once nobody can tell them anything, and what
/// they were told is done or of no use to anybody, they end.
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
        let others = available_parallelism().map_or(1, |all| (all.get() - 1).clamp(1, MOST));
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

    /// Has one of them compute something, when its turn comes, unless whoever has what this gives has let it go by then.
    pub(crate) fn begin<T: Send + Sync + 'static>(
        &self,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Begun<T> {
        let begun = Begun::default();
        let waited_for = Arc::downgrade(&begun);
        let work = move || {
            if let Some(cell) = waited_for.upgrade() {
                cell.get_or_init(compute);
            }
        };
        // Where all of them have ended nobody begins with it, which nobody relies on.
        let _ = self.queue.send(Box::new(work));
        begun
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_is_begun_gets_done_unless_nobody_wants_it() {
        let workers = Workers::start().unwrap();
        let (tell, told) = channel();
        let (hold, held) = channel::<()>();
        // Every one of them stands still first.
        let held = Arc::new(Mutex::new(held));
        let blocks: Vec<Begun<bool>> = (0..MOST)
            .map(|_| {
                let held = Arc::clone(&held);
                workers.begin(move || held.lock().unwrap().recv().is_err())
            })
            .collect();
        let begin = |what: u32| {
            let tell = tell.clone();
            workers.begin(move || tell.send(what).unwrap())
        };
        let wanted = begin(1);
        drop(begin(2));
        let also = begin(3);
        drop((hold, tell));
        let mut done: Vec<u32> = told.iter().collect();
        done.sort_unstable();
        assert_eq!(done, [1, 3]);
        drop((wanted, also, blocks));
    }
}
