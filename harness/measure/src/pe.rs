//! PE images as firmware and shim see them.
//!
//! Two hashes of one file are easily confused, so both have names here: the [measured](PeImage::authenticode)
//! form hashes exactly the bytes of the file, as firmware does when it extends a PCR; the
//! [padded](PeImage::authenticode_padded) form adds zeros up to a multiple of eight bytes first, which is what
//! signing tools do before they append a signature. They agree when the file's size is a multiple of eight.
//!
//! Sources: Microsoft "PE Format" (sections, attribute certificate table), Microsoft "Windows Authenticode
//! Portable Executable Signature Format" (hash), UEFI 2.10 section 32.2.

use authenticode::PeTrait;
use latchkey_record::pcr::{Digest, HashAlg};
use object::LittleEndian as LE;
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageSectionHeader};
use object::read::pe::{ImageNtHeaders, PeFile, PeFile32, PeFile64};
use sha2::digest::Update;

use crate::bytes::{size_at, slice, u16_at};
use crate::hash::Hasher;

pub(crate) mod signature;
mod verify;

pub use signature::{Signature, SignatureError};

/// `WIN_CERTIFICATE` header: u32 length, u16 revision, u16 type.
pub(crate) const WIN_CERTIFICATE_HEADER: usize = 8;
/// `WIN_CERT_REVISION_2_0`.
pub(crate) const WIN_CERT_REVISION: u16 = 0x0200;
/// `WIN_CERT_TYPE_PKCS_SIGNED_DATA`.
pub(crate) const WIN_CERT_TYPE_PKCS: u16 = 0x0002;
/// The smallest entry of a certificate table that counts as one, in bytes: shim 15.8, `sizeof (WIN_CERTIFICATE_EFI_PKCS)`.
const SMALLEST_ENTRY: usize = 12;

/// Why bytes are not a usable PE image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The headers are not those of a PE image.
    #[error("reading a PE image: {why}")]
    NotPe {
        /// What is wrong, in the parser's words.
        why: String,
    },
    /// An offset in the headers points outside the file.
    #[error("hashing a PE image: an offset in its headers points outside the file; it may be truncated")]
    OutOfBounds,
    /// The attribute certificate table does not lie within the file.
    #[error(
        "reading a PE image's signatures: the certificate table ({start:#x}, {size} bytes) does not fit the file of {file} bytes"
    )]
    CertificateTable {
        /// Offset in the file.
        start: usize,
        /// Length in bytes.
        size: usize,
        /// The file's length in bytes.
        file: usize,
    },
}

/// One section of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its name, with COFF's string table resolved (`/37` becomes `.vendor_cert`), as bytes of the file.
    pub name: &'a [u8],
    /// Offset of its first byte in the file.
    pub offset: usize,
    /// Bytes it occupies in the file.
    pub raw_size: usize,
    /// Bytes it occupies in memory.
    pub virtual_size: usize,
    /// Its bytes: what is in the file, cut to the size in memory when that is smaller (and not 0).
    pub data: &'a [u8],
}

/// How an attribute certificate table ends. Entries start at multiples of eight bytes (PE format, "The Attribute Certificate
/// Table"), and the firmware wants the last one to end at one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableEnd {
    /// With its last entry, filled up; or there is no table.
    Filled,
    /// With its last entry, which is not filled up. The firmware stops in front of it and does not take the image (edk2
    /// `DxeImageVerificationLib.c`, `OffSet != SecDataDirEnd`); shim reads it like any other.
    Short,
    /// With bytes that are no entry, zeros among them. Neither takes such an image (shim `verify_buffer_authenticode`: "Certificate
    /// size is too small", or "too large").
    Rest,
}

/// The attribute certificate table, read: its entries, each with its type, and what is behind them.
struct Table<'a> {
    entries: Vec<(u16, &'a [u8])>,
    /// The last entry is not filled up to a multiple of eight bytes.
    is_short: bool,
    /// Bytes that are no entry.
    rest: &'a [u8],
}

enum File<'a> {
    Pe32(PeFile32<'a>),
    Pe64(PeFile64<'a>),
}

/// A parsed image; borrows the file's bytes.
pub struct PeImage<'a> {
    data: &'a [u8],
    file: File<'a>,
}

impl std::fmt::Debug for PeImage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeImage").field("bytes", &self.data.len()).finish_non_exhaustive()
    }
}

/// Where things are that signing changes; all offsets from the start of the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) checksum: usize,
    pub(crate) security_directory: usize,
    pub(crate) certificate_table: Option<(usize, usize)>,
}

impl<'a> PeImage<'a> {
    /// Parses the headers of a PE32 or PE32+ image.
    ///
    /// # Errors
    /// [`Error::NotPe`] when they are not those of one.
    pub fn parse(data: &'a [u8]) -> Result<Self, Error> {
        let not_pe = |why: String| Error::NotPe { why };
        // PE32 and PE32+ differ in the optional header's magic (PE format, "Optional Header Magic Number").
        let magic = size_at(data, 0x3c).and_then(|nt| u16_at(data, nt.checked_add(24)?));
        let file = match magic {
            Some(0x10b) => File::Pe32(PeFile32::parse(data).map_err(|e| not_pe(e.to_string()))?),
            Some(0x20b) => File::Pe64(PeFile64::parse(data).map_err(|e| not_pe(e.to_string()))?),
            Some(other) => return Err(not_pe(format!("optional header magic is {other:#06x}"))),
            None => return Err(not_pe("the file ends before its headers do".into())),
        };
        Ok(Self { data, file })
    }

    /// The file's bytes.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    fn pe(&self) -> &dyn PeTrait {
        match &self.file {
            File::Pe32(pe) => pe,
            File::Pe64(pe) => pe,
        }
    }

    /// COFF machine type, e.g. 0x8664 for x86-64.
    #[must_use]
    pub fn machine(&self) -> u16 {
        match &self.file {
            File::Pe32(pe) => pe.nt_headers().file_header().machine.get(LE),
            File::Pe64(pe) => pe.nt_headers().file_header().machine.get(LE),
        }
    }

    /// The major image version of the optional header; Linux has 1 there when it takes an initrd through `LoadFile2`
    /// (Linux, `drivers/firmware/efi/libstub/Kconfig` and `include/linux/pe.h`, `LINUX_EFISTUB_MAJOR_VERSION`).
    #[must_use]
    pub fn image_version(&self) -> u16 {
        match &self.file {
            File::Pe32(pe) => pe.nt_headers().optional_header().major_image_version.get(LE),
            File::Pe64(pe) => pe.nt_headers().optional_header().major_image_version.get(LE),
        }
    }

    /// Feeds the bytes that Authenticode covers to `hasher`: the file without its checksum, the certificate
    /// table's directory entry and the table itself.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] when the headers point outside the file.
    pub fn authenticode_into(&self, hasher: &mut dyn Update) -> Result<(), Error> {
        authenticode::authenticode_digest(self.pe(), hasher).map_err(|_| Error::OutOfBounds)
    }

    /// The measured form: what firmware and shim extend into PCR 4, and what db and dbx hashes mean.
    ///
    /// # Errors
    /// As [`Self::authenticode_into`].
    pub fn authenticode(&self, alg: HashAlg) -> Result<Digest, Error> {
        let mut hasher = Hasher::new(alg);
        self.authenticode_into(&mut hasher)?;
        Ok(hasher.finish())
    }

    /// The padded form: what a signature over this file covers once the file was padded to a multiple of eight
    /// bytes for it.
    ///
    /// # Errors
    /// As [`Self::authenticode_into`].
    pub fn authenticode_padded(&self, alg: HashAlg) -> Result<Digest, Error> {
        let mut hasher = Hasher::new(alg);
        self.authenticode_into(&mut hasher)?;
        let table = self.certificate_table()?.map_or(0, |(_, size)| size);
        let hashed = self.data.len().checked_sub(table).ok_or(Error::OutOfBounds)?;
        hasher.update(&[0; 7][..hashed.next_multiple_of(8) - hashed]);
        Ok(hasher.finish())
    }

    /// Whether there is something behind the certificate table. shim takes such a file for malformed (`pe.c`,
    /// `generate_hash`: "Malformed binary after Attribute Certificate Table").
    ///
    /// # Errors
    /// [`Error::CertificateTable`] when the table does not lie within the file.
    pub fn has_bytes_behind_signatures(&self) -> Result<bool, Error> {
        Ok(self
            .certificate_table()?
            .is_some_and(|(start, size)| start.saturating_add(size) != self.data.len()))
    }

    /// Whether the certificate table begins where the file ends, or behind that, as in one that is cut off. shim does not take
    /// such headers (`pe.c`, from 15.8 on `pe-relocate.c`, `read_header`: "Malformed security header").
    #[must_use]
    pub fn ends_before_signatures(&self) -> bool {
        let table = self.pe().certificate_table_range().ok().flatten();
        table.is_some_and(|table| {
            table.start > self.data.len() || (table.start == self.data.len() && !table.is_empty())
        })
    }

    /// Every section, in the header's order. One whose bytes are not in the file has empty `data`.
    pub fn sections(&self) -> impl Iterator<Item = Section<'a>> + '_ {
        let count = self.pe().num_sections();
        (1..=count).filter_map(move |index| {
            Some(match &self.file {
                File::Pe32(pe) => section(pe, self.data, index)?,
                File::Pe64(pe) => section(pe, self.data, index)?,
            })
        })
    }

    /// The first section called `name` (with its dot), e.g. `.sbat`.
    #[must_use]
    pub fn find_section(&self, name: &str) -> Option<Section<'a>> {
        self.sections().find(|s| s.name == name.as_bytes())
    }

    /// The bytes of the first section called `name`.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.find_section(name).map(|s| s.data)
    }

    /// Offset and size of the attribute certificate table, when there is one.
    ///
    /// # Errors
    /// [`Error::CertificateTable`] when it does not lie within the file.
    pub(crate) fn certificate_table(&self) -> Result<Option<(usize, usize)>, Error> {
        let range = self.pe().certificate_table_range().map_err(|_| Error::OutOfBounds)?;
        let Some(range) = range.filter(|r| !r.is_empty()) else { return Ok(None) };
        let (start, size) = (range.start, range.len());
        if range.end > self.data.len() {
            return Err(Error::CertificateTable { start, size, file: self.data.len() });
        }
        Ok(Some((start, size)))
    }

    /// Where the parts are that signing changes.
    pub(crate) fn layout(&self) -> Result<Layout, Error> {
        let offsets = self.pe().offsets().map_err(|_| Error::OutOfBounds)?;
        let has_entry = match &self.file {
            File::Pe32(pe) => pe.data_directories().len() > IMAGE_DIRECTORY_ENTRY_SECURITY,
            File::Pe64(pe) => pe.data_directories().len() > IMAGE_DIRECTORY_ENTRY_SECURITY,
        };
        if !has_entry {
            return Err(Error::NotPe { why: "it has no data directory for signatures".into() });
        }
        Ok(Layout {
            checksum: offsets.check_sum,
            security_directory: offsets.security_data_dir,
            certificate_table: self.certificate_table()?,
        })
    }

    /// The embedded Authenticode signatures, in file order. An entry that cannot be read is an error in its
    /// place, so that one odd signature does not hide the others.
    ///
    /// # Errors
    /// [`Error::CertificateTable`] when the table does not lie within the file.
    pub fn signatures(&self) -> Result<Vec<Result<Signature, SignatureError>>, Error> {
        let table = self.table()?;
        let read = |(kind, body): (u16, &[u8])| match kind {
            WIN_CERT_TYPE_PKCS => Signature::parse(body),
            other => Err(SignatureError::Kind { kind: other }),
        };
        let mut found: Vec<_> = table.entries.into_iter().map(read).collect();
        // Zeros are padding after the last entry.
        if let Some(length) = size_at(table.rest, 0).filter(|_| table.rest.iter().any(|byte| *byte != 0)) {
            found.push(Err(SignatureError::Length { length }));
        }
        Ok(found)
    }

    /// How the certificate table ends.
    ///
    /// # Errors
    /// As [`Self::signatures`].
    pub fn table_end(&self) -> Result<TableEnd, Error> {
        let table = self.table()?;
        Ok(match (table.rest, table.is_short) {
            ([], false) => TableEnd::Filled,
            ([], true) => TableEnd::Short,
            _ => TableEnd::Rest,
        })
    }

    /// Reads the certificate table, entry by entry up to what is none.
    fn table(&self) -> Result<Table<'a>, Error> {
        let (start, size) = self.certificate_table()?.unwrap_or_default();
        let mut rest = slice(self.data, start, size).ok_or(Error::OutOfBounds)?;
        let (mut entries, mut is_short) = (Vec::new(), false);
        while rest.len() >= SMALLEST_ENTRY {
            let (Some(length), Some(kind)) = (size_at(rest, 0), u16_at(rest, 6)) else { break };
            let Some(body) = rest.get(WIN_CERTIFICATE_HEADER..length) else { break };
            entries.push((kind, body));
            let next = length.next_multiple_of(8);
            is_short = next > rest.len();
            rest = rest.get(next..).unwrap_or_default();
        }
        Ok(Table { entries, is_short, rest })
    }
}

fn section<'a, I: ImageNtHeaders>(pe: &PeFile<'a, I>, data: &'a [u8], index: usize) -> Option<Section<'a>> {
    let header: &'a ImageSectionHeader = pe.section_table().section(object::SectionIndex(index)).ok()?;
    let strings = pe.nt_headers().symbols(data).ok().map(|s| s.strings()).unwrap_or_default();
    let name = header.name(strings).unwrap_or_else(|_| header.raw_name());
    let offset = usize::try_from(header.pointer_to_raw_data.get(LE)).ok()?;
    let raw_size = usize::try_from(header.size_of_raw_data.get(LE)).ok()?;
    let virtual_size = usize::try_from(header.virtual_size.get(LE)).ok()?;
    let used = if virtual_size == 0 { raw_size } else { raw_size.min(virtual_size) };
    let bytes = slice(data, offset, used).unwrap_or_default();
    Some(Section { name, offset, raw_size, virtual_size, data: bytes })
}
