//! What cannot be handled of an image, by name.

use serde::{Deserialize, Serialize};

use super::display::shown;
use super::{Contents, ImageDescription};
use crate::gpt::kind;

/// Something about an image that is not handled yet, or not as expected. Each has a stable name in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "limit", rename_all = "kebab-case")]
pub enum Limit {
    /// The image file is damaged.
    #[error("the image file is damaged or cut off: {}", shown(what))]
    Damaged {
        /// What qemu-img says.
        what: String,
    },
    /// No usable GPT.
    #[error("{}", shown(what))]
    PartitionTable {
        /// What is there instead.
        what: String,
    },
    /// The first copy of the partition table is damaged.
    #[error("the first copy of the partition table is damaged; the copy at the disk's end was read")]
    BackupTable,
    /// No EFI system partition.
    #[error("there is no EFI system partition, so UEFI firmware cannot start this disk")]
    NoEsp,
    /// The ESP cannot be read.
    #[error("{}", shown(what))]
    EspUnreadable {
        /// What went wrong.
        what: String,
    },
    /// A file on the ESP cannot be read.
    #[error("{} cannot be read: {}", shown(path), shown(what))]
    FileUnreadable {
        /// Its path on the ESP.
        path: String,
        /// What went wrong.
        what: String,
    },
    /// An image for another processor.
    #[error("{} is for another processor than x86-64", shown(path))]
    OtherMachine {
        /// Its path on the ESP.
        path: String,
    },
    /// No shim.
    #[error("there is no shim on the EFI system partition; only chains that start with shim are handled")]
    NoShim,
    /// A shim that does not tell its version.
    #[error("{} does not tell its version, so it is unknown which certificate files it reads", shown(path))]
    ShimVersion {
        /// Its path on the ESP.
        path: String,
    },
    /// It is not clear what shim starts.
    #[error(
        "it is not clear what shim starts: no BOOTX64.CSV names a UKI, and there is no grubx64.efi beside it"
    )]
    NoSecondStage,
    /// LVM.
    #[error("partition {partition} is an LVM physical volume, which is not handled")]
    Lvm {
        /// Its number.
        partition: u32,
    },
    /// Software RAID.
    #[error("partition {partition} is a part of a software RAID, which is not handled")]
    Raid {
        /// Its number.
        partition: u32,
    },
    /// Btrfs.
    #[error("partition {partition} holds Btrfs, which is not handled as a root file system")]
    Btrfs {
        /// Its number.
        partition: u32,
    },
    /// A LUKS header that cannot be used.
    #[error("partition {partition}: {}", shown(what))]
    Luks {
        /// Its number.
        partition: u32,
        /// What is wrong with it.
        what: String,
    },
    /// A re-encryption that was interrupted.
    #[error(
        "partition {partition}: a re-encryption was not finished; run cryptsetup repair, then cryptsetup reencrypt"
    )]
    Reencrypting {
        /// Its number.
        partition: u32,
    },
    /// No root partition.
    #[error(
        "it is not clear which partition holds the root file system: none has the type of an x86-64 root, and not exactly one could be it"
    )]
    NoRoot,
}

/// Whether a limit stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing can be said about the disk: neither are machines made of it, nor is it forecast.
    Blocks,
    /// Its boot chain is not whole. No machine is made of it; what it comes to as it is can be forecast.
    NotWhole,
    /// Worth knowing; the image can be used.
    Note,
}

impl Limit {
    /// Whether it stands in the way of using the image.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::BackupTable | Self::FileUnreadable { .. } | Self::OtherMachine { .. } => Severity::Note,
            Self::NoShim | Self::ShimVersion { .. } | Self::NoSecondStage => Severity::NotWhole,
            // Firmware may read an ESP that cannot be read here: nothing is forecast of it.
            _ => Severity::Blocks,
        }
    }
}

/// What the partitions together show.
pub(super) fn of_partitions(description: &ImageDescription) -> Vec<Limit> {
    let mut limits = Vec::new();
    if !description.partitions.iter().any(|p| p.partition.type_guid == kind::ESP) {
        limits.push(Limit::NoEsp);
    }
    for found in &description.partitions {
        let partition = found.partition.index;
        if found.contents == Contents::Lvm || found.partition.type_guid == kind::LVM {
            limits.push(Limit::Lvm { partition });
        }
        if found.partition.type_guid == kind::RAID {
            limits.push(Limit::Raid { partition });
        }
        if found.contents == Contents::Btrfs {
            limits.push(Limit::Btrfs { partition });
        }
        let unfinished = |header: &crate::luks::Header| {
            header.requirements.iter().any(|r| r.starts_with("online-reencrypt"))
                || header.keyslots.values().any(|slot| slot.kind == "reencrypt")
        };
        if found.luks.as_ref().is_some_and(unfinished) {
            limits.push(Limit::Reencrypting { partition });
        }
    }
    if description.root().is_none() {
        limits.push(Limit::NoRoot);
    }
    limits
}
