//! Files before the root volume, on the machine and in the image: found, read and written.

use std::fmt;

use latchkey_disk::{Access, Esp, Kernels, OpenDisk};

use super::{By, quoted};
use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::location::Location;

/// A file: on which volume, and its absolute path there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// On the EFI system partition.
    Esp(String),
    /// On the partition with kernels.
    Boot(String),
}

impl Place {
    fn path(&self) -> &str {
        match self {
            Self::Esp(path) | Self::Boot(path) => path,
        }
    }

    /// Where the guest has it, as the RHEL family mounts its volumes.
    fn in_guest(&self) -> String {
        match self {
            Self::Esp(path) => format!("/boot/efi{path}"),
            Self::Boot(path) => format!("/boot{path}"),
        }
    }

    /// Another file of the same directory.
    fn beside(&self, name: &str) -> Self {
        let path = self.path();
        let path = format!("{}/{name}", path.rsplit_once('/').map_or("", |(dir, _)| dir));
        match self {
            Self::Esp(_) => Self::Esp(path),
            Self::Boot(_) => Self::Boot(path),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Esp(path) => write!(f, "esp:{path}"),
            Self::Boot(path) => write!(f, "boot:{path}"),
        }
    }
}

impl Bench<'_> {
    /// Where `location` is.
    pub(super) fn place(&self, location: &Location) -> Result<Place, Error> {
        let image = self.context.image;
        let kernel = image.manifest.as_ref().filter(|_| image.uki.is_none()).map(|manifest| &manifest.kernel);
        let missing = |what: &str| {
            Err(Error::Bench(format!(
                "this image does not boot {what}; name the file as esp:/PATH or boot:/PATH"
            )))
        };
        match (location, &image.uki, kernel) {
            (Location::Esp(path), ..) => Ok(Place::Esp(path.clone())),
            (Location::Boot(path), ..) => Ok(Place::Boot(path.clone())),
            (Location::Uki | Location::Kernel, Some(path), _) => Ok(Place::Esp(path.clone())),
            (Location::Uki, None, _) => missing("a UKI"),
            (Location::Kernel, _, Some(version)) => Ok(Place::Boot(format!("/vmlinuz-{version}"))),
            (Location::Initrd, _, Some(version)) => Ok(Place::Boot(format!("/initramfs-{version}.img"))),
            (Location::Kernel | Location::Initrd, _, None) => missing("a kernel and an initrd by GRUB"),
        }
    }

    /// What the image has there.
    pub(super) fn bytes_in_image(&self, place: &Place) -> Result<Vec<u8>, Error> {
        let mut disk = OpenDisk::open(&self.context.image.path, Access::ReadOnly)?;
        let bytes = match place {
            Place::Esp(path) => disk.esp()?.read(path)?,
            Place::Boot(path) => {
                let found = kernels(&mut disk)?.read(path)?;
                found.ok_or_else(|| Error::Bench(format!("the image has no {place}")))?
            }
        };
        disk.close()?;
        Ok(bytes)
    }

    /// Makes `bytes` the file's contents.
    pub(super) fn put(&mut self, place: &Place, bytes: &[u8], by: By) -> Result<(), Error> {
        match (by, place) {
            (By::Guest, _) => {
                let command = format!("cat > {} && sync", quoted(&place.in_guest()));
                self.running()?.guest_ok(&command, bytes, COMMAND)?;
                Ok(())
            }
            (By::Rescue, Place::Esp(path)) => self.on_esp(|esp| esp.write(path, bytes)),
            (By::Rescue, Place::Boot(path)) => self.on_boot(|kernels| kernels.write(path, bytes)),
        }
    }

    /// Removes the file.
    pub(super) fn remove(&mut self, place: &Place, by: By) -> Result<(), Error> {
        match (by, place) {
            (By::Guest, _) => {
                let command = format!("rm {} && sync", quoted(&place.in_guest()));
                self.running()?.guest_ok(&command, &[], COMMAND)?;
                Ok(())
            }
            (By::Rescue, Place::Esp(path)) => self.on_esp(|esp| esp.remove(path)),
            (By::Rescue, Place::Boot(path)) => self.on_boot(|kernels| kernels.remove(path)),
        }
    }

    /// Gives the file another name in its directory.
    pub(super) fn rename(&mut self, from: &Place, name: &str, by: By) -> Result<(), Error> {
        let to = from.beside(name);
        match (by, from) {
            (By::Guest, _) => {
                // As published: into the directory, then `mv`.
                let path = from.in_guest();
                let (dir, file) = path.rsplit_once('/').unwrap_or(("", &path));
                let command = format!("cd {} && mv {} {}", quoted(dir), quoted(file), quoted(name));
                self.running()?.guest_ok(&command, &[], COMMAND)?;
                Ok(())
            }
            (By::Rescue, Place::Esp(path)) => self.on_esp(|esp| esp.rename(path, to.path())),
            (By::Rescue, Place::Boot(path)) => self.on_boot(|kernels| {
                let bytes = kernels.read(path)?.unwrap_or_default();
                kernels.write(to.path(), &bytes)?;
                kernels.remove(path)
            }),
        }
    }

    /// Changes the ESP from outside, on the disk of the machine that is off.
    pub(super) fn on_esp<T>(
        &mut self,
        change: impl FnOnce(&Esp) -> Result<T, latchkey_disk::esp::Error>,
    ) -> Result<T, Error> {
        self.switch_off()?.offline(|parts| {
            let mut disk = OpenDisk::open(parts.disk, Access::ReadWrite)?;
            let esp = disk.esp()?;
            let done = change(&esp)?;
            drop(esp);
            disk.close()?;
            Ok(done)
        })
    }

    /// Changes the partition with kernels from outside.
    fn on_boot<T>(
        &mut self,
        change: impl FnOnce(&mut Kernels) -> Result<T, latchkey_disk::kernels::Error>,
    ) -> Result<T, Error> {
        self.switch_off()?.offline(|parts| {
            let mut disk = OpenDisk::open(parts.disk, Access::ReadWrite)?;
            let done = change(&mut kernels(&mut disk)?)?;
            disk.close()?;
            Ok(done)
        })
    }
}

fn kernels(disk: &mut OpenDisk) -> Result<Kernels, Error> {
    disk.kernels()?.ok_or_else(|| Error::Bench("the disk has no partition with kernels".into()))
}
