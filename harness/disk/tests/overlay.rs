//! Overlays opened as files: what is written arrives, the base never changes, and nothing stays mounted.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Read;
use std::path::Path;

use common::{fixed_vhd, hash, raw_disk, run};
use latchkey_disk::gpt::kind;
use latchkey_disk::{Access, Format, OpenDisk, Overlay, format, open};
use rstest::rstest;

/// `disk.raw` in `dir` as another format.
fn base(dir: &Path, format: &str) -> std::path::PathBuf {
    let raw = raw_disk(dir);
    let other = dir.join(format!("disk.{format}"));
    match format {
        "vhd" => fixed_vhd(&raw, &other),
        "qcow2" => {
            run(
                "qemu-img",
                &["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), other.to_str().unwrap()],
            );
        }
        _ => return raw,
    }
    other
}

#[rstest]
fn writes_go_to_the_overlay_and_never_to_the_base(#[values("raw", "qcow2", "vhd")] kind: &str) {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path(), kind);
    let before = hash(&base);
    let overlay = Overlay::over(&base, &dir.path().join("overlay.qcow2")).unwrap();
    let contents = vec![0x5a; 3 << 20];

    let mut disk = OpenDisk::open(overlay.path(), Access::ReadWrite).unwrap();
    assert_eq!(disk.whole().unwrap().length(), 64 << 20);
    let esp = disk.esp().unwrap();
    esp.create_dir_all("/EFI/rocky").unwrap();
    esp.write("/EFI/rocky/shimx64.efi", &contents).unwrap();
    let root = disk.table().unwrap().partitions.pop().unwrap();
    assert_eq!((root.type_guid, root.name.as_str()), (self::kind::ROOT_X86_64, "root"));
    let file = disk.partition_file(&root).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), root.size());
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(&file).unwrap(),
        b"root",
        0,
    )
    .unwrap();
    disk.close().unwrap();
    assert!(!file.exists());

    let mut disk = OpenDisk::open(overlay.path(), Access::ReadOnly).unwrap();
    let esp = disk.esp().unwrap();
    assert_eq!(esp.read("/efi/ROCKY/ShimX64.efi").unwrap(), contents);
    esp.write("/EFI/rocky/more", b"x").unwrap_err();
    let file = disk.partition_file(&root).unwrap();
    assert_eq!(&std::fs::read(file).unwrap()[..4], b"root");
    disk.close().unwrap();
    assert_eq!(hash(&base), before);
    // An independent reader of the same overlay agrees.
    let flat = dir.path().join("flat.raw");
    run("qemu-img", &["convert", "-O", "raw", overlay.path().to_str().unwrap(), flat.to_str().unwrap()]);
    assert!(run("sgdisk", &["-v", flat.to_str().unwrap()]).contains("No problems found"));
    let listed = run("mdir", &["-b", "-/", "-i", &format!("{}@@1M", flat.display()), "::"]);
    assert!(listed.contains("/EFI/rocky/shimx64.efi"), "{listed}");
}

#[rstest]
#[case::raw("raw", 0)]
#[case::vhd("vhd", 0)]
#[case::qcow2("qcow2", 1)]
fn no_daemon_is_needed_to_read_bytes_that_lie_there_as_they_are(#[case] kind: &str, #[case] needed: usize) {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path(), kind);
    let before = hash(&base);
    let mut disk = OpenDisk::open(&base, Access::ReadOnly).unwrap();
    assert_eq!(disk.whole().unwrap().length(), 64 << 20);
    assert!(disk.esp().unwrap().list("/").unwrap().is_empty());
    let esp = disk.table().unwrap().partitions.remove(0);
    let mut read = Vec::new();
    disk.partition(&esp).unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(daemons(&base), needed);
    assert!(
        read == std::fs::read(disk.partition_file(&esp).unwrap()).unwrap(),
        "who needs a file gets the same"
    );
    assert_eq!(daemons(&base), 1);
    disk.close().unwrap();
    assert_eq!((hash(&base), daemons(&base)), (before, 0));
}

/// How many processes were started with this file.
fn daemons(file: &Path) -> usize {
    let file = file.to_str().unwrap();
    let lines = std::fs::read_dir("/proc").unwrap().flatten().map(|process| process.path().join("cmdline"));
    lines
        .filter_map(|line| std::fs::read(line).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(file))
        .count()
}

#[test]
fn reading_only_leaves_even_the_overlay_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::over(&raw_disk(dir.path()), &dir.path().join("o.qcow2")).unwrap();
    let before = hash(overlay.path());
    let mut disk = OpenDisk::open(overlay.path(), Access::ReadOnly).unwrap();
    assert!(disk.esp().unwrap().list("/").unwrap().is_empty());
    drop(disk);
    assert_eq!(hash(overlay.path()), before);
}

#[test]
fn a_disk_is_opened_for_writing_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::over(&raw_disk(dir.path()), &dir.path().join("o.qcow2")).unwrap();
    let _first = OpenDisk::open(overlay.path(), Access::ReadWrite).unwrap();
    let error = OpenDisk::open(overlay.path(), Access::ReadWrite).unwrap_err().to_string();
    assert!(error.contains("lock"), "{error}");
}

#[rstest]
fn what_a_machine_writes_to_is_read_only_where_it_stands_still(#[values("raw", "vhd", "qcow2")] kind: &str) {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path(), kind);
    let writer = OpenDisk::open(&base, Access::ReadWrite).unwrap();
    let error = OpenDisk::open(&base, Access::ReadOnly).unwrap_err().to_string();
    assert!(error.contains("lock") || error.contains("is in use"), "{error}");
    OpenDisk::open(&base, Access::Frozen).unwrap().table().unwrap();
    writer.close().unwrap();
    let reader = OpenDisk::open(&base, Access::ReadOnly).unwrap();
    reader.table().unwrap();
    let error = OpenDisk::open(&base, Access::ReadWrite).unwrap_err().to_string();
    assert!(error.contains("lock"), "{error}");
    reader.close().unwrap();
    OpenDisk::open(&base, Access::ReadWrite).unwrap().close().unwrap();
}

#[test]
fn an_overlay_of_an_overlay_is_a_fork() {
    let dir = tempfile::tempdir().unwrap();
    let first = Overlay::over(&raw_disk(dir.path()), &dir.path().join("1.qcow2")).unwrap();
    let mut disk = OpenDisk::open(first.path(), Access::ReadWrite).unwrap();
    disk.esp().unwrap().write("/common", b"1").unwrap();
    disk.close().unwrap();
    let before = hash(first.path());
    let second = Overlay::create(first.path(), Format::Qcow2, &dir.path().join("2.qcow2")).unwrap();
    let mut disk = OpenDisk::open(second.path(), Access::ReadWrite).unwrap();
    let esp = disk.esp().unwrap();
    assert_eq!(esp.read("/common").unwrap(), b"1");
    esp.write("/common", b"2").unwrap();
    disk.close().unwrap();
    assert_eq!(hash(first.path()), before);
}

#[rstest]
#[case(b"KDMV", "VMDK")]
#[case(b"vhdxfile", "VHDX")]
#[case(b"conectix", "dynamic VHD")]
#[case(b"\x1f\x8b\x08", "gzip")]
#[case(b"QFI\xfb\0\0\0\x09", "version")]
fn what_cannot_be_used_is_said_by_name(#[case] start: &[u8], #[case] name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let mut bytes = start.to_vec();
    bytes.resize(1 << 16, 0);
    std::fs::write(&path, bytes).unwrap();
    let error = OpenDisk::open(&path, Access::ReadOnly).unwrap_err().to_string();
    assert!(error.contains(name), "{error}");
}

#[rstest]
#[case("raw", 1000)]
#[case("vhd", 4096)]
fn a_cut_off_image_is_told_from_a_whole_one(#[case] kind: &str, #[case] less: u64) {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path(), kind);
    let file = std::fs::File::options().write(true).open(&base).unwrap();
    file.set_len(file.metadata().unwrap().len() - less).unwrap();
    let told = match format::detect(&base) {
        Err(e) => e.to_string(),
        Ok(_) => OpenDisk::open(&base, Access::ReadOnly).unwrap().table().unwrap_err().to_string(),
    };
    assert!(told.contains("cut off"), "{told}");
}

#[test]
fn missing_files_and_tables_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = OpenDisk::open(&dir.path().join("none"), Access::ReadOnly).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    let blank = dir.path().join("blank.raw");
    std::fs::write(&blank, vec![0; 1 << 20]).unwrap();
    let mut disk = OpenDisk::open(&blank, Access::ReadOnly).unwrap();
    let error = disk.esp().unwrap_err();
    assert!(matches!(error, open::Error::Table { .. }), "{error}");
}
