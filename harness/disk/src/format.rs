//! What kind of file a disk image is, told from its content and never from its name.
//!
//! Sources: QEMU `docs/interop/qcow2.rst`; Microsoft "Virtual Hard Disk Image Format Specification" (footer).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes looked at from the start: enough for an ISO's mark at 32 KiB.
const HEAD: u64 = 0x8800;
/// A VHD's footer, at the end of the file.
const FOOTER: u64 = 512;

/// A format that a machine's disk can be based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "kebab-case")]
pub enum Format {
    /// QEMU's own.
    Qcow2,
    /// The disk's bytes and nothing else.
    Raw,
    /// The disk's bytes and a footer of 512 bytes, as Azure exports it.
    FixedVhd {
        /// Size of the disk in bytes, without the footer.
        size: u64,
    },
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::FixedVhd { .. } => "fixed VHD",
        })
    }
}

/// Why a file cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("reading the disk image {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A format that is known and not supported.
    #[error("{path} is {kind}, which cannot be used directly; {remedy}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Not a disk at all, or only a part of one.
    #[error("{path} is no disk image: {why}")]
    NotADisk {
        /// The file.
        path: PathBuf,
        /// What speaks against it.
        why: &'static str,
    },
}

const CONVERT: &str = "convert it first: qemu-img convert -O qcow2 IMAGE NEW.qcow2";
const UNPACK: &str = "unpack it first";

/// Marks at fixed places, with what they mean.
const FOREIGN: [(usize, &[u8], &str, &str); 11] = [
    (0, b"KDMV", "a VMDK disk", CONVERT),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor", CONVERT),
    (0, b"vhdxfile", "a VHDX disk", CONVERT),
    (0, b"conectix", "a dynamic VHD disk", CONVERT),
    (0, b"QED\0", "a QED disk", CONVERT),
    (0x40, b"\x7f\x10\xda\xbe", "a VirtualBox disk", CONVERT),
    (0, b"\x1f\x8b", "compressed with gzip", UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (0, b"BZh", "compressed with bzip2", UNPACK),
    (0, b"PK\x03\x04", "a zip archive", UNPACK),
];

/// Tells what `path` is.
///
/// # Errors
/// [`Error::Unsupported`] with what to do for a format that is not supported, [`Error::NotADisk`] for what
/// cannot be a disk.
pub fn detect(path: &Path) -> Result<Format, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let length = file.seek(SeekFrom::End(0)).map_err(read)?;
    let mut head = Vec::new();
    file.rewind().map_err(read)?;
    (&file).take(HEAD).read_to_end(&mut head).map_err(read)?;
    let mut footer = Vec::new();
    if length >= FOOTER {
        file.seek(SeekFrom::End(-512)).map_err(read)?;
        (&file).take(FOOTER).read_to_end(&mut footer).map_err(read)?;
    }
    classify(&head, &footer, length).map_err(|problem| match problem {
        Problem::Unsupported(kind, remedy) => Error::Unsupported { path: path.to_owned(), kind, remedy },
        Problem::NotADisk(why) => Error::NotADisk { path: path.to_owned(), why },
    })
}

/// As [`detect`], for a file that somebody brings: it must hold the whole disk. A qcow2 that names a backing file would
/// have QEMU open any file of this computer that it names.
///
/// # Errors
/// As [`detect`], and [`Error::Unsupported`] for a qcow2 over another file.
pub fn detect_whole(path: &Path) -> Result<Format, Error> {
    let format = detect(path)?;
    let read = |source| Error::Read { path: path.to_owned(), source };
    let mut head = [0; 16];
    if format == Format::Qcow2 {
        File::open(path).and_then(|mut file| file.read_exact(&mut head)).map_err(read)?;
        // `backing_file_offset` (QEMU, docs/interop/qcow2.rst).
        if head[8..16] != [0; 8] {
            let kind = "a qcow2 overlay over another file";
            return Err(Error::Unsupported { path: path.to_owned(), kind, remedy: CONVERT });
        }
    }
    Ok(format)
}

enum Problem {
    Unsupported(&'static str, &'static str),
    NotADisk(&'static str),
}

fn classify(head: &[u8], footer: &[u8], length: u64) -> Result<Format, Problem> {
    let has = |at: usize, mark: &[u8]| head.get(at..at + mark.len()) == Some(mark);
    if has(0, b"QFI\xfb") {
        return qcow2(head);
    }
    // A fixed VHD begins with the disk itself, so its footer comes before what the beginning looks like.
    if footer.starts_with(b"conectix") && !has(0, b"conectix") {
        return vhd(footer, length);
    }
    if let Some((_, _, kind, remedy)) = FOREIGN.iter().find(|(at, mark, ..)| has(*at, mark)) {
        return Err(Problem::Unsupported(kind, remedy));
    }
    if has(0x8001, b"CD001") && !has(510, b"\x55\xaa") {
        return Err(Problem::Unsupported(
            "an ISO image of a CD",
            "install from it and use the resulting disk",
        ));
    }
    if length == 0 {
        return Err(Problem::NotADisk("it is empty"));
    }
    if !length.is_multiple_of(512) {
        return Err(Problem::NotADisk("its size is not a multiple of 512 bytes; it may be cut off"));
    }
    Ok(Format::Raw)
}

fn qcow2(head: &[u8]) -> Result<Format, Problem> {
    let word = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    match word(4) {
        Some(2 | 3) => {}
        _ => return Err(Problem::NotADisk("its qcow2 version is unknown")),
    }
    if word(32) != Some(0) {
        return Err(Problem::Unsupported("an encrypted qcow2 disk", CONVERT));
    }
    // Incompatible features: bit 1 corrupt, bit 2 the data is in another file.
    let features = if word(4) == Some(3) { word(76).unwrap_or(0) } else { 0 };
    if features & 0b10 != 0 {
        return Err(Problem::Unsupported(
            "a damaged qcow2 disk",
            "repair it first: qemu-img check -r all IMAGE",
        ));
    }
    if features & 0b100 != 0 {
        return Err(Problem::Unsupported("a qcow2 disk with its data in another file", CONVERT));
    }
    Ok(Format::Qcow2)
}

fn vhd(footer: &[u8], length: u64) -> Result<Format, Problem> {
    let kind = footer.get(60..64).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    if kind != Some(2) {
        return Err(Problem::Unsupported("a dynamic VHD disk", CONVERT));
    }
    let size = footer.get(48..56).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
    if size.checked_add(FOOTER) != Some(length) || !size.is_multiple_of(512) {
        return Err(Problem::NotADisk(
            "its VHD footer names another size than the file has; it may be cut off",
        ));
    }
    Ok(Format::FixedVhd { size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hostile_files_never_panic(
            mark in proptest::sample::select(vec![&b""[..], b"QFI\xfb\0\0\0\x03", b"conectix"]),
            head in proptest::collection::vec(any::<u8>(), 0..200),
            footer in proptest::collection::vec(any::<u8>(), 0..512),
            length in any::<u64>(),
        ) {
            let head = [mark, &head].concat();
            let footer = [mark, &footer].concat();
            let _ = classify(&head, &footer, length);
        }
    }
}
