//! A disk, opened: the whole of it and each partition, to be read, or as a file for who needs one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::flock;
use serde_json::json;

use crate::esp::{self, Esp};
use crate::format::{self, Format};
use crate::gpt::{self, Gpt, Partition};
use crate::kernels::{self, Kernels, Log};
use crate::storage::{self, Storage};
use crate::view::View;

/// Why a disk could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its format is not usable.
    #[error(transparent)]
    Format(#[from] format::Error),
    /// It could not be shown as files.
    #[error("opening the disk {path}: {source}")]
    Storage {
        /// The disk.
        path: PathBuf,
        /// What went wrong.
        source: storage::Error,
    },
    /// QEMU writes to it, and nothing that is read of it need fit together.
    #[error("{path} is in use: a machine writes to it; shut that down, or take a copy of its disk")]
    InUse {
        /// The disk.
        path: PathBuf,
    },
    /// A file could not be used.
    #[error("reading the disk {path}: {source}")]
    Read {
        /// The disk.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its partition table is not usable.
    #[error("reading the disk {path}: {source}")]
    Table {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        source: gpt::Error,
    },
    /// No EFI system partition.
    #[error("the disk {path} has no EFI system partition, so UEFI firmware cannot start it")]
    NoEsp {
        /// The disk.
        path: PathBuf,
    },
    /// Its EFI system partition is not usable.
    #[error("the disk {path}: {source}")]
    Esp {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        source: esp::Error,
    },
    /// Its partition with kernels is not usable.
    #[error("the disk {path}: {source}")]
    Kernels {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        source: kernels::Error,
    },
}

/// What may be done to an opened disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing is written, not even a time of access.
    ReadOnly,
    /// As [`Access::ReadOnly`], of a disk that a machine has open which was brought to a stop, so that it does not write
    /// meanwhile: nobody's lock is asked for.
    Frozen,
    /// Everything may be written to.
    ReadWrite,
}

/// An opened disk. While it lives, child processes show it, or its partitions, as files, but for an image that has the
/// disk's bytes as they are and is only read; nobody else may have it open for writing. [`OpenDisk::close`] writes
/// everything out; dropping does so too but cannot tell whether it worked.
#[derive(Debug)]
pub struct OpenDisk {
    path: PathBuf,
    format: Format,
    access: Access,
    whole: Whole,
    /// Partitions that are shown as files, by number.
    shown: BTreeMap<u32, PathBuf>,
    /// What shows them; there is one once something has to be shown.
    storage: Option<Storage>,
}

/// Where the bytes of a whole disk are.
#[derive(Debug)]
enum Whole {
    /// In the image.
    Image(View),
    /// In a file that shows them.
    Shown(PathBuf),
}

impl OpenDisk {
    /// Opens `path` in the format that its content tells.
    ///
    /// # Errors
    /// [`Error::Format`] when it is no usable disk, [`Error::InUse`] or [`Error::Storage`] when it cannot be opened, for
    /// example since a running machine has it.
    pub fn open(path: &Path, access: Access) -> Result<Self, Error> {
        Self::open_as(path, format::detect(path)?, access)
    }

    /// Opens `path` as `format`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(path: &Path, format: Format, access: Access) -> Result<Self, Error> {
        let size = match format {
            _ if access == Access::ReadWrite => None,
            Format::Qcow2 => None,
            Format::Raw => Some(u64::MAX),
            Format::FixedVhd { size } => Some(size),
        };
        let mut storage = None;
        let whole = match size {
            Some(size) => match unwritten(path, access) {
                Ok(Some(file)) => View::new(file).and_then(|all| all.part(0, size)).map(Whole::Image),
                Ok(None) => return Err(Error::InUse { path: path.to_owned() }),
                Err(source) => Err(source),
            },
            None => {
                let shower = storage.insert(shower(path, format, access)?);
                Ok(Whole::Shown(shower.show("disk", None).map_err(|e| storage_error(path, e))?))
            }
        };
        let whole = whole.map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), format, access, whole, shown: BTreeMap::new(), storage })
    }

    /// The whole disk, to be read.
    ///
    /// # Errors
    /// [`Error::Read`] when its file cannot be opened.
    pub fn whole(&self) -> Result<View, Error> {
        let view = match &self.whole {
            Whole::Image(view) => view.part(0, view.length()),
            Whole::Shown(path) => File::open(path).and_then(View::new),
        };
        view.map_err(|source| self.read_error(source))
    }

    /// The disk's partition table.
    ///
    /// # Errors
    /// [`Error::Table`] says what is there instead of a usable GPT.
    pub fn table(&self) -> Result<Gpt, Error> {
        Gpt::read(&mut self.whole()?).map_err(|source| Error::Table { path: self.path.clone(), source })
    }

    /// `partition`, to be read.
    ///
    /// # Errors
    /// As [`Self::whole`] and [`Self::partition_file`].
    pub fn partition(&mut self, partition: &Partition) -> Result<View, Error> {
        let view = match self.access {
            Access::ReadOnly | Access::Frozen => self.whole()?.part(partition.offset(), partition.size()),
            // What was written to its file need not have reached the disk's.
            Access::ReadWrite => File::open(self.partition_file(partition)?).and_then(View::new),
        };
        view.map_err(|source| self.read_error(source))
    }

    /// A file that is exactly `partition`, as writable as the disk was opened. It stays until the disk is closed.
    ///
    /// # Errors
    /// [`Error::Storage`] when it cannot be shown.
    pub fn partition_file(&mut self, partition: &Partition) -> Result<PathBuf, Error> {
        if let Some(path) = self.shown.get(&partition.index) {
            return Ok(path.clone());
        }
        let storage = match &mut self.storage {
            Some(storage) => storage,
            none => none.insert(shower(&self.path, self.format, self.access)?),
        };
        let place = (partition.offset(), partition.size());
        let shown = storage.show(&format!("part{}", partition.index), Some(place));
        let shown = shown.map_err(|e| storage_error(&self.path, e))?;
        self.shown.insert(partition.index, shown.clone());
        Ok(shown)
    }

    /// The file system of the first EFI system partition.
    ///
    /// # Errors
    /// [`Error::NoEsp`] when there is none, [`Error::Esp`] when it is not a FAT file system.
    pub fn esp(&mut self) -> Result<Esp, Error> {
        let table = self.table()?;
        let partition = table.find(gpt::kind::ESP).ok_or_else(|| Error::NoEsp { path: self.path.clone() })?;
        let opened = match self.access {
            Access::ReadOnly | Access::Frozen => Esp::open_unchanging(self.partition(partition)?),
            Access::ReadWrite => Esp::open(&self.partition_file(partition)?),
        };
        opened.map_err(|source| Error::Esp { path: self.path.clone(), source })
    }

    /// The file system with kernels, an ext4 or XFS: on the first partition of the type for it; else, of those that are for
    /// any Linux file system, on the first that has what boot loaders look for, or the first of all. `None` when there is
    /// none.
    ///
    /// # Errors
    /// [`Error::Kernels`] when none can be read, and one is damaged.
    pub fn kernels(&mut self) -> Result<Option<Kernels>, Error> {
        let table = self.table()?;
        let (mut first, mut damaged) = (None, None);
        for kind in [gpt::kind::XBOOTLDR, gpt::kind::LINUX] {
            for partition in table.partitions.iter().filter(|partition| partition.type_guid == kind) {
                match self.kernels_on(partition)? {
                    Ok(Some(kernels)) if kind == gpt::kind::XBOOTLDR || kernels.is_for_boot_loaders() => {
                        return Ok(Some(kernels));
                    }
                    Ok(Some(kernels)) => first = first.or(Some(kernels)),
                    Ok(None) => {}
                    Err(source) => damaged = damaged.or(Some(source)),
                }
            }
        }
        match (first, damaged) {
            (None, Some(source)) => Err(Error::Kernels { path: self.path.clone(), source }),
            (first, _) => Ok(first),
        }
    }

    /// Whether the root file system, of the first partition of that type, has a file at `path`, links followed. `None`
    /// where nobody can tell: it is encrypted, no ext4 or XFS that can be read, damaged where the file is or would be, or has
    /// no `beside` either, which lies in the same directory wherever that is part of it.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn root_has(&mut self, path: &str, beside: &str) -> Result<Option<bool>, Error> {
        let Some(root) = self.table()?.find(gpt::kind::ROOT_X86_64).cloned() else { return Ok(None) };
        let Ok(Some(root)) = self.kernels_on(&root)? else { return Ok(None) };
        Ok(told(|path| root.read(path).map(|file| file.is_some()), path, beside))
    }

    fn kernels_on(
        &mut self,
        partition: &Partition,
    ) -> Result<Result<Option<Kernels>, kernels::Error>, Error> {
        let (number, log) = (partition.index, self.log());
        Ok(match self.access {
            Access::ReadOnly | Access::Frozen => Kernels::of(self.partition(partition)?, number, log),
            Access::ReadWrite => Kernels::open(&self.partition_file(partition)?, number, log),
        })
    }

    /// A guest that stands still will unmount what it has mounted before a boot loader reads it.
    fn log(&self) -> Log {
        match self.access {
            Access::Frozen => Log::Replayed,
            Access::ReadOnly | Access::ReadWrite => Log::AsItLies,
        }
    }

    /// Writes everything out and ends the child processes.
    ///
    /// # Errors
    /// [`Error::Storage`] when something may not have been written.
    pub fn close(self) -> Result<(), Error> {
        self.storage.map_or(Ok(()), Storage::close).map_err(|e| storage_error(&self.path, e))
    }

    fn read_error(&self, source: io::Error) -> Error {
        Error::Read { path: self.path.clone(), source }
    }
}

/// The file at `path`, unless QEMU has it open for writing and is not known to stand still. As long as it is open QEMU does
/// not open it for writing.
fn unwritten(path: &Path, access: Access) -> io::Result<Option<File>> {
    /// The bytes that QEMU has locked as long as it may write to a file, and as long as nobody else may (QEMU,
    /// `block/file-posix.c`, `RAW_LOCK_PERM_BASE`, `RAW_LOCK_SHARED_BASE` and `BLK_PERM_WRITE`).
    const WRITES: i64 = 101;
    const ALONE: i64 = 201;
    /// `F_RDLCK`, `F_WRLCK`, `F_UNLCK` and `SEEK_SET` (fcntl.h), in the width that they have in a lock.
    const SHARED: i16 = 0;
    const EXCLUSIVE: i16 = 1;
    const NONE: i16 = 2;
    const FROM_START: i16 = 0;
    let byte = |l_type, l_start| flock { l_type, l_whence: FROM_START, l_start, l_len: 1, l_pid: 0 };
    let file = File::open(path)?;
    if access == Access::Frozen {
        return Ok(Some(file));
    }
    // On a file system without locks QEMU has none either. This one goes with the last view of the file.
    let _ = fcntl(&file, FcntlArg::F_OFD_SETLK(&byte(SHARED, ALONE)));
    let mut lock = byte(EXCLUSIVE, WRITES);
    let told = fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok();
    Ok((!told || lock.l_type == NONE).then_some(file))
}

/// What shows the disk at `path` as files.
fn shower(path: &Path, format: Format, access: Access) -> Result<Storage, Error> {
    let absolute = path.canonicalize().map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let options = match format {
        Format::Qcow2 => json!({ "driver": "qcow2" }),
        Format::Raw => json!({ "driver": "raw" }),
        Format::FixedVhd { size } => json!({ "driver": "raw", "size": size }),
    };
    Storage::open(&absolute, options, access).map_err(|e| storage_error(path, e))
}

/// Whether there is a file at `path`, by who knows that of files, or cannot read one. That there is none is believed of who finds
/// the one `beside` it.
fn told<E>(has: impl Fn(&str) -> Result<bool, E>, path: &str, beside: &str) -> Option<bool> {
    match has(path) {
        Ok(true) => Some(true),
        Ok(false) => has(beside).is_ok_and(|there| there).then_some(false),
        Err(_) => None,
    }
}

fn storage_error(path: &Path, source: storage::Error) -> Error {
    Error::Storage { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::it_is_there(Ok(true), Err(()), Some(true))]
    #[case::it_is_not(Ok(false), Ok(true), Some(false))]
    #[case::nor_is_what_lies_beside_it(Ok(false), Ok(false), None)]
    #[case::what_lies_beside_it_cannot_be_read(Ok(false), Err(()), None)]
    #[case::it_cannot_be_read(Err(()), Ok(true), None)]
    fn what_cannot_be_read_is_not_taken_for_absent(
        #[case] it: Result<bool, ()>,
        #[case] beside: Result<bool, ()>,
        #[case] expected: Option<bool>,
    ) {
        assert_eq!(told(|path| if path == "it" { it } else { beside }, "it", "beside"), expected);
    }
}
