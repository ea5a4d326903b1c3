//! The TCG event log: what firmware and boot loaders say they measured.
//!
//! Two formats are in use (TCG PC Client Platform Firmware Profile, "PFP", section "Event Logging"): the
//! legacy one, SHA-1 only (`TCG_PCR_EVENT`), and the crypto-agile one (`TCG_PCR_EVENT2` after a first event
//! "Spec ID Event03"), which confidential computing uses too (TDX: ACPI table CCEL), with [measurement
//! registers](cc) in the place of PCRs.
//!
//! A log is a claim; the PCRs are what counts. So parsing never fails: what is whole is read,
//! [`EventLog::end`] says where and why reading stopped, and a [`Replay`] compared with real PCR values says
//! whether the log is complete.
//!
//! ```
//! use latchkey_measure::HashAlg;
//! use latchkey_measure::eventlog::{End, EventLog, EventType};
//!
//! let mut log = EventLog::agile(&[HashAlg::Sha1, HashAlg::Sha256]);
//! log.measure(7, EventType::SEPARATOR, &[0; 4], &[0; 4]);
//! let read = EventLog::parse(&log.to_bytes()?);
//! assert_eq!((read.events.len(), read.end), (1, End::Complete));
//! # Ok::<(), latchkey_measure::eventlog::WriteError>(())
//! ```

pub mod cc;
pub mod data;

mod final_events;
mod kind;
mod parse;
mod replay;
mod write;

pub use final_events::FinalEvents;
pub use kind::EventType;
pub use parse::{Damage, End};
pub use replay::{Finding, Replay};
pub use write::WriteError;

use latchkey_record::pcr::{Digest, HashAlg};

use crate::bank::StartupLocality;
use crate::hash::digest;

/// What an `EV_NO_ACTION` event about the startup locality begins with (PFP, "Startup Locality Event"); the
/// locality's number follows.
pub(crate) const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// A digest as it stands in a log; of any algorithm, known or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoggedDigest {
    /// `TPM_ALG_ID`.
    pub algorithm: u16,
    /// The digest's bytes.
    pub bytes: Vec<u8>,
}

impl LoggedDigest {
    /// The digest, when it is of one of the four bank algorithms and has its length.
    #[must_use]
    pub fn known(&self) -> Option<Digest> {
        Digest::new(HashAlg::from_tpm_id(self.algorithm)?, &self.bytes).ok()
    }
}

impl From<&Digest> for LoggedDigest {
    fn from(digest: &Digest) -> Self {
        Self { algorithm: digest.alg().tpm_id(), bytes: digest.bytes().to_vec() }
    }
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    /// The PCR, or the [measurement register](cc) in a log of confidential computing.
    pub register: u32,
    /// What kind of event.
    pub kind: EventType,
    /// What was extended, one for each bank; a legacy log has the SHA-1 digest only.
    pub digests: Vec<LoggedDigest>,
    /// What the log says of it: depending on the kind the bytes that were hashed, or a description.
    pub data: Vec<u8>,
}

impl Event {
    /// The digest in `bank`.
    #[must_use]
    pub fn digest(&self, bank: HashAlg) -> Option<Digest> {
        self.digests.iter().filter_map(LoggedDigest::known).find(|digest| digest.alg() == bank)
    }

    /// Whether this was extended at all: `EV_NO_ACTION` is for the log only.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        self.kind != EventType::NO_ACTION
    }

    /// The startup locality's number, when the event is about that.
    #[must_use]
    pub fn startup_locality(&self) -> Option<u8> {
        let rest = self.data.strip_prefix(STARTUP_LOCALITY)?;
        if self.is_measured() { None } else { rest.first().copied() }
    }
}

/// The first event of a crypto-agile log, `TCG_EfiSpecIDEvent` (PFP, "Specification ID Version Event").
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpecId {
    /// The event's own register: 0 in a TPM's log; firmware for TDX writes 1.
    pub register: u32,
    /// Platform class: 0 for clients, 1 for servers.
    pub platform_class: u32,
    /// Version of the specification: minor, major, errata.
    pub version: [u8; 3],
    /// Size of `UINTN` in units of four bytes: 1 or 2.
    pub uintn_size: u8,
    /// `TPM_ALG_ID` and digest size in bytes of each bank that is logged.
    pub algorithms: Vec<(u16, u16)>,
    /// Up to 255 bytes of the vendor's own.
    pub vendor_info: Vec<u8>,
}

impl SpecId {
    /// What edk2 writes (SecurityPkg, Tcg2Dxe): a client platform, specification 2.0, errata 0, a 64-bit
    /// `UINTN`.
    #[must_use]
    pub fn new(banks: &[HashAlg]) -> Self {
        let size = |alg: HashAlg| u16::try_from(alg.size()).unwrap_or_default();
        Self {
            register: 0,
            platform_class: 0,
            version: [0, 2, 0],
            uintn_size: 2,
            algorithms: banks.iter().map(|alg| (alg.tpm_id(), size(*alg))).collect(),
            vendor_info: Vec::new(),
        }
    }

    /// The size of `algorithm`'s digests in this log.
    #[must_use]
    pub fn size_of(&self, algorithm: u16) -> Option<usize> {
        self.algorithms.iter().find(|(id, _)| *id == algorithm).map(|(_, size)| usize::from(*size))
    }
}

/// How a log is laid out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Format {
    /// SHA-1 only (`TCG_PCR_EVENT`).
    Legacy,
    /// Any number of banks (`TCG_PCR_EVENT2`), with the event that says which.
    Agile(SpecId),
}

/// A log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// How it is laid out.
    pub format: Format,
    /// Its events in order, without the "Spec ID Event03" of a crypto-agile log.
    pub events: Vec<Event>,
    /// Where and why it ends.
    pub end: End,
}

impl EventLog {
    /// An empty legacy log.
    #[must_use]
    pub fn legacy() -> Self {
        Self { format: Format::Legacy, events: Vec::new(), end: End::Complete }
    }

    /// An empty crypto-agile log of `banks`.
    #[must_use]
    pub fn agile(banks: &[HashAlg]) -> Self {
        Self { format: Format::Agile(SpecId::new(banks)), events: Vec::new(), end: End::Complete }
    }

    /// The banks it logs that are among the four, in its order.
    #[must_use]
    pub fn banks(&self) -> Vec<HashAlg> {
        match &self.format {
            Format::Legacy => vec![HashAlg::Sha1],
            Format::Agile(spec) => {
                spec.algorithms.iter().filter_map(|(id, _)| HashAlg::from_tpm_id(*id)).collect()
            }
        }
    }

    /// Adds an event that measures `hashed`, in every bank, and says `data` of it.
    pub fn measure(&mut self, register: u32, kind: EventType, hashed: &[u8], data: &[u8]) {
        let digests = self.banks().iter().map(|alg| LoggedDigest::from(&digest(*alg, hashed))).collect();
        self.events.push(Event { register, kind, digests, data: data.to_vec() });
    }

    /// Adds an `EV_NO_ACTION` event, which measures nothing: its digests are zeros.
    pub fn remark(&mut self, register: u32, data: &[u8]) {
        let zeros = |alg: &HashAlg| LoggedDigest { algorithm: alg.tpm_id(), bytes: vec![0; alg.size()] };
        let digests = self.banks().iter().map(zeros).collect();
        self.events.push(Event { register, kind: EventType::NO_ACTION, digests, data: data.to_vec() });
    }

    /// Adds the event that says from which locality the TPM was started.
    pub fn started_from(&mut self, locality: StartupLocality) {
        self.remark(0, &[&STARTUP_LOCALITY[..], &[locality.number()]].concat());
    }
}
