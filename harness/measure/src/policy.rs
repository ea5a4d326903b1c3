//! TPM 2.0 policy digests: what a sealed object's policy comes to, computed without a TPM.
//!
//! A policy digest starts as zeros, and each policy command of a session replaces it by a hash over the old
//! one, so the order of the commands matters (TPM 2.0 Library, part 1, "Enhanced Authorization").
//! `TPM2_PolicyOR` and `TPM2_PolicyAuthorize` forget what came before them.
//!
//! ```
//! use latchkey_measure::{HashAlg, Policy, bank::Banks};
//!
//! let values = Banks::new(&[HashAlg::Sha256]).values(HashAlg::Sha256);
//! let chosen: Vec<_> = values.0.keys().copied().filter(|pcr| [4, 7].contains(&pcr.get())).collect();
//! let policy = Policy::new(HashAlg::Sha256).pcr(HashAlg::Sha256, &chosen, &values).unwrap().auth_value();
//! assert_eq!(policy.digest().bytes().len(), 32);
//! ```

use std::collections::BTreeSet;

use latchkey_record::pcr::{Digest, HashAlg, PcrIndex, PcrValues};
use sha2::digest::Update;

use crate::hash::Hasher;

/// `TPM_CC` values (TPM 2.0 Library, part 2, table "Definition of TPM_CC Constants").
mod command {
    pub(super) const AUTHORIZE: u32 = 0x16a;
    pub(super) const AUTH_VALUE: u32 = 0x16b;
    pub(super) const OR: u32 = 0x171;
    pub(super) const PCR: u32 = 0x17f;
}

/// Bytes of a PC Client TPM's PCR bitmap (24 PCRs); systemd and tpm2-tools write no other size.
const BITMAP: usize = 3;
/// How many branches `TPM2_PolicyOR` takes (TPM 2.0 Library, part 2, `TPML_DIGEST`; part 3, section 23.6).
const BRANCHES: std::ops::RangeInclusive<usize> = 2..=8;

/// Why a policy has no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The policy names a PCR whose value is not among those given.
    #[error(
        "computing a PCR policy: the value of PCR {pcr} in bank {bank} is not known; read or replay it first"
    )]
    Unknown {
        /// The bank.
        bank: HashAlg,
        /// The register.
        pcr: PcrIndex,
    },
    /// A PCR's value is of another bank than the policy's.
    #[error("computing a PCR policy: PCR {pcr} is of bank {found}, not of {bank}; give that bank's values")]
    Bank {
        /// The policy's bank.
        bank: HashAlg,
        /// The register.
        pcr: PcrIndex,
        /// The bank of the value.
        found: HashAlg,
    },
    /// A TPM takes two to eight branches.
    #[error("computing an OR policy of {0} branches: a TPM takes two to eight; nest them")]
    Branches(usize),
    /// A branch was computed with another algorithm than the policy.
    #[error("computing an OR policy: a branch is a {found} digest in a {alg} policy; compute it with {alg}")]
    Algorithm {
        /// The policy's algorithm.
        alg: HashAlg,
        /// The branch's.
        found: HashAlg,
    },
}

/// PCRs of one bank, as a TPM is told of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    bank: HashAlg,
    pcrs: BTreeSet<PcrIndex>,
}

impl Selection {
    /// `pcrs` of `bank`, in any order: a bitmap keeps none, and a TPM reads them in ascending order.
    #[must_use]
    pub fn new(bank: HashAlg, pcrs: &[PcrIndex]) -> Self {
        Self { bank, pcrs: pcrs.iter().copied().collect() }
    }

    /// The bank.
    #[must_use]
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The PCRs, ascending.
    pub fn pcrs(&self) -> impl Iterator<Item = PcrIndex> {
        self.pcrs.iter().copied()
    }

    /// A `TPMS_PCR_SELECTION` (TPM 2.0 Library, part 2, section 10.6.2): big-endian algorithm, size of the
    /// bitmap (3), bitmap with PCR 0 in the lowest bit of the first byte.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bitmap = [0u8; BITMAP];
        for pcr in &self.pcrs {
            // A PcrIndex is below 24, so the byte is there.
            bitmap[usize::from(pcr.get() / 8)] |= 1 << (pcr.get() % 8);
        }
        let size = u8::try_from(BITMAP).unwrap_or(u8::MAX);
        [&self.bank.tpm_id().to_be_bytes()[..], &[size], &bitmap].concat()
    }

    /// Several banks' selections as a `TPML_PCR_SELECTION` (part 2, section 10.9.7): big-endian count, then
    /// each.
    #[must_use]
    pub fn list_to_bytes(selections: &[Self]) -> Vec<u8> {
        let count = u32::try_from(selections.len()).unwrap_or(u32::MAX);
        selections.iter().fold(count.to_be_bytes().to_vec(), |mut out, selection| {
            out.extend(selection.to_bytes());
            out
        })
    }
}

/// The digest of a policy session in progress: that of a trial session after the same commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    digest: Digest,
}

impl Policy {
    /// A session that has seen no command yet: zeros. `alg` is the session's hash algorithm and the sealed
    /// object's name algorithm; systemd and tpm2-tools use SHA-256.
    #[must_use]
    pub fn new(alg: HashAlg) -> Self {
        let zeros = vec![0; alg.size()];
        Self { digest: Digest::new(alg, &zeros).expect("the length is the algorithm's") }
    }

    /// `TPM2_PolicyPCR` over PCRs of one bank, whose values are `values`; `None` when one of them is not
    /// among those or is another bank's. [`Self::pcr_banks`] says which.
    #[must_use]
    pub fn pcr(self, bank: HashAlg, pcrs: &[PcrIndex], values: &PcrValues) -> Option<Self> {
        self.pcr_banks(&[(Selection::new(bank, pcrs), values)]).ok()
    }

    /// `TPM2_PolicyPCR` (TPM 2.0 Library, part 3, section 23.7) over PCRs of several banks, each with the
    /// bank's values. The order of the banks counts.
    ///
    /// # Errors
    /// [`Error::Unknown`] when a selected PCR has no value, [`Error::Bank`] when its value is another bank's.
    pub fn pcr_banks(self, selections: &[(Selection, &PcrValues)]) -> Result<Self, Error> {
        let mut values = Hasher::new(self.digest.alg());
        for (selection, known) in selections {
            let bank = selection.bank;
            for pcr in selection.pcrs() {
                let value = known.0.get(&pcr).ok_or(Error::Unknown { bank, pcr })?;
                if value.alg() != bank {
                    return Err(Error::Bank { bank, pcr, found: value.alg() });
                }
                values.update(value.bytes());
            }
        }
        let list: Vec<Selection> = selections.iter().map(|(selection, _)| selection.clone()).collect();
        Ok(self.pcr_digest(&list, &values.finish()))
    }

    /// `TPM2_PolicyPCR` with the digest of the PCR values as it is: for values of which nothing but their
    /// common digest (`pcrDigest` in part 3, section 23.7; made with the session's algorithm) is known.
    #[must_use]
    pub fn pcr_digest(self, selections: &[Selection], values: &Digest) -> Self {
        self.then(command::PCR, &[&Selection::list_to_bytes(selections), values.bytes()])
    }

    /// `TPM2_PolicyAuthValue` (part 3, section 23.17): the object's own authorisation value, a PIN, is needed
    /// too. `TPM2_PolicyPassword` (section 23.18) comes to the same digest.
    #[must_use]
    pub fn auth_value(self) -> Self {
        self.then(command::AUTH_VALUE, &[])
    }

    /// `TPM2_PolicyOR` (part 3, section 23.6): one of `branches` is enough. What this session has seen before
    /// is forgotten, since it is one of the branches; their order counts.
    ///
    /// # Errors
    /// [`Error::Branches`] unless there are two to eight, [`Error::Algorithm`] when one was made with another
    /// algorithm.
    pub fn or(self, branches: &[Digest]) -> Result<Self, Error> {
        let alg = self.digest.alg();
        if !BRANCHES.contains(&branches.len()) {
            return Err(Error::Branches(branches.len()));
        }
        if let Some(other) = branches.iter().find(|branch| branch.alg() != alg) {
            return Err(Error::Algorithm { alg, found: other.alg() });
        }
        let parts: Vec<&[u8]> = branches.iter().map(Digest::bytes).collect();
        Ok(Self::new(alg).then(command::OR, &parts))
    }

    /// `TPM2_PolicyAuthorize` (part 3, section 23.16): any policy that a key signed. `key_name` is the key's
    /// TPM name (algorithm and hash of its public area), `policy_ref` a label that the signature covers,
    /// often empty. What this session has seen before is forgotten, since the signature covers it.
    #[must_use]
    pub fn authorize(self, key_name: &[u8], policy_ref: &[u8]) -> Self {
        let named = Self::new(self.digest.alg()).then(command::AUTHORIZE, &[key_name]);
        // PolicyUpdate() hashes the reference in a step of its own, an empty one too (part 3, section
        // 23.2.3).
        named.hashed(&[policy_ref])
    }

    /// The digest so far.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    fn then(self, command: u32, parts: &[&[u8]]) -> Self {
        let code = command.to_be_bytes();
        let all: Vec<&[u8]> = std::iter::once(&code[..]).chain(parts.iter().copied()).collect();
        self.hashed(&all)
    }

    fn hashed(self, parts: &[&[u8]]) -> Self {
        let mut hasher = Hasher::new(self.digest.alg());
        hasher.update(self.digest.bytes());
        parts.iter().for_each(|part| hasher.update(part));
        Self { digest: hasher.finish() }
    }
}
