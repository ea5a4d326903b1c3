//! The firmware's file: what of it is measured.
//!
//! Sources: UEFI PI 1.8 volume 3, sections 3.2.1 (volumes), 3.2.3 (files), 3.2.4 (sections); edk2
//! `OvmfPkg/OvmfPkgX64.fdf` (a compressed section in the first volume holds the PEI and the DXE volume), `Tcg2Pei.c`
//! (`EV_S_CRTM_VERSION` is the firmware's version string, `EV_EFI_PLATFORM_FIRMWARE_BLOB` a whole volume).

use std::io::Read;

use bytes::Bytes;
use latchkey_record::pcr::Digest;
use uuid::{Uuid, uuid};

/// `gLzmaCustomDecompressGuid`.
const LZMA: Uuid = uuid!("ee4e5898-3914-4259-9d6e-dc7bd79403cf");
/// Most bytes that the compressed part may unpack to; OVMF's are 14 MiB.
const MOST: u64 = 64 << 20;
const FILE_HEADER: usize = 24;
/// `FFS_ATTRIB_LARGE_FILE`: eight more bytes of header hold the size.
const LARGE: u8 = 0x01;
const SECTION_GUIDED: u8 = 0x02;
const SECTION_PE32: u8 = 0x10;
const SECTION_VOLUME: u8 = 0x17;

/// Why a firmware's file is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading the firmware: {0}; expected OVMF's code, such as OVMF_CODE_4M.secboot.fd")]
pub struct Error(&'static str);

/// What of the firmware's file counts for measurements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareImage {
    /// Data of `EV_S_CRTM_VERSION`: the version in UTF-16LE with its NUL; that alone in builds without a version.
    pub crtm_version: Vec<u8>,
    /// The DXE firmware volume, as it is measured.
    pub dxe_volume: Bytes,
    /// Its hashes, as far as they are known already.
    pub dxe_digests: Vec<Digest>,
}

impl FirmwareImage {
    /// Reads OVMF's code.
    ///
    /// # Errors
    /// [`Error`] says what is missing.
    pub fn parse(code: &[u8]) -> Result<Self, Error> {
        Self::of_unpacked(&unpack(code)?.into())
    }

    /// Reads what [`unpack`] gave.
    ///
    /// # Errors
    /// [`Error`] says what is missing.
    pub fn of_unpacked(unpacked: &Bytes) -> Result<Self, Error> {
        let mut volumes =
            sections(unpacked).filter(|(kind, _)| *kind == SECTION_VOLUME).map(|(_, body)| body);
        let pei = volumes.next().ok_or(Error("it has no PEI volume"))?;
        let dxe = volumes.next().ok_or(Error("it has no DXE volume"))?;
        Ok(Self { crtm_version: version(pei), dxe_volume: unpacked.slice_ref(dxe), dxe_digests: Vec::new() })
    }

    /// A program in the DXE volume, by its file's name.
    #[must_use]
    pub fn program(&self, name: Uuid) -> Option<Bytes> {
        let (_, body) = files(&self.dxe_volume).find(|(known, _)| *known == name)?;
        let (_, program) = sections(body).find(|(kind, _)| *kind == SECTION_PE32)?;
        Some(self.dxe_volume.slice_ref(program))
    }

    /// The build's version; `None` where it has none, as 2022.11.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        let units: Vec<u16> =
            self.crtm_version.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        let text = String::from_utf16(units.strip_suffix(&[0])?).ok()?;
        (!text.is_empty()).then_some(text)
    }
}

/// The compressed part of OVMF's code, unpacked: its sections with the PEI and the DXE volume. It takes longer than all
/// else that is done with the firmware.
///
/// # Errors
/// [`Error`] when there is none, or it is damaged.
pub fn unpack(code: &[u8]) -> Result<Vec<u8>, Error> {
    decompress(lzma_section(code).ok_or(Error("it has no compressed volumes"))?)
}

fn decompress(packed: &[u8]) -> Result<Vec<u8>, Error> {
    let damaged = |_| Error("its compressed volumes are damaged");
    let stream = liblzma::stream::Stream::new_lzma_decoder(MOST).map_err(|_| damaged(()))?;
    let mut out = Vec::new();
    let unpacked =
        liblzma::bufread::XzDecoder::new_stream(packed, stream).take(MOST + 1).read_to_end(&mut out);
    let size = unpacked.map_err(|_| damaged(()))?;
    if size as u64 > MOST { Err(damaged(())) } else { Ok(out) }
}

fn u24(bytes: &[u8], at: usize) -> Option<usize> {
    let b = bytes.get(at..at.checked_add(3)?)?;
    Some(usize::from(b[0]) | usize::from(b[1]) << 8 | usize::from(b[2]) << 16)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

/// The sections in a file's body, with their kinds, as far as they make sense. They start at multiples of four.
fn sections(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut at = 0usize;
    std::iter::from_fn(move || {
        let kind = *body.get(at.checked_add(3)?)?;
        let (size, header) = match u24(body, at)? {
            0xff_ffff => {
                let long = body.get(at + 4..at + 8)?.try_into().ok()?;
                (usize::try_from(u32::from_le_bytes(long)).ok()?, 8)
            }
            short => (short, 4),
        };
        let section = body.get(at + header..at.checked_add(size)?)?;
        at = at.checked_add(size)?.next_multiple_of(4);
        Some((kind, section))
    })
}

/// The compressed section of the first volume.
fn lzma_section(code: &[u8]) -> Option<&[u8]> {
    files(code).flat_map(|(_, body)| sections(body)).find_map(|(kind, section)| {
        let guid = section.get(..16).and_then(|b| b.try_into().ok()).map(Uuid::from_bytes_le);
        if kind != SECTION_GUIDED || guid != Some(LZMA) {
            return None;
        }
        // The data's offset counts from the section's header, four bytes before what is here.
        section.get(u16_at(section, 16)?.checked_sub(4)?..)
    })
}

/// The files of the volume that `bytes` begin with: their names and bodies, as far as they make sense.
fn files(bytes: &[u8]) -> impl Iterator<Item = (Uuid, &[u8])> {
    let volume = volume(bytes).unwrap_or_default();
    let mut at = first_file(volume).unwrap_or(volume.len());
    std::iter::from_fn(move || {
        at = at.checked_next_multiple_of(8)?;
        let name = Uuid::from_bytes_le(volume.get(at..at.checked_add(16)?)?.try_into().ok()?);
        let large = volume.get(at + 19)? & LARGE != 0;
        let (size, header) = if large {
            let long = volume.get(at + 24..at + 32)?.try_into().ok()?;
            (usize::try_from(u64::from_le_bytes(long)).ok()?, FILE_HEADER + 8)
        } else {
            (u24(volume, at + 20)?, FILE_HEADER)
        };
        let body = volume.get(at.checked_add(header)?..at.checked_add(size)?)?;
        at = at.checked_add(size.max(FILE_HEADER))?;
        Some((name, body))
    })
}

/// The volume that `bytes` begin with.
fn volume(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.get(40..44)? != b"_FVH" {
        return None;
    }
    bytes.get(..usize::try_from(u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?)
}

/// Where a volume's first file begins.
fn first_file(volume: &[u8]) -> Option<usize> {
    let extension = u16_at(volume, 52)?;
    if extension == 0 {
        return u16_at(volume, 48);
    }
    let size = u32::from_le_bytes(volume.get(extension + 16..extension + 20)?.try_into().ok()?);
    extension.checked_add(usize::try_from(size).ok()?)
}

/// `PcdFirmwareVersionString`: a release's name in UTF-16LE, somewhere among the volume's settings. It is recognised by
/// its form (`2025.02-8+deb13u1`); builds without one measure an empty string.
fn version(pei: &[u8]) -> Vec<u8> {
    let unit = |at: usize| pei.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let digit = |c: Option<u16>| c.is_some_and(|c| (0x30..0x3a).contains(&c));
    let found = (0..pei.len().saturating_sub(14)).step_by(2).find(|at| {
        unit(*at) == Some(0x32)
            && unit(at + 2) == Some(0x30)
            && [4, 6, 10, 12].iter().all(|offset| digit(unit(at + offset)))
            && unit(at + 8) == Some(u16::from(b'.'))
            && matches!(unit(at + 14), Some(0 | 0x2d))
    });
    let Some(start) = found else { return vec![0, 0] };
    let end = (start..pei.len()).step_by(2).take(128).find(|at| unit(*at) == Some(0));
    end.map_or(vec![0, 0], |end| pei[start..end + 2].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_recognised_by_its_form() {
        let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let volume = [&[0u8; 40][..], &utf16("2025.02-8+deb13u1\0"), &[7; 20]].concat();
        assert_eq!(version(&volume), utf16("2025.02-8+deb13u1\0"));
        assert_eq!(version(&utf16("edk2-stable202302 and nothing else")), [0, 0]);
    }

    proptest::proptest! {
        #[test]
        fn hostile_files_never_panic(bytes in proptest::collection::vec(0u8.., 0..300), at in 0usize..200) {
            let _ = FirmwareImage::parse(&bytes);
            let mut volume = vec![0u8; 300];
            volume[32..40].copy_from_slice(&300u64.to_le_bytes());
            volume[40..44].copy_from_slice(b"_FVH");
            volume[48] = 72;
            volume[at.max(72)..at.max(72) + bytes.len().min(60)].copy_from_slice(&bytes[..bytes.len().min(60)]);
            let _ = FirmwareImage::parse(&volume);
            let dxe_volume = Bytes::from(volume);
            let _ = FirmwareImage { crtm_version: vec![], dxe_volume, dxe_digests: vec![] }.program(LZMA);
        }
    }
}
