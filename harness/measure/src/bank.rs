//! PCR banks: the same registers, once for each hash algorithm, extended together.

use std::collections::BTreeMap;

use latchkey_record::pcr::{Digest, HashAlg, PcrIndex, PcrValues};

use crate::hash::extend;

/// From which locality the firmware sent `TPM2_Startup`; PCR 0 starts as that number (TCG PC Client Platform
/// Firmware Profile, "Startup Locality Event"; PC Client Platform TPM Profile, table of PCR initial values).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum StartupLocality {
    /// The usual one: PCR 0 starts as zeros.
    #[default]
    Zero,
    /// The CRTM's own: PCR 0 starts as 3.
    Three,
    /// After a hardware CRTM event (H-CRTM) had set PCR 0: it starts as 4.
    Four,
}

impl StartupLocality {
    /// The locality with this number, when `TPM2_Startup` can come from it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Zero, Self::Three, Self::Four].into_iter().find(|l| l.number() == number)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::Three => 3,
            Self::Four => 4,
        }
    }
}

/// Why a measurement cannot go into the banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "extending PCR {pcr}: the measurement has no digest for bank {bank}, which is in use; measure in every bank"
)]
pub struct MissingDigest {
    /// The register.
    pub pcr: PcrIndex,
    /// The bank that would fall behind.
    pub bank: HashAlg,
}

/// Every PCR of every bank in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banks {
    values: BTreeMap<HashAlg, PcrValues>,
}

impl Banks {
    /// PCR 0 to 23 of `banks` as they are after power-on, with start-up from locality 0.
    #[must_use]
    pub fn new(banks: &[HashAlg]) -> Self {
        Self::started(banks, StartupLocality::Zero)
    }

    /// As [`Self::new`], with start-up from `locality`.
    #[must_use]
    pub fn started(banks: &[HashAlg], locality: StartupLocality) -> Self {
        let values = banks.iter().map(|alg| (*alg, start_values(*alg, locality))).collect();
        Self { values }
    }

    /// The banks in use, weakest first.
    pub fn algorithms(&self) -> impl Iterator<Item = HashAlg> {
        self.values.keys().copied()
    }

    /// What `pcr` holds in `bank`; `None` when that bank is not in use.
    #[must_use]
    pub fn get(&self, bank: HashAlg, pcr: PcrIndex) -> Option<&Digest> {
        self.values.get(&bank)?.0.get(&pcr)
    }

    /// All values of `bank`; none when it is not in use.
    #[must_use]
    pub fn values(&self, bank: HashAlg) -> PcrValues {
        self.values.get(&bank).cloned().unwrap_or_default()
    }

    /// All values of all banks.
    #[must_use]
    pub fn all(&self) -> &BTreeMap<HashAlg, PcrValues> {
        &self.values
    }

    /// `TPM2_PCR_Extend`: each bank takes its digest. A digest of a bank that is not in use is ignored, as a
    /// TPM ignores it (TPM 2.0 Library, part 3, section 22.2).
    ///
    /// # Errors
    /// [`MissingDigest`] when a bank in use gets none; then nothing was extended. A TPM would leave that bank
    /// as it is, and everybody who trusts it would be none the wiser.
    pub fn extend(&mut self, pcr: PcrIndex, digests: &[Digest]) -> Result<(), MissingDigest> {
        if let Some(bank) = self.values.keys().find(|bank| digests.iter().all(|d| d.alg() != **bank)) {
            return Err(MissingDigest { pcr, bank: *bank });
        }
        self.extend_present(pcr, digests);
        Ok(())
    }

    /// As [`Self::extend`], but a bank without a digest stays as it is: what a TPM does with the same
    /// command.
    pub fn extend_present(&mut self, pcr: PcrIndex, digests: &[Digest]) {
        for digest in digests {
            if let Some(value) = self.values.get_mut(&digest.alg()).and_then(|bank| bank.0.get_mut(&pcr)) {
                *value = extend(value, digest);
            }
        }
    }
}

/// PCR 0 to 23 of one bank after power-on.
fn start_values(alg: HashAlg, locality: StartupLocality) -> PcrValues {
    let indices = (0..PcrIndex::COUNT).filter_map(|index| PcrIndex::new(index).ok());
    let mut values: BTreeMap<_, _> = indices.map(|pcr| (pcr, pcr.start_value(alg))).collect();
    if let Some(first) = values.first_entry() {
        let mut bytes = first.get().bytes().to_vec();
        if let Some(last) = bytes.last_mut() {
            *last = locality.number();
        }
        *first.into_mut() = Digest::new(alg, &bytes).expect("the length is the algorithm's");
    }
    PcrValues(values)
}
