//! Machines that are saved, whole, and forked instead of booted again.
//!
//! A saved machine is a machine's directory that nobody writes to any more: disk, UEFI variables, TPM state, and for one
//! that ran its memory and what its witnesses had seen until then. A fork has a disk of its own over the saved one's, and
//! copies of the rest; the volatile state of its TPM comes with the memory. All parts are forked together, and the hash
//! of each is compared before it runs, so that a fork is the machine that was saved and nothing else.
//!
//! Not QEMU's internal snapshots: they lie inside the disk's file, and whoever forks them twice needs the whole of it
//! twice.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use latchkey_host::Host;
use latchkey_supervise::cancelled;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;
use crate::credential::Credential;
use crate::error::Part;
use crate::machine::{Machine, told};
use crate::qmp::{Qmp, QmpError, QmpEvent};
use crate::running::{Past, Running};

/// The saved machine's memory and devices, as QEMU writes them (QEMU, docs/devel/migration/mapped-ram.rst).
const MEMORY: &str = "memory";
/// What its witnesses had seen.
const PAST: &str = "past.json";
/// The hash of every part; written last, so that a directory with it holds a whole saved machine.
const SEAL: &str = "saved.json";
/// How long QEMU may take to write or read a machine's memory, on the reference host: three seconds and one there.
const MEMORY_MOVES: Duration = Duration::from_secs(120);
/// How long QEMU may take to end when told to.
const QUITS: Duration = Duration::from_secs(30);
/// Bytes that are hashed at once.
const PIECE: usize = 64 << 10;
const TICK: Duration = Duration::from_millis(100);

/// A machine that is kept as it was, to be forked.
#[derive(Debug)]
pub struct Saved {
    machine: Machine,
    seal: Seal,
}

/// What [`SEAL`] holds.
#[derive(Debug, Serialize, Deserialize)]
struct Seal {
    /// Whether it ran.
    runs: bool,
    /// What [`hash`] gives of each file, by its path in the machine's directory.
    parts: BTreeMap<String, String>,
    /// The same of the seal of the saved machine that its disk lies over, if there is one: another that took its place is no
    /// base for this disk.
    below: Option<String>,
}

/// A fork of a saved machine, in the state in which that one was saved.
pub enum Forked {
    /// It is off.
    Off(Machine),
    /// It runs.
    On(Box<Running>),
}

impl Machine {
    /// Keeps the machine as it is. Nobody writes to its directory any more.
    ///
    /// # Errors
    /// When its parts cannot be read.
    pub fn save(self) -> Result<Saved, Error> {
        Saved::seal(self, false)
    }
}

impl Running {
    /// Stops the machine and keeps it as it is, with its memory. To go on with it, fork it.
    ///
    /// # Errors
    /// [`Error::Memory`] when QEMU cannot save such a machine (one with an NVMe disk, for example); the machine is then
    /// lost.
    pub fn save(self) -> Result<Saved, Error> {
        let before = self.qmp.mark();
        self.qmp.execute("stop", json!({}))?;
        // The answer comes after what QEMU told until then: a reset by which the TPM counts belongs to the machine that is saved.
        let told = before..self.qmp.mark();
        let elapsed_ms = self.now_ms();
        let memory = self.machine.dir().join(MEMORY);
        self.move_memory("migrate", &memory, "saving the memory of")?;
        match self.qmp.execute("quit", json!({})) {
            // It may close the connection before its answer is through.
            Ok(_) | Err(QmpError::Closed(_) | QmpError::Socket(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let ends = self.scaled(QUITS);
        if self.qemu.wait_unless_cancelled(ends)?.is_none() {
            return Err(Error::Hangs { waited: ends, said: self.said(Part::Qemu) });
        }
        let Self { qemu, swtpm, console, qmp, machine, beginning, banner, .. } = self;
        drop(qemu);
        let too_often = swtpm.too_much();
        let (_, tpm) = swtpm.end_with_past()?;
        console.wait_for_end(ends)?;
        if let Some(what) = console.too_much().or(too_often) {
            return Err(Error::TooMuch { dir: machine.dir().to_owned(), what });
        }
        let qmp = until_stopped(qmp.events(0), told);
        let past = Past { elapsed_ms, console: console.past(), tpm, qmp, banner: banner.seen(), beginning };
        let path = machine.dir().join(PAST);
        let text = serde_json::to_vec(&past).map_err(|e| Error::io("writing", &path)(e.into()))?;
        fs::write(&path, text).map_err(Error::io("writing", &path))?;
        // What is left there is of no use to anybody.
        let _ = fs::remove_dir_all(machine.run_dir());
        Saved::seal(machine, true)
    }

    /// Has QEMU write the machine's memory to a file or read it from one, and waits until that is done.
    fn move_memory(&self, command: &str, file: &Path, doing: &'static str) -> Result<(), Error> {
        let capabilities = ["mapped-ram", "events"].map(|name| json!({"capability": name, "state": true}));
        self.qmp.execute("migrate-set-capabilities", json!({ "capabilities": capabilities }))?;
        let place = json!({"transport": "file", "filename": file, "offset": 0});
        let channels = json!([{"channel-type": "main", "addr": place}]);
        let mark = self.qmp.mark();
        let failed = |said: String| Error::Memory { doing, dir: self.machine.dir().to_owned(), said };
        match self.qmp.execute(command, json!({ "channels": channels })) {
            Err(QmpError::Refused { said, .. }) => return Err(failed(said)),
            other => other?,
        };
        let until = Instant::now() + self.scaled(MEMORY_MOVES);
        loop {
            let heard = self.bell.rings();
            let told = self.qmp.events(mark);
            let mut states = told.iter().filter(|event| event.name == "MIGRATION");
            match states.find_map(|event| event.data["status"].as_str().filter(|s| is_last(s))) {
                Some("completed") => return Ok(()),
                Some(other) => return Err(failed(why(&self.qmp).unwrap_or_else(|| other.to_owned()))),
                None => {}
            }
            if cancelled() {
                return Err(latchkey_supervise::Error::Cancelled.into());
            }
            if !self.qemu.is_running()? {
                let (part, awaited) = (Part::Qemu, "the machine's memory".to_owned());
                return Err(Error::Died { part, awaited, said: self.said(part) });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed("nothing within the time it may take".into()));
            }
            self.bell.wait(heard, left.min(TICK));
        }
    }
}

/// Of all `events`, those before the end of `told`, but for the stop that was asked for there: a fork does not stand still.
fn until_stopped(mut events: Vec<QmpEvent>, told: Range<usize>) -> Vec<QmpEvent> {
    events.truncate(told.end);
    let asked = events.split_off(told.start.min(events.len()));
    events.extend(asked.into_iter().filter(|event| event.name != "STOP"));
    events
}

/// Whether a migration is over with this status (QEMU, qapi/migration.json).
fn is_last(status: &str) -> bool {
    matches!(status, "completed" | "failed" | "cancelled")
}

fn why(qmp: &Qmp) -> Option<String> {
    let told: Value = qmp.execute("query-migrate", json!({})).ok()?;
    told["error-desc"].as_str().map(str::to_owned)
}

impl Saved {
    fn seal(machine: Machine, runs: bool) -> Result<Self, Error> {
        let parts = parts(machine.dir())?;
        let below = machine.over().map(|dir| hash(&dir.join(SEAL))).transpose()?;
        let saved = Self { machine, seal: Seal { runs, parts, below } };
        let path = saved.dir().join(SEAL);
        let text =
            serde_json::to_vec_pretty(&saved.seal).map_err(|e| Error::io("writing", &path)(e.into()))?;
        fs::write(&path, text).map_err(Error::io("writing", &path))?;
        Ok(saved)
    }

    /// Opens the saved machine in `dir`.
    ///
    /// # Errors
    /// [`Error::NoMachine`] when there is none, or not a whole one, [`Error::Io`] when it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let machine = Machine::open(dir)?;
        Ok(Self { machine, seal: told(dir, SEAL)? })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.machine.dir()
    }

    /// Whether it ran when it was saved.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.seal.runs
    }

    /// Compares every part of it, and of the saved machines that its disk lies over, with what was saved.
    ///
    /// # Errors
    /// [`Error::Altered`] with the first part that differs; others when something cannot be read.
    pub fn verify(&self) -> Result<(), Error> {
        let mut now = parts(self.dir())?;
        now.remove(SEAL);
        let names = self.seal.parts.keys().chain(now.keys());
        if let Some(part) = names.into_iter().find(|name| now.get(*name) != self.seal.parts.get(*name)) {
            return Err(Error::Altered { dir: self.dir().to_owned(), part: part.clone() });
        }
        let Some(dir) = self.machine.over() else { return Ok(()) };
        let below = Self::open(dir)?;
        if self.seal.below != Some(hash(&dir.join(SEAL))?) {
            return Err(Error::Altered { dir: dir.to_owned(), part: SEAL.to_owned() });
        }
        below.verify()
    }

    /// A fork of it in `dir`, which must not hold anything yet. One that ran goes on running; `credentials` are those with
    /// which it was started.
    ///
    /// # Errors
    /// [`Error::Altered`] when a part is not what was saved; others when QEMU or swtpm cannot take it over.
    pub fn fork(&self, host: &Host, dir: &Path, credentials: &[Credential]) -> Result<Forked, Error> {
        if !self.seal.runs {
            self.verify()?;
            return Ok(Forked::Off(self.machine.branch(dir)?));
        }
        // Side by side, since either takes long; the fork stands still until its parts are known to be the saved ones.
        let (verified, taken) = std::thread::scope(|scope| {
            let verifying = scope.spawn(|| self.verify());
            let taken = self.take_over(host, dir, credentials);
            (verifying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), taken)
        });
        verified?;
        let running = taken?;
        running.qmp.execute("cont", json!({}))?;
        running.check("the fork to run")?;
        Ok(Forked::On(Box::new(running)))
    }

    /// A fork of it in `dir` that stands still.
    fn take_over(&self, host: &Host, dir: &Path, credentials: &[Credential]) -> Result<Running, Error> {
        let path = self.dir().join(PAST);
        let text = fs::read(&path).map_err(Error::io("reading", &path))?;
        let past: Past = serde_json::from_slice(&text).map_err(|e| Error::io("reading", &path)(e.into()))?;
        let running = self.machine.branch(dir)?.power_up(host, credentials, Some(past))?;
        running.move_memory("migrate-incoming", &self.dir().join(MEMORY), "taking over the memory of")?;
        Ok(running)
    }
}

/// The hash of every file below `dir`, by its path there.
fn parts(dir: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut all = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let here = dir.join(&below);
        for entry in fs::read_dir(&here).map_err(Error::io("listing", &here))? {
            let entry = entry.map_err(Error::io("listing", &here))?;
            let name = below.join(entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(name);
            } else {
                all.insert(name.to_string_lossy().into_owned(), hash(&entry.path())?);
            }
        }
    }
    Ok(all)
}

/// What tells a file's contents from any others, in hex: BLAKE3 of its length, and of the place and the hash of each piece that
/// is not all zeros. Most of a machine's memory is, and lies in no block of the host's disk; what does not is not read.
fn hash(path: &Path) -> Result<String, Error> {
    let contents = File::open(path).and_then(|file| {
        let length = file.metadata()?.len();
        let mut hash = blake3::Hasher::new();
        hash.update(&length.to_le_bytes());
        let mut piece = vec![0; PIECE];
        let mut from = 0;
        while let Some(data) = next_data(&file, from)?.filter(|data| *data < length) {
            let place = data - data % PIECE as u64;
            let count = usize::try_from(length - place).map_or(PIECE, |left| left.min(PIECE));
            file.read_exact_at(&mut piece[..count], place)?;
            if piece[..count].iter().any(|byte| *byte != 0) {
                hash.update(&place.to_le_bytes());
                hash.update(blake3::hash(&piece[..count]).as_bytes());
            }
            from = place + count as u64;
        }
        Ok(hash.finalize().to_hex().to_string())
    });
    contents.map_err(Error::io("hashing", path))
}

/// Where the first block at or after `from` lies that a file has of the host's disk (lseek(2), `SEEK_DATA`).
fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    /// A file of so many bytes that has these at those places, and holes elsewhere.
    fn file(dir: &Path, length: u64, parts: &[(u64, &[u8])]) -> String {
        let path = dir.join("file");
        let file = File::create(&path).unwrap();
        file.set_len(length).unwrap();
        for (place, bytes) in parts {
            file.write_all_at(bytes, *place).unwrap();
        }
        hash(&path).unwrap()
    }

    #[test]
    fn a_hash_is_of_the_contents_wherever_there_are_holes() {
        let dir = tempfile::tempdir().unwrap();
        let of = |length, parts: &[(u64, &[u8])]| file(dir.path(), length, parts);
        let piece = PIECE as u64;
        let length = 40 * piece + 5;
        let (data, zeros) = (&[7; 3][..], vec![0; 9 * PIECE]);
        let expected = of(length, &[(17 * piece - 1, data)]);
        assert_eq!(of(length, &[(10 * piece, &zeros), (17 * piece - 1, data)]), expected);
        assert_eq!(of(length, &[(0, &zeros), (31 * piece, &zeros), (17 * piece - 1, data)]), expected);
        let others = [
            of(length, &[(17 * piece, data)]),
            of(length, &[(17 * piece - 1, data), (length - 1, &[1])]),
            of(length, &[(17 * piece - 1, data), (0, &[1])]),
            of(length, &[]),
            of(length + 1, &[(17 * piece - 1, data)]),
            of(0, &[]),
            of(1, &[]),
        ];
        let all: std::collections::BTreeSet<&String> = others.iter().chain([&expected]).collect();
        assert_eq!(all.len(), others.len() + 1, "no two are the same");
    }

    /// What a saved machine lies over may be gone: that is no error of reading.
    #[test]
    fn a_directory_that_is_gone_holds_no_machine() {
        let dir = tempfile::tempdir().unwrap();
        for gone in [dir.path().join("gone"), dir.path().to_owned()] {
            let error = Saved::open(&gone).unwrap_err();
            assert!(
                matches!(&error, Error::NoMachine { dir, .. } if dir.ends_with(gone.file_name().unwrap())),
                "{error}"
            );
        }
    }

    /// The guest may reset the machine between the wish to save it and its stop: then its TPM was reset as well.
    #[test]
    fn what_qemu_told_until_the_stop_is_kept_without_the_stop() {
        let event = |name: &&str| QmpEvent { at_ms: 0, name: (*name).to_owned(), data: Value::Null };
        let all = ["STOP", "RESUME", "RESET", "STOP", "MIGRATION", "SHUTDOWN"];
        let kept = until_stopped(all.iter().map(event).collect(), 2..4);
        let names: Vec<&str> = kept.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["STOP", "RESUME", "RESET"]);
    }
}
