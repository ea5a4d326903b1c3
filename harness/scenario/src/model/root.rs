//! What lies on a root partition, as a forecast takes it.

use std::fs::File;
use std::path::Path;

use latchkey_disk::inspect::Contents;
use latchkey_disk::luks::{self, Header};
use latchkey_forecast::RootVolume;

use super::{ModelError, file};

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
        // Others are mounted by nobody as a root.
        Ok(match Contents::of(&mut device).map_err(failed())? {
            Contents::Ext | Contents::Xfs | Contents::Btrfs => Self::Plain,
            _ => Self::Unrecognised,
        })
    }

    pub(crate) fn as_volume(&self) -> RootVolume<'_> {
        match self {
            Self::Plain => RootVolume::Plain,
            Self::Luks(header) => RootVolume::Luks(header),
            Self::Unrecognised => RootVolume::Unrecognised,
        }
    }
}
