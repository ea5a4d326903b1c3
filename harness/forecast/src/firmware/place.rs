//! Where a boot option leads, by its device path.
//!
//! Sources: edk2 `MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c` (`BmGetNextLoadOptionDevicePath`: what short paths are
//! filled up to), `OvmfPkg/Library/QemuBootOrderLib` (`Match`, `BootOrderComplete`); UEFI 2.10, section 10.3.

use latchkey_disk::Partition;
use uuid::Uuid;

/// What the firmware starts from a disk without an option for a file (UEFI 2.10, section 3.5.1.1).
pub(super) const DEFAULT: &str = "/EFI/BOOT/BOOTX64.EFI";

/// The table is a GPT, the partition's signature a GUID (UEFI 2.10, section 10.3.5.1).
pub(super) const OF_GPT: [u8; 2] = [2, 2];
/// Ends a device path.
pub(super) const END: [u8; 4] = [0x7f, 0xff, 4, 0];
/// `PciRoot()`: an ACPI node for PNP0A03. `PcieRoot()` is PNP0A08.
const PCI_ROOT: [u8; 8] = [2, 1, 12, 0, 0xd0, 0x41, 0x03, 0x0a];

/// Where a boot option leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file on a partition, path with forward slashes; of a path that ends with the partition the removable-media default.
    File {
        /// What table the partition stands in, and what it is known by.
        kind: [u8; 2],
        /// The partition's number.
        number: u32,
        /// The partition's GUID, in a GPT.
        partition: Uuid,
        /// The file.
        path: String,
    },
    /// A file on whichever file system has it (`BmExpandFileDevicePath`).
    Anywhere(String),
    /// The whole disk: its removable-media default.
    Disk,
    /// A program in the firmware, menu or shell, by its file's name.
    Inside(Uuid),
    /// Something on a partition that is no file, or behind the PCI root, such as another disk or the network.
    Unnamed,
    /// Something else.
    Elsewhere,
}

impl Place {
    /// The path of the file that it leads to on `partition`, if it does: number and GUID have to be the same (edk2
    /// `BmMatchPartitionDevicePathNode`).
    pub(super) fn file_on(&self, on: &Partition) -> Option<&str> {
        match self {
            Self::File { kind, number, partition, path }
                if (*kind, *number, *partition) == (OF_GPT, on.index, on.guid) =>
            {
                Some(path)
            }
            Self::Anywhere(path) => Some(path),
            _ => None,
        }
    }

    /// Whether the firmware takes out of the order what QEMU does not name and begins like this: `HD()`, `PciRoot()`
    /// (`BootOrderComplete`).
    pub(super) fn is_dropped(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Unnamed)
    }
}

/// What of a path comes behind the disk's own, where it begins with that.
pub(super) fn behind<'a>(path: &'a [u8], disk: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(disk.strip_suffix(&END)?)
}

pub(super) fn place(path: &[u8], disk: &[u8]) -> Place {
    if path == disk {
        return Place::Disk;
    }
    let rest = behind(path, disk).unwrap_or(path);
    match (rest.first(), rest.get(1)) {
        // MEDIA_HARDDRIVE_DP, then MEDIA_FILEPATH_DP or nothing.
        (Some(4), Some(1)) => file(rest).unwrap_or(Place::Unnamed),
        // MEDIA_FILEPATH_DP, a short path.
        (Some(4), Some(4)) if rest == path => name(rest).map_or(Place::Elsewhere, Place::Anywhere),
        // MEDIA_PIWG_FW_VOL_DP.
        (Some(4), Some(7)) => program(rest).map_or(Place::Elsewhere, Place::Inside),
        _ if path.starts_with(&PCI_ROOT) => Place::Unnamed,
        _ => Place::Elsewhere,
    }
}

/// The file of a volume, and of that file the name: two nodes of twenty bytes.
fn program(path: &[u8]) -> Option<Uuid> {
    let node = path.get(20..40)?;
    (node.get(..2)? == [4, 6]).then(|| node.get(4..)?.try_into().ok().map(Uuid::from_bytes_le)).flatten()
}

fn file(path: &[u8]) -> Option<Place> {
    let number = u32::from_le_bytes(path.get(4..8)?.try_into().ok()?);
    let partition = Uuid::from_bytes_le(path.get(24..40)?.try_into().ok()?);
    let kind = path.get(40..42)?.try_into().ok()?;
    let rest = path.get(42..)?;
    let path = if rest == END { DEFAULT.to_owned() } else { name(rest)? };
    Some(Place::File { kind, number, partition, path })
}

/// The file that a node names.
fn name(node: &[u8]) -> Option<String> {
    if node.get(..2)? != [4, 4] {
        return None;
    }
    let length = usize::from(u16::from_le_bytes(node.get(2..4)?.try_into().ok()?));
    let units: Vec<u16> =
        node.get(4..length)?.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    let text = String::from_utf16(units.strip_suffix(&[0]).unwrap_or(&units)).ok()?;
    Some(text.replace('\\', "/"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::options::file_path;
    use super::*;

    const DISK: [u8; 22] = [2, 1, 12, 0, 0xd0, 0x41, 3, 0x0a, 0, 0, 0, 0, 1, 1, 6, 0, 0, 3, 0x7f, 0xff, 4, 0];
    const FILE: &str = "/EFI/rocky/shimx64.efi";

    fn on(index: u32, guid: u128) -> Partition {
        Partition {
            index,
            type_guid: Uuid::nil(),
            guid: Uuid::from_u128(guid),
            name: String::new(),
            first_lba: 2048,
            last_lba: 4095,
            no_auto: false,
        }
    }

    #[test]
    fn a_file_is_on_the_partition_of_that_number_and_guid() {
        let path = file_path(&on(1, 7), FILE);
        let whole = [&DISK[..18], &path].concat();
        for path in [&path, &whole] {
            let place = place(path, &DISK);
            assert_eq!(place.file_on(&on(1, 7)), Some(FILE));
            assert_eq!((place.file_on(&on(2, 7)), place.file_on(&on(1, 8))), (None, None));
        }
        // Of a disk with an MBR: it leads nowhere, and is not what leads elsewhere, which the firmware keeps.
        let mut path = path;
        path[40] = 1;
        let place = place(&path, &DISK);
        assert!(matches!(place, Place::File { .. }) && place.file_on(&on(1, 7)).is_none());
    }

    #[test]
    fn short_paths_are_filled_up() {
        let path = file_path(&on(1, 7), FILE);
        let (partition, file) = path.split_at(42);
        assert_eq!(place(&[partition, &END].concat(), &DISK).file_on(&on(1, 7)), Some(DEFAULT));
        assert_eq!(place(file, &DISK), Place::Anywhere(FILE.to_owned()));
    }

    #[rstest]
    #[case::the_disk(DISK.to_vec(), Place::Disk)]
    #[case::another_one([&DISK[..17], &[9], &END].concat(), Place::Unnamed)]
    #[case::no_file([&file_path(&on(1, 7), FILE)[..42], &[3, 1, 4, 0], &END].concat(), Place::Unnamed)]
    #[case::of_another_bus([&[2, 1, 12, 0, 0xd0, 0x41, 8, 0x0a, 0, 0, 0, 0][..], &END].concat(), Place::Elsewhere)]
    #[case::nothing(END.to_vec(), Place::Elsewhere)]
    #[case::no_path(Vec::new(), Place::Elsewhere)]
    fn what_is_no_file(#[case] path: Vec<u8>, #[case] expected: Place) {
        assert_eq!(place(&path, &DISK), expected);
    }
}
