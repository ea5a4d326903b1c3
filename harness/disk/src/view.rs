//! A part of a file, read as if it were a file of its own.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// Most bytes of a file that is read from a partition. What machines are booted from has some hundred megabytes; and a sparse
/// disk's partitions, which no file on them is larger than, are as large as it pleases whoever made it.
pub(crate) const LARGEST: u64 = 1 << 30;

/// A part of a file, or all of it: its bytes from the part's start to its end, with a position of its own.
#[derive(Debug)]
pub struct View {
    file: File,
    /// Where in the file it begins, in bytes.
    start: u64,
    /// Its bytes.
    length: u64,
    /// Counted from its start.
    position: u64,
}

impl View {
    /// All of `file`, as large as it is now; a block device as well.
    ///
    /// # Errors
    /// When it cannot be sought in, as a pipe.
    pub(crate) fn new(mut file: File) -> io::Result<Self> {
        // Not from its metadata, which is 0 for a block device.
        let length = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, start: 0, length, position: 0 })
    }

    /// `length` bytes from `offset` on, both in bytes: as many of them as this view has.
    ///
    /// # Errors
    /// When the system has no further file descriptor.
    pub(crate) fn part(&self, offset: u64, length: u64) -> io::Result<Self> {
        let offset = offset.min(self.length);
        let length = length.min(self.length - offset);
        Ok(Self { file: self.file.try_clone()?, start: self.start + offset, length, position: 0 })
    }

    /// How many bytes it has.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `bytes` with what lies at `offset`; the position stays.
    ///
    /// # Errors
    /// `UnexpectedEof` when the view ends before, else what the system says.
    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, self.place(bytes.len(), offset, io::ErrorKind::UnexpectedEof)?)
    }

    /// Writes `bytes` to `offset`; the position stays.
    ///
    /// # Errors
    /// `StorageFull` when the view ends before, else what the system says: that the file is not open for writing, perhaps.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, self.place(bytes.len(), offset, io::ErrorKind::StorageFull)?)
    }

    /// Where in the file `count` bytes at `offset` lie.
    fn place(&self, count: usize, offset: u64, outside: io::ErrorKind) -> io::Result<u64> {
        let end = offset.checked_add(count as u64).filter(|end| *end <= self.length);
        end.map(|_| self.start + offset).ok_or_else(|| outside.into())
    }
}

impl Read for View {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        // Where nothing is left the place may be one that no file has.
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..wanted], self.start.saturating_add(self.position))?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for View {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = sought(to, self.position, self.length)?;
        Ok(self.position)
    }
}

/// Where `to` leads in `length` bytes from `position`; beyond their end as well.
///
/// # Errors
/// `InvalidInput` when it leads to before their start.
pub(crate) fn sought(to: SeekFrom, position: u64, length: u64) -> io::Result<u64> {
    let target = match to {
        SeekFrom::Start(at) => Some(at),
        SeekFrom::End(by) => length.checked_add_signed(by),
        SeekFrom::Current(by) => position.checked_add_signed(by),
    };
    target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seeking before the start"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::io::{Cursor, Write};

    use proptest::prelude::*;

    use super::*;

    /// A view of `bytes` alone, between bytes of others.
    fn view(bytes: &[u8]) -> View {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[&[0xee; 7], bytes, &[0xee; 9]].concat()).unwrap();
        View::new(file).unwrap().part(7, bytes.len() as u64).unwrap()
    }

    proptest! {
        /// The standard library's own reader of bytes in memory is the oracle.
        #[test]
        fn it_reads_as_its_bytes_in_memory_do(
            bytes in proptest::collection::vec(0u8..0xee, 0..40),
            steps in proptest::collection::vec(
                (0..3, prop_oneof![4 => -50i64..50, 1 => Just(i64::MAX)], 0usize..50), 0..20),
        ) {
            let (mut view, mut memory) = (view(&bytes), Cursor::new(&bytes));
            for (whence, by, count) in steps {
                let to = match whence {
                    0 => SeekFrom::Start(by.unsigned_abs()),
                    1 => SeekFrom::End(by),
                    _ => SeekFrom::Current(by),
                };
                prop_assert_eq!(view.seek(to).ok(), memory.seek(to).ok());
                let (mut seen, mut expected) = (vec![0; count], vec![0; count]);
                prop_assert_eq!(view.read(&mut seen).unwrap(), memory.read(&mut expected).unwrap());
                prop_assert_eq!(seen, expected);
            }
        }

        #[test]
        fn nothing_outside_of_it_is_read_or_written(
            bytes in proptest::collection::vec(0u8..0xee, 0..40),
            offset in prop_oneof![0u64..50, Just(u64::MAX), Just(u64::MAX - 7)],
            count in 0usize..50,
        ) {
            let view = view(&bytes);
            let within = offset.checked_add(count as u64).is_some_and(|end| end <= bytes.len() as u64);
            let mut seen = vec![0; count];
            prop_assert_eq!(view.read_exact_at(&mut seen, offset).is_ok(), within);
            prop_assert!(!seen.contains(&0xee));
            prop_assert_eq!(view.write_all_at(&vec![1; count], offset).is_ok(), within);
            let mut whole = vec![0; bytes.len() + 16];
            view.file.read_exact_at(&mut whole, 0).unwrap();
            prop_assert_eq!(whole.iter().filter(|byte| **byte == 0xee).count(), 16);
        }

        #[test]
        fn a_part_ends_where_the_whole_does(
            bytes in proptest::collection::vec(0u8..0xee, 0..40),
            offset in prop_oneof![0u64..50, Just(u64::MAX)],
            length in prop_oneof![0u64..50, Just(u64::MAX)],
        ) {
            let mut part = view(&bytes).part(offset, length).unwrap();
            let mut seen = Vec::new();
            part.read_to_end(&mut seen).unwrap();
            let start = bytes.len().min(usize::try_from(offset).unwrap());
            let end = bytes.len().min(start.saturating_add(usize::try_from(length).unwrap()));
            prop_assert_eq!((seen.len() as u64, &seen[..]), (part.length(), &bytes[start..end]));
        }
    }
}
