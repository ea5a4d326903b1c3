//! What can go wrong while provisioning.

use std::path::PathBuf;

/// Provisioning failed. Says nothing about the image, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libcryptsetup refused.
    #[error("{what} {device}: {source}")]
    Luks {
        /// What was being done.
        what: &'static str,
        /// To which partition's file.
        device: PathBuf,
        /// What libcryptsetup said.
        source: libcryptsetup_rs::LibcryptErr,
    },
    /// Removing the keyslot would leave none.
    #[error("{0} has one keyslot left; removing it would lose the data for ever")]
    LastKeyslot(PathBuf),
    /// A file could not be read or written.
    #[error("{what} {path}: {source}")]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The root partition holds something that cannot be encrypted in place.
    #[error("the root partition {0} holds neither ext4 nor XFS; only these can be encrypted in place so far")]
    FileSystem(PathBuf),
    /// The root partition's file system cannot be made smaller.
    #[error(
        "the XFS on the root partition {0} leaves no 32 MiB free behind it, which the LUKS2 header takes, and XFS cannot be \
         made smaller: build the image with a partition that is larger than its file system"
    )]
    NoRoom(PathBuf),
    /// The root partition's ext4 is not sound, so that it cannot be made smaller.
    #[error("checking the file system on the root partition {device} with e2fsck: {found}\n{said}")]
    Damaged {
        /// The partition's file.
        device: PathBuf,
        /// Its exit code, and what that means.
        found: String,
        /// The last of what it said.
        said: String,
    },
    /// There is no root partition to encrypt.
    #[error(
        "the disk has no partition of the discoverable root type 4f68bce3-e8cd-4db1-96e7-fbcaf984b709, which is what \
         a confidential VM's host encrypts; `cargo xtask image inspect` shows what there is"
    )]
    NoRoot,
    /// The disk could not be opened.
    #[error(transparent)]
    Disk(#[from] latchkey_disk::open::Error),
    /// The machine failed.
    #[error(transparent)]
    Machine(#[from] latchkey_machine::Error),
    /// A PCR that the key shall be sealed to has no known value.
    #[error(
        "the key cannot be sealed before the first boot: the forecast does not tell the value of PCR {0}"
    )]
    UnknownPcr(String),
    /// No boot chain, or more than there is room for.
    #[error("a machine is sealed to one boot chain or up to 16, not to {0}")]
    Chains(usize),
    /// The root partition's LUKS2 header cannot be read.
    #[error(transparent)]
    Header(#[from] latchkey_disk::luks::Error),
    /// The machine's platform key is not sealed to any boot chain yet.
    #[error("the root partition has no token of a TPM's, so it cannot be sealed to one more boot chain")]
    NoToken,
    /// A tool refused.
    #[error("preparing the root partition: {0}")]
    Tool(#[from] latchkey_supervise::Error),
}
