//! One run with every kind of ending, in every format.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use latchkey_record::boot::{BootRecord, Contradiction, Witness, WitnessName};
use latchkey_record::results::{Check, RunResults, SCHEMA, ScenarioResult, Status, StepResult};
use latchkey_record::{Alignment, Conclusion, Outcome};
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
        conclusion: matches!(status, Status::Passed).then_some(Conclusion::Open),
        status,
        steps,
        reproduce: format!("cargo xtask run {name} --keep"),
        kept: None,
        took_ms: 140_250,
        reused: None,
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

fn run() -> RunResults {
    let failed = || Status::Failed { reason: "expected fallback-prompt, saw unlocked".into() };
    let mut torn = boot(2, None);
    torn.contradictions.push(Contradiction {
        name: WitnessName::Ssh,
        expected: "no banner".into(),
        saw: "a banner".into(),
    });
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
            scenario("needs-key", Status::Skipped { reason: "needs-vendor-key".into() }, vec![]),
            scenario(
                "broken",
                Status::InfrastructureError { reason: "swtpm ended\u{1b}[31m".into() },
                vec![],
            ),
        ],
        took_ms: 300_000,
    }
}

#[test]
fn terminal_plain() {
    let text = terminal::summary(&run(), terminal::Colour::Off);
    assert!(!text.contains('\u{1b}'), "a guest's text reached the terminal as it was");
    insta::assert_snapshot!(text);
}

#[test]
fn junit_keeps_failures_and_errors_apart() {
    insta::assert_snapshot!(junit::results(&run()).unwrap());
}

#[test]
fn json_reads_back_and_the_exit_code_follows() {
    let text = json::results(&run()).unwrap();
    let back: RunResults = serde_json::from_str(&text).unwrap();
    assert_eq!(back, run());
    assert_eq!(back.exit_code(), 3);
    let mut run = run();
    run.scenarios.truncate(2);
    assert_eq!(run.exit_code(), 1);
    run.scenarios.truncate(1);
    assert_eq!(run.exit_code(), 0);
}
