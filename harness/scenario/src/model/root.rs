//! What lies on a root partition, as a forecast takes it.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek, SeekFrom};
use std::path::Path;

use latchkey_disk::luks::{self, Header};
use latchkey_forecast::RootVolume;

use super::{ModelError, file};

/// What begins a root file system, and where in its partition: ext2 to ext4, XFS, btrfs (Linux,
/// `include/uapi/linux/magic.h`, `fs/xfs/libxfs/xfs_format.h`).
const FILE_SYSTEMS: [(u64, &[u8]); 3] = [(0x438, &[0x53, 0xef]), (0, b"XFSB"), (0x1_0040, b"_BHRfS_M")];
/// What a root partition holds.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    Plain,
    Luks(Header),
    Unrecognised,
}

impl Root {
    pub(super) fn read(partition: &Path) -> Result<Self, ModelError> {
        let failed = || file("reading", partition);
        let mut device = File::open(partition).map_err(failed())?;
        match Header::read(&mut device) {
            Ok(header) => return Ok(Self::Luks(header)),
            Err(luks::Error::None) => {}
            Err(error) => return Err(error.into()),
        }
        for (at, magic) in FILE_SYSTEMS {
            let mut seen = vec![0; magic.len()];
            device.seek(SeekFrom::Start(at)).map_err(failed())?;
            match device.read_exact(&mut seen) {
                Ok(()) if seen == magic => return Ok(Self::Plain),
                Ok(()) => {}
                // A partition that is too small for it.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(failed()(e)),
            }
        }
        Ok(Self::Unrecognised)
    }

    pub(crate) fn as_volume(&self) -> RootVolume<'_> {
        match self {
            Self::Plain => RootVolume::Plain,
            Self::Luks(header) => RootVolume::Luks(header),
            Self::Unrecognised => RootVolume::Unrecognised,
        }
    }
}
