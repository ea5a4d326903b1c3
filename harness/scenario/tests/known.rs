//! What a known failure makes of a result, on several days.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use latchkey_record::{Day, ScenarioResult, Status, StepResult};
use latchkey_scenario::Scenario;
use rstest::rstest;

const FILE: &str = r#"title = "t"
why = "w"
[machine]
image = ["rlc9-grub", "rlc9-uki"]
seal = { pcrs = [4, 7], bank = "sha256" }
keys = ["platform"]
[[step]]
boot = { expect = "unlocked" }
[[known]]
image = "rlc9-uki"
step = 1
reason = "its shim is revoked"
tracker = "https://bugs.example/7"
until = 2027-01-31
"#;

fn day(text: &str) -> Day {
    text.parse().unwrap()
}

fn judged(image: &str, status: Status, today: &str) -> Status {
    let scenario = Scenario::parse(Path::new("drill.toml"), FILE).unwrap();
    let mut result = blank(image, status);
    result.steps = vec![step(1, result.status.clone())];
    let mut own = ScenarioResult { image: "my-own".into(), ..result.clone() };
    scenario.judge_known(&mut own, Some(image), day(today));
    scenario.judge_known(&mut result, None, day(today));
    assert_eq!(own.status, result.status, "one that is like it");
    result.status
}

fn blank(image: &str, status: Status) -> ScenarioResult {
    ScenarioResult {
        scenario: "drill".into(),
        title: String::new(),
        why: String::new(),
        image: image.into(),
        host: None,
        status,
        conclusion: None,
        steps: vec![],
        reproduce: String::new(),
        kept: None,
        took_ms: 0,
        reused: None,
        image_identity: None,
    }
}

fn step(number: u32, status: Status) -> StepResult {
    StepResult {
        number,
        what: String::new(),
        status,
        checks: vec![],
        boots: vec![],
        shared_with: None,
        took_ms: 0,
    }
}

#[test]
fn another_step_than_the_known_one_is_another_failure() {
    let judged = |step: u32, known: &str| {
        let file = FILE.replace("step = 1", &format!("step = {known}"));
        let scenario = Scenario::parse(Path::new("drill.toml"), &file).unwrap();
        let mut result = blank("rlc9-uki", failed());
        result.steps = vec![self::step(step, failed())];
        scenario.judge_known(&mut result, None, day("2027-01-01"));
        result.status
    };
    assert_eq!(judged(1, "1").word(), "known");
    let other = judged(0, "1");
    assert!(other.reason().unwrap().contains("fails at step 0, which is not what is known"), "{other:?}");
    for wrong in ["step = 2", ""] {
        assert!(Scenario::parse(Path::new("drill.toml"), &FILE.replace("step = 1", wrong)).is_err());
    }
}

/// A row tells what it did not come to, which is no failure.
#[test]
fn what_was_not_reached_after_the_known_step_is_none_that_fails() {
    let scenario = Scenario::parse(Path::new("drill.toml"), FILE).unwrap();
    let mut result = blank("rlc9-uki", failed());
    let left = Status::Skipped { reason: "not-reached: the row ended before it".into() };
    result.steps = vec![step(0, Status::Passed), step(1, failed()), step(2, left.clone()), step(3, left)];
    scenario.judge_known(&mut result, None, day("2027-01-01"));
    assert_eq!(result.status.word(), "known");
}

fn failed() -> Status {
    Status::Failed { reason: "saw refused-by-shim".into() }
}

fn broken() -> Status {
    Status::InfrastructureError { reason: "no space left".into() }
}

#[rstest]
#[case::expected("rlc9-uki", failed(), "2027-01-31", "known", "saw refused-by-shim")]
#[case::over("rlc9-uki", failed(), "2027-02-01", "failed", "its time as a known failure is over")]
#[case::over_keeps_what_was_seen("rlc9-uki", failed(), "2027-02-01", "failed", "\nsaw refused-by-shim")]
#[case::passes(
    "rlc9-uki",
    Status::Passed,
    "2027-01-01",
    "failed",
    "take out the [[known]] entry for rlc9-uki in drill.toml"
)]
#[case::passes_late("rlc9-uki", Status::Passed, "2028-01-01", "failed", "it passes")]
#[case::infrastructure("rlc9-uki", broken(), "2027-01-01", "error", "no space left")]
#[case::another_image("rlc9-grub", failed(), "2027-01-01", "failed", "saw refused-by-shim")]
fn what_becomes_of_it(
    #[case] image: &str,
    #[case] status: Status,
    #[case] today: &str,
    #[case] word: &str,
    #[case] said: &str,
) {
    let status = judged(image, status, today);
    assert_eq!(status.word(), word);
    assert!(status.reason().is_some_and(|reason| reason.contains(said)), "{status:?}");
}

#[test]
fn another_image_passes_as_ever() {
    assert_eq!(judged("rlc9-grub", Status::Passed, "2027-01-01"), Status::Passed);
}

#[test]
fn a_result_of_an_earlier_day_is_judged_anew() {
    let earlier = judged("rlc9-uki", failed(), "2027-01-01");
    assert!(matches!(earlier, Status::Known { .. }));
    assert_eq!(judged("rlc9-uki", earlier.clone(), "2027-01-31"), earlier);
    assert_eq!(judged("rlc9-uki", earlier.clone(), "2027-02-01").word(), "failed");
    // The entry may be gone by then.
    assert_eq!(judged("rlc9-grub", earlier, "2027-01-01"), failed());
}

/// A forecast that does not hold where that is known is no reason to go red, and an entry whose time is over is one.
#[rstest]
#[case::known("rlc9-uki", Some(1), "2027-01-31", true, 0)]
#[case::over("rlc9-uki", Some(1), "2027-02-01", false, 2)]
#[case::over_and_it_holds("rlc9-uki", None, "2027-02-01", false, 1)]
// It may fail all the same when it is booted.
#[case::it_holds("rlc9-uki", None, "2027-01-31", false, 0)]
#[case::another_image("rlc9-grub", Some(1), "2027-01-31", false, 1)]
fn a_rehearsal_is_judged_as_well(
    #[case] image: &str,
    #[case] failed_at: Option<u32>,
    #[case] today: &str,
    #[case] known: bool,
    #[case] problems: usize,
) {
    let scenario = Scenario::parse(Path::new("drill.toml"), FILE).unwrap();
    let mut rehearsed = latchkey_scenario::Rehearsed {
        scenario: "drill".into(),
        image: image.into(),
        boots: vec![],
        broken: failed_at.iter().map(|_| "step 1: no".to_owned()).collect(),
        failed_at,
        known: None,
        skipped: None,
    };
    scenario.judge_rehearsed(&mut rehearsed, None, day(today));
    assert_eq!((rehearsed.known.is_some(), rehearsed.problems().len()), (known, problems), "{rehearsed:?}");
}
