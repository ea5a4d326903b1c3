//! A machine's ends, when the user asks to stop. The wish is the whole process', so this test has one to itself.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use latchkey_machine::qmp::{Qmp, QmpError};
use latchkey_record::console::Pattern;
use serde_json::json;

use common::{FIRMWARE, host, machine, wait_for_ends};

#[test]
fn waits_for_qemu_hear_the_wish_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let host = host();
    let running = machine(&host, dir.path()).start(&host, &[]).unwrap();
    let pids = running.pids().map(Option::unwrap);
    running.wait_for(running.boot_mark(), &[Pattern::FirmwareShell], FIRMWARE).unwrap();
    running
        .wait_until("the shell's prompt", FIRMWARE, |r| r.console().tail(2).contains("Shell>").then_some(()))
        .unwrap();
    // The guest switches the machine off, and QEMU stays.
    running.qmp().execute("set-action", json!({"shutdown": "pause"})).unwrap();
    running.console().type_text("reset -s\r").unwrap();
    running.qmp().wait_for(0, &["SHUTDOWN"], running.scaled(FIRMWARE)).unwrap();

    latchkey_supervise::cancel();
    // One that never answers.
    let (line, _qemu) = UnixStream::pair().unwrap();
    let error = Qmp::over(line, Instant::now(), Duration::from_secs(600), || ()).unwrap_err();
    assert!(matches!(error, QmpError::Cancelled), "{error}");
    let error = running.wait_for_power_off(FIRMWARE).err().unwrap();
    assert!(error.is_cancelled(), "{error}");
    wait_for_ends(&pids);
}
