//! One file of a squashfs in memory, found by its path. Nothing else of it is read, so that whoever made it decides neither
//! how deep this goes nor how much memory it takes.
//!
//! Source: Linux, `fs/squashfs/squashfs_fs.h` (structures, little-endian; a block of data may be packed or not, and so may one
//! of metadata), `Documentation/filesystems/squashfs.rst`.

use std::io::{self, ErrorKind, Read};

use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;

/// How it begins (`SQUASHFS_MAGIC`).
pub(super) const MAGIC: &[u8] = b"hsqs";
/// Most bytes of a file that is read from the memory disk; GRUB's fonts and configurations have a few millions.
const MOST: usize = 16 << 20;
/// Most bytes that a directory's entries take: as many as a small inode can say.
const MOST_LISTED: usize = 64 << 10;
/// How deep a file may lie. Directories that contain themselves have no bottom.
const DEEPEST: usize = 16;
/// What a block of metadata unpacks to at most (`SQUASHFS_METADATA_SIZE`), and the sizes that one of data may have.
const METADATA: usize = 8192;
const BLOCKS: std::ops::RangeInclusive<usize> = 4096..=1 << 20;
/// Most memory for unpacking: `mksquashfs` has dictionaries as large as a block.
const MEMORY: u64 = 64 << 20;

/// `XZ_COMPRESSION`, as distributions pack the disks of their GRUB.
const XZ: u16 = 4;
/// Kinds of inodes: a directory and a file, each with a larger form of more fields.
const DIRECTORY: u16 = 1;
const FILE: u16 = 2;
const LARGE_DIRECTORY: u16 = 8;
const LARGE_FILE: u16 = 9;
/// What says that a file has no fragment: a part of a block that it shares with others (`SQUASHFS_INVALID_FRAG`).
const NO_FRAGMENT: u32 = u32::MAX;
/// Bytes of a fragment's entry, and how many of them a block has.
const FRAGMENT: usize = 16;
const FRAGMENTS: usize = METADATA / FRAGMENT;

/// The superblock, as far as it matters.
struct Squashfs<'a> {
    disk: &'a [u8],
    block: usize,
    packed_with: u16,
    fragments: u64,
    inodes: u64,
    directories: u64,
}

/// Where an inode or a directory's entries lie in their table: the block's place, and the byte in it.
type Place = (u64, usize);

/// The file at `path` of the file system that `disk` is; `None` when it has none.
pub(super) fn file(disk: &[u8], path: &str) -> io::Result<Option<Vec<u8>>> {
    let fs = Squashfs {
        disk,
        block: four(disk, 12)? as usize,
        packed_with: two(disk, 20)?,
        inodes: eight(disk, 64)?,
        directories: eight(disk, 72)?,
        fragments: eight(disk, 80)?,
    };
    if !disk.starts_with(MAGIC) || two(disk, 28)? != 4 || !BLOCKS.contains(&fs.block) {
        return Err(damaged());
    }
    let root = eight(disk, 32)?;
    let mut place = (root >> 16, usize::from(two(disk, 32)?));
    for (depth, name) in path.split('/').filter(|name| !name.is_empty()).enumerate() {
        if depth >= DEEPEST {
            return Err(damaged());
        }
        let Some((entries, size)) = fs.directory(place)? else { return Ok(None) };
        match fs.look(entries, size, name.as_bytes())? {
            Some(found) => place = found,
            None => return Ok(None),
        }
    }
    fs.contents(place).map(Some)
}

impl Squashfs<'_> {
    /// The first `count` bytes of the inode at `place`.
    fn inode(&self, (block, at): Place, count: usize) -> io::Result<Vec<u8>> {
        self.metadata(self.inodes.checked_add(block).ok_or_else(damaged)?, at, count)
    }

    /// Where a directory's entries lie, and how many bytes they take; `None` when the inode is no directory's.
    fn directory(&self, place: Place) -> io::Result<Option<(Place, usize)>> {
        let (block, at, size) = match two(&self.inode(place, 2)?, 0)? {
            DIRECTORY => {
                let inode = self.inode(place, 32)?;
                (four(&inode, 16)?, two(&inode, 26)?, usize::from(two(&inode, 24)?))
            }
            LARGE_DIRECTORY => {
                let inode = self.inode(place, 40)?;
                (four(&inode, 24)?, two(&inode, 34)?, four(&inode, 20)? as usize)
            }
            _ => return Ok(None),
        };
        // Three bytes are for `.` and `..`, which have no entries.
        Ok(Some(((block.into(), at.into()), size.saturating_sub(3))))
    }

    /// Where the inode is that a directory's entries have under `name`.
    fn look(&self, (block, at): Place, size: usize, name: &[u8]) -> io::Result<Option<Place>> {
        if size > MOST_LISTED {
            return Err(damaged());
        }
        let entries = self.metadata(self.directories.checked_add(block).ok_or_else(damaged)?, at, size)?;
        let mut at = 0;
        while at < entries.len() {
            let (others, inodes) = (four(&entries, at)?, four(&entries, at + 4)?);
            at += 12;
            for _ in 0..=others {
                let length = usize::from(two(&entries, at + 6)?) + 1;
                if part(&entries, at + 8, length)? == name {
                    return Ok(Some((inodes.into(), two(&entries, at)?.into())));
                }
                at += 8 + length;
            }
        }
        Ok(None)
    }

    /// What the file has whose inode lies at `place`.
    fn contents(&self, place: Place) -> io::Result<Vec<u8>> {
        let kind = two(&self.inode(place, 2)?, 0)?;
        let length = match kind {
            FILE => 32,
            LARGE_FILE => 56,
            _ => return Err(ErrorKind::IsADirectory.into()),
        };
        let inode = self.inode(place, length)?;
        let (start, size, fragment, within) = match kind {
            FILE => {
                (four(&inode, 16)?.into(), four(&inode, 28)?.into(), four(&inode, 20)?, four(&inode, 24)?)
            }
            _ => (eight(&inode, 16)?, eight(&inode, 24)?, four(&inode, 44)?, four(&inode, 48)?),
        };
        let (mut at, size) = (to_usize(start)?, to_usize(size)?);
        if size > MOST {
            return Err(damaged());
        }
        let blocks = if fragment == NO_FRAGMENT { size.div_ceil(self.block) } else { size / self.block };
        let inode = self.inode(place, length + 4 * blocks)?;
        let mut bytes = Vec::with_capacity(size);
        for number in 0..blocks {
            let word = four(&inode, length + 4 * number)?;
            let wanted = self.block.min(size - bytes.len());
            match self.data(at, word)? {
                // One of zeros takes no room.
                (_, 0) => bytes.resize(bytes.len() + wanted, 0),
                (block, taken) => {
                    bytes.extend_from_slice(part(&block, 0, wanted)?);
                    at += taken;
                }
            }
        }
        if fragment != NO_FRAGMENT {
            let (table, entry) = (fragment as usize / FRAGMENTS, fragment as usize % FRAGMENTS);
            let table = to_usize(self.fragments)?.checked_add(8 * table).ok_or_else(damaged)?;
            let entry = self.metadata(eight(self.disk, table)?, entry * FRAGMENT, FRAGMENT)?;
            let (shared, _) = self.data(to_usize(eight(&entry, 0)?)?, four(&entry, 8)?)?;
            bytes.extend_from_slice(part(&shared, within as usize, size - bytes.len())?);
        }
        Ok(bytes)
    }

    /// A block of data at `at`, and how many bytes it takes there by this word of its size.
    fn data(&self, at: usize, word: u32) -> io::Result<(Vec<u8>, usize)> {
        /// `SQUASHFS_COMPRESSED_BIT_BLOCK`: it lies there as it is.
        const AS_IT_IS: u32 = 1 << 24;
        let taken = (word & (AS_IT_IS - 1)) as usize;
        let block = part(self.disk, at, taken)?;
        let block =
            if taken == 0 { Vec::new() } else { self.unpacked(block, word & AS_IT_IS == 0, self.block)? };
        Ok((block, taken))
    }

    /// `count` bytes of metadata from the byte `at` of the block on that lies at `place`.
    fn metadata(&self, place: u64, at: usize, count: usize) -> io::Result<Vec<u8>> {
        /// `SQUASHFS_COMPRESSED_BIT`: it lies there as it is.
        const AS_IT_IS: usize = 1 << 15;
        let mut next = to_usize(place)?;
        let mut bytes = Vec::new();
        while bytes.len() < at + count {
            let word = usize::from(two(self.disk, next)?);
            let taken = word & (AS_IT_IS - 1);
            let block = self.unpacked(part(self.disk, next + 2, taken)?, word & AS_IT_IS == 0, METADATA)?;
            if block.is_empty() {
                return Err(damaged());
            }
            bytes.extend(block);
            next += 2 + taken;
        }
        part(&bytes, at, count).map(<[u8]>::to_vec)
    }

    /// What `block` unpacks to: no more than `most` bytes.
    fn unpacked(&self, block: &[u8], packed: bool, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match packed {
            true if self.packed_with != XZ => return Err(ErrorKind::Unsupported.into()),
            true => {
                let stream = Stream::new_stream_decoder(MEMORY, 0)?;
                XzDecoder::new_stream(block, stream).take(most as u64 + 1).read_to_end(&mut bytes)?;
            }
            false => bytes.extend_from_slice(block),
        }
        if bytes.len() > most { Err(damaged()) } else { Ok(bytes) }
    }
}

fn damaged() -> io::Error {
    ErrorKind::InvalidData.into()
}

fn to_usize(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(|_| damaged())
}

/// `count` bytes from `at` on, where there are as many.
fn part(bytes: &[u8], at: usize, count: usize) -> io::Result<&[u8]> {
    at.checked_add(count).and_then(|end| bytes.get(at..end)).ok_or_else(damaged)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    part(bytes, at, N)?.try_into().map_err(|_| damaged())
}

fn two(bytes: &[u8], at: usize) -> io::Result<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn four(bytes: &[u8], at: usize) -> io::Result<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn eight(bytes: &[u8], at: usize) -> io::Result<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::io::Write;

    use super::*;

    /// A block of metadata that lies there as it is.
    fn whole(bytes: &[u8]) -> Vec<u8> {
        let head = 0x8000 | u16::try_from(bytes.len()).unwrap();
        [&head.to_le_bytes()[..], bytes].concat()
    }

    /// A disk of three directories, the root first: of each, the bytes that its inode and its entries are.
    fn disk(inodes: &[u8], directories: &[u8]) -> Vec<u8> {
        let directories_at = 96 + inodes.len() as u64;
        let end = directories_at + directories.len() as u64;
        let mut disk = MAGIC.to_vec();
        disk.extend([3, 0, 0x2_0000, 0].map(u32::to_le_bytes).concat());
        disk.extend([XZ, 17, 0, 1, 4, 0].map(u16::to_le_bytes).concat());
        let (none, inodes_at) = (u64::MAX, 96);
        disk.extend(
            [0, end, end, none, inodes_at, directories_at, none, none].map(u64::to_le_bytes).concat(),
        );
        [&disk[..], inodes, directories].concat()
    }

    /// Inodes of directories with entries of so many bytes, one after the other.
    fn inodes(sizes: &[usize]) -> Vec<u8> {
        let mut at = 0;
        let inodes = (1u32..).zip(sizes).flat_map(|(number, size)| {
            let mut inode = [1, 0o755, 0, 0, 0, 0].map(u16::to_le_bytes).concat();
            inode.extend([number, 0, 2].map(u32::to_le_bytes).concat());
            inode.extend([u16::try_from(size + 3).unwrap(), at].map(u16::to_le_bytes).concat());
            at += u16::try_from(*size).unwrap();
            [inode, 1u32.to_le_bytes().to_vec()].concat()
        });
        whole(&inodes.collect::<Vec<u8>>())
    }

    /// A directory's one entry: the inode at this byte of the first block.
    fn entry(name: &[u8], inode: u16) -> Vec<u8> {
        let mut entry = [0, 0, 1].map(u32::to_le_bytes).concat();
        entry.extend([inode, 1, 1, u16::try_from(name.len() - 1).unwrap()].map(u16::to_le_bytes).concat());
        [&entry, name].concat()
    }

    #[test]
    fn directories_that_contain_one_another_have_no_bottom() {
        let entries = [entry(b"A", 32), entry(b"B", 64), entry(b"A", 32)];
        let inodes = inodes(&entries.each_ref().map(Vec::len));
        let disk = disk(&inodes, &whole(&entries.concat()));
        assert_eq!(file(&disk, "/fonts/unicode.pf2").unwrap(), None);
        assert_eq!(file(&disk, "/A/B/A/none").unwrap(), None);
        assert_eq!(file(&disk, "/A/B/A").unwrap_err().kind(), ErrorKind::IsADirectory);
        assert!(file(&disk, &"/A/B".repeat(100)).is_err());
    }

    #[test]
    fn metadata_that_unpack_to_more_than_there_can_be_are_not_unpacked() {
        let mut packed = liblzma::write::XzEncoder::new(Vec::new(), 6);
        packed.write_all(&vec![0; 1 << 20]).unwrap();
        let packed = packed.finish().unwrap();
        let head = u16::try_from(packed.len()).unwrap();
        let disk = disk(&inodes(&[13]), &[&head.to_le_bytes()[..], &packed].concat());
        assert!(file(&disk, "/A").is_err());
    }
}
