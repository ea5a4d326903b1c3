//! When an answer is recalled and when the host is probed again, with stand-ins for the tools that count how
//! often they are started.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use latchkey_host::{Accelerator, Env, Error, Host, Refresh, Trial};
use rstest::rstest;

/// A computer in a directory: tools that answer, firmware files, no `/dev/kvm`.
struct Computer {
    dir: tempfile::TempDir,
}

const QEMU: &str = r#"case "$1" in
--version) echo "QEMU emulator version 10.0.2 (x)";;
*) echo start >> "$(dirname "$0")/../starts"; echo "BdsDxe: loading Boot0001" >&2; read -r line; sleep 100;;
esac"#;

impl Computer {
    fn new() -> Self {
        let computer = Self { dir: tempfile::tempdir().unwrap() };
        computer.program("qemu-system-x86_64", QEMU);
        computer.program("qemu-img", "echo qemu-img version 10.0.2");
        computer.program("qemu-storage-daemon", "echo qemu-storage-daemon version 10.0.2");
        computer.program("swtpm", "echo 'TPM emulator version 0.7.1, Copyright'");
        let ovmf = computer.path("usr/share/OVMF");
        fs::create_dir_all(&ovmf).unwrap();
        fs::write(ovmf.join("OVMF_CODE_4M.secboot.fd"), "code").unwrap();
        fs::write(ovmf.join("OVMF_VARS_4M.fd"), "vars").unwrap();
        computer
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Written by a process of its own: a descriptor of ours, inherited by a child that another test starts at
    /// this moment, would make the script busy.
    fn program(&self, name: &str, script: &str) {
        fs::create_dir_all(self.path("bin")).unwrap();
        let args = ["-m", "755", "/dev/stdin"].map(OsString::from).into_iter();
        let args: Vec<OsString> = args.chain([self.path("bin").join(name).into()]).collect();
        let text = format!("#!/bin/sh\n{script}\n");
        latchkey_supervise::run_with("install", &args, |e| e.stdin_bytes(text)).unwrap();
    }

    fn env(&self) -> Env {
        Env::rooted(self.dir.path()).with("PATH", self.path("bin"))
    }

    fn probe(&self, refresh: Refresh) -> Result<Host, Error> {
        Host::probe_in(&self.env(), &self.path("cache"), refresh)
    }

    fn starts(&self) -> usize {
        fs::read_to_string(self.path("starts")).unwrap_or_default().lines().count()
    }
}

#[test]
fn an_unchanged_computer_is_probed_once() {
    let computer = Computer::new();
    let first = computer.probe(Refresh::WhenStale).unwrap();
    assert_eq!(computer.probe(Refresh::WhenStale).unwrap(), first);
    assert_eq!(computer.starts(), 1);
    assert_eq!(first.accelerator, Accelerator::Tcg);
    assert!(matches!(&first.attempts[0].trial, Trial::Absent(why) if why.contains("/dev/kvm")));
    computer.probe(Refresh::Always).unwrap();
    assert_eq!(computer.starts(), 2);
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[rstest]
#[case::another_qemu(|c: &Computer| c.program("qemu-system-x86_64", &format!("{QEMU}\n#")))]
#[case::another_firmware(|c: &Computer| write(&c.path("usr/share/OVMF/OVMF_CODE_4M.secboot.fd"), "another"))]
#[case::other_variables(|c: &Computer| write(&c.path("usr/share/OVMF/OVMF_VARS_4M.fd"), "others"))]
#[case::another_kernel(|c: &Computer| write(&c.path("proc/sys/kernel/osrelease"), "7.0.0"))]
#[case::another_processor(|c: &Computer| write(&c.path("proc/cpuinfo"), "model name\t: New\n"))]
#[case::a_broken_memory(|c: &Computer| write(&c.path("cache/host.json"), "{\"key\": "))]
#[case::no_memory(|c: &Computer| fs::remove_file(c.path("cache/host.json")).unwrap())]
fn a_change_is_noticed(#[case] change: fn(&Computer)) {
    let computer = Computer::new();
    computer.probe(Refresh::WhenStale).unwrap();
    change(&computer);
    computer.probe(Refresh::WhenStale).unwrap();
    assert_eq!(computer.starts(), 2);
}

#[test]
fn what_a_killed_probe_left_is_written_over() {
    let computer = Computer::new();
    write(&computer.path("cache/host.json.part"), "{\"key\": ");
    let first = computer.probe(Refresh::WhenStale).unwrap();
    assert!(!computer.path("cache/host.json.part").exists());
    assert_eq!(computer.probe(Refresh::WhenStale).unwrap(), first);
}

#[test]
fn two_at_once_probe_once() {
    let computer = Computer::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| computer.probe(Refresh::WhenStale).unwrap());
        }
    });
    assert_eq!(computer.starts(), 1);
}

#[test]
fn a_failed_probe_is_not_remembered() {
    let computer = Computer::new();
    computer.program(
        "qemu-system-x86_64",
        "echo 'QEMU emulator version 9.0'; echo 'no such machine' >&2; exit 1",
    );
    let version = computer.probe(Refresh::WhenStale).unwrap_err().to_string();
    assert!(version.contains("no such machine"), "{version}");
    computer.program(
        "qemu-system-x86_64",
        r#"[ "$1" = --version ] && echo 'QEMU emulator version 9.0' && exit; echo 'no such machine' >&2; exit 1"#,
    );
    let told = computer.probe(Refresh::WhenStale).unwrap_err().to_string();
    assert!(
        told.contains("kvm: there is no /dev/kvm") && told.contains("tcg: QEMU ended: no such machine"),
        "{told}"
    );
    assert!(!computer.path("cache/host.json").exists());
    computer.program("qemu-system-x86_64", "echo 'QEMU emulator version 8.2.2'");
    let told = computer.probe(Refresh::WhenStale).unwrap_err().to_string();
    assert!(told.contains("is QEMU 8.2.2") && told.contains("LATCHKEY_QEMU"), "{told}");
    computer.program("qemu-system-x86_64", QEMU);
    computer.probe(Refresh::WhenStale).unwrap();
}

#[test]
fn a_cache_that_cannot_be_written_is_told_with_its_path() {
    let computer = Computer::new();
    fs::write(computer.path("cache"), "a file where the directory should be").unwrap();
    let told = computer.probe(Refresh::WhenStale).unwrap_err().to_string();
    assert!(told.starts_with("making the cache directory") && told.contains("/cache"), "{told}");
}
