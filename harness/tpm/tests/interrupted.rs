//! TPMs that are off, when the user asks to stop. The wish is the whole process', so this test has one to itself.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod tools;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use latchkey_record::pcr::HashAlg::Sha256;
use latchkey_tpm::{Channel, Error, manufacture, wait_out_lockout};

use tools::Tools;

fn is_cancelled(error: &Error) -> bool {
    matches!(error, Error::Supervise(latchkey_supervise::Error::Cancelled))
}

#[test]
fn whoever_asks_to_stop_is_heard_and_the_tpm_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("tpm");
    manufacture(Path::new("swtpm"), &state, &[Sha256]).unwrap();
    let tools = Tools::start_on(Channel::Tools, dir, &state);
    tools.fail_three_times();
    tools.run("tpm2_shutdown", &["-c"]);
    let dir = tools.stop();
    let permanent = state.join("tpm2-00.permall");
    let before = fs::read(&permanent).unwrap();

    // One that takes a command and never answers.
    let (mute, note) = (dir.path().join("mute"), dir.path().join("pid"));
    let script =
        format!("#!/bin/sh\nhead -c 10 > /dev/null\necho $$ > {}\nexec tail -f /dev/null\n", note.display());
    fs::write(&mute, script).unwrap();
    fs::set_permissions(&mute, fs::Permissions::from_mode(0o755)).unwrap();
    let (tell, told) = mpsc::channel();
    let other = dir.path().join("other");
    // Not joined: one that does not hear would wait for a minute.
    std::thread::spawn(move || tell.send(manufacture(&mute, &other, &[Sha256])));
    let until = Instant::now() + Duration::from_secs(20);
    let pid: u32 = loop {
        assert!(Instant::now() < until, "nobody asked it anything");
        if let Some(pid) = fs::read_to_string(&note).ok().and_then(|pid| pid.trim().parse().ok()) {
            break pid;
        }
        std::thread::yield_now();
    };
    latchkey_supervise::cancel();
    let error = told.recv_timeout(Duration::from_secs(20)).unwrap().unwrap_err();
    assert!(is_cancelled(&error), "{error}");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it goes on");

    let error = wait_out_lockout(Path::new("swtpm"), &state).unwrap_err();
    assert!(is_cancelled(&error), "{error}");
    assert!(fs::read(&permanent).unwrap() == before, "it forgets faster than before");
}
