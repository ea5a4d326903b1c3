//! What a boot is expected to measure and to come to, computed without booting; and how that compares.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, HashAlg, Outcome, PcrIndex, PcrValues};

/// Which part of the boot chain measures something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// UEFI firmware, up to the boot loader's start and again when boot services end.
    Firmware,
    /// shim and what it starts by itself: `fbx64`, MokManager.
    Shim,
    /// GRUB.
    Grub,
    /// systemd-stub in a UKI.
    Stub,
    /// The kernel's EFI stub.
    Kernel,
    /// systemd in the initrd and after it.
    Userspace,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Firmware => "firmware",
            Self::Shim => "shim",
            Self::Grub => "grub",
            Self::Stub => "stub",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// What a measurement came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A file, such as `esp:/EFI/rocky/shimx64.efi`.
    File(String),
    /// A part of a file: a PE section, a certificate in it, a line of a script.
    Part {
        /// The file.
        file: String,
        /// Which part.
        part: String,
    },
    /// A UEFI variable, by name.
    Variable(String),
    /// A part of the firmware's file.
    Firmware(String),
    /// The disk's partition table.
    PartitionTable,
    /// The same for every machine: fixed by a specification or a program.
    Constant(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Part { file, part } => write!(f, "{file} ({part})"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Firmware(part) => write!(f, "firmware ({part})"),
            Self::PartitionTable => f.write_str("the partition table"),
            Self::Constant(what) => f.write_str(what),
        }
    }
}

/// How a forecast knows a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// From the machine's files and variables.
    Computed,
    /// A constant of the platform, measured once without this machine's disk.
    Measured,
    /// Not forecast: any digest, for this reason.
    Open(String),
}

/// A measurement that is expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForecastEvent {
    /// Which PCR.
    pub pcr: PcrIndex,
    /// Its type in an event log (TCG PC Client Platform Firmware Profile, table "Events"); 0 where there is no log.
    pub kind: u32,
    /// One for each bank of the TPM; empty when the digest is open.
    pub digests: Vec<Digest>,
    /// Who measures.
    pub stage: Stage,
    /// What is measured, in a few words.
    pub what: String,
    /// Where it came from.
    pub from: Origin,
    /// How the digest is known.
    pub certainty: Certainty,
}

impl ForecastEvent {
    /// The digest in `bank`.
    #[must_use]
    pub fn digest(&self, bank: HashAlg) -> Option<&Digest> {
        self.digests.iter().find(|digest| digest.alg() == bank)
    }
}

/// One start of the firmware, up to the machine's reset or to where the boot's outcome is clear.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Leg {
    /// In order.
    pub events: Vec<ForecastEvent>,
    /// How many of `events` come before the root volume's turn, when a sealed key is tried; `None` where it does not
    /// come to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_after: Option<usize>,
}

/// Something of the chain that the forecast cannot compute, declared beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unmodelled {
    /// Which stage.
    pub stage: Stage,
    /// The file and line, variable or feature.
    pub what: String,
    /// Why it is not modelled.
    pub why: String,
    /// PCRs whose values are unknown for that reason.
    pub pcrs: Vec<PcrIndex>,
}

/// The systemd that opens the root volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Systemd {
    /// Its major version.
    pub version: u16,
    /// Whether it takes the TPM's storage root key for a sealed key's parent; otherwise it makes a primary key of its
    /// own each time.
    pub trusted_srk: bool,
}

/// A boot that has not happened yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Forecast {
    /// Starts of the firmware; every one but the last ends with a reset.
    pub legs: Vec<Leg>,
    /// From which of them on (counted from 0) they are repeated for ever, in a machine that restarts for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats_from: Option<usize>,
    /// What the boot comes to; `None` when that hangs on something unmodelled.
    pub outcome: Option<Outcome>,
    /// Why, in a sentence.
    pub because: String,
    /// Who reports a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_by: Option<String>,
    /// PCR values at the root volume's turn (at the end of the forecast where it does not come to that), by bank.
    pub pcrs: BTreeMap<HashAlg, PcrValues>,
    /// Which systemd opens the root volume, where it comes to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Systemd>,
    /// Whether the guest gets the firmware's event log: the kernel's EFI stub hands it on.
    #[serde(default)]
    pub guest_log: bool,
    /// Whether it comes to the root volume's turn and nobody asks the TPM for its key: there is none, or no token, or the
    /// initrd cannot.
    #[serde(default)]
    pub untried: bool,
    /// How many wrong keys somebody can type before nobody is asked any more, where somebody is asked and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<u32>,
    /// What cannot be computed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmodelled: Vec<Unmodelled>,
    /// Variables that the boot leaves changed, by name: what, in words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub next: BTreeMap<String, String>,
}

/// How an expected event and a seen one go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// Another digest than expected.
    Different,
    /// Expected, and not seen.
    Missing,
    /// Seen, and not expected.
    Unexplained,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Different => "different",
            Self::Missing => "missing",
            Self::Unexplained => "unexplained",
        })
    }
}

/// A place where a boot did not measure what was forecast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mismatch {
    /// Counts extends of this leg from 0, PCR 10 left out.
    pub index: usize,
    /// Which leg.
    pub leg: usize,
    /// What is wrong.
    pub kind: Difference,
    /// Which PCR.
    pub pcr: PcrIndex,
    /// The digest that was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Digest>,
    /// The digest that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Digest>,
    /// What was expected to be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// The file or variable behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// Its type in an event log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<u32>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} (PCR {}) is {}", self.index, self.pcr, self.kind)?;
        let short = |digest: &Option<Digest>| digest.as_ref().map_or("nothing".into(), Digest::short);
        write!(f, ": expected {}, seen {}", short(&self.expected), short(&self.seen))?;
        if let (Some(what), Some(from)) = (&self.what, &self.from) {
            write!(f, "; {what}, from {from}")?;
        }
        Ok(())
    }
}

/// A boot held against its forecast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Alignment {
    /// Events that were seen as forecast.
    pub matched: usize,
    /// Events whose digest was declared open beforehand, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub open: BTreeMap<String, usize>,
    /// Where forecast and boot differ. Not empty means that the boot failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mismatches: Vec<Mismatch>,
}
