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
//!     <key>.damaged                  a machine that is not what was saved: nobody forks it, makes it anew or removes it while
//!                                    a run uses this directory, since disks of forks may lie over it
//!     <key>.part, <key>.old          a machine or verdict in the making, and one on its way out
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
use std::sync::{Mutex, Once, PoisonError};
use std::time::SystemTime;

use latchkey_measure::hash::digest;
use latchkey_record::{HashAlg, ScenarioResult, Status, StepResult};
use latchkey_supervise::{Hold, Lock, Scratch, hold, lock};
use rustix::fs::{FlockOperation, flock, statvfs};

use crate::Error;
use crate::plan::Prefix;

mod entry;
mod sweep;

use entry::{begin, remove, take_away};
pub(crate) use entry::{copy_files, finish};
pub use sweep::prune;

const IN_USE: &str = ".in-use";
const TIMES: &str = "times.json";
/// How the name of a directory begins with the machines of a run that takes none of others.
const FRESH: &str = "fresh-";
/// What is added to the name of a machine that is not what was saved.
const DAMAGED: &str = "damaged";
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
    /// Whether it was told that there is no room.
    told: Once,
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
        let in_use = in_use(&dir)?;
        // Its time tells when this build was used last.
        in_use.set_modified(SystemTime::now()).map_err(Error::file("writing", &dir.join(IN_USE)))?;
        sweep::builds(&all, &dir);
        sweep::killed(&all);
        let own = match verdicts {
            Verdicts::Reuse => None,
            Verdicts::Fresh => Some(Scratch::new(&dir, FRESH)?),
        };
        Ok(Self { dir, own, _in_use: in_use, failures: Mutex::default(), told: Once::new() })
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
        let dir = self.machines().join(key);
        Some(dir).filter(|dir| dir.is_dir() && !dir.with_extension(DAMAGED).exists())
    }

    /// Notes that the machine `key` is not what was saved: nobody goes on from it. It stays where it is as long as a run uses
    /// this store, since it is the base of its forks' disks, and QEMU opens that by its path at each power-on. Whoever opens
    /// the store by himself removes it, and the next row makes it anew.
    pub(crate) fn discard(&self, key: &str) -> Result<(), Error> {
        let mark = self.machines().join(key).with_extension(DAMAGED);
        File::create(&mark).map(drop).map_err(Error::file("writing", &mark))
    }

    /// What failed in this run on the way to the entry `key`.
    pub(crate) fn failure(&self, key: &str) -> Option<Failure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Notes that nobody in this run needs to try again to come to the entry `key`.
    pub(crate) fn failed(&self, key: &str, failure: Failure) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), failure);
    }

    /// Whether a machine can be saved as `key`: none is there, on which disks may lie, and there is room. That there is not is
    /// told once.
    pub(crate) fn takes(&self, key: &str) -> bool {
        if self.machines().join(key).exists() {
            return false;
        }
        let has_room =
            statvfs(&self.dir).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) > ROOM);
        if !has_room {
            self.told.call_once(|| {
                tracing::warn!(
                    "less than {} GiB are free in {}: no machine is saved any more, and each row does all of its steps by \
                     itself; `cargo xtask image prune` makes room",
                    ROOM >> 30,
                    self.dir.display()
                );
            });
        }
        has_room
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
        let Ok(_lock) = lock(&path.with_extension("lock"), || ()) else { return };
        let mut all = self.times();
        all.extend(times);
        let part = path.with_extension("part");
        let written = serde_json::to_vec(&all).ok().map(|text| fs::write(&part, text));
        if matches!(written, Some(Ok(()))) {
            let _ = fs::rename(&part, &path);
        }
    }
}

/// How often somebody tries to be in a directory that others take away.
const TRIES: u32 = 100;

/// Makes the directory `dir` of a build where there is none, and gives the lock of those who use it.
fn in_use(dir: &Path) -> Result<File, Error> {
    let path = dir.join(IN_USE);
    for tries in (0..TRIES).rev() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        let file = match made.and_then(|()| File::create(&path)) {
            // Another build, which found nobody here, has just removed it.
            Err(e) if tries > 0 && is_passing(&e, dir) => continue,
            other => other.map_err(Error::file("making", &path))?,
        };
        let own = file.metadata().map_err(Error::file("looking at", &path))?;
        let is_there = || fs::metadata(&path).is_ok_and(|there| there.ino() == own.ino());
        // Nobody else is here, so nothing lies over what is damaged.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_there() {
            sweep::damaged(dir);
        }
        hold(&file, &path, Hold::Shared, || ())?;
        // The same while this waited.
        if is_there() {
            return Ok(file);
        }
    }
    let why = "other builds of this program remove it again and again";
    Err(Error::Bench(format!("making {}: {why}", path.display())))
}

/// Whether making the directory `dir` may succeed the next time.
fn is_passing(error: &io::Error, dir: &Path) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound => true,
        io::ErrorKind::AlreadyExists => !dir.is_file() && !dir.is_symlink(),
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// A place that leads nowhere is an error, and not waited for.
    #[test]
    fn a_place_that_leads_nowhere_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/there/is/none", dir.path().join("link")).unwrap();
        let error = in_use(&dir.path().join("link")).unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
        in_use(&dir.path().join("made/on/the/way")).unwrap();
    }

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

    /// As by another build, which removes what it takes for nobody's.
    #[test]
    fn a_directory_that_is_removed_while_it_is_made_is_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("saved/build");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let _ = fs::remove_dir_all(&dir);
                }
            });
            let all: Result<Vec<File>, Error> = (0..200).map(|_| in_use(&dir)).collect();
            is_over.store(true, Ordering::SeqCst);
            assert_eq!(all.unwrap().len(), 200);
        });
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
    fn what_is_damaged_stays_for_those_who_run_over_it_and_is_made_anew_by_the_next() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        let machine = finish(&store.begin("k").unwrap()).unwrap();
        store.discard("k").unwrap();
        assert!(store.saved("k").is_none() && !store.takes("k") && machine.is_dir());
        // Another run begins, which is not alone.
        let other = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        assert!(other.saved("k").is_none() && !other.takes("k") && machine.is_dir());
        drop((store, other));
        let next = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        assert!(!machine.exists());
        finish(&next.begin("k").unwrap()).unwrap();
        assert!(next.saved("k").is_some());
    }

    #[test]
    fn what_is_replaced_has_no_name_meanwhile() {
        let cache = tempfile::tempdir().unwrap();
        for text in ["one", "another"] {
            let part = begin(cache.path(), "k.verdict").unwrap();
            fs::write(part.join("a"), text).unwrap();
            let dir = finish(&part).unwrap();
            assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), text);
        }
        assert!(!cache.path().join("k.verdict.old").exists());
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
