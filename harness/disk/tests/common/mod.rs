//! Disks to test with, made by the usual tools.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// First block and number of bytes of the test disk's ESP.
pub(crate) const ESP: (u64, u64) = (2048, 40 << 20);

/// Runs a tool and gives what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    latchkey_supervise::run(program, args).unwrap().text()
}

/// The bytes of a disk of 64 MiB: ESP (40 MiB, FAT32) and a root partition. Made once, since `sgdisk` waits for
/// everything on the host to be written out.
static DISK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.raw");
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let root = "2:4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
    let esp = ["-n", "1:2048:+40M", "-t", "1:ef00", "-c", "1:EFI-SYSTEM"];
    let root = ["-n", "2:0:0", "-t", root, "-c", "2:root", disk.to_str().unwrap()];
    run("sgdisk", &[&esp[..], &root].concat());
    let esp = dir.path().join("esp.img");
    fat(&esp, ESP.1);
    let mut bytes = std::fs::read(&disk).unwrap();
    let at = usize::try_from(ESP.0 * 512).unwrap();
    let image = std::fs::read(&esp).unwrap();
    bytes[at..at + image.len()].copy_from_slice(&image);
    bytes
});

/// A raw disk of 64 MiB: ESP (40 MiB, FAT32) and a root partition.
pub(crate) fn raw_disk(dir: &Path) -> PathBuf {
    let disk = dir.join("disk.raw");
    std::fs::write(&disk, &*DISK).unwrap();
    disk
}

/// An empty FAT32 file system of `size` bytes.
pub(crate) fn fat(path: &Path, size: u64) {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
    run("mkfs.vfat", &["-F", "32", "-s", "1", "-n", "EFI-SYSTEM", path.to_str().unwrap()]);
}

/// SHA-256 of a file.
pub(crate) fn hash(path: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(path).unwrap()))
}

/// Appends the footer of a fixed VHD (Microsoft's specification, "Hard Disk Footer Format").
pub(crate) fn fixed_vhd(raw: &Path, vhd: &Path) {
    let mut bytes = std::fs::read(raw).unwrap();
    let size = u64::try_from(bytes.len()).unwrap();
    let mut footer = [0_u8; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[8..16].copy_from_slice(&[0, 0, 0, 2, 0, 1, 0, 0]);
    footer[16..24].fill(0xff);
    footer[28..32].copy_from_slice(b"wa\0\0");
    footer[40..48].copy_from_slice(&size.to_be_bytes());
    footer[48..56].copy_from_slice(&size.to_be_bytes());
    footer[63] = 2;
    let sum: u32 = footer.iter().map(|b| u32::from(*b)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    bytes.extend(footer);
    std::fs::write(vhd, bytes).unwrap();
}
