//! How large the file system is that a partition begins with.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use crate::inspect::Contents;

/// ext2, ext3 and ext4: where the superblock is, and fields in it (Linux, `Documentation/filesystems/ext4/super.rst`).
mod ext {
    pub(super) const SUPERBLOCK: usize = 1024;
    pub(super) const BLOCKS_LO: usize = SUPERBLOCK + 0x04;
    pub(super) const LOG_BLOCK_SIZE: usize = SUPERBLOCK + 0x18;
    pub(super) const BLOCKS_HI: usize = SUPERBLOCK + 0x150;
}

/// The offsets of `sb_blocksize` and `sb_dblocks`, big-endian (Linux, `fs/xfs/libxfs/xfs_format.h`, `struct xfs_dsb`).
mod xfs {
    pub(super) const BLOCK_SIZE: usize = 4;
    pub(super) const BLOCKS: usize = 8;
}

/// How much of `device`, a partition with these `contents`, its ext4 or XFS takes by its own word, in bytes from its start.
/// `None` for anything else, and where that word is nothing that can be: then nobody knows what lies behind it.
///
/// # Errors
/// When the device cannot be read.
pub fn size<D: Read + Seek>(device: &mut D, contents: Contents) -> io::Result<Option<u64>> {
    let of: fn(&[u8; 2048]) -> Option<u64> = match contents {
        Contents::Ext => of_ext,
        Contents::Xfs => of_xfs,
        _ => return Ok(None),
    };
    let mut head = [0; 2048];
    device.seek(SeekFrom::Start(0))?;
    match device.read_exact(&mut head) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| of(&head).filter(|size| *size > 0)),
    }
}

fn four(head: &[u8; 2048], at: usize) -> [u8; 4] {
    [head[at], head[at + 1], head[at + 2], head[at + 3]]
}

fn of_ext(head: &[u8; 2048]) -> Option<u64> {
    let word = |at: usize| u32::from_le_bytes(four(head, at));
    let blocks = u64::from(word(ext::BLOCKS_LO)) | u64::from(word(ext::BLOCKS_HI)) << 32;
    1u64.checked_shl(word(ext::LOG_BLOCK_SIZE))?.checked_mul(1024)?.checked_mul(blocks)
}

fn of_xfs(head: &[u8; 2048]) -> Option<u64> {
    let word = |at: usize| u64::from(u32::from_be_bytes(four(head, at)));
    let blocks = word(xfs::BLOCKS) << 32 | word(xfs::BLOCKS + 4);
    blocks.checked_mul(word(xfs::BLOCK_SIZE))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::fs::File;
    use std::io::Cursor;

    /// As the tools that make them say.
    #[rstest]
    #[case("mkfs.ext4", &["-q", "-F"], 40 << 20, Contents::Ext)]
    #[case("mkfs.ext4", &["-q", "-F", "-b", "1024"], 40 << 20, Contents::Ext)]
    #[case("mkfs.xfs", &["-q"], 320 << 20, Contents::Xfs)]
    #[case("mkfs.xfs", &["-q", "-b", "size=1024"], 320 << 20, Contents::Xfs)]
    #[case("mkswap", &[], 40 << 20, Contents::Swap)]
    fn its_size_is_told(
        #[case] tool: &str,
        #[case] options: &[&str],
        #[case] whole: u64,
        #[case] contents: Contents,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partition");
        File::create(&path).unwrap().set_len(whole).unwrap();
        let args: Vec<_> = options.iter().map(|option| (*option).into()).chain([path.clone()]).collect();
        latchkey_supervise::run(tool, &args).unwrap();
        let mut device = File::open(path).unwrap();
        assert_eq!(Contents::of(&mut device).unwrap(), contents);
        let told = (contents != Contents::Swap).then_some(whole);
        assert_eq!(size(&mut device, contents).unwrap(), told);
    }

    /// One that says of itself that it takes nothing would be taken to leave all the room.
    #[rstest]
    #[case::no_blocks(0, 2)]
    #[case::blocks_too_large(1, 54)]
    #[case::no_such_shift(1, 64)]
    fn an_ext_that_takes_nothing_tells_nothing(#[case] blocks: u32, #[case] log_block_size: u32) {
        let mut head = [0; 2048];
        head[ext::BLOCKS_LO..ext::BLOCKS_LO + 4].copy_from_slice(&blocks.to_le_bytes());
        head[ext::LOG_BLOCK_SIZE..ext::LOG_BLOCK_SIZE + 4].copy_from_slice(&log_block_size.to_le_bytes());
        assert_eq!(size(&mut Cursor::new(head), Contents::Ext).unwrap(), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 2048), is_xfs: bool) {
            let contents = if is_xfs { Contents::Xfs } else { Contents::Ext };
            prop_assert!(size(&mut Cursor::new(&bytes), contents).unwrap().is_none_or(|size| size > 0));
            // Cut off it tells nothing, whatever it says.
            prop_assert!(size(&mut Cursor::new(&bytes[..2047]), contents).unwrap().is_none());
        }
    }
}
