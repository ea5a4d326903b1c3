//! Event logs of confidential computing: measurement registers in the place of PCRs.
//!
//! The log (ACPI table CCEL, protocol `EFI_CC_MEASUREMENT_PROTOCOL`) is a crypto-agile one; the field that is
//! a PCR's number elsewhere is a register's index (UEFI 2.10, section 38.4.1, table "TPM PCR index to CC
//! register" for TDX).

use std::collections::BTreeMap;
use std::fmt;

use latchkey_record::pcr::{Digest, HashAlg, PcrIndex};

use super::replay::no_digest;
use super::{EventLog, Finding};
use crate::hash::extend;

/// A TDX measurement register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CcRegister {
    /// The measurement of what the machine was started with, made by the TDX module: index 0. No event
    /// extends it.
    Mrtd,
    /// Run-time measurement register 0 to 3: index 1 to 4.
    Rtmr(u8),
}

impl CcRegister {
    /// The register with this index in a log.
    #[must_use]
    pub fn from_index(index: u32) -> Option<Self> {
        match index {
            0 => Some(Self::Mrtd),
            1..=4 => u8::try_from(index - 1).ok().map(Self::Rtmr),
            _ => None,
        }
    }

    /// Its index in a log.
    #[must_use]
    pub fn index(self) -> u32 {
        match self {
            Self::Mrtd => 0,
            Self::Rtmr(number) => u32::from(number) + 1,
        }
    }

    /// Where firmware for TDX measures what it would measure into `pcr`; `None` for 16 and above.
    #[must_use]
    pub fn of_pcr(pcr: PcrIndex) -> Option<Self> {
        match pcr.get() {
            0 => Some(Self::Mrtd),
            1 | 7 => Some(Self::Rtmr(0)),
            2..=6 => Some(Self::Rtmr(1)),
            8..=15 => Some(Self::Rtmr(2)),
            _ => None,
        }
    }
}

impl fmt::Display for CcRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mrtd => f.write_str("MRTD"),
            Self::Rtmr(number) => write!(f, "RTMR{number}"),
        }
    }
}

/// A replayed log of confidential computing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CcReplay {
    /// What the run-time registers hold after the last event; zeros where nothing was measured.
    pub registers: BTreeMap<CcRegister, Digest>,
    /// What is wrong with the log by itself.
    pub findings: Vec<Finding>,
}

impl EventLog {
    /// Replays a log of confidential computing. `alg` is the registers' algorithm, SHA-384 for TDX. The
    /// run-time registers start as zeros (Intel TDX Module specification, "Measurement and Attestation").
    #[must_use]
    pub fn replay_cc(&self, alg: HashAlg) -> CcReplay {
        let mut findings = self.findings_of_form();
        let zeros = Digest::new(alg, &vec![0; alg.size()]).expect("the length is the algorithm's");
        let mut registers: BTreeMap<_, _> =
            (0..4).map(|number| (CcRegister::Rtmr(number), zeros.clone())).collect();
        for (index, event) in self.events.iter().enumerate().filter(|(_, event)| event.is_measured()) {
            let Some(register) = CcRegister::from_index(event.register) else {
                findings.push(Finding::NoRegister { index, register: event.register });
                continue;
            };
            // MRTD is not among them: what the log says of it cannot be replayed.
            let Some(value) = registers.get_mut(&register) else { continue };
            match event.digest(alg) {
                Some(digest) => *value = extend(value, &digest),
                None => no_digest(&mut findings, index, alg),
            }
        }
        CcReplay { registers, findings }
    }
}
