//! Room for the LUKS2 header: an ext4 file system made smaller, offline.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::Error;
use crate::luks::REDUCE;

/// ext2/3/4 superblock: offset of the block in the volume, and of the fields in it
/// (Linux, Documentation/filesystems/ext4/super.rst).
const SUPERBLOCK: u64 = 1024;
const BLOCKS_LO: usize = 0x04;
const LOG_BLOCK_SIZE: usize = 0x18;
const MAGIC: usize = 0x38;
const BLOCKS_HI: usize = 0x150;
const EXT_MAGIC: u16 = 0xef53;

/// Size in bytes of the ext4 file system that `device` starts with; `None` when there is none.
fn ext4_size(device: &Path) -> std::io::Result<Option<u64>> {
    let mut block = [0u8; 1024];
    let mut file = File::open(device)?;
    file.seek(SeekFrom::Start(SUPERBLOCK))?;
    file.read_exact(&mut block)?;
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    if u16::from_le_bytes([block[MAGIC], block[MAGIC + 1]]) != EXT_MAGIC {
        return Ok(None);
    }
    let blocks = u64::from(word(BLOCKS_LO)) | (u64::from(word(BLOCKS_HI)) << 32);
    Ok(1024u64.checked_shl(word(LOG_BLOCK_SIZE)).and_then(|size| size.checked_mul(blocks)))
}

/// Makes sure that the file system on `device` leaves [`REDUCE`] bytes free at the end of it.
///
/// # Errors
/// [`Error::NotExt4`] for any other content, [`Error::Tool`] when `e2fsck` or `resize2fs` refuses, for want of
/// room for example.
pub(crate) fn leave_room(device: &Path) -> Result<(), Error> {
    let reading = |source| Error::File { what: "reading", path: device.to_owned(), source };
    let whole = std::fs::metadata(device).map_err(reading)?.len();
    let used = ext4_size(device).map_err(reading)?.ok_or_else(|| Error::NotExt4(device.to_owned()))?;
    let wanted = whole.saturating_sub(REDUCE);
    if used <= wanted {
        return Ok(());
    }
    tracing::info!(from = used, to = wanted, "making the file system smaller");
    let file = device;
    let device = device.as_os_str();
    // `resize2fs` insists on a check just before it. 1 means: mended, all is well now.
    let script = r#"e2fsck -f -p "$1" >&2; [ $? -le 1 ]"#;
    latchkey_supervise::run("sh", &["-c".as_ref(), script.as_ref(), "e2fsck".as_ref(), device])?;
    let size = format!("{}K", wanted / 1024);
    latchkey_supervise::run("resize2fs", &[device, size.as_ref()])?;
    // `resize2fs` cuts a file off behind the file system; a partition stays as long as it was.
    let restored = File::options().write(true).open(file).and_then(|file| file.set_len(whole));
    restored.map_err(|source| Error::File { what: "lengthening", path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_file_system_that_fills_its_partition_is_made_smaller_and_the_partition_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("root.img");
        let whole = 96 << 20;
        File::create(&device).unwrap().set_len(whole).unwrap();
        latchkey_supervise::run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), device.as_os_str()]).unwrap();
        assert_eq!(ext4_size(&device).unwrap(), Some(whole));
        leave_room(&device).unwrap();
        assert_eq!(ext4_size(&device).unwrap(), Some(whole - REDUCE));
        assert_eq!(std::fs::metadata(&device).unwrap().len(), whole);
        latchkey_supervise::run("e2fsck", &["-f".as_ref(), "-n".as_ref(), device.as_os_str()]).unwrap();
        // There is room now, so that a second time changes nothing.
        let before = std::fs::read(&device).unwrap();
        leave_room(&device).unwrap();
        assert!(std::fs::read(&device).unwrap() == before);
    }
}
