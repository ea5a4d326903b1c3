//! Saved machines and verdicts on disk, by what they depend on.
//!
//! ```text
//! <cache>/saved/<build>/             one directory a build of the harness; those that nobody uses go away
//!     .in-use                        locked (shared) by every run that uses it
//!     <key>/                         the machine after a row's first steps
//!         machine/                   disk, variables, TPM, memory
//!         story.json, keys.json      what is known of it so far, and its keyslots' secrets (for its owner alone)
//!         record/                    the files that its boots left in the run's directory
//!     <key>.verdict/                 a row that passed: result.json and record/
//!     <key>.lock                     held by the run that makes it, or reads or replaces a verdict
//!     fresh-.../                     the machines of a run that takes none of others; they go away with it
//! <cache>/saved/times.json           how long steps took, for plans
//! ```
//!
//! A key is a hash over everything that the machine came from: harness, host, image, keys, variables, specification,
//! steps. Directories appear by one rename, so what has a name is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use latchkey_measure::hash::digest;
use latchkey_record::{HashAlg, ScenarioResult, Status, StepResult};
use latchkey_supervise::{Lock, Scratch, lock};
use rustix::fs::{FlockOperation, flock, statvfs};

use crate::Error;
use crate::plan::Prefix;

const IN_USE: &str = ".in-use";
const TIMES: &str = "times.json";
/// Builds whose machines are kept: this one and the two before, since `run` and `test` are two programs.
const BUILDS: usize = 3;
/// How much room there has to be before another machine is saved: its memory and its disk take half of it at most.
const ROOM: u64 = 4 << 30;

/// Whether machines are forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forks {
    /// Where rows part, machines are saved and forked.
    #[default]
    Yes,
    /// Every row is run from its provisioning on.
    No,
}

/// Whether a row that passed with the same inputs counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdicts {
    /// It does.
    #[default]
    Reuse,
    /// It is run again.
    Fresh,
}

/// Saved machines and verdicts of this build of the harness.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Where this run's own machines lie when it takes none of others.
    own: Option<Scratch>,
    _in_use: File,
    /// What failed in this run before it came to the entry with this key.
    failures: Mutex<BTreeMap<String, Failure>>,
}

/// Steps that rows share, the last of which failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) steps: Vec<StepResult>,
    /// The row that did them, and where its files lie.
    pub(crate) row: String,
    pub(crate) record: PathBuf,
}

impl Store {
    /// The store in the cache directory `cache`. What other builds left there and nobody uses is removed. With
    /// [`Verdicts::Fresh`] its machines are those of this run alone, and go away with it: what comes to a verdict has been
    /// booted for it.
    ///
    /// # Errors
    /// When the directory cannot be made, or this program not be read.
    pub fn open(cache: &Path, verdicts: Verdicts) -> Result<Self, Error> {
        let all = cache.join("saved");
        let dir = all.join(build()?);
        let path = dir.join(IN_USE);
        let in_use = loop {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(Error::file("making", &dir))?;
            let file = File::create(&path).map_err(Error::file("opening", &path))?;
            flock(&file, FlockOperation::LockShared).map_err(|e| Error::file("locking", &path)(e.into()))?;
            // Another build may have removed it all while this waited.
            let own = file.metadata().map_err(Error::file("looking at", &path))?;
            if fs::metadata(&path).is_ok_and(|there| there.ino() == own.ino()) {
                break file;
            }
        };
        // Its time tells when this build was used last.
        in_use.set_modified(SystemTime::now()).map_err(Error::file("writing", &path))?;
        sweep(&all, &dir);
        let own = match verdicts {
            Verdicts::Reuse => None,
            Verdicts::Fresh => Some(Scratch::new(&dir, "fresh-")?),
        };
        Ok(Self { dir, own, _in_use: in_use, failures: Mutex::default() })
    }

    /// Where machines lie.
    fn machines(&self) -> &Path {
        self.own.as_ref().map_or(&self.dir, Scratch::path)
    }

    /// The key of the machine that has `prefix`, made of these inputs.
    pub(crate) fn key(inputs: &str, prefix: &Prefix) -> String {
        digest(HashAlg::Sha256, format!("{inputs}\n{}", prefix.as_str()).as_bytes()).hex()[..32].to_owned()
    }

    /// Waits until nobody else makes the entry `key`; the right to make it lasts as long as the lock.
    pub(crate) fn claim(&self, key: &str, waiting: impl FnOnce()) -> Result<Lock, Error> {
        Ok(lock(&self.machines().join(format!("{key}.lock")), waiting)?)
    }

    /// Waits until nobody else reads or replaces the verdict `key`.
    pub(crate) fn claim_verdict(&self, key: &str) -> Result<Lock, Error> {
        Ok(lock(&self.dir.join(format!("{key}.verdict.lock")), || ())?)
    }

    /// Where the saved machine `key` lies, when there is one.
    pub(crate) fn saved(&self, key: &str) -> Option<PathBuf> {
        Some(self.machines().join(key)).filter(|dir| dir.is_dir())
    }

    /// Takes the entry `key` away, which is not what was saved: whoever comes next makes it anew.
    pub(crate) fn discard(&self, key: &str) -> Result<(), Error> {
        take_away(&self.machines().join(key))
    }

    /// What failed in this run on the way to the entry `key`.
    pub(crate) fn failure(&self, key: &str) -> Option<Failure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Notes that nobody in this run needs to try again to come to the entry `key`.
    pub(crate) fn failed(&self, key: &str, failure: Failure) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), failure);
    }

    /// Whether there is room for another machine.
    pub(crate) fn has_room(&self) -> bool {
        statvfs(&self.dir).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) > ROOM)
    }

    /// An empty directory in which the machine `key` is made, whatever a killed run left there.
    pub(crate) fn begin(&self, key: &str) -> Result<PathBuf, Error> {
        begin(self.machines(), key)
    }

    /// The result of a row that passed with these inputs, and the directory with its files.
    pub(crate) fn verdict(&self, key: &str) -> Option<(ScenarioResult, PathBuf)> {
        let dir = self.dir.join(format!("{key}.verdict"));
        let text = fs::read(dir.join("result.json")).ok()?;
        Some((serde_json::from_slice(&text).ok()?, dir.join("record")))
    }

    /// Remembers a row that passed; `record` is the directory with its files.
    pub(crate) fn remember(&self, key: &str, result: &ScenarioResult, record: &Path) -> Result<(), Error> {
        let name = format!("{key}.verdict");
        let part = begin(&self.dir, &name)?;
        let path = part.join("result.json");
        let text = serde_json::to_vec(result).map_err(|e| Error::file("writing", &path)(e.into()))?;
        fs::write(&path, text).map_err(Error::file("writing", &path))?;
        copy_files(record, &part.join("record"))?;
        finish(&part)?;
        Ok(())
    }

    /// How long the last step of each prefix took, in milliseconds.
    #[must_use]
    pub fn times(&self) -> BTreeMap<String, u64> {
        let path = self.dir.with_file_name(TIMES);
        fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Remembers how long steps took, in milliseconds: one writer at a time, of the rows of a run and of other runs. Plans do
    /// without it, where it cannot be written.
    pub(crate) fn took(&self, times: impl IntoIterator<Item = (String, u64)>) {
        let path = self.dir.with_file_name(TIMES);
        let Ok(lock) = File::create(path.with_extension("lock")) else { return };
        if flock(&lock, FlockOperation::LockExclusive).is_err() {
            return;
        }
        let mut all = self.times();
        all.extend(times);
        let part = path.with_extension("part");
        let written = serde_json::to_vec(&all).ok().map(|text| fs::write(&part, text));
        if matches!(written, Some(Ok(()))) {
            let _ = fs::rename(&part, &path);
        }
    }
}

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

/// The build of the harness that runs: a hash of its program. Any change to it makes another one.
pub(crate) fn build() -> Result<String, Error> {
    let program = Path::new("/proc/self/exe");
    let hash = || {
        let mut hash = blake3::Hasher::new();
        hash.update_reader(File::open(program)?)?;
        Ok(hash.finalize().to_hex()[..16].to_owned())
    };
    hash().map_err(Error::file("hashing", program))
}

/// Removes the directories of builds that were not used lately and are not in use.
fn sweep(all: &Path, own: &Path) {
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

/// An empty directory beside which [`finish`] gives it the name `name`.
fn begin(parent: &Path, name: &str) -> Result<PathBuf, Error> {
    let dir = parent.join(format!("{name}.part"));
    remove(&dir)?;
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(Error::file("making", &dir))?;
    Ok(dir)
}

/// Gives what [`begin`] made in `part` its name, and takes away what had it.
pub(crate) fn finish(part: &Path) -> Result<PathBuf, Error> {
    let dir = part.with_extension("");
    take_away(&dir)?;
    fs::rename(part, &dir).map_err(Error::file("renaming", part))?;
    Ok(dir)
}

/// Removes an entry. What has a name is whole, also if this is killed: it loses its name first.
fn take_away(dir: &Path) -> Result<(), Error> {
    let mut name = dir.as_os_str().to_owned();
    name.push(".old");
    let old = PathBuf::from(name);
    remove(&old)?;
    match fs::rename(dir, &old) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(Error::file("renaming", dir))?,
    }
    remove(&old)
}

fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("removing", dir)(e)),
        _ => Ok(()),
    }
}

/// Copies the files of one directory into another, which is made.
pub(crate) fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::file("making", to))?;
    for entry in fs::read_dir(from).map_err(Error::file("listing", from))? {
        let entry = entry.map_err(Error::file("listing", from))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::copy(entry.path(), to.join(entry.file_name()))
                .map_err(Error::file("copying", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_entry_is_made_by_one_run_and_appears_whole() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        let claim = store.claim("k", || ()).unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
                let _claim = store.claim("k", || tell.send(()).unwrap()).unwrap();
                store.saved("k").is_some()
            });
            told.recv().unwrap();
            let part = store.begin("k").unwrap();
            fs::write(part.join("a"), "x").unwrap();
            assert!(store.saved("k").is_none());
            finish(&part).unwrap();
            drop(claim);
            assert!(other.join().unwrap());
        });
    }

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
    fn whoever_wants_it_fresh_takes_no_machine_of_others_and_leaves_none() {
        let cache = tempfile::tempdir().unwrap();
        let others = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        finish(&others.begin("k").unwrap()).unwrap();
        let fresh = Store::open(cache.path(), Verdicts::Fresh).unwrap();
        assert!(others.saved("k").is_some() && fresh.saved("k").is_none());
        let made = finish(&fresh.begin("k").unwrap()).unwrap();
        assert_eq!(fresh.saved("k").as_ref(), Some(&made));
        drop(fresh);
        assert!(!made.exists() && others.saved("k").is_some());
    }

    #[test]
    fn what_is_discarded_or_replaced_has_no_name_meanwhile() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        store.discard("k").unwrap();
        for text in ["one", "another"] {
            let part = store.begin("k").unwrap();
            fs::write(part.join("a"), text).unwrap();
            let dir = finish(&part).unwrap();
            assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), text);
        }
        store.discard("k").unwrap();
        assert!(store.saved("k").is_none() && !store.dir.join("k.old").exists());
    }

    #[test]
    fn times_are_remembered() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        store.took([("a".to_owned(), 1)]);
        store.took([("b".to_owned(), 2)]);
        assert_eq!(store.times(), BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
    }
}
