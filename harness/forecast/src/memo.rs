//! What was computed of files that are still in memory, so that a second forecast of nearly the same machine computes
//! only what changed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use latchkey_measure::pe::Signature;
use latchkey_measure::{PeImage, hash, pe};
use latchkey_record::pcr::{Digest, HashAlg};

use crate::Initrd;

/// Where bytes lie, and how many. Nothing else can lie there as long as they are kept.
type Place = (usize, usize);

/// Results by the bytes that they are of. It keeps those bytes in memory as long as it lives.
#[derive(Debug, Default)]
pub struct Memo {
    known: RefCell<HashMap<Place, Known>>,
    made: RefCell<HashMap<(Vec<Place>, String), Bytes>>,
    /// By the hash of signature, image's hash and certificate.
    vouched: RefCell<HashMap<Digest, bool>>,
    /// By their hash: images that differ in everything else often have the same.
    initrds: RefCell<HashMap<Digest, Rc<Result<Initrd, String>>>>,
}

#[derive(Debug)]
struct Known {
    /// What keeps the place from being used for anything else.
    _bytes: Bytes,
    digests: HashMap<(Covered, HashAlg), Digest>,
}

/// Which part of the bytes a digest covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Covered {
    All,
    Authenticode,
}

fn place(bytes: &Bytes) -> Place {
    (bytes.as_ptr() as usize, bytes.len())
}

impl Memo {
    /// The hash of `bytes`.
    #[must_use]
    pub fn digest(&self, alg: HashAlg, bytes: &Bytes) -> Digest {
        if let Some(digest) = self.recall(bytes, Covered::All, alg) {
            return digest;
        }
        let digest = hash::digest(alg, bytes);
        self.remember(bytes, |known| drop(known.digests.insert((Covered::All, alg), digest.clone())));
        digest
    }

    /// The Authenticode hash of the PE image `bytes`.
    ///
    /// # Errors
    /// When it is no PE image.
    pub fn authenticode(&self, alg: HashAlg, bytes: &Bytes) -> Result<Digest, pe::Error> {
        if let Some(digest) = self.recall(bytes, Covered::Authenticode, alg) {
            return Ok(digest);
        }
        let digest = PeImage::parse(bytes)?.authenticode(alg)?;
        self.remember(bytes, |known| {
            drop(known.digests.insert((Covered::Authenticode, alg), digest.clone()))
        });
        Ok(digest)
    }

    /// The initrd that `bytes` are, or what is wrong with it.
    #[must_use]
    pub fn initrd(&self, bytes: &Bytes) -> Rc<Result<Initrd, String>> {
        let compute = || Rc::new(Initrd::read(bytes));
        let key = self.digest(HashAlg::Sha256, bytes);
        self.initrds.borrow_mut().entry(key).or_insert_with(compute).clone()
    }

    /// What `make` makes of `parts`; `how` tells it from other things that are made of the same parts.
    pub(crate) fn made(&self, parts: &[Bytes], how: &str, make: impl FnOnce() -> Bytes) -> Bytes {
        // The parts are kept, so that their places stay theirs.
        parts.iter().for_each(|part| self.remember(part, |_| ()));
        let key = (parts.iter().map(place).collect(), how.to_owned());
        self.made.borrow_mut().entry(key).or_insert_with(make).clone()
    }

    /// Whether `certificate` vouches for `signature` of the image with this Authenticode hash.
    pub(crate) fn vouched_for(&self, signature: &Signature, image: &[u8], certificate: &[u8]) -> bool {
        // The first two tell how long they are.
        let all = [image, signature.der(), certificate].concat();
        let key = hash::digest(HashAlg::Sha256, &all);
        let compute = || signature.is_vouched_for(image, certificate);
        *self.vouched.borrow_mut().entry(key).or_insert_with(compute)
    }

    fn recall(&self, bytes: &Bytes, covered: Covered, alg: HashAlg) -> Option<Digest> {
        self.known.borrow().get(&place(bytes))?.digests.get(&(covered, alg)).cloned()
    }

    fn remember(&self, bytes: &Bytes, what: impl FnOnce(&mut Known)) {
        let new = || Known { _bytes: bytes.clone(), digests: HashMap::new() };
        what(self.known.borrow_mut().entry(place(bytes)).or_insert_with(new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Slices of one file, files that come and go: what is recalled is what would be computed.
        #[test]
        fn what_is_recalled_is_what_would_be_computed(
            files in proptest::collection::vec(proptest::collection::vec(0u8.., 0..64), 1..20),
            cuts in proptest::collection::vec((0usize..20, 0usize..64, 0usize..64), 1..60),
        ) {
            let memo = Memo::default();
            for (index, from, to) in cuts {
                let file = Bytes::from(files[index % files.len()].clone());
                let (from, to) = (from.min(file.len()), to.min(file.len()));
                let part = file.slice(from.min(to)..from.max(to));
                for alg in HashAlg::ALL {
                    proptest::prop_assert_eq!(memo.digest(alg, &part), hash::digest(alg, &part));
                    proptest::prop_assert_eq!(memo.digest(alg, &part), hash::digest(alg, &part));
                }
                let two = [part.clone(), file.clone()];
                let joined = || Bytes::from([&part[..], &file].concat());
                proptest::prop_assert_eq!(memo.made(&two, "joined", joined), joined());
            }
        }
    }
}
