//! A part of the machine is killed: nobody's verdict, and nothing is left.

use rstest::rstest;
use rustix::process::Signal;

use crate::finished::{assert_infrastructure_error, assert_unclear_boot, results};
use crate::support::Bench;

#[rstest]
#[case::qemu("QEMU died", Signal::KILL)]
#[case::swtpm("swtpm died", Signal::KILL)]
// As by somebody who tidies up, or a computer that is shut down. QEMU ends in order then, as after a power-off.
#[case::qemu_terminated("QEMU died", Signal::TERM)]
fn killed_while_it_boots(#[case] said: &str, #[case] signal: Signal) {
    let bench = Bench::with_image();
    let mut harness = bench.start_run(&["--json"]);
    let booting = harness.first_boot();
    let part = if said.starts_with("swtpm") { &booting.swtpm } else { &booting.qemu };
    part.signal(signal);
    let finished = harness.finish();
    finished.assert(3, &[said]).assert_json();
    let results = results(&bench);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&finished.stdout).unwrap(), results);
    assert_infrastructure_error(&results, said);
    assert_unclear_boot(&bench, &results);
    bench.assert_clean();
}

/// While the root partition is encrypted, the disk is shown by two daemons; each may be gone at once.
#[test]
fn the_storage_daemon_killed_while_the_disk_is_prepared() {
    let bench = Bench::with_image();
    let mut harness = bench.start_run(&["--json"]);
    // Once there is a copy under way, the daemon is in use; earlier ones only showed what the forecast reads.
    let copy = |bench: &Bench| bench.machines().into_iter().find(|dir| dir.join("root.img").exists());
    harness.until("the root partition to be copied", || copy(&bench));
    let daemon = harness.child("qemu-storage-daemon");
    daemon.signal(Signal::KILL);
    harness.finish().assert(3, &["qemu-storage-daemon ended"]).assert_json();
    assert_infrastructure_error(&results(&bench), "qemu-storage-daemon ended");
    bench.assert_clean();
}
