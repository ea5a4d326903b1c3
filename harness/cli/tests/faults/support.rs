//! A run of the real binary in a place of its own, and what it leaves behind.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::finished::Finished;

/// The image of the scenarios that are run here.
pub(crate) const RECIPE: &str = "rlc9-uki";
/// A scenario that boots.
pub(crate) const SCENARIO: &str = "foreign-kernel";
/// How long anything may take on a machine that is busy with other boots. Nothing waits this long unless it fails.
pub(crate) const LONG: Duration = Duration::from_secs(240);
/// How long a run may take to leave nothing behind once it is over or killed.
const GONE: Duration = Duration::from_secs(20);
/// How often something that tells nobody of itself is looked at.
const LOOK: Duration = Duration::from_millis(15);

/// Looks until `look` finds something; panics with `what` after `limit`.
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) => assert!(Instant::now() < until, "waited in vain for {what}: {instead}"),
        }
        std::thread::park_timeout(LOOK);
    }
}

/// The shared image and what is needed to use it.
struct Shared {
    /// The cache that has it.
    cache: PathBuf,
    disk: PathBuf,
}

/// The user's image `name`, built when there is none: whoever comes second waits for it.
fn shared(name: &str) -> Shared {
    let binary = env!("CARGO_BIN_EXE_latchkey");
    let built = Command::new(binary).args(["image", "build", name, "--json"]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let rows: Value = serde_json::from_slice(&built.stdout).unwrap();
    let disk = PathBuf::from(rows[0]["path"].as_str().unwrap());
    // So that the tests' caches can have the answer.
    let probed = Command::new(binary).arg("probe").output().unwrap();
    assert!(probed.status.success(), "{}", String::from_utf8_lossy(&probed.stderr));
    Shared { cache: disk.ancestors().nth(3).unwrap().to_owned(), disk }
}

/// A place for runs, with a cache of its own.
pub(crate) struct Bench {
    root: TempDir,
    image: Option<(PathBuf, String)>,
}

impl Bench {
    /// A place with an empty cache, for runs that do not come to an image.
    pub(crate) fn bare() -> Self {
        let root = tempfile::Builder::new().prefix("lk-").tempdir().unwrap();
        for dir in ["cache", "tmp", "results"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        Self { root, image: None }
    }

    /// A place whose cache has the shared image, the keys that it was signed with, and the answer of the probe.
    pub(crate) fn with_image() -> Self {
        Self::with(RECIPE)
    }

    /// As [`Self::with_image`], with the reference image `name`.
    pub(crate) fn with(name: &str) -> Self {
        let Shared { cache, disk } = shared(name);
        let bench = Self::bare();
        for name in ["images", "packages", "pki", "firmware-cas"] {
            symlink(cache.join(name), bench.cache().join(name)).unwrap();
        }
        fs::copy(cache.join("host.json"), bench.cache().join("host.json")).unwrap();
        let sum = sum(&disk);
        Self { image: Some((disk, sum)), ..bench }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root().join("cache")
    }

    /// The shared image's disk.
    pub(crate) fn disk(&self) -> &Path {
        &self.image.as_ref().unwrap().0
    }

    /// `program`, in surroundings that are this place's.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_bytes().starts_with(b"LATCHKEY_") || name == "NO_COLOR" {
                command.env_remove(name);
            }
        }
        command
            .env("LATCHKEY_CACHE", self.cache())
            .env("TMPDIR", self.root().join("tmp"))
            .current_dir(self.root())
            .stdin(Stdio::null())
            // A Ctrl-C at the tests, and a kill of this group, do not reach further.
            .process_group(0);
        command
    }

    /// The binary with `args`.
    pub(crate) fn latchkey(&self, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_latchkey"));
        command.args(args);
        command
    }

    /// The binary in a mount namespace of its own, after `prepare`, which is shell; `after` is shell as well, run when
    /// it has ended, with its exit code kept.
    pub(crate) fn latchkey_where(&self, prepare: &str, after: &str, args: &[&str]) -> Command {
        let mut command = self.command("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let script = format!("set -e; {prepare}; code=0; \"$@\" || code=$?; {after} exit $code");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command.arg(env!("CARGO_BIN_EXE_latchkey")).args(args);
        command
    }

    /// A run of `SCENARIO`, begun.
    pub(crate) fn start_run(&self, more: &[&str]) -> Harness<'_> {
        self.start(
            self.latchkey(&["run", SCENARIO, "--on", RECIPE, "--no-fork", "--results", "results"]).args(more),
        )
    }

    /// `command`, begun.
    pub(crate) fn start(&self, command: &mut Command) -> Harness<'_> {
        let words = tempfile::Builder::new().prefix("words-").tempdir_in(self.root()).unwrap().keep();
        let file = |name: &str| File::create(words.join(name)).unwrap();
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Harness { bench: self, child, words }
    }

    /// `command`, to its end.
    pub(crate) fn run(&self, command: &mut Command) -> Finished {
        self.start(command).finish()
    }

    /// Every process that was started here and lives, harnesses included.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let mark = self.root().as_os_str().as_bytes();
        let of = |pid: i32| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let has = |bytes: &[u8]| bytes.windows(mark.len()).any(|part| part == mark);
            let line = read("cmdline");
            let marked = has(&line) || has(&read("environ"));
            // A process that is about to end has neither.
            marked.then(|| Process { pid, line: String::from_utf8_lossy(&line).replace('\0', " ") })
        };
        pids().filter_map(of).collect()
    }

    /// Processes, sockets, temporary files, machines and mounts that are here.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let processes = self.processes().into_iter().map(|p| format!("process {} {}", p.pid, p.line));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let here = self.root().to_str().unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(here)).map(|line| format!("mount {line}"));
        let mut all: Vec<String> = processes.chain(mounts).collect();
        for entry in files(self.root()) {
            let path = entry.strip_prefix(self.root()).unwrap();
            let socket = fs::symlink_metadata(&entry).is_ok_and(|data| data.file_type().is_socket());
            let scratch = ["tmp", "cache/machines", "cache/work"].iter().any(|dir| path.starts_with(dir))
                && !entry.is_dir()
                && path.file_name().is_some_and(|name| name != ".scratch-lock");
            let probe = path.to_str().is_some_and(|path| path.starts_with("cache/probe-"));
            if socket || scratch || probe || is_machine(&entry) {
                all.push(format!("file {}", path.display()));
            }
        }
        all
    }

    /// Waits until nothing is left, and checks that the image is what it was.
    pub(crate) fn assert_clean(&self) {
        eventually("everything to be gone", GONE, || match self.leftovers() {
            left if left.is_empty() => Ok(()),
            left => Err(left.join("\n")),
        });
        self.assert_image_unchanged();
    }

    pub(crate) fn assert_image_unchanged(&self) {
        if let Some((disk, before)) = &self.image {
            assert_eq!(&sum(disk), before, "{} was written to", disk.display());
        }
    }

    /// Directories of machines in the cache.
    pub(crate) fn machines(&self) -> BTreeSet<PathBuf> {
        files(&self.cache()).into_iter().filter(|path| is_machine(path)).collect()
    }
}

fn is_machine(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with("machines"))
        && path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"machine-"))
}

/// Everything below `dir`, links not followed.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(files(&entry.path()));
        }
        all.push(entry.path());
    }
    all
}

/// Its SHA-256, by a tool that is not ours.
pub(crate) fn sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// A process that was found by its place.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Its command line.
    pub(crate) line: String,
}

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    fn program(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default().rsplit('/').next().unwrap_or_default()
    }
}

/// The process that started `pid`, as long as both live.
fn parent(pid: i32) -> Option<i32> {
    // proc(5): the program's name is in brackets, then state and parent.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// All process ids.
fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Sends a signal to a process that may have ended meanwhile.
pub(crate) fn send(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// The machine of a run that boots.
#[derive(Debug)]
pub(crate) struct Booting {
    pub(crate) qemu: Process,
    pub(crate) swtpm: Process,
    /// Its directory below `machines`.
    pub(crate) dir: PathBuf,
}

/// A harness that runs. Dropping it kills what is left of it.
pub(crate) struct Harness<'a> {
    bench: &'a Bench,
    child: Child,
    words: PathBuf,
}

impl Harness<'_> {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Looks until `look` finds something, as long as the harness runs.
    pub(crate) fn until<T>(&mut self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let child = &mut self.child;
        let stderr = self.words.join("stderr");
        eventually(what, LONG, || {
            if let Some(found) = look() {
                return Ok(found);
            }
            let ended = child.try_wait().unwrap();
            let said = fs::read_to_string(&stderr).unwrap();
            assert!(ended.is_none(), "the run ended while waiting for {what}: {ended:?}\n{said}");
            Err(said)
        })
    }

    /// The processes that it started itself and that live.
    pub(crate) fn children(&self) -> Vec<i32> {
        pids().filter(|pid| parent(*pid) == Some(self.pid())).collect()
    }

    /// A process that it started itself and that runs `program`.
    pub(crate) fn child(&mut self, program: &str) -> Process {
        let (bench, own) = (self.bench, self.pid());
        let is_it =
            |process: &Process| process.program().starts_with(program) && parent(process.pid) == Some(own);
        self.until(program, || bench.processes().into_iter().find(is_it))
    }

    /// Waits for the machine's first boot to be under way.
    pub(crate) fn first_boot(&mut self) -> Booting {
        // Written when the guest runs; other TPMs and firmware come and go before that.
        let line = |path: &PathBuf| path.ends_with("power-1.qemu.txt");
        let results = self.bench.root().join("results");
        self.until("the machine to be on", || files(&results).into_iter().find(line));
        let qemu = self.child("qemu-system");
        let swtpm = self.child("swtpm");
        // It runs in the directory of its state.
        let dir = fs::read_link(format!("/proc/{}/cwd", swtpm.pid)).unwrap();
        let dir = dir.ancestors().find(|dir| is_machine(dir)).unwrap().to_owned();
        Booting { qemu, swtpm, dir }
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Finished {
        self.ended(|_| ())
    }

    /// Waits for its end, and sends it `signal` again and again meanwhile.
    pub(crate) fn finish_impatiently(self, signal: Signal) -> Finished {
        self.ended(|pid| send(pid, signal))
    }

    fn ended(mut self, meanwhile: impl Fn(i32)) -> Finished {
        let pid = self.pid();
        let child = &mut self.child;
        let status = eventually("the run to end", LONG, || {
            let ended = child.try_wait().unwrap();
            if ended.is_none() {
                meanwhile(pid);
            }
            ended.ok_or_else(|| fs::read_to_string(self.words.join("stderr")).unwrap())
        });
        let read = |name: &str| fs::read_to_string(self.words.join(name)).unwrap();
        let finished = Finished { status, stdout: read("stdout"), stderr: read("stderr") };
        fs::remove_dir_all(&self.words).unwrap();
        finished
    }
}

impl Drop for Harness<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
