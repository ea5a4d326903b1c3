//! A user's own image.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use latchkey_disk::gpt::kind;
use latchkey_disk::inspect::{Contents, ImageDescription, Layout, Limit, PartitionDescription, inspect};
use latchkey_disk::luks::ROOM;
use latchkey_disk::{StorageError, open};

use crate::error::io;
use crate::{Error, Image, Signing, Trust, names};

/// What stands against using a user's disk, each in words; `None` where nothing does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usable {
    /// Against machines that are made of it and provisioned: it has to be what a cloud's host would encrypt.
    pub run: Option<String>,
    /// Against a forecast of it as it is, encrypted or not.
    pub forecast: Option<String>,
}

impl Usable {
    /// What can be done with a disk of this description.
    #[must_use]
    pub fn of(description: &ImageDescription) -> Self {
        let forecast = listed(description.unforeseeable()).or_else(|| no_root(description));
        let run = listed(description.blocking())
            .or_else(|| no_root(description))
            .or_else(|| description.root().and_then(not_plain));
        // The snapshot of a machine that is locked out, perhaps.
        let run = match (run, description.blocking().next()) {
            (Some(why), Some(_)) if forecast.is_none() => Some(format!("{why}\n{AS_IT_IS}")),
            (run, _) => run,
        };
        Self { run, forecast }
    }
}

/// What to do with a disk that no machine is made of.
const AS_IT_IS: &str = "`cargo xtask forecast` tells what it comes to as it is";

/// Limits as a list; `None` where there are none.
fn listed<'a>(limits: impl Iterator<Item = &'a Limit>) -> Option<String> {
    let limits: Vec<String> = limits.map(ToString::to_string).collect();
    (!limits.is_empty()).then(|| format!("it cannot be handled yet:\n  - {}", limits.join("\n  - ")))
}

/// Why a disk has no root partition that can be worked with.
fn no_root(description: &ImageDescription) -> Option<String> {
    match description.root() {
        Some(root) if root.partition.type_guid != kind::ROOT_X86_64 => {
            Some("its root partition is not of the discoverable root type".to_owned())
        }
        Some(_) => None,
        None => Some("it has no root partition that can be told from the others".to_owned()),
    }
}

/// Why a root partition cannot be encrypted in place.
fn not_plain(root: &PartitionDescription) -> Option<String> {
    let free = root.file_system_size.map(|taken| root.partition.size().saturating_sub(taken));
    match root.contents {
        Contents::Luks => Some(format!(
            "its root partition is encrypted already, and machines are made of plain images; {AS_IT_IS}"
        )),
        Contents::Ext | Contents::Xfs if free.is_none() => {
            Some("its root partition's file system says of itself a size that cannot be".to_owned())
        }
        Contents::Ext => None,
        Contents::Xfs => free.filter(|free| *free < ROOM).map(|free| {
            format!(
                "its root partition has {} MiB free behind its XFS, which cannot be made smaller, and a LUKS2 header takes \
                 {}: build it with a partition that is larger than the file system",
                free >> 20,
                ROOM >> 20
            )
        }),
        other => Some(format!("its root partition holds {}; only ext4 and XFS so far", said(other))),
    }
}

impl Image {
    /// A user's own disk image that machines are to be made of: qcow2, raw, or a fixed VHD as Azure exports it. It is looked
    /// at, never written to, and used where it lies.
    ///
    /// # Errors
    /// [`Error::UserImage`] with everything about it that cannot be handled yet, by name; [`Error::Inspect`] when this computer
    /// cannot look at it.
    pub fn from_user(path: &Path) -> Result<Self, Error> {
        let description = look(path)?;
        Self::of_user(&description, Usable::of(&description).run)
    }

    /// A user's own disk of this description, of which only the next boot is to be forecast: also one that is encrypted
    /// already.
    ///
    /// # Errors
    /// As [`Self::from_user`].
    pub fn to_forecast(description: &ImageDescription) -> Result<Self, Error> {
        Self::of_user(description, Usable::of(description).forecast)
    }

    fn of_user(description: &ImageDescription, against: Option<String>) -> Result<Self, Error> {
        let path = description.path.clone();
        if let Some(why) = against {
            return Err(Error::UserImage { path, why });
        }
        let uki = match description.layout() {
            Layout::Uki { path } => Some(path),
            Layout::Grub { .. } | Layout::Unknown => None,
        };
        let format = description.format;
        let (signing, trust) = (Signing::Unavailable, Trust::Platform);
        Ok(Self { name: name(&path), like: None, format, signing, trust, manifest: None, uki, path })
    }
}

/// Describes a user's disk, reading only. Its path in the description is the whole one.
///
/// # Errors
/// [`Error::UserImage`] when the file is not there or is no disk; [`Error::Inspect`] when this computer cannot look at it.
pub fn look(path: &Path) -> Result<ImageDescription, Error> {
    let unusable = |path: &Path, why: String| Error::UserImage { path: path.to_owned(), why };
    let path = match path.canonicalize() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(unusable(path, "there is no such file".into()));
        }
        other => other.map_err(io("looking for", path))?,
    };
    let kind = path.metadata().map_err(io("looking at", &path))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(unusable(&path, "it is neither a file nor a block device".into()));
    }
    inspect(&path).map_err(|source| match source {
        // The computer's fault, not the image's.
        open::Error::Storage {
            source:
                StorageError::Tool(_)
                | StorageError::Io(_)
                | StorageError::Unguarded
                | StorageError::LongPath(_)
                | StorageError::Unshown { .. }
                | StorageError::Silent { .. },
            ..
        } => Error::Inspect { path: path.clone(), source },
        // Its path is told already.
        other => unusable(&path, other.to_string().replace(&path.display().to_string(), "it")),
    })
}

/// What a user's image goes by: its file's name, which must not be taken for a reference image.
fn name(path: &Path) -> String {
    let stem = path.file_stem().map_or_else(|| "image".into(), |stem| stem.to_string_lossy().into_owned());
    // It is a part of the names of a run's directories.
    if stem.trim_matches('.').is_empty() {
        return "image".to_owned();
    }
    if names().contains(&stem.as_str()) { format!("own-{stem}") } else { stem }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn an_image_of_a_users_goes_by_a_name_of_its_own() {
        assert_eq!(super::name(Path::new("/tmp/exported.vhd")), "exported");
        assert_eq!(super::name(Path::new("/tmp/rlc9-uki.qcow2")), "own-rlc9-uki");
        assert_eq!(super::name(Path::new("/tmp/...")), "image");
    }
}
