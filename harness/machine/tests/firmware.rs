//! Machines with the real firmware, the real emulator and an empty disk.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use latchkey_machine::{Error, Hardware, HotPlug, Machine, Part, Running, TpmDevice};
use latchkey_record::console::Pattern;
use latchkey_record::pcr::{Digest, HashAlg};
use latchkey_record::tpm::TpmRecord;
use rstest::rstest;

use common::{FIRMWARE, host, lives, machine, signal, turn};

/// What the firmware shows when no disk can be booted: its shell, or its complaint.
const NOTHING_TO_BOOT: &[Pattern] = &[Pattern::FirmwareShell, Pattern::NoBootOption];

fn first_extend(running: &Running) {
    running
        .wait_until("the firmware's first measurement", FIRMWARE, |r| r.tpm().extends().next().map(|_| ()))
        .unwrap();
}

#[test]
fn the_firmware_boots_and_every_witness_tells() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let host = host();
    let running = machine(&host, dir.path()).start(&host, &[]).unwrap();
    let (event, _) = running.wait_for(running.boot_mark(), NOTHING_TO_BOOT, FIRMWARE).unwrap();
    assert!(event.at_ms > 0);
    let seen = running.observe().unwrap();
    assert_eq!(seen.run_state, "running");
    assert!(seen.ssh_banner.is_none() && seen.resets().is_empty());
    assert!(!seen.tpm.policy_tried() && !seen.tpm.unsealed());
    let pcrs: Vec<u8> = seen.tpm.extends().map(|(_, pcr, _)| pcr.get()).collect();
    for pcr in 0..=7 {
        assert!(pcrs.contains(&pcr), "PCR {pcr} was never extended: {pcrs:?}");
    }
    // The firmware has a digest for every algorithm it knows, whatever the TPM's active banks.
    for (_, _, digests) in seen.tpm.extends() {
        let algs: Vec<HashAlg> = digests.iter().map(Digest::alg).collect();
        assert!(algs.contains(&HashAlg::Sha1) && algs.contains(&HashAlg::Sha256), "{algs:?}");
    }
    assert!(!running.command_line().iter().any(|word| word.contains("authorized_keys")));
    let pids = running.pids().map(Option::unwrap);

    let ended = running.cut_power().unwrap();
    assert!(!pids.iter().any(|pid| lives(*pid)));
    assert_eq!((ended.lockout.counter, ended.lockout.locked), (0, false));
    assert_eq!(ended.observation.run_state, "ended");
    assert!(ended.observation.tpm.doubts.is_empty(), "{:?}", ended.observation.tpm.doubts);
    let cast = dir.path().join("a.cast");
    ended.save_console(&cast, "firmware").unwrap();
    assert!(fs::read_to_string(&cast).unwrap().starts_with(r#"{"#));
    let mut left: Vec<_> =
        fs::read_dir(ended.machine.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(
        left,
        ["disk.qcow2", "machine.json", "ssh_access", "ssh_key", "ssh_key.pub", "tpm", "variables.fd"]
    );
    assert!(fs::read(dir.path().join("base.raw")).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn a_reset_begins_a_new_boot_with_records_of_its_own() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let host = host();
    let mut running = machine(&host, dir.path()).start(&host, &[]).unwrap();
    let (_, mark) = running.wait_for(running.boot_mark(), &[Pattern::FirmwareShell], FIRMWARE).unwrap();
    running
        .wait_until("the shell's prompt", FIRMWARE, |r| r.console().tail(2).contains("Shell>").then_some(()))
        .unwrap();
    let first = running.tpm();
    running.console().type_text("reset -c\r").unwrap();
    running.wait_for_reset(0, FIRMWARE).unwrap();
    assert!(running.boot_mark() >= mark);
    running.wait_for(running.boot_mark(), &[Pattern::FirmwareShell], FIRMWARE).unwrap();
    let second = running.observe().unwrap();
    assert!(second.began_ms > 0 && second.resets().is_empty());
    let extends = |record: &TpmRecord| -> Vec<String> {
        record.extends().map(|(_, pcr, digests)| format!("{pcr} {}", digests[0].short())).collect()
    };
    assert_eq!(extends(&second.tpm), extends(&first), "the same machine measures the same");
    assert_eq!(second.tpm.exchanges[0].command, "Startup");
    assert_eq!(second.tpm, second.tpm_since_reset());
}

#[rstest]
#[case::qemu(0, Part::Qemu, "KILL")]
#[case::qemu_in_order(0, Part::Qemu, "TERM")]
#[case::swtpm(1, Part::Swtpm, "KILL")]
fn a_part_that_is_killed_is_named_at_once(#[case] which: usize, #[case] part: Part, #[case] how: &str) {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let host = host();
    let running = machine(&host, dir.path()).start(&host, &[]).unwrap();
    first_extend(&running);
    let pids = running.pids().map(Option::unwrap);
    signal(how, pids[which]);
    let error = running.wait_for(0, &[Pattern::Login], FIRMWARE * 100).unwrap_err();
    assert!(matches!(&error, Error::Died { part: p, .. } if *p == part), "{error}");
    assert!(error.to_string().contains("login prompt") && !error.is_of_the_guest(), "{error}");
    drop(running);
    assert!(!pids.iter().any(|pid| lives(*pid)));
}

#[test]
fn a_stopped_machine_is_the_harness_fault_and_a_wait_in_vain_the_guests() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let host = host();
    let running = machine(&host, dir.path()).start(&host, &[]).unwrap();
    running.wait_for(0, NOTHING_TO_BOOT, FIRMWARE).unwrap();
    let error = running.wait_for(0, &[Pattern::Login], Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::Expired { .. }) && error.is_of_the_guest(), "{error}");
    let said = error.to_string();
    assert!(said.contains("login prompt") && said.contains("UEFI"), "{said}");
    running.qmp().execute("stop", serde_json::json!({})).unwrap();
    let error = running.wait_for(0, &[Pattern::Login], FIRMWARE).unwrap_err();
    assert!(matches!(&error, Error::Stopped { state, .. } if state == "paused"), "{error}");
}

#[test]
fn what_qemu_says_against_its_arguments_is_told() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let mut host = host();
    let machine = machine(&host, dir.path());
    host.firmware.code = dir.path().join("no-such-firmware");
    let error = machine.start(&host, &[]).err().unwrap().to_string();
    assert!(error.contains("QEMU died") && error.contains("no-such-firmware"), "{error}");
}

/// A QEMU that is none, with its control channel on standard input.
#[rstest]
#[case::it_ends("echo wrong words >&2; exit 3", None, &["QEMU died", "exit status: 3", "wrong words"])]
#[case::it_refuses(
    r#"read -r command; echo '{"error": {"desc": "not now"}, "id": 1}' >&0; exec tail -f /dev/null"#,
    None,
    &["QEMU runs", "refuses `qmp_capabilities`: not now"]
)]
#[case::it_says_nothing("echo so busy >&2; exec tail -f /dev/null", Some(0.01), &["QEMU runs", "did not answer"])]
fn a_start_that_comes_to_nothing_is_told_as_it_was(
    #[case] script: &str,
    #[case] scale: Option<f64>,
    #[case] expected: &[&str],
) {
    let dir = tempfile::tempdir().unwrap();
    let mut host = host();
    let machine = machine(&host, dir.path());
    let qemu = dir.path().join("qemu");
    fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    host.tools.qemu.path = qemu;
    host.deadline_scale = scale.unwrap_or(host.deadline_scale);
    let error = machine.start(&host, &[]).err().unwrap().to_string();
    assert!(expected.iter().all(|words| error.contains(words)), "{error}");
}

#[test]
fn a_machine_that_was_kept_is_started_by_hand_as_its_script_says() {
    let _turn = turn();
    // Longer than any socket's path may be, with what ends an option in it.
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a-long,name".repeat(12));
    fs::create_dir(&deep).unwrap();
    let host = host();
    let script = machine(&host, &deep).by_hand(&host);
    let (console, writer) = std::io::pipe().unwrap();
    let shell = latchkey_supervise::start("sh", "sh", &["-c", &script], |e| {
        e.stdin_null().stdout_file(writer).stderr_to_stdout()
    });
    let shell = shell.unwrap();
    let mut lines = BufReader::new(console).split(b'\n').map_while(Result::ok);
    let up = lines.any(|line| String::from_utf8_lossy(&line).contains("UEFI Interactive Shell"));
    assert!(up, "the console ended before the firmware came up");
    drop(shell);
    // The console ends when QEMU has ended, which lets go of the disk then.
    lines.for_each(drop);
    // And the harness runs it after that.
    let running = Machine::open(&deep.join("machine")).unwrap().start(&host, &[]).unwrap();
    first_extend(&running);
}

#[test]
fn a_copy_is_a_machine_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let host = host();
    let first = machine(&host, dir.path());
    let to = dir.path().join("copy");
    let copy = first.copy(&to).unwrap();
    drop(first);
    fs::remove_dir_all(dir.path().join("machine")).unwrap();
    drop(copy);
    let copy = Machine::open(&to).unwrap();
    assert_eq!(copy.hardware().memory_mib, 256);
    assert_eq!(copy.tpm_facts(&host).unwrap().lockout.counter, 0);
    assert!(copy.by_hand(&host).contains("mon:stdio"));
    fs::remove_file(to.join("variables.fd")).unwrap();
    let error = Machine::open(&to).unwrap_err().to_string();
    assert!(error.contains("variables.fd is missing"), "{error}");
    assert!(machine_in(&to, &host).to_string().contains("making a machine in"));
}

fn machine_in(dir: &std::path::Path, host: &latchkey_host::Host) -> Error {
    let base = common::empty_image(dir);
    let new = latchkey_machine::NewMachine {
        base: &base,
        format: latchkey_machine::Format::Raw,
        variables: &[],
        banks: &[],
        hardware: latchkey_machine::Hardware::default(),
    };
    Machine::create(host, dir, &new).unwrap_err()
}

/// The firmware never looks at it; what counts is that it comes and goes, and that one machine has it at a time.
#[test]
fn a_disk_is_attached_to_a_machine_that_runs_and_taken_away_again() {
    let _turn = turn();
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let host = host();
    let hardware = Hardware::default().with_memory_mib(256).with_hot_plug(HotPlug::Scsi);
    let running = machine(&host, one.path()).with_hardware(hardware).unwrap().start(&host, &[]).unwrap();
    let mut off = machine(&host, other.path());
    off.offline(|files| {
        running.attach(files.disk).unwrap();
        assert!(running.attach(files.disk).is_err(), "there is one already");
        running.detach().unwrap();
        running.attach(files.disk).unwrap();
        running.detach().unwrap();
        assert!(running.attach(files.variables).is_err(), "it is no disk");
    });
    // It was let go of: another machine runs on it.
    drop(running);
    drop(off.start(&host, &[]).unwrap());
}

#[test]
fn without_its_tpm_a_machine_measures_nothing() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let host = host();
    let hardware = Hardware::default().with_memory_mib(256).with_tpm(TpmDevice::Absent);
    let running = machine(&host, dir.path()).with_hardware(hardware).unwrap().start(&host, &[]).unwrap();
    running.wait_for(running.boot_mark(), NOTHING_TO_BOOT, FIRMWARE).unwrap();
    assert!(running.tpm().exchanges.is_empty());
    let ended = running.cut_power().unwrap();
    assert!(ended.observation.tpm.doubts.is_empty(), "{:?}", ended.observation.tpm.doubts);
    assert!(!Machine::open(ended.machine.dir()).unwrap().hardware().has_tpm());
}
