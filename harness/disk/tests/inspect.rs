//! Images described: the reference layout, the other layout, and what is odd.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use common::{hash, raw_disk, run};
use latchkey_disk::bootcsv::{self, BootEntry};
use latchkey_disk::inspect::{CertificateRead, Contents, EfiKind, Layout, Limit, Menu};
use latchkey_disk::{Access, Esp, ImageDescription, OpenDisk, inspect};
use latchkey_measure::{SignatureDb, SignatureList, Signer, Uuid, certfile, samples, shim, sign_pe};
use rstest::rstest;

static VENDOR: LazyLock<Signer> = LazyLock::new(|| samples::signer("Vendor").unwrap());
static COMMUNITY: LazyLock<Signer> = LazyLock::new(|| samples::signer("Community").unwrap());

fn shim_image(version: &str) -> Vec<u8> {
    let bare = samples::shim(version, 2048).unwrap();
    sign_pe(&shim::replace_vendor_cert(&bare, VENDOR.certificate()).unwrap(), &VENDOR).unwrap()
}

fn uki() -> Vec<u8> {
    sign_pe(&samples::uki(b"kernel", "quiet").unwrap(), &VENDOR).unwrap()
}

fn certificate_file() -> Vec<u8> {
    let lists = SignatureDb::new().with(SignatureList::x509(Uuid::nil(), COMMUNITY.certificate()));
    let file =
        certfile::build(&lists.to_bytes(), "sbat,1,a,b,c,d\ncertmule,1,Vendor,certmule,1,u\n").unwrap();
    sign_pe(&file, &VENDOR).unwrap()
}

/// A disk with `files` on its ESP; the paths' directories are made.
fn disk_with(dir: &Path, files: &[(&str, Vec<u8>)]) -> PathBuf {
    let disk = raw_disk(dir);
    edit(&disk, |esp| {
        for (path, contents) in files {
            let above = path.rsplit_once('/').unwrap().0;
            esp.create_dir_all(above).unwrap();
            esp.write(path, contents).unwrap();
        }
    });
    disk
}

fn edit(disk: &Path, act: impl FnOnce(&Esp)) {
    let mut open = OpenDisk::open(disk, Access::ReadWrite).unwrap();
    act(&open.esp().unwrap());
    open.close().unwrap();
}

fn boot_list(options: &str) -> Vec<u8> {
    bootcsv::to_bytes(&[BootEntry {
        file: "shimx64.efi".into(),
        label: "Rocky Linux".into(),
        options: options.into(),
        comment: "for people".into(),
    }])
}

fn names(limits: &[Limit]) -> Vec<String> {
    let name = |l| serde_json::to_value(l).unwrap()["limit"].as_str().unwrap().to_owned();
    limits.iter().map(name).collect()
}

#[test]
fn the_reference_layout_is_described_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk_with(
        dir.path(),
        &[
            ("/EFI/rocky/shimx64.efi", shim_image("15.8")),
            ("/EFI/rocky/BOOTX64.CSV", boot_list(r"\EFI\Linux\rocky.efi")),
            ("/EFI/rocky/shim_certificate.efi.bak", certificate_file()),
            ("/EFI/Linux/rocky.efi", uki()),
            ("/EFI/BOOT/BOOTX64.EFI", shim_image("15.8")),
        ],
    );
    encrypt_root(&disk, dir.path());
    let before = hash(&disk);
    let description = inspect(&disk).unwrap();
    assert_eq!(hash(&disk), before);

    assert_eq!(description.limits, [], "{description}");
    assert_eq!(description.layout(), Layout::Uki { path: "/EFI/Linux/rocky.efi".into() });
    let root = description.root().unwrap();
    assert_eq!((root.partition.index, root.contents), (2, Contents::Luks));
    assert_eq!(root.luks.as_ref().unwrap().keyslots.len(), 1);
    let esp = description.esp.as_ref().unwrap();
    let shim = esp.images.iter().find(|i| i.path == "/EFI/rocky/shimx64.efi").unwrap();
    let EfiKind::Shim { version, vendor_certificate, sbat_levels } = &shim.kind else { panic!("{shim}") };
    assert_eq!(version.unwrap().to_string(), "15.8");
    assert_eq!(vendor_certificate.as_ref().unwrap().subject, "CN=Vendor");
    assert_eq!(sbat_levels.as_ref().unwrap().latest.date, 2_024_010_900);
    assert_eq!(shim.signed_by, ["CN=Vendor"]);
    let [file] = &esp.certificate_files[..] else { panic!("{esp}") };
    assert!(matches!(file.read, CertificateRead::No { .. }));
    assert_eq!(file.certificates[0].common_name(), "Community");

    let text = description.to_string();
    for line in [
        "disk.raw: raw, 64.0 MiB",
        "1  EFI system          40.0 MiB  FAT      EFI-SYSTEM",
        "2  root (x86-64)       22.9 MiB  LUKS     root",
        "Boot chain: shim -> UKI /EFI/Linux/rocky.efi",
        "/EFI/rocky/shimx64.efi: shim 15.8, trusts CN=Vendor; SBAT shim 4; signed by CN=Vendor",
        "/EFI/rocky/shim_certificate.efi.bak: brings CN=Community; signed by CN=Vendor; inactive: shim 15.8 does",
        "/EFI/rocky/BOOTX64.CSV: \"Rocky Linux\" starts shimx64.efi with \\EFI\\Linux\\rocky.efi",
        "LUKS2, aes-xts-plain64, UUID",
        "keyslot 0: pbkdf2 1000, passphrase",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
    let json = serde_json::to_string(&description).unwrap();
    assert_eq!(serde_json::from_str::<ImageDescription>(&json).unwrap(), description);
}

/// Puts a LUKS2 header on the second partition, through the file that shows it.
fn encrypt_root(disk: &Path, dir: &Path) {
    let mut open = OpenDisk::open(disk, Access::ReadWrite).unwrap();
    let root = open.table().unwrap().partitions.pop().unwrap();
    let file = open.partition_file(&root).unwrap();
    let key = dir.join("key");
    std::fs::write(&key, "passphrase").unwrap();
    let format = ["luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2"];
    let keys =
        ["--pbkdf-force-iterations", "1000", "--key-file", key.to_str().unwrap(), file.to_str().unwrap()];
    run("cryptsetup", &[&format[..], &keys].concat());
    open.close().unwrap();
}

#[rstest]
#[case("15.7", "shim_certificate.efi.bak", true)]
#[case("15.8", "shim_certificate.efi.bak", false)]
#[case("15.8", "shim_certificate.efi", true)]
#[case("16.1", "shim_certificate.efi.bak", true)]
fn whether_a_certificate_file_is_active_depends_on_the_shim_beside_it(
    #[case] version: &str,
    #[case] name: &str,
    #[case] active: bool,
) {
    let dir = tempfile::tempdir().unwrap();
    let path = format!("/EFI/rocky/{name}");
    let elsewhere = format!("/EFI/other/{name}");
    let disk = disk_with(
        dir.path(),
        &[
            ("/EFI/rocky/shimx64.efi", shim_image(version)),
            (&path, certificate_file()),
            (&elsewhere, certificate_file()),
        ],
    );
    let files = inspect(&disk).unwrap().esp.unwrap().certificate_files;
    let read = |path: &str| files.iter().find(|f| f.path == path).unwrap().read;
    assert_eq!(matches!(read(&path), CertificateRead::Yes { .. }), active);
    assert_eq!(read(&elsewhere), CertificateRead::NoShim);
}

#[test]
fn grub_beside_shim_is_the_other_layout() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk_with(
        dir.path(),
        &[
            ("/EFI/rocky/shimx64.efi", shim_image("16.1")),
            ("/EFI/rocky/grubx64.efi", samples::uki(b"", "").unwrap()),
            ("/EFI/rocky/BOOTX64.CSV", boot_list("")),
        ],
    );
    // A UKI under GRUB's name is a UKI.
    assert_eq!(inspect(&disk).unwrap().layout(), Layout::Uki { path: "/EFI/rocky/grubx64.efi".into() });
    edit(&disk, |esp| esp.write("/EFI/rocky/grubx64.efi", &certificate_file()).unwrap());
    assert_eq!(inspect(&disk).unwrap().layout(), Layout::Grub { path: "/EFI/rocky/grubx64.efi".into() });
}

#[rstest]
#[case::entries("menuentry 'Rocky' {\n}\n", Some(Menu::Entries))]
#[case::snippets("menuentry 'UEFI Firmware Settings' {\n}\n  blscfg\n", Some(Menu::Snippets))]
#[case::neither("set menuentry=1\n", None)]
fn where_grub_has_its_menu_from_is_told(#[case] text: &str, #[case] expected: Option<Menu>) {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk_with(
        dir.path(),
        &[("/EFI/rocky/shimx64.efi", shim_image("15.8")), ("/EFI/rocky/grubx64.efi", certificate_file())],
    );
    assert_eq!(inspect(&disk).unwrap().menu, None, "there is no /boot");
    run("sgdisk", &["-t", "2:bc13c2ff-59e6-4262-a352-b275fd6f7172", disk.to_str().unwrap()]);
    let (tree, boot) = (dir.path().join("boot"), dir.path().join("boot.img"));
    std::fs::create_dir_all(tree.join("grub2")).unwrap();
    std::fs::write(tree.join("grub2/grub.cfg"), text).unwrap();
    run("mkfs.ext4", &["-q", "-d", tree.to_str().unwrap(), boot.to_str().unwrap(), "16M"]);
    let mut open = OpenDisk::open(&disk, Access::ReadWrite).unwrap();
    let partition = open.table().unwrap().partitions.pop().unwrap();
    let file = std::fs::File::options().write(true).open(open.partition_file(&partition).unwrap()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &std::fs::read(boot).unwrap(), 0).unwrap();
    drop(file);
    open.close().unwrap();
    assert_eq!(inspect(&disk).unwrap().menu, expected);
}

#[test]
fn what_is_odd_about_a_boot_chain_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk_with(
        dir.path(),
        &[
            ("/EFI/rocky/shimx64.efi", shim_image("unknown")),
            ("/EFI/rocky/broken.efi", b"not a program".to_vec()),
            ("/EFI/rocky/BOOTX64.CSV", b"odd".to_vec()),
        ],
    );
    let description = inspect(&disk).unwrap();
    assert_eq!(
        names(&description.limits),
        ["file-unreadable", "file-unreadable", "no-second-stage", "shim-version"],
        "{description}"
    );
    edit(&disk, |esp| esp.remove("/EFI/rocky/shimx64.efi").unwrap());
    assert!(names(&inspect(&disk).unwrap().limits).contains(&"no-shim".into()));
}

#[rstest]
#[case("lvm", 512, b"LABELONE", "8e00")]
#[case("btrfs", 0x1_0040, b"_BHRfS_M", "8304")]
#[case("raid", 0, b"", "fd00")]
fn what_is_not_handled_is_said_by_name(
    #[case] name: &str,
    #[case] at: u64,
    #[case] mark: &[u8],
    #[case] kind: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    let disk = raw_disk(dir.path());
    run("sgdisk", &["-t", &format!("2:{kind}"), disk.to_str().unwrap()]);
    let mut open = OpenDisk::open(&disk, Access::ReadWrite).unwrap();
    let root = open.table().unwrap().partitions.pop().unwrap();
    let file = std::fs::File::options().write(true).open(open.partition_file(&root).unwrap()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, mark, at).unwrap();
    drop(file);
    open.close().unwrap();
    let limits = inspect(&disk).unwrap().limits;
    assert!(names(&limits).contains(&name.into()), "{limits:?}");
}

#[test]
fn partitions_that_overlap_are_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let disk = raw_disk(dir.path());
    let mut bytes = std::fs::read(&disk).unwrap();
    // The second partition begins where the first one does; both sums of the table are made anew.
    let first = bytes[1024 + 32..1024 + 40].to_vec();
    bytes[1024 + 128 + 32..1024 + 128 + 40].copy_from_slice(&first);
    let sum = crc32(&bytes[1024..1024 + 128 * 128]);
    bytes[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
    bytes[512 + 16..512 + 20].fill(0);
    let sum = crc32(&bytes[512..512 + 92]);
    bytes[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&disk, bytes).unwrap();
    let description = inspect(&disk).unwrap();
    assert_eq!(names(&description.limits), ["partition-table"], "{description}");
    assert!(description.limits[0].to_string().ends_with("none is looked at: 1, 2"), "{description}");
    assert!(description.partitions.is_empty() && description.blocking().next().is_some());
    assert!(OpenDisk::open(&disk, Access::ReadOnly).unwrap().esp().is_err(), "the firmware sees none");
}

/// CRC-32 as IEEE 802.3 defines it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

#[test]
fn what_a_disk_says_stays_in_its_line_and_is_of_some_length() {
    let dir = tempfile::tempdir().unwrap();
    let long = sign_pe(&samples::uki(b"kernel", &"quiet ".repeat(20_000)).unwrap(), &VENDOR).unwrap();
    let files = [
        ("/EFI/rocky/shimx64.efi", shim_image("15.8")),
        ("/EFI/rocky/BOOTX64.CSV", boot_list("uki.efi \u{1b}[2J\u{7}")),
        ("/EFI/rocky/uki.efi", long),
    ];
    let disk = disk_with(dir.path(), &files);
    run("sgdisk", &["-c", "2:a\u{1b}[8m\u{202e}b", disk.to_str().unwrap()]);
    let description = inspect(&disk).unwrap();
    let text = description.to_string();
    assert!(
        text.contains("a\u{fffd}[8m\u{fffd}b\n") && text.contains("uki.efi \u{fffd}[2J\u{fffd}"),
        "{text}"
    );
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
    let images = description.esp.unwrap().images;
    let commands = images.iter().find_map(|image| match &image.kind {
        EfiKind::Uki { command_line, .. } => command_line.as_deref(),
        _ => None,
    });
    let commands = commands.unwrap();
    assert!(commands.len() < 70_000 && commands.ends_with(" (cut off)"), "{}", commands.len());
}

#[test]
fn files_that_are_the_same_many_times_over_are_not_all_read() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["/D/A.BIN", "/D/B.BIN", "/D/C.BIN"].map(|path| (path, vec![7; 15 << 20]));
    let disk = disk_with(dir.path(), &files[..1]);
    edit(&disk, |esp| files[1..].iter().for_each(|(path, _)| esp.write(path, b"x").unwrap()));
    let mut bytes = std::fs::read(&disk).unwrap();
    let entry = |bytes: &[u8], name: &[u8]| {
        (0..bytes.len()).step_by(32).find(|at| bytes[*at..].starts_with(name)).unwrap()
    };
    let [a, b, c] = [b"A       BIN", b"B       BIN", b"C       BIN"].map(|name| entry(&bytes, name));
    for at in [b, c] {
        bytes.copy_within(a + 20..a + 32, at + 20);
    }
    std::fs::write(&disk, bytes).unwrap();
    let limits = inspect(&disk).unwrap().limits;
    assert!(names(&limits).contains(&"esp-unreadable".into()), "{limits:?}");
    assert!(limits.iter().any(|limit| limit.to_string().contains("/D/C.BIN")), "{limits:?}");
}

#[test]
fn disks_without_a_table_an_esp_or_a_root_are_described_too() {
    let dir = tempfile::tempdir().unwrap();
    let blank = dir.path().join("blank.raw");
    std::fs::File::create(&blank).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(names(&inspect(&blank).unwrap().limits), ["partition-table"]);
    run("sgdisk", &["-n", "1:0:0", "-t", "1:8300", blank.to_str().unwrap()]);
    assert_eq!(names(&inspect(&blank).unwrap().limits), ["no-esp", "no-root"]);
    let esp = dir.path().join("esp.raw");
    std::fs::File::create(&esp).unwrap().set_len(1 << 20).unwrap();
    run("sgdisk", &["-n", "1:0:0", "-t", "1:ef00", esp.to_str().unwrap()]);
    assert_eq!(names(&inspect(&esp).unwrap().limits), ["esp-unreadable", "no-root"]);
}

#[test]
fn a_qcow2_that_lost_its_end_is_told_from_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let raw = disk_with(dir.path(), &[("/EFI/rocky/filler", vec![0x55; 8 << 20])]);
    let image = dir.path().join("disk.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), image.to_str().unwrap()]);
    assert!(!names(&inspect(&image).unwrap().limits).contains(&"damaged".into()));
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let description = inspect(&image).unwrap();
    assert!(names(&description.limits).contains(&"damaged".into()));
    assert!(description.blocking().next().is_some());
}

#[test]
fn a_disk_over_another_file_is_refused_before_that_file_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (base, over) = (dir.path().join("base.raw"), dir.path().join("over.qcow2"));
    std::fs::File::create(&base).unwrap().set_len(1 << 20).unwrap();
    latchkey_disk::Overlay::over(&base, &over).unwrap();
    let error = latchkey_disk::inspect::inspect(&over).unwrap_err().to_string();
    assert!(error.contains("over another file") && error.contains("qemu-img convert"), "{error}");
}

/// What locks machines out can be forecast, and no machine is made of it.
#[test]
fn a_program_that_is_cut_off_is_named_and_a_chain_that_is_not_whole_can_be_forecast() {
    let dir = tempfile::tempdir().unwrap();
    let files = [("/EFI/rocky/shimx64.efi", shim_image("15.8")), ("/EFI/Linux/rocky.efi", uki())];
    let disk = disk_with(dir.path(), &files);
    let description = inspect(&disk).unwrap();
    assert_eq!(names(&description.limits), ["no-second-stage"], "{description}");
    assert!(description.blocking().next().is_some() && description.unforeseeable().next().is_none());

    let cut_off = &files[1].1[..files[1].1.len() - 100];
    edit(&disk, |esp| esp.write(files[1].0, cut_off).unwrap());
    let limits = inspect(&disk).unwrap().limits;
    assert_eq!(names(&limits), ["file-unreadable", "no-second-stage"]);
    assert!(limits[0].to_string().starts_with("/EFI/Linux/rocky.efi cannot be read: "), "{limits:?}");
}
