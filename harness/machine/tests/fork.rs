//! A machine with the real firmware that is saved while it runs, and forked.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;

use latchkey_machine::{DiskBus, Error, Forked, Hardware, Machine, NewMachine, Running, Saved};
use latchkey_record::console::Pattern;
use latchkey_record::tpm::{TpmExchange, TpmRecord};

use common::{FIRMWARE, host, machine, turn};

fn at_the_shell(machine: Machine, host: &latchkey_host::Host) -> Running {
    let running = machine.start(host, &[]).unwrap();
    running.wait_for(running.boot_mark(), &[Pattern::FirmwareShell], FIRMWARE).unwrap();
    running
        .wait_until("the shell's prompt", FIRMWARE, |r| r.console().tail(2).contains("Shell>").then_some(()))
        .unwrap();
    running
}

fn on(forked: Forked) -> Running {
    match forked {
        Forked::On(running) => *running,
        Forked::Off(_) => panic!("the fork is off"),
    }
}

#[test]
fn a_fork_goes_on_where_its_machine_was_saved_and_knows_what_was_seen() {
    let _turn = turn();
    let (dir, host) = (tempfile::tempdir().unwrap(), host());
    let running = at_the_shell(machine(&host, dir.path()), &host);
    let (seen, events) = (running.observe().unwrap(), running.console().events(0));
    let saved = running.save().unwrap();
    assert!(saved.runs());
    drop(saved);
    let saved = Saved::open(&dir.path().join("machine")).unwrap();

    let mut one = on(saved.fork(&host, &dir.path().join("one"), &[]).unwrap());
    // While the first one runs.
    let two = on(saved.fork(&host, &dir.path().join("two"), &[]).unwrap());
    for fork in [&one, &two] {
        let now = fork.observe().unwrap();
        assert_eq!(now.run_state, "running");
        let used = |record: &TpmRecord| -> Vec<TpmExchange> {
            // QEMU asks the TPM for its version when it starts, which is refused.
            record.exchanges.iter().filter(|exchange| exchange.response.is_success()).cloned().collect()
        };
        assert!(used(&now.tpm) == used(&seen.tpm), "nobody has used the TPM since");
        assert_eq!(fork.console().events(0), events);
        assert!(now.until_ms >= seen.until_ms);
    }
    drop(two);
    one.console().type_text("reset -c\r").unwrap();
    one.wait_for_reset(0, FIRMWARE).unwrap();
    one.wait_for(one.boot_mark(), &[Pattern::FirmwareShell], FIRMWARE).unwrap();
    let again = one.observe().unwrap();
    let extends = |record: &TpmRecord| record.extends().map(|(_, _, d)| d.to_vec()).collect::<Vec<_>>();
    assert!(extends(&again.tpm) == extends(&seen.tpm), "the same machine measures the same");
    let ended = one.cut_power().unwrap();

    // The fork of a fork, off this time; then somebody meddles with the first one.
    let below = ended.machine.save().unwrap();
    assert!(!below.runs());
    let Forked::Off(third) = below.fork(&host, &dir.path().join("three"), &[]).unwrap() else {
        panic!("the fork runs");
    };
    assert_eq!(third.tpm_facts(&host).unwrap().lockout.counter, 0);
    let variables = dir.path().join("machine/variables.fd");
    let mut bytes = fs::read(&variables).unwrap();
    bytes[100] ^= 1;
    fs::write(&variables, bytes).unwrap();
    for machine in [&saved, &below] {
        let error = machine.fork(&host, &dir.path().join("four"), &[]).err().unwrap();
        assert!(matches!(&error, Error::Altered { part, .. } if part == "variables.fd"), "{error}");
    }
    // Another one that takes its place, whole as it is, is no base for the disk over it.
    let base = dir.path().join("machine");
    fs::remove_file(base.join("saved.json")).unwrap();
    Machine::open(&base).unwrap().save().unwrap().verify().unwrap();
    let error = below.verify().unwrap_err();
    assert!(matches!(&error, Error::Altered { part, .. } if part == "saved.json"), "{error}");
}

#[test]
fn what_qemu_cannot_save_is_told() {
    let _turn = turn();
    let (dir, host) = (tempfile::tempdir().unwrap(), host());
    let hardware = Hardware::default().with_memory_mib(256).with_disk_bus(DiskBus::Nvme);
    assert!(!hardware.can_be_saved_running() && Hardware::default().can_be_saved_running());
    let new = NewMachine {
        base: &common::empty_image(dir.path()),
        format: latchkey_machine::Format::Raw,
        variables: &fs::read(&host.firmware.vars_template).unwrap(),
        banks: &[latchkey_record::HashAlg::Sha256],
        hardware,
    };
    let running =
        Machine::create(&host, &dir.path().join("machine"), &new).unwrap().start(&host, &[]).unwrap();
    let error = running.save().unwrap_err();
    assert!(matches!(&error, Error::Memory { said, .. } if said.contains("nvme")), "{error}");
}
