//! The EFI system partition: FAT32, the same bytes for the same contents.

use std::io::{self, Read, Seek, Write};

use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

/// The label that the system mounts it by.
pub(crate) const LABEL: [u8; 11] = *b"EFI-SYSTEM ";

/// Every file gets this time, so that building twice gives the same bytes.
#[derive(Debug)]
struct Fixed;

const MOMENT: DateTime = DateTime {
    date: Date { year: 2024, month: 1, day: 1 },
    time: Time { hour: 0, min: 0, sec: 0, millis: 0 },
};

impl TimeProvider for Fixed {
    fn get_current_date(&self) -> Date {
        MOMENT.date
    }
    fn get_current_date_time(&self) -> DateTime {
        MOMENT
    }
}

static FIXED: Fixed = Fixed;

/// Formats `partition` and writes `files` (path with `/`, contents) to it, directories included.
pub(crate) fn write<T: Read + Write + Seek>(
    mut partition: T,
    bytes: u64,
    volume_id: u32,
    files: &[(String, Vec<u8>)],
) -> io::Result<()> {
    let sectors = u32::try_from(bytes / 512).map_err(io::Error::other)?;
    let format = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(4096)
        .total_sectors(sectors)
        .volume_id(volume_id)
        .volume_label(LABEL);
    fatfs::format_volume(&mut partition, format)?;
    partition.rewind()?;
    let fs = FileSystem::new(partition, FsOptions::new().time_provider(&FIXED))?;
    {
        let root = fs.root_dir();
        for (path, contents) in files {
            let mut dir = root.clone();
            let mut names = path.split('/').filter(|n| !n.is_empty()).peekable();
            while let Some(name) = names.next() {
                if names.peek().is_some() {
                    dir = dir.create_dir(name)?;
                } else {
                    let mut file = dir.create_file(name)?;
                    file.truncate()?;
                    file.write_all(contents)?;
                    file.flush()?;
                }
            }
        }
    }
    fs.unmount()
}

/// `BOOTX64.CSV` for shim's fallback: UTF-16LE with a byte order mark; file, title, load options, comment.
///
/// The load options name the second stage; the blank before the comma is what RHEL's `kernel-bootcfg` writes
/// (virt-firmware `virt/peutils` and shim `fallback.c`, which takes the field as it is).
pub(crate) fn boot_csv(title: &str, uki: &str) -> Vec<u8> {
    let line = format!("shimx64.efi,{title},{uki} ,UKI bootentry\n");
    std::iter::once(0xfeff).chain(line.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use std::fs::File;

    fn build(path: &std::path::Path) {
        let bytes = 64 << 20;
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(bytes).unwrap();
        let files = [
            ("EFI/rocky/shimx64.efi".to_owned(), vec![1; 9000]),
            ("EFI/rocky/BOOTX64.CSV".to_owned(), boot_csv("t", "\\EFI\\Linux\\u.efi")),
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), vec![]),
        ];
        write(file, bytes, 0x1234, &files).unwrap();
    }

    #[test]
    fn the_same_contents_give_the_same_bytes_and_fsck_is_content() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        build(&a);
        build(&b);
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());
        latchkey_supervise::run("fsck.vfat", &["-n", a.to_str().unwrap()]).unwrap();
        let listed =
            latchkey_supervise::run("mdir", &["-i", a.to_str().unwrap(), "-/", "-b", "::"]).unwrap().text();
        assert!(listed.contains("::/EFI/rocky/shimx64.efi"), "{listed}");
    }

    #[test]
    fn the_csv_is_utf16_with_the_uki_in_its_third_field() {
        let csv = boot_csv("Title", "\\EFI\\Linux\\u.efi");
        let units: Vec<u16> = csv.chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        let text = String::from_utf16(&units).unwrap();
        assert_eq!(text, "\u{feff}shimx64.efi,Title,\\EFI\\Linux\\u.efi ,UKI bootentry\n");
    }
}
