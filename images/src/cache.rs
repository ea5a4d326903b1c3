//! The cache directory: keys, packages and finished images, one directory per content address.
//!
//! ```text
//! <root>/pki/                    the test keys (see [`crate::Pki`])
//! <root>/packages/<recipe>.json  package versions of the image built last; of a stock disk, which one was made last
//! <root>/apt/                    apt's private lists and archives
//! <root>/images/<recipe>-<key>/  a finished image with its manifest
//! <root>/images/<name>-<key>-<content>/  a stock disk
//! <root>/work/                   builds under way; removed when they end or die
//! <root>/locks/<name>            held by whoever works on the image of that name; `images` by everybody who uses any, shared
//! ```
//!
//! An image directory appears by one rename when everything in it is complete, so what has a name is finished.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use latchkey_supervise::{Hold, Lock, hold, lock};
use rustix::fs::{FlockOperation, flock, statvfs};
use rustix::io::Errno;

use crate::error::{io, tool};
use crate::progress::begin;
use crate::{Error, Progress, Stage};

/// How much room an image build takes at its peak, in MiB: packages, the installed tree, the raw disk (sparse)
/// and the finished image.
const BUILD_MIB: u64 = 1500;
/// Room for the system that an image is made of, in MiB: as much as its root file system.
const TREE_MIB: u64 = 976;

/// The lock that whoever uses images shares. No image has this name.
const IMAGES: &str = "images";

/// Whether a file or directory cannot be made there since that is not for this user to do.
fn is_not_ours(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

/// The cache's root directory. Once an image was asked for, no image is removed as long as this, or a clone of it, is there.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    /// The lock on the images, once they are in use.
    in_use: Arc<Mutex<Option<File>>>,
}

impl Cache {
    /// The cache at `root`, made when missing.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::as_it_is(Some(&root.into()))?.made()
    }

    /// The cache where the user wants it: `$LATCHKEY_CACHE`, else `$XDG_CACHE_HOME/latchkey`, else
    /// `$HOME/.cache/latchkey`.
    ///
    /// # Errors
    /// [`Error::NoCacheDir`] when no variable tells, [`Error::Io`] when it cannot be made.
    pub fn of_user() -> Result<Self, Error> {
        Self::as_it_is(None)?.made()
    }

    /// The cache at `root`, or where the user wants it, for who only looks: it may not be there.
    ///
    /// # Errors
    /// [`Error::NoCacheDir`] when nothing tells where it is.
    pub fn as_it_is(root: Option<&Path>) -> Result<Self, Error> {
        let of_user = || default_root(|name| env::var_os(name).map(PathBuf::from));
        let root = root.map(Path::to_owned).or_else(of_user).ok_or(Error::NoCacheDir)?;
        let root = std::path::absolute(root).map_err(io("finding", "the cache"))?;
        Ok(Self { root, in_use: Arc::default() })
    }

    fn made(self) -> Result<Self, Error> {
        fs::create_dir_all(&self.root).map_err(io("making", &self.root))?;
        Ok(self)
    }

    /// The root directory, an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory under the root, made when missing.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf, Error> {
        let dir = self.root.join(name);
        fs::create_dir_all(&dir).map_err(io("making", &dir))?;
        Ok(dir)
    }

    /// Waits for the lock called `name`. Says so by `progress` when somebody else has it.
    pub(crate) fn lock(&self, name: &str, progress: &dyn Progress) -> Result<Lock, Error> {
        let path = self.dir("locks")?.join(name);
        let waiting = || begin(progress, Stage::Waiting, &format!("another run works on {name}"));
        lock(&path, waiting).map_err(tool(format!("waiting for {name}")))
    }

    /// From now on nobody removes images, as long as this cache or a clone of it is there. Waits for whoever removes some just now.
    pub(crate) fn use_images(&self, progress: &dyn Progress) -> Result<(), Error> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if in_use.is_none() {
            let (path, file) = match self.images_lock() {
                Err(Error::Io { source, .. }) if is_not_ours(&source) => {
                    // Whoever may not write there finds what is built, and can be told of nothing else.
                    tracing::debug!("images are used without their lock: {source}");
                    return Ok(());
                }
                lock => lock?,
            };
            let waiting = || {
                tracing::info!("waiting for whoever removes images");
                begin(progress, Stage::Waiting, "another run removes images");
            };
            hold(&file, &path, Hold::Shared, waiting).map_err(tool("waiting for the images"))?;
            *in_use = Some(file);
        }
        Ok(())
    }

    /// The images to oneself, until the file is closed; `None` where somebody uses them.
    pub(crate) fn images_alone(&self) -> Result<Option<File>, Error> {
        let (path, file) = self.images_lock()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(io("locking", path)(error.into())),
        }
    }

    fn images_lock(&self) -> Result<(PathBuf, File), Error> {
        let path = self.dir("locks")?.join(IMAGES);
        // For reading as well: NFS gives a shared lock to nobody who cannot read.
        let options = || File::options().read(true).clone();
        let made = options().write(true).create(true).truncate(false).open(&path);
        let file =
            made.or_else(|e| if is_not_ours(&e) { options().open(&path).map_err(|_| e) } else { Err(e) });
        Ok((path.clone(), file.map_err(io("making", &path))?))
    }

    /// Checks that a build has room.
    pub(crate) fn check_room(&self) -> Result<(), Error> {
        let free_mib = self.free_mib()?;
        if free_mib < BUILD_MIB {
            return Err(self.full("before the build began", free_mib));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        // An ordinary user's mmdebstrap has the system there while it installs it.
        let (path, doing) =
            (PathBuf::from("/tmp"), "before the build began; another LATCHKEY_CACHE changes nothing");
        let free_mib = free_mib_at(&path)?;
        match free_mib < TREE_MIB {
            true => Err(Error::DiskFull { doing: doing.into(), path, need_mib: TREE_MIB, free_mib }),
            false => Ok(()),
        }
    }

    /// Turns an error that comes from a full disk into one that says so.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let text = error.to_string();
        let full = text.contains("No space left on device")
            || matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
        match self.free_mib() {
            Ok(free_mib) if full => self.full(&in_short(&text), free_mib),
            _ => error,
        }
    }

    fn full(&self, doing: &str, free_mib: u64) -> Error {
        Error::DiskFull { doing: doing.to_owned(), path: self.root.clone(), need_mib: BUILD_MIB, free_mib }
    }

    fn free_mib(&self) -> Result<u64, Error> {
        free_mib_at(&self.root)
    }
}

fn free_mib_at(path: &Path) -> Result<u64, Error> {
    let stat = statvfs(path).map_err(|e| io("asking for the room in", path)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

/// Of an error with a whole log in it: what was being done, and the line that matters.
fn in_short(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim_end_matches(':');
    match lines.find(|line| line.contains("No space left on device")) {
        Some(line) => format!("{first}: {}", line.trim()),
        None => first.to_owned(),
    }
}

fn default_root(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name| var(name).filter(|p| !p.as_os_str().is_empty());
    set("LATCHKEY_CACHE")
        // The specification asks to ignore relative paths in its variables.
        .or_else(|| set("XDG_CACHE_HOME").filter(|p| p.is_absolute()).map(|p| p.join("latchkey")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/latchkey")))
}

/// Makes a directory that only its owner can enter.
pub(crate) fn private_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("making", path))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&[("LATCHKEY_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")], Some("/a"))]
    #[case(&[("LATCHKEY_CACHE", ""), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")], Some("/b/latchkey"))]
    #[case(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/c")], Some("/c/.cache/latchkey"))]
    #[case(&[], None)]
    fn the_root_follows_the_variables(#[case] set: &[(&str, &str)], #[case] want: Option<&str>) {
        let var = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v));
        assert_eq!(default_root(var), want.map(PathBuf::from));
    }

    #[test]
    fn a_full_disk_is_named_with_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let full = Error::System { status: "1".into(), log: "tar: x: No space left on device\nmore".into() };
        let text = cache.explain(full).to_string();
        assert!(text.contains("tar: x: No space") && !text.contains("more"), "{text}");
        assert!(text.contains("disk is full") && text.contains("MiB") && text.contains("prune"), "{text}");
        assert!(matches!(cache.explain(Error::NoCacheDir), Error::NoCacheDir));
    }
}
