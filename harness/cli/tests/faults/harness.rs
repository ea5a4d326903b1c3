//! The harness is killed or interrupted.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::finished::{assert_infrastructure_error, assert_unclear_boot, results};
use crate::support::{Bench, Harness, LONG, eventually, files};

/// The processes that remove what a killed run leaves.
fn guardians(bench: &Bench) -> Vec<crate::support::Process> {
    bench.processes().into_iter().filter(|process| process.line.contains("-guardian")).collect()
}

fn end_by_kill(harness: Harness<'_>) {
    assert_eq!(harness.finish().status.signal(), Some(9));
}

#[rstest]
#[case::alone(false)]
#[case::with_its_process_group(true)]
fn killed_while_a_machine_boots(#[case] group: bool) {
    let bench = Bench::with_image();
    let mut harness = bench.start_run(&[]);
    let booting = harness.first_boot();
    assert!(booting.dir.is_dir() && bench.leftovers().len() > 4, "what is to be left is seen");
    if group {
        kill_process_group(Pid::from_raw(harness.pid()).unwrap(), Signal::KILL).unwrap();
    } else {
        harness.signal(Signal::KILL);
    }
    end_by_kill(harness);
    bench.assert_clean();
}

/// Then nobody is left to remove anything; but nothing runs, and the next run sweeps.
#[test]
fn killed_together_with_its_guardians() {
    let bench = Bench::with_image();
    let mut harness = bench.start_run(&[]);
    let booting = harness.first_boot();
    // Stopped first, so that it does not see what happens to them.
    harness.signal(Signal::STOP);
    let guardians = guardians(&bench);
    assert!(!guardians.is_empty());
    guardians.iter().for_each(|guardian| guardian.signal(Signal::KILL));
    harness.signal(Signal::KILL);
    end_by_kill(harness);
    eventually("all processes to be gone", Duration::from_secs(20), || {
        let left = bench.processes();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert!(booting.dir.join("machine").is_dir(), "nobody was there to remove it");

    let mut next = bench.start_run(&[]);
    next.until("the next run to sweep", || (!booting.dir.exists()).then_some(()));
    next.until("the next run's own machine", || (!bench.machines().is_empty()).then_some(()));
    next.signal(Signal::INT);
    next.finish().assert(130, &[]);
    bench.assert_clean();
}

#[rstest]
#[case::interrupted(Signal::INT)]
#[case::terminated(Signal::TERM)]
#[case::hung_up(Signal::HUP)]
fn asked_to_stop_while_a_machine_boots(#[case] signal: Signal) {
    let bench = Bench::with_image();
    let mut harness = bench.start_run(&["wrong-passphrase", "--jobs", "1", "--json"]);
    harness.first_boot();
    // timeout(1) sends its signal to the process and to its group.
    harness.signal(signal);
    harness.signal(signal);
    let finished = harness.finish();
    finished.assert(130, &[]).assert_json();
    let results = results(&bench);
    assert_infrastructure_error(&results, "interrupted");
    assert_unclear_boot(&bench, &results);
    let waiting = &results["scenarios"][1]["status"];
    assert_eq!(waiting["is"], "skipped", "{results:#}");
    assert!(waiting["reason"].as_str().unwrap().contains("interrupted"), "{waiting:#}");
    // It went away in order: nothing has to be waited for but a guardian's nap, which ends by itself.
    let left: Vec<String> =
        bench.leftovers().into_iter().filter(|left| !left.ends_with(" sleep 1 ")).collect();
    assert_eq!(left, [] as [&str; 0]);
    bench.assert_clean();
}

/// Another tool's tools have mounted what they need by then.
#[test]
fn interrupted_while_an_image_is_built() {
    let bench = Bench::bare();
    let mut harness = bench.start(&mut bench.latchkey(&["image", "build", "debian12"]));
    let customizing = |path: &PathBuf| {
        let log = |path| fs::read_to_string(path).unwrap_or_default();
        path.ends_with("mmdebstrap.log") && log(path).contains("running --customize-hook")
    };
    harness.until("mkosi to begin", || files(&bench.cache()).into_iter().find(customizing));
    harness.signal(Signal::INT);
    harness.finish().assert(130, &["interrupted"]);
    assert_eq!(files(&bench.cache().join("images")), [] as [PathBuf; 0]);
    let works = fs::read_dir(bench.cache().join("work")).unwrap().flatten().map(|entry| entry.path());
    let works: Vec<PathBuf> = works.filter(|path| path.is_dir()).collect();
    assert_eq!(works, [] as [PathBuf; 0]);
    bench.assert_clean();
}

/// As by somebody who cannot wait.
#[test]
fn interrupted_twice() {
    let bench = Bench::with_image();
    let mut harness = bench.start_run(&[]);
    harness.first_boot();
    harness.signal(Signal::STOP);
    for _ in 0..2 {
        harness.signal(Signal::INT);
    }
    harness.signal(Signal::CONT);
    harness.finish_impatiently(Signal::INT).assert(130, &[]);
    bench.assert_clean();
}

/// Killed at the moment when its n-th process is seen, which may be before that one is what it is to be.
#[rstest]
fn killed_with_its_nth_process(#[values(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)] nth: usize) {
    let bench = Bench::with_image();
    let mut seen = std::collections::BTreeSet::new();
    let harness = bench.start_run(&[]);
    let until = Instant::now() + LONG;
    while seen.len() < nth {
        // Without a pause: what is looked for lasts a millisecond.
        seen.extend(harness.children());
        assert!(Instant::now() < until, "{seen:?}");
    }
    harness.signal(Signal::KILL);
    end_by_kill(harness);
    bench.assert_clean();
}
