//! Saved machines and verdicts on disk, by what they depend on.
//!
//! ```text
//! <cache>/saved/<build>/             one directory a build of the harness; of one that nobody uses lately the machines go
//!                                    away, and after thirty days its verdicts
//!     .in-use                        locked (shared) by every run that uses it
//!     <key>/                         the machine after a row's first steps
//!         machine/                   disk, variables, TPM, memory
//!         story.json, keys.json      what is known of it so far, and its keyslots' secrets (for its owner alone)
//!         record/                    the files that its boots left in the run's directory
//!     <key>.verdict/                 a row that passed: result.json and record/
//!     <key>.damaged                  a machine that is not what was saved, or lies over one: nobody forks it, makes it anew or
//!                                    removes it while a run uses this directory, since disks of forks may lie over it
//!     <key>.part, <key>.old          a machine or verdict in the making, and one on its way out
//!     <key>.lock                     held by the run that makes it, or reads or replaces a verdict
//!     fresh-.../                     the machines of a run that takes none of others; they go away with it
//! <cache>/saved/<build>.removing/    a build that goes away: nobody enters it under this name
//! <cache>/saved/times.json           how long steps took, for plans
//! ```
//!
//! A key is a hash over everything that the machine came from: harness, host, image, keys, variables, specification,
//! steps. Directories appear by one rename, so what has a name is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::SystemTime;

use latchkey_measure::hash::digest;
use latchkey_record::{HashAlg, ScenarioResult, Status, StepResult};
use latchkey_supervise::{Lock, Scratch, lock};
use rustix::fs::statvfs;

use crate::Error;
use crate::plan::Prefix;

mod damage;
mod entry;
mod in_use;
mod sweep;

pub(crate) use entry::{Part, copy_files};
use in_use::{IN_USE, in_use};
pub use sweep::prune;

/// What a saved machine is called in its entry.
pub(crate) const MACHINE: &str = "machine";
const TIMES: &str = "times.json";
/// How the name of a directory begins with the machines of a run that takes none of others.
const FRESH: &str = "fresh-";
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
    /// Where machines lie.
    machines: PathBuf,
    /// That is this run's own, when it takes none of others.
    _own: Option<Scratch>,
    /// None where it is only looked at.
    _in_use: Option<File>,
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
        let machines = own.as_ref().map_or_else(|| dir.clone(), |own| own.path().to_owned());
        let (failures, told) = (Mutex::default(), Once::new());
        Ok(Self { dir, machines, _own: own, _in_use: Some(in_use), failures, told })
    }

    /// The same for whoever asks what is there and runs nothing: nothing is made, removed or written.
    ///
    /// # Errors
    /// When this program cannot be read.
    pub fn look(cache: &Path, verdicts: Verdicts) -> Result<Self, Error> {
        let dir = cache.join("saved").join(build()?);
        let machines = match verdicts {
            Verdicts::Reuse => dir.clone(),
            // Nobody has machines there.
            Verdicts::Fresh => dir.join(FRESH),
        };
        let (failures, told) = (Mutex::default(), Once::new());
        Ok(Self { dir, machines, _own: None, _in_use: None, failures, told })
    }

    /// Where machines lie.
    fn machines(&self) -> &Path {
        &self.machines
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
        Some(dir).filter(|dir| dir.is_dir() && !damage::is_marked(self.machines(), key))
    }

    /// Notes that the machine `key` could not be forked since it, or one that it lies over, is not what was saved, as `error`
    /// tells: nobody goes on from that one, nor from any other that lies over it. They stay where they are as long as a run
    /// uses this store, since they are the bases of their forks' disks, and QEMU opens those by their paths at each power-on.
    /// Whoever opens the store by himself removes them, and the next row makes them anew.
    pub(crate) fn discard(&self, key: &str, error: &Error) -> Result<(), Error> {
        damage::mark(self.machines(), key, error)
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
        if self.machines().join(key).exists() || damage::is_marked(self.machines(), key) {
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
    pub(crate) fn begin(&self, key: &str) -> Result<Part, Error> {
        Part::begin(self.machines(), key)
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
        let part = Part::begin(&self.dir, &name)?;
        let path = part.path().join("result.json");
        let text = serde_json::to_vec(result).map_err(|e| Error::file("writing", &path)(e.into()))?;
        fs::write(&path, text).map_err(Error::file("writing", &path))?;
        copy_files(record, &part.path().join("record"))?;
        part.finish().map(drop)
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
    use std::sync::mpsc;

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
            fs::write(part.path().join("a"), "x").unwrap();
            assert!(store.saved("k").is_none());
            part.finish().unwrap();
            drop(claim);
            assert!(other.join().unwrap());
        });
    }

    #[test]
    fn whoever_wants_it_fresh_takes_no_machine_of_others_and_leaves_none() {
        let cache = tempfile::tempdir().unwrap();
        let others = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        others.begin("k").unwrap().finish().unwrap();
        let fresh = Store::open(cache.path(), Verdicts::Fresh).unwrap();
        assert!(others.saved("k").is_some() && fresh.saved("k").is_none());
        let made = fresh.begin("k").unwrap().finish().unwrap();
        assert_eq!(fresh.saved("k").as_ref(), Some(&made));
        drop(fresh);
        assert!(!made.exists() && others.saved("k").is_some());
    }

    #[test]
    fn what_is_damaged_stays_for_those_who_run_over_it_and_is_made_anew_by_the_next() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        let machine = store.begin("k").unwrap().finish().unwrap();
        store.discard("k", &Error::Bench("no machine".into())).unwrap();
        assert!(store.saved("k").is_none() && !store.takes("k") && machine.is_dir());
        // Another run begins, which is not alone.
        let other = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        assert!(other.saved("k").is_none() && !other.takes("k") && machine.is_dir());
        let dir = store.dir.clone();
        drop((store, other));
        drop(in_use::alone_at_last(&dir));
        let next = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        assert!(!machine.exists());
        next.begin("k").unwrap().finish().unwrap();
        assert!(next.saved("k").is_some());
        // A mark alone, whose machine somebody removed: what is made under it would count as damaged.
        next.discard("l", &Error::Bench("no machine".into())).unwrap();
        assert!(!next.takes("l"));
    }

    #[test]
    fn a_verdict_that_cannot_be_remembered_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        let result = ScenarioResult {
            scenario: "drill".into(),
            title: "t".into(),
            why: "w".into(),
            image: "rlc9-uki".into(),
            host: None,
            status: Status::Passed,
            conclusion: None,
            steps: Vec::new(),
            reproduce: String::new(),
            kept: None,
            took_ms: 1,
            reused: None,
            image_identity: None,
        };
        store.remember("k", &result, &cache.path().join("none")).unwrap_err();
        assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 1, "the file that tells who is here");
        let record = cache.path().join("record");
        fs::create_dir(&record).unwrap();
        store.remember("k", &result, &record).unwrap();
        assert_eq!(store.verdict("k").unwrap().0, result);
    }

    #[test]
    fn whoever_only_looks_finds_what_is_there_and_leaves_all_as_it_is() {
        let cache = tempfile::tempdir().unwrap();
        let look = |verdicts| Store::look(cache.path(), verdicts).unwrap();
        assert!(look(Verdicts::Fresh).saved("k").is_none() && look(Verdicts::Reuse).times().is_empty());
        assert!(!cache.path().join("saved").exists());
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        let own = store.begin("k").unwrap().finish().unwrap();
        store.took([("a".to_owned(), 1)]);
        drop(store);
        let long_ago = SystemTime::UNIX_EPOCH;
        let builds = ["one", "another", "third", "fourth"].map(|name| cache.path().join("saved").join(name));
        for dir in &builds {
            fs::create_dir_all(dir.join("k.part")).unwrap();
        }
        for dir in builds.iter().map(PathBuf::as_path).chain(own.parent()) {
            File::create(dir.join(IN_USE)).unwrap().set_modified(long_ago).unwrap();
        }
        let (reuse, fresh) = (look(Verdicts::Reuse), look(Verdicts::Fresh));
        assert!(reuse.saved("k") == Some(own.clone()) && fresh.saved("k").is_none());
        assert_eq!(reuse.times().len(), 1);
        drop((reuse, fresh));
        assert!(builds.iter().all(|dir| dir.join("k.part").is_dir()) && own.is_dir());
        let used = fs::metadata(own.with_file_name(IN_USE)).unwrap().modified().unwrap();
        assert_eq!(used, long_ago);
        assert_eq!(fs::read_dir(own.parent().unwrap()).unwrap().count(), 2, "that and the machine");
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
