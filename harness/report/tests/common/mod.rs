//! A run with a scenario that passed, one that failed, and text everywhere that would like to be markup.
#![allow(dead_code, reason = "each test target uses a part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use latchkey_record::boot::{BootKind, Contradiction, Milestone, Witness, WitnessName};
use latchkey_record::forecast::{Difference, Leg};
use latchkey_record::pcr::{Digest, HashAlg, PcrIndex, PcrValues};
use latchkey_record::results::{Check, LeftOut, NOT_REACHED, SCHEMA};
use latchkey_record::tpm::{TpmDetail, TpmExchange, TpmResponse, command};
use latchkey_record::{
    Alignment, BootRecord, Certainty, Conclusion, Forecast, ForecastEvent, Known, Mismatch, Origin, Outcome,
    RunResults, ScenarioResult, Stage, Status, StepResult,
};

/// Ends an element, begins another, and would run.
pub(crate) const HOSTILE: &str =
    "</script><img src=x onerror=\"window.pwned=1\"><!--<script>window.pwned=2</script>{{script}}";

pub(crate) fn digest(byte: u8) -> Digest {
    Digest::new(HashAlg::Sha256, &[byte; 32]).unwrap()
}

pub(crate) fn pcr(index: u32) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

fn values(pairs: &[(u32, u8)]) -> BTreeMap<HashAlg, PcrValues> {
    let values = pairs.iter().map(|(index, byte)| (pcr(*index), digest(*byte))).collect();
    [(HashAlg::Sha256, PcrValues(values))].into()
}

pub(crate) fn event(index: u32, byte: u8, what: &str) -> ForecastEvent {
    ForecastEvent {
        pcr: pcr(index),
        kind: 0,
        digests: vec![digest(byte)],
        stage: Stage::Shim,
        what: what.into(),
        from: Origin::File(format!("esp:/EFI/{what}")),
        certainty: Certainty::Computed,
    }
}

pub(crate) fn boot(scenario: &str, number: u32, outcome: Option<Outcome>) -> BootRecord {
    BootRecord {
        number,
        kind: if number == 1 { BootKind::ColdStart } else { BootKind::GuestReboot },
        outcome,
        reported_by: None,
        waiting_for_key: false,
        began_ms: u64::from(number - 1) * 10_000,
        clear_after_ms: 4_000,
        witnesses: vec![Witness { name: WitnessName::Console, saw: HOSTILE.into() }],
        contradictions: vec![],
        pcrs: values(&[(4, 1), (7, 2)]),
        guest_pcrs: None,
        event_log: None,
        tpm_restarted: None,
        moved: vec![],
        lockout_counter: Some(0),
        alignment: Alignment { matched: 3, ..Alignment::default() },
        forecast_outcome: Some(Outcome::Unlocked),
        forecast_sha256: hex::encode(Sha256::digest(forecast())),
        forecast: format!("{scenario}/boot.forecast.json").into(),
        milestones: vec![Milestone { at_ms: 1_000, what: "the kernel starts".into() }],
        console: format!("{scenario}/power-1.cast").into(),
        tpm: format!("{scenario}/boot.tpm.jsonl").into(),
        command_line: format!("{scenario}/qemu.txt").into(),
    }
}

pub(crate) fn scenario(name: &str, status: Status, boots: Vec<BootRecord>) -> ScenarioResult {
    let step = |(number, boot): (u32, BootRecord)| StepResult {
        number,
        what: format!("boot: {HOSTILE}"),
        status: status.clone(),
        checks: vec![Check {
            what: "outcome".into(),
            expected: "unlocked".into(),
            seen: "unlocked".into(),
            held: true,
        }],
        boots: vec![boot],
        took_ms: 5_000,
        shared_with: None,
    };
    ScenarioResult {
        scenario: name.into(),
        title: HOSTILE.into(),
        why: HOSTILE.into(),
        image: "rlc9-uki".into(),
        host: None,
        conclusion: matches!(status, Status::Passed).then_some(Conclusion::Open),
        steps: (1..).zip(boots).map(step).collect(),
        status,
        reproduce: format!("cargo xtask run {name} --keep"),
        kept: None,
        took_ms: 12_000,
        reused: None,
        image_identity: None,
    }
}

/// `passing` has `boots` boots of one power-on; `failing` has one whose second event differs.
pub(crate) fn run(boots: u32) -> RunResults {
    let mut failing = boot("failing", 1, Some(Outcome::FallbackPrompt));
    failing.moved = vec![pcr(7)];
    failing.pcrs = values(&[(4, 1), (7, 9)]);
    failing.contradictions.push(Contradiction {
        name: WitnessName::Console,
        expected: "a prompt".into(),
        saw: HOSTILE.into(),
    });
    failing.alignment = Alignment {
        matched: 2,
        mismatches: vec![Mismatch {
            index: 1,
            leg: 0,
            kind: Difference::Different,
            pcr: pcr(7),
            expected: Some(digest(2)),
            seen: Some(digest(9)),
            what: Some("certificate".into()),
            from: Some(Origin::File("esp:/EFI/certificate".into())),
            event_type: None,
        }],
        ..Alignment::default()
    };
    let passing = (1..=boots).map(|number| boot("passing", number, Some(Outcome::Unlocked))).collect();
    RunResults {
        schema: SCHEMA.into(),
        run: "20260102-030405-abcd".into(),
        harness: "0.1.0".into(),
        host: "tcg, QEMU 10".into(),
        scenarios: vec![
            scenario("passing", Status::Passed, passing),
            scenario("failing", Status::Failed { reason: HOSTILE.into() }, vec![failing]),
            scenario("skipped", Status::Skipped { reason: "needs-vendor-key".into() }, vec![]),
        ],
        left_out: vec![],
        images: vec![],
        took_ms: 30_000,
    }
}

/// The rows of [`run`], and one of them once more on another host.
pub(crate) fn on_two_hosts() -> RunResults {
    let mut all = run(2);
    let [kvm, tcg] = ["kvm, QEMU 10", "tcg, QEMU 10"];
    let mut again = all.scenarios[0].clone();
    all.scenarios.iter_mut().for_each(|row| row.host = Some(kvm.into()));
    again.host = Some(tcg.into());
    all.scenarios.insert(0, again);
    RunResults { host: format!("{tcg}; {kvm}"), ..all }
}

/// As many rows as a catalogue has: scenarios by four images, with every status, and steps and verdicts that are used again.
pub(crate) fn catalogue() -> RunResults {
    on_images(&["rlc9-uki", "rlc9-grub", "debian12", "debian13"])
}

/// The same on as many images as the real catalogue has, of a run that ended before its last ten rows.
pub(crate) fn interrupted() -> RunResults {
    let images = ["rlc9-uki", "rlc9-grub", "rlc10-uki", "rlc10-grub", "rlc10-bls", "debian12", "debian13"];
    let mut all = on_images(&images);
    all.scenarios[30].status =
        Status::Skipped { reason: "needs-dnf: no package comes that way to this image".into() };
    let last = all.scenarios[109].scenario.clone();
    all.left_out = vec![LeftOut { scenario: last, image: "debian13".into(), why: "it has no UKI".into() }];
    for row in &mut all.scenarios[100..] {
        row.status = Status::Skipped { reason: format!("{NOT_REACHED}the run was interrupted") };
        (row.steps, row.conclusion, row.reused, row.took_ms) = (vec![], None, None, 0);
    }
    all
}

fn on_images(images: &[&str]) -> RunResults {
    let small = run(3);
    let known = Known {
        reason: "its shim is revoked".into(),
        tracker: "https://bugs.example/7".into(),
        until: "2027-01-31".parse().unwrap(),
    };
    let row = |number: usize| {
        let mut row = match number {
            17 | 64 => small.scenarios[1].clone(),
            30 => small.scenarios[2].clone(),
            _ => small.scenarios[0].clone(),
        };
        row.scenario = format!("a-way-to-be-locked-out-{}", number / images.len());
        row.title = "What this scenario does, told in a sentence of the usual length".into();
        row.why = "Why somebody would want to know".into();
        row.image = images[number % images.len()].into();
        row.steps[..].iter_mut().take(1).for_each(|step| {
            step.what = "boot: unlocked".into();
            step.shared_with = (number % 4 == 1).then(|| "first-boot on rlc9-grub".into());
        });
        match number {
            40 | 41 => {
                let reason = "outcome: expected unlocked, saw refused-by-shim".into();
                row.status = Status::Known { reason, known: known.clone() };
            }
            64 => row.status = Status::InfrastructureError { reason: "no space left on the host".into() },
            17 => {
                row.status =
                    Status::Failed { reason: "outcome: expected unlocked, saw fallback-prompt".into() }
            }
            _ => row.reused = number.is_multiple_of(3).then(|| "20260101-000000-1".into()),
        }
        row
    };
    RunResults { scenarios: (0..110).map(row).collect(), took_ms: 1_500_000, ..small }
}

/// An extend after so many resets of the machine.
pub(crate) fn extend(reset: u32, at_ms: u64, index: u32, byte: u8) -> TpmExchange {
    TpmExchange {
        at_ms,
        reset,
        code: command::PCR_EXTEND,
        command: "PCR_Extend".into(),
        handles: vec![index],
        detail: Some(TpmDetail::Extend { pcr: pcr(index), digests: vec![digest(byte)] }),
        response: TpmResponse { code: 0, words: "SUCCESS".into() },
    }
}

fn exchange(at_ms: u64, index: u32, byte: u8) -> String {
    serde_json::to_string(&extend(0, at_ms, index, byte)).unwrap() + "\n"
}

/// The forecast of every boot of [`run`].
fn forecast() -> String {
    let events = vec![event(4, 1, "shim"), event(7, 2, "certificate"), event(4, 3, HOSTILE)];
    forecast_of(vec![Leg { events, tried_after: Some(3) }])
}

/// A forecast's file.
pub(crate) fn forecast_of(legs: Vec<Leg>) -> String {
    let forecast = Forecast {
        legs,
        outcome: Some(Outcome::Unlocked),
        because: HOSTILE.into(),
        reported_by: None,
        pcrs: values(&[(4, 1), (7, 2)]),
        systemd: None,
        guest_log: true,
        untried: false,
        prompts: None,
        repeats_from: None,
        unmodelled: vec![],
        next: BTreeMap::new(),
    };
    serde_json::to_string(&forecast).unwrap()
}

/// Puts the files that [`run`] names into `dir`.
pub(crate) fn evidence(dir: &Path) {
    for (name, second) in [("passing", 2), ("failing", 9)] {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("boot.forecast.json"), forecast()).unwrap();
        let tpm = [exchange(10, 4, 1), exchange(20, 7, second), exchange(30, 4, 3)].concat();
        fs::write(dir.join("boot.tpm.jsonl"), tpm).unwrap();
        let line = |at: f64, text: &str| serde_json::json!([at, "o", text]).to_string() + "\n";
        let cast = [
            "{\"version\":2,\"width\":100,\"height\":31}\n".to_owned(),
            line(0.5, "wiped\u{1b}[2J\u{1b}[1;1Hold\rnew \u{1b}[1;31mred\u{1b}["),
            line(0.6, "0m plain\r\n"),
            line(2.0, HOSTILE),
            line(3.5, "\r\nrlc9 login: "),
        ]
        .concat();
        fs::write(dir.join("power-1.cast"), cast).unwrap();
        fs::write(dir.join("qemu.txt"), format!("qemu\n-name\n{HOSTILE}\n")).unwrap();
    }
}
