//! Writing a small PE32+ application for x86-64.
//!
//! The layout follows "PE Format"; it keeps to what shim's `read_header` checks, which is stricter than firmware.

use crate::sign::{self, Error};

/// Section alignment in memory, bytes.
const PAGE: u32 = 0x1000;
/// Alignment in the file, bytes.
const FILE_ALIGNMENT: u32 = 0x200;
/// Where the PE header starts, after the 64-byte DOS header.
const NT: usize = 0x40;
/// Optional header of PE32+ with sixteen data directories.
const OPTIONAL_HEADER: u16 = 240;
/// Initialised data, readable.
const DATA_SECTION: u32 = 0x4000_0040;
/// Code, readable and executable.
const CODE_SECTION: u32 = 0x6000_0020;

/// `xor eax, eax; ret`: returns `EFI_SUCCESS`.
pub(crate) const DOES_NOTHING: [u8; 3] = [0x31, 0xc0, 0xc3];

/// One section to write.
pub(crate) struct Part<'a> {
    name: &'a str,
    characteristics: u32,
    data: &'a [u8],
}

impl<'a> Part<'a> {
    /// A section with code.
    pub(crate) fn code(name: &'a str, data: &'a [u8]) -> Self {
        Self { name, characteristics: CODE_SECTION, data }
    }

    /// A section with data.
    pub(crate) fn data(name: &'a str, data: &'a [u8]) -> Self {
        Self { name, characteristics: DATA_SECTION, data }
    }
}

/// An application of `parts`; the first one is entered. Names of more than eight bytes go to a COFF string
/// table, as linkers of the GNU family do it.
pub(crate) fn application(parts: &[Part<'_>]) -> Result<Vec<u8>, Error> {
    let headers = aligned(NT + 24 + usize::from(OPTIONAL_HEADER) + 40 * parts.len(), FILE_ALIGNMENT)?;
    let (mut table, mut bodies, mut strings) = (Vec::new(), Vec::new(), Vec::new());
    let (mut address, mut offset, mut initialised) = (PAGE, headers, 0);
    for part in parts {
        let size = u32::try_from(part.data.len()).map_err(|_| Error::TooLarge)?;
        let raw = aligned(part.data.len(), FILE_ALIGNMENT)?;
        table.extend(short_name(part.name, &mut strings));
        // Size in memory (exact: shim 16.x reads no further), address, size and place in the file; then no
        // relocations and no line numbers.
        for field in [size, address, raw, offset, 0, 0, 0, part.characteristics] {
            table.extend(field.to_le_bytes());
        }
        bodies.extend_from_slice(part.data);
        bodies.resize(bodies.len().next_multiple_of(FILE_ALIGNMENT as usize), 0);
        address = address.checked_add(aligned(part.data.len(), PAGE)?).ok_or(Error::TooLarge)?;
        offset = offset.checked_add(raw).ok_or(Error::TooLarge)?;
        initialised += if part.characteristics == DATA_SECTION { raw } else { 0 };
    }
    let mut out = vec![0; NT];
    out[..2].copy_from_slice(b"MZ");
    out[0x3c] = 0x40; // where the PE header starts
    out.extend(b"PE\0\0");
    out.extend(0x8664_u16.to_le_bytes()); // x86-64
    out.extend(u16::try_from(parts.len()).map_err(|_| Error::TooLarge)?.to_le_bytes());
    out.extend([0; 4]); // no time stamp
    let symbols = if strings.is_empty() { 0 } else { offset };
    out.extend(symbols.to_le_bytes());
    out.extend([0; 4]); // no symbols, only their string table
    out.extend(OPTIONAL_HEADER.to_le_bytes());
    // Executable, large addresses, no line numbers, no local symbols, no debug data. Relocations must not count
    // as stripped (shim refuses that), though there are none.
    out.extend(0x022e_u16.to_le_bytes());
    optional_header(&mut out, headers, address, initialised);
    out.extend(table);
    out.resize(headers as usize, 0);
    out.extend(bodies);
    if !strings.is_empty() {
        let length = u32::try_from(strings.len() + 4).map_err(|_| Error::TooLarge)?;
        out.extend(length.to_le_bytes());
        out.extend(strings);
    }
    sign::fix_checksum(&mut out)?;
    Ok(out)
}

fn short_name(name: &str, strings: &mut Vec<u8>) -> [u8; 8] {
    let place = if name.len() > 8 {
        // Offsets count from the table's own length field.
        let place = format!("/{}", strings.len() + 4);
        strings.extend(name.bytes());
        strings.push(0);
        place
    } else {
        name.to_owned()
    };
    let mut short = [0; 8];
    short.iter_mut().zip(place.bytes()).for_each(|(to, from)| *to = from);
    short
}

fn optional_header(out: &mut Vec<u8>, headers: u32, image_size: u32, initialised: u32) {
    out.extend(0x20b_u16.to_le_bytes()); // PE32+
    out.extend([0, 0]); // linker version
    for field in [FILE_ALIGNMENT, initialised, 0, PAGE, PAGE] {
        out.extend(field.to_le_bytes()); // size of code, data, bss; entry point; base of code
    }
    out.extend(0_u64.to_le_bytes()); // image base
    out.extend(PAGE.to_le_bytes());
    out.extend(FILE_ALIGNMENT.to_le_bytes());
    out.extend([0; 16]); // versions
    for field in [image_size, headers, 0] {
        out.extend(field.to_le_bytes()); // the last one is the checksum
    }
    out.extend(10_u16.to_le_bytes()); // EFI application
    out.extend(0x0100_u16.to_le_bytes()); // no page need be writable and executable at once
    out.extend([0; 32]); // stack and heap
    out.extend(0_u32.to_le_bytes());
    out.extend(16_u32.to_le_bytes());
    out.extend([0; 128]); // data directories
}

fn aligned(size: usize, to: u32) -> Result<u32, Error> {
    u32::try_from(size).ok().and_then(|s| s.checked_next_multiple_of(to)).ok_or(Error::TooLarge)
}
