//! Which file system a partition begins with, and how large it is.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

/// What begins ext2, ext3 and ext4: 1024 bytes in, the superblock; offsets of its fields (Linux,
/// `Documentation/filesystems/ext4/super.rst`).
mod ext {
    pub(super) const SUPERBLOCK: usize = 1024;
    pub(super) const BLOCKS_LO: usize = SUPERBLOCK + 0x04;
    pub(super) const LOG_BLOCK_SIZE: usize = SUPERBLOCK + 0x18;
    pub(super) const MAGIC: usize = SUPERBLOCK + 0x38;
    pub(super) const BLOCKS_HI: usize = SUPERBLOCK + 0x150;
    pub(super) const IS: [u8; 2] = [0x53, 0xef];
}

/// `XFS_SB_MAGIC`, and the offsets of `sb_blocksize` and `sb_dblocks`, big-endian (Linux,
/// `fs/xfs/libxfs/xfs_format.h`, `struct xfs_dsb`).
mod xfs {
    pub(super) const IS: [u8; 4] = *b"XFSB";
    pub(super) const BLOCK_SIZE: usize = 4;
    pub(super) const BLOCKS: usize = 8;
}

/// A file system that a root partition may hold and that can be encrypted in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Which one.
    pub kind: Kind,
    /// How much of the partition it takes, in bytes from its start; as it says itself.
    pub size: u64,
}

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
}

impl FileSystem {
    /// Reads its superblock off the start of `device`; `None` for anything else.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn read<D: Read + Seek>(device: &mut D) -> io::Result<Option<Self>> {
        let mut head = [0; 2048];
        device.seek(SeekFrom::Start(0))?;
        match device.read_exact(&mut head) {
            // What is smaller holds none.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        Ok(Self::of(&head))
    }

    fn of(head: &[u8; 2048]) -> Option<Self> {
        let four = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
        if head.starts_with(&xfs::IS) {
            let blocks = u64::from(u32::from_be_bytes(four(xfs::BLOCKS))) << 32
                | u64::from(u32::from_be_bytes(four(xfs::BLOCKS + 4)));
            let size = blocks.checked_mul(u64::from(u32::from_be_bytes(four(xfs::BLOCK_SIZE))))?;
            return (size > 0).then_some(Self { kind: Kind::Xfs, size });
        }
        if head[ext::MAGIC..ext::MAGIC + 2] != ext::IS {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes(four(at));
        let blocks = u64::from(word(ext::BLOCKS_LO)) | u64::from(word(ext::BLOCKS_HI)) << 32;
        let block = 1u64.checked_shl(word(ext::LOG_BLOCK_SIZE))?.checked_mul(1024)?;
        let size = block.checked_mul(blocks).filter(|size| *size > 0)?;
        Some(Self { kind: Kind::Ext, size })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::fs::File;

    /// As the tools that make them say.
    #[rstest]
    #[case("mkfs.ext4", &["-q", "-F"], 40 << 20, Some(Kind::Ext))]
    #[case("mkfs.ext4", &["-q", "-F", "-b", "1024"], 40 << 20, Some(Kind::Ext))]
    #[case("mkfs.xfs", &["-q"], 320 << 20, Some(Kind::Xfs))]
    #[case("mkfs.xfs", &["-q", "-b", "size=1024"], 320 << 20, Some(Kind::Xfs))]
    #[case("mkswap", &[], 40 << 20, None)]
    fn its_kind_and_size_are_told(
        #[case] tool: &str,
        #[case] options: &[&str],
        #[case] size: u64,
        #[case] kind: Option<Kind>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partition");
        File::create(&path).unwrap().set_len(size).unwrap();
        let args: Vec<_> = options.iter().map(|option| (*option).into()).chain([path.clone()]).collect();
        latchkey_supervise::run(tool, &args).unwrap();
        let found = FileSystem::read(&mut File::open(path).unwrap()).unwrap();
        assert_eq!(found, kind.map(|kind| FileSystem { kind, size }));
    }

    /// One that says of itself that it takes nothing would be taken to leave all the room.
    #[rstest]
    #[case::no_blocks(0, 2)]
    #[case::blocks_too_large(1, 54)]
    #[case::no_such_shift(1, 64)]
    fn an_ext_that_takes_nothing_is_none(#[case] blocks: u32, #[case] log_block_size: u32) {
        let mut head = [0; 2048];
        head[ext::MAGIC..ext::MAGIC + 2].copy_from_slice(&ext::IS);
        head[ext::BLOCKS_LO..ext::BLOCKS_LO + 4].copy_from_slice(&blocks.to_le_bytes());
        head[ext::LOG_BLOCK_SIZE..ext::LOG_BLOCK_SIZE + 4].copy_from_slice(&log_block_size.to_le_bytes());
        assert_eq!(FileSystem::of(&head), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 2048), mark in 0..3u8) {
            let (at, mark) = match mark {
                0 => (0, &xfs::IS[..]),
                1 => (ext::MAGIC, &ext::IS[..]),
                _ => (0, &[][..]),
            };
            bytes[at..at + mark.len()].copy_from_slice(mark);
            let found = FileSystem::read(&mut std::io::Cursor::new(&bytes)).unwrap();
            prop_assert!(found.is_none_or(|found| found.size > 0));
            // Cut off it is none, whatever it says.
            prop_assert!(FileSystem::read(&mut std::io::Cursor::new(&bytes[..2047])).unwrap().is_none());
        }
    }
}
