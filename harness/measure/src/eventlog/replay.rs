//! What the PCRs would hold if the log were the whole truth.

use latchkey_record::pcr::{HashAlg, PcrIndex, PcrValues};

use super::{Damage, End, EventLog, LoggedDigest};
use crate::bank::{Banks, StartupLocality};

/// Something about a log that whoever relies on it must know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// The replayed values are not those of the TPM: events are missing from the log, or were added to it or
    /// changed.
    #[error("log incomplete: in bank {bank} its replay differs from PCR {}", list(pcrs))]
    LogIncomplete {
        /// The bank.
        bank: HashAlg,
        /// The PCRs that differ, ascending.
        pcrs: Vec<PcrIndex>,
    },
    /// The log stops within an event; what came after it is not known.
    #[error("log cut off at byte {at}: {damage}")]
    CutOff {
        /// Where the event that cannot be read begins.
        at: usize,
        /// What is wrong with it.
        damage: Damage,
    },
    /// Events lack the digest of a bank; that bank's replay goes on without them.
    #[error("{count} events have no {bank} digest, event {first} first")]
    NoDigest {
        /// The bank.
        bank: HashAlg,
        /// The first such event, counted from 0.
        first: usize,
        /// How many there are.
        count: usize,
    },
    /// An event measures into a register that does not exist; no replay can follow it.
    #[error("event {index} measures into register {register}, which does not exist")]
    NoRegister {
        /// Which event, counted from 0.
        index: usize,
        /// Its register.
        register: u32,
    },
    /// An event says that the TPM was started from a locality that cannot start one.
    #[error("event {index} says that the TPM was started from locality {locality}, which cannot be")]
    Locality {
        /// Which event, counted from 0.
        index: usize,
        /// The locality's number.
        locality: u8,
    },
    /// A bank of which nothing can be computed.
    #[error("the log has a bank of algorithm {0:#06x}, which cannot be replayed")]
    UnknownBank(u16),
}

/// Adds event `index` to those that lack a digest of `bank`.
pub(super) fn no_digest(findings: &mut Vec<Finding>, index: usize, lacking: HashAlg) {
    for finding in findings.iter_mut() {
        if let Finding::NoDigest { bank, count, .. } = finding
            && *bank == lacking
        {
            *count += 1;
            return;
        }
    }
    findings.push(Finding::NoDigest { bank: lacking, first: index, count: 1 });
}

fn list(pcrs: &[PcrIndex]) -> String {
    pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A replayed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The values after the last event, in every bank that the log announces and that is one of the four.
    pub banks: Banks,
    /// From where the TPM was started, as the log says.
    pub locality: StartupLocality,
    /// What is wrong with the log by itself.
    pub findings: Vec<Finding>,
}

impl EventLog {
    /// Replays a TPM's log. For a log of confidential computing, see [`Self::replay_cc`].
    #[must_use]
    pub fn replay(&self) -> Replay {
        let mut findings = self.findings_of_form();
        // The event about it may come late; the locality counts from the start all the same.
        let mut locality = StartupLocality::default();
        for (index, event) in self.events.iter().enumerate() {
            if let Some(number) = event.startup_locality() {
                match StartupLocality::from_number(number) {
                    Some(known) => locality = known,
                    None => findings.push(Finding::Locality { index, locality: number }),
                }
            }
        }
        let mut banks = Banks::started(&self.banks(), locality);
        for (index, event) in self.events.iter().enumerate().filter(|(_, event)| event.is_measured()) {
            let Ok(pcr) = PcrIndex::new(event.register) else {
                findings.push(Finding::NoRegister { index, register: event.register });
                continue;
            };
            let digests: Vec<_> = event.digests.iter().filter_map(LoggedDigest::known).collect();
            let lacking = banks.algorithms().filter(|bank| digests.iter().all(|d| d.alg() != *bank));
            lacking.for_each(|bank| no_digest(&mut findings, index, bank));
            banks.extend_present(pcr, &digests);
        }
        Replay { banks, locality, findings }
    }

    /// What can be said without replaying.
    pub(super) fn findings_of_form(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let End::Damaged { at, damage } = self.end {
            findings.push(Finding::CutOff { at, damage });
        }
        if let super::Format::Agile(spec) = &self.format {
            let unknown = spec.algorithms.iter().filter(|(id, _)| HashAlg::from_tpm_id(*id).is_none());
            findings.extend(unknown.map(|(id, _)| Finding::UnknownBank(*id)));
        }
        findings
    }
}

impl Replay {
    /// Compares with a TPM's `values` of `bank`; only PCRs that are among them. Leave out those that are
    /// extended without the firmware's log: 10 (IMA), and 11 to 15 once systemd runs. `None` when nothing
    /// differs.
    #[must_use]
    pub fn compare(&self, bank: HashAlg, values: &PcrValues) -> Option<Finding> {
        let replayed = self.banks.values(bank);
        let differs = values.0.iter().filter(|(pcr, value)| replayed.0.get(pcr) != Some(*value));
        let pcrs: Vec<PcrIndex> = differs.map(|(pcr, _)| *pcr).collect();
        (!pcrs.is_empty()).then_some(Finding::LogIncomplete { bank, pcrs })
    }
}
