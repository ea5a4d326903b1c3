//! A disk, opened: as one file, and each partition as a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::esp::{self, Esp};
use crate::format::{self, Format};
use crate::gpt::{self, Gpt, Partition};
use crate::kernels::{self, Kernels, Log};
use crate::storage::{self, Storage};

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

/// An opened disk. While it lives, child processes show the disk as files; nobody else may have it open for
/// writing. [`OpenDisk::close`] writes everything out; dropping does so too but cannot tell whether it worked.
#[derive(Debug)]
pub struct OpenDisk {
    path: PathBuf,
    access: Access,
    whole: PathBuf,
    shown: BTreeMap<u32, PathBuf>,
    storage: Storage,
}

impl OpenDisk {
    /// Opens `path` in the format that its content tells.
    ///
    /// # Errors
    /// [`Error::Format`] when it is no usable disk, [`Error::Storage`] when it cannot be opened, for example since
    /// a running machine has it.
    pub fn open(path: &Path, access: Access) -> Result<Self, Error> {
        Self::open_as(path, format::detect(path)?, access)
    }

    /// Opens `path` as `format`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(path: &Path, format: Format, access: Access) -> Result<Self, Error> {
        let absolute = path.canonicalize().map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let options = match format {
            Format::Qcow2 => json!({ "driver": "qcow2" }),
            Format::Raw => json!({ "driver": "raw" }),
            Format::FixedVhd { size } => json!({ "driver": "raw", "size": size }),
        };
        let failed = |source| Error::Storage { path: path.to_owned(), source };
        let mut storage = Storage::open(&absolute, options, access).map_err(failed)?;
        let whole = storage.show("disk", None).map_err(failed)?;
        Ok(Self { path: path.to_owned(), access, whole, shown: BTreeMap::new(), storage })
    }

    /// A file that is the whole disk, as writable as the disk was opened. It stays until the disk is closed.
    #[must_use]
    pub fn raw(&self) -> &Path {
        &self.whole
    }

    /// The disk's partition table.
    ///
    /// # Errors
    /// [`Error::Table`] says what is there instead of a usable GPT.
    pub fn table(&self) -> Result<Gpt, Error> {
        let mut file = File::open(&self.whole).map_err(|e| self.read_error(e))?;
        Gpt::read(&mut file).map_err(|source| Error::Table { path: self.path.clone(), source })
    }

    /// The partitions in use.
    ///
    /// # Errors
    /// As [`Self::table`].
    pub fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(self.table()?.partitions)
    }

    /// A file that is exactly `partition`, as writable as the disk was opened. It stays until the disk is closed.
    ///
    /// # Errors
    /// [`Error::Storage`] when it cannot be shown.
    pub fn partition_file(&mut self, partition: &Partition) -> Result<PathBuf, Error> {
        if let Some(path) = self.shown.get(&partition.index) {
            return Ok(path.clone());
        }
        let name = format!("part{}", partition.index);
        let shown = self
            .storage
            .show(&name, Some((partition.offset(), partition.size())))
            .map_err(|source| Error::Storage { path: self.path.clone(), source })?;
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
        let file = self.partition_file(partition)?;
        let opened = match self.access {
            Access::ReadOnly | Access::Frozen => Esp::open_unchanging(&file),
            Access::ReadWrite => Esp::open(&file),
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
                let file = self.partition_file(partition)?;
                match Kernels::open(&file, partition.index, self.log()) {
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
    /// where nobody can tell: it is encrypted, no ext4 or XFS that can be read, or has no `beside` either, which lies in
    /// the same directory wherever that is part of it.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn root_has(&mut self, path: &str, beside: &str) -> Result<Option<bool>, Error> {
        let Some(root) = self.table()?.find(gpt::kind::ROOT_X86_64).cloned() else { return Ok(None) };
        let file = self.partition_file(&root)?;
        let Ok(Some(root)) = Kernels::open(&file, root.index, self.log()) else { return Ok(None) };
        let has = |path| root.read(path).is_ok_and(|file| file.is_some());
        Ok(if has(path) { Some(true) } else { has(beside).then_some(false) })
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
        let Self { path, storage, .. } = self;
        storage.close().map_err(|source| Error::Storage { path, source })
    }

    fn read_error(&self, source: io::Error) -> Error {
        Error::Read { path: self.path.clone(), source }
    }
}
