//! Files before the root volume, on the machine and in the image: found, read and written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use latchkey_disk::gpt::kind;
use latchkey_disk::{Access, Esp, Kernels, OpenDisk};
use latchkey_images::{Image, Pki};
use latchkey_supervise::quoted;

use super::another_vm::{numbered, partition};
use super::esp::NO_ROOM;
use super::{Artefact, By};
use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::location::Location;

/// A file: on which volume, and its absolute path there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the EFI system partition.
    Esp(String),
    /// On the partition with kernels.
    Boot(String),
}

impl Place {
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Esp(path) | Self::Boot(path) => path,
        }
    }

    /// Where the guest has it, as the RHEL family mounts its volumes.
    pub(super) fn in_guest(&self) -> String {
        match self {
            Self::Esp(path) => format!("/boot/efi{path}"),
            Self::Boot(path) => format!("/boot{path}"),
        }
    }

    /// Whether it has the name `name` already: there is nothing to rename.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.path().rsplit_once('/').map_or(self.path(), |(_, own)| own) == name
    }

    /// Another file of the same directory.
    pub(super) fn beside(&self, name: &str) -> Self {
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

/// Where steps change files: on a real machine, or in a rehearsal.
pub(crate) trait Site {
    /// What its machine is made of.
    fn image(&self) -> &Image;
    /// Whose keys sign what is signed anew.
    fn pki(&self) -> &Pki;
    /// What the user handed in.
    fn artefacts(&self) -> &BTreeMap<Artefact, PathBuf>;
    /// What the image has there.
    fn bytes_in_image(&self, place: &Place) -> Result<Bytes, Error>;
    /// What `make` makes of the image, which is called `what`; it need not be made twice.
    fn once(&self, what: String, make: &dyn Fn() -> Result<Vec<u8>, Error>) -> Result<Bytes, Error>;
    /// Makes `bytes` the file's contents; a directory for it on the ESP is made.
    fn put(&mut self, place: &Place, bytes: &Bytes, by: By) -> Result<(), Error>;
    /// Makes as many of `bytes` the file's contents as there is room for, as a guest does that writes over it.
    ///
    /// # Errors
    /// Also when there is room for all of them.
    fn put_as_it_fits(&mut self, place: &Place, bytes: &Bytes) -> Result<(), Error>;
    /// Whether `bytes` have room beside the file, as a guest finds that writes them there; they are removed again.
    fn has_room_beside(&mut self, place: &Place, bytes: &Bytes) -> Result<bool, Error>;
    /// Removes the file.
    fn remove(&mut self, place: &Place, by: By) -> Result<(), Error>;
    /// Gives the file another name in its directory.
    fn rename(&mut self, from: &Place, name: &str, by: By) -> Result<(), Error>;
}

/// Where `location` is on a machine made of `image`.
pub(crate) fn place(image: &Image, location: &Location) -> Result<Place, Error> {
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
        (Location::Beside(name), Some(path), _) => Ok(Place::Esp(format!("{path}.extra.d/{name}"))),
        (Location::Uki | Location::Beside(_), None, _) => missing("a UKI"),
        (Location::Initrd, Some(_), _) => missing("a kernel and an initrd by GRUB"),
        (Location::Kernel, _, Some(version)) => Ok(Place::Boot(format!("/vmlinuz-{version}"))),
        (Location::Initrd, _, Some(version)) => Ok(Place::Boot(format!("/initramfs-{version}.img"))),
        (Location::Kernel | Location::Initrd, None, None) => Err(Error::Bench(
            "where this image has its kernel and its initrd is not known; name the file as esp:/PATH or boot:/PATH".into(),
        )),
    }
}

impl Site for Bench<'_> {
    fn image(&self) -> &Image {
        self.context.image
    }

    fn pki(&self) -> &Pki {
        self.context.pki
    }

    fn artefacts(&self) -> &BTreeMap<Artefact, PathBuf> {
        &self.context.artefacts
    }

    fn bytes_in_image(&self, place: &Place) -> Result<Bytes, Error> {
        let mut disk = OpenDisk::open(&self.context.image.path, Access::ReadOnly)?;
        let bytes = match place {
            Place::Esp(path) => disk.esp()?.read(path)?,
            Place::Boot(path) => {
                let found = kernels(&mut disk)?.read(path)?;
                found.ok_or_else(|| Error::Bench(format!("the image has no {place}")))?
            }
        };
        disk.close()?;
        Ok(bytes.into())
    }

    fn once(&self, _what: String, make: &dyn Fn() -> Result<Vec<u8>, Error>) -> Result<Bytes, Error> {
        Ok(make()?.into())
    }

    fn put(&mut self, place: &Place, bytes: &Bytes, by: By) -> Result<(), Error> {
        match (by, place) {
            (By::Guest, _) => {
                let path = place.in_guest();
                let (dir, _) = path.rsplit_once('/').unwrap_or(("", &path));
                let command = format!("mkdir -p {} && cat > {} && sync", quoted(dir), quoted(&path));
                self.running()?.guest_ok(&command, bytes, COMMAND)?;
                Ok(())
            }
            (By::Rescue, Place::Esp(path)) => self.on_esp(|esp| {
                esp.create_dir_all(path.rsplit_once('/').map_or("", |(dir, _)| dir))?;
                esp.write(path, bytes)
            }),
            (By::Rescue, Place::Boot(path)) => self.on_boot(|kernels| Ok(kernels.write(path, bytes)?)),
            (By::AnotherVm, _) => {
                let path = mounted(place);
                let (dir, _) = path.rsplit_once('/').unwrap_or(("", &path));
                self.on_mounted(place, &format!("mkdir -p {} && cat > {}", quoted(dir), quoted(&path)), bytes)
            }
        }
    }

    fn put_as_it_fits(&mut self, place: &Place, bytes: &Bytes) -> Result<(), Error> {
        let command = format!("cat > {}; code=$?; sync; exit $code", quoted(place.in_guest()));
        match self.has_room_for(&command, bytes)? {
            true => Err(room_for(place)),
            false => Ok(()),
        }
    }

    fn has_room_beside(&mut self, place: &Place, bytes: &Bytes) -> Result<bool, Error> {
        let new = quoted(format!("{}.new", place.in_guest()));
        self.has_room_for(&format!("cat > {new} && sync; code=$?; rm -f {new}; sync; exit $code"), bytes)
    }

    fn remove(&mut self, place: &Place, by: By) -> Result<(), Error> {
        match (by, place) {
            (By::Guest, _) => {
                let command = format!("rm {} && sync", quoted(place.in_guest()));
                self.running()?.guest_ok(&command, &[], COMMAND)?;
                Ok(())
            }
            (By::Rescue, Place::Esp(path)) => self.on_esp(|esp| esp.remove(path)),
            (By::Rescue, Place::Boot(path)) => self.on_boot(|kernels| Ok(kernels.remove(path)?)),
            (By::AnotherVm, _) => self.on_mounted(place, &format!("rm {}", quoted(mounted(place))), &[]),
        }
    }

    fn rename(&mut self, from: &Place, name: &str, by: By) -> Result<(), Error> {
        let (to, at) = (from.beside(name), from.clone());
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
            (By::Rescue, Place::Boot(_)) => self.on_boot(|kernels| rename(kernels, from, &to)),
            (By::AnotherVm, _) => {
                let (from, to) = (mounted(from), mounted(&to));
                self.on_mounted(&at, &format!("mv {} {}", quoted(&from), quoted(&to)), &[])
            }
        }
    }
}

impl Bench<'_> {
    /// Whether the guest's `command`, which gets `bytes`, finds room for them.
    fn has_room_for(&mut self, command: &str, bytes: &[u8]) -> Result<bool, Error> {
        let output = self.running()?.guest(command, bytes, COMMAND)?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.code {
            0 => Ok(true),
            _ if said.contains(NO_ROOM) => Ok(false),
            code => Err(Error::Verdict(format!("`{command}` ended with {code}: {}", said.trim()))),
        }
    }
}

/// That something which was to find no room found it.
pub(crate) fn room_for(place: &Place) -> Error {
    Error::Verdict(format!("there is room for another {place}"))
}

/// Where another VM mounts a volume of the attached disk.
const MOUNTED: &str = "/mnt";

/// Where another VM has the file.
fn mounted(place: &Place) -> String {
    format!("{MOUNTED}{}", place.path())
}

impl Bench<'_> {
    /// Has another VM mount the volume that `place` is on and run `command` there, with `input`.
    fn on_mounted(&mut self, place: &Place, command: &str, input: &[u8]) -> Result<(), Error> {
        let volume = match place {
            Place::Esp(_) => partition(kind::ESP),
            Place::Boot(_) => {
                let mut disk = OpenDisk::open(&self.context.image.path, Access::ReadOnly)?;
                let number = kernels(&mut disk)?.number();
                disk.close()?;
                numbered(number)
            }
        };
        self.run_on_another_vm(&format!("mount {volume} {MOUNTED} && {command} && umount {MOUNTED}"), input)
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
    fn on_boot<T>(&mut self, change: impl FnOnce(&mut Kernels) -> Result<T, Error>) -> Result<T, Error> {
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

/// Gives the file `from` the name of `to`, in the same directory, and takes away what had it. Its own name is nothing to do.
fn rename(kernels: &mut Kernels, from: &Place, to: &Place) -> Result<(), Error> {
    let missing = || Error::Bench(format!("there is no {from}"));
    let bytes = kernels.read(from.path())?.ok_or_else(missing)?;
    if from == to {
        return Ok(());
    }
    kernels.write(to.path(), &bytes)?;
    Ok(kernels.remove(from.path())?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_disk::kernels::Log;

    use super::*;

    #[test]
    fn a_rename_from_outside_loses_no_file_and_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, disk) = (dir.path().join("tree"), dir.path().join("disk"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("vmlinuz"), "kernel").unwrap();
        let line = ["-q", "-d", tree.to_str().unwrap(), disk.to_str().unwrap(), "8M"];
        latchkey_supervise::run("mkfs.ext4", &line).unwrap();
        let mut kernels = Kernels::open(&disk, 2, Log::AsItLies).unwrap().unwrap();
        let at = |name: &str| Place::Boot(format!("/{name}"));
        let text = |kernels: &Kernels, name: &str| kernels.read(at(name).path()).unwrap();
        rename(&mut kernels, &at("vmlinuz"), &at("vmlinuz")).unwrap();
        assert_eq!(text(&kernels, "vmlinuz").unwrap(), b"kernel");
        let error = rename(&mut kernels, &at("none"), &at("vmlinuz.old")).unwrap_err().to_string();
        assert!(error.contains("there is no boot:/none"), "{error}");
        assert_eq!(text(&kernels, "vmlinuz.old"), None);
        rename(&mut kernels, &at("vmlinuz"), &at("vmlinuz.old")).unwrap();
        assert_eq!(text(&kernels, "vmlinuz"), None);
        assert_eq!(text(&kernels, "vmlinuz.old").unwrap(), b"kernel");
    }

    #[test]
    fn a_file_knows_its_name() {
        let place = Place::Boot("/grub2/grub.cfg".into());
        assert!(place.is_called("grub.cfg") && !place.is_called("GRUB.cfg") && !place.is_called("cfg"));
    }
}
