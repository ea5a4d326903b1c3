//! A file read and written in large blocks.
//!
//! A FAT driver reads and writes a few bytes at a time, and each of these would be a call to the process that
//! shows the disk. Nothing is written until [`Cached::write_back`].

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::view::{View, sought};

/// Bytes of a block.
const BLOCK: u64 = 64 << 10;
/// Unchanged blocks that are kept.
const KEPT: usize = 64;

/// Most bytes of a file that count for how often it may be read: a sparse one may be as large as it pleases.
const COUNTED: u64 = 1 << 30;

/// Bytes of a directory entry.
const ENTRY: usize = 32;
/// First byte of a directory entry that is not in use.
const UNUSED: u8 = 0xe5;
/// Smallest size of a sector; a directory starts at the start of one.
const SECTOR: usize = 512;

/// A cached file of fixed size.
pub(super) struct Cached {
    view: View,
    position: u64,
    /// Unchanged blocks, most recently used first.
    clean: VecDeque<(u64, Vec<u8>)>,
    /// Changed blocks. They stay here until the end, so that an edit that fails half-way changes nothing.
    dirty: BTreeMap<u64, Vec<u8>>,
    /// Reads and writes that are still allowed: a damaged file system can run in circles for ever.
    allowance: u64,
}

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cached").field("view", &self.view).finish_non_exhaustive()
    }
}

/// What a block is wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

impl Cached {
    pub(super) fn new(view: View) -> Self {
        let (clean, dirty) = (VecDeque::new(), BTreeMap::new());
        let mut cached = Self { view, position: 0, clean, dirty, allowance: 0 };
        cached.begin();
        cached
    }

    /// Goes back to the start and to what the file holds; what was read of it stays known.
    pub(super) fn begin(&mut self) {
        self.position = 0;
        self.dirty.clear();
        // Enough to read everything many times over in pieces of the size of a directory entry.
        self.allowance = (1 << 20) + self.length().min(COUNTED) / 8;
    }

    pub(super) fn length(&self) -> u64 {
        self.view.length()
    }

    /// The bytes from the current position to the end of its block, at most `wanted`; none at the end.
    fn window(&mut self, wanted: usize, to: Use) -> io::Result<&mut [u8]> {
        self.allowance = self
            .allowance
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("the file system runs in circles"))?;
        if self.position >= self.length() || wanted == 0 {
            return Ok(&mut []);
        }
        let (index, offset) = (self.position / BLOCK, to_usize(self.position % BLOCK));
        let block = self.block(index, to)?;
        let end = block.len().min(offset + wanted);
        Ok(&mut block[offset..end])
    }

    fn block(&mut self, index: u64, to: Use) -> io::Result<&mut Vec<u8>> {
        if !self.dirty.contains_key(&index) {
            let at = self.clean.iter().position(|(i, _)| *i == index);
            let bytes = match at.and_then(|at| self.clean.remove(at)) {
                Some((_, bytes)) => bytes,
                None => {
                    // The least used one gives its memory.
                    let spare = if self.clean.len() < KEPT { None } else { self.clean.pop_back() };
                    self.load(index, spare.map(|(_, bytes)| bytes).unwrap_or_default())?
                }
            };
            if to == Use::Write {
                self.dirty.insert(index, bytes);
            } else {
                self.clean.push_front((index, bytes));
            }
        }
        let clean = self.clean.front_mut().map(|(_, bytes)| bytes);
        self.dirty.get_mut(&index).or(clean).ok_or_else(|| io::Error::other("a block was lost"))
    }

    /// Writes every changed block to the file.
    pub(super) fn write_back(&mut self) -> io::Result<()> {
        while let Some((index, bytes)) = self.dirty.pop_first() {
            self.view.write_all_at(&bytes, index * BLOCK)?;
        }
        Ok(())
    }

    /// Gives every directory that was made since the last [`Self::write_back`] the two entries that it must
    /// begin with. The FAT driver (fatfs 0.3) writes a long name in front of `.` and of `..`, and the number of
    /// the root directory where `..` means it; the specification ("FAT32 File System Specification" 1.03,
    /// section 6.5) has short names only and the number 0, and `fsck.vfat` takes anything else for damage.
    pub(super) fn mend_new_directories(&mut self) -> io::Result<()> {
        let root = root_cluster(self.block(0, Use::Read)?);
        let ends: Vec<(u64, usize)> = self
            .dirty
            .iter()
            .flat_map(|(index, bytes)| {
                let starts = (0..bytes.len().saturating_sub(4 * ENTRY - 1)).step_by(SECTOR);
                starts.filter(|at| is_new_directory(&bytes[*at..])).map(|at| (*index, at))
            })
            .collect();
        for (index, at) in ends {
            if let Some(start) = self.dirty.get_mut(&index).and_then(|b| b.get_mut(at..at + 4 * ENTRY)) {
                start.copy_within(ENTRY..2 * ENTRY, 0);
                start.copy_within(3 * ENTRY..4 * ENTRY, ENTRY);
                let parent = &mut start[ENTRY..2 * ENTRY];
                if root == Some([parent[26], parent[27], parent[20], parent[21]]) {
                    parent[20..22].fill(0);
                    parent[26..28].fill(0);
                }
                // The other two become unused; names may follow them already.
                start[2 * ENTRY] = UNUSED;
                start[3 * ENTRY] = UNUSED;
            }
        }
        Ok(())
    }

    /// The block, read into the memory of `bytes`.
    fn load(&self, index: u64, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let start = index * BLOCK;
        bytes.resize(to_usize(BLOCK.min(self.length() - start)), 0);
        self.view.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    }
}

/// Number of the cluster where a FAT32 root directory starts (BPB_RootClus, little-endian); older kinds of FAT
/// have none.
fn root_cluster(boot: &[u8]) -> Option<[u8; 4]> {
    let small_table = boot.get(22..24)?;
    if small_table == [0, 0] { boot.get(44..48)?.try_into().ok() } else { None }
}

/// Whether a directory begins here that has just been made: long and short name of `.`, then of `..`.
fn is_new_directory(bytes: &[u8]) -> bool {
    const LONG_NAME: u8 = 0x0f;
    const DIRECTORY: u8 = 0x10;
    let entry = |n: usize| &bytes[n * ENTRY..(n + 1) * ENTRY];
    let short = |n: usize, name: &[u8; 11]| entry(n).starts_with(name) && entry(n)[11] == DIRECTORY;
    let long = |n: usize, name: &[u8]| entry(n).starts_with(name) && entry(n)[11] == LONG_NAME;
    long(0, b"\x41.\0\0\0\xff")
        && short(1, b".          ")
        && long(2, b"\x41.\0.\0\0\0\xff")
        && short(3, b"..         ")
}

/// A size below a block's.
fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

impl Read for Cached {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let window = self.window(buffer.len(), Use::Read)?;
        let count = window.len();
        buffer[..count].copy_from_slice(window);
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Cached {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let window = self.window(buffer.len(), Use::Write)?;
        let count = window.len();
        window.copy_from_slice(&buffer[..count]);
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        // The FAT driver asks for this after every file; only the whole edit counts, see `write_back`.
        Ok(())
    }
}

impl Seek for Cached {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = sought(to, self.position, self.length())?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_file_that_is_large_on_paper_is_not_read_for_ever() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(Cached::new(View::new(file).unwrap()).allowance < 1 << 28);
    }
}
