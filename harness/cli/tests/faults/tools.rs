//! Programs or firmware that are not there, or not what they should be.

use rstest::rstest;

use crate::support::{Bench, RECIPE, SCENARIO};

/// What a variable names does not exist: that is to be corrected, and setting up would not help.
#[rstest]
#[case("LATCHKEY_QEMU")]
#[case("LATCHKEY_QEMU_IMG")]
#[case("LATCHKEY_QEMU_STORAGE_DAEMON")]
#[case("LATCHKEY_SWTPM")]
#[case("LATCHKEY_OVMF_CODE")]
fn a_variable_that_names_nothing(#[case] variable: &str) {
    let bench = Bench::bare();
    for args in [&["run", SCENARIO, "--on", RECIPE, "--json"] as &[&str], &["probe", "--json"]] {
        let finished = bench.run(bench.latchkey(args).env(variable, "/nonexistent"));
        finished.assert(3, &[variable, "/nonexistent", "unset it"]).assert_json();
    }
    bench.assert_clean();
}

#[test]
fn a_program_that_is_another_one() {
    let bench = Bench::bare();
    let finished =
        bench.run(bench.latchkey(&["run", SCENARIO, "--on", RECIPE]).env("LATCHKEY_QEMU", "/bin/echo"));
    finished.assert(3, &["/bin/echo", "is this the right program?"]);
    bench.assert_clean();
}

/// The file is hidden, for the run alone, under one that nobody can run.
#[rstest]
#[case("qemu-system-x86_64", "LATCHKEY_QEMU")]
#[case("qemu-img", "LATCHKEY_QEMU_IMG")]
#[case("qemu-storage-daemon", "LATCHKEY_QEMU_STORAGE_DAEMON")]
#[case("swtpm", "LATCHKEY_SWTPM")]
fn a_program_that_is_missing(#[case] program: &str, #[case] variable: &str) {
    let bench = Bench::bare();
    let hide = format!("mount --bind /dev/null \"$(command -v {program})\"");
    let finished =
        bench.run(&mut bench.latchkey_where(&hide, "", &["run", SCENARIO, "--on", RECIPE, "--json"]));
    finished.assert(4, &[program, variable, "cargo xtask setup"]).assert_json();
    bench.assert_clean();
}

/// What starts everything else is not on `PATH`.
#[test]
fn setpriv_is_missing() {
    let bench = Bench::bare();
    let empty = bench.root().join("bin");
    std::fs::create_dir(&empty).unwrap();
    for args in [&["run", SCENARIO, "--on", RECIPE, "--json"] as &[&str], &["probe", "--json"]] {
        let mut command = bench.latchkey(args);
        for program in ["qemu-system-x86_64", "qemu-img", "qemu-storage-daemon", "swtpm"] {
            let path = which::which(program).unwrap();
            let variable = match program {
                "qemu-system-x86_64" => "LATCHKEY_QEMU".to_owned(),
                other => format!("LATCHKEY_{}", other.to_uppercase().replace('-', "_")),
            };
            command.env(variable, path);
        }
        let finished = bench.run(command.env("PATH", &empty));
        finished.assert(4, &["setpriv", "cargo xtask setup"]).assert_json();
    }
    bench.assert_clean();
}

/// What `probe` shows is what is started: this one does what the real one does, and leaves a trace.
#[rstest]
#[case("qemu-img", "LATCHKEY_QEMU_IMG")]
#[case("qemu-storage-daemon", "LATCHKEY_QEMU_STORAGE_DAEMON")]
fn a_program_of_the_users(#[case] program: &str, #[case] variable: &str) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (own, trace) = (dir.path().join("own"), dir.path().join("trace"));
    let script = format!("#!/bin/sh\necho \"$1\" >> {}\nexec {program} \"$@\"\n", trace.display());
    std::fs::write(&own, script).unwrap();
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
    let disk = dir.path().join("disk.qcow2");
    latchkey_supervise::run("qemu-img", &["create", "-f", "qcow2", disk.to_str().unwrap(), "1M"]).unwrap();
    let bench = Bench::bare();
    let inspected =
        bench.run(bench.latchkey(&["image", "inspect", disk.to_str().unwrap()]).env(variable, &own));
    // More than being asked for its version.
    let started = std::fs::read_to_string(&trace).unwrap_or_default();
    assert!(started.lines().any(|first| first != "--version"), "{started}{inspected:?}");
}

#[test]
fn firmware_that_is_missing() {
    let bench = Bench::bare();
    let hide = "for dir in /usr/share/OVMF /usr/share/edk2 /usr/share/qemu/firmware; do \
                test ! -d $dir || mount -t tmpfs none $dir; done";
    let finished =
        bench.run(&mut bench.latchkey_where(hide, "", &["run", SCENARIO, "--on", RECIPE, "--json"]));
    finished.assert(4, &["OVMF", "cargo xtask setup", "LATCHKEY_OVMF_CODE"]).assert_json();
    bench.assert_clean();
}

/// Keys and guests' memory would be in it. What is started asks for the limit that it has.
#[test]
fn nothing_that_is_started_leaves_a_core_dump() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::bare();
    let (qemu, limits) = (bench.root().join("qemu"), bench.root().join("limits"));
    let script = format!("#!/bin/sh\n{{ ulimit -S -c; ulimit -H -c; }} > {}\n", limits.display());
    std::fs::write(&qemu, script).unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    bench
        .run(bench.latchkey(&["probe"]).env("LATCHKEY_QEMU", &qemu))
        .assert(3, &["is this the right program?"]);
    assert_eq!(std::fs::read_to_string(&limits).unwrap(), "0\n0\n");
    bench.assert_clean();
}
