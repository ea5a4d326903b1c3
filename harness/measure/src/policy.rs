//! TPM 2.0 policies: the digest that a policy session comes to.
//!
//! A policy's digest starts as zeros and each command of the session hashes it together with what the command asserts
//! (TPM 2.0 Library, part 1, "Policy Digest"; part 3, the commands' "General Description").

use latchkey_record::pcr::{Digest, HashAlg, PcrIndex, PcrValues};

use crate::hash::digest;

/// `TPM_CC` of the commands (part 2, table "TPM_CC constants").
const AUTH_VALUE: u32 = 0x16b;
const AUTHORIZE: u32 = 0x16a;
const OR: u32 = 0x171;
const PCR: u32 = 0x17f;
/// Bytes of a selection's bitmap: PC Client TPMs have 24 PCRs.
const BITMAP: usize = 3;

/// A policy in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    digest: Digest,
}

impl Policy {
    /// The start of a policy session whose hash is `alg`: the empty policy.
    #[must_use]
    pub fn new(alg: HashAlg) -> Self {
        Self { digest: zeros(alg) }
    }

    /// After `TPM2_PolicyPCR` over `pcrs` of `bank`, with these values; `None` when one of them is not among `values`.
    #[must_use]
    pub fn pcr(self, bank: HashAlg, pcrs: &[PcrIndex], values: &PcrValues) -> Option<Self> {
        let mut bitmap = [0u8; BITMAP];
        let mut ascending = pcrs.to_vec();
        ascending.sort_unstable();
        ascending.dedup();
        let mut joined = Vec::new();
        for pcr in ascending {
            *bitmap.get_mut(usize::from(pcr.get() / 8))? |= 1 << (pcr.get() % 8);
            joined.extend(values.0.get(&pcr)?.bytes());
        }
        let alg = self.digest.alg();
        let mut asserted = 1u32.to_be_bytes().to_vec();
        asserted.extend(bank.tpm_id().to_be_bytes());
        asserted.push(u8::try_from(BITMAP).unwrap_or_default());
        asserted.extend(bitmap);
        asserted.extend(digest(alg, &joined).bytes());
        Some(self.then(PCR, &asserted))
    }

    /// After `TPM2_PolicyAuthValue`.
    #[must_use]
    pub fn auth_value(self) -> Self {
        self.then(AUTH_VALUE, &[])
    }

    /// After `TPM2_PolicyOR` over the digests of these branches, two to eight of them: what came before does not count.
    #[must_use]
    pub fn or(self, branches: &[Digest]) -> Self {
        let joined: Vec<u8> = branches.iter().flat_map(|branch| branch.bytes().to_vec()).collect();
        Self { digest: zeros(self.digest.alg()) }.then(OR, &joined)
    }

    /// After `TPM2_PolicyAuthorize` by the key with this name (its hash algorithm's `TPM_ALG_ID` and a digest), with this
    /// reference: what was authorised does not count.
    #[must_use]
    pub fn authorize(self, key_name: &[u8], reference: &[u8]) -> Self {
        let alg = self.digest.alg();
        let named = Self { digest: zeros(alg) }.then(AUTHORIZE, key_name);
        Self { digest: digest(alg, &[named.digest.bytes(), reference].concat()) }
    }

    /// The policy's digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    fn then(self, command: u32, asserted: &[u8]) -> Self {
        let alg = self.digest.alg();
        let data = [self.digest.bytes(), &command.to_be_bytes(), asserted].concat();
        Self { digest: digest(alg, &data) }
    }
}

fn zeros(alg: HashAlg) -> Digest {
    Digest::new(alg, &vec![0; alg.size()]).expect("as many zeros as the algorithm's digest has bytes")
}
