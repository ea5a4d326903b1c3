//! GRUB's devices: the partitions of the one disk, and the small disk in GRUB's own image.

mod squashfs;

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use latchkey_disk::esp::caught;
use latchkey_disk::gpt::kind;

use crate::{Target, Volume};

/// A partition that may have a file system which GRUB reads and nothing here does, Btrfs for example: `number` if it is one.
pub(crate) fn unread(target: &Target<'_>, number: u32) -> Option<u32> {
    let partition = target.partitions.partitions.iter().find(|partition| partition.index == number)?;
    let linux = [kind::LINUX, kind::XBOOTLDR].contains(&partition.type_guid);
    (linux && volume(target, number).is_none()).then_some(number)
}

/// Most bytes of a file that is read from a memory disk with FAT.
const MOST: u64 = 16 << 20;

/// A device that GRUB can name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Device {
    /// `hd0,gptN`.
    Partition(u32),
    /// `memdisk`.
    Memdisk,
}

impl Device {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if name == "memdisk" {
            return Some(Self::Memdisk);
        }
        let number = name.strip_prefix("hd0,")?;
        number.strip_prefix("gpt").unwrap_or(number).parse().ok().map(Self::Partition)
    }
}

/// The number of the partition that the firmware starts programs from.
pub(crate) fn esp_number(target: &Target<'_>) -> Option<u32> {
    target.partitions.find(kind::ESP).map(|partition| partition.index)
}

/// The file system on partition `number`, if it is one that GRUB reads.
pub(crate) fn volume<'a>(target: &Target<'a>, number: u32) -> Option<&'a dyn Volume> {
    if esp_number(target) == Some(number) {
        return Some(target.esp);
    }
    target.boot.filter(|(known, _)| *known == number).map(|(_, volume)| volume)
}

/// Partitions with file systems that GRUB reads, in the order in which it looks through them.
pub(crate) fn numbers(target: &Target<'_>) -> Vec<u32> {
    let mut numbers: Vec<u32> = esp_number(target).into_iter().chain(target.boot.map(|(n, _)| n)).collect();
    numbers.sort_unstable();
    numbers
}

/// A memory disk that cannot be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// A file of the memory disk, a FAT file system or a squashfs; `None` when it has no such file. FAT's driver is not made for
/// hostile input and may panic on it.
pub(crate) fn in_memdisk(disk: &[u8], path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
    let read =
        || if disk.starts_with(squashfs::MAGIC) { squashfs::file(disk, path) } else { in_fat(disk, path) };
    match caught(read) {
        Some(Ok(file)) => Ok(file),
        Some(Err(_)) | None => Err(Unreadable),
    }
}

fn in_fat(disk: &[u8], path: &str) -> io::Result<Option<Vec<u8>>> {
    let disk = Limited { disk: Cursor::new(disk.to_vec()), allowance: ALLOWANCE };
    let fs = fatfs::FileSystem::new(disk, fatfs::FsOptions::new())?;
    let file = match fs.root_dir().open_file(path.trim_start_matches('/')) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    read(file).map(Some)
}

fn read(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads and writes that are allowed in all: a damaged file system can run in circles.
const ALLOWANCE: u32 = 1 << 20;

/// A disk in memory that is used for a limited number of times.
struct Limited {
    disk: Cursor<Vec<u8>>,
    allowance: u32,
}

impl Limited {
    fn spend(&mut self) -> io::Result<&mut Cursor<Vec<u8>>> {
        let left = self.allowance.checked_sub(1).ok_or_else(|| io::Error::other("it runs in circles"))?;
        self.allowance = left;
        Ok(&mut self.disk)
    }
}

impl Read for Limited {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.spend()?.read(bytes)
    }
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nothing is kept: the driver notes that the file system is in use.
        self.spend().map(|_| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Limited {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.spend()?.seek(to)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn memdisk() -> Vec<u8> {
        let mut disk = Cursor::new(vec![0; 64 << 10]);
        fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new()).unwrap();
        {
            let fs = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).unwrap();
            fs.root_dir().create_file("grub.cfg").unwrap().write_all(&b"set a=b\n".repeat(600)).unwrap();
        }
        disk.into_inner()
    }

    #[test]
    fn files_are_read() {
        assert_eq!(in_memdisk(&memdisk(), "/grub.cfg").unwrap().unwrap().len(), 4800);
        assert_eq!(in_memdisk(&memdisk(), "/none"), Ok(None));
        assert_eq!(in_memdisk(b"no disk", "/grub.cfg"), Err(Unreadable));
        assert_eq!(in_memdisk(squashfs::MAGIC, "/grub.cfg"), Err(Unreadable));
    }

    fn squashfs() -> Vec<u8> {
        let mut writer = backhand::FilesystemWriter::default();
        let header = backhand::NodeHeader::default();
        writer.push_dir("fonts", header).unwrap();
        writer.push_file(Cursor::new(vec![7; 300_000]), "fonts/unicode.pf2", header).unwrap();
        let mut disk = Cursor::new(Vec::new());
        writer.write(&mut disk).unwrap();
        disk.into_inner()
    }

    #[test]
    fn so_are_those_of_a_squashfs() {
        let disk = squashfs();
        assert_eq!(in_memdisk(&disk, "/fonts/unicode.pf2").unwrap().unwrap(), vec![7; 300_000]);
        assert_eq!(in_memdisk(&disk, "/fonts/none"), Ok(None));
        assert_eq!(in_memdisk(&disk, "/fonts"), Err(Unreadable));
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_squashfs_is_no_end(edits in proptest::collection::vec((0usize..1024, 0u8..), 1..12)) {
            let mut disk = squashfs();
            edits.iter().for_each(|(at, byte)| { let at = at % disk.len(); disk[at] = *byte; });
            let _ = in_memdisk(&disk, "/fonts/unicode.pf2");
        }

        #[test]
        fn a_damaged_disk_is_no_end(edits in proptest::collection::vec((0usize..8192, 0u8..), 1..12)) {
            let mut disk = memdisk();
            edits.iter().for_each(|(at, byte)| disk[*at] = *byte);
            let _ = in_memdisk(&disk, "/grub.cfg");
        }
    }
}
