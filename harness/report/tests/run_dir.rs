//! A run's directory: reports made and made again, what they leave out, and what changed between two.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::{HOSTILE, digest, evidence, pcr, run};
use latchkey_record::{HashAlg, Outcome, RunResults, ScenarioResult, Status};
use latchkey_report::html::{Evidence as _, Missing};
use latchkey_report::{RunDir, RunDirError, diff};
use rstest::rstest;

fn written() -> (tempfile::TempDir, RunDir) {
    let dir = tempfile::tempdir().unwrap();
    evidence(dir.path());
    let run_dir = RunDir::at(dir.path());
    run_dir.write(&run(2)).unwrap();
    (dir, run_dir)
}

#[test]
fn reports_are_made_again_from_results_and_leave_them_alone() {
    let (dir, run_dir) = written();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let (html, junit, results) = (read("report.html"), read("junit.xml"), read("results.json"));
    for name in ["report.html", "junit.xml"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let again = RunDir::at(&run_dir.results_path());
    again.write_reports(&again.results().unwrap()).unwrap();
    assert!((html, junit, results) == (read("report.html"), read("junit.xml"), read("results.json")));
}

/// What a build wrote that knew less, with none of the files that it names.
#[test]
fn an_earlier_builds_results_are_told_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("results.json"), include_str!("earlier/results.json")).unwrap();
    let run_dir = RunDir::at(dir.path());
    let results = run_dir.results().unwrap();
    assert_eq!((results.exit_code(), &results.scenarios[0].image_identity), (0, &None));
    run_dir.write_reports(&results).unwrap();
    for name in ["report.html", "junit.xml"] {
        let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(text.contains("mok-list-x") && text.contains("refused-by-shim"), "{name}");
    }
}

#[test]
fn nothing_that_others_wrote_becomes_markup() {
    let (dir, _) = written();
    let html = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(HOSTILE.contains("<img") && !html.contains("<img"));
    // As many elements begin as end, and none is within another.
    let parts: Vec<&str> = html.split("<script").skip(1).collect();
    assert!(parts.iter().all(|part| part.matches("</script>").count() == 1));
    for net in ["http://", "https://", "<link", "@import"] {
        assert!(!html.contains(net), "{net}");
    }
}

#[test]
fn a_recording_that_boots_share_is_kept_once() {
    let size = |boots| {
        let dir = tempfile::tempdir().unwrap();
        evidence(dir.path());
        let page = latchkey_report::html::page(&run(boots), &RunDir::at(dir.path())).unwrap();
        page.matches("id=\"file-").count()
    };
    assert_eq!(size(1), size(50));
}

#[rstest]
#[case::up("../secret", Missing::Elsewhere)]
#[case::absolute("/etc/passwd", Missing::Elsewhere)]
#[case::linked("link", Missing::Elsewhere)]
#[case::not_there("nothing", Missing::Absent)]
#[case::a_directory("passing", Missing::Absent)]
fn what_lies_outside_stays_outside(#[case] name: &str, #[case] expected: Missing) {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    evidence(&run);
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", run.join("link")).unwrap();
    assert_eq!(RunDir::at(&run).file(Path::new(name)), Err(expected));
}

/// A run's directory may be somebody else's.
#[test]
fn nothing_is_written_or_read_by_way_of_a_link() {
    let (dir, run_dir) = written();
    let results = run_dir.results().unwrap();
    let own = dir.path().join("own");
    std::fs::write(&own, "mine").unwrap();
    for name in ["report.html", "report.html.part", "junit.xml.part"] {
        let _ = std::fs::remove_file(dir.path().join(name));
        std::os::unix::fs::symlink("own", dir.path().join(name)).unwrap();
    }
    run_dir.write_reports(&results).unwrap();
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "mine");
    assert!(std::fs::symlink_metadata(dir.path().join("report.html")).unwrap().is_file());
    // A device has no end.
    std::fs::remove_file(run_dir.results_path()).unwrap();
    std::os::unix::fs::symlink("/dev/zero", run_dir.results_path()).unwrap();
    assert!(matches!(run_dir.results(), Err(RunDirError::Read { .. })));
    // Nor are results told that lie elsewhere.
    let elsewhere = written();
    std::fs::remove_file(run_dir.results_path()).unwrap();
    std::os::unix::fs::symlink(elsewhere.1.results_path(), run_dir.results_path()).unwrap();
    let error = run_dir.results().unwrap_err().to_string();
    assert!(error.contains("it is a link"), "{error}");
}

/// What is wrong with a file is told in its own words, and on one line of the terminal.
#[rstest]
#[case::schema(r#"{"schema":"a\u001b[2J\nb"}"#)]
#[case::status(r#"{"schema":"latchkey-results/1","scenarios":[{"status":{"is":"a\u001b[2J\nb"}}]}"#)]
fn a_strange_files_words_get_no_say_over_the_terminal(#[case] text: &str) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("results.json"), text).unwrap();
    let error = RunDir::at(dir.path()).results().unwrap_err().to_string();
    assert!(error.contains("[2J") && !error.contains(char::is_control), "{error:?}");
}

#[rstest]
#[case::no_json("{", "EOF")]
#[case::nothing("", "it is no results.json")]
#[case::a_list("[\"latchkey-results/1\"]", "it is no results.json")]
#[case::a_page("<html>", "it is no results.json")]
#[case::no_schema("{}", "names no schema")]
#[case::another("{\"schema\":\"latchkey-results/0\"}", "it says `latchkey-results/0`")]
#[case::advice(
    "{\"schema\":\"latchkey-results/2\"}",
    "made by another version of Latchkey: read it with that one"
)]
#[case::incomplete("{\"schema\":\"latchkey-results/1\"}", "missing field")]
fn results_of_another_kind_are_refused(#[case] text: &str, #[case] said: &str) {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(RunDir::at(dir.path()).results(), Err(RunDirError::Read { .. })));
    std::fs::write(dir.path().join("results.json"), text).unwrap();
    let error = RunDir::at(dir.path()).results().unwrap_err().to_string();
    assert!(error.contains(said), "{error}");
}

fn vanish(run: &mut RunResults) {
    run.scenarios.remove(1);
}

/// A row that was run in neither is not missed.
fn vanish_unseen(run: &mut RunResults) {
    run.scenarios.remove(2);
}

fn appear(run: &mut RunResults) {
    let mut more = run.scenarios[0].clone();
    more.image = "another".into();
    run.scenarios.push(more);
}

fn fail(run: &mut RunResults) {
    run.scenarios[0].status = Status::Failed { reason: "expected unlocked\u{1b}[31m".into() };
    run.scenarios[0].conclusion = None;
}

fn move_pcr(run: &mut RunResults) {
    let boot = &mut run.scenarios[0].steps[1].boots[0];
    boot.pcrs.get_mut(&HashAlg::Sha256).unwrap().0.insert(pcr(7), digest(8));
    boot.pcrs.get_mut(&HashAlg::Sha256).unwrap().0.insert(pcr(11), digest(8));
}

fn come_to_something_else(run: &mut RunResults) {
    run.scenarios[0].steps[0].boots[0].outcome = None;
    run.scenarios[0].steps[0].boots[0].forecast_outcome = Some(Outcome::NoPrompt);
    run.scenarios[0].steps[1].boots.clear();
}

fn be_refused_by_another(run: &mut RunResults) {
    let boot = &mut run.scenarios[0].steps[1].boots[0];
    (boot.reported_by, boot.lockout_counter) = (Some("grub".into()), Some(3));
}

/// IMA's PCR, and how long was waited.
fn what_is_never_the_same(run: &mut RunResults) {
    run.scenarios[0].steps[1].boots[0].pcrs.get_mut(&HashAlg::Sha256).unwrap().0.insert(pcr(10), digest(8));
    let failed = run.scenarios.iter_mut().find(|row| matches!(row.status, Status::Failed { .. })).unwrap();
    failed.status = Status::Failed { reason: "waited 181 s in vain".into() };
}

fn only_times_and_names(run: &mut RunResults) {
    run.run = "another".into();
    run.took_ms = 1;
    run.scenarios[0].took_ms = 1;
    run.host = "kvm".into();
}

#[rstest]
#[case("vanished", vanish, 1)]
#[case("unseen", vanish_unseen, 0)]
#[case("new", appear, 1)]
#[case("failed", fail, 1)]
#[case("pcrs", move_pcr, 1)]
#[case("outcome", come_to_something_else, 1)]
#[case("refused", be_refused_by_another, 1)]
#[case("times", only_times_and_names, 0)]
#[case("noise", what_is_never_the_same, 0)]
fn what_changed(#[case] name: &str, #[case] change: fn(&mut RunResults), #[case] exit: u8) {
    let (one, mut other) = (run(2), run(2));
    change(&mut other);
    let found = diff::runs(&one, &other);
    assert_eq!(found.exit_code(), exit);
    let json = serde_json::to_string_pretty(&found.rows).unwrap();
    insta::assert_snapshot!(format!("diff_{name}"), format!("{found}--\n{json}"));
}

/// What got worse stands first, also behind what got better; that the images are others is said.
/// Which values a loop is caught with is chance.
#[test]
fn a_loop_is_the_same_loop_whenever_it_was_looked_at() {
    let one = run(2);
    let mut other = one.clone();
    move_pcr(&mut other);
    let looping = |run: &RunResults, outcome: Outcome| {
        let mut run = run.clone();
        run.scenarios[0].steps[1].boots[0].outcome = Some(outcome);
        run
    };
    let changed = |outcome| diff::runs(&looping(&one, outcome), &looping(&other, outcome)).rows.len();
    assert_eq!(changed(Outcome::Unlocked), 1);
    assert_eq!(changed(Outcome::RestartLoop), 0);
}

#[test]
fn worse_comes_first_and_other_images_are_said() {
    let (mut one, mut other) = (run(2), run(2));
    one.scenarios[0].status = Status::Failed { reason: "r".into() };
    one.scenarios[1].status = Status::Passed;
    one.scenarios.iter_mut().for_each(|row| row.image_identity = Some("rlc9-uki-1".into()));
    other.scenarios[1].status = Status::InfrastructureError { reason: "r".into() };
    let unknown = diff::runs(&one, &other);
    assert!(unknown.images.is_empty());
    other.scenarios[0].image_identity = Some("rlc9-uki-2".into());
    let found = diff::runs(&one, &other);
    let turns: Vec<_> = found.rows.iter().map(|row| (row.scenario.as_str(), row.change.turn())).collect();
    assert_eq!(turns, [("failing", Some(diff::Turn::Worse)), ("passing", Some(diff::Turn::Better))]);
    let text = found.to_string();
    assert!(text.contains("image rlc9-uki: rlc9-uki-1 -> rlc9-uki-2"), "{text}");
    assert!(text.contains("1 worse, 1 better, 0 otherwise"), "{text}");
}

#[rstest]
#[case::the_content_is_told_by_one(&["x-1"], &["x-1, content a"], true)]
#[case::the_other_has_rows_of_both(&["x-1"], &["x-1", "x-1, content a"], true)]
#[case::the_same(&["x-1, content a"], &["x-1, content a"], true)]
#[case::another_content(&["x-1, content a"], &["x-1, content b"], false)]
#[case::another_image(&["x-1"], &["x-11, content a"], false)]
#[case::one_more(&["x-1"], &["x-1, content a", "x-2, content a"], false)]
fn images_are_the_same_as_far_as_both_tell(#[case] was: &[&str], #[case] is: &[&str], #[case] same: bool) {
    let of = |identities: &[&str]| {
        let mut all = run(1);
        let row = all.scenarios.remove(0);
        let one =
            |identity: &&str| ScenarioResult { image_identity: Some((*identity).to_owned()), ..row.clone() };
        all.scenarios = identities.iter().map(one).collect();
        all
    };
    assert_eq!(diff::runs(&of(was), &of(is)).images.is_empty(), same);
    assert_eq!(diff::runs(&of(is), &of(was)).images.is_empty(), same);
}

/// What passed and was not run any more is told after what got worse; a scenario that is gone, once.
#[test]
fn lost_coverage_is_told_apart() {
    let (mut one, mut other) = (run(1), run(1));
    let passing = one.scenarios.remove(0);
    let row = |name: &str, image: &str| ScenarioResult {
        scenario: name.into(),
        image: image.into(),
        ..passing.clone()
    };
    let gone = vec![row("gone", "a"), row("gone", "b"), row("gone-too", "a")];
    let kept = vec![row("not-reached", "a"), row("stopped", "a"), row("worse", "a")];
    one.scenarios = [gone, kept.clone()].concat();
    other.scenarios = kept;
    let statuses = [
        Status::Skipped { reason: "not-reached: the run was interrupted".into() },
        Status::InfrastructureError { reason: "interrupted".into() },
        Status::Failed { reason: "r".into() },
    ];
    for (row, status) in other.scenarios.iter_mut().zip(statuses) {
        row.status = status;
    }
    let found = diff::runs(&one, &other);
    assert_eq!(found.rows[0].scenario, "worse");
    assert!(found.rows[1..].iter().all(|row| row.change.turn() == Some(diff::Turn::Lost)), "{found}");
    let text = found.to_string();
    assert!(text.contains("- gone on a, b: vanished, was passed\n- gone-too on a: vanished"), "{text}");
    let counts = "1 worse, 2 lost coverage, 0 better, 0 otherwise changed, 0 new, 3 vanished, 0 the same";
    assert!(text.contains(counts), "{text}");
}

/// Each changed row has a line, or a part of one, and is counted once.
#[test]
fn the_counts_are_of_all_rows_that_changed() {
    let (mut one, mut other) = (run(2), run(2));
    appear(&mut other);
    fail(&mut other);
    other.scenarios[1].status = Status::Passed;
    other.scenarios.remove(2);
    let passing = one.scenarios[0].clone();
    one.scenarios.extend(["a", "b"].map(|image| ScenarioResult { image: image.into(), ..passing.clone() }));
    let found = diff::runs(&one, &other);
    let text = found.to_string();
    let counts = "1 worse, 1 better, 0 otherwise changed, 1 new, 2 vanished, 0 the same, 1 run in neither";
    assert!(text.contains(counts) && found.rows.len() == 5, "{text}");
    assert!(text.contains("- passing on a, b: vanished, was passed\n"), "{text}");
}

/// Why a run did not come to a row says nothing of the row: all of a catalogue's rows would hide what changed.
#[test]
fn rows_that_neither_run_came_to_are_no_change() {
    let (mut one, mut other) = (run(1), run(1));
    let skip = |run: &mut RunResults, reason: &str| {
        run.scenarios[2].status = Status::Skipped { reason: reason.into() };
    };
    skip(&mut one, "not-reached: the run was interrupted");
    skip(&mut other, "not-reached: the run goes on, or was killed");
    let found = diff::runs(&one, &other);
    assert_eq!((found.rows.len(), found.same, found.not_run), (0, 2, 1));
    // Whoever left it out had another reason, which counts.
    skip(&mut other, "needs-dnf: it has none");
    assert_eq!(diff::runs(&one, &other).rows.len(), 1);
}

#[test]
fn a_machine_that_is_left_locked_is_told_from_one_without_an_end() {
    let (one, mut other) = (run(1), run(1));
    other.scenarios[0].conclusion = None;
    let text = diff::runs(&one, &other).to_string();
    assert!(text.contains("    in the end open -> locked\n"), "{text}");
}

/// A report of several runs has a row of each host; that one of them went away is no change of another's.
#[test]
fn rows_of_several_hosts_are_compared_host_by_host() {
    let row = |host: &str, status: Status| {
        let mut row = run(1).scenarios.remove(0);
        (row.host, row.status) = (Some(host.into()), status);
        row
    };
    let failed = || Status::Failed { reason: "another outcome".into() };
    let (mut one, mut other) = (run(1), run(1));
    one.scenarios = vec![row("kvm", Status::Passed), row("tcg", failed())];
    other.scenarios = vec![row("tcg", failed())];
    let found = diff::runs(&one, &other);
    assert!(
        matches!(&found.rows[..], [row] if matches!(row.change, diff::Change::Vanished { .. })),
        "{found}"
    );
    // One run by itself may have been on any host.
    other.scenarios[0].host = None;
    assert_eq!(diff::runs(&one, &other).rows.len(), 2);
}
