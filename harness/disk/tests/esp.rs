//! The EFI system partition's files, with `fsck.vfat` and mtools as the judges.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use common::{fat, hash, run};
use latchkey_disk::Esp;
use latchkey_disk::esp::{Entry, EntryKind, Error};
use proptest::prelude::*;

fn new_esp(dir: &Path) -> (Esp, PathBuf) {
    let file = dir.join("esp.img");
    fat(&file, 40 << 20);
    (Esp::open(&file).unwrap(), file)
}

#[test]
fn uuid_and_label_are_those_that_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("esp.img");
    std::fs::File::create(&file).unwrap().set_len(40 << 20).unwrap();
    run("mkfs.vfat", &["-F", "32", "-i", "00AB12CD", "-n", "A NAME", file.to_str().unwrap()]);
    let esp = Esp::open(&file).unwrap();
    assert_eq!(esp.label().unwrap().as_deref(), Some("A NAME"));
    let uuid = esp.uuid().unwrap();
    assert_eq!(uuid, "00AB-12CD");
    assert_eq!(run("blkid", &["-o", "value", "-s", "UUID", file.to_str().unwrap()]).trim(), uuid);
}

#[test]
fn nothing_is_below_a_file_and_a_directory_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (esp, _) = new_esp(dir.path());
    esp.write("/plain", b"file").unwrap();
    esp.create_dir_all("/folder").unwrap();
    for path in ["/plain", "/plain/below", "/plain/below/deeper", "/folder/none"] {
        assert!(matches!(esp.list(path), Err(Error::Missing { .. })), "{path}");
    }
    for path in ["/folder", "/plain/below", "/plain/below/deeper"] {
        assert!(matches!(esp.read(path), Err(Error::Missing { .. })), "{path}");
        assert_eq!(esp.exists(path).unwrap(), path == "/folder");
    }
}

/// The file system is sound and holds `files`.
fn sound(file: &Path, files: &[&str]) {
    let image = file.to_str().unwrap();
    // fsck tells what is wrong on its standard output, which an error does not carry.
    let verdict = run("sh", &["-c", "fsck.vfat -n -v \"$1\" 2>&1 || echo UNSOUND", "fsck", image]);
    assert!(!verdict.contains("UNSOUND"), "{verdict}");
    let listed = run("mdir", &["-b", "-/", "-i", image, "::"]);
    let mut listed: Vec<&str> = listed.lines().filter(|l| !l.ends_with('/')).collect();
    listed.sort_unstable();
    assert_eq!(listed, files.iter().map(|f| format!("::{f}")).collect::<Vec<_>>());
}

#[test]
fn files_are_written_renamed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (esp, file) = new_esp(dir.path());
    let large: Vec<u8> = (0..5_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    esp.create_dir_all("/EFI/rocky").unwrap();
    esp.create_dir_all("EFI/rocky/").unwrap();
    esp.write("/EFI/rocky/shim_certificate.efi.bak", b"certificate").unwrap();
    esp.write("/EFI/rocky/uki.efi", &large).unwrap();
    esp.write("/EFI/rocky/uki.efi", &large[1..]).unwrap();
    assert_eq!(esp.read("/efi/Rocky/UKI.EFI").unwrap(), &large[1..]);
    sound(&file, &["/EFI/rocky/shim_certificate.efi.bak", "/EFI/rocky/uki.efi"]);
    let copy = dir.path().join("copy");
    run("mcopy", &["-i", file.to_str().unwrap(), "::/EFI/rocky/uki.efi", copy.to_str().unwrap()]);
    assert_eq!(std::fs::read(copy).unwrap(), &large[1..]);

    esp.rename("/EFI/rocky/shim_certificate.efi.bak", "/EFI/rocky/shim_certificate.efi").unwrap();
    assert!(esp.exists("/EFI/rocky/SHIM_CERTIFICATE.EFI").unwrap());
    assert!(!esp.exists("/EFI/rocky/shim_certificate.efi.bak").unwrap());
    esp.rename("/EFI/rocky/shim_certificate.efi", "/EFI/rocky/Shim_Certificate.efi").unwrap();
    esp.write("/other", b"replaced").unwrap();
    esp.rename("/EFI/rocky/Shim_Certificate.efi", "/other").unwrap();
    assert_eq!(esp.read("/other").unwrap(), b"certificate");
    sound(&file, &["/EFI/rocky/uki.efi", "/other"]);
    assert_eq!(esp.files("/").unwrap(), ["/other", "/EFI/rocky/uki.efi"]);

    esp.remove("/EFI/rocky/uki.efi").unwrap();
    sound(&file, &["/other"]);
    assert_eq!(esp.list("EFI").unwrap(), [Entry { name: "rocky".into(), kind: EntryKind::Directory }]);
}

#[test]
fn the_directorys_own_order_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (esp, _) = new_esp(dir.path());
    for name in ["shim_certificate_b.efi", "shim_certificate_a.efi", "shim_certificate_c.efi"] {
        esp.write(name, b"").unwrap();
    }
    let names: Vec<_> = esp.list("/").unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["shim_certificate_b.efi", "shim_certificate_a.efi", "shim_certificate_c.efi"]);
}

#[test]
fn a_failed_edit_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (esp, file) = new_esp(dir.path());
    esp.write("/kept", b"kept").unwrap();
    let before = hash(&file);
    assert!(matches!(esp.write("/full", &vec![1; 41 << 20]), Err(Error::Failed { .. })));
    assert!(matches!(esp.write("/no/such/directory", b""), Err(Error::Missing { .. })));
    assert!(matches!(esp.rename("/none", "/new"), Err(Error::Missing { .. })));
    assert!(matches!(esp.remove("/none"), Err(Error::Missing { .. })));
    assert!(matches!(esp.read("/none"), Err(Error::Missing { .. })));
    assert_eq!(hash(&file), before);
    sound(&file, &["/kept"]);
}

#[test]
fn the_same_edits_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (_, first) = new_esp(dir.path());
    let second = dir.path().join("second.img");
    std::fs::copy(&first, &second).unwrap();
    for file in [&first, &second] {
        let esp = Esp::open(file).unwrap();
        esp.create_dir_all("/EFI/BOOT").unwrap();
        esp.write("/EFI/BOOT/BOOTX64.EFI", &[7; 100_000]).unwrap();
    }
    assert_eq!(hash(&first), hash(&second));
}

#[test]
fn what_is_no_fat_file_system_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("blank");
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    assert!(matches!(Esp::open(&file), Err(Error::Failed { .. })));
    assert!(matches!(Esp::open(&dir.path().join("none")), Err(Error::Open { .. })));
}

/// Where in `bytes`, a FAT32 file system, the entry with this short name lies.
fn entry(bytes: &[u8], name: &[u8; 11]) -> usize {
    (0..bytes.len()).step_by(32).find(|at| bytes[*at..].starts_with(name)).unwrap()
}

#[test]
fn directories_that_are_in_many_others_are_not_gone_through_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (esp, file) = new_esp(dir.path());
    esp.create_dir_all("/A/B").unwrap();
    esp.create_dir_all("/A/C").unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let [a, b, c] = [b"A          ", b"B          ", b"C          "].map(|name| entry(&bytes, name));
    // Both lead to the directory that they are in.
    let cluster = [20..22, 26..28].map(|field| bytes[a + field.start..a + field.end].to_vec());
    for at in [b, c] {
        bytes[at + 20..at + 22].copy_from_slice(&cluster[0]);
        bytes[at + 26..at + 28].copy_from_slice(&cluster[1]);
    }
    std::fs::write(&file, &bytes).unwrap();
    let error = format!("{:?}", esp.files("/").unwrap_err());
    assert!(error.contains("nested too deeply"), "{error}");
    // As often in each of fourteen levels, the last of which has nothing.
    esp.create_dir_all("/X").unwrap();
    let clusters = std::fs::read(&file).unwrap();
    let number = |at: usize| u16::from_le_bytes([clusters[at], clusters[at + 1]]);
    let reserved = usize::from(number(14)) * 512;
    let table = usize::from(number(36)) * 512;
    let data = reserved + 2 * table;
    let mut bytes = clusters;
    for level in 0..14_u16 {
        let own = data + (usize::from(1000 + level) - 2) * 512;
        for copy in [reserved, reserved + table] {
            let at = copy + 4 * usize::from(1000 + level);
            bytes[at..at + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0x0f]);
        }
        for child in 0..14 {
            let mut entry = format!("D{child:02}        ").into_bytes();
            entry.extend([0x10]);
            entry.resize(26, 0);
            entry.extend((1001 + level).to_le_bytes());
            entry.resize(32, 0);
            let at = own + 32 * child;
            bytes[at..at + 32].copy_from_slice(if level < 13 { &entry } else { &[0; 32] });
        }
    }
    let root = data;
    let top = entry(&bytes[root..], b"X          ") + root;
    bytes[top + 20..top + 22].fill(0);
    bytes[top + 26..top + 28].copy_from_slice(&1000_u16.to_le_bytes());
    std::fs::write(&file, &bytes).unwrap();
    // As large as a sparse disk may say that it is.
    std::fs::File::options().write(true).open(&file).unwrap().set_len(1 << 40).unwrap();
    let error = format!("{:?}", esp.files("/X").unwrap_err());
    assert!(error.contains("too many files"), "{error}");
}

#[test]
fn a_file_that_is_larger_than_any_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("esp.img");
    std::fs::File::create(&file).unwrap().set_len(3 << 30).unwrap();
    run("mkfs.vfat", &["-F", "32", "-s", "64", file.to_str().unwrap()]);
    let esp = Esp::open(&file).unwrap();
    esp.write("/LARGE.EFI", b"small").unwrap();
    let mut start = vec![0; 4 << 20];
    let disk = std::fs::File::options().read(true).write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&disk, &mut start, 0).unwrap();
    let at = entry(&start, b"LARGE   EFI") as u64 + 28;
    std::os::unix::fs::FileExt::write_all_at(&disk, &(2_u32 << 30).to_le_bytes(), at).unwrap();
    assert_eq!(esp.kind("/large.efi").unwrap(), Some(EntryKind::File { size: 2 << 30 }));
    let error = format!("{:?}", esp.read("/LARGE.EFI").unwrap_err());
    assert!(error.contains("larger than any file"), "{error}");
}

/// A small file system with two levels of directories, for damaging.
static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("small.img");
    std::fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
    run("mkfs.vfat", &["-F", "12", file.to_str().unwrap()]);
    let esp = Esp::open(&file).unwrap();
    esp.create_dir_all("/EFI/BOOT").unwrap();
    esp.write("/EFI/BOOT/a rather long name.efi", &[1; 5000]).unwrap();
    std::fs::read(file).unwrap()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Boot sector, both tables and the directories lie in the first 32 KiB.
    #[test]
    fn damage_never_panics_or_hangs(
        changes in proptest::collection::vec((0_usize..0x8000, any::<u8>()), 1..12),
        boot in proptest::collection::vec((11_usize..64, any::<u8>()), 0..2),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("damaged.img");
        let mut bytes = SMALL.clone();
        for (at, value) in changes.into_iter().chain(boot) {
            bytes[at] = value;
        }
        std::fs::write(&file, bytes).unwrap();
        if let Ok(esp) = Esp::open(&file) {
            let _ = (esp.files("/"), esp.read("/EFI/BOOT/a rather long name.efi"));
            let _ = (esp.write("/new", &[2; 3000]), esp.rename("/EFI/BOOT", "/B"), esp.remove("/new"));
        }
    }
}
