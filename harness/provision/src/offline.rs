//! The root partition of a machine that is switched off: encrypted, and its keyslots changed.

use std::path::Path;

use latchkey_disk::gpt::kind;
use latchkey_disk::{Access, OpenDisk};
use latchkey_machine::Machine;

use crate::filesystem::leave_room;
use crate::keys::Keys;
use crate::secret::Secret;
use crate::{Error, luks};

/// Encrypts the root partition of `machine` in place. It opens with `first`, and with every key of `keys` that
/// somebody can type. `scratch` takes the header in the making.
///
/// # Errors
/// [`Error::NoRoot`] without a partition of the discoverable root type; others with what was being done.
pub fn encrypt_root(machine: &mut Machine, first: &Secret, keys: &Keys, scratch: &Path) -> Result<(), Error> {
    on_root(machine, |root| {
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
pub fn forget(machine: &mut Machine, first: &Secret) -> Result<(), Error> {
    on_root(machine, |root| luks::remove_passphrase(root, first).map(drop))
}

/// Calls `change` with a file that is exactly the root partition.
fn on_root<T>(machine: &mut Machine, change: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, Error> {
    machine.offline(|parts| {
        let mut disk = OpenDisk::open(parts.disk, Access::ReadWrite)?;
        let table = disk.table()?;
        let root = table.find(kind::ROOT_X86_64).ok_or(Error::NoRoot)?;
        let file = disk.partition_file(root)?;
        let done = change(&file)?;
        disk.close()?;
        Ok(done)
    })
}
