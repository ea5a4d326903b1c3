//! swtpm as a process, its recorder, and the facts of its state.
//!
//! - [`Swtpm`]: a TPM for a machine or for TPM tools. Its log comes through a pipe and is parsed while the
//!   machine runs; what a command carried is dropped as it is read, what it *did* is kept as
//!   [`latchkey_record::tpm::TpmExchange`].
//! - [`TpmFacts`]: banks, lockout counter, persistent objects of a TPM that is switched off, asked on a copy
//!   of its state, since the state file itself is opaque.
//! - [`loads`]: whether sealed objects belong to such a TPM, asked the same way.
//! - [`manufacture`], [`allocate_banks`], [`clear`], [`set_lockout`], [`reset_lockout`],
//!   [`wait_out_lockout`], [`copy_state`]: what is done to a TPM that is switched off.
//! - [`seal`]: a secret put under a policy, by a TPM that is switched off.
//! - [`response_words`]: a `TPM_RC` in words.
//!
//! The few commands this crate sends by itself are written by hand ([`latchkey_record::tpm`] cites the
//! specification): they need no C library, no environment variable and no port.
//!
//! What this crate leaves to others: keeping TPM state in step with disk and UEFI variables (`machine`),
//! sealing (`provision`), judging what a record means (`scenario`).

mod bytes;
mod command;
mod error;
mod facts;
mod loads;
mod log;
mod offline;
mod recorder;
mod response;
mod seal;
mod swtpm;

pub use error::Error;
pub use facts::{LockoutFacts, PersistentObject, TpmFacts};
pub use loads::{Keepsake, Under, loads};
pub use log::{LogEvent, LogParser};
pub use offline::{
    allocate_banks, clear, copy_state, manufacture, reset_lockout, set_lockout, wait_out_lockout,
};
pub use recorder::RecorderPast;
pub use response::response_words;
pub use seal::{Parent, SealedObject, seal};
pub use swtpm::{Channel, Swtpm};
