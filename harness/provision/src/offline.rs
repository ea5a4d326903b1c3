//! The root partition of a machine that is switched off: encrypted, and its keyslots changed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use latchkey_disk::gpt::kind;
use latchkey_disk::{Access, OpenDisk};
use latchkey_machine::Machine;

use crate::filesystem::leave_room;
use crate::keys::Keys;
use crate::secret::Secret;
use crate::{Error, luks};

/// How much of a partition a change concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// The LUKS2 header with its keyslots.
    Header,
}

/// Encrypts the root partition of `machine` in place. It opens with `first`, and with every key of `keys` that
/// somebody can type. `scratch` takes the header in the making.
///
/// # Errors
/// [`Error::NoRoot`] without a partition of the discoverable root type; others with what was being done.
pub fn encrypt_root(machine: &mut Machine, first: &Secret, keys: &Keys, scratch: &Path) -> Result<(), Error> {
    on_root(machine, scratch, Extent::Whole, |root| {
        leave_room(root)?;
        luks::encrypt_in_place(root, scratch, first)?;
        keys.iter().try_for_each(|(_, key)| luks::add_passphrase(root, first, key).map(drop))
    })
}

/// Removes the keyslot that `first` opens: from here on only the vTPM and the keys that somebody holds open the
/// machine.
///
/// # Errors
/// As [`luks::remove_passphrase`].
pub fn forget(machine: &mut Machine, first: &Secret, scratch: &Path) -> Result<(), Error> {
    on_root(machine, scratch, Extent::Header, |root| luks::remove_passphrase(root, first).map(drop))
}

/// Calls `change` with a copy of the root partition in `scratch`, of the partition's size, and writes the copy's
/// `extent` back.
///
/// libcryptsetup works on a copy and not on the partition's own file, which is a FUSE export: it reads and writes
/// through several descriptors, with and without the page cache, and a file system encrypted that way over FUSE came
/// out damaged.
fn on_root(
    machine: &mut Machine,
    scratch: &Path,
    extent: Extent,
    change: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let copy = scratch.join("root.img");
    machine.offline(|parts| {
        let mut disk = OpenDisk::open(parts.disk, Access::ReadWrite)?;
        let done = on_copy(&mut disk, &copy, extent, change);
        match (done, disk.close()) {
            // What showed the partition as a file has ended; that says more than a file that cannot be read.
            (Err(Error::File { .. }), Err(closed)) => return Err(closed.into()),
            (Err(error), _) => return Err(error),
            (Ok(()), closed) => closed?,
        }
        // The copy holds what the machine's disk holds; it is of no use beside it.
        std::fs::remove_file(&copy).map_err(|source| Error::File { what: "removing", path: copy, source })
    })
}

fn on_copy(
    disk: &mut OpenDisk,
    copy: &Path,
    extent: Extent,
    change: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let table = disk.table()?;
    let root = table.find(kind::ROOT_X86_64).ok_or(Error::NoRoot)?;
    let size = root.size();
    let concerned = if extent == Extent::Whole { size } else { luks::DATA_OFFSET.min(size) };
    let partition = disk.partition_file(root)?;
    let made = copy_bytes(&partition, copy, concerned).and_then(|()| extend(copy, size));
    made.map_err(|source| Error::File {
        what: "copying the root partition to",
        path: copy.to_owned(),
        source,
    })?;
    change(copy)?;
    copy_bytes(copy, &partition, concerned).map_err(|source| Error::File {
        what: "writing back the root partition",
        path: partition,
        source,
    })
}

/// Makes the first `count` bytes of `to` those of `from`.
fn copy_bytes(from: &Path, to: &Path, count: u64) -> io::Result<()> {
    let mut target = OpenOptions::new().write(true).create(true).truncate(false).open(to)?;
    let copied = io::copy(&mut File::open(from)?.take(count), &mut target)?;
    if copied != count {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{copied} of {count} bytes")));
    }
    target.sync_all()
}

fn extend(file: &Path, size: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.set_len(size)
}
