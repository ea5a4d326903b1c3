//! Several runs as one: shards, hosts, and what is in the way.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::{evidence, run};
use latchkey_record::results::{ImageVersions, LeftOut};
use latchkey_record::{BootRecord, RunResults, Status};
use latchkey_report::RunDir;
use latchkey_report::combine::{CombineError, combine, listed};

/// A run with what was recorded of it, below `dir`.
fn kept(dir: &Path, name: &str, change: impl FnOnce(&mut RunResults)) -> RunDir {
    let path = dir.join(name);
    evidence(&path);
    let mut results = run(2);
    results.run = name.into();
    change(&mut results);
    let run_dir = RunDir::at(&path);
    run_dir.write_results(&results).unwrap();
    run_dir
}

fn only(row: &'static str) -> impl FnOnce(&mut RunResults) {
    move |results| results.scenarios.retain(|result| result.scenario == row)
}

/// What two shards both leave out is left out once.
#[test]
fn what_is_left_out_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let told =
        |image: &str| LeftOut { scenario: "passing".into(), image: image.into(), why: "no UKI".into() };
    let shard = |row, images: &[&str]| {
        let left_out = images.iter().map(|image| told(image)).collect();
        kept(dir.path(), row, |results| {
            only(row)(results);
            results.left_out = left_out;
        })
    };
    let shards = [shard("passing", &["rlc9-grub"]), shard("failing", &["rlc9-grub", "rlc10-grub"])];
    let whole = combine(&shards, &dir.path().join("whole"), &[]).unwrap();
    assert_eq!(whole.left_out, [told("rlc9-grub"), told("rlc10-grub")]);
}

#[test]
fn versions_are_told_of_each_image_once() {
    let dir = tempfile::tempdir().unwrap();
    let image = |identity: &str| ImageVersions {
        image: "rlc9-uki".into(),
        identity: identity.into(),
        versions: [("shim".to_owned(), "15.8-1".to_owned())].into(),
    };
    let shard = |row, identities: &[&str]| {
        let images = identities.iter().map(|identity| image(identity)).collect();
        kept(dir.path(), row, |results| {
            only(row)(results);
            results.images = images;
        })
    };
    let shards = [shard("passing", &["one"]), shard("failing", &["one", "other"])];
    let whole = combine(&shards, &dir.path().join("whole"), &[]).unwrap();
    assert_eq!(whole.images, ["one", "other"].map(image));
}

fn rows(results: &RunResults) -> Vec<String> {
    results.scenarios.iter().map(latchkey_record::ScenarioResult::row).collect()
}

#[test]
fn shards_become_one_run_with_all_that_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let restarted = "passing/restarted-boot.tpm.jsonl";
    let one = kept(dir.path(), "one", |results| {
        only("passing")(results);
        results.scenarios[0].steps[0].boots[0].tpm_restarted = Some(restarted.into());
    });
    std::fs::write(dir.path().join("one").join(restarted), "").unwrap();
    let shards = [one, kept(dir.path(), "two", only("failing"))];
    let into = dir.path().join("whole");
    let whole = combine(&shards, &into, &[]).unwrap();
    assert_eq!(rows(&whole), ["failing on rlc9-uki", "passing on rlc9-uki"]);
    assert_eq!((whole.run.as_str(), whole.took_ms), ("one, two", 60_000));
    assert_eq!((whole.host.as_str(), &whole.scenarios[0].host), ("tcg, QEMU 10", &None));
    let read = RunDir::at(&into).results().unwrap();
    assert_eq!(read, whole);
    let boots = whole.scenarios.iter().flat_map(|row| &row.steps).flat_map(|step| &step.boots);
    for path in boots.flat_map(BootRecord::files) {
        let original = path.strip_prefix("run-1").map(|rest| ("one", rest));
        let (from, rest) =
            original.or_else(|_| path.strip_prefix("run-2").map(|rest| ("two", rest))).unwrap();
        let bytes = |path: PathBuf| std::fs::read(path).unwrap();
        assert_eq!(bytes(into.join(path)), bytes(dir.path().join(from).join(rest)));
    }
    assert!(into.join("report.html").is_file() && into.join("junit.xml").is_file());
    // The whole is a run like any other.
    let again = combine(&[RunDir::at(&into)], &dir.path().join("again"), &[]).unwrap();
    assert_eq!(rows(&again), rows(&whole));
}

/// What is too long to be shown is told so in the report, and is there all the same.
#[test]
fn no_file_is_too_long_for_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let run = kept(dir.path(), "one", only("passing"));
    let long =
        std::fs::File::options().write(true).open(dir.path().join("one/passing/power-1.cast")).unwrap();
    long.set_len(17 << 20).unwrap();
    combine(&[run], &dir.path().join("whole"), &[]).unwrap();
    let copied = std::fs::metadata(dir.path().join("whole/run-1/passing/power-1.cast")).unwrap();
    assert_eq!(copied.len(), 17 << 20);
    assert!(copied.blocks() * 512 < 1 << 20, "what is a hole takes no room in the copy either");
}

/// A hole of any length costs whoever made it nothing.
#[test]
fn a_file_that_no_boot_records_is_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let run = kept(dir.path(), "one", only("passing"));
    let long = dir.path().join("one/passing/power-1.cast");
    std::fs::File::options().write(true).open(&long).unwrap().set_len((1 << 30) + 1).unwrap();
    let into = dir.path().join("whole");
    let error = combine(&[run], &into, &[]).unwrap_err();
    assert!(matches!(&error, CombineError::TooMuch { path, .. } if path.ends_with("passing/power-1.cast")));
    assert!(error.to_string().contains("power-1.cast: it is longer than 1 GiB"), "{error}");
    assert!(!into.join("results.json").exists());
}

#[test]
fn the_same_rows_on_two_hosts_stand_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let kvm = kept(dir.path(), "kvm", |results| results.host = "kvm, QEMU 10".into());
    let tcg = kept(dir.path(), "tcg", only("passing"));
    let whole = combine(&[tcg, kvm], &dir.path().join("whole"), &[]).unwrap();
    assert_eq!(
        rows(&whole),
        [
            "failing on rlc9-uki (kvm, QEMU 10)",
            "passing on rlc9-uki (kvm, QEMU 10)",
            "passing on rlc9-uki (tcg, QEMU 10)",
            "skipped on rlc9-uki (kvm, QEMU 10)",
        ]
    );
    assert_eq!(whole.host, "tcg, QEMU 10; kvm, QEMU 10");
    // A whole takes part in another one, each host once.
    let shard = kept(dir.path(), "more", |results| {
        results.scenarios.retain(|row| row.scenario == "failing");
    });
    let more = combine(&[RunDir::at(&dir.path().join("whole")), shard], &dir.path().join("more-whole"), &[])
        .unwrap();
    assert_eq!((more.host, more.scenarios.len()), (whole.host, 5));
    let junit = std::fs::read_to_string(dir.path().join("whole/junit.xml")).unwrap();
    for suite in ["rlc9-uki (kvm, QEMU 10)", "rlc9-uki (tcg, QEMU 10)"] {
        assert_eq!(junit.matches(&format!("<testsuite name=\"{suite}\"")).count(), 1, "{junit}");
    }
}

#[test]
fn a_row_that_one_run_did_not_run_is_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let stopped = |results: &mut RunResults| {
        let reason = "not-reached: the run was interrupted".to_owned();
        results.scenarios.retain(|row| row.scenario != "failing");
        (results.scenarios[0].status, results.scenarios[0].steps) = (Status::Skipped { reason }, Vec::new());
    };
    let runs = [kept(dir.path(), "stopped", stopped), kept(dir.path(), "whole", |_| ())];
    let forwards = combine(&runs, &dir.path().join("forwards"), &[]).unwrap();
    let [stopped, whole] = runs;
    let backwards = combine(&[whole, stopped], &dir.path().join("backwards"), &[]).unwrap();
    for combined in [forwards, backwards] {
        let words: Vec<&str> = combined.scenarios.iter().map(|row| row.status.word()).collect();
        assert_eq!(words, ["failed", "passed", "skipped"]);
    }
}

/// Neither says anything of the machine; of the two what broke tells more.
#[test]
fn a_verdict_wins_over_what_broke_or_was_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let ended = |name: &str, reason: &str| {
        let status = Status::InfrastructureError { reason: reason.into() };
        kept(dir.path(), name, |results| {
            only("passing")(results);
            results.scenarios[0].status = status;
        })
    };
    let [stopped, broken] =
        [("stopped", "provisioning: interrupted"), ("broken", "no space left")].map(|(n, r)| ended(n, r));
    let whole = kept(dir.path(), "whole", only("passing"));
    let status = |runs: [&RunDir; 2], into: &str| {
        let all = combine(&runs.map(RunDir::clone), &dir.path().join(into), &[]).unwrap();
        assert_eq!(all.scenarios.len(), 1);
        all.scenarios[0].status.clone()
    };
    for (other, name) in [(&stopped, "stopped"), (&broken, "broken")] {
        assert_eq!(status([other, &whole], &format!("{name}-whole")), Status::Passed);
        assert_eq!(status([&whole, other], &format!("whole-{name}")), Status::Passed);
    }
    for (runs, into) in [([&stopped, &broken], "neither"), ([&broken, &stopped], "neither-again")] {
        assert_eq!(status(runs, into).reason(), Some("no space left"));
    }
}

/// Its shard is lost, or was ended before it came to the row; the row's own run may come later.
#[test]
fn a_row_that_is_wanted_and_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let ended = |results: &mut RunResults| {
        results.scenarios.retain(|row| row.scenario != "failing");
        let reason = "not-reached: the run goes on, or was killed".to_owned();
        results.scenarios[0].status = Status::Skipped { reason };
    };
    let ended = kept(dir.path(), "ended", ended);
    let wanted = ["failing", "passing", "skipped"].map(|row| listed(row, "rlc9-uki"));
    let into = |name: &str| dir.path().join(name);
    let part = combine(&[ended], &into("part"), &wanted).unwrap();
    let words: Vec<&str> = part.scenarios.iter().map(|row| row.status.word()).collect();
    assert_eq!((rows(&part).len(), words), (3, vec!["error", "error", "skipped"]));
    assert_eq!(part.exit_code(), 3);
    let rest = kept(dir.path(), "rest", |results| results.scenarios.retain(|row| row.scenario != "skipped"));
    let whole = combine(&[RunDir::at(&into("part")), rest], &into("whole"), &wanted).unwrap();
    let words: Vec<&str> = whole.scenarios.iter().map(|row| row.status.word()).collect();
    assert_eq!(words, ["failed", "passed", "skipped"]);
}

/// Also where it ran on another host than the runs that lacked it.
#[test]
fn a_row_that_is_absent_is_so_until_a_run_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let into = |name: &str| dir.path().join(name);
    let on_kvm = |results: &mut RunResults| {
        only("passing")(results);
        results.host = "kvm, QEMU 10".into();
    };
    let some = [kept(dir.path(), "tcg", only("passing")), kept(dir.path(), "kvm", on_kvm)];
    let late = kept(dir.path(), "late", only("failing"));
    let wanted = [listed("failing", "rlc9-uki")];
    let part = combine(&some, &into("part"), &wanted).unwrap();
    assert_eq!((part.scenarios[0].host.as_ref(), part.exit_code()), (None, 3));
    let part = RunDir::at(&into("part"));
    let still = combine(std::slice::from_ref(&part), &into("still"), &[]).unwrap();
    assert_eq!((rows(&still)[0].as_str(), still.exit_code()), ("failing on rlc9-uki", 3));
    let orders = [[part.clone(), late.clone()], [late, part]];
    for (order, name) in orders.iter().zip(["forwards", "backwards"]) {
        let whole = combine(order, &into(name), &wanted).unwrap();
        assert_eq!(rows(&whole)[0], "failing on rlc9-uki (tcg, QEMU 10)");
        assert_eq!((whole.scenarios.len(), whole.exit_code()), (3, 1));
    }
}

#[test]
fn no_verdict_hides_another() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [kept(dir.path(), "one", |_| ()), kept(dir.path(), "two", only("failing"))];
    let into = dir.path().join("whole");
    let error = combine(&runs, &into, &[]).unwrap_err();
    assert!(matches!(&error, CombineError::Twice { row, .. } if row == "failing on rlc9-uki"), "{error}");
    RunDir::at(&into).results().unwrap_err();
}

/// Names of rows and runs are whatever somebody wrote into their files.
#[test]
fn two_verdicts_are_told_without_what_steers_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let hostile = |name: &str| {
        kept(dir.path(), name, |results| {
            results.scenarios.truncate(1);
            results.scenarios[0].scenario = "a\u{1b}[8m\nb".into();
            results.run = format!("{name}\u{1b}[8m");
        })
    };
    let runs = [hostile("one"), hostile("two")];
    let error = combine(&runs, &dir.path().join("whole"), &[]).unwrap_err().to_string();
    assert!(error.contains("was run by one") && !error.contains(char::is_control), "{error:?}");
}

/// A run may have a row several times; each takes the place of one of another run's.
#[test]
fn rows_of_one_name_are_told_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let twice = |name: &str, status: Status| {
        kept(dir.path(), name, |results| {
            let row = results.scenarios.remove(0);
            results.scenarios = vec![row.clone(), row];
            results.scenarios.iter_mut().for_each(|row| row.status = status.clone());
        })
    };
    let broken = twice("broken", Status::InfrastructureError { reason: "no space left".into() });
    let whole = twice("whole", Status::Passed);
    let all = combine(&[broken, whole], &dir.path().join("all"), &[]).unwrap();
    assert_eq!(rows(&all).len(), 2);
    assert!(all.scenarios.iter().all(|row| row.status == Status::Passed));
}

#[test]
fn nothing_is_overwritten_and_nothing_leads_out() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let leading_out = [PathBuf::from("../outside"), outside.clone()];
    let run = kept(dir.path(), "one", |results| {
        let boot = &mut results.scenarios[0].steps[0].boots[0];
        [boot.console, boot.tpm] = leading_out.clone();
    });
    let into = dir.path().join("whole");
    let runs = [run];
    let whole = combine(&runs, &into, &[]).unwrap();
    let boot = &whole.scenarios.iter().find(|row| row.scenario == "passing").unwrap().steps[0].boots[0];
    assert_eq!([&boot.console, &boot.tpm], [&leading_out[0], &leading_out[1]]);
    assert!(!outside.exists());
    assert!(matches!(combine(&runs, &into, &[]), Err(CombineError::InTheWay { .. })));
    assert_eq!(RunDir::at(&into).results().unwrap(), whole);
}
