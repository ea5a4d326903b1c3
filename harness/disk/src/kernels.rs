//! A partition with kernels: `/boot` on a file system of its own, read as a boot loader reads it, and changed with e2fsprogs.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ext4_view::{Ext4, Ext4Error, Ext4Read};

use crate::esp::{Entry, EntryKind};

/// Why a partition with kernels cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the partition with kernels: {0}")]
pub struct Error(String);

/// An ext4 file system with kernels.
#[derive(Debug)]
pub struct Kernels {
    number: u32,
    file: PathBuf,
    /// Size of the partition in bytes; no file of it is larger.
    length: u64,
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

/// What the superblock begins with, and where in it stand the number of blocks (its lower half), the logarithm of a
/// block's size in KiB, and the number of blocks of a group, each of four bytes (the same source).
const SUPERBLOCK: u64 = 1024;
const BLOCKS: u64 = SUPERBLOCK + 0x4;
const BLOCK_SIZE: u64 = SUPERBLOCK + 0x18;
const GROUP_BLOCKS: u64 = SUPERBLOCK + 0x20;
/// The upper half of the number of blocks: that of a partition of 16 TiB and more.
const BLOCKS_ABOVE: u64 = SUPERBLOCK + 0x150;

/// Reads the file system on `device`. The driver is not made for hostile input: it divides by what the superblock says,
/// and takes memory for as many groups as that comes to.
fn load(device: File) -> Result<(Ext4, u64), Error> {
    let failed = |e: io::Error| Error(e.to_string());
    let number = |at| {
        let mut bytes = [0; 4];
        device.read_exact_at(&mut bytes, at).map(|()| u32::from_le_bytes(bytes)).map_err(failed)
    };
    let length = (&device).seek(SeekFrom::End(0)).map_err(failed)?;
    let (blocks, size) = (u64::from(number(BLOCKS)?), number(BLOCK_SIZE)?);
    let fits = (size <= 6).then(|| blocks << (10 + size)).is_some_and(|bytes| bytes <= length);
    if number(GROUP_BLOCKS)? == 0 || number(BLOCKS_ABOVE)? != 0 || !fits {
        return Err(Error("its superblock is damaged; e2fsck tells more".into()));
    }
    let fs = guarded(|| Ext4::load(Box::new(At(device))))?.map_err(|e| Error(e.to_string()))?;
    Ok((fs, length))
}

/// What `act` gives; an error where the driver panics.
fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(act))
        .map_err(|_| Error("its file system is damaged; e2fsck tells more".into()))
}

/// Whether debugfs takes `path` for one word of its script, and not for more of it.
fn one_word(path: &str) -> Result<(), Error> {
    match path.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')) {
        true => Ok(()),
        false => Err(Error(format!("{path:?} is no path that can be written to or removed"))),
    }
}

impl Kernels {
    /// Opens the file system in `file`, that of partition `number`; `None` when it holds no ext4 file system.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn open(file: &Path, number: u32) -> Result<Option<Self>, Error> {
        let failed = |e: io::Error| Error(format!("{}: {e}", file.display()));
        let device = File::open(file).map_err(failed)?;
        let mut magic = [0; 2];
        match device.read_exact_at(&mut magic, MAGIC.0) {
            Ok(()) if magic == MAGIC.1 => {}
            Ok(()) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(failed(e)),
        }
        let (fs, length) = load(device)?;
        Ok(Some(Self { number, file: file.to_owned(), length, fs }))
    }

    /// Writes a file, replacing the one that was there. Its directory must exist.
    ///
    /// # Errors
    /// When the partition's file is not to be written to, is full, or is in use.
    pub fn write(&mut self, path: &str, contents: &[u8]) -> Result<(), Error> {
        one_word(path)?;
        let failed = |e: io::Error| Error(format!("writing {path}: {e}"));
        // It has no name, so that nothing is left of it whatever happens.
        let mut source = tempfile::tempfile().map_err(failed)?;
        source.write_all(contents).map_err(failed)?;
        let from = format!("/proc/{}/fd/{}", std::process::id(), source.as_raw_fd());
        let remove = if self.read(path)?.is_some() { format!("rm {path}\n") } else { String::new() };
        self.debugfs(&format!("{remove}write {from} {path}\n"))?;
        // It says what went wrong, and succeeds all the same.
        if self.read(path)?.as_deref() == Some(contents) {
            return Ok(());
        }
        Err(Error(format!("{path} is not what was written there; the file system may be full")))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When there is none, or the partition's file is not to be written to.
    pub fn remove(&mut self, path: &str) -> Result<(), Error> {
        one_word(path)?;
        if self.read(path)?.is_none() {
            return Err(Error(format!("there is no {path} to remove")));
        }
        self.debugfs(&format!("rm {path}\n"))?;
        match self.read(path)? {
            None => Ok(()),
            Some(_) => Err(Error(format!("{path} could not be removed"))),
        }
    }

    /// Has e2fsprogs' debugfs change the file system, and reads it anew.
    fn debugfs(&mut self, commands: &str) -> Result<(), Error> {
        let failed = |e: &dyn std::fmt::Display| Error(format!("changing it with debugfs: {e}"));
        let line: [&OsStr; 4] = ["-w".as_ref(), "-f".as_ref(), "/dev/stdin".as_ref(), self.file.as_os_str()];
        let input = commands.as_bytes().to_vec();
        latchkey_supervise::run_with("debugfs", &line, |e| e.stdin_bytes(input)).map_err(|e| failed(&e))?;
        (self.fs, self.length) = load(File::open(&self.file).map_err(|e| failed(&e))?)?;
        Ok(())
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
        let read = || match self.fs.metadata(path)?.len() <= self.length {
            true => self.fs.read(path).map(Some),
            false => Ok(None),
        };
        match guarded(read)? {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => Err(Error(format!("{path} is larger than its file system"))),
            Err(e) => missing(&e),
        }
    }

    /// A directory's entries, in the order in which they lie there; `None` when there is no such directory. None is left
    /// out: a name that is no text has U+FFFD in it, and what a link that leads nowhere names is an empty file.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, Error> {
        guarded(|| self.entries(path))?
    }

    fn entries(&self, path: &str) -> Result<Option<Vec<Entry>>, Error> {
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
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn what_mkfs_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("grub2")).unwrap();
        std::fs::create_dir_all(tree.join("entries")).unwrap();
        std::fs::write(tree.join("grub2/grub.cfg"), "set timeout=0\n").unwrap();
        std::os::unix::fs::symlink("grub2/grub.cfg", tree.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", tree.join("entries/dangling.conf")).unwrap();
        let no_text = std::ffi::OsStr::from_bytes(b"no-\xff-text.conf");
        std::fs::write(tree.join("entries").join(no_text), "").unwrap();
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
        let mut names: Vec<String> =
            kernels.list("/entries").unwrap().unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["dangling.conf", "no-\u{fffd}-text.conf"]);
        let mut kernels = kernels;
        for text in ["set timeout=1\n", "set timeout=10\n"] {
            kernels.write("/grub2/grub.cfg", text.as_bytes()).unwrap();
            assert_eq!(kernels.read("/link").unwrap().unwrap(), text.as_bytes());
        }
        kernels.write("/new", &[7; 100_000]).unwrap();
        kernels.remove("/new").unwrap();
        assert!(kernels.remove("/new").is_err() && kernels.write("/none/new", b"x").is_err());
        let full = kernels.write("/new", &vec![7; 9 << 20]);
        assert!(full.is_err(), "it is larger than the file system");
        kernels.remove("/new").unwrap_or_default();
        latchkey_supervise::run("e2fsck", &["-f".as_ref(), "-n".as_ref(), disk.as_os_str()]).unwrap();
        let names: Vec<String> =
            kernels.list("/grub2").unwrap().unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["grub.cfg"]);
        let whole = std::fs::read(&disk).unwrap();
        let damage = [
            (GROUP_BLOCKS, [0; 4]),
            (BLOCKS, [255; 4]),
            (BLOCK_SIZE, [255; 4]),
            (BLOCKS_ABOVE, [255, 127, 0, 0]),
        ];
        for (at, bytes) in damage {
            let mut damaged = whole.clone();
            damaged[usize::try_from(at).unwrap()..][..4].copy_from_slice(&bytes);
            std::fs::write(&disk, damaged).unwrap();
            let error = Kernels::open(&disk, 2).unwrap_err().to_string();
            assert!(error.contains("superblock is damaged"), "{error}");
        }
        for other in [vec![0; 1 << 20], vec![0; 100]] {
            std::fs::write(&disk, other).unwrap();
            assert!(Kernels::open(&disk, 2).unwrap().is_none());
        }
    }
}
