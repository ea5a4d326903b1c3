//! The disk: GPT, ESP and root partition in a raw file, then a compressed qcow2.

mod xfs;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;

use gpt::partition_types::{EFI, LINUX_FS, LINUX_ROOT_X64};
use latchkey_supervise as supervise;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::{io, tool};
use crate::fat::{self, Volume};
use crate::recipe::{BootFileSystem, Disk};
use crate::{Error, esp};

/// Bytes of a sector.
const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// Where the partitions lie and what they are called. All of it follows from the image's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The whole disk, in bytes.
    pub size: u64,
    /// The disk's GUID.
    pub guid: Uuid,
    /// The EFI system partition.
    pub esp: Place,
    /// The partition with kernels, and its file system's UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<(Place, Uuid)>,
    /// The root partition.
    pub root: Place,
    /// The root file system's UUID.
    pub root_uuid: Uuid,
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its number in the table, from 1.
    pub index: u32,
    /// Its unique GUID.
    pub guid: Uuid,
    /// Where it starts, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

impl Layout {
    /// The layout of a disk with these sizes; `key` decides the GUIDs.
    pub(crate) fn new(disk: Disk, key: &str) -> Self {
        let esp = Place { index: 1, guid: guid(key, "esp"), start: MIB, length: disk.esp * MIB };
        let after = esp.start + esp.length;
        let boot = (disk.boot > 0).then(|| {
            let place = Place { index: 2, guid: guid(key, "boot"), start: after, length: disk.boot * MIB };
            (place, guid(key, "boot file system"))
        });
        let start = after + disk.boot * MIB;
        let root = Place {
            index: if boot.is_some() { 3 } else { 2 },
            guid: guid(key, "root"),
            start,
            length: disk.root * MIB,
        };
        // The last MiB holds the backup table.
        let size = start + root.length + MIB;
        Self { size, guid: guid(key, "disk"), esp, boot, root, root_uuid: guid(key, "root file system") }
    }

    /// Makes `path` a sparse file with this partition table and an ESP of `files`.
    pub(crate) fn write(&self, path: &Path, files: &[(String, Vec<u8>)]) -> Result<(), Error> {
        let mut file =
            File::options().read(true).write(true).create_new(true).open(path).map_err(io("making", path))?;
        file.set_len(self.size).map_err(io("sizing", path))?;
        self.write_table(&mut file).map_err(|why| Error::Gpt { path: path.to_owned(), why })?;
        let volume = Volume { bytes: self.esp.length, id: self.esp.guid.as_fields().0, label: esp::LABEL };
        fat::write(&mut file, self.esp.start, volume, files).map_err(io("writing the ESP of", path))
    }

    fn write_table(&self, file: &mut File) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let last = u32::try_from(self.size / SECTOR - 1).unwrap_or(u32::MAX);
        gpt::mbr::ProtectiveMBR::with_lb_size(last).overwrite_lba0(file).map_err(|e| text(&e))?;
        let mut table = gpt::GptConfig::new()
            .writable(true)
            .create_from_device(file, Some(self.guid))
            .map_err(|e| text(&e))?;
        let mut partitions = std::collections::BTreeMap::new();
        let boot = self.boot.map(|(place, _)| (place, LINUX_FS, "boot"));
        let always = [(self.esp, EFI, "EFI System Partition"), (self.root, LINUX_ROOT_X64, "root")];
        for (place, kind, name) in always.into_iter().chain(boot) {
            let partition = gpt::partition::Partition {
                part_type_guid: kind,
                part_guid: place.guid,
                first_lba: place.start / SECTOR,
                last_lba: (place.start + place.length) / SECTOR - 1,
                flags: 0,
                name: name.to_owned(),
            };
            partitions.insert(place.index, partition);
        }
        table.update_partitions(partitions).map_err(|e| text(&e))?;
        table.write().map_err(|e| text(&e))?;
        Ok(())
    }
}

/// Makes the file system with kernels in `disk`. `tree` is a directory to put them into first.
pub(crate) fn write_kernels(
    disk: &Path,
    place: Place,
    uuid: Uuid,
    file_system: BootFileSystem,
    files: &[(String, Vec<u8>)],
    tree: &Path,
) -> Result<(), Error> {
    // The EFI system partition is mounted below it.
    let mounted = tree.join("efi");
    fs::create_dir_all(&mounted).map_err(io("making", &mounted))?;
    for (path, data) in files {
        let path = tree.join(path);
        let parent = path.parent().unwrap_or(tree);
        fs::create_dir_all(parent).map_err(io("making", parent))?;
        fs::write(&path, data).map_err(io("writing", &path))?;
    }
    match file_system {
        BootFileSystem::Ext4 => {
            // GRUB 2.06 cannot read file systems whose checksums have a seed of their own.
            let options = format!(
                "-q -F -L boot -m 0 -O ^metadata_csum_seed -U {uuid} -E \
                 offset={},hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0 -d",
                place.start
            );
            let mut args: Vec<OsString> = options.split_whitespace().map(OsString::from).collect();
            args.extend([tree.into(), disk.into(), format!("{}M", place.length / MIB).into()]);
            supervise::run("mkfs.ext4", &args).map_err(tool("making the file system with kernels"))?;
        }
        BootFileSystem::Xfs => xfs::write(disk, place, uuid, tree)?,
    }
    fs::remove_dir_all(tree).map_err(io("removing", tree))
}

/// A GUID that follows from the image's key and a purpose, marked as random.
fn guid(key: &str, purpose: &str) -> Uuid {
    let digest = Sha256::digest(format!("{key}/{purpose}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Converts `raw` to a compressed qcow2 and removes it.
pub(crate) fn compress(raw: &Path, qcow2: &Path) -> Result<(), Error> {
    let options = "convert -f raw -O qcow2 -c -o compression_type=zstd -m 4 -W";
    let mut args: Vec<OsString> = options.split(' ').map(OsString::from).collect();
    args.extend([raw.as_os_str().to_owned(), qcow2.as_os_str().to_owned()]);
    supervise::run("qemu-img", &args).map_err(tool("compressing the image"))?;
    fs::remove_file(raw).map_err(io("removing", raw))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_disk::{Access, OpenDisk};

    use super::*;

    #[test]
    fn sgdisk_finds_no_problem_and_building_twice_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(
            Disk { esp: 300, boot: 0, boot_filesystem: BootFileSystem::Ext4, root: 40, root_filesystem: 8 },
            "key",
        );
        let files = [("EFI/BOOT/BOOTX64.EFI".to_owned(), vec![1, 2, 3])];
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        layout.write(&a, &files).unwrap();
        layout.write(&b, &files).unwrap();
        assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap());
        let said = supervise::run("sgdisk", &["-v", a.to_str().unwrap()]).unwrap().text();
        assert!(said.contains("No problems found"), "{said}");
        let said = supervise::run("sgdisk", &["-i", "2", a.to_str().unwrap()]).unwrap().text();
        assert!(said.contains("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"), "{said}");
        assert!(said.contains(&layout.root.guid.to_string().to_uppercase()), "{said}");
        let qcow2 = dir.path().join("q");
        compress(&a, &qcow2).unwrap();
        let same = ["compare", "-f", "raw", "-F", "qcow2", b.to_str().unwrap(), qcow2.to_str().unwrap()];
        supervise::run("qemu-img", &same).unwrap();
        assert!(!a.exists());
    }

    #[test]
    fn a_partition_with_kernels_lies_between_and_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(
            Disk { esp: 300, boot: 24, boot_filesystem: BootFileSystem::Ext4, root: 40, root_filesystem: 8 },
            "key",
        );
        let (disk, tree) = (dir.path().join("disk"), dir.path().join("tree"));
        layout.write(&disk, &[]).unwrap();
        let (place, uuid) = layout.boot.unwrap();
        let kernel: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let files = [("vmlinuz".to_owned(), kernel.clone()), ("grub2/grub.cfg".to_owned(), b"menu".to_vec())];
        write_kernels(&disk, place, uuid, BootFileSystem::Ext4, &files, &tree).unwrap();
        assert!(!tree.exists());
        let said = |args: &[&str]| supervise::run("sgdisk", args).unwrap().text();
        let verdict = said(&["-v", disk.to_str().unwrap()]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        let second = said(&["-i", "2", disk.to_str().unwrap()]);
        assert!(second.contains("0FC63DAF-8483-4772-8E79-3D69D8477DE4"), "{second}");
        let third = said(&["-i", "3", disk.to_str().unwrap()]);
        assert!(third.contains("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"), "{third}");

        let whole = fs::read(&disk).unwrap();
        let start = usize::try_from(place.start).unwrap();
        let end = start + usize::try_from(place.length).unwrap();
        let partition = dir.path().join("partition");
        fs::write(&partition, &whole[start..end]).unwrap();
        assert!(whole[end..end + (1 << 20)].iter().all(|byte| *byte == 0), "it stays in its place");
        let partition = partition.to_str().unwrap();
        supervise::run("e2fsck", &["-f", "-n", partition]).unwrap();
        let dump = |path: &str| {
            supervise::run("debugfs", &["-R", &format!("cat {path}"), partition]).unwrap().stdout
        };
        assert!(dump("/vmlinuz") == kernel);
        assert_eq!(dump("/grub2/grub.cfg"), b"menu");
        let features = supervise::run("dumpe2fs", &["-h", partition]).unwrap().text();
        assert!(
            features.contains(&uuid.to_string()) && !features.contains("metadata_csum_seed"),
            "{features}"
        );
    }

    #[test]
    fn a_partition_with_kernels_may_be_xfs() {
        let dir = tempfile::tempdir().unwrap();
        let sizes =
            Disk { esp: 300, boot: 300, boot_filesystem: BootFileSystem::Xfs, root: 40, root_filesystem: 8 };
        let layout = Layout::new(sizes, "key");
        let (disk, tree) = (dir.path().join("disk"), dir.path().join("tree"));
        layout.write(&disk, &[]).unwrap();
        let (place, uuid) = layout.boot.unwrap();
        let kernel: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let files = [("vmlinuz".to_owned(), kernel.clone()), ("grub2/grub.cfg".to_owned(), b"menu".to_vec())];
        write_kernels(&disk, place, uuid, BootFileSystem::Xfs, &files, &tree).unwrap();
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "the disk alone");
        let verdict = supervise::run("sgdisk", &["-v", disk.to_str().unwrap()]).unwrap().text();
        assert!(verdict.contains("No problems found"), "{verdict}");

        let mut opened = OpenDisk::open(&disk, Access::ReadOnly).unwrap();
        let partition = opened.table().unwrap().partitions[1].clone();
        let shown = opened.partition_file(&partition).unwrap();
        supervise::run("xfs_repair", &["-n", "-f", shown.to_str().unwrap()]).unwrap();
        let kernels = opened.kernels().unwrap().unwrap();
        assert_eq!((kernels.uuid(), kernels.label().as_str()), (uuid.to_string(), "boot"));
        assert!(kernels.read("/vmlinuz").unwrap().as_deref() == Some(&kernel[..]));
        assert_eq!(kernels.read("/grub2/grub.cfg").unwrap().as_deref(), Some(&b"menu"[..]));
        assert_eq!(kernels.list("/efi").unwrap(), Some(Vec::new()));
        opened.close().unwrap();
    }
}
