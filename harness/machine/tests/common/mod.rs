//! A machine with the real firmware and an empty disk.
#![allow(dead_code, reason = "each test file uses what it needs")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use latchkey_host::{Host, Refresh};
use latchkey_machine::{Format, Hardware, Machine, NewMachine};
use latchkey_record::pcr::HashAlg;

/// Long enough for the firmware on the reference host, several times over.
pub(crate) const FIRMWARE: Duration = Duration::from_secs(90);

/// What this computer has; asked once for all runs.
pub(crate) fn host() -> Host {
    Host::probe(Path::new(env!("CARGO_TARGET_TMPDIR")), Refresh::WhenStale).unwrap()
}

/// One machine at a time: each takes a processor of its own.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An empty disk image of 64 MiB.
pub(crate) fn empty_image(dir: &Path) -> PathBuf {
    let base = dir.join("base.raw");
    File::create(&base).unwrap().set_len(64 << 20).unwrap();
    base
}

pub(crate) fn machine(host: &Host, dir: &Path) -> Machine {
    let variables = fs::read(&host.firmware.vars_template).unwrap();
    let new = NewMachine {
        base: &empty_image(dir),
        format: Format::Raw,
        variables: &variables,
        banks: &[HashAlg::Sha1, HashAlg::Sha256],
        hardware: Hardware::default().with_memory_mib(256),
    };
    Machine::create(host, &dir.join("machine"), &new).unwrap()
}

/// Whether a process exists and is no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits for the end of processes; nothing tells a stranger of it, so it has to look.
pub(crate) fn wait_for_ends(pids: &[u32]) {
    let until = Instant::now() + Duration::from_secs(20);
    while pids.iter().any(|pid| lives(*pid)) {
        assert!(Instant::now() < until, "still there: {pids:?}");
        std::thread::yield_now();
    }
}

pub(crate) fn signal(name: &str, pid: u32) {
    // The shell's own `kill`: a bare system has no other.
    latchkey_supervise::run("sh", &["-c", &format!("kill -{name} {pid}")]).unwrap();
}
