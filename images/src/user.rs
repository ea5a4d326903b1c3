//! A user's own image.

use std::path::Path;

use latchkey_disk::gpt::kind;
use latchkey_disk::inspect::{Contents, Layout, inspect};
use latchkey_disk::{StorageError, open};

use crate::error::io;
use crate::{Error, Image, Signing, Trust};

impl Image {
    /// A user's own disk image: qcow2, raw, or a fixed VHD as Azure exports it. It is looked at, never written to,
    /// and used where it lies.
    ///
    /// # Errors
    /// [`Error::UserImage`] with everything about it that cannot be handled yet, by name; [`Error::Inspect`] when this computer
    /// cannot look at it.
    pub fn from_user(path: &Path) -> Result<Self, Error> {
        let path = path.canonicalize().map_err(io("looking for", path))?;
        let unusable = |why: String| Error::UserImage { path: path.clone(), why };
        let description = inspect(&path).map_err(|source| match source {
            // The computer's fault, not the image's.
            open::Error::Storage {
                source:
                    StorageError::Tool(_)
                    | StorageError::Io(_)
                    | StorageError::LongPath(_)
                    | StorageError::Unshown { .. }
                    | StorageError::Silent { .. },
                ..
            } => Error::Inspect { path: path.clone(), source },
            other => unusable(other.to_string()),
        })?;
        let limits: Vec<String> = description.blocking().map(ToString::to_string).collect();
        if !limits.is_empty() {
            return Err(unusable(format!("it cannot be handled yet:\n  - {}", limits.join("\n  - "))));
        }
        match description.root() {
            Some(root) if root.partition.type_guid != kind::ROOT_X86_64 => {
                return Err(unusable("its root partition is not of the discoverable root type".into()));
            }
            Some(root) if root.contents == Contents::Luks => {
                return Err(unusable(
                    "its root partition is encrypted already; only plain images so far".into(),
                ));
            }
            Some(root) if root.contents != Contents::Ext => {
                let why = format!("its root partition holds {}; only ext4 so far", said(root.contents));
                return Err(unusable(why));
            }
            Some(_) => {}
            None => return Err(unusable("it has no root partition that can be told from the others".into())),
        }
        let name =
            path.file_stem().map_or_else(|| "image".into(), |stem| stem.to_string_lossy().into_owned());
        let uki = match description.layout() {
            Layout::Uki { path } => Some(path),
            Layout::Grub { .. } | Layout::Unknown => None,
        };
        let format = description.format;
        let (signing, trust) = (Signing::Unavailable, Trust::Platform);
        Ok(Self { name, like: None, format, signing, trust, manifest: None, uki, path })
    }
}

fn said(contents: Contents) -> &'static str {
    match contents {
        Contents::Fat => "FAT",
        Contents::Ext => "ext4",
        Contents::Xfs => "XFS",
        Contents::Btrfs => "Btrfs",
        Contents::Lvm => "LVM",
        Contents::Luks => "LUKS",
        Contents::Swap => "swap space",
        Contents::Unknown => "nothing that is known",
    }
}
