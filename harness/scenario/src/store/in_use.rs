//! The lock of those who use a build's directory, which others may be about to take away.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use latchkey_supervise::{Hold, hold};
use rustix::fs::{FlockOperation, flock};

use super::damage;
use crate::Error;

/// The file that is locked (shared) by every run that uses its directory.
pub(super) const IN_USE: &str = ".in-use";
/// How often somebody tries to be in a directory that others take away.
const TRIES: u32 = 100;

/// Makes the directory `dir` of a build where there is none, and gives the lock of those who use it.
pub(super) fn in_use(dir: &Path) -> Result<File, Error> {
    let path = dir.join(IN_USE);
    for tries in (0..TRIES).rev() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        let file = match made.and_then(|()| open(&path)) {
            // Another build, which found nobody here, has just removed it.
            Err(e) if tries > 0 && is_passing(&e, dir) => continue,
            other => other.map_err(Error::file("making", &path))?,
        };
        // Nobody else is here, so nothing lies over what is damaged.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, &path) {
            damage::sweep(dir);
        }
        let waiting = || tracing::info!("waiting for whoever removes {}", dir.display());
        hold(&file, &path, Hold::Shared, waiting)?;
        // The same while this waited.
        if is_at(&file, &path) {
            return Ok(file);
        }
    }
    let why = "other builds of this program remove it again and again";
    Err(Error::Bench(format!("making {}: {why}", path.display())))
}

/// The lock on the directory `dir` of a build that nobody uses, for whoever wants it alone; `None` where somebody does, or it
/// is not there any more. Where it has no such file one is made, so that whoever comes meanwhile waits.
pub(super) fn alone(dir: &Path) -> Option<File> {
    let path = dir.join(IN_USE);
    // It is neither read nor written: its time tells when the build was used last.
    let file = open(&path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    is_at(&file, &path).then_some(file)
}

/// For reading as well: NFS gives a shared lock to nobody who cannot read.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Whether `file` is the one that lies at `path`. One that was removed locks nobody out.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(own), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (own.dev(), own.ino()) == (there.dev(), there.ino())
}

/// Whether making the directory `dir` may succeed the next time.
fn is_passing(error: &io::Error, dir: &Path) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound => true,
        io::ErrorKind::AlreadyExists => !dir.is_file() && !dir.is_symlink(),
        _ => false,
    }
}

/// As [`alone`], once nobody is there: a process that another test starts has this one's files until it is another program.
#[cfg(test)]
pub(super) fn alone_at_last(dir: &Path) -> File {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        if let Some(file) = alone(dir) {
            return file;
        }
        assert!(std::time::Instant::now() < until, "somebody stays in {}", dir.display());
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A place that leads nowhere is an error, and not waited for.
    #[test]
    fn a_place_that_leads_nowhere_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/there/is/none", dir.path().join("link")).unwrap();
        let error = in_use(&dir.path().join("link")).unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
        in_use(&dir.path().join("made/on/the/way")).unwrap();
    }

    /// As by another build, which removes what it takes for nobody's.
    #[test]
    fn a_directory_that_is_removed_while_it_is_made_is_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("saved/build");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let _ = fs::remove_dir_all(&dir);
                    // Whoever makes it has to have a turn.
                    std::thread::yield_now();
                }
            });
            let all: Result<Vec<File>, Error> = (0..200).map(|_| in_use(&dir)).collect();
            is_over.store(true, Ordering::SeqCst);
            assert_eq!(all.unwrap().len(), 200);
        });
    }

    #[test]
    fn nobody_is_alone_where_somebody_is_or_with_a_file_that_was_removed() {
        let all = tempfile::tempdir().unwrap();
        let dir = all.path().join("build");
        assert!(alone(&dir).is_none(), "it is not there");
        let used = in_use(&dir).unwrap();
        assert!(alone(&dir).is_none());
        drop(used);
        let file = alone_at_last(&dir);
        assert!(is_at(&file, &dir.join(IN_USE)));
        fs::rename(&dir, all.path().join("build.removing")).unwrap();
        assert!(!is_at(&file, &dir.join(IN_USE)));
        in_use(&dir).unwrap();
        assert!(!is_at(&file, &dir.join(IN_USE)), "another one is there");
    }
}
