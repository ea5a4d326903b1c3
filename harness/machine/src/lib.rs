//! A machine that runs: QEMU, console, QMP, network, and how it is switched on and off.
//!
//! A [`Machine`] is switched off; its disk overlay, UEFI variables and TPM state are one unit in one directory.
//! [`Machine::start`] turns it into a [`Running`] machine, which gives it back when it is switched off:
//!
//! ```text
//!  Machine::create | open | copy --> Machine --start--> Running --power_off | cut_power--> Ended { machine, .. }
//!                                                          |
//!                             wait_until | wait_for | guest | wait_for_reset | observe
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`console`] | the serial console: recording, patterns, typing |
//! | [`qmp`] | QEMU's control channel |
//!
//! [`Machine::save`] and [`Running::save`] turn it into a [`Saved`] machine, which is never written to again and can be
//! forked any number of times: a running one in a second, with its memory, its TPM's PCRs and what its witnesses saw.
//!
//! Who may be killed at any time: everything. QEMU and swtpm die with the harness; a machine whose [`Running`] is
//! dropped loses its power.
//!
//! What this crate leaves to others: what a boot's [`Observation`] means, and everything about scenarios.

pub mod console;
pub mod qmp;

mod attach;
mod banner;
mod bell;
mod by_hand;
mod credential;
mod error;
mod hardware;
mod machine;
mod observation;
mod platform;
mod power;
mod qemu;
mod running;
mod saved;
mod ssh;
mod wait;

pub use banner::SshBanner;
pub use credential::Credential;
pub use error::{Error, Part};
pub use hardware::{DiskBus, Hardware, HotPlug, TpmDevice};
pub use latchkey_disk::Format;
pub use machine::{Machine, NewMachine, Offline};
pub use observation::Observation;
pub use platform::pei_volume;
pub use power::{Ended, PowerOff};
pub use qemu::board_and_processor;
pub use running::Running;
pub use saved::{Forked, Saved};
pub use ssh::GuestOutput;
