//! What the cloud host does before a machine is its owner's: encrypt the root in place, seal the key to the
//! vTPM, hand out keyslots by role.
//!
//! - [`provision`]: all of it, for a machine that is switched off and was never booted
//! - [`luks`]: LUKS2 through libcryptsetup, on a file that is exactly one partition
//! - [`RecoveryKeyInfo`]: a recovery key that a customer's vault wraps, as the VM's guest state keeps it
//! - [`Keys`]: the keyslots' secrets, by role, as long as the run needs them
//!
//! The key is sealed to PCR values that were forecast: nobody has booted the machine yet.
//!
//! What this crate leaves to others: running the machine (`machine`), judging what it does (`scenario`).

mod error;
mod escrow;
mod filesystem;
mod keys;
pub mod luks;
mod offline;
mod seal;
mod secret;

pub use error::Error;
pub use escrow::{EscrowError, RecoveryKeyInfo, Vault};
pub use keys::{KeyRole, Keys};
pub use latchkey_tpm::Parent;
pub use seal::{SealTo, provision, seal_ahead};
pub use secret::Secret;
