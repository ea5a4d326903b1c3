//! What the cloud host does before a machine is its owner's: encrypt the root in place, seal the key to the
//! vTPM, hand out keyslots by role.
//!
//! - [`encrypt_root`], [`forget`]: the root partition of a machine that is switched off
//! - [`enrol`]: the guest seals its own key, in a boot opened with the first one
//! - [`luks`]: LUKS2 through libcryptsetup, on a file that is exactly one partition
//! - [`Keys`]: the keyslots' secrets, by role, as long as the run needs them
//!
//! In this order a machine is provisioned: `encrypt_root` with a random first key, a boot, `enrol`, power-off,
//! `forget`. The boot in the middle is run and judged by `scenario`, like any other.
//!
//! What this crate leaves to others: running the machine (`machine`), judging what it does (`scenario`).

mod enrol;
mod error;
mod filesystem;
mod keys;
pub mod luks;
mod offline;
mod secret;

pub use enrol::enrol;
pub use error::Error;
pub use keys::{KeyRole, Keys};
pub use offline::{encrypt_root, forget};
pub use secret::Secret;
