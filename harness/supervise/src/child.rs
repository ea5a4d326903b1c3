//! A supervised child process.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Error, cancelled, groups, spawner};

/// How long a tool may take to remove what it made when the user wants to stop.
const TIDIES: Duration = Duration::from_secs(5);
/// How often a wait looks whether the user asked to stop.
const CANCEL_CHECK: Duration = Duration::from_millis(100);
/// How many lines of a failed tool's standard error an error carries.
const STDERR_LINES: usize = 20;

/// Programs of which the user may name another, and with which variable: those that `latchkey probe` shows and that are
/// started by their names.
pub const OVERRIDES: [(&str, &str); 2] =
    [("qemu-img", "LATCHKEY_QEMU_IMG"), ("qemu-storage-daemon", "LATCHKEY_QEMU_STORAGE_DAEMON")];

/// Goes on as its arguments if the harness with that process id is its parent still. A harness that was killed before
/// `setpriv` asked for the signal would never cause one.
const UNLESS_ORPHANED: &str = r#"[ "$PPID" = "$1" ] || exit 1; shift; exec "$@""#;

/// A running child and everything it started in its process group. Once the child ended, or this is dropped, the rest of the
/// group is killed; also when this process is.
#[derive(Debug)]
pub struct Supervised {
    name: String,
    handle: duct::Handle,
    /// Whether the group is over, so that its number may be another's.
    is_over: AtomicBool,
}

/// What a finished tool printed.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error, byte for byte.
    pub stderr: Vec<u8>,
}

impl Captured {
    /// Standard output as text, with bytes that are not UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

fn guarded(name: &str, program: &OsStr, args: &[OsString], tree: bool) -> Result<duct::Expression, Error> {
    let missing = |program: &OsStr| Error::Missing { program: program.to_string_lossy().into_owned() };
    let other = OVERRIDES.iter().find(|(name, _)| *name == program).and_then(|(_, it)| std::env::var_os(it));
    let program = match other.filter(|other| !other.is_empty()) {
        // As whoever probes the host takes it.
        Some(other) => which::which_in(&other, std::env::var_os("PATH"), "/").map_err(|_| missing(&other))?,
        None => which::which(program).map_err(|_| missing(program))?,
    };
    let setpriv = which::which("setpriv").map_err(|_| missing(OsStr::new("setpriv")))?;
    let mut line: Vec<OsString> =
        ["--pdeathsig", "KILL", "--", "sh", "-c", UNLESS_ORPHANED, "sh"].map(OsString::from).into();
    line.push(std::process::id().to_string().into());
    if tree {
        line.push("unshare".into());
        line.extend(ENCLOSED.map(OsString::from));
    }
    line.push(program.into_os_string());
    line.extend(args.iter().cloned());
    tracing::debug!(name, command = ?line, "starting");
    Ok(duct::cmd(setpriv, line).unchecked().before_spawn(|command| {
        command.process_group(0);
        Ok(())
    }))
}

/// Starts `program` with `args`; `shape` says where its standard streams go.
///
/// # Errors
/// [`Error::Missing`] when the program is not on `PATH`, [`Error::Start`] when it cannot be started.
pub fn start<S: AsRef<OsStr>>(
    name: &str,
    program: impl AsRef<OsStr>,
    args: &[S],
    shape: impl FnOnce(duct::Expression) -> duct::Expression,
) -> Result<Supervised, Error> {
    begin(name, program.as_ref(), args, false, shape)
}

/// As [`start`], for a child that goes on when this process is killed, to tidy up after it: it has to end by itself, and to take
/// back the signal that it would get (`setpriv --pdeathsig clear`).
///
/// # Errors
/// As [`start`].
pub fn start_guardian<S: AsRef<OsStr>>(
    name: &str,
    program: impl AsRef<OsStr>,
    args: &[S],
    shape: impl FnOnce(duct::Expression) -> duct::Expression,
) -> Result<Supervised, Error> {
    spawn(name, program.as_ref(), args, false, shape)
}

/// As [`start`], for a tool that starts further processes of its own (an image build): all of them end when
/// it does. That takes a PID namespace; where none can be made (not root, or a container that forbids it) the process
/// group alone is killed.
///
/// # Errors
/// As [`start`].
pub fn start_tree<S: AsRef<OsStr>>(
    name: &str,
    program: impl AsRef<OsStr>,
    args: &[S],
    shape: impl FnOnce(duct::Expression) -> duct::Expression,
) -> Result<Supervised, Error> {
    begin(name, program.as_ref(), args, *CAN_ENCLOSE, shape)
}

/// What encloses a tree: a PID and a mount namespace of its own, with a `/proc` that fits. It dies with its first process,
/// and what it mounted is gone with it.
const ENCLOSED: [&str; 5] = ["--mount-proc", "--fork", "--pid", "--kill-child=KILL", "--"];
static CAN_ENCLOSE: LazyLock<bool> = LazyLock::new(|| {
    rustix::process::geteuid().is_root() && run("unshare", &[&ENCLOSED[..], &["true"]].concat()).is_ok()
});

fn begin<S: AsRef<OsStr>>(
    name: &str,
    program: &OsStr,
    args: &[S],
    tree: bool,
    shape: impl FnOnce(duct::Expression) -> duct::Expression,
) -> Result<Supervised, Error> {
    let child = spawn(name, program, args, tree, shape)?;
    if let Some(group) = child.pid() {
        groups::begins(group);
    }
    Ok(child)
}

fn spawn<S: AsRef<OsStr>>(
    name: &str,
    program: &OsStr,
    args: &[S],
    tree: bool,
    shape: impl FnOnce(duct::Expression) -> duct::Expression,
) -> Result<Supervised, Error> {
    let args: Vec<OsString> = args.iter().map(|a| a.as_ref().to_owned()).collect();
    let expression = shape(guarded(name, program, &args, tree)?);
    let handle =
        spawner::start(expression).map_err(|source| Error::Start { name: name.to_owned(), source })?;
    Ok(Supervised { name: name.to_owned(), handle, is_over: AtomicBool::new(false) })
}

/// Runs a short tool to its end and gives what it printed.
///
/// # Errors
/// As [`start`]; [`Error::Failed`] when it exits with anything but 0, [`Error::Cancelled`] when the user
/// asked to stop meanwhile.
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Result<Captured, Error> {
    run_with(program, args, |e| e.stdin_null())
}

/// As [`run`], with more to say about the child: its standard input, directory or environment.
///
/// # Errors
/// As [`run`].
pub fn run_with<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: &[S],
    shape: impl FnOnce(duct::Expression) -> duct::Expression,
) -> Result<Captured, Error> {
    let program = program.as_ref();
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    let child = start(&name, program, args, |e| shape(e).stdout_capture().stderr_capture())?;
    loop {
        if let Some(output) = child.wait_for(CANCEL_CHECK)? {
            let captured = Captured { stdout: output.stdout.clone(), stderr: output.stderr.clone() };
            if output.status.success() {
                return Ok(captured);
            }
            return Err(Error::Failed {
                name,
                status: output.status,
                stderr: last_lines(&String::from_utf8_lossy(&output.stderr), STDERR_LINES),
            });
        }
        if cancelled() {
            child.end(TIDIES)?;
            return Err(Error::Cancelled);
        }
    }
}

fn last_lines(text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(most)..].join("\n")
}

impl Supervised {
    /// What it was called when it was started.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, which is also its group's.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.handle.pids().first().copied()
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// [`Error::Wait`] when the system cannot tell.
    pub fn is_running(&self) -> Result<bool, Error> {
        let ended = self.handle.try_wait().map_err(|source| self.wait_error(source))?.is_some();
        if ended {
            self.ends_group();
        }
        Ok(!ended)
    }

    /// Waits up to `limit` for the end; `None` when it still runs then.
    ///
    /// # Errors
    /// [`Error::Wait`] when the system cannot tell.
    pub fn wait_for(&self, limit: Duration) -> Result<Option<&std::process::Output>, Error> {
        let ended = self.handle.wait_timeout(limit).map_err(|source| self.wait_error(source))?;
        if ended.is_some() {
            self.ends_group();
        }
        Ok(ended)
    }

    /// As [`Supervised::wait_for`], as long as the user does not ask to stop.
    ///
    /// # Errors
    /// As [`Supervised::wait_for`], and [`Error::Cancelled`] when the user asks to stop while it runs.
    pub fn wait_unless_cancelled(&self, limit: Duration) -> Result<Option<&std::process::Output>, Error> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let ended = self.wait_for(left.min(CANCEL_CHECK))?;
            if ended.is_some() || left.is_zero() {
                return Ok(ended);
            }
            if cancelled() {
                return Err(Error::Cancelled);
            }
        }
    }

    /// Asks it to end (SIGTERM to the group), then kills what is left after `grace`.
    ///
    /// # Errors
    /// [`Error::Wait`] when the system cannot tell whether it ended.
    pub fn end(self, grace: Duration) -> Result<(), Error> {
        if self.is_over.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.signal(Signal::TERM);
        let deadline = Instant::now() + grace;
        self.handle.wait_deadline(deadline).map_err(|source| self.wait_error(source))?;
        Ok(())
    }

    /// Stops it where it is (SIGKILL to the group) and reaps it.
    pub fn kill(&self) {
        self.ends_group();
        if let Err(e) = self.handle.wait() {
            tracing::debug!(name = self.name, "reaping: {e}");
        }
    }

    /// Kills what is left of the group, once: its number is its own only as long as somebody of it is there.
    fn ends_group(&self) {
        if self.is_over.swap(true, Ordering::SeqCst) {
            return;
        }
        self.signal(Signal::KILL);
        if let Some(group) = self.pid() {
            groups::is_over(group);
        }
    }

    fn signal(&self, signal: Signal) {
        let group = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            // Fails only when the group is gone already, which is what was wanted.
            let _ = kill_process_group(group, signal);
        }
    }

    fn wait_error(&self, source: std::io::Error) -> Error {
        Error::Wait { name: self.name.clone(), source }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn output_comes_back_and_failure_carries_stderr() {
        assert_eq!(run("sh", &["-c", "echo hi"]).unwrap().text(), "hi\n");
        let failed = run("sh", &["-c", "echo why >&2; exit 3"]).unwrap_err().to_string();
        assert!(failed.contains("why") && failed.contains('3'), "{failed}");
    }

    #[test]
    fn a_missing_program_names_the_remedy() {
        let error = run("no-such-program-here", &[] as &[&str]).unwrap_err().to_string();
        assert!(error.contains("cargo xtask setup"), "{error}");
    }

    #[test]
    fn an_orphan_does_not_go_on() {
        let go_on = |parent: u32| {
            let line = ["-c", UNLESS_ORPHANED, "sh", &parent.to_string(), "echo", "on"];
            std::process::Command::new("sh").args(line).output().unwrap().stdout
        };
        assert_eq!(go_on(std::process::id()), b"on\n");
        assert_eq!(go_on(std::process::id() + 1), b"");
    }

    /// Says in a process of its own that this is the one to be killed.
    const HOLD: &str = "LATCHKEY_TEST_HOLDS_A_GRANDCHILD";
    const READY: &str = "the grandchild is ";

    /// What `look` finds at last; nothing tells when.
    fn found<T>(look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(found) = look() {
                return found;
            }
            std::thread::yield_now();
        }
        panic!("waited in vain");
    }

    /// Waits until the process `pid` is gone.
    fn wait_for_end(pid: i32) {
        let alive =
            || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        found(|| (!alive()).then_some(()));
    }

    #[test]
    fn dropping_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("grandchild");
        let script = format!("sleep 1000 & echo $! > {}; wait", note.display());
        let child = start("sh", "sh", &["-c", &script], |e| e).unwrap();
        let pid: i32 = found(|| std::fs::read_to_string(&note).ok()?.trim().parse().ok());
        if std::env::var_os(HOLD).is_some() {
            println!("\n{READY}{pid}");
            // Whoever started this kills it.
            loop {
                std::thread::park();
            }
        }
        drop(child);
        wait_for_end(pid);
    }

    /// The process that is killed is this test program, started again for the test above.
    #[test]
    fn killing_this_process_kills_what_its_children_started() {
        use std::io::BufRead;
        // What it makes and cannot remove any more.
        let left = tempfile::tempdir().unwrap();
        let mut killed = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::tests::dropping_kills_the_whole_group", "--nocapture"])
            .env(HOLD, "")
            .env("TMPDIR", left.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(killed.stdout.take().unwrap()).lines();
        let line = lines.map_while(Result::ok).find(|line| line.starts_with(READY)).unwrap();
        let pid = line[READY.len()..].parse().unwrap();
        killed.kill().unwrap();
        killed.wait().unwrap();
        wait_for_end(pid);
    }
}
