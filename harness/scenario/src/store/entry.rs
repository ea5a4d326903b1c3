//! An entry of the store: a directory that appears by one rename, so that what has a name is whole.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// An entry in the making: a directory of its own beside the entry's place. It goes away again unless it is finished, since it
/// may be what fills the disk.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
    is_finished: bool,
}

impl Part {
    /// An empty directory that becomes the entry `name` of `parent`, whatever a killed run left there.
    pub(super) fn begin(parent: &Path, name: &str) -> Result<Self, Error> {
        let path = parent.join(format!("{name}.part"));
        remove(&path)?;
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(Error::file("making", &path))?;
        Ok(Self { path, is_finished: false })
    }

    /// Where it is made.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, and takes away what had it.
    pub(crate) fn finish(mut self) -> Result<PathBuf, Error> {
        let dir = self.path.with_extension("");
        take_away(&dir)?;
        fs::rename(&self.path, &dir).map_err(Error::file("renaming", &self.path))?;
        self.is_finished = true;
        Ok(dir)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_finished
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!("an entry that was not finished is left: {error}");
        }
    }
}

/// Removes an entry. What has a name is whole, also if this is killed: it loses its name first.
pub(super) fn take_away(dir: &Path) -> Result<(), Error> {
    take_away_as(dir, "old")
}

/// The same, with what its name ends with meanwhile.
pub(super) fn take_away_as(dir: &Path, end: &str) -> Result<(), Error> {
    let mut name = dir.as_os_str().to_owned();
    name.push(".");
    name.push(end);
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_is_replaced_has_no_name_meanwhile() {
        let parent = tempfile::tempdir().unwrap();
        for text in ["one", "another"] {
            let part = Part::begin(parent.path(), "k.verdict").unwrap();
            fs::write(part.path().join("a"), text).unwrap();
            let dir = part.finish().unwrap();
            assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), text);
        }
        assert!(!parent.path().join("k.verdict.old").exists());
    }

    #[test]
    fn what_is_not_finished_goes_away_and_takes_nothing_else_with_it() {
        let parent = tempfile::tempdir().unwrap();
        let whole = Part::begin(parent.path(), "k").unwrap().finish().unwrap();
        let part = Part::begin(parent.path(), "k").unwrap();
        fs::write(part.path().join("memory"), "half of it").unwrap();
        copy_files(&parent.path().join("none"), &part.path().join("record")).unwrap_err();
        drop(part);
        let left: Vec<PathBuf> = fs::read_dir(parent.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [whole]);
    }
}
