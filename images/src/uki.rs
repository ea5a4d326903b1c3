//! Putting a unified kernel image together, as `ukify` and `objcopy` do: systemd's stub with sections added.
//!
//! Sources: systemd v252 `src/boot/efi/stub.c` (which sections it reads), "PE Format" (section table). The stub
//! finds its sections by name, so their order is free; addresses go up by pages after the stub's own.

use latchkey_measure::{PeImage, sign};

use crate::Error;

/// What goes into a UKI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) stub: &'a [u8],
    pub(crate) os_release: &'a [u8],
    pub(crate) command_line: &'a str,
    pub(crate) kernel_version: &'a str,
    pub(crate) kernel: &'a [u8],
    pub(crate) initrd: &'a [u8],
}

/// Alignment of added sections in memory, bytes.
const PAGE: u32 = 0x1000;
/// Initialised data, readable.
const DATA: u32 = 0x4000_0040;
/// Bytes of one entry of the section table.
const ENTRY: usize = 40;
/// Offsets in the COFF file header.
const COFF_SECTIONS: usize = 2;
const COFF_SYMBOLS: usize = 8;
const COFF_OPTIONAL_SIZE: usize = 16;
const COFF_SIZE: usize = 20;
/// Offsets in the optional header.
const OPT_INITIALISED: usize = 8;
const OPT_FILE_ALIGNMENT: usize = 36;
const OPT_IMAGE_SIZE: usize = 56;
const OPT_HEADERS_SIZE: usize = 60;

/// The UKI, unsigned, with a right checksum.
pub(crate) fn build(parts: &Parts<'_>) -> Result<Vec<u8>, Error> {
    let sections: [(&str, &[u8]); 5] = [
        (".osrel", parts.os_release),
        (".cmdline", parts.command_line.as_bytes()),
        (".uname", parts.kernel_version.as_bytes()),
        (".linux", parts.kernel),
        (".initrd", parts.initrd),
    ];
    let mut image = with_sections(parts.stub, &sections)?;
    sign::fix_checksum(&mut image).map_err(|source| Error::Sign { what: "the UKI".to_owned(), source })?;
    Ok(image)
}

/// `image` with `sections` added after its own. Symbols, which follow the sections in the file, are dropped.
fn with_sections(image: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>, Error> {
    let wrong = |why: &str| Error::Uki { why: why.to_owned() };
    let cut = || wrong("the stub's headers are cut short");
    // Checks the shape once, so that what follows reads a plausible image.
    PeImage::parse(image).map_err(|source| Error::Pe { what: "the stub".to_owned(), source })?;

    let coff = (get32(image, 0x3c).ok_or_else(cut)? as usize).checked_add(4).ok_or_else(cut)?;
    let count = usize::from(get16(image, coff + COFF_SECTIONS).ok_or_else(cut)?);
    let optional = coff + COFF_SIZE;
    let table = optional + usize::from(get16(image, coff + COFF_OPTIONAL_SIZE).ok_or_else(cut)?);
    let headers = get32(image, optional + OPT_HEADERS_SIZE).ok_or_else(cut)? as usize;
    let file_alignment = get32(image, optional + OPT_FILE_ALIGNMENT).ok_or_else(cut)?;
    if table + ENTRY * (count + sections.len()) > headers {
        return Err(wrong("the stub's headers have no room for more sections"));
    }
    if !file_alignment.is_power_of_two() {
        return Err(wrong("the stub's file alignment is not a power of two"));
    }

    let (mut address, mut end) = (0_u64, headers as u64);
    for entry in (0..count).map(|i| table + ENTRY * i) {
        let field = |offset| get32(image, entry + offset).map(u64::from).ok_or_else(cut);
        address = address.max(field(12)? + field(8)?);
        end = end.max(field(20)? + field(16)?);
    }
    let mut out = image.get(..usize::try_from(end).map_err(|_| cut())?).ok_or_else(cut)?.to_vec();
    put32(&mut out, coff + COFF_SYMBOLS, 0);
    put32(&mut out, coff + COFF_SYMBOLS + 4, 0);
    let too_large = |_| wrong("it is larger than 4 GiB");
    let mut initialised = u64::from(get32(image, optional + OPT_INITIALISED).ok_or_else(cut)?);
    for (i, (name, data)) in sections.iter().enumerate() {
        out.resize(out.len().next_multiple_of(file_alignment as usize), 0);
        address = address.next_multiple_of(u64::from(PAGE));
        let raw = data.len().next_multiple_of(file_alignment as usize);
        let entry = table + ENTRY * (count + i);
        let mut short = [0; 8];
        short
            .get_mut(..name.len())
            .ok_or_else(|| wrong("a section's name is too long"))?
            .copy_from_slice(name.as_bytes());
        out[entry..entry + 8].copy_from_slice(&short);
        let start = out.len();
        let fields = [data.len() as u64, address, raw as u64, start as u64, 0, 0, 0, u64::from(DATA)];
        for (slot, value) in fields.into_iter().enumerate() {
            put32(&mut out, entry + 8 + 4 * slot, u32::try_from(value).map_err(too_large)?);
        }
        out.extend_from_slice(data);
        out.resize(start + raw, 0);
        address += data.len() as u64;
        initialised += raw as u64;
    }
    let sections_now =
        u16::try_from(count + sections.len()).map_err(|_| wrong("it has too many sections"))?;
    out[coff + COFF_SECTIONS..coff + COFF_SECTIONS + 2].copy_from_slice(&sections_now.to_le_bytes());
    put32(&mut out, optional + OPT_INITIALISED, u32::try_from(initialised).map_err(too_large)?);
    let size = u32::try_from(address.next_multiple_of(u64::from(PAGE))).map_err(too_large)?;
    put32(&mut out, optional + OPT_IMAGE_SIZE, size);
    Ok(out)
}

fn get16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn get32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// `at` was read before, so it is inside.
fn put32(data: &mut [u8], at: usize, value: u32) {
    if let Some(place) = data.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use latchkey_measure::samples;
    use rstest::rstest;

    fn stub() -> Vec<u8> {
        latchkey_measure::certfile::build(
            &latchkey_measure::SignatureList::x509(uuid::Uuid::nil(), b"not a certificate").to_bytes(),
            "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n",
        )
        .unwrap()
    }

    fn parts<'a>(stub: &'a [u8], kernel: &'a [u8]) -> Parts<'a> {
        Parts {
            stub,
            os_release: b"ID=x\n",
            command_line: "rw",
            kernel_version: "6.1",
            kernel,
            initrd: b"initrd",
        }
    }

    #[test]
    fn sections_come_back_as_they_went_in_and_the_stub_keeps_its_own() {
        let stub = stub();
        let kernel = vec![7; 70_001];
        // The sample's headers are small: as many sections as fit are enough to see the layout.
        let image = with_sections(&stub, &[(".linux", &kernel)]).unwrap();
        let pe = PeImage::parse(&image).unwrap();
        assert_eq!(pe.section(".linux"), Some(kernel.as_slice()));
        assert_eq!(pe.section(".sbat"), PeImage::parse(&stub).unwrap().section(".sbat"));
        let signer = samples::signer("x").unwrap();
        assert!(sign::sign_pe(&image, &signer).is_ok());
    }

    #[rstest]
    #[case::empty(&[])]
    #[case::text(b"MZ but nothing else, not even near a header")]
    fn what_is_no_image_is_refused(#[case] stub: &[u8]) {
        assert!(build(&parts(stub, b"k")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_damaged_stub_makes_it_panic(at in 0_usize..1024, byte in proptest::num::u8::ANY, cut in 0_usize..4096) {
            let mut stub = stub();
            if let Some(b) = stub.get_mut(at) { *b = byte; }
            stub.truncate(stub.len().saturating_sub(cut));
            let _ = build(&parts(&stub, b"kernel"));
        }
    }
}
