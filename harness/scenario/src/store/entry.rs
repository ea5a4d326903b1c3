//! An entry of the store: a directory that appears by one rename, so that what has a name is whole.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// An empty directory beside which [`finish`] gives it the name `name`.
pub(super) fn begin(parent: &Path, name: &str) -> Result<PathBuf, Error> {
    let dir = parent.join(format!("{name}.part"));
    remove(&dir)?;
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(Error::file("making", &dir))?;
    Ok(dir)
}

/// Gives what [`begin`] made in `part` its name, and takes away what had it.
pub(crate) fn finish(part: &Path) -> Result<PathBuf, Error> {
    let dir = part.with_extension("");
    take_away(&dir)?;
    fs::rename(part, &dir).map_err(Error::file("renaming", part))?;
    Ok(dir)
}

/// Removes an entry. What has a name is whole, also if this is killed: it loses its name first.
pub(super) fn take_away(dir: &Path) -> Result<(), Error> {
    let mut name = dir.as_os_str().to_owned();
    name.push(".old");
    let old = PathBuf::from(name);
    remove(&old)?;
    match fs::rename(dir, &old) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(Error::file("renaming", dir))?,
    }
    remove(&old)
}

pub(super) fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("removing", dir)(e)),
        _ => Ok(()),
    }
}

/// Copies the files of one directory into another, which is made.
pub(crate) fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::file("making", to))?;
    for entry in fs::read_dir(from).map_err(Error::file("listing", from))? {
        let entry = entry.map_err(Error::file("listing", from))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::copy(entry.path(), to.join(entry.file_name()))
                .map_err(Error::file("copying", &entry.path()))?;
        }
    }
    Ok(())
}
