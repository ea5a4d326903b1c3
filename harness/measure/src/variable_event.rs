//! `UEFI_VARIABLE_DATA`: how a UEFI variable is measured.
//!
//! TCG PC Client Platform Firmware Profile, section "UEFI_VARIABLE_DATA": vendor GUID, u64 length of the name
//! in characters, u64 length of the data, the name in UTF-16 without a terminator, the data.
//!
//! `EV_EFI_VARIABLE_DRIVER_CONFIG` and `EV_EFI_VARIABLE_AUTHORITY` hash all of it (the latter with a single
//! signature as data), and so does `EV_EFI_VARIABLE_BOOT2`; `EV_EFI_VARIABLE_BOOT` hashes the data alone, in
//! edk2 as in the specification since 1.04.

use latchkey_record::pcr::{Digest, HashAlg};
use uuid::Uuid;

use crate::bytes::{guid_at, slice, u64_at, units};
use crate::hash::digest;

/// GUID and the two lengths.
const HEAD: usize = 32;

/// Why bytes are not a measured variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("reading a measured variable: the {0} does not fit the event's data; the event log may be damaged")]
pub struct Error(&'static str);

/// A variable as it is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableEvent {
    /// The vendor's GUID.
    pub vendor: Uuid,
    /// The name's UTF-16 units, without a terminator.
    pub name: Vec<u16>,
    /// The contents.
    pub data: Vec<u8>,
}

impl VariableEvent {
    /// The variable `name` of `vendor`, with these contents.
    #[must_use]
    pub fn new(vendor: Uuid, name: &str, data: &[u8]) -> Self {
        Self { vendor, name: name.encode_utf16().collect(), data: data.to_vec() }
    }

    /// The name as text, what is no text in it replaced.
    #[must_use]
    pub fn name_text(&self) -> String {
        String::from_utf16_lossy(&self.name)
    }

    /// The bytes that firmware hashes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + 2 * self.name.len() + self.data.len());
        out.extend(self.vendor.to_bytes_le());
        for length in [self.name.len(), self.data.len()] {
            out.extend((length as u64).to_le_bytes());
        }
        out.extend(self.name.iter().flat_map(|unit| unit.to_le_bytes()));
        out.extend(&self.data);
        out
    }

    /// What is extended into `bank`.
    #[must_use]
    pub fn digest(&self, bank: HashAlg) -> Digest {
        digest(bank, &self.to_bytes())
    }

    /// Reads an event's data. Bytes after the variable are ignored.
    ///
    /// # Errors
    /// [`Error`] when the lengths point beyond the data.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let length = |at| u64_at(bytes, at).and_then(|n| usize::try_from(n).ok());
        let vendor = guid_at(bytes, 0).ok_or(Error("head"))?;
        let (name, data) = (length(16).ok_or(Error("head"))?, length(24).ok_or(Error("head"))?);
        let name_bytes = name.checked_mul(2).ok_or(Error("name"))?;
        let name = slice(bytes, HEAD, name_bytes).ok_or(Error("name"))?;
        let data = slice(bytes, HEAD + name_bytes, data).ok_or(Error("variable's data"))?;
        Ok(Self { vendor, name: units(name).collect(), data: data.to_vec() })
    }
}
