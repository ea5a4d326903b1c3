//! Rows run side by side, as far as processors and memory reach.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a machine takes besides its guest's memory, in MiB: QEMU itself, the TPM, and the files that the guest has in the
/// host's memory.
const BESIDES_MIB: u64 = 400;
/// What stays free for whoever else uses this computer, in MiB.
const SPARE_MIB: u64 = 512;

/// How much there is of what machines need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// How many machines may run at once.
    pub(crate) jobs: usize,
    /// Memory for machines, in MiB.
    pub(crate) memory_mib: u64,
}

impl Capacity {
    /// That of this computer. `jobs` is the user's wish; else it is one machine more than there are processors, each of which
    /// keeps one busy: a quarter of the time a machine waits for its countdown, its disk or for who talks to it.
    pub(crate) fn here(jobs: Option<usize>) -> Self {
        let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_mib(&text));
        // Where nobody tells, one machine at a time runs or fails by itself.
        let memory_mib = available.unwrap_or(0).saturating_sub(SPARE_MIB);
        Self { jobs: jobs.unwrap_or(processors() + 1).max(1), memory_mib }
    }
}

/// How many processors there are.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `MemAvailable` of /proc/meminfo (proc(5)), in MiB.
fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
}

struct State<R> {
    waiting: VecDeque<(usize, R)>,
    free_mib: u64,
    running: usize,
}

/// Does `work` on each of `rows`, several at once, and gives what came of them in their order; rows that `work` did not
/// get to, since `stop` said so, are missing. `memory_mib` is the memory of a row's guest.
pub(crate) fn side_by_side<R: Send, T: Send>(
    rows: Vec<R>,
    capacity: Capacity,
    memory_mib: impl Fn(&R) -> u64 + Sync,
    stop: impl Fn() -> bool + Sync,
    work: impl Fn(R) -> T + Sync,
) -> Vec<T> {
    let workers = capacity.jobs.min(rows.len());
    let need = |row: &R| memory_mib(row) + BESIDES_MIB;
    let waiting = rows.into_iter().enumerate().collect();
    let state = Mutex::new(State { waiting, free_mib: capacity.memory_mib, running: 0 });
    let (changed, done) = (Condvar::new(), Mutex::new(Vec::new()));
    let next = || {
        let mut state = lock(&state);
        loop {
            if stop() {
                return None;
            }
            let needed = need(&state.waiting.front()?.1);
            // A machine for which there is not enough memory is better tried alone than never.
            if needed <= state.free_mib || state.running == 0 {
                state.free_mib = state.free_mib.saturating_sub(needed);
                state.running += 1;
                return state.waiting.pop_front().map(|(index, row)| (index, row, needed));
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, row, needed)) = next() {
                    let _place = Place { state: &state, changed: &changed, needed };
                    let result = work(row);
                    lock(&done).push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What a row that runs takes. It is given back however the row ends, so that nobody waits for it in vain.
struct Place<'a, R> {
    state: &'a Mutex<State<R>>,
    changed: &'a Condvar,
    needed: u64,
}

impl<R> Drop for Place<'_, R> {
    fn drop(&mut self) {
        let mut state = lock(self.state);
        state.free_mib += self.needed;
        state.running -= 1;
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows in an order in which neighbours have little in common, so that those that run at once do not wait for the same
/// machine: one of each image in turn.
pub(crate) fn interleaved<R>(rows: Vec<R>, image: impl Fn(&R) -> String) -> Vec<R> {
    let mut seen: Vec<(String, usize)> = Vec::new();
    let mut ranked: Vec<(usize, R)> = rows
        .into_iter()
        .map(|row| {
            let name = image(&row);
            let at = seen.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                seen.push((name, 0));
                seen.len() - 1
            });
            seen[at].1 += 1;
            (seen[at].1, row)
        })
        .collect();
    // Stable: within a rank the rows keep their order.
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, row)| row).collect()
}

/// The `k`th of `n` parts of all rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) k: usize,
    pub(crate) n: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no part of a whole, such as 1/4");
        let (k, n) = text.split_once('/').ok_or_else(wrong)?;
        let (k, n) = (k.parse().map_err(|_| wrong())?, n.parse().map_err(|_| wrong())?);
        if (1..=n).contains(&k) { Ok(Self { k, n }) } else { Err(wrong()) }
    }
}

impl Shard {
    /// Of `rows`, those of this part.
    pub(crate) fn of<R>(self, rows: Vec<R>) -> Vec<R> {
        let own = |(index, row)| (index % self.n == self.k - 1).then_some(row);
        rows.into_iter().enumerate().filter_map(own).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn two_run_at_once_and_results_keep_their_order() {
        let capacity = Capacity { jobs: 2, memory_mib: 10_000 };
        let both = Barrier::new(2);
        let double = |row: usize| {
            both.wait();
            2 * row
        };
        assert_eq!(side_by_side(vec![1, 2, 3, 4], capacity, |_| 100, || false, double), [2, 4, 6, 8]);
    }

    #[test]
    fn memory_limits_how_many_run_and_one_always_does() {
        let capacity = Capacity { jobs: 4, memory_mib: 1000 };
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |_| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            running.fetch_sub(1, Ordering::SeqCst);
        };
        assert_eq!(side_by_side(vec![(); 20], capacity, |()| 5000, || false, work).len(), 20);
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_row_that_panics_gives_its_place_back() {
        let capacity = Capacity { jobs: 2, memory_mib: 1 };
        let work = |row: usize| assert_ne!(row, 1, "this one panics");
        let run = || side_by_side(vec![1, 2, 3], capacity, |_| 5000, || false, work);
        assert!(std::panic::catch_unwind(run).is_err());
    }

    #[test]
    fn a_wish_to_stop_leaves_rows_out() {
        let capacity = Capacity { jobs: 1, memory_mib: 0 };
        let done = AtomicUsize::new(0);
        let stop = || done.load(Ordering::SeqCst) == 2;
        let work = |row: usize| {
            done.fetch_add(1, Ordering::SeqCst);
            row
        };
        assert_eq!(side_by_side(vec![1, 2, 3], capacity, |_| 1, stop, work), [1, 2]);
    }

    #[test]
    fn shards_are_all_rows_once() {
        let rows: Vec<usize> = (0..7).collect();
        let part = |text: &str| text.parse::<Shard>().unwrap().of(rows.clone());
        assert_eq!([part("1/3"), part("2/3"), part("3/3")], [vec![0, 3, 6], vec![1, 4], vec![2, 5]]);
        assert!(["0/3", "4/3", "1", "a/b", "1/0"].iter().all(|text| text.parse::<Shard>().is_err()));
    }

    #[test]
    fn images_take_turns() {
        let rows = vec!["a1", "a2", "a3", "b1", "c1", "b2"];
        assert_eq!(interleaved(rows, |row| row[..1].to_owned()), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn the_kernel_tells_what_is_available() {
        assert_eq!(available_mib("MemTotal:  1 kB\nMemAvailable:   2048 kB\n"), Some(2));
        assert_eq!(available_mib("nothing"), None);
    }
}
