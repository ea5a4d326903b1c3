//! What a rehearsal tells, and how a run compares with it.

use std::collections::BTreeMap;

use latchkey_record::{BootRecord, HashAlg, Known, Outcome, PcrIndex, PcrValues, ScenarioResult};
use serde::Serialize;

use crate::pcrs;

/// A scenario that was rehearsed on an image.
#[derive(Debug, Clone, Serialize)]
pub struct Rehearsed {
    /// The scenario.
    pub scenario: String,
    /// The image.
    pub image: String,
    /// Its boots in order, as far as the steps before them held.
    pub boots: Vec<RehearsedBoot>,
    /// What was asserted and did not hold, or why it did not come to its end; none when all is as the scenario expects.
    pub broken: Vec<String>,
    /// The step at which it did not hold; 0 is provisioning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<u32>,
    /// Why that is expected for a while, where it is ([`crate::Scenario::judge_rehearsed`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<Known>,
    /// Why it was not rehearsed, where it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// One boot of a rehearsal, or the answer at its prompt.
#[derive(Debug, Clone, Serialize)]
pub struct RehearsedBoot {
    /// Counts from 1, as in a run.
    pub number: u32,
    /// The step that it belongs to.
    pub step: u32,
    /// What it comes to; `None` when that hangs on something unmodelled.
    pub outcome: Option<Outcome>,
    /// Why, in a sentence.
    pub because: String,
    /// How many events are measured.
    pub events: usize,
    /// PCR values at the root volume's turn, by bank; at the end where it does not come to that.
    pub pcrs: BTreeMap<HashAlg, PcrValues>,
    /// Whether it comes to the root volume's turn, so that these can be compared with a boot's.
    pub tried: bool,
}

impl Rehearsed {
    /// What is not as the scenario expects it to be today.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        if self.known.is_some() { &[] } else { &self.broken }
    }

    /// Where the boots of a run came out, or measured, otherwise than rehearsed, in sentences; empty when nowhere.
    #[must_use]
    pub fn against(&self, real: &ScenarioResult) -> Vec<String> {
        let real: Vec<&BootRecord> = real.steps.iter().flat_map(|step| &step.boots).collect();
        let mut differ: Vec<String> = self.broken.clone();
        if self.boots.len() != real.len() {
            differ.push(format!(
                "{} boots and answers were rehearsed, and there were {}",
                self.boots.len(),
                real.len()
            ));
        }
        for (rehearsed, real) in self.boots.iter().zip(real) {
            let number = rehearsed.number;
            if (number, rehearsed.outcome) != (real.number, real.outcome) {
                let word = |outcome: Option<Outcome>| {
                    outcome.map_or("open".to_owned(), |outcome| outcome.to_string())
                };
                let (told, seen) = (word(rehearsed.outcome), word(real.outcome));
                differ.push(format!(
                    "boot {number}: {told} was rehearsed, and boot {} was {seen}",
                    real.number
                ));
            }
            // A machine without a TPM has no PCRs, in either.
            if !rehearsed.tried || (rehearsed.pcrs.is_empty() && real.pcrs.is_empty()) {
                continue;
            }
            // A run keeps the bank that its key is sealed to.
            if !rehearsed.pcrs.keys().any(|bank| real.pcrs.contains_key(bank)) {
                differ.push(format!("boot {number}: no bank of PCRs is known of both"));
            }
            for (bank, told) in &rehearsed.pcrs {
                let Some(seen) = real.pcrs.get(bank) else { continue };
                let compared = told.0.iter().filter(|(pcr, _)| pcr.is_compared());
                let differ_here = compared.filter(|(pcr, value)| seen.0.get(pcr) != Some(value));
                let wrong: Vec<PcrIndex> = differ_here.map(|(pcr, _)| *pcr).collect();
                if !wrong.is_empty() {
                    differ.push(format!("boot {number}: {bank} PCR {} is another", pcrs::list(&wrong)));
                }
            }
        }
        differ
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_record::Digest;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn pcrs(bank: HashAlg, four: u8) -> BTreeMap<HashAlg, PcrValues> {
        let value = Digest::new(bank, &vec![four; bank.size()]).unwrap();
        BTreeMap::from([(bank, PcrValues(BTreeMap::from([(PcrIndex::new(4).unwrap(), value)])))])
    }

    fn rehearsed(outcome: Outcome) -> Rehearsed {
        let boot = RehearsedBoot {
            number: 1,
            step: 1,
            outcome: Some(outcome),
            because: String::new(),
            events: 1,
            pcrs: pcrs(HashAlg::Sha256, 1),
            tried: true,
        };
        Rehearsed {
            scenario: "s".into(),
            image: "i".into(),
            boots: vec![boot],
            broken: vec![],
            failed_at: None,
            known: None,
            skipped: None,
        }
    }

    /// A run's row with one boot.
    fn row(number: u32, outcome: Outcome, bank: HashAlg, four: u8) -> ScenarioResult {
        let boot = json!({
            "number": number, "kind": "cold-start", "outcome": outcome, "reported_by": null,
            "waiting_for_key": false, "began_ms": 0, "clear_after_ms": 0, "witnesses": [], "contradictions": [],
            "pcrs": pcrs(bank, four), "guest_pcrs": null, "moved": [], "lockout_counter": null,
            "alignment": { "matched": 0 }, "forecast_outcome": null, "forecast_sha256": "", "forecast": "",
            "milestones": [], "console": "", "tpm": "", "command_line": "",
        });
        let step = json!({
            "number": 1, "what": "boot", "status": { "is": "passed" }, "checks": [], "boots": [boot], "took_ms": 1,
        });
        serde_json::from_value(json!({
            "scenario": "s", "title": "t", "why": "w", "image": "i", "status": { "is": "passed" },
            "conclusion": null, "steps": [step], "reproduce": "", "kept": null, "took_ms": 1,
        }))
        .unwrap()
    }

    #[rstest]
    #[case::the_same(row(1, Outcome::Unlocked, HashAlg::Sha256, 1), None)]
    #[case::another_outcome(row(1, Outcome::NoPrompt, HashAlg::Sha256, 1), Some("boot 1 was no-prompt"))]
    #[case::another_boot(row(2, Outcome::Unlocked, HashAlg::Sha256, 1), Some("boot 2 was unlocked"))]
    #[case::another_value(row(1, Outcome::Unlocked, HashAlg::Sha256, 2), Some("sha256 PCR 4 is another"))]
    #[case::another_bank(row(1, Outcome::Unlocked, HashAlg::Sha384, 1), Some("no bank"))]
    fn what_a_run_has_otherwise_is_told(#[case] row: ScenarioResult, #[case] told: Option<&str>) {
        let differ = rehearsed(Outcome::Unlocked).against(&row);
        match told {
            None => assert!(differ.is_empty(), "{differ:?}"),
            Some(words) => assert!(differ.len() == 1 && differ[0].contains(words), "{differ:?}"),
        }
    }

    #[test]
    fn without_a_tpm_there_is_nothing_to_compare() {
        let mut without = row(1, Outcome::Unlocked, HashAlg::Sha256, 1);
        without.steps[0].boots[0].pcrs.clear();
        assert_eq!(rehearsed(Outcome::Unlocked).against(&without).len(), 1);
        let mut told = rehearsed(Outcome::Unlocked);
        told.boots[0].pcrs.clear();
        assert!(told.against(&without).is_empty());
        assert_eq!(told.against(&row(1, Outcome::Unlocked, HashAlg::Sha256, 1)).len(), 1);
    }

    #[test]
    fn boots_that_one_has_more_are_told_and_so_is_what_did_not_hold() {
        let mut rehearsed = rehearsed(Outcome::Unlocked);
        rehearsed.broken.push("step 2: no".into());
        rehearsed.boots.clear();
        let differ = rehearsed.against(&row(1, Outcome::Unlocked, HashAlg::Sha256, 1));
        assert_eq!(differ.len(), 2, "{differ:?}");
    }
}
