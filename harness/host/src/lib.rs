//! Where a machine runs: which QEMU, swtpm and OVMF this computer has, and which accelerator works.
//!
//! [`Host::probe`] answers once and keeps the answer in the cache directory; reading it back costs a few
//! milliseconds and notices by itself when a tool, the firmware, the kernel or `/dev/kvm` changed.
//!
//! What is looked for, and where (the first hit counts):
//!
//! | what | override | then |
//! |---|---|---|
//! | QEMU | `LATCHKEY_QEMU` | `qemu-system-x86_64` on `PATH`, then the [known places](tools::PLACES), `/usr/libexec/qemu-kvm` |
//! | `qemu-img` | `LATCHKEY_QEMU_IMG` | `PATH`, then the known places |
//! | `qemu-storage-daemon` | `LATCHKEY_QEMU_STORAGE_DAEMON` | `PATH`, then the known places |
//! | swtpm | `LATCHKEY_SWTPM` | `PATH`, then the known places |
//! | OVMF | `LATCHKEY_OVMF_CODE` with `LATCHKEY_OVMF_VARS` | QEMU's [firmware descriptors](firmware::DESCRIPTORS), then the [known pairs](firmware::KNOWN_PAIRS) |
//! | accelerator | `LATCHKEY_ACCELERATOR` (`kvm` or `tcg`) | KVM, then TCG |
//!
//! An accelerator is believed only after the firmware really came up in it: `/dev/kvm` can open and QEMU can
//! create a machine that then stops at its first instructions, for ever. The time the firmware takes there
//! becomes [`Host::deadline_scale`], by which every deadline of a run is multiplied.
//!
//! What this crate leaves to others: installing what is missing (`cargo xtask setup`), and running machines.

pub mod firmware;
pub mod tools;

mod accelerator;
mod cache;
mod env;
mod error;
mod host;
mod option;
mod show;
mod trial;

pub use accelerator::{Accelerator, Attempt, Trial};
pub use env::Env;
pub use error::Error;
pub use firmware::{Firmware, SecureBoot};
pub use host::{Host, Refresh};
pub use option::doubled_commas;
pub use tools::{Tool, Tools};
