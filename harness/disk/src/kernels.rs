//! A partition with kernels: `/boot` on a file system of its own, read as a boot loader reads it; an ext4 is changed with e2fsprogs.

mod ext;
mod xfs;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::esp::{Entry, EntryKind, caught};
use crate::view::{LARGEST, View};

/// What is made of what a file system's log has and its blocks do not, since it was not unmounted. Only an XFS is read either
/// way; an ext4's journal is replayed always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// It counts: as Linux would have the file system after a mount, and before that after an orderly end.
    Replayed,
    /// It does not: as GRUB reads the file system, which knows of no log (`grub-core/fs/xfs.c`).
    AsItLies,
}

/// Why a partition with kernels cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the partition with kernels: {0}")]
pub struct Error(String);

impl Error {
    /// The file at `path` is to be changed from outside, on an XFS.
    #[must_use]
    pub fn only_linux_writes(path: &str) -> Self {
        Self(format!(
            "{path} cannot be written to: nothing changes an XFS but Linux that has it mounted; let the guest or another VM do \
             it"
        ))
    }
}

/// Most entries of one directory.
const MOST_ENTRIES: usize = 65_536;

/// The size of the file at `path`, on a partition of `length` bytes, if it may be read.
fn readable(path: &str, size: u64, length: u64) -> Result<usize, Error> {
    let limit = match size {
        _ if size > length => "its file system",
        _ if size > LARGEST => "any file that is read here",
        _ => return usize::try_from(size).map_err(|e| Error(e.to_string())),
    };
    Err(Error(format!("{path} is larger than {limit}")))
}

fn too_many(path: &str) -> Error {
    Error(format!("the directory {path} has more than {MOST_ENTRIES} entries"))
}

/// A file system with kernels: ext4 or XFS.
#[derive(Debug)]
pub struct Kernels {
    number: u32,
    /// The partition as a file, where it may be written to.
    file: Option<PathBuf>,
    fs: Fs,
}

#[derive(Debug)]
enum Fs {
    Ext(ext::Ext),
    Xfs(xfs::Xfs),
}

/// What `act` gives; an error where a driver panics.
fn guarded<T>(act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    caught(act)
        .unwrap_or_else(|| Err(Error("its file system is damaged; e2fsck or xfs_repair tells more".into())))
}

fn view(file: &Path) -> Result<View, Error> {
    File::open(file).and_then(View::new).map_err(|e| Error(format!("{}: {e}", file.display())))
}

/// Whether debugfs takes `path` for one word of its script, and not for more of it.
fn one_word(path: &str) -> Result<(), Error> {
    match path.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')) {
        true => Ok(()),
        false => Err(Error(format!("{path:?} is no path that can be written to or removed"))),
    }
}

impl Kernels {
    /// Opens the file system in `file`, that of partition `number`, to be written to as well; `None` when it holds neither an
    /// ext4 nor an XFS.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn open(file: &Path, number: u32, log: Log) -> Result<Option<Self>, Error> {
        let device = view(file)?;
        Ok(Self::of(device, number, log)?.map(|kernels| Self { file: Some(file.to_owned()), ..kernels }))
    }

    /// As [`Self::open`], to be read only.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn of(device: View, number: u32, log: Log) -> Result<Option<Self>, Error> {
        let begins = |(at, magic): (u64, &[u8])| {
            let mut bytes = vec![0; magic.len()];
            match device.read_exact_at(&mut bytes, at) {
                Ok(()) => Ok(bytes == magic),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                Err(e) => Err(Error(e.to_string())),
            }
        };
        let fs = if begins(ext::MAGIC)? {
            Fs::Ext(guarded(|| ext::Ext::load(device))?)
        } else if begins(xfs::MAGIC)? {
            Fs::Xfs(guarded(|| xfs::Xfs::load(device, log))?)
        } else {
            return Ok(None);
        };
        Ok(Some(Self { number, file: None, fs }))
    }

    /// Writes a file, replacing the one that was there. Its directory must exist.
    ///
    /// # Errors
    /// When the partition's file is not to be written to, is full, or is in use, and for an XFS.
    pub fn write(&mut self, path: &str, contents: &[u8]) -> Result<(), Error> {
        let partition = self.writable(path)?;
        let failed = |e: io::Error| Error(format!("writing {path}: {e}"));
        // It has no name, so that nothing is left of it whatever happens.
        let mut source = tempfile::tempfile().map_err(failed)?;
        source.write_all(contents).map_err(failed)?;
        let from = format!("/proc/{}/fd/{}", std::process::id(), source.as_raw_fd());
        let remove = if self.read(path)?.is_some() { format!("rm {path}\n") } else { String::new() };
        self.debugfs(&partition, &format!("{remove}write {from} {path}\n"))?;
        // It says what went wrong, and succeeds all the same.
        if self.read(path)?.as_deref() == Some(contents) {
            return Ok(());
        }
        Err(Error(format!("{path} is not what was written there; the file system may be full")))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When there is none, or the partition's file is not to be written to, and for an XFS.
    pub fn remove(&mut self, path: &str) -> Result<(), Error> {
        let partition = self.writable(path)?;
        if self.read(path)?.is_none() {
            return Err(Error(format!("there is no {path} to remove")));
        }
        self.debugfs(&partition, &format!("rm {path}\n"))?;
        match self.read(path)? {
            None => Ok(()),
            Some(_) => Err(Error(format!("{path} could not be removed"))),
        }
    }

    /// The partition's file, when the file at `path` can be written and removed.
    fn writable(&self, path: &str) -> Result<PathBuf, Error> {
        if let Fs::Xfs(_) = self.fs {
            return Err(Error::only_linux_writes(path));
        }
        one_word(path)?;
        self.file
            .clone()
            .ok_or_else(|| Error(format!("{path} cannot be changed: the disk was opened to be read only")))
    }

    /// Has e2fsprogs' debugfs change the file system in the file `partition`, and reads it anew.
    fn debugfs(&mut self, partition: &Path, commands: &str) -> Result<(), Error> {
        let line: [&OsStr; 4] = ["-w".as_ref(), "-f".as_ref(), "/dev/stdin".as_ref(), partition.as_os_str()];
        let input = commands.as_bytes().to_vec();
        latchkey_supervise::run_with("debugfs", &line, |e| e.stdin_bytes(input))
            .map_err(|e| Error(format!("changing it with debugfs: {e}")))?;
        let device = view(partition)?;
        self.fs = Fs::Ext(guarded(|| ext::Ext::load(device))?);
        Ok(())
    }

    /// Of an XFS the features that who does not know them cannot read (Linux, `fs/xfs/libxfs/xfs_format.h`,
    /// `XFS_SB_FEAT_INCOMPAT_*`); `None` of any other. What was synced on an XFS stands in its log, and reaches a boot
    /// loader only once it was unmounted, too; `sync` makes Linux write an ext4's blocks as well, which are its device's.
    #[must_use]
    pub fn xfs_features(&self) -> Option<u32> {
        match &self.fs {
            Fs::Xfs(fs) => Some(fs.features()),
            Fs::Ext(_) => None,
        }
    }

    /// Whether it has a directory that boot loaders look for.
    pub(crate) fn is_for_boot_loaders(&self) -> bool {
        ["/grub2", "/grub", "/loader"].iter().any(|dir| self.list(dir).is_ok_and(|found| found.is_some()))
    }

    /// The partition's number, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The file system's UUID, as GRUB's `search --fs-uuid` compares it.
    #[must_use]
    pub fn uuid(&self) -> String {
        match &self.fs {
            Fs::Ext(fs) => fs.uuid(),
            Fs::Xfs(fs) => fs.uuid(),
        }
    }

    /// The file system's label, as GRUB's `search --label` compares it; empty when it has none.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.fs {
            Fs::Ext(fs) => fs.label(),
            Fs::Xfs(fs) => fs.label(),
        }
    }

    /// A file's bytes, links followed; `None` when there is no such file.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        guarded(|| match &self.fs {
            Fs::Ext(fs) => fs.read(path),
            Fs::Xfs(fs) => fs.read(path),
        })
    }

    /// What is at `path`, links followed; `None` when there is neither a file nor a directory. No file is read.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn kind(&self, path: &str) -> Result<Option<EntryKind>, Error> {
        guarded(|| match &self.fs {
            Fs::Ext(fs) => fs.kind(path),
            Fs::Xfs(fs) => fs.kind(path),
        })
    }

    /// A directory's entries, in the order in which they lie there; `None` when there is no such directory. None is left
    /// out: a name that is no text has U+FFFD in it. A link, wherever it leads, is a file as long as what it says.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, Error> {
        guarded(|| match &self.fs {
            Fs::Ext(fs) => fs.list(path),
            Fs::Xfs(fs) => fs.list(path),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::os::unix::ffi::OsStrExt;

    use super::ext::{BLOCK_SIZE, BLOCKS, BLOCKS_ABOVE, GROUP_BLOCKS};
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
        let kernels = Kernels::open(&disk, 2, Log::AsItLies).unwrap().unwrap();
        assert_eq!((kernels.uuid().as_str(), kernels.label().as_str()), (uuid, "boot"));
        assert_eq!(kernels.read("/link").unwrap().unwrap(), b"set timeout=0\n");
        assert_eq!(kernels.read("/grub2").unwrap(), None);
        assert_eq!(kernels.read("/grub2/none").unwrap(), None);
        assert_eq!(kernels.list("/none").unwrap(), None);
        let kind = |path| kernels.kind(path).unwrap();
        assert_eq!((kind("/grub2"), kind("/")), (Some(EntryKind::Directory), Some(EntryKind::Directory)));
        assert_eq!(
            (kind("/link"), kind("/entries/dangling.conf")),
            (Some(EntryKind::File { size: 14 }), None)
        );
        assert_eq!((kind("/grub2/none"), kind("/link/below")), (None, None));
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
            let error = Kernels::open(&disk, 2, Log::AsItLies).unwrap_err().to_string();
            assert!(error.contains("superblock is damaged"), "{error}");
        }
        // Groups of one block each on a disk that says it is large.
        let mut damaged = whole;
        for (at, bytes) in [(GROUP_BLOCKS, [1, 0, 0, 0]), (BLOCKS, [0, 0, 0, 1])] {
            damaged[usize::try_from(at).unwrap()..][..4].copy_from_slice(&bytes);
        }
        std::fs::write(&disk, damaged).unwrap();
        File::options().write(true).open(&disk).unwrap().set_len(1 << 40).unwrap();
        let error = Kernels::open(&disk, 2, Log::AsItLies).unwrap_err().to_string();
        assert!(error.contains("superblock is damaged"), "{error}");
        for other in [vec![0; 1 << 20], vec![0; 100]] {
            std::fs::write(&disk, other).unwrap();
            assert!(Kernels::open(&disk, 2, Log::AsItLies).unwrap().is_none());
        }
    }
    #[test]
    fn no_file_is_read_that_is_larger_than_any_that_is_booted_from() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, disk) = (dir.path().join("tree"), dir.path().join("disk"));
        std::fs::create_dir(&tree).unwrap();
        File::create(tree.join("huge")).unwrap().set_len(LARGEST + 1).unwrap();
        let [tree, path] = [&tree, &disk].map(|path| path.to_str().unwrap());
        latchkey_supervise::run("mkfs.ext4", &["-q", "-d", tree, path, "2G"]).unwrap();
        let kernels = Kernels::open(&disk, 2, Log::AsItLies).unwrap().unwrap();
        assert_eq!(kernels.kind("/huge").unwrap(), Some(EntryKind::File { size: LARGEST + 1 }));
        let error = kernels.read("/huge").unwrap_err().to_string();
        assert!(error.contains("larger than any file"), "{error}");
    }
}
