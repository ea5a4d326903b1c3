//! The EFI system partition: a FAT file system in a file, read and written without mounting anything.
//!
//! Paths have forward slashes and start at the file system's root, with or without a leading slash; names are
//! compared without regard to case, as FAT does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

mod cached;
mod caught;
mod fat;

use crate::view::{LARGEST, View};
use cached::Cached;
pub use caught::caught;
use fat::{Fat, MOST_ENTRIES, failure, find, list, trim, with};

/// How deep [`Esp::files`] goes, how many directories it goes through, and how long the paths that it finds may be together,
/// in bytes. On a damaged file system a directory may be in many others.
const DEEPEST: usize = 16;
const MOST_DIRECTORIES: usize = 4096;
const MOST_TEXT: usize = 16 << 20;

/// Why something could not be done to an EFI system partition.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The partition itself cannot be opened.
    #[error("opening the EFI system partition in {path}: {source}")]
    Open {
        /// The partition's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No such file or directory in it.
    #[error("{what} on the EFI system partition: there is no such file or directory")]
    Missing {
        /// What was being done.
        what: String,
    },
    /// Another failure.
    #[error("{what} on the EFI system partition: {source}")]
    Failed {
        /// What was being done.
        what: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The file system is damaged beyond what its driver expects.
    #[error("{what} on the EFI system partition: its file system is damaged; fsck.vfat tells more")]
    Damaged {
        /// What was being done.
        what: String,
    },
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, as it is spelt on the disk.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A file of so many bytes.
    File {
        /// Size in bytes.
        size: u64,
    },
}

/// A FAT file system in a file.
#[derive(Debug, Clone)]
pub struct Esp {
    place: Place,
}

/// Where a file system is.
#[derive(Debug, Clone)]
enum Place {
    /// In this file, which is opened anew for whatever is done.
    File(PathBuf),
    /// Where nobody writes: what was read of it is not read again.
    Unchanging(Arc<Mutex<Cached>>),
}

impl Esp {
    /// Opens the file system in `file`, a partition's file.
    ///
    /// # Errors
    /// [`Error::Open`] when it cannot be read, [`Error::Failed`] when it holds no FAT file system.
    pub fn open(file: &Path) -> Result<Self, Error> {
        Self::at(Place::File(file.to_owned()))
    }

    /// Opens the file system in `partition`, to which nobody writes as long as this lives.
    ///
    /// # Errors
    /// [`Error::Failed`] when it holds no FAT file system.
    pub(crate) fn open_unchanging(partition: View) -> Result<Self, Error> {
        Self::at(Place::Unchanging(Arc::new(Mutex::new(Cached::new(partition)))))
    }

    fn at(place: Place) -> Result<Self, Error> {
        let esp = Self { place };
        esp.read_only("looking for a FAT file system", |_, _| Ok(()))?;
        Ok(esp)
    }

    /// The file system's serial number as GRUB and udev write it: two groups of four hexadecimal digits.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn uuid(&self) -> Result<String, Error> {
        let id = self.read_only("reading the serial number", |fs, _| Ok(fs.volume_id()))?;
        Ok(format!("{:04X}-{:04X}", id >> 16, id & 0xffff))
    }

    /// The volume's name as its root directory has it, which is what GRUB's `search --label` compares.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn label(&self) -> Result<Option<String>, Error> {
        self.read_only("reading the volume's name", |fs, _| fs.read_volume_label_from_root_dir())
    }

    /// The size of a cluster in bytes: what a file takes is a multiple of it.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn cluster(&self) -> Result<usize, Error> {
        self.read_only("reading the size of a cluster", |fs, _| Ok(fs.cluster_size() as usize))
    }

    /// The entries of a directory, in the order in which they stand on the disk (shim reads certificate files
    /// in that order).
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no such directory.
    pub fn list(&self, path: &str) -> Result<Vec<Entry>, Error> {
        self.read_only(&format!("listing {path}"), |fs, _| list(fs, path))
    }

    /// Every file below `path`, as paths that start with a slash, directories in their own order.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no such directory.
    pub fn files(&self, path: &str) -> Result<Vec<String>, Error> {
        self.read_only(&format!("listing everything in {path}"), |fs, _| {
            let top = path.trim_matches('/');
            let too_many = || io::Error::other("there are too many files");
            let (mut found, mut visited, mut text) = (Vec::new(), 0, 0);
            let mut open = vec![(if top.is_empty() { String::new() } else { format!("/{top}") }, 0)];
            while let Some((directory, depth)) = open.pop() {
                visited += 1;
                let mut below = Vec::new();
                for entry in list(fs, &directory)? {
                    let path = format!("{directory}/{}", entry.name);
                    text += path.len();
                    match entry.kind {
                        _ if text > MOST_TEXT => return Err(too_many()),
                        EntryKind::File { .. } => found.push(path),
                        EntryKind::Directory if depth < DEEPEST => below.push((path, depth + 1)),
                        EntryKind::Directory => {
                            return Err(io::Error::other("directories are nested too deeply"));
                        }
                    }
                }
                open.extend(below.into_iter().rev());
                if visited > MOST_DIRECTORIES || found.len() + open.len() > MOST_ENTRIES {
                    return Err(too_many());
                }
            }
            Ok(found)
        })
    }

    /// A file's contents.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no such file.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.read_only(&format!("reading {path}"), |fs, length| {
            let Some(EntryKind::File { size }) = find(fs, path)? else {
                return Err(io::ErrorKind::NotFound.into());
            };
            if size > LARGEST {
                return Err(io::Error::other("it is larger than any file that is read here"));
            }
            let file = fs.root_dir().open_file(trim(path))?;
            // A size in a damaged directory entry may be anything; no file is larger than its file system.
            let mut bytes = Vec::with_capacity(usize::try_from(size.min(length)).unwrap_or_default());
            file.take(length).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }

    /// What is at `path`; `None` when there is nothing. No file is read.
    ///
    /// # Errors
    /// [`Error::Failed`] when the file system cannot be read.
    pub fn kind(&self, path: &str) -> Result<Option<EntryKind>, Error> {
        self.read_only(&format!("looking for {path}"), |fs, _| find(fs, path))
    }

    /// How many bytes its partition has.
    ///
    /// # Errors
    /// [`Error::Failed`] when the file system cannot be read.
    pub(crate) fn length(&self) -> Result<u64, Error> {
        self.read_only("asking for the size", |_, length| Ok(length))
    }

    /// Whether there is a file or directory at `path`.
    ///
    /// # Errors
    /// [`Error::Failed`] when the file system cannot be read.
    pub fn exists(&self, path: &str) -> Result<bool, Error> {
        Ok(self.kind(path)?.is_some())
    }

    /// Writes a file, replacing the one that was there. Its directory must exist.
    ///
    /// # Errors
    /// [`Error::Missing`] when the directory does not exist, [`Error::Failed`] when the file system is full.
    pub fn write(&self, path: &str, contents: &[u8]) -> Result<(), Error> {
        self.read_write(&format!("writing {path}"), |fs| {
            let mut file = fs.root_dir().create_file(trim(path))?;
            file.truncate()?;
            file.write_all(contents)?;
            file.flush()
        })
    }

    /// Makes a directory and those above it that are missing.
    ///
    /// # Errors
    /// [`Error::Failed`] when a file is in the way or the file system is full.
    pub fn create_dir_all(&self, path: &str) -> Result<(), Error> {
        self.read_write(&format!("making the directory {path}"), |fs| {
            let mut directory = fs.root_dir();
            for name in trim(path).split('/').filter(|name| !name.is_empty()) {
                directory = directory.create_dir(name)?;
            }
            Ok(())
        })
    }

    /// Renames a file, within its directory or into another one, or a directory where it stands. A file that
    /// has the new name already is replaced, as `mv` does.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is nothing at `from` or no directory for `to`.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.read_write(&format!("renaming {from} to {to}"), |fs| {
            let root = fs.root_dir();
            let source = find(fs, from)?.ok_or(io::ErrorKind::NotFound)?;
            let above =
                |path: &str| trim(path).rsplit_once('/').map_or(String::new(), |(a, _)| a.to_uppercase());
            if source == EntryKind::Directory && above(from) != above(to) {
                // The FAT driver would leave the entry `..` pointing to the old place.
                return Err(io::Error::other("a directory can be renamed but not moved"));
            }
            let same = trim(from).eq_ignore_ascii_case(trim(to));
            if let Some(target) = find(fs, to)?.filter(|_| !same) {
                if target == EntryKind::Directory || source == EntryKind::Directory {
                    return Err(io::Error::other("there is something of that name already"));
                }
                root.remove(trim(to))?;
            }
            root.rename(trim(from), &root, trim(to))
        })
    }

    /// Removes a file or an empty directory.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is nothing at `path`.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        self.read_write(&format!("removing {path}"), |fs| fs.root_dir().remove(trim(path)))
    }

    fn read_only<T>(&self, what: &str, act: impl FnOnce(&Fat<'_>, u64) -> io::Result<T>) -> Result<T, Error> {
        match &self.place {
            Place::File(path) => {
                let mut cached = cached(path, File::options().read(true))?;
                let length = cached.length();
                with(&mut cached, what, |fs| act(fs, length))
            }
            Place::Unchanging(kept) => {
                // Whoever panicked with it had begun to read.
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.begin();
                let length = kept.length();
                with(&mut kept, what, |fs| act(fs, length))
            }
        }
    }

    fn read_write<T>(&self, what: &str, act: impl FnOnce(&Fat<'_>) -> io::Result<T>) -> Result<T, Error> {
        let Place::File(path) = &self.place else {
            let source =
                io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the disk was opened to be read only");
            return Err(failure(what, source));
        };
        let mut cached = cached(path, File::options().read(true).write(true))?;
        // An edit that fails on the way is never written, so the disk stays as it was.
        let done = with(&mut cached, what, act)?;
        cached
            .mend_new_directories()
            .and_then(|()| cached.write_back())
            .map_err(|source| failure(what, source))?;
        Ok(done)
    }
}

/// The file at `path`, opened like this.
fn cached(path: &Path, options: &OpenOptions) -> Result<Cached, Error> {
    let view = options.open(path).and_then(View::new);
    view.map(Cached::new).map_err(|source| Error::Open { path: path.to_owned(), source })
}
