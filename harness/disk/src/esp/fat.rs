//! The FAT driver (the crate fatfs), and what it is asked in more than one place.

use std::io;

use fatfs::{DateTime, FileSystem, FsOptions};

use super::cached::Cached;
use super::{Entry, EntryKind, Error, caught};

/// Most entries of one directory, and most files found by [`super::Esp::files`].
pub(super) const MOST_ENTRIES: usize = 65_536;

/// Files get the earliest date that FAT knows, so that the same edit always gives the same bytes.
#[derive(Debug)]
struct NoClock;

impl fatfs::TimeProvider for NoClock {
    fn get_current_date(&self) -> fatfs::Date {
        fatfs::Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        let time = fatfs::Time { hour: 0, min: 0, sec: 0, millis: 0 };
        DateTime { date: self.get_current_date(), time }
    }
}

static NO_CLOCK: NoClock = NoClock;

pub(super) type Fat<'a> = FileSystem<&'a mut Cached>;
type Directory<'fs, 'a> = fatfs::Dir<'fs, &'a mut Cached>;

/// Mounts, acts, unmounts. The FAT driver is not made for hostile input and may panic on it; here that is an
/// error like any other.
pub(super) fn with<T>(
    cached: &mut Cached,
    what: &str,
    act: impl FnOnce(&Fat<'_>) -> io::Result<T>,
) -> Result<T, Error> {
    let attempt = caught(|| {
        let fs = FileSystem::new(cached, FsOptions::new().time_provider(&NO_CLOCK))?;
        let done = act(&fs)?;
        fs.unmount()?;
        Ok(done)
    });
    match attempt {
        Some(result) => result.map_err(|source| failure(what, source)),
        None => Err(Error::Damaged { what: what.to_owned() }),
    }
}

pub(super) fn failure(what: &str, source: io::Error) -> Error {
    let what = what.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { what },
        _ => Error::Failed { what, source },
    }
}

pub(super) fn trim(path: &str) -> &str {
    path.trim_matches('/')
}

pub(super) fn list(fs: &Fat<'_>, path: &str) -> io::Result<Vec<Entry>> {
    if find(fs, path)? != Some(EntryKind::Directory) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let root = fs.root_dir();
    entries(&if trim(path).is_empty() { root } else { root.open_dir(trim(path))? })
}

fn entries(directory: &Directory<'_, '_>) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        let kind = if entry.is_dir() { EntryKind::Directory } else { EntryKind::File { size: entry.len() } };
        entries.push(Entry { name, kind });
        if entries.len() > MOST_ENTRIES {
            return Err(io::Error::other("a directory has too many entries"));
        }
    }
    Ok(entries)
}

/// What is at `path`, when anything is; nothing is below a file.
pub(super) fn find(fs: &Fat<'_>, path: &str) -> io::Result<Option<EntryKind>> {
    let mut directory = fs.root_dir();
    let mut parts = trim(path).split('/').filter(|part| !part.is_empty()).peekable();
    while let Some(name) = parts.next() {
        let upper = name.to_uppercase();
        let same = |entry: &Entry| entry.name.to_uppercase() == upper;
        let Some(entry) = entries(&directory)?.into_iter().find(same) else { return Ok(None) };
        if parts.peek().is_none() {
            return Ok(Some(entry.kind));
        }
        if entry.kind != EntryKind::Directory {
            return Ok(None);
        }
        directory = directory.open_dir(&entry.name)?;
    }
    Ok(Some(EntryKind::Directory))
}
