//! Archives as systemd-stub packs them for the kernel: the same bytes each time, as they are measured.
//!
//! Source: systemd 252.39 and 257.13, `src/boot/efi/cpio.c`, `src/boot/cpio.c` (`pack_cpio_prefix`, `pack_cpio_one`,
//! `pack_cpio_trailer`); Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

/// Types in a file's mode.
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
/// Directories on the way to the last one are open to all.
const ON_THE_WAY: u32 = 0o555;
/// The last entry. Its name's length stands there in capitals; four NULs follow.
const TRAILER: &[u8] = b"070701\
    00000000000000000000000000000000000000010000000000000000\
    000000000000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0";

/// Who may do what with the last directory and the files in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Modes {
    pub(super) directory: u32,
    pub(super) file: u32,
}

/// An archive with these files, name and contents, in this directory.
pub(super) fn archive(directory: &str, modes: Modes, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut number = 0..;
    let mut next = || number.next().map_or(u32::MAX, |n: u32| n + 1);
    for (at, _) in directory.match_indices('/') {
        entry(&mut out, next(), DIRECTORY | ON_THE_WAY, &directory[..at], &[]);
    }
    entry(&mut out, next(), DIRECTORY | modes.directory, directory, &[]);
    for (name, contents) in files {
        entry(&mut out, next(), FILE | modes.file, &format!("{directory}/{name}"), contents);
    }
    out.extend_from_slice(TRAILER);
    out
}

/// Number, mode, owner and group (root), one link, no time, size, no devices, the name's length with its NUL, no checksum.
fn entry(out: &mut Vec<u8>, number: u32, mode: u32, name: &str, contents: &[u8]) {
    out.extend(b"070701");
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let (size, named) = (length(contents.len()), length(name.len() + 1));
    for field in [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, named, 0] {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(contents);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_trailer_is_as_long_as_the_kernel_wants_it() {
        assert_eq!(TRAILER.len(), 6 + 13 * 8 + 14);
    }

    /// Another implementation reads what is packed here.
    #[test]
    fn cpio_reads_it() {
        let modes = Modes { directory: 0o500, file: 0o400 };
        let packed = archive(".extra/credentials", modes, &[("one.cred", b"12345"), ("two.cred", b"")]);
        assert_eq!(packed.len() % 4, 0);
        let mut reader = cpio::NewcReader::new(&packed[..]).unwrap();
        let mut found = Vec::new();
        while !reader.entry().is_trailer() {
            let entry = reader.entry();
            found.push((entry.name().to_owned(), entry.ino(), entry.mode(), entry.file_size()));
            reader = cpio::NewcReader::new(reader.finish().unwrap()).unwrap();
        }
        let expected = [
            (".extra", 1, 0o040_555, 0),
            (".extra/credentials", 2, 0o040_500, 0),
            (".extra/credentials/one.cred", 3, 0o100_400, 5),
            (".extra/credentials/two.cred", 4, 0o100_400, 0),
        ];
        assert_eq!(found, expected.map(|(name, ino, mode, size)| (name.to_owned(), ino, mode, size)));
        // And the tool, where there is one.
        let tool = Command::new("cpio").arg("-t").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut tool) = tool else { return };
        std::io::Write::write_all(&mut tool.stdin.take().unwrap(), &packed).unwrap();
        let listed = tool.wait_with_output().unwrap();
        assert_eq!(listed.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count(), 4);
    }
}
