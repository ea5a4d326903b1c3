//! A finished image, its manifest and its artefacts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use latchkey_disk::Format;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::drive::Layout;
use crate::error::io;

/// The file in an image's directory that describes it. Written last.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The disk in an image's directory.
pub(crate) const DISK: &str = "disk.qcow2";
/// Where an image keeps the recipe's other shims.
pub(crate) const ARTEFACTS: &str = "artefacts";

/// An OS disk before provisioning. It is never written to.
#[derive(Debug, Clone)]
pub struct Image {
    /// The recipe's name, or the file's for a user's own image.
    pub name: String,
    /// The reference image that a user's own stands for, where scenarios tell several apart.
    pub like: Option<String>,
    /// The disk.
    pub path: PathBuf,
    /// How the disk file is written.
    pub format: Format,
    /// Whether its vendor's key is at hand.
    pub signing: Signing,
    /// Whose signatures the firmware of its machines accepts.
    pub trust: Trust,
    /// How it was built; a user's own image has none.
    pub manifest: Option<Manifest>,
    /// The UKI that it boots, as a path on the ESP with `/`; `None` when it boots something else.
    pub uki: Option<String>,
}

/// Whether new things can be signed for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// The vendor's key is the cache's own.
    Available,
    /// The vendor's key is not at hand: steps that need it are skipped as `needs-vendor-key`.
    Unavailable,
}

/// Whose signatures a machine's firmware accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Those of the cache's own platform, and Microsoft's, as in a cloud that adds keys of its own: [`crate::variables`].
    Platform,
    /// Microsoft's alone: the variables that OVMF's package brings with them.
    Microsoft,
}

/// How an image was built and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The recipe's name.
    pub recipe: String,
    /// What it is, in one line.
    pub title: String,
    /// Its content address: SHA-256 in hex over recipe, package versions, builder and keys.
    pub key: String,
    /// When it was built, RFC 3339.
    pub built: String,
    /// How long that took, in milliseconds.
    pub build_ms: u64,
    /// Fingerprint of the test keys that signed it.
    pub pki: String,
    /// The kernel's version.
    pub kernel: String,
    /// The kernel's command line.
    pub command_line: String,
    /// The vendor's directory under `\EFI`.
    pub vendor: String,
    /// The UKI's path on the ESP, with backslashes; none where GRUB starts a kernel.
    #[serde(default)]
    pub uki: Option<String>,
    /// Size of the disk file in bytes: another size means that it is damaged.
    pub disk_bytes: u64,
    /// Where the partitions lie.
    pub layout: Layout,
    /// Files on the ESP and their SHA-256 in hex.
    pub esp: BTreeMap<String, String>,
    /// shim's package version.
    pub shim: String,
    /// Installed packages and their versions.
    pub packages: BTreeMap<String, String>,
}

impl Image {
    /// The finished image in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(MANIFEST);
        let text = fs::read(&path).map_err(io("reading", &path))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|e| Error::Damaged { path: path.clone(), why: e.to_string() })?;
        Ok(Self {
            name: manifest.recipe.clone(),
            like: None,
            path: dir.join(DISK),
            format: Format::Qcow2,
            signing: Signing::Available,
            trust: Trust::Platform,
            uki: manifest.uki.as_ref().map(|path| path.replace('\\', "/")),
            manifest: Some(manifest),
        })
    }

    /// What [`Image::artefact`] can give.
    #[must_use]
    pub fn artefacts(&self) -> Vec<String> {
        let Some(dir) = self.artefact_dir() else { return Vec::new() };
        let there = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = there
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".efi")?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// A file that scenarios put on a machine: one of the recipe's other shims.
    ///
    /// # Errors
    /// [`Error::NoArtefact`] when this image cannot give it.
    pub fn artefact(&self, name: &str) -> Result<PathBuf, Error> {
        let unknown =
            || Error::NoArtefact { image: self.name.clone(), name: name.to_owned(), known: self.artefacts() };
        let dir = self.artefact_dir().ok_or_else(unknown)?;
        // A name is no path: it must not lead out of the directory.
        if name.is_empty() || name.contains(['/', '\\', '.']) {
            return Err(unknown());
        }
        let path = dir.join(format!("{name}.efi"));
        if path.is_file() { Ok(path) } else { Err(unknown()) }
    }

    fn artefact_dir(&self) -> Option<PathBuf> {
        self.manifest.as_ref()?;
        Some(self.path.parent()?.join(ARTEFACTS))
    }
}
