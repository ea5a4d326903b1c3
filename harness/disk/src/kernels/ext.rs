//! An ext4 with kernels, read by the crate ext4-view.

use std::io;

use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType};

use super::{Error, MOST_ENTRIES, readable, too_many};
use crate::esp::{Entry, EntryKind};
use crate::view::View;

/// Where the superblock's magic number lies, and what it is (Linux, Documentation/filesystems/ext4/super.rst).
pub(super) const MAGIC: (u64, &[u8]) = (SUPERBLOCK + 0x38, &[0x53, 0xef]);

/// What the superblock begins with, and where in it stand the number of blocks (its lower half), the logarithm of a
/// block's size in KiB, and the number of blocks of a group, each of four bytes (the same source).
const SUPERBLOCK: u64 = 1024;
pub(super) const BLOCKS: u64 = SUPERBLOCK + 0x4;
pub(super) const BLOCK_SIZE: u64 = SUPERBLOCK + 0x18;
pub(super) const GROUP_BLOCKS: u64 = SUPERBLOCK + 0x20;
/// The upper half of the number of blocks: that of a partition of 16 TiB and more.
pub(super) const BLOCKS_ABOVE: u64 = SUPERBLOCK + 0x150;

/// Most groups of blocks: those of 16 TiB with groups of 128 MiB, as mkfs makes them of blocks of 4 KiB.
const MOST_GROUPS: u64 = 1 << 17;

/// Reads without moving a position, so that one file serves all.
struct At(View);

impl Ext4Read for At {
    fn read(
        &mut self,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.0.read_exact_at(bytes, start)?)
    }
}

#[derive(Debug)]
pub(super) struct Ext {
    fs: Ext4,
    /// Size of the partition in bytes; no file of it is larger.
    length: u64,
}

impl Ext {
    /// Reads the file system on `device`. The driver is not made for hostile input: it divides by what the superblock
    /// says, and takes memory for as many groups as that comes to.
    pub(super) fn load(device: View) -> Result<Self, Error> {
        let failed = |e: io::Error| Error(e.to_string());
        let number = |at| {
            let mut bytes = [0; 4];
            device.read_exact_at(&mut bytes, at).map(|()| u32::from_le_bytes(bytes)).map_err(failed)
        };
        let length = device.length();
        let (blocks, size) = (u64::from(number(BLOCKS)?), number(BLOCK_SIZE)?);
        let fits = (size <= 6).then(|| blocks << (10 + size)).is_some_and(|bytes| bytes <= length);
        let groups =
            blocks.checked_div(u64::from(number(GROUP_BLOCKS)?)).filter(|groups| *groups < MOST_GROUPS);
        if groups.is_none() || number(BLOCKS_ABOVE)? != 0 || !fits {
            return Err(Error("its superblock is damaged; e2fsck tells more".into()));
        }
        let fs = Ext4::load(Box::new(At(device))).map_err(|e| Error(e.to_string()))?;
        Ok(Self { fs, length })
    }

    pub(super) fn uuid(&self) -> String {
        self.fs.uuid().to_string()
    }

    pub(super) fn label(&self) -> String {
        self.fs.label().to_str().map(str::to_owned).unwrap_or_default()
    }

    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.fs.metadata(path) {
            Ok(data) => readable(path, data.len(), self.length)?,
            Err(e) => return missing(&e),
        };
        match self.fs.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) => missing(&e),
        }
    }

    pub(super) fn kind(&self, path: &str) -> Result<Option<EntryKind>, Error> {
        match self.fs.metadata(path) {
            Ok(data) => Ok(match data.file_type() {
                FileType::Directory => Some(EntryKind::Directory),
                FileType::Regular => Some(EntryKind::File { size: data.len() }),
                _ => None,
            }),
            Err(e) => missing(&e),
        }
    }

    pub(super) fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, Error> {
        let found = match self.fs.read_dir(path) {
            Ok(found) => found,
            Err(e) => return missing(&e),
        };
        let mut entries = Vec::new();
        for entry in found {
            let broken = |e: Ext4Error| Error(e.to_string());
            let entry = entry.map_err(broken)?;
            let name = String::from_utf8_lossy(entry.file_name().as_ref()).into_owned();
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.metadata() {
                Ok(data) if data.is_dir() => EntryKind::Directory,
                Ok(data) => EntryKind::File { size: data.len() },
                Err(Ext4Error::NotFound) => EntryKind::File { size: 0 },
                Err(e) => return Err(broken(e)),
            };
            entries.push(Entry { name, kind });
            if entries.len() > MOST_ENTRIES {
                return Err(too_many(path));
            }
        }
        Ok(Some(entries))
    }
}

/// What is not there is no error.
fn missing<T>(error: &Ext4Error) -> Result<Option<T>, Error> {
    match error {
        Ext4Error::NotFound | Ext4Error::NotADirectory | Ext4Error::IsADirectory => Ok(None),
        _ => Err(Error(error.to_string())),
    }
}
