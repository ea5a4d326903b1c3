//! One run with every kind of ending, in every format.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use latchkey_record::boot::{BootRecord, Contradiction, Witness, WitnessName};
use latchkey_record::forecast::{Difference, Mismatch, Origin};
use latchkey_record::results::{
    Check, ImageVersions, RunResults, SCHEMA, ScenarioResult, Status, StepResult,
};
use latchkey_record::{Alignment, Conclusion, Known, Outcome};
use latchkey_report::{json, junit, terminal};

fn boot(number: u32, outcome: Option<Outcome>) -> BootRecord {
    BootRecord {
        began_ms: 0,
        clear_after_ms: 21_430,
        witnesses: vec![
            Witness { name: WitnessName::Console, saw: "asks for a passphrase".into() },
            Witness { name: WitnessName::Ssh, saw: "no banner".into() },
        ],
        pcrs: BTreeMap::new(),
        moved: [4, 7, 14].map(common::pcr).to_vec(),
        alignment: Alignment { matched: 47, ..Alignment::default() },
        forecast_outcome: outcome,
        milestones: Vec::new(),
        ..common::boot("drill", number, outcome)
    }
}

fn scenario(name: &str, status: Status, steps: Vec<StepResult>) -> ScenarioResult {
    ScenarioResult {
        scenario: name.into(),
        title: "A title with <angles> & more".into(),
        why: "because".into(),
        image: "rlc9-uki".into(),
        host: None,
        conclusion: matches!(status, Status::Passed).then_some(Conclusion::Open),
        status,
        steps,
        reproduce: format!("cargo xtask run {name} --keep"),
        kept: None,
        took_ms: 140_250,
        reused: None,
        image_identity: None,
    }
}

fn step(number: u32, status: Status, boots: Vec<BootRecord>) -> StepResult {
    StepResult {
        number,
        what: "reboot, expecting fallback-prompt".into(),
        status,
        checks: vec![Check {
            what: "PCRs that moved".into(),
            expected: "4, 7, 14".into(),
            seen: "4, 7".into(),
            held: number == 1,
        }],
        boots,
        took_ms: 22_000,
        shared_with: None,
    }
}

fn known() -> Status {
    Status::Known {
        reason: "outcome: expected unlocked, saw refused-by-shim".into(),
        known: Known {
            reason: "its shim is revoked".into(),
            tracker: "https://bugs.example/7".into(),
            until: "2027-01-31".parse().unwrap(),
        },
    }
}

/// A different first event, and many after it.
fn wrong() -> Alignment {
    let wrong = Mismatch {
        index: 12,
        leg: 0,
        kind: Difference::Different,
        pcr: common::pcr(7),
        expected: Some(common::digest(2)),
        seen: Some(common::digest(9)),
        what: Some("certificate".into()),
        from: Some(Origin::File("esp:/EFI/certificate".into())),
        event_type: None,
    };
    Alignment { matched: 12, mismatches: vec![wrong; 40], ..Alignment::default() }
}

fn run() -> RunResults {
    let failed = || Status::Failed { reason: "expected fallback-prompt, saw unlocked".into() };
    let mut torn = boot(2, None);
    torn.contradictions.push(Contradiction {
        name: WitnessName::Ssh,
        expected: "no banner".into(),
        saw: "a banner".into(),
    });
    torn.alignment = wrong();
    RunResults {
        schema: SCHEMA.into(),
        run: "20260102-030405-abcd".into(),
        harness: "0.1.0".into(),
        host: "tcg".into(),
        scenarios: vec![
            scenario(
                "drill",
                Status::Passed,
                vec![step(1, Status::Passed, vec![boot(1, Some(Outcome::FallbackPrompt))])],
            ),
            scenario("torn", failed(), vec![step(2, failed(), vec![torn])]),
            scenario(
                "expected",
                known(),
                vec![step(1, known(), vec![boot(1, Some(Outcome::RefusedByShim))])],
            ),
            scenario("needs-key", Status::Skipped { reason: "needs-vendor-key".into() }, vec![]),
            scenario(
                "broken",
                Status::InfrastructureError { reason: "swtpm ended\u{1b}[31m".into() },
                vec![],
            ),
        ],
        left_out: vec![],
        images: vec![],
        took_ms: 300_000,
    }
}

/// As many rows as a catalogue has, on four images.
fn catalogue() -> RunResults {
    let mut all = run();
    let passing = all.scenarios[0].clone();
    let row = |number: usize| ScenarioResult {
        scenario: format!("a-scenario-with-a-name-{}", number / 4),
        image: ["rlc9-uki", "rlc9-grub", "debian12", "debian13"][number % 4].into(),
        reused: number.is_multiple_of(3).then(|| "20260101-000000-1".into()),
        ..passing.clone()
    };
    all.scenarios.extend((0..106).map(row));
    all
}

fn plain(run: &RunResults) -> String {
    let text = terminal::summary(run, terminal::Colour::Off);
    assert!(!text.contains('\u{1b}'), "a guest's text reached the terminal as it was");
    text
}

#[test]
fn a_few_rows_are_told_whole() {
    let mut run = run();
    run.scenarios.truncate(3);
    run.scenarios[0].reused = Some("20260101-000000-1".into());
    run.scenarios[0].steps[0].shared_with = Some("first-boot on rlc9-uki".into());
    insta::assert_snapshot!(plain(&run));
}

/// What was done once for several rows is in the time of one of them.
#[test]
fn a_rows_time_is_told_with_what_it_shares() {
    let mut run = run();
    run.scenarios[0].steps[0].shared_with = Some("first-boot on rlc9-uki".into());
    let text = |run: &RunResults| plain(run) + &terminal::row(&run.scenarios[0], terminal::Colour::Off);
    run.scenarios.truncate(1);
    let told = text(&run);
    assert!(told.contains("✓ drill on rlc9-uki  140.3 s + 22.0 s shared, in the end open\n"), "{told}");
    assert!(told.ends_with("\n✓ drill on rlc9-uki  140.3 s + 22.0 s shared"), "{told}");
    // For a verdict that was there nothing was done once more, shared or not.
    run.scenarios[0].reused = Some("20260101-000000-1".into());
    let told = text(&run);
    assert!(!told.contains("s shared,") && !told.ends_with("shared"), "{told}");
}

/// Results come from other people, too.
#[test]
fn numbers_of_any_size_are_told() {
    let mut run = run();
    run.scenarios.truncate(2);
    for row in &mut run.scenarios {
        row.took_ms = u64::MAX;
        let alignment = &mut row.steps[0].boots[0].alignment;
        alignment.matched = usize::MAX;
        alignment.open = [("one".to_owned(), usize::MAX), ("other".to_owned(), 1)].into();
    }
    let text = plain(&run);
    assert!(text.contains(&format!("{0} events as forecast, {0} open", usize::MAX)), "{text}");
    assert!(text.contains(&format!("40 of {} events differ", usize::MAX)), "{text}");
    assert!(junit::results(&run, Path::new("")).unwrap().contains("torn"));
}

#[test]
fn a_catalogue_fits_a_screen() {
    let text = plain(&catalogue());
    assert!(text.lines().count() <= 40 && text.lines().all(|line| line.chars().count() <= 320), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn many_that_were_skipped_alike_are_counted() {
    let mut run = catalogue();
    let row = run.scenarios[1].clone();
    let skipped = |n: usize, reason: &str| ScenarioResult {
        scenario: format!("s-{n}"),
        status: Status::Skipped { reason: reason.into() },
        ..row.clone()
    };
    // A machine's directory is named by chance.
    let broken = |n: usize| {
        let reason = format!("/m/machine-a{n}/root.img: no space left");
        ScenarioResult { status: Status::InfrastructureError { reason }, ..row.clone() }
    };
    let all = (0..20).map(|n| skipped(n, "not reached")).chain([skipped(20, "needs-key")]);
    run.scenarios = all.chain((0..10).map(broken)).collect();
    let text = plain(&run);
    assert_eq!(text.matches("not reached").count(), 1, "{text}");
    assert!(text.contains("20 skipped: not reached") && text.contains("s-20 on "), "{text}");
    assert!(text.contains("! 10 could not be judged: /m/machine-…/root.img: no space left\n"), "{text}");
}

#[test]
fn so_does_one_where_everything_fails() {
    let mut run = catalogue();
    let failed = run.scenarios[1].clone();
    run.scenarios =
        (0..110).map(|n| ScenarioResult { scenario: format!("s-{n}"), ..failed.clone() }).collect();
    let text = plain(&run);
    assert_eq!(text.matches("reproduce: ").count(), 5);
    assert_eq!(text.lines().filter(|line| line.starts_with("✗ s-")).count(), 5 + 12);
    assert!(text.contains("... and more, which the report has: 93 failed"), "{text}");
}

/// Reasons that begin with a word go by that; of all others it is told how many there are.
#[test]
fn what_was_skipped_for_many_reasons_is_counted_as_well() {
    let mut run = catalogue();
    let row = run.scenarios[1].clone();
    let skipped = |n: usize, reason: String| ScenarioResult {
        scenario: format!("s-{n}"),
        status: Status::Skipped { reason },
        ..row.clone()
    };
    let by_word = (0..10).map(|n| skipped(n, format!("needs-dnf: image {n} has none")));
    let others = (10..30).map(|n| skipped(n, format!("for a reason of its own, {n}")));
    let not_reached = (30..40).map(|n| skipped(n, "not-reached: the run ended first".into()));
    run.scenarios = by_word.chain(others).chain(not_reached).collect();
    let text = plain(&run);
    assert!(text.contains("- 10 skipped: needs-dnf: image 0"), "{text}");
    assert!(text.contains("- 10 not reached: the run"), "{text}");
    assert!(text.contains("... and more, which the report has: 8 skipped"), "{text}");
    assert!(text.contains("30 skipped, 10 not reached in"), "{text}");
}

/// The catalogue's own names, and a shard that was lost: what a screen has to hold.
#[test]
fn so_does_one_of_the_whole_catalogue() {
    let mut run = catalogue();
    let [passed, lost] = [0, 1].map(|at| run.scenarios[at].clone());
    let reason = "in-no-run: its shard is missing".to_owned();
    let row = |(at, line): (usize, &str)| {
        let (scenario, image) = line.split_once(' ').unwrap();
        let is_lost = at % 4 == 1;
        let row = if is_lost { &lost } else { &passed };
        let status =
            if is_lost { Status::InfrastructureError { reason: reason.clone() } } else { row.status.clone() };
        ScenarioResult { scenario: scenario.into(), image: image.into(), status, ..row.clone() }
    };
    run.scenarios = include_str!("../../../scenarios/rows.txt").lines().enumerate().map(row).collect();
    let text = plain(&run);
    assert!(text.lines().count() <= 24, "{text}");
    assert_eq!(text.matches("its shard is missing").count(), 1, "{text}");
    assert!(text.contains("more scenarios"), "{text}");
}

/// They are not what the row did not pass for.
#[test]
fn steps_that_were_not_reached_are_told_as_such() {
    let mut run = run();
    run.scenarios = vec![run.scenarios[1].clone()];
    let status = Status::Skipped { reason: "not-reached: step 2 ended the row".into() };
    let more = StepResult { what: "boot: unlocked".into(), took_ms: 0, ..step(3, status, vec![]) };
    run.scenarios[0].steps.push(more);
    let text = plain(&run);
    let line = text.lines().find(|line| line.starts_with("  … 3  boot: unlocked")).unwrap();
    assert!(line.ends_with(" not reached") && text.contains("\n  step 2: reboot"), "{text}");
    let xml = junit::results(&run, Path::new("")).unwrap();
    assert!(xml.contains("\n3 not reached: boot: unlocked\n"), "{xml}");
    run.scenarios[0].steps.remove(0);
    assert!(!plain(&run).contains("  step 3: "), "the row ended before its steps");
}

/// The last lines tell most, so they stand next to how it is done again.
#[test]
fn what_a_console_said_stands_below_the_facts() {
    let mut run = run();
    run.scenarios = vec![run.scenarios[1].clone()];
    run.scenarios[0].status = Status::Failed { reason: "waited in vain\n    one line\n    the last".into() };
    let text = plain(&run);
    let places = ["  waited in vain\n", "first wrong event", "      one line\n      the last\n  reproduce"];
    let places: Vec<_> = places.iter().map(|part| text.find(part)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
}

#[test]
fn what_was_interrupted_or_left_locked_is_said() {
    let mut run = run();
    run.scenarios[0].conclusion = None;
    run.scenarios.swap(1, 4);
    run.scenarios.truncate(2);
    let mut stopped = run.scenarios[1].clone();
    stopped.status = Status::InfrastructureError { reason: "provisioning: interrupted".into() };
    run.scenarios.push(stopped);
    let text = plain(&run);
    assert!(text.contains("✓ drill on rlc9-uki  140.3 s, in the end locked\n"), "{text}");
    assert!(text.contains("1 passed, 0 failed, 1 interrupted, 1 infrastructure error in"), "{text}");
    let quoting = Status::InfrastructureError { reason: "x failed:\n    foo: interrupted".into() };
    assert!(!quoting.is_interrupted(), "a tool said so, of itself");
}

/// Another's validator, and what it has to refuse.
#[test]
fn results_are_valid_by_the_published_schema() {
    let schema = serde_json::from_str(include_str!("../../../docs/results.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let valid = serde_json::to_value(run()).unwrap();
    let earlier = serde_json::from_str(include_str!("earlier/results.json")).unwrap();
    let mut with_versions = run();
    let versions = [("shim".to_owned(), "15.8-1".to_owned())].into();
    with_versions.images =
        vec![ImageVersions { image: "rlc9-uki".into(), identity: "rlc9-uki-0".into(), versions }];
    let with_versions = serde_json::to_value(with_versions).unwrap();
    for results in [&valid, &with_versions, &earlier] {
        let wrong: Vec<String> = validator.iter_errors(results).map(|error| error.to_string()).collect();
        assert_eq!(wrong, [] as [&str; 0]);
    }
    for place in ["/scenarios/0/status/is", "/scenarios/0/steps/0/boots/0/number", "/took_ms"] {
        let mut broken = valid.clone();
        *broken.pointer_mut(place).unwrap() = "something".into();
        assert!(!validator.is_valid(&broken), "{place}");
    }
}

fn junit() -> String {
    junit::results(&run(), Path::new("target/latchkey/a-run")).unwrap()
}

#[test]
fn junit_keeps_failures_and_errors_apart() {
    insta::assert_snapshot!(junit());
}

/// As the terminal and the page tell it.
#[test]
fn junit_tells_that_a_machine_was_left_locked() {
    let mut run = run();
    run.scenarios[0].conclusion = None;
    let text = junit::results(&run, Path::new("")).unwrap();
    let locked = |text: &str| text.matches("<property name=\"conclusion\" value=\"locked\"/>").count();
    assert_eq!(locked(&text), 1, "what failed or broke did not come to an end: {text}");
    run.scenarios[0].steps.clear();
    assert_eq!(locked(&junit::results(&run, Path::new("")).unwrap()), 0, "nothing was booted");
}

/// One of a user's own is elsewhere.
#[test]
fn junit_names_the_files_of_this_projects_scenarios() {
    let mut run = run();
    run.scenarios[0].reproduce = "cargo xtask run my/drill.toml --keep".into();
    let text = junit::results(&run, Path::new("")).unwrap();
    assert!(!text.contains("scenarios/drill") && text.contains("file=\"scenarios/torn.toml\""), "{text}");
}

/// Jenkins' xUnit plugin publishes the schema that it holds JUnit files to. Three things are younger than it, and read by
/// Jenkins' JUnit plugin and others: a test case's file and its properties, and how many of all test cases were skipped.
#[test]
fn junit_is_valid_by_the_published_schema() {
    let xmllint = which::which("xmllint")
        .expect("no `xmllint`: `cargo xtask setup` installs it with the tests' other tools");
    let published = include_str!("schema/junit-10.xsd");
    let case = "<xs:element ref=\"rerunFailure\" minOccurs";
    let suites = "<xs:attribute name=\"errors\" type=\"xs:string\" />";
    let of_case = "<xs:attribute name=\"group\" type=\"xs:string\"/>";
    assert_eq!([case, suites, of_case].map(|text| published.matches(text).count()), [1; 3]);
    let schema = published
        .replace(case, &format!("<xs:element ref=\"properties\"/>{case}"))
        .replace(of_case, &format!("{of_case}<xs:attribute name=\"file\" type=\"xs:string\"/>"))
        .replace(suites, &format!("{suites}<xs:attribute name=\"skipped\" type=\"xs:string\"/>"));
    let dir = tempfile::tempdir().unwrap();
    let (xsd, xml) = (dir.path().join("junit.xsd"), dir.path().join("junit.xml"));
    std::fs::write(&xsd, schema).unwrap();
    for (text, valid) in [(junit(), true), (junit().replace("<failure ", "<failed "), false)] {
        std::fs::write(&xml, text).unwrap();
        let checked =
            Command::new(&xmllint).arg("--noout").arg("--schema").args([&xsd, &xml]).output().unwrap();
        assert_eq!(checked.status.success(), valid, "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn a_steps_words_attach_nothing() {
    let mut run = run();
    run.scenarios[0].steps[0].what = "run `[[ATTACHMENT|/etc/passwd]]`".into();
    run.scenarios[0].steps[0].what.push_str("[[[ATTACHMENT|/etc/group]]");
    run.scenarios[0].steps[0].boots[0].console = "a]]\n[[ATTACHMENT|/etc/shadow".into();
    run.scenarios[0].steps[0].boots[0].tpm = "/etc/hosts".into();
    run.scenarios[0].steps[0].boots[0].forecast = "../../../etc/fstab".into();
    let text = junit::results(&run, Path::new("")).unwrap();
    assert!(!text.contains("[[ATTACHMENT|/etc") && !text.contains("fstab"), "{text}");
    assert!(
        text.contains("[[ATTACHMENT|drill/qemu.txt]]"),
        "what lies in the run's directory is attached: {text}"
    );
}

#[test]
fn json_reads_back_and_the_exit_code_follows() {
    let text = json::results(&run()).unwrap();
    let back: RunResults = serde_json::from_str(&text).unwrap();
    assert_eq!(back, run());
    assert_eq!(back.exit_code(), 3);
    let mut run = run();
    run.scenarios.truncate(3);
    assert_eq!(run.exit_code(), 1);
    run.scenarios.remove(1);
    assert_eq!(run.exit_code(), 0, "a known failure is expected");
    run.scenarios.truncate(1);
    assert_eq!(run.exit_code(), 0);
    // What was left out for a reason is no loss; what the run did not come to may have failed.
    let skipped = |reason: &str| Status::Skipped { reason: reason.into() };
    run.scenarios.push(scenario("drill", skipped("needs-vendor-key: hand one in"), vec![]));
    assert_eq!(run.exit_code(), 0);
    run.scenarios.push(scenario("drill", skipped("not-reached: the run goes on, or was killed"), vec![]));
    assert_eq!(run.exit_code(), 3);
    run.scenarios.push(scenario("drill", Status::Failed { reason: "r".into() }, vec![]));
    assert_eq!(run.exit_code(), 1);
}
