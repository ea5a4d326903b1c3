//! The root partition of a machine that is switched off, as a file to work on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use latchkey_disk::gpt::kind;
use latchkey_disk::{Access, OpenDisk};
use latchkey_machine::Machine;
use tempfile::TempPath;

use crate::Error;

/// Calls `change` with a copy of the root partition in `scratch`, of the partition's size, and writes the copy's
/// bytes back.
///
/// libcryptsetup works on a copy and not on the partition's own file, which is a FUSE export: it reads and writes
/// through several descriptors, with and without the page cache, and a file system encrypted that way over FUSE came
/// out damaged.
pub(crate) fn on_root(
    machine: &mut Machine,
    scratch: &Path,
    change: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    // The copy holds what the machine's disk holds, half changed where something fails: it goes away however this ends.
    let path = scratch.join("root.img");
    let copy =
        TempPath::try_from_path(&path).map_err(|source| Error::File { what: "naming", path, source })?;
    machine.offline(|parts| {
        let mut disk = OpenDisk::open(parts.disk, Access::ReadWrite)?;
        let done = on_copy(&mut disk, &copy, change);
        match (done, disk.close()) {
            // What showed the partition as a file has ended; that says more than a file that cannot be read.
            (Err(Error::File { .. }), Err(closed)) => Err(closed.into()),
            (Err(error), _) => Err(error),
            (Ok(()), closed) => Ok(closed?),
        }
    })
}

fn on_copy(
    disk: &mut OpenDisk,
    copy: &Path,
    change: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let table = disk.table()?;
    let root = table.find(kind::ROOT_X86_64).ok_or(Error::NoRoot)?;
    let size = root.size();
    let partition = disk.partition_file(root)?;
    let made = copy_bytes(&partition, copy, size);
    made.map_err(|source| Error::File {
        what: "copying the root partition to",
        path: copy.to_owned(),
        source,
    })?;
    change(copy)?;
    copy_bytes(copy, &partition, size).map_err(|source| Error::File {
        what: "writing back the root partition",
        path: partition,
        source,
    })
}

/// Makes the first `count` bytes of `to` those of `from`. A file that this makes is for its owner alone.
fn copy_bytes(from: &Path, to: &Path, count: u64) -> io::Result<()> {
    let mut target = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(to)?;
    let copied = io::copy(&mut File::open(from)?.take(count), &mut target)?;
    if copied != count {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{copied} of {count} bytes")));
    }
    target.sync_all()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_copy_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "partition, and what follows it").unwrap();
        copy_bytes(&from, &to, 9).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"partition");
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(copy_bytes(&from, &to, 1000).is_err(), "there are no so many bytes");
    }
}
