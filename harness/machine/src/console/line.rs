//! The serial line: two named pipes between QEMU and the harness.
//!
//! Not a socket: each byte that the guest shows is a write of its own, and a socket takes less than three hundred of them
//! before somebody reads, a pipe 64 KiB. While the line is full QEMU's UART takes nothing more, and the firmware's driver
//! waits for a millisecond and a half, ten bits for each place in the UART's queue (edk2,
//! `MdeModulePkg/Bus/Pci/PciSioSerialDxe/SerialIo.c`, `SerialWrite`). Then it leaves out the rest of what it was to show,
//! so that a computer with much to do lost the very line by which a boot is judged.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat};

/// What QEMU's chardev `pipe` is told, in its working directory: it opens this name with `.in` and `.out` (QEMU,
/// `chardev/char-pipe.c`).
pub(crate) const NAME: &str = "console";

/// The harness' ends of a serial line.
#[derive(Debug)]
pub(crate) struct Line {
    /// What the guest shows.
    pub(super) shown: File,
    /// What is typed.
    pub(super) typed: File,
    /// Keeps `shown` from ending before QEMU has opened it.
    pub(super) keeper: Option<File>,
}

impl Line {
    /// Makes the pipes in `dir`, in the place of those of an earlier start.
    ///
    /// # Errors
    /// When they cannot be made or opened.
    pub(crate) fn make(dir: &Path) -> io::Result<Self> {
        let pipe = |end: &str| {
            let path = dir.join(format!("{NAME}.{end}"));
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            Ok(path)
        };
        let (typed, shown) = (pipe("in")?, pipe("out")?);
        // Opened without waiting for whoever writes, and then read as pipes are.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let reader = OpenOptions::new().read(true).custom_flags(nonblocking).open(&shown)?;
        fcntl_setfl(&reader, fcntl_getfl(&reader)? & !OFlags::NONBLOCK)?;
        let keeper = Some(OpenOptions::new().write(true).open(&shown)?);
        // Open for both, so that opening waits for nobody and typing never raises SIGPIPE.
        let typed = OpenOptions::new().read(true).write(true).open(&typed)?;
        Ok(Self { shown: reader, typed, keeper })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::io::{Read, Write};

    use super::*;

    /// As many bytes as a screen full of a box has, and more, each a write of its own that does not wait, while nobody reads.
    #[test]
    fn a_line_that_nobody_reads_takes_whole_screens() {
        const MANY: usize = 60_000;
        let dir = tempfile::tempdir().unwrap();
        let line = Line::make(dir.path()).unwrap();
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let out = dir.path().join("console.out");
        // As QEMU opens it.
        let mut qemu = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(out).unwrap();
        for _ in 0..MANY {
            assert_eq!(qemu.write(b"x").unwrap(), 1);
        }
        let Line { mut shown, typed: _typed, keeper } = line;
        drop((qemu, keeper));
        let mut bytes = Vec::new();
        shown.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), MANY);
        Line::make(dir.path()).unwrap();
    }
}
