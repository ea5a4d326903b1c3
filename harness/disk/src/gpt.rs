//! Reading a GUID partition table, as far as booting needs it, from bytes that may be anything.
//!
//! Source: UEFI 2.10 sections 5.2 (MBR) and 5.3 (GPT).

use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};
use uuid::{Uuid, uuid};

/// Bytes of a logical block. Azure presents its disks with 512.
pub const SECTOR: u64 = 512;
/// Most partition entries that are read; tables have 128.
const MOST_ENTRIES: u32 = 4096;
/// Smallest size of an entry in bytes.
const ENTRY: usize = 128;
/// Smallest size of the header in bytes.
const HEADER: usize = 92;
/// The attribute of a partition that is not to be found by its type (UAPI "Discoverable Partitions Specification",
/// `SD_GPT_FLAG_NO_AUTO`).
const NO_AUTO: u64 = 1 << 63;

/// Partition type GUIDs (UEFI 2.10 table 5.7; UAPI "Discoverable Partitions Specification").
pub mod kind {
    use uuid::{Uuid, uuid};

    /// EFI system partition.
    pub const ESP: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    /// Root of an x86-64 system.
    pub const ROOT_X86_64: Uuid = uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
    /// Boot loader partition beside the ESP.
    pub const XBOOTLDR: Uuid = uuid!("bc13c2ff-59e6-4262-a352-b275fd6f7172");
    /// Any Linux file system.
    pub const LINUX: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");
    /// Linux LVM.
    pub const LVM: Uuid = uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928");
    /// Linux software RAID.
    pub const RAID: Uuid = uuid!("a19d880f-05fc-4d3b-a006-743f0f84911e");
    /// Linux reserved; Azure keeps initial UEFI variables in one.
    pub const LINUX_RESERVED: Uuid = uuid!("8da63339-0007-60c0-c436-083ac8230908");
    /// GRUB's own code on a machine with a BIOS.
    pub const BIOS_BOOT: Uuid = uuid!("21686148-6449-6e6f-744e-656564454649");
}

/// Why there is no usable partition table.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk cannot be read.
    #[error("reading the partition table: {0}")]
    Read(#[from] io::Error),
    /// An older kind of partition table.
    #[error(
        "the disk has an MBR partition table, which Azure's confidential machines do not start from; only GPT is handled"
    )]
    Mbr,
    /// Blocks of 4096 bytes.
    #[error("the disk's partition table is for blocks of 4096 bytes; only 512 are handled")]
    LargeBlocks,
    /// A partition's contents alone.
    #[error(
        "it is a LUKS volume and no disk: the boot chain is on the disk's other partitions; give the whole disk"
    )]
    Luks,
    /// The same without encryption: an EFI system partition, or a `/boot`.
    #[error(
        "it is {kind} file system and no disk: the boot chain is on several of a disk's partitions; give the whole disk"
    )]
    FileSystem {
        /// Which, with its article.
        kind: &'static str,
    },
    /// Nothing that looks like a table.
    #[error("the disk has no partition table")]
    None,
    /// Both copies are damaged.
    #[error("the disk's partition table is damaged, and so is its copy at the end: {why}; it may be cut off")]
    Damaged {
        /// What is wrong with the first one.
        why: &'static str,
    },
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its number, counted from 1.
    pub index: u32,
    /// What it is for, see [`kind`].
    pub type_guid: Uuid,
    /// Its own GUID.
    pub guid: Uuid,
    /// Its name in the table.
    pub name: String,
    /// First block, in units of [`SECTOR`].
    pub first_lba: u64,
    /// Last block, in units of [`SECTOR`].
    pub last_lba: u64,
    /// Nobody is to find it by its type (attribute 63, of the Discoverable Partitions Specification).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_auto: bool,
}

impl Partition {
    /// Offset on the disk in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.first_lba * SECTOR
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        (self.last_lba - self.first_lba + 1) * SECTOR
    }

    /// What it is for, in a word or two.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self.type_guid {
            kind::ESP => "EFI system",
            kind::ROOT_X86_64 => "root (x86-64)",
            kind::XBOOTLDR => "boot loader",
            kind::LINUX => "Linux file system",
            kind::LVM => "LVM",
            kind::RAID => "Linux RAID",
            kind::LINUX_RESERVED => "Linux reserved",
            kind::BIOS_BOOT => "BIOS boot",
            _ => "other",
        }
    }
}

/// Which copy of the table was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Copy {
    /// The one at the disk's start.
    Primary,
    /// The one at its end, since the first is damaged.
    Backup,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpt {
    /// The disk's GUID.
    pub disk_guid: Uuid,
    /// Which copy this is.
    pub copy: Copy,
    /// The partitions in use, in the table's order.
    pub partitions: Vec<Partition>,
}

impl Gpt {
    /// Reads the table of `disk`, or its copy at the end when the first one is damaged.
    ///
    /// # Errors
    /// [`Error`] names what is there instead.
    pub fn read<D: Read + Seek>(disk: &mut D) -> Result<Self, Error> {
        let size = disk.seek(SeekFrom::End(0))?;
        let first = match read_copy(disk, size, SECTOR, Copy::Primary)? {
            Ok(gpt) => return Ok(gpt),
            Err(why) => why,
        };
        if let Some(last) = (size / SECTOR).checked_sub(1).filter(|last| *last > 1)
            && let Ok(gpt) = read_copy(disk, size, last * SECTOR, Copy::Backup)?
        {
            return Ok(gpt);
        }
        if at(disk, SECTOR, 8)?.as_deref() == Some(b"EFI PART") {
            return Err(Error::Damaged { why: first });
        }
        if at(disk, 4096, 8)?.as_deref() == Some(b"EFI PART") {
            return Err(Error::LargeBlocks);
        }
        match at(disk, 446, 66)? {
            // A protective entry without a GPT means that the GPT was lost.
            Some(mbr) if mbr[64..] == [0x55, 0xaa] && mbr[4] == 0xee => Err(Error::Damaged { why: first }),
            // A FAT's boot code lies where an MBR has its entries.
            _ if is_fat(disk)? => Err(Error::FileSystem { kind: "a FAT" }),
            Some(mbr) if mbr[64..] == [0x55, 0xaa] && mbr[..64].chunks(16).any(|e| e[4] != 0) => {
                Err(Error::Mbr)
            }
            _ if at(disk, 0, 6)?.as_deref() == Some(b"LUKS\xba\xbe") => Err(Error::Luks),
            _ if at(disk, 0, 4)?.as_deref() == Some(b"XFSB") => Err(Error::FileSystem { kind: "an XFS" }),
            _ if at(disk, 0x438, 2)?.as_deref() == Some(b"\x53\xef") => {
                Err(Error::FileSystem { kind: "an ext4" })
            }
            _ => Err(Error::None),
        }
    }

    /// The first partition of this type; of root's as [`root`] has it. The firmware shows nobody a partition that overlaps
    /// with another one, so that such an EFI system partition is none (edk2,
    /// `MdeModulePkg/Universal/Disk/PartitionDxe/Gpt.c`, `PartitionCheckGptEntry`).
    #[must_use]
    pub fn find(&self, type_guid: Uuid) -> Option<&Partition> {
        if type_guid == kind::ROOT_X86_64 {
            return root(&self.partitions);
        }
        let hidden = if type_guid == kind::ESP { self.overlapping() } else { BTreeSet::new() };
        self.partitions.iter().find(|p| p.type_guid == type_guid && !hidden.contains(&p.index))
    }

    /// Numbers of the partitions that have blocks which are another one's, too.
    #[must_use]
    pub fn overlapping(&self) -> BTreeSet<u32> {
        let mut ordered: Vec<&Partition> = self.partitions.iter().collect();
        ordered.sort_by_key(|partition| partition.first_lba);
        let mut found = BTreeSet::new();
        // The one so far that reaches farthest.
        let mut farthest: Option<&Partition> = None;
        for partition in ordered {
            let before = farthest.filter(|before| before.last_lba >= partition.first_lba);
            found.extend(before.into_iter().flat_map(|before| [before.index, partition.index]));
            farthest = farthest.filter(|before| before.last_lba > partition.last_lba).or(Some(partition));
        }
        found
    }
}

/// The root partition among these: the first of its type that may be found by that, or else the first of the type. Of several
/// that may be found systemd takes one by its name ([`roots`]).
#[must_use]
pub fn root(partitions: &[Partition]) -> Option<&Partition> {
    let first = || partitions.iter().find(|partition| partition.type_guid == kind::ROOT_X86_64);
    roots(partitions).next().or_else(first)
}

/// Those that systemd finds as root by their type, in the table's order. It takes the first, or a later one with a name that
/// is a newer version's (systemd, `src/udev/udev-builtin-blkid.c`, `find_gpt_root`).
pub fn roots(partitions: &[Partition]) -> impl Iterator<Item = &Partition> {
    partitions.iter().filter(|partition| partition.type_guid == kind::ROOT_X86_64 && !partition.no_auto)
}

/// `len` bytes at `offset`, or nothing when the disk ends before.
fn at<D: Read + Seek>(disk: &mut D, offset: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
    disk.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    disk.take(len as u64).read_to_end(&mut bytes)?;
    Ok((bytes.len() == len).then_some(bytes))
}

/// Whether the first block is a FAT's: a jump over its parameters, its type in words, a block's end (Microsoft, "FAT32 File
/// System Specification", 1.03, "Boot Sector and BPB").
fn is_fat<D: Read + Seek>(disk: &mut D) -> io::Result<bool> {
    let Some(block) = at(disk, 0, 512)? else { return Ok(false) };
    let jumps = block[0] == 0xe9 || block[0] == 0xeb && block[2] == 0x90;
    let named = block[54..].starts_with(b"FAT") || block[82..].starts_with(b"FAT32");
    Ok(jumps && named && block[510..] == [0x55, 0xaa])
}

/// One copy of the table; the inner error says what is wrong with it.
fn read_copy<D: Read + Seek>(
    disk: &mut D,
    size: u64,
    offset: u64,
    copy: Copy,
) -> Result<Result<Gpt, &'static str>, io::Error> {
    let Some(block) = at(disk, offset, 512)? else { return Ok(Err("the disk ends before it")) };
    let header = match Header::parse(&block, offset / SECTOR) {
        Ok(header) => header,
        Err(why) => return Ok(Err(why)),
    };
    // A disk that was grown keeps its copy where the end was; one that lost its end has none.
    if copy == Copy::Primary && header.other_copy >= size / SECTOR {
        return Ok(Err("the disk is shorter than the table says"));
    }
    let Some(table) = at(disk, header.table, header.table_size())? else {
        return Ok(Err("its entries lie outside the disk"));
    };
    if crc32(&table) != header.table_crc {
        return Ok(Err("the checksum of its entries is wrong"));
    }
    let mut partitions = Vec::new();
    for (index, entry) in (1..).zip(table.chunks_exact(header.entry_size)) {
        match parse_entry(index, entry, size / SECTOR) {
            Ok(partition) => partitions.extend(partition),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(Gpt { disk_guid: header.disk_guid, copy, partitions }))
}

struct Header {
    disk_guid: Uuid,
    /// Block of the other copy's header.
    other_copy: u64,
    /// Byte offset of the entries.
    table: u64,
    entries: u32,
    entry_size: usize,
    table_crc: u32,
}

impl Header {
    fn parse(block: &[u8], own_lba: u64) -> Result<Self, &'static str> {
        if !block.starts_with(b"EFI PART") {
            return Err("its signature is missing");
        }
        let short = "its header is cut off";
        let word = |at| u32_at(block, at).ok_or(short);
        let size = word(12)? as usize;
        if !(HEADER..=block.len()).contains(&size) {
            return Err("its header's size is wrong");
        }
        let mut sealed = block[..size].to_vec();
        sealed[16..20].fill(0);
        if crc32(&sealed) != word(16)? {
            return Err("its header's checksum is wrong");
        }
        if u64_at(block, 24).ok_or(short)? != own_lba {
            return Err("it says that it lies elsewhere");
        }
        let entries = word(80)?;
        let entry_size = word(84)? as usize;
        if entries > MOST_ENTRIES || !(ENTRY..=4096).contains(&entry_size) {
            return Err("the number or the size of its entries is wrong");
        }
        let table = u64_at(block, 72).and_then(|lba| lba.checked_mul(SECTOR)).ok_or(short)?;
        let disk_guid = guid_at(block, 56).ok_or(short)?;
        let other_copy = u64_at(block, 32).ok_or(short)?;
        Ok(Self { disk_guid, other_copy, table, entries, entry_size, table_crc: word(88)? })
    }

    fn table_size(&self) -> usize {
        // At most 4096 entries of 4096 bytes.
        self.entries as usize * self.entry_size
    }
}

fn parse_entry(index: u32, entry: &[u8], blocks: u64) -> Result<Option<Partition>, &'static str> {
    const UNUSED: Uuid = uuid!("00000000-0000-0000-0000-000000000000");
    let short = "an entry is cut off";
    let type_guid = guid_at(entry, 0).ok_or(short)?;
    if type_guid == UNUSED {
        return Ok(None);
    }
    let (first_lba, last_lba) = (u64_at(entry, 32).ok_or(short)?, u64_at(entry, 40).ok_or(short)?);
    if first_lba > last_lba || last_lba >= blocks {
        return Err("a partition lies outside the disk");
    }
    let units: Vec<u16> = entry[56..ENTRY]
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    let guid = guid_at(entry, 16).ok_or(short)?;
    let name = String::from_utf16_lossy(&units);
    let no_auto = u64_at(entry, 48).ok_or(short)? & NO_AUTO != 0;
    Ok(Some(Partition { index, type_guid, guid, name, first_lba, last_lba, no_auto }))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn guid_at(bytes: &[u8], at: usize) -> Option<Uuid> {
    Some(Uuid::from_bytes_le(bytes.get(at..at + 16)?.try_into().ok()?))
}

/// CRC-32 as IEEE 802.3 defines it (polynomial 0xEDB88320, reflected), which GPT uses.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}
