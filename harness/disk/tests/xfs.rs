//! A `/boot` on XFS, as RHEL-family installations have it, made by xfsprogs.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use latchkey_disk::Kernels;
use latchkey_disk::esp::EntryKind;
use latchkey_disk::kernels::Log;
use proptest::prelude::*;
use tempfile::TempDir;

const UUID: &str = "0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2";
/// The smallest that mkfs.xfs makes.
const SIZE: u64 = 300 << 20;
/// More than a directory's block holds.
const SNIPPETS: usize = 300;

/// A partition, and what lies in its `/vmlinuz`.
struct Made {
    dir: TempDir,
    kernel: Vec<u8>,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            fs::write(dir.path().join(name), bytes).unwrap();
            dir.path().join(name).display().to_string()
        };
        let kernel: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
        let (image, menu) = (put("vmlinuz", &kernel), put("grub.cfg", b"set timeout=0\n"));
        // The names of xfsprogs' own format, mkfs.xfs(8) under `-p`.
        let mut tree = format!("/\n0 0\nd--755 0 0\nvmlinuz ---644 0 0 {image}\n");
        tree += &format!("grub2 d--755 0 0\ngrub.cfg ---644 0 0 {menu}\nup l--777 0 0 ../vmlinuz\n$\n");
        tree += "menu l--777 0 0 /grub2/grub.cfg\nround l--777 0 0 round\nnowhere l--777 0 0 grub2/none\n";
        writeln!(tree, "far l--777 0 0 {}grub2/grub.cfg", "./".repeat(400)).unwrap();
        writeln!(tree, "away l--777 0 0 grub2\nentries d--755 0 0").unwrap();
        for number in 0..SNIPPETS {
            writeln!(tree, "a-name-as-snippets-have-it-{number}.conf ---644 0 0 {menu}").unwrap();
        }
        tree += "$\n$\n";
        let (tree, disk) = (put("tree", tree.as_bytes()), dir.path().join("disk"));
        File::create(&disk).unwrap().set_len(SIZE).unwrap();
        let uuid = format!("uuid={UUID}");
        latchkey_supervise::run(
            "mkfs.xfs",
            &["-q", "-m", &uuid, "-L", "boot", "-p", &tree, disk.to_str().unwrap()],
        )
        .unwrap();
        Self { dir, kernel }
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }
}

fn open(disk: &Path) -> Kernels {
    Kernels::open(disk, 2, Log::AsItLies).unwrap().expect("it is an XFS")
}

#[test]
fn what_mkfs_wrote_is_read() {
    let made = Made::new();
    let kernels = open(&made.disk());
    assert_eq!((kernels.uuid().as_str(), kernels.label().as_str(), kernels.number()), (UUID, "boot", 2));
    for path in ["/vmlinuz", "vmlinuz", "/grub2/up", "/away/up", "/grub2/../vmlinuz", "//grub2/.././vmlinuz"]
    {
        assert!(kernels.read(path).unwrap().as_deref() == Some(&made.kernel[..]), "{path}");
    }
    for path in ["/menu", "/far", "/away/grub.cfg", "/grub2/grub.cfg"] {
        assert_eq!(kernels.read(path).unwrap().as_deref(), Some(&b"set timeout=0\n"[..]), "{path}");
    }
    for path in ["/none", "/grub2", "/", "/round", "/nowhere", "/vmlinuz/x", "/grub2/none/x"] {
        assert_eq!(kernels.read(path).unwrap(), None, "{path}");
    }
    for path in ["/none", "/vmlinuz", "/nowhere", "/round", "/menu"] {
        assert_eq!(kernels.list(path).unwrap(), None, "{path}");
    }
    let top = kernels.list("/").unwrap().unwrap();
    let mut named: Vec<(&str, EntryKind)> = top.iter().map(|e| (e.name.as_str(), e.kind)).collect();
    named.sort_unstable_by_key(|(name, _)| *name);
    let file = |size| EntryKind::File { size };
    let expected = [
        ("away", file(5)),
        ("entries", EntryKind::Directory),
        ("far", file(814)),
        ("grub2", EntryKind::Directory),
        ("menu", file(15)),
        ("nowhere", file(10)),
        ("round", file(5)),
        ("vmlinuz", file(12_000_000)),
    ];
    assert_eq!(named, expected);
    assert_eq!(kernels.list("/entries").unwrap().unwrap().len(), SNIPPETS);
    assert_eq!(kernels.list("/away").unwrap(), kernels.list("/grub2").unwrap());
}

/// Where the log lies, in bytes, as xfsprogs has it.
fn log(disk: &Path) -> (u64, u64) {
    let ask = "p logstart logblocks agblocks agblklog blocksize";
    let said = latchkey_supervise::run("xfs_db", &["-r", "-c", "sb 0", "-c", ask, disk.to_str().unwrap()]);
    let text = said.unwrap().text();
    let value = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        line.unwrap().trim().parse().unwrap()
    };
    let (start, bits) = (value("logstart"), value("agblklog"));
    let block = (start >> bits) * value("agblocks") + (start & ((1 << bits) - 1));
    (block * value("blocksize"), value("logblocks") * value("blocksize"))
}

#[test]
fn a_log_counts_where_it_is_replayed_and_nowhere_else() {
    let made = Made::new();
    let (start, length) = log(&made.disk());
    let disk = OpenOptions::new().write(true).open(made.disk()).unwrap();
    // No record that anybody wrote, wherever in it one looks.
    disk.write_all_at(&vec![0xa5; usize::try_from(length).unwrap()], start).unwrap();
    let read = |log| Kernels::open(&made.disk(), 2, log);
    assert_eq!(
        read(Log::AsItLies).unwrap().unwrap().read("/menu").unwrap().as_deref(),
        Some(&b"set timeout=0\n"[..])
    );
    let error = read(Log::Replayed).unwrap_err().to_string();
    assert!(error.contains("dirty_log"), "{error}");
}

#[test]
fn nothing_is_written_to_it() {
    let made = Made::new();
    let mut kernels = open(&made.disk());
    for refused in [kernels.write("/grub2/grub.cfg", b"x"), kernels.remove("/vmlinuz")] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("let the guest or another VM do it"), "{error}");
    }
    assert_eq!(kernels.read("/menu").unwrap().as_deref(), Some(&b"set timeout=0\n"[..]));
}

/// Everything that can be reached.
fn walk(kernels: &Kernels) {
    let mut open = vec![(String::new(), 0)];
    while let Some((dir, depth)) = open.pop() {
        for entry in kernels.list(&format!("{dir}/")).ok().flatten().unwrap_or_default() {
            let path = format!("{dir}/{}", entry.name);
            match entry.kind {
                EntryKind::Directory if depth < 3 => open.push((path, depth + 1)),
                _ => drop(kernels.read(&path)),
            }
        }
    }
}

/// What is damaged is an error or reads as something else, and nothing worse: wherever the bytes are that are not zero.
#[test]
fn damage_is_no_panic() {
    let made = Made::new();
    let whole = fs::read(made.disk()).unwrap();
    let kernel =
        whole.windows(16).position(|bytes| *bytes == made.kernel[..16]).expect("the kernel lies there");
    let told: Vec<u64> = (0..whole.len())
        .filter(|at| whole[*at] != 0 && !(kernel..kernel + made.kernel.len()).contains(at))
        .map(|at| at as u64)
        .collect();
    let disk = OpenOptions::new().write(true).open(made.disk()).unwrap();
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    proptest!(ProptestConfig::with_cases(200), |(damage in damage)| {
        let at: Vec<(u64, u8)> = damage.iter().map(|(index, byte)| (*index.get(&told), *byte)).collect();
        for (at, byte) in &at {
            disk.write_all_at(&[*byte], *at).unwrap();
        }
        if let Ok(Some(kernels)) = Kernels::open(&made.disk(), 2, Log::Replayed) {
            walk(&kernels);
        }
        for (at, _) in &at {
            disk.write_all_at(&whole[usize::try_from(*at).unwrap()..][..1], *at).unwrap();
        }
    });
    walk(&open(&made.disk()));
}
