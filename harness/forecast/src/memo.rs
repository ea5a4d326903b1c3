//! What was computed of files that are still in memory, so that a second forecast of nearly the same machine computes
//! only what changed; and what workers compute meanwhile of large files, since it will be asked for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use latchkey_measure::pe::Signature;
use latchkey_measure::{PeImage, hash, pe};
use latchkey_record::pcr::{Digest, HashAlg};

use crate::Initrd;
use crate::ahead::{Begun, Workers};

/// From how many bytes on something is begun ahead.
const LARGE: usize = 1 << 20;
/// Most bytes that are kept in memory, but for those that were asked about last. A volume that reads a file anew each time
/// gives it another place each time.
const MOST_KEPT: usize = 4 << 30;

/// Where bytes lie, and how many. Nothing else can lie there as long as they are kept.
type Place = (usize, usize);
/// A hash of what lies in a place.
type Hash = (Place, Covered, HashAlg);

/// Results by the bytes that they are of. It keeps those bytes in memory, and forgets all of them when they become too many.
#[derive(Debug, Default)]
pub struct Memo {
    /// Who begins with what will probably be asked for.
    workers: Option<Workers>,
    /// From how many bytes on something is begun ahead.
    large: usize,
    known: RefCell<HashMap<Place, Known>>,
    made: RefCell<HashMap<(Vec<Place>, String), Made>>,
    /// How many bytes are kept.
    kept: Cell<usize>,
    /// By the hash of signature, image's hash and certificate.
    vouched: RefCell<HashMap<Digest, bool>>,
    /// By their hash: images that differ in everything else often have the same.
    initrds: RefCell<HashMap<Digest, Rc<Result<Initrd, String>>>>,
    /// What was begun and not asked for yet. The bytes are among the known ones.
    digests_begun: RefCell<HashMap<Hash, Begun<Option<Digest>>>>,
    initrds_begun: RefCell<HashMap<Place, Begun<Result<Initrd, String>>>>,
}

#[derive(Debug)]
struct Known {
    /// What keeps the place from being used for anything else.
    _bytes: Bytes,
    digests: HashMap<(Covered, HashAlg), Digest>,
}

#[derive(Debug)]
struct Made {
    /// What keeps the places from being used for anything else.
    _parts: Vec<Bytes>,
    whole: Bytes,
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

/// `None` for the Authenticode hash of what is no PE image.
fn compute(covered: Covered, alg: HashAlg, bytes: &Bytes) -> Option<Digest> {
    match covered {
        Covered::All => Some(hash::digest(alg, bytes)),
        Covered::Authenticode => authenticode(alg, bytes).ok(),
    }
}

fn authenticode(alg: HashAlg, bytes: &Bytes) -> Result<Digest, pe::Error> {
    PeImage::parse(bytes)?.authenticode(alg)
}

impl Memo {
    /// One for a single forecast that somebody waits for: other threads begin with what will probably be asked for. What
    /// is begun in vain costs the time of many forecasts.
    #[must_use]
    pub fn hasty() -> Self {
        Self { workers: Workers::start(), large: LARGE, ..Self::default() }
    }

    /// Who begins with what is to be computed of `bytes`, where that is worth it.
    fn workers_for(&self, bytes: &Bytes) -> Option<&Workers> {
        self.workers.as_ref().filter(|_| bytes.len() >= self.large)
    }

    /// The hashes of `bytes`, one for each of `algs`.
    #[must_use]
    pub fn digests(&self, algs: &[HashAlg], bytes: &Bytes) -> Vec<Digest> {
        self.begin(Covered::All, algs.get(1..).unwrap_or_default(), bytes);
        algs.iter().map(|alg| self.digest(*alg, bytes)).collect()
    }

    /// The Authenticode hashes of the PE image `bytes`, one for each of `algs`.
    ///
    /// # Errors
    /// When it is no PE image.
    pub fn authenticodes(&self, algs: &[HashAlg], bytes: &Bytes) -> Result<Vec<Digest>, pe::Error> {
        self.begin(Covered::Authenticode, algs.get(1..).unwrap_or_default(), bytes);
        algs.iter().map(|alg| self.authenticode(*alg, bytes)).collect()
    }

    /// Begins to compute what [`Self::initrd`] gives: it will be asked for, and takes longer than hashes.
    pub(crate) fn begin_initrd(&self, bytes: &Bytes) {
        let digest = self.recall(bytes, Covered::All, HashAlg::Sha256);
        let known = digest.is_some_and(|digest| self.initrds.borrow().contains_key(&digest))
            || self.initrds_begun.borrow().contains_key(&place(bytes));
        if let Some(workers) = self.workers_for(bytes).filter(|_| !known) {
            let given = bytes.clone();
            let begun = workers.begin(move || Initrd::read(&given));
            self.remember(bytes, |_| ());
            self.initrds_begun.borrow_mut().insert(place(bytes), begun);
        }
    }

    /// Begins to compute what [`Self::digest`] gives for each of `algs`: it will be asked for.
    pub(crate) fn begin_digests(&self, algs: &[HashAlg], bytes: &Bytes) {
        self.begin(Covered::All, algs, bytes);
    }

    fn begin(&self, covered: Covered, algs: &[HashAlg], bytes: &Bytes) {
        let Some(workers) = self.workers_for(bytes) else { return };
        for alg in algs {
            let key = (place(bytes), covered, *alg);
            if self.recall(bytes, covered, *alg).is_some() || self.digests_begun.borrow().contains_key(&key) {
                continue;
            }
            let (alg, given) = (*alg, bytes.clone());
            let begun = workers.begin(move || compute(covered, alg, &given));
            self.remember(bytes, |_| ());
            self.digests_begun.borrow_mut().insert(key, begun);
        }
    }

    /// What a worker was to compute; by now somebody has.
    fn begun(&self, bytes: &Bytes, covered: Covered, alg: HashAlg) -> Option<Digest> {
        let begun = self.digests_begun.borrow_mut().remove(&(place(bytes), covered, alg))?;
        begun.get_or_init(|| compute(covered, alg, bytes)).clone()
    }

    /// The hash of `bytes`.
    #[must_use]
    pub fn digest(&self, alg: HashAlg, bytes: &Bytes) -> Digest {
        if let Some(digest) = self.recall(bytes, Covered::All, alg) {
            return digest;
        }
        let begun = self.begun(bytes, Covered::All, alg);
        let digest = begun.unwrap_or_else(|| hash::digest(alg, bytes));
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
        let digest = match self.begun(bytes, Covered::Authenticode, alg) {
            Some(digest) => digest,
            None => authenticode(alg, bytes)?,
        };
        self.remember(bytes, |known| {
            drop(known.digests.insert((Covered::Authenticode, alg), digest.clone()))
        });
        Ok(digest)
    }

    /// The initrd that `bytes` are, or what is wrong with it.
    #[must_use]
    pub fn initrd(&self, bytes: &Bytes) -> Rc<Result<Initrd, String>> {
        let key = self.digest(HashAlg::Sha256, bytes);
        let begun = self.initrds_begun.borrow_mut().remove(&place(bytes));
        let compute = || {
            let begun = begun.unwrap_or_default();
            Rc::new(begun.get_or_init(|| Initrd::read(bytes)).clone())
        };
        self.initrds.borrow_mut().entry(key).or_insert_with(compute).clone()
    }

    /// What `make` makes of `parts`; `how` tells it from other things that are made of the same parts.
    pub(crate) fn made(&self, parts: &[Bytes], how: &str, make: impl FnOnce() -> Bytes) -> Bytes {
        let key = (parts.iter().map(place).collect(), how.to_owned());
        if let Some(made) = self.made.borrow().get(&key) {
            return made.whole.clone();
        }
        let whole = make();
        // A part that is known as well counts twice: it is kept until both are forgotten.
        self.makes_room(parts.iter().map(Bytes::len).fold(whole.len(), usize::saturating_add));
        let made = Made { _parts: parts.to_vec(), whole: whole.clone() };
        self.made.borrow_mut().insert(key, made);
        whole
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
        if !self.known.borrow().contains_key(&place(bytes)) {
            self.makes_room(bytes.len());
        }
        let new = || Known { _bytes: bytes.clone(), digests: HashMap::new() };
        what(self.known.borrow_mut().entry(place(bytes)).or_insert_with(new));
    }

    /// So many bytes more are kept. What hangs on a place is forgotten with the bytes that kept it.
    fn makes_room(&self, length: usize) {
        let kept = self.kept.get().saturating_add(length);
        if kept <= MOST_KEPT {
            self.kept.set(kept);
            return;
        }
        self.known.borrow_mut().clear();
        self.made.borrow_mut().clear();
        self.digests_begun.borrow_mut().clear();
        self.initrds_begun.borrow_mut().clear();
        self.kept.set(length);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_another_thread_computed_is_what_would_be_computed() {
        let memo = Memo::hasty();
        let mut archive = Vec::new();
        let builder = cpio::NewcBuilder::new("usr/lib/libsystemd-shared-252.so").mode(0o100_644);
        builder.write(&mut archive, 0).finish().unwrap();
        cpio::newc::trailer(&mut archive).unwrap();
        archive.resize(LARGE, 0);
        let initrd = Bytes::from(archive);
        for _ in 0..2 {
            memo.begin_initrd(&initrd);
            memo.begin_digests(&HashAlg::ALL, &initrd);
        }
        assert_eq!(memo.digests_begun.borrow().len(), HashAlg::ALL.len());
        assert_eq!(memo.initrds_begun.borrow().len(), 1);
        assert_eq!(*memo.initrd(&initrd), Initrd::read(&initrd));
        assert!(memo.initrd(&initrd).is_ok());
        let computed = HashAlg::ALL.map(|alg| hash::digest(alg, &initrd));
        assert_eq!(memo.digests(&HashAlg::ALL, &initrd), computed);
        // What is known is not begun again, and no image has no hash.
        memo.begin_initrd(&initrd);
        memo.begin_digests(&HashAlg::ALL, &initrd);
        assert!(memo.digests_begun.borrow().is_empty() && memo.initrds_begun.borrow().is_empty());
        assert!(matches!(memo.authenticodes(&HashAlg::ALL, &initrd), Err(pe::Error::NotPe { .. })));
    }

    #[test]
    fn bytes_are_kept_until_they_are_too_many() {
        let memo = Memo::default();
        let files = [b"one", b"two"].map(|text| Bytes::copy_from_slice(text));
        let whole = || Bytes::from(files.concat());
        files.iter().for_each(|file| drop(memo.digest(HashAlg::Sha256, file)));
        // Six bytes that are known, the same once more as parts, and the whole.
        assert_eq!((memo.made(&files, "joined", whole), memo.kept.get()), (whole(), 18));
        assert_eq!((memo.made(&files, "joined", whole), memo.kept.get()), (whole(), 18));
        assert_eq!((memo.known.borrow().len(), memo.made.borrow().len()), (2, 1));
        // Parts alone may be too many.
        memo.kept.set(MOST_KEPT - 6);
        assert_eq!(memo.made(&files, "nothing", Bytes::new), Bytes::new());
        assert_eq!((memo.made.borrow().len(), memo.kept.get()), (2, MOST_KEPT));
        // What is known already takes no more.
        let _ = memo.digest(HashAlg::Sha1, &files[0]);
        assert_eq!(memo.known.borrow().len(), 2);
        let more = Bytes::from_static(b"more");
        assert_eq!(memo.digest(HashAlg::Sha256, &more), hash::digest(HashAlg::Sha256, b"more"));
        assert_eq!((memo.known.borrow().len(), memo.made.borrow().len(), memo.kept.get()), (1, 0, 4));
    }

    proptest::proptest! {
        /// Slices of one file, files that come and go: what is recalled is what would be computed.
        #[test]
        fn what_is_recalled_is_what_would_be_computed(
            files in proptest::collection::vec(proptest::collection::vec(0u8.., 0..64), 1..20),
            cuts in proptest::collection::vec((0usize..20, 0usize..64, 0usize..64), 1..60),
            threads in proptest::bool::ANY,
        ) {
            let memo = Memo { workers: Workers::start().filter(|_| threads), large: 1, ..Memo::default() };
            for (index, from, to) in cuts {
                let file = Bytes::from(files[index % files.len()].clone());
                let (from, to) = (from.min(file.len()), to.min(file.len()));
                let part = file.slice(from.min(to)..from.max(to));
                let computed = HashAlg::ALL.map(|alg| hash::digest(alg, &part));
                for _ in 0..2 {
                    proptest::prop_assert_eq!(memo.digests(&HashAlg::ALL, &part), &computed);
                }
                let two = [part.clone(), file.clone()];
                let joined = || Bytes::from([&part[..], &file].concat());
                proptest::prop_assert_eq!(memo.made(&two, "joined", joined), joined());
            }
        }
    }
}
