//! Room for the LUKS2 header behind a root file system: an ext4 made smaller, offline, or an XFS that leaves it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use latchkey_disk::filesystem;
use latchkey_disk::inspect::Contents;
use latchkey_disk::luks::ROOM;

use crate::Error;

/// What e2fsck exits with where all is well now.
const MENDED: i32 = 1;
/// What its exit code is the sum of (e2fsck(8), "EXIT CODE").
const EXIT_CODE: [(i32, &str); 7] = [
    (MENDED, "errors were mended"),
    (2, "errors were mended below somebody who has it mounted"),
    (4, "there are errors that it does not mend unasked"),
    (8, "it could not do its work"),
    (16, "it was called wrongly"),
    (32, "it was interrupted"),
    (128, "a library of its failed"),
];

/// Makes sure that the file system on `device` leaves [`ROOM`] bytes free at the end of it.
///
/// # Errors
/// [`Error::FileSystem`] for one that cannot be encrypted in place, [`Error::NoRoom`] for an XFS, which cannot be made
/// smaller, [`Error::Damaged`] when `e2fsck` finds more than it mends, [`Error::Tool`] when `resize2fs` refuses, for want of
/// room for example.
pub(crate) fn leave_room(device: &Path) -> Result<(), Error> {
    let reading = |source| Error::File { what: "reading", path: device.to_owned(), source };
    let whole = std::fs::metadata(device).map_err(reading)?.len();
    let mut opened = File::open(device).map_err(reading)?;
    let contents = Contents::of(&mut opened).map_err(reading)?;
    let used = filesystem::size(&mut opened, contents).map_err(reading)?;
    let used = used.ok_or_else(|| Error::FileSystem(device.to_owned()))?;
    let wanted = whole.saturating_sub(ROOM);
    if used <= wanted {
        return Ok(());
    }
    if contents == Contents::Xfs {
        return Err(Error::NoRoom(device.to_owned()));
    }
    tracing::info!(from = used, to = wanted, "making the file system smaller");
    check(device)?;
    let size = format!("{}K", wanted / 1024);
    latchkey_supervise::run("resize2fs", &[device.as_os_str(), size.as_ref()])?;
    // `resize2fs` cuts a file off behind the file system; a partition stays as long as it was.
    let restored = File::options().write(true).open(device).and_then(|file| file.set_len(whole));
    restored.map_err(|source| Error::File { what: "lengthening", path: device.to_owned(), source })
}

/// Checks the ext4 on `device`, on which `resize2fs` insists just before it, and mends what needs no decision.
fn check(device: &Path) -> Result<(), Error> {
    use latchkey_supervise::Error::Failed;
    let line: [&OsStr; 3] = ["-f".as_ref(), "-p".as_ref(), device.as_os_str()];
    // What it finds it says on its standard output.
    match latchkey_supervise::run_with("e2fsck", &line, |e| e.stdin_null().stdout_to_stderr()) {
        Ok(_) => Ok(()),
        Err(Failed { name, status, stderr }) => match status.code() {
            Some(MENDED) => Ok(()),
            Some(code) => {
                Err(Error::Damaged { device: device.to_owned(), found: in_words(code), said: stderr })
            }
            None => Err(Failed { name, status, stderr }.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// What e2fsck's exit code `code` says.
fn in_words(code: i32) -> String {
    let parts = EXIT_CODE.iter().filter(|(part, _)| code & part != 0).map(|(_, words)| *words);
    format!("exit code {code}: {}", parts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::path::PathBuf;

    use rstest::rstest;

    use super::*;

    /// A file of 96 MiB that an ext4 fills.
    fn ext4(dir: &Path) -> PathBuf {
        let device = dir.join("root.img");
        File::create(&device).unwrap().set_len(96 << 20).unwrap();
        latchkey_supervise::run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), device.as_os_str()]).unwrap();
        device
    }

    #[rstest]
    #[case(4, "exit code 4: there are errors that it does not mend unasked")]
    #[case(9, "exit code 9: errors were mended, it could not do its work")]
    fn an_exit_code_is_told_in_words(#[case] code: i32, #[case] words: &str) {
        assert_eq!(in_words(code), words);
    }

    #[test]
    fn what_is_damaged_is_told_as_the_check_tells_it() {
        let dir = tempfile::tempdir().unwrap();
        let device = ext4(dir.path());
        // Its root directory.
        let damage = ["-w", "-R", "clri <2>"].map(OsStr::new);
        latchkey_supervise::run("debugfs", &[&damage[..], &[device.as_os_str()]].concat()).unwrap();
        let error = leave_room(&device).unwrap_err().to_string();
        for words in ["exit code 4: there are errors", "Root inode is not a directory"] {
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_file_system_that_fills_its_partition_is_made_smaller_and_the_partition_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (device, whole) = (ext4(dir.path()), 96 << 20);
        let size = || filesystem::size(&mut File::open(&device).unwrap(), Contents::Ext).unwrap().unwrap();
        assert_eq!(size(), whole);
        leave_room(&device).unwrap();
        assert_eq!(size(), whole - ROOM);
        assert_eq!(std::fs::metadata(&device).unwrap().len(), whole);
        latchkey_supervise::run("e2fsck", &["-f".as_ref(), "-n".as_ref(), device.as_os_str()]).unwrap();
        // There is room now, so that a second time changes nothing.
        let before = std::fs::read(&device).unwrap();
        leave_room(&device).unwrap();
        assert!(std::fs::read(&device).unwrap() == before);
    }

    /// It stays as it is, whether there is room or not.
    #[test]
    fn an_xfs_has_to_leave_the_room() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("root.img");
        let whole: u64 = 384 << 20;
        for (size, fits) in [(whole - ROOM, true), (whole - ROOM + (1 << 20), false)] {
            File::create(&device).unwrap().set_len(whole).unwrap();
            let size = format!("size={size}");
            let args = ["-q".as_ref(), "-f".as_ref(), "-d".as_ref(), size.as_ref(), device.as_os_str()];
            latchkey_supervise::run("mkfs.xfs", &args).unwrap();
            let before = std::fs::read(&device).unwrap();
            match leave_room(&device) {
                Ok(()) => assert!(fits),
                Err(error) => assert!(!fits && matches!(error, Error::NoRoom(_)), "{error}"),
            }
            assert!(std::fs::read(&device).unwrap() == before);
        }
    }
}
