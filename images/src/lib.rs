//! Recipes, and the builder that makes images of them: what a machine is before it is provisioned.
//!
//! A recipe (data files under `recipes/`) says which packages, sizes and command line an image has. [`ensure`]
//! gives its [`Image`], from the [`Cache`] when it was built before:
//!
//! 1. **Keys.** [`Pki::ensure`] makes the test parties of this cache once: platform, vendor, community, stranger.
//! 2. **Packages.** apt, with directories of its own and the host's archive, resolves and downloads them. Versions
//!    are remembered once there is an image of them: the same one comes back without asking anybody until [`Refresh::Yes`] asks
//!    again, and after it when what was asked for then could not be built.
//! 3. **System.** mmdebstrap installs them (as root, or in a user namespace), dracut builds the initrd in it.
//! 4. **Boot files.** systemd's stub, kernel, initrd and command line become a UKI; shim gets the vendor's
//!    certificate; everything is signed by whom it would be.
//! 5. **Disk.** GPT, a FAT32 ESP written here, an ext4 root by `mkfs.ext4 -d`, compressed to qcow2. Nothing is
//!    mounted.
//!
//! An image's name in the cache is a hash over recipe, package versions, builder and keys. It appears there by one
//! rename when it is complete; builds take a lock, so two runs never make the same image twice.
//!
//! [`variables`] gives the firmware's variables that go with the keys, [`Image::artefact`] the signed (and wrongly
//! signed) files that scenarios put on machines, [`Image::from_user`] an image that somebody else built.
//!
//! What this crate leaves to others: encrypting the root partition (`latchkey-provision`), everything that runs
//! (`latchkey-machine`), and how progress looks ([`Progress`] is the caller's).

mod boot_files;
mod build;
mod cache;
mod catalogue;
mod drive;
mod error;
mod esp;
mod fat;
mod firmware;
mod image;
mod mirror;
mod packages;
mod pki;
mod progress;
mod recipe;
mod stock;
mod system;
mod uki;
mod user;

pub use boot_files::CERTIFICATE_SBAT;
pub use build::{Refresh, ensure, ensure_with};
pub use cache::Cache;
pub use catalogue::{Built, Listed, current, list, names, package_versions, prune, reference};
pub use drive::{Layout, Place};
pub use error::Error;
pub use firmware::{FirmwareCas, OWNER, later_ovmf, variables};
pub use image::{Image, Manifest, Signing, Trust};
pub use pki::{Party, Pki};
pub use progress::{Progress, Silent, Stage};
pub use recipe::Recipe;
pub use user::{Usable, look};
