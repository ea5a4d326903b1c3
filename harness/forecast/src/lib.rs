//! The boot chain as a value: from disk, UEFI variables, TPM and firmware to the exact list of measurements and the
//! outcome, without booting.
//!
//! [`forecast`] takes a [`Target`] (everything that a boot depends on, as values) and gives a
//! [`latchkey_record::Forecast`]. It walks the chain in boot order, one module a stage:
//!
//! | module | stage |
//! |---|---|
//! | [`firmware`] | OVMF up to the boot loader, Secure Boot verification, and the end of boot services |
//! | [`shim`] | shim: SbatLevel, certificate files, MOK state, verification, `fbx64` and its reset |
//! | [`grub`] | GRUB's scripts, PCR 8 and 9 |
//! | [`stub`] | systemd-stub in a UKI |
//! | [`kernel`] | the kernel's EFI stub |
//! | [`userspace`] | systemd in the initrd and after it |
//! | [`initrd`] | what an initrd has for opening the root volume |
//! | [`cryptsetup`] | which token frees the volume key, and what happens when none does |
//!
//! [`align()`] holds a forecast against what a TPM recorder saw, [`against_log`] against the event log of a machine that is
//! elsewhere.
//!
//! What a stage cannot model it declares ([`Chain::unmodelled`]); it never guesses. Nothing here was learnt from booting
//! the machine that is forecast; the one constant that needs a measurement, the digest of the firmware's PEI volume,
//! is measured without a disk and handed in as part of [`Platform`].
//!
//! What this crate leaves to others: reading disks and TPMs (the caller hands in values and a [`Volume`]), QEMU, time.

mod ahead;
pub mod align;
mod chain;
mod command_line;
pub mod cryptsetup;
pub mod firmware;
pub mod grub;
pub mod initrd;
pub mod kernel;
mod logged;
mod memo;
mod options;
pub mod shim;
pub mod stub;
mod target;
mod trust;
pub mod userspace;

pub use align::align;
pub use chain::{Chain, End, HandOver, Image, KernelStart, MeasuredUki, Next, UserspaceStart, pcrs_after};
pub use initrd::Initrd;
pub use logged::against_log;
pub use memo::Memo;
pub use target::{
    BootDisk, Keyboard, Platform, RootVolume, Target, TokenFact, TpmState, Unreadable, Volume, VolumeError,
    Without,
};

use latchkey_disk::VarStore;
use latchkey_record::Forecast;

/// How many images may start one another, and how often the machine may reset, before something runs in circles.
const MOST_STEPS: usize = 16;

/// Why there is no forecast.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file system could not be read.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// What the next boot of `target` measures and comes to.
///
/// # Errors
/// [`Error::Volume`] when a file system cannot be read. Everything that a real machine would stumble over (damaged files,
/// refused signatures, a chain that runs in circles) is told by the forecast, and is no error.
pub fn forecast(target: &Target<'_>) -> Result<Forecast, Error> {
    forecast_again(target, &Memo::hasty())
}

/// As [`forecast`], without computing again what `memo` has of the same bytes; what is computed goes into it.
///
/// # Errors
/// As [`forecast`].
pub fn forecast_again(target: &Target<'_>, memo: &Memo) -> Result<Forecast, Error> {
    Ok(foresee(target, memo)?.0)
}

/// As [`forecast_again`], with the UEFI variables that the boot leaves to the next one.
///
/// # Errors
/// As [`forecast`].
pub fn foresee(target: &Target<'_>, memo: &Memo) -> Result<(Forecast, VarStore), Error> {
    let mut chain = Chain::new(target, memo);
    let mut next = Next::Firmware;
    for _ in 0..MOST_STEPS {
        next = match next {
            Next::Firmware => firmware::start(&mut chain)?,
            Next::Shim(image) => shim::run(&mut chain, &image)?,
            Next::Grub(image, shim) => grub::run(&mut chain, &image, *shim)?,
            Next::Stub(image, shim) => stub::run(&mut chain, &image, *shim)?,
            Next::Returned(why) => firmware::again(&mut chain, why)?,
            Next::Kernel(start) => kernel::run(&mut chain, &start)?,
            Next::Userspace(start) => userspace::run(&mut chain, &start)?,
            Next::Reset => chain.reset().map_or(Next::Firmware, Next::End),
            Next::End(end) => return Ok(chain.finish(end)),
        };
        if let Some(why) = chain.doubt.take() {
            return Ok(chain.finish(cryptsetup::unknown(why)));
        }
    }
    let because = format!("after {MOST_STEPS} programs and resets there is still no end");
    Ok(chain.finish(End { outcome: None, because, reported_by: None }))
}
