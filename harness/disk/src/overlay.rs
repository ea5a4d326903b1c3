//! qcow2 overlays: a machine's changes, apart from the image they are made to.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::format::{self, Format};

/// Why an overlay could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base is not usable.
    #[error(transparent)]
    Base(#[from] format::Error),
    /// The base or the overlay's directory is not there.
    #[error("making an overlay over {path}: {source}")]
    Path {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The base's path cannot be written into the overlay.
    #[error("making an overlay over {path}: its path is not UTF-8")]
    Name {
        /// Which file.
        path: PathBuf,
    },
    /// `qemu-img` refused.
    #[error(transparent)]
    Tool(#[from] latchkey_supervise::Error),
}

/// An overlay file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    path: PathBuf,
}

impl Overlay {
    /// Makes an empty overlay at `overlay` over `base`, which is only ever read. The base's absolute path and
    /// its format are written into the overlay, so that nobody has to guess a format later.
    ///
    /// # Errors
    /// [`Error`] says whether the base, the path or `qemu-img` was the cause.
    pub fn create(base: &Path, base_format: Format, overlay: &Path) -> Result<Self, Error> {
        let named = || Error::Name { path: base.to_owned() };
        let absolute = base.canonicalize().map_err(|source| Error::Path { path: base.to_owned(), source })?;
        let absolute = absolute.to_str().ok_or_else(named)?;
        let (backing, driver) = match base_format {
            Format::Qcow2 => (absolute.to_owned(), "qcow2"),
            Format::Raw => (absolute.to_owned(), "raw"),
            // The footer must not become a part of the disk; QEMU's own VHD driver may round the size to
            // cylinders.
            Format::FixedVhd { size } => {
                let file = serde_json::json!({ "driver": "file", "filename": absolute });
                let raw = serde_json::json!({ "driver": "raw", "size": size, "file": file });
                (format!("json:{raw}"), "raw")
            }
        };
        let args = ["create", "-q", "-f", "qcow2", "-F", driver, "-b", &backing].map(OsString::from);
        let args: Vec<OsString> = args.into_iter().chain([overlay.as_os_str().to_owned()]).collect();
        latchkey_supervise::run("qemu-img", &args)?;
        Ok(Self { path: overlay.to_owned() })
    }

    /// As [`Self::create`], with the base's format told from its content.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn over(base: &Path, overlay: &Path) -> Result<Self, Error> {
        Self::create(base, format::detect(base)?, overlay)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
