//! What a forecast is made from.

use std::collections::BTreeMap;

use bytes::Bytes;
use latchkey_disk::VarStore;
use latchkey_disk::esp::{Entry, EntryKind};
use latchkey_disk::gpt::Gpt;
use latchkey_disk::luks::Header;
use latchkey_record::pcr::{Digest, HashAlg};
use serde::{Deserialize, Serialize};

use crate::firmware::FirmwareImage;

/// A file system could not be read.
#[derive(Debug, thiserror::Error)]
#[error("forecasting the boot: {0}")]
pub struct VolumeError(pub String);

/// A file system of the disk, as a boot loader sees it. Paths have forward slashes and begin with one.
pub trait Volume {
    /// How files of it are called in a forecast: `esp` or `boot`.
    fn name(&self) -> &str;

    /// A file's bytes, the same ones as before where it keeps them; `None` when there is no such file.
    ///
    /// # Errors
    /// When the file system cannot be read.
    fn read(&self, path: &str) -> Result<Option<Bytes>, VolumeError>;

    /// A directory's entries in the order in which they stand on the disk; `None` when there is no such directory.
    ///
    /// # Errors
    /// When the file system cannot be read.
    fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, VolumeError>;

    /// What is at `path`, links followed; `None` when there is nothing. Who can tell without reading a file does so.
    ///
    /// # Errors
    /// When the file system cannot be read.
    fn kind(&self, path: &str) -> Result<Option<EntryKind>, VolumeError> {
        if self.list(path)?.is_some() {
            return Ok(Some(EntryKind::Directory));
        }
        Ok(self.read(path)?.map(|bytes| EntryKind::File { size: bytes.len() as u64 }))
    }

    /// The file system's UUID as `search --fs-uuid` wants it, when it is known.
    fn uuid(&self) -> Option<String> {
        None
    }

    /// The file system's label as `search --label` wants it, when it has one.
    fn label(&self) -> Option<String> {
        None
    }

    /// Of an XFS the features that who does not know them cannot read (`sb_features_incompat`); `None` of any other.
    fn xfs_features(&self) -> Option<u32> {
        None
    }
}

impl Volume for latchkey_disk::Kernels {
    fn name(&self) -> &'static str {
        "boot"
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, VolumeError> {
        let read = Self::read(self, path).map_err(|error| VolumeError(error.to_string()))?;
        Ok(read.map(Bytes::from))
    }

    fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, VolumeError> {
        Self::list(self, path).map_err(|error| VolumeError(error.to_string()))
    }

    fn kind(&self, path: &str) -> Result<Option<EntryKind>, VolumeError> {
        Self::kind(self, path).map_err(|error| VolumeError(error.to_string()))
    }

    fn uuid(&self) -> Option<String> {
        Some(Self::uuid(self))
    }

    fn label(&self) -> Option<String> {
        Some(Self::label(self))
    }

    fn xfs_features(&self) -> Option<u32> {
        Self::xfs_features(self)
    }
}

impl Volume for latchkey_disk::Esp {
    fn name(&self) -> &'static str {
        "esp"
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, VolumeError> {
        match Self::read(self, path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(latchkey_disk::esp::Error::Missing { .. }) => Ok(None),
            Err(error) => Err(VolumeError(error.to_string())),
        }
    }

    fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, VolumeError> {
        match Self::list(self, path) {
            Ok(entries) => Ok(Some(entries)),
            Err(latchkey_disk::esp::Error::Missing { .. }) => Ok(None),
            Err(error) => Err(VolumeError(error.to_string())),
        }
    }

    fn kind(&self, path: &str) -> Result<Option<EntryKind>, VolumeError> {
        Self::kind(self, path).map_err(|error| VolumeError(error.to_string()))
    }

    fn uuid(&self) -> Option<String> {
        Self::uuid(self).ok()
    }

    fn label(&self) -> Option<String> {
        Self::label(self).ok().flatten()
    }
}

/// A file system without one of its files.
pub struct Without<'a> {
    /// The file system.
    pub volume: &'a dyn Volume,
    /// The file that is taken not to be there.
    pub path: &'a str,
}

impl Volume for Without<'_> {
    fn name(&self) -> &str {
        self.volume.name()
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, VolumeError> {
        if path.eq_ignore_ascii_case(self.path) { Ok(None) } else { self.volume.read(path) }
    }

    fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, VolumeError> {
        let there = |entry: &Entry| {
            let whole = format!("{}/{}", path.trim_end_matches('/'), entry.name);
            !whole.eq_ignore_ascii_case(self.path)
        };
        Ok(self.volume.list(path)?.map(|entries| entries.into_iter().filter(there).collect()))
    }

    fn kind(&self, path: &str) -> Result<Option<EntryKind>, VolumeError> {
        if path.eq_ignore_ascii_case(self.path) { Ok(None) } else { self.volume.kind(path) }
    }

    fn uuid(&self) -> Option<String> {
        self.volume.uuid()
    }

    fn label(&self) -> Option<String> {
        self.volume.label()
    }

    fn xfs_features(&self) -> Option<u32> {
        self.volume.xfs_features()
    }
}

/// How the disk that is booted is attached; boot options, and so PCR 1, name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDisk {
    /// NVMe with the serial number `disk0`, namespace 1, on PCI bus 0 in this slot.
    Nvme {
        /// PCI device number.
        slot: u8,
    },
    /// virtio-blk on PCI bus 0 in this slot.
    Virtio {
        /// PCI device number.
        slot: u8,
    },
}

/// What is the same for every machine on this host with this hardware.
#[derive(Debug, Clone)]
pub struct Platform {
    /// Digests of the firmware's PEI volume as it lies in memory, one a bank: a constant of firmware, memory size and
    /// processors, measured without a disk.
    pub pei_volume: Vec<Digest>,
    /// How the disk is attached.
    pub disk: BootDisk,
}

/// Whether a token's sealed secret belongs to the machine's TPM; asked of a copy of the TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenFact {
    /// It loads.
    Loads,
    /// It does not: another TPM made it, or it is damaged.
    Foreign,
    /// Nobody asked, since the machine's TPM is not at hand: it is taken to load.
    Supposed,
}

/// What the TPM brings to a boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TpmState {
    /// Banks that are extended.
    pub banks: Vec<HashAlg>,
    /// Whether it is in dictionary-attack lockout.
    pub locked: bool,
    /// The disk's TPM tokens, by number.
    pub tokens: BTreeMap<u32, TokenFact>,
}

/// Who is at the keyboard until the kernel starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keyboard {
    /// Nobody: countdowns run out, and a box that waits for a key waits for ever.
    #[default]
    Nobody,
    /// Somebody who confirms every box and grants whatever MokManager was asked for, but stops nothing else.
    Somebody,
}

/// An EFI system partition that nobody can read, and so starts nothing from.
#[derive(Debug, Clone, Copy)]
pub struct Unreadable;

impl Volume for Unreadable {
    fn name(&self) -> &str {
        "esp"
    }

    fn read(&self, _path: &str) -> Result<Option<Bytes>, VolumeError> {
        Ok(None)
    }

    fn list(&self, _path: &str) -> Result<Option<Vec<Entry>>, VolumeError> {
        Ok(None)
    }
}

/// What lies on the root partition.
#[derive(Debug, Clone, Copy)]
pub enum RootVolume<'a> {
    /// A file system, for everybody to read.
    Plain,
    /// LUKS2, with this header.
    Luks(&'a Header),
    /// Nothing that anybody recognises: both copies of its header are gone.
    Unrecognised,
}

impl<'a> RootVolume<'a> {
    /// Its header, when it is encrypted and has one.
    #[must_use]
    pub fn header(self) -> Option<&'a Header> {
        match self {
            Self::Luks(header) => Some(header),
            Self::Plain | Self::Unrecognised => None,
        }
    }
}

/// A machine that is switched off, as values.
pub struct Target<'a> {
    /// The firmware.
    pub firmware: &'a FirmwareImage,
    /// What the platform adds.
    pub platform: &'a Platform,
    /// UEFI variables.
    pub variables: &'a VarStore,
    /// The first sectors of the disk, as many as the primary partition table needs: protective MBR, header, entries.
    pub table: &'a [u8],
    /// The same table, read.
    pub partitions: &'a Gpt,
    /// The EFI system partition.
    pub esp: &'a dyn Volume,
    /// A partition with kernels, where there is one, and its number.
    pub boot: Option<(u32, &'a dyn Volume)>,
    /// The root partition.
    pub root: RootVolume<'a>,
    /// The TPM.
    pub tpm: &'a TpmState,
    /// Who is at the keyboard.
    pub keyboard: Keyboard,
}
