//! Which partition has the kernels, and what the root file system has.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use latchkey_disk::{Access, OpenDisk};

/// How large each partition is, and where the first begins, in MiB.
const SIZE: u64 = 8;
/// Where the number of blocks of a group stands in an ext4 (Linux, `Documentation/filesystems/ext4/super.rst`).
const GROUP_BLOCKS: u64 = 1024 + 0x20;

/// A disk with a partition for each of `partitions`, of that type and with these files.
fn disk(dir: &Path, partitions: &[(&str, &[&str])]) -> PathBuf {
    let disk = dir.join("disk.raw");
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let mut args = Vec::new();
    for (number, (kind, _)) in (1..).zip(partitions) {
        args.extend(["-n".to_owned(), format!("{number}:{}M:+{SIZE}M", number * SIZE)]);
        args.extend(["-t".to_owned(), format!("{number}:{kind}")]);
    }
    args.push(disk.display().to_string());
    common::run("sgdisk", &args.iter().map(String::as_str).collect::<Vec<_>>());
    for (number, (_, files)) in (1_u64..).zip(partitions) {
        let tree = dir.join(number.to_string());
        for file in *files {
            let file = tree.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        }
        let offset = format!("offset={}", (number * SIZE) << 20);
        let (tree, size) = (tree.display().to_string(), format!("{SIZE}M"));
        common::run("mkfs.ext4", &["-q", "-F", "-E", &offset, "-d", &tree, disk.to_str().unwrap(), &size]);
    }
    disk
}

#[test]
fn kernels_are_where_a_boot_loader_would_look() {
    let dir = tempfile::tempdir().unwrap();
    let (data, boot) = (&["photos/one.jpg"][..], &["grub2/grub.cfg"][..]);
    let disk = disk(dir.path(), &[("8300", data), ("8300", boot), ("8300", boot)]);
    let number = || {
        let mut disk = OpenDisk::open(&disk, Access::ReadOnly).unwrap();
        let found = disk.kernels().map(|found| found.map(|kernels| kernels.number()));
        disk.close().unwrap();
        found
    };
    assert_eq!(number().unwrap(), Some(2));
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    let damage = |partition: u64| {
        file.write_all_at(&[0; 4], ((partition * SIZE) << 20) + GROUP_BLOCKS).unwrap();
    };
    damage(2);
    assert_eq!(number().unwrap(), Some(3), "another one can be read");
    damage(3);
    assert_eq!(number().unwrap(), Some(1), "it may be one without them");
    damage(1);
    let error = number().unwrap_err().to_string();
    assert!(error.contains("superblock is damaged"), "{error}");
}

#[test]
fn the_root_file_system_tells_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let root = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
    let disk = disk(dir.path(), &[("8300", &["grub2/grub.cfg"]), (root, &["usr/bin/env", "usr/bin/dnf"])]);
    let mut disk = OpenDisk::open(&disk, Access::ReadOnly).unwrap();
    assert_eq!(disk.root_has("/usr/bin/dnf", "/usr/bin/env").unwrap(), Some(true));
    assert_eq!(disk.root_has("/usr/bin/apt", "/usr/bin/env").unwrap(), Some(false));
    assert_eq!(
        disk.root_has("/opt/bin/apt", "/opt/bin/env").unwrap(),
        None,
        "it is not part of this file system"
    );
    disk.close().unwrap();
}
