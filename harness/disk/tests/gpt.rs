//! Partition tables that `sgdisk` wrote, whole and damaged.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Cursor;
use std::sync::LazyLock;

use common::run;
use latchkey_disk::gpt::{self, Copy, Error, Gpt, Partition, kind};
use proptest::prelude::*;
use rstest::rstest;

const SIZE: u64 = 4 << 20;

static DISK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    run(
        "sgdisk",
        &[
            "-a",
            "1",
            "-U",
            "11111111-2222-3333-4444-555555555555",
            "-n",
            "3:100:199",
            "-t",
            "3:ef00",
            "-c",
            "3:EFI-SYSTEM",
            "-n",
            "1:200:0",
            "-t",
            "1:4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
            "-c",
            "1:Wurzel ÄÖ",
            path.to_str().unwrap(),
        ],
    );
    std::fs::read(path).unwrap()
});

fn read(bytes: &[u8]) -> Result<Gpt, Error> {
    Gpt::read(&mut Cursor::new(bytes))
}

/// First and last blocks of partitions, in the table's order.
#[rstest]
#[case::side_by_side(&[(5, 9), (0, 4)], &[])]
#[case::one_block(&[(4, 9), (0, 4), (20, 20)], &[1, 2])]
#[case::one_in_another(&[(0, 99), (10, 20), (30, 40), (100, 110)], &[1, 2, 3])]
#[case::the_same(&[(7, 8), (7, 8)], &[1, 2])]
#[case::in_a_chain(&[(0, 10), (5, 15), (12, 20)], &[1, 2, 3])]
fn partitions_that_overlap_are_told(#[case] places: &[(u64, u64)], #[case] expected: &[u32]) {
    let whole = read(&DISK).unwrap();
    let esp = whole.find(kind::ESP).unwrap();
    let partition = |(index, (first_lba, last_lba)): (u32, &(u64, u64))| Partition {
        index,
        first_lba: *first_lba,
        last_lba: *last_lba,
        ..esp.clone()
    };
    let table = Gpt { partitions: (1..).zip(places).map(partition).collect(), ..whole.clone() };
    let overlapping = table.overlapping();
    assert_eq!(overlapping.iter().copied().collect::<Vec<_>>(), expected);
    // The firmware does not show them, and so starts nothing from them.
    let shown = table.partitions.iter().find(|partition| !overlapping.contains(&partition.index));
    assert_eq!(table.find(kind::ESP), shown);
}

/// Which of several partitions of root's type is root's: whether each is not to be found by its type, and the number.
#[rstest]
#[case::one(&[false], Some(1), &[1])]
#[case::the_first(&[false, false], Some(1), &[1, 2])]
#[case::the_first_to_be_found(&[true, false, false], Some(2), &[2, 3])]
#[case::none_to_be_found(&[true, true], Some(1), &[])]
#[case::none(&[], None, &[])]
fn root_is_the_first_to_be_found(
    #[case] no_auto: &[bool],
    #[case] expected: Option<u32>,
    #[case] found: &[u32],
) {
    let whole = read(&DISK).unwrap();
    let root = &whole.partitions[0];
    let numbered = |(index, no_auto): (u32, &bool)| Partition { index, no_auto: *no_auto, ..root.clone() };
    let table = Gpt { partitions: (1..).zip(no_auto).map(numbered).collect(), ..whole.clone() };
    assert_eq!(table.find(kind::ROOT_X86_64).map(|root| root.index), expected);
    let indices: Vec<u32> = gpt::roots(&table.partitions).map(|root| root.index).collect();
    assert_eq!(indices, found);
}

#[test]
fn an_attribute_keeps_a_partition_from_being_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, &*DISK).unwrap();
    run("sgdisk", &["-A", "1:set:63", path.to_str().unwrap()]);
    let table = read(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(table.partitions.iter().map(|one| one.no_auto).collect::<Vec<_>>(), [true, false]);
    assert!(read(&DISK).unwrap().partitions.iter().all(|one| !one.no_auto));
}

#[test]
fn a_table_is_read_as_sgdisk_wrote_it() {
    let gpt = read(&DISK).unwrap();
    assert_eq!(gpt.disk_guid.to_string(), "11111111-2222-3333-4444-555555555555");
    let [root, esp] = &gpt.partitions[..] else { panic!("{gpt:?}") };
    assert_eq!((root.index, root.name.as_str(), root.type_guid), (1, "Wurzel ÄÖ", kind::ROOT_X86_64));
    assert_eq!((esp.index, esp.first_lba, esp.last_lba), (3, 100, 199));
    assert_eq!((esp.offset(), esp.size()), (51_200, 51_200));
    assert_eq!(gpt.find(kind::ESP), Some(esp));
    assert_eq!(root.last_lba, SIZE / 512 - 34);
    assert_eq!(gpt.copy, Copy::Primary);
}

#[rstest]
#[case(512)] // the signature
#[case(512 + 60)] // the header
#[case(1024 + 20)] // the entries
fn the_copy_at_the_end_serves_when_the_first_is_damaged(#[case] at: usize) {
    let whole = read(&DISK).unwrap();
    let mut bytes = DISK.clone();
    bytes[at] ^= 1;
    let rescued = read(&bytes).unwrap();
    assert_eq!((rescued.copy, &rescued.partitions), (Copy::Backup, &whole.partitions));
    let end = bytes.len();
    bytes[end - 500] ^= 1;
    assert!(matches!(read(&bytes), Err(Error::Damaged { .. })));
}

#[test]
fn a_disk_that_grew_is_fine_and_one_that_shrank_is_not() {
    let mut grown = DISK.clone();
    grown.resize(grown.len() * 2, 0);
    assert_eq!(read(&grown).unwrap().partitions.len(), 2);
    let error = read(&DISK[..DISK.len() - 512]).unwrap_err().to_string();
    assert!(error.contains("cut off"), "{error}");
}

#[test]
fn other_tables_are_told_by_name() {
    let mut mbr = vec![0; 1 << 16];
    assert!(matches!(read(&mbr), Err(Error::None)));
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    mbr[450] = 0x83;
    assert!(matches!(read(&mbr), Err(Error::Mbr)));
    mbr[450] = 0xee;
    assert!(matches!(read(&mbr), Err(Error::Damaged { .. })));
    mbr[4096..4104].copy_from_slice(b"EFI PART");
    assert!(matches!(read(&mbr), Err(Error::LargeBlocks)));
    assert!(matches!(read(&[]), Err(Error::None)));
    // A volume that was copied without its disk.
    let volume = [&b"LUKS\xba\xbe\0\x02"[..], &[0; 9000]].concat();
    assert!(matches!(read(&volume), Err(Error::Luks)));
}

/// One partition's contents in the place of a disk, as `dd` of an ESP or of `/boot` makes them.
#[rstest]
#[case::fat("mkfs.vfat", &["-F", "32", "-s", "1"], "a FAT")]
#[case::small_fat("mkfs.vfat", &["-F", "16"], "a FAT")]
#[case::ext4("mkfs.ext4", &["-q"], "an ext4")]
fn a_file_system_without_its_disk_is_told_by_name(
    #[case] tool: &str,
    #[case] args: &[&str],
    #[case] expected: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volume");
    std::fs::File::create(&path).unwrap().set_len(40 << 20).unwrap();
    run(tool, &[args, &[path.to_str().unwrap()]].concat());
    told_as(&std::fs::read(&path).unwrap(), expected);
}

#[test]
fn boot_code_of_a_fat_is_no_partition_table_and_xfs_has_a_name() {
    let mut fat = vec![0x5a; 1 << 16];
    fat[..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
    fat[82..90].copy_from_slice(b"FAT32   ");
    fat[510..512].copy_from_slice(&[0x55, 0xaa]);
    told_as(&fat, "a FAT");
    fat[82] = b'f';
    assert!(matches!(read(&fat), Err(Error::Mbr)));
    told_as(&[b"XFSB", &[0; 9000][..]].concat(), "an XFS");
}

fn told_as(volume: &[u8], expected: &str) {
    let error = read(volume).unwrap_err();
    assert!(matches!(&error, Error::FileSystem { kind } if *kind == expected), "{error}");
    assert!(error.to_string().contains("give the whole disk"), "{error}");
}

proptest! {
    #[test]
    fn damage_never_panics(changes in proptest::collection::vec((0_usize..0x1000, any::<u8>()), 1..8), keep in 0_usize..0x4000) {
        let mut bytes = DISK.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        let _ = (read(&bytes), read(&bytes[..keep]));
    }
}
