//! Away with what no run uses: builds of long ago, what killed runs left.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use latchkey_supervise::Scratch;
use rustix::fs::{FlockOperation, flock};

use super::entry::{remove, take_away, take_away_as};
use super::in_use::{IN_USE, alone};
use super::{FRESH, damage};
use crate::Error;

/// Builds whose machines are kept: this one and the two before, since `run` and `test` are two programs.
const BUILDS: usize = 3;
/// How long the verdicts of an earlier build are kept after its last use: the whole catalogue may take it several days, with
/// other builds in between.
const VERDICTS: Duration = Duration::from_secs(86_400 * 30);
/// What the name of a build's directory ends with while it is removed: nobody looks for it there.
const REMOVING: &str = "removing";

/// Removes the saved machines in the cache directory `cache` that no run uses now; verdicts stay. Gives what was removed, and
/// its size in bytes. One that cannot be removed keeps none of the others.
///
/// # Errors
/// When one cannot be removed.
pub fn prune(cache: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    let (mut removed, mut left) = (Vec::new(), Ok(()));
    let all = cache.join("saved");
    removing(&all);
    for build in builds_in(&all) {
        let Some(_alone) = alone(&build) else { continue };
        left = left.and(machines_away(&build, &mut removed));
    }
    left.map(|()| removed)
}

/// Removes all but the verdicts of the directory `build`, which nobody uses, and adds what it was and its size in bytes to
/// `removed`. One that cannot be removed keeps none of the others.
fn machines_away(build: &Path, removed: &mut Vec<(PathBuf, u64)>) -> Result<(), Error> {
    let mut left = Ok(());
    for dir in directories(build).into_iter().filter(|dir| !is_verdict(dir)) {
        let size = size(&dir);
        match take_away(&dir) {
            Ok(()) => removed.push((dir, size)),
            Err(error) => left = left.and(Err(error)),
        }
    }
    damage::sweep(build);
    left
}

/// The directories of builds in `all`.
fn builds_in(all: &Path) -> Vec<PathBuf> {
    directories(all).into_iter().filter(|dir| !is_removing(dir)).collect()
}

fn is_verdict(dir: &Path) -> bool {
    dir.extension().is_some_and(|end| end == "verdict")
}

fn is_removing(dir: &Path) -> bool {
    dir.extension().is_some_and(|end| end == REMOVING)
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// What the files below `dir` take on the disk, in bytes.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let one = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => size(&entry.path()),
        Ok(data) => data.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(one).sum()
}

/// Removes the saved machines of builds that were not used lately and are not in use, and their verdicts after [`VERDICTS`].
pub(super) fn builds(all: &Path, own: &Path) {
    let used = |dir: &Path| fs::metadata(dir.join(IN_USE)).and_then(|data| data.modified()).ok();
    let mut others: Vec<PathBuf> = builds_in(all).into_iter().filter(|dir| dir != own).collect();
    others.sort_by_key(|dir| std::cmp::Reverse(used(dir)));
    for dir in others.into_iter().skip(BUILDS - 1) {
        // Whoever waits for it finds that it is not the lock of a directory with that name any more, and makes one.
        let Some(_alone) = alone(&dir) else { continue };
        // A time to come, where the clock went back, is no time long ago.
        let is_recent = used(&dir).is_some_and(|used| used.elapsed().map_or(true, |ago| ago < VERDICTS));
        let gone = if is_recent && directories(&dir).iter().any(|entry| is_verdict(entry)) {
            let mut removed = Vec::new();
            let gone = machines_away(&dir, &mut removed);
            let (dir, machines) = (dir.display(), removed.len());
            tracing::debug!(%dir, machines, "of an earlier build nothing but verdicts is kept");
            gone
        } else {
            tracing::info!(dir = %dir.display(), "removing the saved machines of an earlier build");
            take_away_as(&dir, REMOVING)
        };
        if let Err(error) = gone {
            tracing::warn!("of an earlier build: {error}");
        }
    }
}

/// Removes what killed runs left: builds that were being removed, and in the directories of all others machines of their own,
/// and entries that were being made or removed. Where somebody holds an entry's lock it is under way.
pub(super) fn killed(all: &Path) {
    removing(all);
    for build in builds_in(all) {
        let left = directories(&build);
        let is_fresh =
            |dir: &PathBuf| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(FRESH));
        if left.iter().any(is_fresh) {
            Scratch::sweep(&build, FRESH);
        }
        let ends = |dir: &&PathBuf| dir.extension().is_some_and(|end| end == "part" || end == "old");
        for dir in left.iter().filter(ends) {
            let Ok(lock) = File::create(dir.with_extension("lock")) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            if let Err(error) = remove(dir) {
                tracing::warn!("left of a killed run: {error}");
            }
        }
    }
}

/// Removes what was left of builds in `all` by whoever was killed while he removed them; so does who is at it just now.
fn removing(all: &Path) {
    for dir in directories(all).into_iter().filter(|dir| is_removing(dir)) {
        if let Err(error) = remove(&dir) {
            tracing::warn!("left of an earlier build: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::time::{Duration, SystemTime};

    use super::super::entry::Part;
    use super::super::in_use::alone_at_last;
    use super::super::in_use::in_use;
    use super::super::{Store, Verdicts};
    use super::*;

    #[test]
    fn builds_that_nobody_uses_go_away() {
        let cache = tempfile::tempdir().unwrap();
        let all = cache.path().join("saved");
        let old = |name: &str, days: u64| {
            let dir = all.join(name);
            fs::create_dir_all(&dir).unwrap();
            let file = File::create(dir.join(IN_USE)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(86_400 * days)).unwrap();
            file
        };
        let (_, _, _, used) = (old("a", 1), old("b", 2), old("c", 3), old("d", 4));
        flock(&used, FlockOperation::LockShared).unwrap();
        drop(Store::open(cache.path(), Verdicts::Reuse).unwrap());
        let there = |name: &str| all.join(name).is_dir();
        assert_eq!(["a", "b", "c", "d"].map(there), [true, true, false, true]);
    }

    #[test]
    fn verdicts_of_an_earlier_build_outlast_its_machines() {
        let cache = tempfile::tempdir().unwrap();
        let all = cache.path().join("saved");
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        let used = [now + day * 3, now + day * 2, now + day, now - day * 29, now - day * 31];
        for (name, used) in ["a", "b", "ahead", "recent", "old"].into_iter().zip(used) {
            for entry in ["k", "k.verdict", "l.verdict.part"] {
                fs::create_dir_all(all.join(name).join(entry)).unwrap();
            }
            File::create(all.join(name).join(IN_USE)).unwrap().set_modified(used).unwrap();
        }
        // The second time there is nothing left to remove.
        for _ in 0..2 {
            builds(&all, &all.join("own"));
            let there = |path: &str| all.join(path).is_dir();
            let kept = ["b/k", "b/k.verdict", "ahead/k.verdict", "recent/k.verdict"];
            let gone = ["ahead/k", "recent/k", "recent/l.verdict.part", "old"];
            assert_eq!((kept.map(there), gone.map(there)), ([true; 4], [false; 4]));
        }
    }

    /// Whoever comes while a build is removed makes its directory anew, and nothing that he sees there goes away.
    #[test]
    fn nobody_enters_a_build_that_is_being_removed() {
        let cache = tempfile::tempdir().unwrap();
        let (all, own) = (cache.path().join("saved"), cache.path().join("saved/own"));
        let old = all.join("old");
        for dir in ["newer", "newest"] {
            drop(in_use(&all.join(dir)).unwrap());
        }
        let seen = |dir: &Path| {
            let entries = fs::read_dir(dir).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort_unstable();
            names
        };
        for _ in 0..5 {
            for number in 0..300 {
                fs::create_dir_all(old.join(number.to_string())).unwrap();
                fs::write(old.join(format!("{number}/story.json")), "{}").unwrap();
            }
            let lock = old.join(IN_USE);
            let file = File::create(&lock).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(86_400)).unwrap();
            drop(file);
            std::thread::scope(|scope| {
                let remover = scope.spawn(|| builds(&all, &own));
                while lock.exists() && !remover.is_finished() {
                    std::thread::yield_now();
                }
                let _used = in_use(&old).unwrap();
                fs::create_dir_all(old.join("mine")).unwrap();
                let then = seen(&old);
                remover.join().unwrap();
                assert_eq!(seen(&old), then);
            });
        }
        assert_eq!(seen(&all), ["newer", "newest", "old"]);
    }

    #[test]
    fn what_is_left_of_a_build_that_was_being_removed_goes_away_and_counts_for_none() {
        let cache = tempfile::tempdir().unwrap();
        let all = cache.path().join("saved");
        let builds = ["one", "another"].map(|name| all.join(name));
        builds.iter().for_each(|dir| drop(in_use(dir).unwrap()));
        let left = all.join("old.removing");
        fs::create_dir_all(left.join("k")).unwrap();
        drop(Store::open(cache.path(), Verdicts::Reuse).unwrap());
        assert!(!left.exists() && builds.iter().all(|dir| dir.is_dir()));
        fs::create_dir_all(left.join("k")).unwrap();
        prune(cache.path()).unwrap();
        assert!(!left.exists() && builds.iter().all(|dir| dir.is_dir()));
    }

    #[test]
    fn saved_machines_go_away_and_verdicts_stay() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        let part = store.begin("k").unwrap();
        fs::write(part.path().join("memory"), [1; 10_000]).unwrap();
        let machine = part.finish().unwrap();
        let verdict = store.dir.join("k.verdict");
        fs::create_dir(&verdict).unwrap();
        // What killed runs left of a machine and of a verdict in the making.
        let left = [store.begin("l").unwrap(), Part::begin(&store.dir, "l.verdict").unwrap()];
        assert!(prune(cache.path()).unwrap().is_empty() && machine.is_dir(), "a run uses it");
        let dir = store.dir.clone();
        drop(store);
        drop(alone_at_last(&dir));
        let removed = prune(cache.path()).unwrap();
        assert!(removed.iter().any(|(dir, size)| *dir == machine && *size >= 10_000), "{removed:?}");
        assert!(!machine.exists() && !left.iter().any(|part| part.path().exists()) && verdict.is_dir());
    }

    #[test]
    fn what_killed_runs_left_goes_away_in_every_build() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        for build in [store.dir.clone(), cache.path().join("saved/another")] {
            let names = [
                "fresh-left",
                "fresh-used",
                "k.part",
                "k.old",
                "v.verdict.part",
                "used.part",
                "k",
                "v.verdict",
            ];
            names.iter().for_each(|name| fs::create_dir_all(build.join(name)).unwrap());
            File::create(build.join("fresh-left/.in-use")).unwrap();
            let used =
                ["fresh-used/.in-use", "used.lock"].map(|name| File::create(build.join(name)).unwrap());
            used.iter().for_each(|file| flock(file, FlockOperation::LockExclusive).unwrap());
            drop(Store::open(cache.path(), Verdicts::Reuse).unwrap());
            let there: Vec<bool> = names.iter().map(|name| build.join(name).exists()).collect();
            assert_eq!(there, [false, true, false, false, false, true, true, true], "{}", build.display());
        }
    }
}
