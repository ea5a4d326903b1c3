//! Writing a FAT32 volume whose contents are known beforehand: the same contents give the same bytes.
//!
//! The crate `fatfs` 0.3 makes directories whose `.` and `..` carry long names, which `fsck.vfat` (rightly) calls
//! damaged; so new volumes are written here, one file after the other without gaps.
//!
//! Source: Microsoft "FAT: General Overview of On-Disk Format", version 1.03 ("fatgen103"). Field names in comments
//! are its own.

use std::io::{self, Seek, SeekFrom, Write};

/// Bytes of a sector.
const SECTOR: u32 = 512;
/// Sectors of a cluster: 4 KiB, what Linux uses as a page.
const CLUSTER_SECTORS: u32 = 8;
const CLUSTER: u32 = SECTOR * CLUSTER_SECTORS;
/// Sectors before the first FAT.
const RESERVED: u32 = 32;
/// Copies of the FAT.
const FATS: u32 = 2;
/// The root directory's cluster; data begins with it.
const ROOT: u32 = 2;
/// End of a chain.
const END: u32 = 0x0fff_ffff;
/// FAT32 begins at this many clusters; with fewer, drivers take a volume for FAT16.
const FEWEST_CLUSTERS: u32 = 65_525;
/// `DIR_Attr` of a directory, an archived file, the volume's label and a part of a long name.
const DIRECTORY: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const LABEL: u8 = 0x08;
const LONG_NAME: u8 = 0x0f;
/// Every file's date: 2024-01-01, so that no clock takes part.
const DATE: u16 = (44 << 9) | (1 << 5) | 1;
/// UTF-16 units that one entry of a long name holds, and where they are in it.
const UNITS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// What a volume is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Volume {
    pub(crate) bytes: u64,
    pub(crate) id: u32,
    pub(crate) label: [u8; 11],
}

/// A file or directory to be written.
struct Node<'a> {
    name: String,
    parent: Option<usize>,
    /// `None` for a directory.
    contents: Option<&'a [u8]>,
    first: u32,
    clusters: u32,
}

/// Writes a volume of `files` (path with `/`, contents) at `start` bytes of `disk`, which must read as zeros there.
pub(crate) fn write<T: Write + Seek>(
    disk: &mut T,
    start: u64,
    volume: Volume,
    files: &[(String, Vec<u8>)],
) -> io::Result<()> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    let sectors = u32::try_from(volume.bytes / u64::from(SECTOR)).map_err(io::Error::other)?;
    let fat_sectors = fat_sectors(sectors).ok_or_else(|| invalid("the volume is too small for FAT32"))?;
    let data = RESERVED + FATS * fat_sectors;
    let clusters = (sectors - data) / CLUSTER_SECTORS;

    let mut nodes = tree(files);
    let mut next = ROOT;
    let mut table = vec![0x0fff_fff8, END];
    for index in 0..nodes.len() {
        let bytes = match nodes[index].contents {
            Some(contents) => contents.len(),
            None => directory(&nodes, index, volume.label).len().max(1),
        };
        let count = u32::try_from(bytes.div_ceil(CLUSTER as usize)).map_err(io::Error::other)?;
        let node = &mut nodes[index];
        node.clusters = count;
        // An empty file has no cluster, which is written as 0.
        node.first = if count == 0 { 0 } else { next };
        table.extend((1..=count).map(|i| if i == count { END } else { next + i }));
        next += count;
    }
    if next - ROOT > clusters {
        return Err(invalid("the files do not fit into the volume"));
    }

    let at = |sector: u32| start + u64::from(sector) * u64::from(SECTOR);
    let mut put =
        |offset: u64, bytes: &[u8]| disk.seek(SeekFrom::Start(offset)).and_then(|_| disk.write_all(bytes));
    let (boot, info) =
        (boot_sector(sectors, fat_sectors, volume), info_sector(clusters - (next - ROOT), next));
    for copy in [0, 6] {
        put(at(copy), &boot)?;
        put(at(copy + 1), &info)?;
    }
    let table: Vec<u8> = table.into_iter().flat_map(u32::to_le_bytes).collect();
    for copy in 0..FATS {
        put(at(RESERVED + copy * fat_sectors), &table)?;
    }
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.clusters > 0) {
        let offset = at(data + (node.first - ROOT) * CLUSTER_SECTORS);
        match node.contents {
            Some(contents) => put(offset, contents)?,
            None => put(offset, &directory(&nodes, index, volume.label))?,
        }
    }
    Ok(())
}

/// How many sectors a FAT takes on a volume of `sectors`; `None` when that is too small to be FAT32.
fn fat_sectors(sectors: u32) -> Option<u32> {
    let entries = SECTOR / 4;
    // Without the FATs themselves taken off this is an upper bound, a few sectors too many at most.
    let fat = (sectors.checked_sub(RESERVED)? / CLUSTER_SECTORS + 2).div_ceil(entries);
    let clusters = sectors.checked_sub(RESERVED + FATS * fat)? / CLUSTER_SECTORS;
    (clusters >= FEWEST_CLUSTERS).then_some(fat)
}

/// The files with their directories, each directory before what is in it; the first node is the root.
fn tree(files: &[(String, Vec<u8>)]) -> Vec<Node<'_>> {
    let node = |name: &str, parent, contents| Node {
        name: name.to_owned(),
        parent,
        contents,
        first: 0,
        clusters: 0,
    };
    let mut nodes = vec![node("", None, None)];
    for (path, contents) in files {
        let mut parent = 0;
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let known =
                nodes.iter().position(|n| n.parent == Some(parent) && n.name.eq_ignore_ascii_case(name));
            parent = known.unwrap_or_else(|| {
                nodes.push(node(name, Some(parent), names.peek().is_none().then_some(contents.as_slice())));
                nodes.len() - 1
            });
        }
    }
    nodes
}

/// A directory's entries. Its length does not depend on where files lie, only its bytes do.
fn directory(nodes: &[Node<'_>], index: usize, label: [u8; 11]) -> Vec<u8> {
    let mut out = Vec::new();
    match nodes[index].parent {
        None => out.extend(entry(label, LABEL, 0, 0)),
        Some(parent) => {
            // The root is written as cluster 0 in `..`.
            let up = if parent == 0 { 0 } else { nodes[parent].first };
            out.extend(entry(*b".          ", DIRECTORY, nodes[index].first, 0));
            out.extend(entry(*b"..         ", DIRECTORY, up, 0));
        }
    }
    let mut taken: Vec<[u8; 11]> = Vec::new();
    for node in nodes.iter().filter(|n| n.parent == Some(index)) {
        let short = short_name(&node.name, &taken);
        taken.push(short);
        out.extend(long_name(&node.name, &short));
        let (attributes, size) = match node.contents {
            // A cluster count of 32 bits was checked before, so this fits.
            Some(contents) => (ARCHIVE, u32::try_from(contents.len()).unwrap_or(u32::MAX)),
            None => (DIRECTORY, 0),
        };
        out.extend(entry(short, attributes, node.first, size));
    }
    out
}

/// One entry: name, attributes, then creation, access and write dates around the two halves of the cluster.
fn entry(name: [u8; 11], attributes: u8, cluster: u32, size: u32) -> [u8; 32] {
    let mut out = [0; 32];
    out[..11].copy_from_slice(&name);
    out[11] = attributes;
    for date in [16, 18, 24] {
        out[date..date + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    let cluster = cluster.to_le_bytes();
    out[20..22].copy_from_slice(&cluster[2..]);
    out[26..28].copy_from_slice(&cluster[..2]);
    out[28..].copy_from_slice(&size.to_le_bytes());
    out
}

/// The 8.3 name: the name itself in capitals where it fits, else its beginning with a number.
fn short_name(name: &str, taken: &[[u8; 11]]) -> [u8; 11] {
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let plain = |text: &str| -> Vec<u8> {
        let allowed = |c: &char| c.is_ascii_alphanumeric() || "$%'-_@~`!(){}^#&".contains(*c);
        text.chars().filter(allowed).map(|c| c.to_ascii_uppercase() as u8).collect()
    };
    let (base_plain, extension_plain) = (plain(base), plain(extension));
    let fits = base_plain.len() == base.len()
        && extension_plain.len() == extension.len()
        && (1..=8).contains(&base.len())
        && extension.len() <= 3;
    let padded = |base: &[u8]| {
        let mut out = [b' '; 11];
        out.iter_mut().zip(base.iter().take(8)).for_each(|(o, b)| *o = *b);
        out[8..].iter_mut().zip(&extension_plain).for_each(|(o, b)| *o = *b);
        out
    };
    let numbered = |n: u32| {
        let tail = format!("~{n}");
        let mut base: Vec<u8> = base_plain.iter().copied().take(8 - tail.len()).collect();
        base.extend(tail.bytes());
        padded(&base)
    };
    let candidates = fits.then(|| padded(&base_plain)).into_iter().chain((1..1_000_000).map(numbered));
    candidates.into_iter().find(|c| !taken.contains(c)).unwrap_or([b'_'; 11])
}

/// The entries that carry a long name, last part first. None when the short name says it all.
fn long_name(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let shown = |part: &[u8]| String::from_utf8_lossy(part).trim_end().to_owned();
    let (base, extension) = (shown(&short[..8]), shown(&short[8..]));
    if name == base || (!extension.is_empty() && name == format!("{base}.{extension}")) {
        return Vec::new();
    }
    let checksum = short.iter().fold(0_u8, |sum, b| sum.rotate_right(1).wrapping_add(*b));
    let mut units: Vec<u16> = name.encode_utf16().collect();
    // A zero ends the name unless it fills the last entry; the rest is filled with ones.
    if !units.len().is_multiple_of(UNITS.len()) {
        units.push(0);
    }
    units.resize(units.len().next_multiple_of(UNITS.len()), 0xffff);
    let parts = units.len() / UNITS.len();
    let mut out = Vec::new();
    for (index, part) in units.chunks(UNITS.len()).enumerate().rev() {
        let mut slot = [0_u8; 32];
        // Names are far shorter than the 20 entries a long name may have.
        slot[0] = u8::try_from(index + 1).unwrap_or(0x3f) | if index + 1 == parts { 0x40 } else { 0 };
        slot[11] = LONG_NAME;
        slot[13] = checksum;
        for (place, unit) in UNITS.iter().zip(part) {
            slot[*place..*place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        out.extend(slot);
    }
    out
}

/// The boot sector with its BIOS parameter block.
fn boot_sector(sectors: u32, fat_sectors: u32, volume: Volume) -> [u8; 512] {
    let mut out = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x58, 0x90]); // BS_jmpBoot
    put(3, b"MSWIN4.1"); // BS_OEMName, the value that causes the least trouble
    put(11, &512_u16.to_le_bytes()); // BPB_BytsPerSec
    put(13, &[8]); // BPB_SecPerClus
    put(14, &32_u16.to_le_bytes()); // BPB_RsvdSecCnt
    put(16, &[2]); // BPB_NumFATs
    put(21, &[0xf8]); // BPB_Media: fixed disk
    put(24, &32_u16.to_le_bytes()); // BPB_SecPerTrk
    put(26, &64_u16.to_le_bytes()); // BPB_NumHeads
    put(32, &sectors.to_le_bytes()); // BPB_TotSec32
    put(36, &fat_sectors.to_le_bytes()); // BPB_FATSz32
    put(44, &ROOT.to_le_bytes()); // BPB_RootClus
    put(48, &1_u16.to_le_bytes()); // BPB_FSInfo
    put(50, &6_u16.to_le_bytes()); // BPB_BkBootSec
    put(64, &[0x80, 0, 0x29]); // BS_DrvNum, BS_Reserved1, BS_BootSig
    put(67, &volume.id.to_le_bytes()); // BS_VolID
    put(71, &volume.label); // BS_VolLab
    put(82, b"FAT32   "); // BS_FilSysType
    put(510, &[0x55, 0xaa]);
    out
}

/// The FSInfo sector: how many clusters are free and where to look for them.
fn info_sector(free: u32, next: u32) -> [u8; 512] {
    let mut out = [0_u8; 512];
    let fields = [(0, 0x4161_5252_u32), (484, 0x6141_7272), (488, free), (492, next), (508, 0xaa55_0000)];
    for (at, value) in fields {
        out[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use rstest::rstest;
    use std::fs::File;
    use std::io::Read;

    const BYTES: u64 = 300 << 20;

    fn volume(path: &std::path::Path, files: &[(String, Vec<u8>)]) -> io::Result<()> {
        let mut file = File::create(path).unwrap();
        file.set_len(BYTES).unwrap();
        write(&mut file, 0, Volume { bytes: BYTES, id: 0x1234_abcd, label: *b"EFI-SYSTEM " }, files)
    }

    fn samples() -> Vec<(String, Vec<u8>)> {
        let mut files = vec![
            ("EFI/rocky/shimx64.efi".to_owned(), vec![1; 9000]),
            ("EFI/rocky/shim_certificate.efi.bak".to_owned(), vec![2; 4096]),
            ("EFI/rocky/shim_certificate.efi".to_owned(), vec![3; 4097]),
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), vec![]),
            ("EFI/BOOT/an exactly 26 unit name.efi"[..35].to_owned(), vec![4]),
        ];
        // More than one cluster of entries in one directory.
        files.extend(
            (0..80).map(|i| (format!("EFI/Linux/a-long-name-number-{i}.efi"), vec![i; usize::from(i)])),
        );
        files
    }

    #[test]
    fn fsck_finds_nothing_and_two_other_readers_read_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fat");
        let files = samples();
        volume(&path, &files).unwrap();
        let image = path.to_str().unwrap();
        let said = latchkey_supervise::run("fsck.vfat", &["-n", "-v", image]).unwrap().text();
        assert!(!said.contains("Moving") && !said.contains("wrong"), "{said}");
        let fs = fatfs::FileSystem::new(
            File::options().read(true).write(true).open(&path).unwrap(),
            fatfs::FsOptions::new(),
        )
        .unwrap();
        for (name, contents) in &files {
            let mut read = Vec::new();
            fs.root_dir().open_file(name).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(&read, contents, "{name}");
            if !contents.is_empty() {
                let by_mtools =
                    latchkey_supervise::run("mtype", &["-i", image, &format!("::{name}")]).unwrap();
                assert_eq!(&by_mtools.stdout, contents, "{name}");
            }
        }
        assert_eq!(fs.volume_label(), "EFI-SYSTEM");
    }

    #[test]
    fn the_same_contents_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        volume(&a, &samples()).unwrap();
        volume(&b, &samples()).unwrap();
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());
    }

    #[rstest]
    #[case("BOOTX64.EFI", &[], b"BOOTX64 EFI", 0)]
    #[case("fbx64.efi", &[], b"FBX64   EFI", 1)]
    #[case("rocky", &[], b"ROCKY      ", 1)]
    #[case("EFI", &[], b"EFI        ", 0)]
    #[case("shim_certificate.efi.bak", &[], b"SHIM_C~1BAK", 2)]
    #[case("shim_certificate.efi.bak", &[*b"SHIM_C~1BAK"], b"SHIM_C~2BAK", 2)]
    fn names_short_and_long(
        #[case] name: &str,
        #[case] taken: &[[u8; 11]],
        #[case] short: &[u8; 11],
        #[case] parts: usize,
    ) {
        let made = short_name(name, taken);
        assert_eq!(&made, short);
        assert_eq!(long_name(name, &made).len(), 32 * parts);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let big = [("a".to_owned(), vec![0; 310 << 20])];
        assert!(volume(&dir.path().join("f"), &big).is_err());
        assert!(fat_sectors(1000).is_none());
    }
}
