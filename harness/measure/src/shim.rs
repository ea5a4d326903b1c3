//! What a shim binary says of itself, and changing the certificate it trusts.
//!
//! Sources: shim `cert.S` (`.vendor_cert`), `sbat_var.S` (`.sbatlevel`), `version.c.in` (version string),
//! `shim.c` `load_unbundled_trust` (which certificate files are read; compared at tags 15.5 to 16.1).

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::bytes::{size_at, slice};
use crate::pe::{self, PeImage, Section};
use crate::sbat::Revocations;
use crate::sign;

/// Section with the certificate table.
const VENDOR_CERT: &str = ".vendor_cert";
/// Section with the revocation levels, from 15.7 on.
const SBAT_LEVEL: &str = ".sbatlevel";
/// Two sizes and two offsets in front of the certificates.
const TABLE: usize = 16;
/// Every version carries this in front of its version number.
const VERSION_MARK: &[u8] = b"UEFI SHIM\n$Version: ";
/// Longest version text that is looked at, in bytes.
const VERSION_LENGTH: usize = 64;
/// The name of a certificate file, up to its tail.
const CERTIFICATE_FILE: &str = "shim_certificate";

/// Why shim's own data could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not a PE image.
    #[error(transparent)]
    Pe(#[from] pe::Error),
    /// The image could not be made consistent again after a change.
    #[error(transparent)]
    Sign(#[from] sign::Error),
    /// No certificate table: not a shim.
    #[error(
        "looking for shim's certificate table: the image has no section .vendor_cert, so it is not a shim"
    )]
    NoTable,
    /// The table's sizes and offsets lie outside its section.
    #[error("reading shim's certificate table: its sizes and offsets do not fit the section of {size} bytes")]
    BadTable {
        /// The section's size in bytes.
        size: usize,
    },
    /// The new certificate does not fit where the old one was.
    #[error("replacing shim's vendor certificate: {needed} bytes are needed, the section has {room}")]
    TooLarge {
        /// Table and certificate, in bytes.
        needed: usize,
        /// The section's size in memory, in bytes.
        room: usize,
    },
    /// shim takes a certificate only in one form.
    #[error(
        "replacing shim's vendor certificate: shim takes a DER certificate of 256 bytes or more (it must start with 30 82)"
    )]
    NotDer,
}

/// A shim version, e.g. 15.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Before the point.
    pub major: u16,
    /// After the point.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Which files in its own directory a shim takes certificates from, when Secure Boot is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateFiles {
    /// None: 15.5 and earlier do not know certificate files.
    None,
    /// Every name that starts with `shim_certificate`, in any case: 15.6, 15.7, and again from 16.0 on.
    Prefix,
    /// Only `shim_certificate.efi`, in any case: 15.8.
    Exact,
}

impl Version {
    /// The rule this version follows.
    #[must_use]
    pub fn certificate_files(self) -> CertificateFiles {
        match (self.major, self.minor) {
            (..15, _) | (15, ..=5) => CertificateFiles::None,
            (15, 6 | 7) => CertificateFiles::Prefix,
            (15, _) => CertificateFiles::Exact,
            (16.., _) => CertificateFiles::Prefix,
        }
    }
}

impl CertificateFiles {
    /// Whether a file called `name` in shim's directory is read.
    #[must_use]
    pub fn loads(self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Exact => name.eq_ignore_ascii_case("shim_certificate.efi"),
            Self::Prefix => is_certificate_file(name),
        }
    }
}

/// Whether `name` is that of a certificate file for at least some version of shim.
#[must_use]
pub fn is_certificate_file(name: &str) -> bool {
    name.get(..CERTIFICATE_FILE.len()).is_some_and(|start| start.eq_ignore_ascii_case(CERTIFICATE_FILE))
}

/// The version a binary carries; `None` when it is no shim, or not one that says so.
#[must_use]
pub fn version(image: &[u8]) -> Option<Version> {
    let text = version_text(image)?;
    let (major, rest) = text.split_once('.')?;
    // A release candidate (`16.1-rc1`) follows the rules of its release.
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some(Version { major: major.parse().ok()?, minor: rest[..digits].parse().ok()? })
}

/// The version as it is written in the binary, e.g. `15.8` or `16.1-rc1`.
#[must_use]
pub fn version_text(image: &[u8]) -> Option<&str> {
    let at = find(image, VERSION_MARK)? + VERSION_MARK.len();
    let rest = &image[at..image.len().min(at + VERSION_LENGTH)];
    let end = find(rest, b" $")?;
    std::str::from_utf8(&rest[..end]).ok()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

/// What `.vendor_cert` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorCert {
    /// One DER certificate or, in builds with a vendor database, signature lists. Empty when none is built in.
    pub authorised: Vec<u8>,
    /// Signature lists of what the vendor revoked.
    pub deauthorised: Vec<u8>,
    /// How many bytes the certificate table may take, its 16-byte head included.
    pub room: usize,
}

/// Reads the certificate that a shim trusts besides the firmware's.
///
/// # Errors
/// [`Error::NoTable`] when the image is no shim, [`Error::BadTable`] when its table is damaged.
pub fn vendor_cert(shim: &[u8]) -> Result<VendorCert, Error> {
    let image = PeImage::parse(shim)?;
    let section = image.find_section(VENDOR_CERT).ok_or(Error::NoTable)?;
    let bad = Error::BadTable { size: section.data.len() };
    read_table(&section).ok_or(bad)
}

fn read_table(section: &Section<'_>) -> Option<VendorCert> {
    let data = section.data;
    let part = |size_field, offset_field| {
        let size = size_at(data, size_field)?;
        if size == 0 {
            Some(Vec::new())
        } else {
            slice(data, size_at(data, offset_field)?, size).map(<[u8]>::to_vec)
        }
    };
    Some(VendorCert { authorised: part(0, 8)?, deauthorised: part(4, 12)?, room: data.len() })
}

/// Replaces the vendor certificate of `shim` by `der` and empties the vendor's revocation list, in place, so
/// that nothing else moves. Signatures, which no longer fit, are removed; the PE checksum is corrected.
///
/// # Errors
/// [`Error::NoTable`] when the image is no shim, [`Error::TooLarge`] and [`Error::NotDer`] when the certificate
/// cannot go there, [`Error::BadTable`] when the place for it is also something else's.
pub fn replace_vendor_cert(shim: &[u8], der: &[u8]) -> Result<Vec<u8>, Error> {
    if !der.starts_with(&[0x30, 0x82]) {
        return Err(Error::NotDer);
    }
    let mut out = sign::strip_signatures(shim)?;
    let place: Range<usize> = {
        let image = PeImage::parse(&out)?;
        let section = image.find_section(VENDOR_CERT).ok_or(Error::NoTable)?;
        section.offset..section.offset + section.data.len()
    };
    let room = place.len();
    let needed = TABLE + der.len();
    let size = u32::try_from(der.len()).map_err(|_| Error::TooLarge { needed, room })?;
    let (head, tail) = ([size, 0, 16, size.saturating_add(16)], needed);
    let table = out.get_mut(place).filter(|t| t.len() >= needed).ok_or(Error::TooLarge { needed, room })?;
    table.fill(0);
    for (field, value) in table.chunks_exact_mut(4).zip(head) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    table[TABLE..tail].copy_from_slice(der);
    sign::fix_checksum(&mut out)?;
    // In a hostile image the table may lie over the headers, which are then others than before.
    match vendor_cert(&out) {
        Ok(read) if read.authorised == der => Ok(out),
        _ => Err(Error::BadTable { size: room }),
    }
}

/// The revocation levels built into a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SbatLevels {
    /// What it writes to `SbatLevel` by itself (called "previous" up to 15.8, "automatic" later).
    pub automatic: Revocations,
    /// What it writes when asked for the latest.
    pub latest: Revocations,
}

/// Reads `.sbatlevel`; `None` when the section is missing (before 15.7) or malformed.
#[must_use]
pub fn sbat_levels(shim: &[u8]) -> Option<SbatLevels> {
    let image = PeImage::parse(shim).ok()?;
    let section = image.section(SBAT_LEVEL)?;
    // A format version of 0, then two offsets that count from the first offset's own place.
    if size_at(section, 0)? != 0 {
        return None;
    }
    let level = |field| {
        let text = section.get(size_at(section, field)?.checked_add(4)?..)?;
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        Revocations::parse(&text[..end]).ok()
    };
    Some(SbatLevels { automatic: level(4)?, latest: level(8)? })
}
