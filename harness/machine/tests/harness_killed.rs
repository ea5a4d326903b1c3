//! What is left when the harness itself is killed or interrupted while a machine runs: nothing.
//!
//! The harness that is killed is this test program, started again for the one test `runs_a_machine` with a
//! variable that makes it hold the machine until its end.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use latchkey_machine::{Error, Machine, Running, Saved};
use latchkey_record::console::Pattern;
use rstest::rstest;

use common::{FIRMWARE, host, lives, machine, signal, turn, wait_for_ends};

const HOLD: &str = "LATCHKEY_TEST_HOLDS_MACHINE_IN";
const READY: &str = "holding";
/// Where the memory of a machine lies that was saved as it ran.
const MEMORY: &str = "memory";
/// What is written last.
const SEAL: &str = "saved.json";
/// Whether it saves the machine then.
const SAVE: &str = "LATCHKEY_TEST_SAVES_MACHINE";

#[test]
fn runs_a_machine() {
    let _turn = turn();
    let hold = std::env::var_os(HOLD);
    // One that is killed leaves its directory to whoever kills it.
    let own = hold.is_none().then(|| tempfile::tempdir().unwrap());
    let dir = own.as_ref().map_or_else(|| Path::new(hold.as_ref().unwrap()), |own| own.path());
    let host = host();
    let running = machine(&host, dir).start(&host, &[]).unwrap();
    let pids = running.pids().map(Option::unwrap);
    let measured = |r: &Running| r.tpm().extends().next().map(|_| ());
    running.wait_until("the firmware's first measurement", FIRMWARE, measured).unwrap();
    assert!(pids.iter().all(|pid| lives(*pid)));
    if hold.is_some() {
        latchkey_supervise::cancel_on_signals();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{READY} {} {}", pids[0], pids[1]).unwrap();
        out.flush().unwrap();
        drop(out);
        if std::env::var_os(SAVE).is_some() {
            running.save().unwrap();
            return;
        }
        let error = running.wait_for(0, &[Pattern::Login], FIRMWARE * 100).unwrap_err();
        assert!(error.is_cancelled(), "{error}");
    }
    drop(running);
    wait_for_ends(&pids);
}

struct Harness {
    child: Child,
    /// Held open, so that the harness can write to the end.
    _output: Lines<BufReader<ChildStdout>>,
    pids: Vec<u32>,
}

fn harness(dir: &Path, more: &[(&str, &str)]) -> Harness {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "runs_a_machine", "--nocapture"])
        .env(HOLD, dir)
        .envs(more.iter().copied())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with(READY)).unwrap();
    let pids = line.split(' ').skip(1).map(|pid| pid.parse().unwrap()).collect();
    Harness { child, _output: lines, pids }
}

#[rstest]
#[case::killed("KILL")]
#[case::interrupted("INT")]
#[case::terminated("TERM")]
#[case::hung_up("HUP")]
fn nothing_outlives_a_harness_that_is(#[case] how: &str) {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let mut harness = harness(dir.path(), &[]);
    assert!(harness.pids.len() == 2 && harness.pids.iter().all(|pid| lives(*pid)));
    signal(how, harness.child.id());
    let status = harness.child.wait().unwrap();
    wait_for_ends(&harness.pids);
    match how {
        "KILL" => assert_eq!(status.signal(), Some(9)),
        _ => assert!(status.success(), "a harness that is asked to stop ends in order: {status}"),
    }
}

#[test]
fn a_killed_emulator_does_not_keep_its_tpm() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let mut harness = harness(dir.path(), &[]);
    signal("KILL", harness.pids[0]);
    // The test in the harness fails since its machine died, and takes the TPM along.
    assert!(!harness.child.wait().unwrap().success());
    wait_for_ends(&harness.pids);
}

#[test]
fn a_machine_whose_harness_was_killed_while_it_was_saved_is_no_saved_machine() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let mut harness = harness(dir.path(), &[(SAVE, "1")]);
    let machine = dir.path().join("machine");
    let until = Instant::now() + FIRMWARE;
    // Its memory is the first part that is written.
    while !machine.join(MEMORY).exists() {
        assert!(Instant::now() < until && harness.child.try_wait().unwrap().is_none(), "nothing is saved");
        std::thread::yield_now();
    }
    signal("KILL", harness.child.id());
    assert_eq!(harness.child.wait().unwrap().signal(), Some(9));
    wait_for_ends(&harness.pids);
    // The machine is there; what says that it is a whole saved one is not.
    assert!(Machine::open(&machine).is_ok());
    let error = Saved::open(&machine).unwrap_err();
    assert!(matches!(&error, Error::NoMachine { problem, .. } if problem.starts_with(SEAL)), "{error}");
}
