//! What the cloud host does before a machine is its owner's: encrypt the root in place, seal the key to the
//! vTPM, hand out keyslots by role.
//!
//! - [`luks`]: LUKS2 through libcryptsetup, offline, on a file that is exactly one partition
//! - [`Keys`]: the keyslots' secrets, by role, as long as the run needs them
//! - [`provision`]: an image becomes a machine
//!
//! What this crate leaves to others: running the machine (`machine`), judging what it does (`scenario`).

mod error;
mod filesystem;
mod keys;
pub mod luks;
mod secret;

pub use error::Error;
pub use keys::{KeyRole, Keys};
pub use secret::Secret;
