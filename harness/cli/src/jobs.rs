//! Rows run side by side. Whether there is memory for a machine is asked where it is made (`latchkey_supervise::room`).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Does `work` on each of `rows`, `jobs` at once, and gives what came of them in their order; rows that `work` did not get to,
/// since `stop` said so, are missing.
pub(crate) fn side_by_side<R: Send, T: Send>(
    rows: Vec<R>,
    jobs: usize,
    stop: impl Fn() -> bool + Sync,
    work: impl Fn(R) -> T + Sync,
) -> Vec<T> {
    let workers = jobs.min(rows.len());
    let waiting = Mutex::new(rows.into_iter().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, row)) = if stop() { None } else { lock(&waiting).pop_front() } {
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
    /// Of `rows`, those of this part. A row's `name` alone decides in which it is: what is kept of it from one run to the next,
    /// as its verdict, is where it is looked for, whichever rows come and go.
    pub(crate) fn of<R>(self, rows: Vec<R>, name: impl Fn(&R) -> String) -> Vec<R> {
        rows.into_iter().filter(|row| self.has(&name(row))).collect()
    }

    fn has(self, name: &str) -> bool {
        // By the hash's first bits: its last ones are uneven for names that are much alike.
        let part = (u128::from(fnv(name)) * self.n as u128) >> 64;
        part == self.k as u128 - 1
    }
}

/// FNV-1a of 64 bits (draft-eastlake-fnv). It is the same in each build, which the standard library's hash need not be.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn two_run_at_once_and_results_keep_their_order() {
        let both = Barrier::new(2);
        let double = |row: usize| {
            both.wait();
            2 * row
        };
        assert_eq!(side_by_side(vec![1, 2, 3, 4], 2, || false, double), [2, 4, 6, 8]);
    }

    #[test]
    fn a_wish_to_stop_leaves_rows_out() {
        let done = AtomicUsize::new(0);
        let stop = || done.load(Ordering::SeqCst) == 2;
        let work = |row: usize| {
            done.fetch_add(1, Ordering::SeqCst);
            row
        };
        assert_eq!(side_by_side(vec![1, 2, 3], 1, stop, work), [1, 2]);
    }

    const CATALOGUE: &str = include_str!("../../../scenarios/rows.txt");

    fn part<'a>(text: &str, rows: &[&'a str]) -> Vec<&'a str> {
        text.parse::<Shard>().unwrap().of(rows.to_vec(), |row| (*row).to_owned())
    }

    #[test]
    fn shards_are_all_rows_once() {
        let rows: Vec<&str> = CATALOGUE.lines().collect();
        for n in [1, 2, 4, 7] {
            let parts: Vec<_> = (1..=n).map(|k| part(&format!("{k}/{n}"), &rows)).collect();
            let mut all = parts.concat();
            all.sort_unstable();
            let mut expected = rows.clone();
            expected.sort_unstable();
            assert_eq!(all, expected, "{n}");
            let most = 2 * rows.len() / n;
            assert!(parts.iter().all(|part| !part.is_empty() && part.len() <= most), "{n}");
        }
        assert!(["0/3", "4/3", "1", "a/b", "1/0"].iter().all(|text| text.parse::<Shard>().is_err()));
    }

    #[test]
    fn a_row_that_comes_or_goes_moves_no_other() {
        let rows: Vec<&str> = CATALOGUE.lines().collect();
        let more = [&["a-new-one rlc9-uki"][..], &rows[..]].concat();
        for shard in ["1/4", "2/4", "3/4", "4/4"] {
            let before = part(shard, &rows);
            let after = part(shard, &more).into_iter().filter(|row| *row != more[0]).collect::<Vec<_>>();
            assert_eq!(before, after, "{shard}");
            assert_eq!(part(shard, &rows[1..]).last(), before.last());
        }
    }

    /// The test vectors of the hash's authors: with another one each row would be in another part.
    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(
            ["", "a", "foobar"].map(fnv),
            [0xcbf29ce484222325, 0xaf63dc4c8601ec8c, 0x85944171f73967e8]
        );
    }

    #[test]
    fn images_take_turns() {
        let rows = vec!["a1", "a2", "a3", "b1", "c1", "b2"];
        assert_eq!(interleaved(rows, |row| row[..1].to_owned()), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }
}
