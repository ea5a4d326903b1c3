//! One boot: from power-on until its outcome is clear, with every witness's account.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{HashAlg, Outcome, PcrIndex, PcrValues};

/// How a boot began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootKind {
    /// Power-on of a machine that was off.
    ColdStart,
    /// The guest restarted itself; the VM's process went on.
    GuestReboot,
}

impl fmt::Display for BootKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ColdStart => "cold start",
            Self::GuestReboot => "guest reboot",
        })
    }
}

/// Who tells something about a boot, independently of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WitnessName {
    /// Text on the serial console.
    Console,
    /// The TPM recorder: policy tried or not, unsealed or not.
    Tpm,
    /// Whether the forwarded port answered with an SSH banner.
    Ssh,
    /// The run state that QEMU tells over QMP.
    RunState,
    /// Commands run in the guest.
    Guest,
}

impl fmt::Display for WitnessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Console => "console",
            Self::Tpm => "tpm",
            Self::Ssh => "ssh",
            Self::RunState => "run state",
            Self::Guest => "guest",
        })
    }
}

/// One witness's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Witness {
    /// Who.
    pub name: WitnessName,
    /// What was seen, in one line.
    pub saw: String,
}

/// A witness that does not agree with the outcome that the console shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Contradiction {
    /// Who disagrees.
    pub name: WitnessName,
    /// What it should have seen, had the outcome been what the console shows.
    pub expected: String,
    /// What it saw.
    pub saw: String,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} witness disagrees: expected {}, saw {}", self.name, self.expected, self.saw)
    }
}

/// Something that happened at a known time of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Milestone {
    /// Milliseconds since this boot began.
    pub at_ms: u64,
    /// What, in a few words: a console pattern, a QMP event, the SSH banner.
    pub what: String,
}

/// One boot with all that was recorded of it. Paths are relative to the run's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BootRecord {
    /// Counts from 1 within a scenario; provisioning is boot 0.
    pub number: u32,
    /// How it began.
    pub kind: BootKind,
    /// What it came to; `None` when the witnesses contradict each other, and where it never became clear: nobody contradicts
    /// then, and the step's failure says why.
    pub outcome: Option<Outcome>,
    /// Who reported a refusal: `firmware`, `shim`, `grub`.
    pub reported_by: Option<String>,
    /// Whether a screen waits for a key, for ever.
    pub waiting_for_key: bool,
    /// Milliseconds from power-on to the beginning of this boot: where it begins in the console's recording.
    pub began_ms: u64,
    /// Milliseconds from the beginning of the boot until the outcome was clear.
    pub clear_after_ms: u64,
    /// Each witness's account.
    pub witnesses: Vec<Witness>,
    /// Witnesses that disagree with the outcome. Not empty means that the boot failed.
    pub contradictions: Vec<Contradiction>,
    /// PCR values replayed from the recorder's extends, by bank, when the sealed key was first tried; when the outcome was
    /// clear where nobody tried.
    pub pcrs: BTreeMap<HashAlg, PcrValues>,
    /// What the guest's own `tpm2_pcrread` answered, where it was asked.
    pub guest_pcrs: Option<BTreeMap<HashAlg, PcrValues>>,
    /// The guest's own event log (TCG, as Linux gives it in `binary_bios_measurements`), where it was asked.
    #[serde(default)]
    pub event_log: Option<PathBuf>,
    /// PCRs that differ from the machine's last boot that opened by itself.
    pub moved: Vec<PcrIndex>,
    /// The TPM's dictionary-attack counter after the boot, once the machine was off.
    pub lockout_counter: Option<u32>,
    /// How the TPM's record compares with the forecast that was made before this boot began.
    pub alignment: crate::Alignment,
    /// What was forecast to come of it; `None` where the forecast does not tell.
    pub forecast_outcome: Option<Outcome>,
    /// SHA-256 of the forecast's file, in hex, taken before the boot began.
    pub forecast_sha256: String,
    /// The forecast (JSON of [`crate::Forecast`]).
    pub forecast: PathBuf,
    /// What happened when.
    pub milestones: Vec<Milestone>,
    /// The console's recording (asciicast v2).
    pub console: PathBuf,
    /// The TPM recorder's exchanges (JSON lines of [`crate::tpm::TpmExchange`]).
    pub tpm: PathBuf,
    /// The TPM's exchanges to the end of a watch (`for-seconds`) in which the firmware restarted the machine: `tpm` ends before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm_restarted: Option<PathBuf>,
    /// QEMU's command line, one argument a line.
    pub command_line: PathBuf,
}

impl BootRecord {
    /// What was recorded of it: files, told from the run's directory.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let Self { console, tpm, tpm_restarted, forecast, command_line, event_log, .. } = self;
        [console, tpm, forecast, command_line].into_iter().chain(tpm_restarted).chain(event_log)
    }

    /// As [`Self::files`], for whoever lays them elsewhere.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { console, tpm, tpm_restarted, forecast, command_line, event_log, .. } = self;
        [console, tpm, forecast, command_line].into_iter().chain(tpm_restarted).chain(event_log)
    }

    /// What it came to, in a word: an outcome, that its witnesses contradict each other, or that it never became clear.
    #[must_use]
    pub fn word(&self) -> String {
        match self.outcome {
            Some(outcome) => outcome.to_string(),
            None if self.contradictions.is_empty() => "unclear".to_owned(),
            None => "contradiction".to_owned(),
        }
    }
}
