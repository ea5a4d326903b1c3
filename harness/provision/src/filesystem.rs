//! Room for the LUKS2 header behind a root file system: an ext4 made smaller, offline, or an XFS that leaves it.

use std::fs::File;
use std::path::Path;

use latchkey_disk::filesystem;
use latchkey_disk::inspect::Contents;
use latchkey_disk::luks::ROOM;

use crate::Error;

/// Makes sure that the file system on `device` leaves [`ROOM`] bytes free at the end of it.
///
/// # Errors
/// [`Error::FileSystem`] for one that cannot be encrypted in place, [`Error::NoRoom`] for an XFS, which cannot be made
/// smaller, [`Error::Tool`] when `e2fsck` or `resize2fs` refuses, for want of room for example.
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
    let file = device;
    let device = device.as_os_str();
    // `resize2fs` insists on a check just before it. 1 means: mended, all is well now.
    let script = r#"e2fsck -f -p "$1" >&2; [ $? -le 1 ]"#;
    latchkey_supervise::run("sh", &["-c".as_ref(), script.as_ref(), "e2fsck".as_ref(), device])?;
    let size = format!("{}K", wanted / 1024);
    latchkey_supervise::run("resize2fs", &[device, size.as_ref()])?;
    // `resize2fs` cuts a file off behind the file system; a partition stays as long as it was.
    let restored = File::options().write(true).open(file).and_then(|file| file.set_len(whole));
    restored.map_err(|source| Error::File { what: "lengthening", path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_file_system_that_fills_its_partition_is_made_smaller_and_the_partition_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("root.img");
        let whole = 96 << 20;
        File::create(&device).unwrap().set_len(whole).unwrap();
        latchkey_supervise::run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), device.as_os_str()]).unwrap();
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
