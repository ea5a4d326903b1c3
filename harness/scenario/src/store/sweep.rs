//! Away with what no run uses: builds of long ago, what killed runs left, machines that are damaged.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use latchkey_supervise::Scratch;
use rustix::fs::{FlockOperation, flock};

use super::{DAMAGED, FRESH, IN_USE, remove, take_away};
use crate::Error;

/// Builds whose machines are kept: this one and the two before, since `run` and `test` are two programs.
const BUILDS: usize = 3;

/// Removes the saved machines in the cache directory `cache` that no run uses now; verdicts stay. Gives what was removed, and
/// its size in bytes.
///
/// # Errors
/// When one cannot be removed.
pub fn prune(cache: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    let mut removed = Vec::new();
    for build in directories(&cache.join("saved")) {
        let Ok(file) = File::open(build.join(IN_USE)) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let verdict = |dir: &PathBuf| dir.extension().is_some_and(|end| end == "verdict");
        for dir in directories(&build).into_iter().filter(|dir| !verdict(dir)) {
            let size = size(&dir);
            take_away(&dir)?;
            removed.push((dir, size));
        }
        damaged(&build);
    }
    Ok(removed)
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

/// Removes the directories of builds that were not used lately and are not in use.
pub(super) fn builds(all: &Path, own: &Path) {
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    let used = |dir: &Path| fs::metadata(dir.join(IN_USE)).and_then(|data| data.modified()).ok();
    let mut others: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir() && p != own).collect();
    others.sort_by_key(|dir| std::cmp::Reverse(used(dir)));
    for dir in others.into_iter().skip(BUILDS - 1) {
        // Held until it is gone, so that no run begins to use it meanwhile.
        let file = File::open(dir.join(IN_USE)).ok();
        let free = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if file.as_ref().is_none_or(free) {
            tracing::info!(dir = %dir.display(), "removing the saved machines of an earlier build");
            let _ = fs::remove_dir_all(&dir);
        }
    }
}

/// Removes what killed runs left in the directories of all builds: machines of their own, and entries that were being made or
/// removed. Where somebody holds an entry's lock it is under way.
pub(super) fn killed(all: &Path) {
    for build in directories(all) {
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

/// Removes the machines of a build that are not what was saved. Nobody else uses it meanwhile.
pub(super) fn damaged(build: &Path) {
    let entries = fs::read_dir(build).into_iter().flatten().flatten().map(|entry| entry.path());
    for mark in entries.filter(|path| path.extension().is_some_and(|end| end == DAMAGED)) {
        // The mark goes last: without it the machine would count.
        let removed = take_away(&mark.with_extension(""))
            .and_then(|()| fs::remove_file(&mark).map_err(Error::file("removing", &mark)));
        if let Err(error) = removed {
            tracing::warn!("a damaged machine is left: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::time::{Duration, SystemTime};

    use super::super::{Store, Verdicts, begin, finish};
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
    fn saved_machines_go_away_and_verdicts_stay() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        let part = store.begin("k").unwrap();
        fs::write(part.join("memory"), [1; 10_000]).unwrap();
        let machine = finish(&part).unwrap();
        let verdict = store.dir.join("k.verdict");
        fs::create_dir(&verdict).unwrap();
        // What killed runs left of a machine and of a verdict in the making.
        let left = [store.begin("l").unwrap(), begin(&store.dir, "l.verdict").unwrap()];
        assert!(prune(cache.path()).unwrap().is_empty() && machine.is_dir(), "a run uses it");
        drop(store);
        let removed = prune(cache.path()).unwrap();
        assert!(removed.iter().any(|(dir, size)| *dir == machine && *size >= 10_000), "{removed:?}");
        assert!(!machine.exists() && !left.iter().any(|dir| dir.exists()) && verdict.is_dir());
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
