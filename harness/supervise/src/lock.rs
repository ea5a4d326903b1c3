//! A lock on a file that several runs want one after the other.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::{Error, cancelled};

/// How often a lock that somebody else holds is tried. Not a blocking lock: a user who asks to stop must be heard.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

/// A lock, held until it is dropped or its process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// With whom a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// With nobody.
    Alone,
    /// With everybody else who shares it.
    Shared,
}

/// Takes the lock on the file `path`, which is made where there is none. Calls `waiting`, once, when somebody else has it.
///
/// # Errors
/// [`Error::Lock`] when the file cannot be made or locked, [`Error::Cancelled`] when the user asks to stop.
pub fn lock(path: &Path, waiting: impl FnOnce()) -> Result<Lock, Error> {
    let file = File::create(path).map_err(|source| Error::Lock { path: path.to_owned(), source })?;
    hold(&file, path, Hold::Alone, waiting)?;
    Ok(Lock { _file: file })
}

/// Takes the lock on `file`, which lies at `path`, until it is closed. Calls `waiting`, once, when somebody else has it.
///
/// # Errors
/// As [`lock`].
pub fn hold(file: &File, path: &Path, how: Hold, waiting: impl FnOnce()) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Lock { path: path.to_owned(), source };
    let wish = match how {
        Hold::Alone => FlockOperation::NonBlockingLockExclusive,
        Hold::Shared => FlockOperation::NonBlockingLockShared,
    };
    let mut waiting = Some(waiting);
    loop {
        match flock(file, wish) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed(error.into())),
        }
        if cancelled() {
            return Err(Error::Cancelled);
        }
        if let Some(tell) = waiting.take() {
            tell();
        }
        std::thread::sleep(RETRY);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn one_holds_it_and_the_next_is_told_that_it_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = lock(&path, || panic!("nobody has it")).unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(&path, || tell.send(()).unwrap()).map(drop));
            told.recv().unwrap();
            drop(first);
            second.join().unwrap().unwrap();
        });
        assert!(
            lock(&dir.path().join("missing/lock"), || ()).unwrap_err().to_string().contains("missing/lock")
        );
    }

    #[test]
    fn those_who_share_it_keep_out_whoever_wants_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let shared = [0, 1].map(|_| File::create(&path).unwrap());
        for file in &shared {
            hold(file, &path, Hold::Shared, || panic!("nobody has it alone")).unwrap();
        }
        let alone = File::create(&path).unwrap();
        assert!(flock(&alone, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(shared);
        hold(&alone, &path, Hold::Alone, || panic!("nobody has it")).unwrap();
    }
}
