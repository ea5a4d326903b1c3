//! An XFS with kernels, read by the crate lamxfs.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lamxfs::{BlockRead, Inode, Path};

use super::{Error, Log, MOST_ENTRIES, readable, too_many};
use crate::esp::{Entry, EntryKind};
use crate::view::View;

/// What the superblock begins with (Linux, `fs/xfs/libxfs/xfs_format.h`, `XFS_SB_MAGIC`).
pub(super) const MAGIC: (u64, &[u8]) = (0, b"XFSB");

/// Where the features stand that who does not know them cannot read (the same file, `struct xfs_dsb`:
/// `sb_features_incompat`, big-endian; zeros before version 5).
const FEATURES: u64 = 216;

/// As many links as Linux follows for one path (`MAXSYMLINKS` in its `include/linux/namei.h`), and the longest that an XFS
/// has, in bytes (`XFS_SYMLINK_MAXLEN` in `fs/xfs/libxfs/xfs_format.h`).
const LINKS: usize = 40;
const LINK: u64 = 1024;
/// So many bytes are read for one path or a listing, and for a file those of its blocks besides: what is damaged on purpose
/// has the driver read the same for ever.
const ALLOWANCE: u64 = 64 << 20;
/// Most bytes that are read of a log, twice the largest that there is (`XFS_MAX_LOG_BYTES` in `fs/xfs/libxfs/xfs_fs.h`).
const LOG: u64 = 4 << 30;

/// Reads without moving a position.
struct At {
    device: View,
    /// Bytes of the file that read as zeros.
    blank: Range<u64>,
    /// How many bytes may still be read.
    left: Arc<AtomicU64>,
}

impl BlockRead for At {
    type Error = io::Error;

    fn read_at(&mut self, offset_bytes: u64, buf: &mut [u8]) -> Result<(), io::Error> {
        let left = self.left.load(Relaxed).checked_sub(buf.len() as u64);
        self.left.store(left.ok_or_else(|| io::Error::other("it leads in circles"))?, Relaxed);
        self.device.read_exact_at(buf, offset_bytes)?;
        let within =
            |at: u64| usize::try_from(at.saturating_sub(offset_bytes)).unwrap_or(usize::MAX).min(buf.len());
        let (begin, end) = (within(self.blank.start), within(self.blank.end));
        buf[begin..end].fill(0);
        Ok(())
    }
}

/// Where the log lies, in bytes; nowhere, where the superblock says nothing possible (Linux, `fs/xfs/libxfs/xfs_format.h`,
/// `struct xfs_dsb`: `sb_blocksize`, `sb_logstart`, `sb_agblocks`, `sb_logblocks` and `sb_agblklog`, big-endian).
fn log(device: &View) -> io::Result<Range<u64>> {
    let mut head = [0; 125];
    device.read_exact_at(&mut head, 0)?;
    let word =
        |at: usize| u64::from(u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    let (block, start, group, blocks) = (word(4), word(48) << 32 | word(52), word(84), word(96));
    let within =
        |bits: u32| Some((start.checked_shr(bits)?, start & 1u64.checked_shl(bits)?.wrapping_sub(1)));
    let range = || {
        let (number, rest) = within(u32::from(head[124]))?;
        let begin = number.checked_mul(group)?.checked_add(rest)?.checked_mul(block)?;
        Some(begin..begin.checked_add(blocks.checked_mul(block)?)?)
    };
    Ok(range().unwrap_or_default())
}

pub(super) struct Xfs {
    /// The driver reads with `&mut self`.
    fs: Mutex<lamxfs::Xfs<At>>,
    /// Size of the partition in bytes; no file of it is larger.
    length: u64,
    features: u32,
    /// How many bytes may still be read for what is asked.
    left: Arc<AtomicU64>,
}

impl fmt::Debug for Xfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xfs").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Xfs {
    /// Reads the file system on `device`. A log without a record counts as empty, so that one which is not looked at
    /// reads as zeros.
    pub(super) fn load(device: View, replayed: Log) -> Result<Self, Error> {
        let failed = |e: io::Error| Error(e.to_string());
        let length = device.length();
        let blank = match replayed {
            Log::Replayed => 0..0,
            Log::AsItLies => log(&device).map_err(failed)?,
        };
        let mut features = [0; 4];
        device.read_exact_at(&mut features, FEATURES).map_err(failed)?;
        let features = u32::from_be_bytes(features);
        let left = Arc::new(AtomicU64::new(length.min(LOG) + ALLOWANCE));
        let device = At { device, blank, left: Arc::clone(&left) };
        let fs = lamxfs::Xfs::open(device, length).map_err(|e| broken(&e))?;
        Ok(Self { fs: Mutex::new(fs), length, features, left })
    }

    /// See [`super::Kernels::xfs_features`].
    pub(super) fn features(&self) -> u32 {
        self.features
    }

    pub(super) fn uuid(&self) -> String {
        uuid::Uuid::from_bytes(self.fs().uuid()).to_string()
    }

    pub(super) fn label(&self) -> String {
        self.fs().label().unwrap_or_default().to_owned()
    }

    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut fs = self.fs();
        let Some(real) = follow(&mut fs, path.as_bytes())? else { return Ok(None) };
        let Some(inode) = found(fs.resolve(Path::new(&real)))? else { return Ok(None) };
        let about = fs.metadata(&inode).map_err(|e| broken(&e))?;
        match about.is_file() {
            true => {
                let mut bytes = vec![0; readable(path, about.size(), self.length)?];
                // The driver may read a block more than once, as it may begin and end within one.
                self.left.store(2 * about.size() + ALLOWANCE, Relaxed);
                let count = fs.read_file_at(&inode, 0, &mut bytes).map_err(|e| broken(&e))?;
                bytes.truncate(count);
                Ok(Some(bytes))
            }
            false => Ok(None),
        }
    }

    pub(super) fn kind(&self, path: &str) -> Result<Option<EntryKind>, Error> {
        let mut fs = self.fs();
        let Some(real) = follow(&mut fs, path.as_bytes())? else { return Ok(None) };
        let Some(inode) = found(fs.resolve(Path::new(&real)))? else { return Ok(None) };
        let about = fs.metadata(&inode).map_err(|e| broken(&e))?;
        Ok(match (about.is_dir(), about.is_file()) {
            (true, _) => Some(EntryKind::Directory),
            (_, true) => Some(EntryKind::File { size: about.size() }),
            _ => None,
        })
    }

    pub(super) fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, Error> {
        let mut fs = self.fs();
        let Some(real) = follow(&mut fs, path.as_bytes())? else { return Ok(None) };
        let Some(inode) = found(fs.resolve(Path::new(&real)))? else { return Ok(None) };
        if !fs.metadata(&inode).map_err(|e| broken(&e))?.is_dir() {
            return Ok(None);
        }
        let mut entries = Vec::new();
        let listed = fs.read_dir(Path::new(&real)).map_err(|e| broken(&e))?;
        if listed.len() > MOST_ENTRIES {
            return Err(too_many(path));
        }
        for entry in listed {
            let about = fs.metadata(&Inode { ino: entry.inode_number }).map_err(|e| broken(&e))?;
            let kind = match about.is_dir() {
                true => EntryKind::Directory,
                false => EntryKind::File { size: about.size() },
            };
            entries.push(Entry { name: String::from_utf8_lossy(&entry.name).into_owned(), kind });
        }
        Ok(Some(entries))
    }

    fn fs(&self) -> MutexGuard<'_, lamxfs::Xfs<At>> {
        let fs = self.fs.lock().unwrap_or_else(PoisonError::into_inner);
        // Not before: whoever reads just now has what is left to himself.
        self.left.store(ALLOWANCE, Relaxed);
        fs
    }
}

/// Where `path` leads when each link on its way is followed, the last as well; `None` when it leads nowhere.
fn follow(fs: &mut lamxfs::Xfs<At>, path: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let parts = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<VecDeque<_>>();
    let mut ahead = parts(path);
    // Of each directory on the way, where in the path it ends.
    let (mut real, mut ends, mut links) = (Vec::new(), Vec::new(), 0);
    while let Some(part) = ahead.pop_front() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                real.truncate(ends.pop().unwrap_or_default());
                continue;
            }
            _ => {}
        }
        ends.push(real.len());
        real.push(b'/');
        real.extend_from_slice(&part);
        let Some(inode) = found(fs.resolve(Path::new(&real)))? else { return Ok(None) };
        let about = fs.metadata(&inode).map_err(|e| broken(&e))?;
        if !about.is_symlink() {
            continue;
        }
        links += 1;
        if links > LINKS || about.size() > LINK {
            return Ok(None);
        }
        let target = fs.read_link(Path::new(&real)).map_err(|e| broken(&e))?;
        real.truncate(ends.pop().unwrap_or_default());
        if target.starts_with(b"/") {
            (real, ends) = (Vec::new(), Vec::new());
        }
        let mut target = parts(&target);
        target.append(&mut ahead);
        ahead = target;
    }
    Ok(Some(real))
}

/// What is not there is no error.
fn found<T>(result: Result<T, lamxfs::Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(lamxfs::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(broken(&error)),
    }
}

fn broken(error: &lamxfs::Error) -> Error {
    Error(format!("its XFS cannot be read ({}); xfs_repair -n tells more", error.token()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::fs::{self, File};
    use std::io::Write;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    /// What is damaged would be read for ever where others go on asking.
    #[test]
    fn who_waits_for_a_reader_lets_him_read_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        File::create(&disk).unwrap().set_len(300 << 20).unwrap();
        latchkey_supervise::run("mkfs.xfs", &["-q", disk.to_str().unwrap()]).unwrap();
        let xfs = Xfs::load(View::new(File::open(&disk).unwrap()).unwrap(), Log::AsItLies).unwrap();
        let reader = xfs.fs();
        xfs.left.store(7, Relaxed);
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let xfs = &xfs;
            scope.spawn(move || {
                tell.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
                xfs.uuid()
            });
            // It sleeps once it waits, and its state follows its name (proc(5)).
            let stat = std::path::Path::new("/proc").join(told.recv().unwrap()).join("stat");
            let until = Instant::now() + Duration::from_secs(20);
            while !fs::read_to_string(&stat).unwrap().contains(") S ") {
                assert!(Instant::now() < until, "nobody waits");
                std::thread::yield_now();
            }
            let left = xfs.left.load(Relaxed);
            drop(reader);
            assert_eq!(left, 7);
        });
        assert_eq!(xfs.left.load(Relaxed), ALLOWANCE);
    }

    #[test]
    fn a_log_reads_as_zeros_and_reading_comes_to_an_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 16]).unwrap();
        let device = View::new(file).unwrap();
        let mut device = At { device, blank: 6..9, left: Arc::new(AtomicU64::new(20)) };
        let mut read = |at, count: usize| {
            let mut bytes = vec![1; count];
            device.read_at(at, &mut bytes).map(|()| bytes)
        };
        assert_eq!(read(4, 8).unwrap(), [7, 7, 0, 0, 0, 7, 7, 7]);
        assert_eq!(read(7, 1).unwrap(), [0]);
        assert_eq!(read(9, 4).unwrap(), [7; 4]);
        assert_eq!(read(0, 7).unwrap(), [7, 7, 7, 7, 7, 7, 0]);
        assert!(read(0, 1).unwrap_err().to_string().contains("circles"), "twenty bytes were read");
    }
}
