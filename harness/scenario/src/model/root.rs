//! What lies on a root partition, as a forecast takes it.

use std::path::Path;

use latchkey_disk::View;
use latchkey_disk::inspect::Contents;
use latchkey_disk::luks::{self, Header};
use latchkey_forecast::RootVolume;

use super::{ModelError, file};

/// What a root partition holds.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    Plain,
    Luks(Box<Header>),
    Unrecognised,
}

impl Root {
    /// That of a `device`, which is part of the `disk` of that path.
    pub(super) fn read(device: &mut View, disk: &Path) -> Result<Self, ModelError> {
        match Header::read(device) {
            Ok(header) => return Ok(Self::Luks(header.into())),
            Err(luks::Error::None) => {}
            Err(error) => return Err(error.into()),
        }
        // Others are mounted by nobody as a root.
        Ok(match Contents::of(device).map_err(file("reading", disk))? {
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
