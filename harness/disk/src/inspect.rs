//! What an image is: partitions, boot chain, certificates, encryption, and what cannot be handled of it.
//!
//! The image is only ever read. What is odd about it becomes a [`Limit`] of the description; an error is left for
//! what cannot be opened at all.

use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::esp::Esp;
use crate::filesystem;
use crate::format::{self, Format};
use crate::gpt::{self, Gpt, Partition, kind};
use crate::luks;
use crate::open::{Access, Error, OpenDisk};
use crate::storage;

mod display;
mod efi;
mod limit;
mod program;

pub use efi::{BootList, CertificateFile, EfiImage, EfiKind, EspContents, Layout, Read as CertificateRead};
pub use limit::{Limit, Severity};
pub use program::no_program;

/// Most partitions that are described: as many as tables have entries.
const MOST_PARTITIONS: usize = 128;

/// A description of a disk image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDescription {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Its partitions.
    pub partitions: Vec<PartitionDescription>,
    /// What lies on the EFI system partition, when there is one that can be read.
    pub esp: Option<EspContents>,
    /// Where GRUB has its menu from, when there is a `/boot` of its own that tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub menu: Option<Menu>,
    /// What cannot be handled, or is not as expected.
    pub limits: Vec<Limit>,
}

/// Where GRUB has its menu from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Menu {
    /// From entries in `grub.cfg`.
    Entries,
    /// From snippets of the [Boot Loader Specification](https://uapi-group.org/specifications/specs/boot_loader_specification/).
    Snippets,
}

/// A partition and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDescription {
    /// Its entry in the table.
    pub partition: Partition,
    /// What its first bytes look like.
    pub contents: Contents,
    /// How much of it an ext4 or XFS takes, in bytes; `None` for anything else, and for one that says nothing possible.
    pub file_system_size: Option<u64>,
    /// Its LUKS2 header, when it has one.
    pub luks: Option<luks::Header>,
}

/// What a partition's first bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contents {
    /// A FAT file system.
    Fat,
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// An LVM physical volume.
    Lvm,
    /// A LUKS1 or LUKS2 header.
    Luks,
    /// Swap space.
    Swap,
    /// Nothing known.
    Unknown,
}

impl ImageDescription {
    /// The description of the layout of its boot chain, when there is an EFI system partition.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.esp.as_ref().map_or(Layout::Unknown, |esp| esp.layout.clone())
    }

    /// What stands in the way of treating this image as a reference image is treated; nothing for one that can be
    /// used.
    pub fn blocking(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().filter(|limit| limit.severity() != Severity::Note)
    }

    /// What of that stands in the way of a forecast as well: a boot chain that is not whole does not.
    pub fn unforeseeable(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().filter(|limit| limit.severity() == Severity::Blocks)
    }

    /// The partition that the root file system is on, encrypted or not: by its type, or the only one that is
    /// encrypted or holds a Linux file system.
    #[must_use]
    pub fn root(&self) -> Option<&PartitionDescription> {
        let typed = |no_auto| {
            let is_root = |p: &&PartitionDescription| {
                p.partition.type_guid == kind::ROOT_X86_64 && p.partition.no_auto == no_auto
            };
            self.partitions.iter().find(is_root)
        };
        typed(false).or_else(|| typed(true)).or_else(|| {
            let mut others = self.partitions.iter().filter(|p| {
                matches!(p.contents, Contents::Luks | Contents::Ext | Contents::Xfs | Contents::Btrfs)
                    && p.partition.type_guid != kind::XBOOTLDR
            });
            others.next().filter(|_| others.next().is_none())
        })
    }
}

/// Describes the image at `path`, reading only.
///
/// # Errors
/// [`Error`] when it is no disk or cannot be opened; whatever is found on it is a part of the description.
pub fn inspect(path: &Path) -> Result<ImageDescription, Error> {
    let format = format::detect_whole(path)?;
    let damage = if format == Format::Qcow2 { check_qcow2(path)? } else { None };
    let mut disk = OpenDisk::open_as(path, format, Access::ReadOnly)?;
    let read = |source| Error::Read { path: path.to_owned(), source };
    let size = disk.whole()?.length();
    let mut description = ImageDescription {
        path: path.to_owned(),
        format,
        size,
        partitions: Vec::new(),
        esp: None,
        menu: None,
        limits: damage.into_iter().collect(),
    };
    match disk.table() {
        Ok(table) => {
            describe(&mut disk, &table, &mut description)?;
            if let Layout::Grub { .. } = description.layout() {
                description.menu = menu(&mut disk);
            }
        }
        Err(Error::Table { source: gpt::Error::Read(source), .. }) => return Err(read(source)),
        Err(Error::Table { source, .. }) => {
            description.limits.push(Limit::PartitionTable { what: source.to_string() });
        }
        Err(other) => return Err(other),
    }
    disk.close()?;
    Ok(description)
}

/// What `qemu-img check` finds wrong. A qcow2 file that lost its end would otherwise read as zeros there.
fn check_qcow2(path: &Path) -> Result<Option<Limit>, Error> {
    /// Its exit status for blocks that are reserved and not used, which is harmless (qemu-img(1), "check").
    const LEAKS: i32 = 3;
    let args = ["check".as_ref(), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), path.as_os_str()];
    let failed = |source: latchkey_supervise::Error| Error::Storage {
        path: path.to_owned(),
        source: storage::Error::Tool(source),
    };
    let check = latchkey_supervise::start("qemu-img check", "qemu-img", &args, |e| {
        e.stdin_null().stdout_capture().stderr_capture()
    })
    .map_err(failed)?;
    loop {
        if let Some(output) = check.wait_for(Duration::from_millis(100)).map_err(failed)? {
            let said = String::from_utf8_lossy(&output.stderr);
            let what = said.lines().next().unwrap_or("qemu-img check says so").to_owned();
            return Ok(match output.status.code() {
                Some(0 | LEAKS) => None,
                _ => Some(Limit::Damaged { what }),
            });
        }
        if latchkey_supervise::cancelled() {
            return Err(failed(latchkey_supervise::Error::Cancelled));
        }
    }
}

fn describe(disk: &mut OpenDisk, table: &Gpt, description: &mut ImageDescription) -> Result<(), Error> {
    if table.copy == gpt::Copy::Backup {
        description.limits.push(Limit::BackupTable);
    }
    // Whoever reads or encrypts one of them meets the other.
    let overlapping: Vec<String> =
        table.overlapping().iter().take(MOST_PARTITIONS).map(u32::to_string).collect();
    if !overlapping.is_empty() {
        let what = format!("partitions overlap, and none is looked at: {}", overlapping.join(", "));
        description.limits.push(Limit::PartitionTable { what });
        return Ok(());
    }
    if table.partitions.len() > MOST_PARTITIONS {
        let what = format!("there are more than {MOST_PARTITIONS} partitions; the others are not looked at");
        description.limits.push(Limit::PartitionTable { what });
    }
    for partition in table.partitions.iter().take(MOST_PARTITIONS) {
        let mut device = disk.partition(partition)?;
        let read = |source| Error::Read { path: description.path.clone(), source };
        let contents = Contents::of(&mut device).map_err(read)?;
        let luks = match contents {
            Contents::Luks => match luks::Header::read(&mut device) {
                Ok(header) => Some(header),
                Err(luks::Error::Read(source)) => return Err(read(source)),
                Err(other) => {
                    let limit = Limit::Luks { partition: partition.index, what: other.to_string() };
                    description.limits.push(limit);
                    None
                }
            },
            _ => None,
        };
        if partition.type_guid == kind::ESP && description.esp.is_none() {
            match Esp::open_unchanging(disk.partition(partition)?).and_then(|esp| efi::read(&esp)) {
                Ok((contents, limits)) => {
                    description.esp = Some(contents);
                    description.limits.extend(limits);
                }
                Err(e) => description.limits.push(Limit::EspUnreadable { what: e.to_string() }),
            }
        }
        let file_system_size = filesystem::size(&mut device, contents).map_err(read)?;
        let partition = partition.clone();
        description.partitions.push(PartitionDescription { partition, contents, file_system_size, luks });
    }
    description.limits.extend(limit::of_partitions(description));
    Ok(())
}

/// What the `grub.cfg` of a `/boot` on a partition of its own makes of the menu; `None` where none says, or can be read. One with
/// snippets may have entries as well, such as that for the firmware's setup.
fn menu(disk: &mut OpenDisk) -> Option<Menu> {
    let kernels = disk.kernels().ok()??;
    let read = |path: &&str| kernels.read(path).ok().flatten();
    let text = ["/grub2/grub.cfg", "/grub/grub.cfg"].iter().find_map(read)?;
    let text = String::from_utf8_lossy(&text);
    let has = |command: &str| text.lines().any(|line| line.split_whitespace().next() == Some(command));
    match () {
        () if has("blscfg") => Some(Menu::Snippets),
        () if has("menuentry") => Some(Menu::Entries),
        () => None,
    }
}

/// Marks of file systems and containers: offset, bytes, meaning. An older mark can survive underneath, so what
/// covers the whole comes first.
const MARKS: [(usize, &[u8], Contents); 10] = [
    (0, b"LUKS\xba\xbe", Contents::Luks),
    (0x4000, b"SKUL\xba\xbe", Contents::Luks), // the first header is damaged
    (512, b"LABELONE", Contents::Lvm),
    (0x1_0040, b"_BHRfS_M", Contents::Btrfs),
    (0, b"XFSB", Contents::Xfs),
    (0x438, b"\x53\xef", Contents::Ext),
    (0xff6, b"SWAPSPACE2", Contents::Swap),
    (82, b"FAT32", Contents::Fat),
    (54, b"FAT16", Contents::Fat),
    (54, b"FAT12", Contents::Fat),
];

impl Contents {
    /// What the first bytes of `device`, a partition, look like.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of<D: Read + Seek>(device: &mut D) -> io::Result<Self> {
        let mut head = Vec::new();
        device.rewind()?;
        device.take(0x1_1000).read_to_end(&mut head)?;
        let has = |at: usize, mark: &[u8]| head.get(at..at + mark.len()) == Some(mark);
        let found = MARKS.iter().find(|(at, mark, _)| has(*at, mark));
        Ok(found.map_or(Self::Unknown, |(.., contents)| *contents))
    }
}
