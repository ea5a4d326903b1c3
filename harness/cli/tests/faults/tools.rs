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
