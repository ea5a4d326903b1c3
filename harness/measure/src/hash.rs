//! Hashes of the four PCR bank algorithms, and what extending a PCR does.

use latchkey_record::pcr::{Digest, HashAlg};
use sha1::Sha1;
use sha2::digest::{DynDigest, Update};
use sha2::{Sha256, Sha384, Sha512};

/// A hash in progress, of any of the four algorithms.
pub(crate) struct Hasher {
    alg: HashAlg,
    state: Box<dyn DynDigest>,
}

impl Hasher {
    pub(crate) fn new(alg: HashAlg) -> Self {
        let state: Box<dyn DynDigest> = match alg {
            HashAlg::Sha1 => Box::new(Sha1::default()),
            HashAlg::Sha256 => Box::new(Sha256::default()),
            HashAlg::Sha384 => Box::new(Sha384::default()),
            HashAlg::Sha512 => Box::new(Sha512::default()),
        };
        Self { alg, state }
    }

    pub(crate) fn finish(self) -> Digest {
        Digest::new(self.alg, &self.state.finalize()).expect("each state above is its algorithm's")
    }
}

impl Update for Hasher {
    fn update(&mut self, data: &[u8]) {
        self.state.update(data);
    }
}

/// The hash of `data`.
#[must_use]
pub fn digest(alg: HashAlg, data: &[u8]) -> Digest {
    let mut hasher = Hasher::new(alg);
    hasher.update(data);
    hasher.finish()
}

/// What a PCR holds after `measurement` was extended into it (TPM 2.0 Library, part 1, "Extend of a PCR"): the
/// hash of the old value followed by the measurement, with the old value's algorithm.
#[must_use]
pub fn extend(pcr: &Digest, measurement: &Digest) -> Digest {
    let mut hasher = Hasher::new(pcr.alg());
    hasher.update(pcr.bytes());
    hasher.update(measurement.bytes());
    hasher.finish()
}
