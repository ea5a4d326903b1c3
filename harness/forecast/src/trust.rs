//! Who vouches for an image: signature databases as firmware and shim search them.

use bytes::Bytes;
use latchkey_disk::varstore::VariableId;
use latchkey_measure::pe::{Signature, TableEnd};
use latchkey_measure::siglist::{self, SHA256, SignatureEntry, X509};
use latchkey_measure::{HashAlg, PeImage, SignatureDb, cert, hash};
use latchkey_record::Stage;
use latchkey_record::forecast::Origin;
use latchkey_record::pcr::Digest;

use crate::chain::kind as event;
use crate::{Chain, Memo, stub};

/// An image with its hashes and signatures, each computed once.
pub(crate) struct Checked<'a> {
    memo: &'a Memo,
    bytes: Bytes,
    sha256: Digest,
    digests: Vec<Digest>,
    pub(crate) signatures: Vec<Signature>,
    /// Whether there is something where signatures go that cannot be read as one.
    pub(crate) has_unreadable: bool,
    /// How many of the signatures are filled up, as all but the last are.
    filled: usize,
    /// How the table of signatures ends.
    pub(crate) end: TableEnd,
}

impl<'a> Checked<'a> {
    /// `None` when it is no PE image.
    pub(crate) fn new(chain: &Chain<'a>, bytes: &Bytes) -> Option<Self> {
        let image = PeImage::parse(bytes).ok()?;
        let (memo, banks) = (chain.memo, &chain.target.tpm.banks);
        stub::begin(chain, &image, bytes);
        let digests = memo.authenticodes(banks, bytes).ok()?;
        let known = digests.iter().find(|digest| digest.alg() == HashAlg::Sha256).cloned();
        let sha256 = known.or_else(|| memo.authenticode(HashAlg::Sha256, bytes).ok())?;
        let (signatures, end) = (image.signatures().ok()?, image.table_end().ok()?);
        let has_unreadable = signatures.iter().any(Result::is_err);
        let filled = signatures.len().saturating_sub(usize::from(end == TableEnd::Short));
        let filled = signatures.iter().take(filled).flatten().count();
        let signatures = signatures.into_iter().flatten().collect();
        Some(Self { memo, bytes: bytes.clone(), sha256, digests, signatures, has_unreadable, filled, end })
    }

    /// The signatures that the firmware looks at: it stops in front of one that is not filled up.
    pub(crate) fn for_firmware(&self) -> impl Iterator<Item = &Signature> {
        self.signatures.iter().take(self.filled)
    }

    /// Extends PCR 4 with it.
    pub(crate) fn measure(&self, chain: &mut Chain<'_>, stage: Stage, what: &str, file: &str) {
        let from = Origin::File(file.to_owned());
        let kind = event::BOOT_SERVICES_APPLICATION;
        chain.push(stage, 4, kind, self.digests.clone(), what, from, latchkey_record::Certainty::Computed);
    }

    /// The entry of `database` that names the image's hash.
    pub(crate) fn by_hash<'d>(&self, database: &'d SignatureDb) -> Option<&'d SignatureEntry> {
        database.entries(SHA256).find(|entry| entry.data == self.sha256.bytes())
    }

    /// The entry of `database` that vouches for one of its signatures, as the firmware looks for it: over whichever hash was
    /// signed.
    pub(crate) fn by<'d>(
        &self,
        signature: &Signature,
        database: &'d SignatureDb,
    ) -> Option<&'d SignatureEntry> {
        let alg = signature.digest_name().parse().ok()?;
        let digest = self.memo.authenticode(alg, &self.bytes).ok()?;
        database.entries(X509).find(|entry| self.memo.vouched_for(signature, digest.bytes(), &entry.data))
    }

    /// As [`Self::by`], as shim looks for it (`check_db_cert_in_ram`): of each list the first certificate alone, and none that
    /// is for kernel modules.
    pub(crate) fn by_for_shim<'d>(
        &self,
        signature: &Signature,
        database: &'d SignatureDb,
    ) -> Option<&'d SignatureEntry> {
        let lists = database.lists().iter().filter(|list| list.kind() == X509);
        let first = lists.filter_map(|list| list.entries().first());
        first
            .filter(|entry| !cert::is_for_modules(&entry.data))
            .find(|entry| self.is_by(signature, &entry.data))
    }

    /// Whether a certificate vouches for one of its signatures, as shim asks: over a SHA-256 hash alone
    /// (`verify_one_signature`).
    pub(crate) fn is_by(&self, signature: &Signature, certificate: &[u8]) -> bool {
        self.memo.vouched_for(signature, self.sha256.bytes(), certificate)
    }
}

/// `EFI_SIGNATURE_DATA`: owner, then the certificate or hash (UEFI 2.10, section 32.4.1).
pub(crate) fn signature_data(entry: &SignatureEntry) -> Vec<u8> {
    [&entry.owner.to_bytes_le()[..], &entry.data].concat()
}

/// `UEFI_VARIABLE_DATA` (TCG PC Client Platform Firmware Profile, section 10.2.6): what is hashed for a variable.
pub(crate) fn variable_data(id: &VariableId, data: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = id.name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut out = id.vendor.to_bytes_le().to_vec();
    out.extend((name.len() as u64 / 2).to_le_bytes());
    out.extend((data.len() as u64).to_le_bytes());
    out.extend(name);
    out.extend(data);
    out
}

/// The database that the variable `id` holds, up to a list that is none; an empty one when there is no such variable.
pub(crate) fn database(chain: &Chain<'_>, id: &VariableId) -> SignatureDb {
    read(chain, id).0
}

/// Why nothing is forecast of a database that [`is_open`].
pub(crate) const OPEN: &str =
    "whose word counts beside a signature list whose sizes do not add up is not modelled";

/// Whether what ended the reading of a database is a list of which nobody knows what is made: one whose sizes do not add up.
pub(crate) fn is_open(error: Option<&siglist::Error>) -> bool {
    matches!(error, Some(siglist::Error::Header { .. } | siglist::Error::Sizes { .. }))
}

/// Says of the database that the variable `id` holds that it [`is_open`].
pub(crate) fn say_unreadable(chain: &mut Chain<'_>, stage: Stage, id: &VariableId) {
    if is_open(read(chain, id).1.as_ref()) {
        chain.unmodelled(stage, &format!("variable {}", id.name), OPEN, &[4, 7]);
    }
}

/// The rest of the database that the variable `id` holds decides on an image: if it [`is_open`], nobody knows how.
pub(crate) fn hangs_on(chain: &mut Chain<'_>, stage: Stage, id: &VariableId) {
    if is_open(read(chain, id).1.as_ref()) {
        say_unreadable(chain, stage, id);
        chain.doubt(format!("variable {}: {OPEN}", id.name));
    }
}

fn read(chain: &Chain<'_>, id: &VariableId) -> (SignatureDb, Option<siglist::Error>) {
    let value = chain.volatile.get(id).or_else(|| chain.variables.get(id).map(|variable| &variable.data));
    value.map(|data| SignatureDb::readable(data)).unwrap_or_default()
}

/// Extends PCR 7 with what vouched for an image, unless that was done before by the same program.
pub(crate) fn authority(
    chain: &mut Chain<'_>,
    stage: Stage,
    seen: &mut Vec<Digest>,
    id: &VariableId,
    data: &[u8],
    from: Origin,
) {
    let event_data = variable_data(id, data);
    let digest = hash::digest(HashAlg::Sha256, &event_data);
    if seen.contains(&digest) {
        return;
    }
    seen.push(digest);
    let what = format!("authority {}", id.name);
    chain.measure(stage, 7, event::VARIABLE_AUTHORITY, &event_data, &what, from);
}
