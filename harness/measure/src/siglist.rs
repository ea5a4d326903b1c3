//! `EFI_SIGNATURE_LIST`: the format of PK, KEK, db, dbx, the MOK lists and shim's certificate files.
//!
//! Source: UEFI 2.10 section 32.4.1. A database is lists one after the other; a list holds entries of one type
//! and one size.

use uuid::{Uuid, uuid};

use crate::bytes::{guid_at, size_at, slice};

/// `EFI_CERT_X509_GUID`.
pub const X509: Uuid = uuid!("a5c059a1-94e4-4aa7-87b5-ab155c2bf072");
/// `EFI_CERT_SHA256_GUID`.
pub const SHA256: Uuid = uuid!("c1c41626-504c-4092-aca9-41f936934328");
/// `EFI_CERT_X509_SHA256_GUID`: hash of a certificate's to-be-signed part, with a time of revocation.
pub const X509_SHA256: Uuid = uuid!("3bd2a492-96c0-4079-b420-fcf98ef103ed");

/// Type GUID, list size, header size, signature size.
const HEADER: usize = 28;
/// The owner GUID in front of each entry's data.
const OWNER: usize = 16;

/// Why bytes are not a signature database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end within a list's header.
    #[error("reading a signature list at byte {at}: the data ends within its header")]
    Header {
        /// Where the list starts.
        at: usize,
    },
    /// A list says that it is longer than what is left.
    #[error("reading a signature list at byte {at}: the data ends within it")]
    Truncated {
        /// Where the list starts.
        at: usize,
    },
    /// The sizes in a list's header contradict each other.
    #[error(
        "reading a signature list at byte {at}: its sizes do not add up (list {list}, header {header}, entry {entry} bytes)"
    )]
    Sizes {
        /// Where the list starts.
        at: usize,
        /// `SignatureListSize`.
        list: usize,
        /// `SignatureHeaderSize`.
        header: usize,
        /// `SignatureSize`.
        entry: usize,
    },
}

/// One entry: who put it there, and the certificate or hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureEntry {
    /// `SignatureOwner`.
    pub owner: Uuid,
    /// A DER certificate, a hash, or what else the list's type says.
    pub data: Vec<u8>,
}

/// Entries of one type and one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureList {
    kind: Uuid,
    header: Vec<u8>,
    /// Bytes of one entry's data, without its owner.
    data_size: usize,
    entries: Vec<SignatureEntry>,
}

impl SignatureList {
    /// A list with one certificate (DER).
    #[must_use]
    pub fn x509(owner: Uuid, der: &[u8]) -> Self {
        Self {
            kind: X509,
            header: Vec::new(),
            data_size: der.len(),
            entries: vec![SignatureEntry { owner, data: der.to_vec() }],
        }
    }

    /// A list of Authenticode SHA-256 hashes.
    #[must_use]
    pub fn sha256(owner: Uuid, hashes: &[[u8; 32]]) -> Self {
        let entries = hashes.iter().map(|h| SignatureEntry { owner, data: h.to_vec() }).collect();
        Self { kind: SHA256, header: Vec::new(), data_size: 32, entries }
    }

    /// The list's type, e.g. [`X509`].
    #[must_use]
    pub fn kind(&self) -> Uuid {
        self.kind
    }

    /// Its entries.
    #[must_use]
    pub fn entries(&self) -> &[SignatureEntry] {
        &self.entries
    }

    /// The list without the entries that are not to be kept.
    #[must_use]
    pub fn retain(mut self, keep: impl FnMut(&SignatureEntry) -> bool) -> Self {
        self.entries.retain(keep);
        self
    }

    /// The list as firmware stores it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let entry = OWNER + self.data_size;
        let list = HEADER + self.header.len() + entry * self.entries.len();
        let mut out = Vec::with_capacity(list);
        out.extend(self.kind.to_bytes_le());
        for size in [list, self.header.len(), entry] {
            // What was parsed fits; what was built comes from certificates, far below 4 GiB.
            out.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
        }
        out.extend(&self.header);
        for signature in &self.entries {
            out.extend(signature.owner.to_bytes_le());
            out.extend(&signature.data);
        }
        out
    }

    /// Reads the list at `at` in `bytes`; gives it and the offset after it.
    fn parse_at(bytes: &[u8], at: usize) -> Result<(Self, usize), Error> {
        let no_header = || Error::Header { at };
        let rest = bytes.get(at..).ok_or_else(no_header)?;
        let kind = guid_at(rest, 0).ok_or_else(no_header)?;
        let list = size_at(rest, 16).ok_or_else(no_header)?;
        let header = size_at(rest, 20).ok_or_else(no_header)?;
        let entry = size_at(rest, 24).ok_or_else(no_header)?;
        let whole = slice(rest, 0, list).ok_or(Error::Truncated { at })?;
        let sizes = || Error::Sizes { at, list, header, entry };
        let body = list.checked_sub(HEADER).and_then(|b| b.checked_sub(header)).ok_or_else(sizes)?;
        if entry < OWNER || !body.is_multiple_of(entry) {
            return Err(sizes());
        }
        let entries = whole[HEADER + header..]
            .chunks_exact(entry)
            .filter_map(|c| Some(SignatureEntry { owner: guid_at(c, 0)?, data: c[OWNER..].to_vec() }))
            .collect();
        let parsed =
            Self { kind, header: whole[HEADER..HEADER + header].to_vec(), data_size: entry - OWNER, entries };
        Ok((parsed, at + list))
    }
}

/// Lists one after the other: the contents of PK, KEK, db, dbx.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignatureDb {
    lists: Vec<SignatureList>,
}

impl SignatureDb {
    /// An empty database.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `list` at the end.
    #[must_use]
    pub fn with(mut self, list: SignatureList) -> Self {
        self.lists.push(list);
        self
    }

    /// Reads a whole database. Parsing and [`Self::to_bytes`] are inverse to each other.
    ///
    /// # Errors
    /// [`Error`] at the first list that is not well formed.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        match Self::readable(bytes) {
            (whole, None) => Ok(whole),
            (_, Some(error)) => Err(error),
        }
    }

    /// Reads list after list, up to the first that is not well formed: those in front of it, and what is wrong with it.
    ///
    /// Firmware and shim look through the lists of a database alike, and for them it ends with one that is longer than what is
    /// left ([`Error::Truncated`]; edk2 `DxeImageVerificationLib.c`, `IsSignatureFoundInDatabase`, `IsAllowedByDb`,
    /// `IsForbiddenByDbx`; shim 15.8, `shim.c`, `check_db_cert_in_ram`, `check_db_hash_in_ram`). What they make of any other
    /// hangs on the memory behind it.
    #[must_use]
    pub fn readable(bytes: &[u8]) -> (Self, Option<Error>) {
        let mut lists = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            match SignatureList::parse_at(bytes, at) {
                Ok((list, next)) => {
                    lists.push(list);
                    at = next;
                }
                Err(error) => return (Self { lists }, Some(error)),
            }
        }
        (Self { lists }, None)
    }

    /// The database as firmware stores it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lists.iter().flat_map(SignatureList::to_bytes).collect()
    }

    /// Its lists.
    #[must_use]
    pub fn lists(&self) -> &[SignatureList] {
        &self.lists
    }

    /// Every entry of type `kind`.
    pub fn entries(&self, kind: Uuid) -> impl Iterator<Item = &SignatureEntry> {
        self.lists.iter().filter(move |l| l.kind == kind).flat_map(|l| &l.entries)
    }

    /// Every certificate in it, DER.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.entries(X509).map(|e| e.data.as_slice())
    }
}

impl FromIterator<SignatureList> for SignatureDb {
    fn from_iter<T: IntoIterator<Item = SignatureList>>(lists: T) -> Self {
        Self { lists: lists.into_iter().collect() }
    }
}
