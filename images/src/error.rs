//! What can go wrong while images are built, found and kept.

use std::io;
use std::path::PathBuf;

use latchkey_measure::{certfile, pe, shim, siglist, sign};

/// Why an image, its keys or its parts could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is known under this name.
    #[error("there is no recipe {name:?}; known are: {}", .known.join(", "))]
    UnknownRecipe {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// A recipe's own file is malformed.
    #[error("reading recipe {name}: {why}")]
    Recipe {
        /// Which recipe.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Neither variable tells where the cache is.
    #[error("cannot tell where the cache is: set LATCHKEY_CACHE, XDG_CACHE_HOME or HOME")]
    NoCacheDir,
    /// A file or directory could not be read, written, renamed or removed.
    #[error("{doing} {}: {source}", .path.display())]
    Io {
        /// What was being done, such as `reading`.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no room left.
    #[error(
        "the disk is full: {} of {need_mib} MiB wanted are free where {} lies ({doing}); make room, run `cargo xtask image \
         prune`, or point LATCHKEY_CACHE to another disk",
        mib(*.free_mib), .path.display()
    )]
    DiskFull {
        /// What was being done.
        doing: String,
        /// Where.
        path: PathBuf,
        /// How much an image build needs, in MiB.
        need_mib: u64,
        /// How much is free, in MiB.
        free_mib: u64,
    },
    /// A file of the cache is damaged.
    #[error("reading {}: {why}; remove it to have it made anew", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The machine's apt has no Debian archive.
    #[error(
        "cannot tell where to get Debian packages: {looked}; set LATCHKEY_DEBIAN_MIRROR to the address of a Debian \
         archive"
    )]
    NoMirror {
        /// What was looked at.
        looked: String,
    },
    /// There is no keyring to verify the archive with.
    #[error("cannot verify Debian packages: no keyring at {}; install the package debian-archive-keyring", .path.display())]
    NoKeyring {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// apt did not say what was expected.
    #[error("asking apt for {what}: {why}")]
    Apt {
        /// What was asked.
        what: String,
        /// What is missing.
        why: String,
    },
    /// A build as an ordinary user needs subordinate user ids.
    #[error(
        "building an image without root needs {missing}; install the package `uidmap` and give this user a range in \
         /etc/subuid and /etc/subgid (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`), or \
         run as root"
    )]
    NoUserNamespace {
        /// What is not there.
        missing: String,
    },
    /// A tool failed or is missing.
    #[error("{doing}: {source}")]
    Tool {
        /// What it was run for.
        doing: String,
        /// How it failed.
        source: latchkey_supervise::Error,
    },
    /// mmdebstrap failed.
    #[error("installing the system with mmdebstrap failed ({status}):\n{log}")]
    System {
        /// Its exit status in words.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// Keys or certificates could not be made.
    #[error("making the {what}: {why}")]
    Keys {
        /// Which certificate.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A PE image could not be put together.
    #[error("building the UKI: {why}")]
    Uki {
        /// What is wrong.
        why: String,
    },
    /// A PE image could not be read.
    #[error("reading {what}: {source}")]
    Pe {
        /// Which.
        what: String,
        /// What is wrong with it.
        source: pe::Error,
    },
    /// Signing failed.
    #[error("signing {what}: {source}")]
    Sign {
        /// Which image.
        what: String,
        /// What is wrong.
        source: sign::Error,
    },
    /// shim does not take the certificate.
    #[error("putting the vendor's certificate into shim: {0}")]
    Shim(#[from] shim::Error),
    /// The certificate file could not be built.
    #[error("building the certificate file: {0}")]
    CertFile(#[from] certfile::Error),
    /// Signature lists could not be read.
    #[error("reading signature lists: {0}")]
    Lists(#[from] siglist::Error),
    /// The variable store could not be read or written.
    #[error("setting the UEFI variables: {why}")]
    Variables {
        /// What is wrong.
        why: String,
    },
    /// The partition table could not be written.
    #[error("writing the partition table of {}: {why}", .path.display())]
    Gpt {
        /// Of which disk.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An image does not have the thing that was asked for.
    #[error("image {image} has no artefact {name:?}; it can give: {}", .known.join(", "))]
    NoArtefact {
        /// Which image.
        image: String,
        /// What was asked for.
        name: String,
        /// What it can give.
        known: Vec<String>,
    },
    /// Images cannot be removed under machines.
    #[error("{}", used(.machines))]
    InUse {
        /// Their directories; none where a run has images and no machine yet.
        machines: Vec<PathBuf>,
    },
    /// A user's image cannot be used.
    #[error("{} cannot be used: {why}", .path.display())]
    UserImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A user's image could not be looked at, which is not its fault.
    #[error("looking at {}: {source}", .path.display())]
    Inspect {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: latchkey_disk::open::Error,
    },
}

impl Error {
    /// Whether the run was interrupted rather than failed.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Tool { source: latchkey_supervise::Error::Cancelled, .. })
    }
}

fn used(machines: &[PathBuf]) -> String {
    if machines.is_empty() {
        return "a run uses the images; wait for it to end".to_owned();
    }
    let machines: Vec<String> = machines.iter().map(|dir| dir.display().to_string()).collect();
    format!(
        "there are machines over the images: {}; remove those that a run with --keep left, or wait for the run that \
         uses them",
        machines.join(", ")
    )
}

fn mib(n: u64) -> String {
    format!("{n} MiB")
}

/// For `map_err`: an I/O error with what was being done to which file.
pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { doing, path, source }
}

/// For `map_err`: a failed tool with what it was run for.
pub(crate) fn tool(doing: impl Into<String>) -> impl FnOnce(latchkey_supervise::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Tool { doing, source }
}
