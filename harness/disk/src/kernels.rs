//! A partition with kernels: `/boot` on a file system of its own, read as a boot loader reads it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ext4_view::{Ext4, Ext4Error, Ext4Read};

use crate::esp::{Entry, EntryKind};

/// Why a partition with kernels cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the partition with kernels: {0}")]
pub struct Error(String);

/// An ext4 file system with kernels. It is only read.
#[derive(Debug)]
pub struct Kernels {
    number: u32,
    fs: Ext4,
}

/// Where the superblock's magic number lies, and what it is (Linux, Documentation/filesystems/ext4/super.rst).
const MAGIC: (u64, [u8; 2]) = (1024 + 0x38, [0x53, 0xef]);

/// Reads without moving a position, so that one file serves all.
struct At(File);

impl Ext4Read for At {
    fn read(
        &mut self,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.0.read_exact_at(bytes, start)?)
    }
}

impl Kernels {
    /// Opens the file system in `file`, that of partition `number`; `None` when it holds no ext4 file system.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn open(file: &Path, number: u32) -> Result<Option<Self>, Error> {
        let failed = |e: io::Error| Error(format!("{}: {e}", file.display()));
        let file = File::open(file).map_err(failed)?;
        let mut magic = [0; 2];
        match file.read_exact_at(&mut magic, MAGIC.0) {
            Ok(()) if magic == MAGIC.1 => {}
            Ok(()) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(failed(e)),
        }
        let fs = Ext4::load(Box::new(At(file))).map_err(|e| Error(e.to_string()))?;
        Ok(Some(Self { number, fs }))
    }

    /// The partition's number, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The file system's UUID, as GRUB's `search --fs-uuid` compares it.
    #[must_use]
    pub fn uuid(&self) -> String {
        self.fs.uuid().to_string()
    }

    /// The file system's label, as GRUB's `search --label` compares it; empty when it has none.
    #[must_use]
    pub fn label(&self) -> String {
        self.fs.label().to_str().map(str::to_owned).unwrap_or_default()
    }

    /// A file's bytes, links followed; `None` when there is no such file.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.fs.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) => missing(&e),
        }
    }

    /// A directory's entries; `None` when there is no such directory.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, Error> {
        let found = match self.fs.read_dir(path) {
            Ok(found) => found,
            Err(e) => return missing(&e),
        };
        let mut entries = Vec::new();
        for entry in found {
            let broken = |e: Ext4Error| Error(e.to_string());
            let entry = entry.map_err(broken)?;
            let Ok(name) = entry.file_name().as_str().map(str::to_owned) else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.metadata() {
                Ok(data) if data.is_dir() => EntryKind::Directory,
                Ok(data) => EntryKind::File { size: data.len() },
                Err(_) => continue,
            };
            entries.push(Entry { name, kind });
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_mkfs_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("grub2")).unwrap();
        std::fs::write(tree.join("grub2/grub.cfg"), "set timeout=0\n").unwrap();
        std::os::unix::fs::symlink("grub2/grub.cfg", tree.join("link")).unwrap();
        let disk = dir.path().join("disk");
        let uuid = "0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2";
        let tree = tree.to_str().unwrap();
        latchkey_supervise::run(
            "mkfs.ext4",
            &["-q", "-U", uuid, "-L", "boot", "-d", tree, disk.to_str().unwrap(), "8M"],
        )
        .unwrap();
        let kernels = Kernels::open(&disk, 2).unwrap().unwrap();
        assert_eq!((kernels.uuid().as_str(), kernels.label().as_str()), (uuid, "boot"));
        assert_eq!(kernels.read("/link").unwrap().unwrap(), b"set timeout=0\n");
        assert_eq!(kernels.read("/grub2").unwrap(), None);
        assert_eq!(kernels.read("/grub2/none").unwrap(), None);
        assert_eq!(kernels.list("/none").unwrap(), None);
        let names: Vec<String> =
            kernels.list("/grub2").unwrap().unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["grub.cfg"]);
        for other in [vec![0; 1 << 20], vec![0; 100]] {
            std::fs::write(&disk, other).unwrap();
            assert!(Kernels::open(&disk, 2).unwrap().is_none());
        }
    }
}
