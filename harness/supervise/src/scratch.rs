//! A directory that goes away with the run, however the run ends.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use crate::{Error, lock};

/// Held locked while the directory is in use.
const LOCK: &str = ".in-use";
/// What the lock of a directory that was kept is called.
const KEPT: &str = ".kept";
/// Held locked while a directory is being made or swept.
const TURN: &str = ".scratch-lock";
/// Group and others may write (inode(7)).
const OTHERS_WRITE: u32 = 0o022;
/// What the name of a directory that is being removed ends with: its lock goes at any time, and what has none counts as kept.
const REMOVING: &str = ".removing";
/// A line on the pipe means "keep it"; end of file means "its owner is gone". The owner's children may still write
/// into the directory, or have something mounted in it, for the moment that their own end takes.
/// Until then it keeps its name, by which they know it.
const GUARD: &str = r#"read -r line && exit 0
rm -rf -- "$1" "$2"
for try in 1 2 3 4 5 6 7 8 9 10; do sleep 1; rm -rf -- "$1" "$2" && exit 0; done
mv -T -- "$1" "$2"; rm -rf -- "$2""#;

/// A private directory (mode 0700) that is removed when this value is dropped or its process dies.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    is_kept: bool,
    _lock: File,
    guardian: Child,
    pipe: Option<ChildStdin>,
}

/// Makes the directory `path`, for this user alone, unless it is there; for places where others may make directories, too,
/// such as `/tmp`.
///
/// # Errors
/// [`Error::Scratch`] when it cannot be made, or is there and not this user's: a link, somebody else's, or one that others
/// may write to.
pub fn private_dir(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Scratch { dir: path.to_owned(), source };
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(failed),
    }
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let own = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & OTHERS_WRITE == 0;
    if found.is_dir() && own {
        return Ok(());
    }
    let why = "it is not this user's own directory; remove it, or set TMPDIR to another place";
    Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, why)))
}

/// The directory for this user's short-lived files, below the system's for temporary ones; made when missing. One for each
/// user, since a lock file of somebody else's could not be opened.
///
/// # Errors
/// As [`private_dir`].
pub fn private_root() -> Result<PathBuf, Error> {
    let root = std::env::temp_dir().join(format!("latchkey-{}", rustix::process::getuid().as_raw()));
    private_dir(&root)?;
    Ok(root)
}

impl Scratch {
    /// Makes a directory under `root` (created when missing) whose name starts with `prefix`, after sweeping
    /// the ones that earlier, killed runs left there.
    ///
    /// # Errors
    /// [`Error::Scratch`] when the directory, its lock or its guardian cannot be made, [`Error::Cancelled`] when the user asks
    /// to stop while another run makes one.
    pub fn new(root: &Path, prefix: &str) -> Result<Self, Error> {
        let failed = |source| Error::Scratch { dir: root.to_owned(), source };
        fs::create_dir_all(root).map_err(failed)?;
        // One at a time, so that nobody sweeps a directory between its making and its locking.
        let _turn = lock(&root.join(TURN), || ())?;
        sweep(root, prefix);
        let own = fs::Permissions::from_mode(0o700);
        let dir =
            tempfile::Builder::new().prefix(prefix).permissions(own).tempdir_in(root).map_err(failed)?;
        let lock = File::create(dir.path().join(LOCK)).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        let mut guardian = guard(dir.path()).map_err(failed)?;
        let pipe = guardian.stdin.take();
        Ok(Self { path: dir.keep(), is_kept: false, _lock: lock, guardian, pipe })
    }

    /// Removes what earlier, killed runs left under `root` with a name that starts with `prefix`; unless somebody is at it, who
    /// does that.
    pub fn sweep(root: &Path, prefix: &str) {
        let Ok(turn) = File::create(root.join(TURN)) else { return };
        if flock(&turn, FlockOperation::NonBlockingLockExclusive).is_ok() {
            sweep(root, prefix);
        }
    }

    /// Where it is: an absolute path when `root` was one.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory in place for good and tells where it is.
    ///
    /// # Errors
    /// When it cannot be marked as one that stays: the next run would remove it, so it goes away at once.
    pub fn keep(mut self) -> io::Result<PathBuf> {
        // Without its lock file the sweep leaves a directory alone that is not empty.
        fs::rename(self.path.join(LOCK), self.path.join(KEPT))?;
        if let Some(pipe) = &mut self.pipe {
            // A guardian that is gone already cannot remove anything.
            let _ = pipe.write_all(b"keep\n");
        }
        self.is_kept = true;
        Ok(self.path.clone())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = if self.is_kept { Ok(()) } else { remove(&self.path) };
        drop(self.pipe.take());
        if let Err(error) = removed {
            // The guardian sees the end of its pipe, and tries again for a while.
            tracing::warn!("{} is left: {error}", self.path.display());
            return;
        }
        // It would end by itself. It is killed rather than waited for, since what it would remove is gone.
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
    }
}

/// The name under which the directory `dir` is removed.
fn removing(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(REMOVING);
    name.into()
}

/// Removes a directory. What cannot be removed is left under a name by which the next run finds it.
fn remove(dir: &Path) -> io::Result<()> {
    let name = removing(dir);
    let removed = match fs::rename(dir, &name) {
        Ok(()) => fs::remove_dir_all(name),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => fs::remove_dir_all(dir),
    };
    match removed {
        // Another run that sweeps may have been faster.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn guard(dir: &Path) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", GUARD, "latchkey-guardian"])
        .args([dir, &removing(dir)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // Out of reach of a Ctrl-C and of a kill of the run's process group.
        .process_group(0)
        .spawn()
}

fn sweep(root: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(prefix) {
            continue;
        }
        let gone = |removed: io::Result<()>| {
            if let Err(error) = removed {
                tracing::warn!("{} is left of a killed run: {error}", entry.path().display());
            }
        };
        if name.ends_with(REMOVING) {
            let removed = fs::remove_dir_all(entry.path());
            gone(removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }));
            continue;
        }
        let Ok(file) = File::open(entry.path().join(LOCK)) else {
            // Kept; or its owner was killed before it was locked: then it is empty, and only then this removes it.
            let _ = fs::remove_dir(entry.path());
            continue;
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            tracing::info!(dir = %entry.path().display(), "removing what a killed run left");
            gone(remove(&entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn goes_away_when_dropped_and_stays_when_kept() {
        let root = tempfile::tempdir().unwrap();
        let gone = Scratch::new(root.path(), "run-").unwrap();
        let path = gone.path().to_owned();
        assert!(path.is_dir());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(gone);
        assert!(!path.exists());
        let kept = Scratch::new(root.path(), "run-").unwrap().keep().unwrap();
        drop(Scratch::new(root.path(), "run-").unwrap());
        assert!(kept.is_dir(), "the sweep left the kept directory alone");
    }

    /// It would be told to somebody, and gone with the next run.
    #[test]
    fn what_cannot_be_marked_as_kept_goes_away_at_once() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path(), "run-").unwrap();
        let path = scratch.path().to_owned();
        fs::create_dir_all(path.join(KEPT).join("in the way")).unwrap();
        scratch.keep().unwrap_err();
        assert!(!path.exists());
    }

    #[test]
    fn the_next_run_sweeps_what_a_killed_one_left() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join("run-left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        // Its removal was begun, and came as far as its lock.
        let half = root.path().join("run-half.removing");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("content"), "").unwrap();
        let empty = root.path().join("run-empty");
        fs::create_dir(&empty).unwrap();
        let unrelated = root.path().join("run-unrelated");
        fs::create_dir(&unrelated).unwrap();
        fs::write(unrelated.join("content"), "").unwrap();
        let now = Scratch::new(root.path(), "run-").unwrap();
        assert!(
            !left.exists() && !half.exists() && !empty.exists() && unrelated.exists() && now.path().exists()
        );
    }

    #[test]
    fn what_is_in_use_is_not_swept() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join("run-left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        let used = root.path().join("run-used");
        fs::create_dir(&used).unwrap();
        let lock = File::create(used.join(LOCK)).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        Scratch::sweep(root.path(), "run-");
        assert!(!left.exists() && used.exists());
        Scratch::sweep(&root.path().join("nowhere"), "run-");
    }

    #[test]
    fn a_private_directory_is_nobody_elses() {
        let root = tempfile::tempdir().unwrap();
        let (own, open, link) = ["own", "open", "link"].map(|name| root.path().join(name)).into();
        private_dir(&own).unwrap();
        private_dir(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        for path in [open, link] {
            assert!(private_dir(&path).unwrap_err().to_string().contains("TMPDIR"));
        }
    }

    #[test]
    fn the_guardian_removes_it_when_the_owner_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("owned");
        fs::create_dir(&dir).unwrap();
        // One that was renamed to be removed, and is still there.
        let half = removing(&root.path().join("half"));
        fs::create_dir(&half).unwrap();
        for guarded in [dir.clone(), root.path().join("half")] {
            let mut guardian = guard(&guarded).unwrap();
            drop(guardian.stdin.take());
            assert!(guardian.wait().unwrap().success());
        }
        assert!(fs::read_dir(root.path()).unwrap().next().is_none());
    }
}
