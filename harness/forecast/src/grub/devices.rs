//! GRUB's devices: the partitions of the one disk, and the small disk in GRUB's own image.

use std::io::{Cursor, Read};

use latchkey_disk::gpt::kind;

use crate::{Target, Volume};

/// Most bytes of a file that is read from the memory disk.
const MOST: u64 = 16 << 20;

/// A device that GRUB can name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A file of the memory disk, a FAT file system.
pub(crate) fn in_memdisk(disk: &[u8], path: &str) -> Option<Vec<u8>> {
    let fs = fatfs::FileSystem::new(Cursor::new(disk.to_vec()), fatfs::FsOptions::new()).ok()?;
    let mut bytes = Vec::new();
    let file = fs.root_dir().open_file(path.trim_start_matches('/')).ok()?;
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
