//! The named patterns of a serial console: what a boot shows of itself.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something recognised on the serial console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// The firmware starts a boot option.
    FirmwareStarts,
    /// The firmware refused a boot option: Secure Boot.
    FirmwareRefusal,
    /// The firmware found nothing to start.
    NoBootOption,
    /// The firmware's shell.
    FirmwareShell,
    /// `fbx64` restores boot entries and will reset the machine.
    BootOptionRestoration,
    /// shim's box: verification failed. It waits for a key.
    ShimRefusal,
    /// shim gave up and will power off.
    ShimFatal,
    /// `MokManager`'s menu. It waits for a key.
    MokManager,
    /// GRUB was refused a kernel by shim.
    GrubRefusal,
    /// GRUB had the firmware load a kernel, and the firmware did not: Secure Boot.
    KernelNotLoaded,
    /// The kernel's first line.
    KernelStarts,
    /// The kernel panicked.
    KernelPanic,
    /// systemd found that the TPM's policy does not match.
    PolicyMismatch,
    /// systemd gives up on the TPM and turns to passphrases.
    TpmFallback,
    /// The TPM is in dictionary-attack lockout.
    TpmLockout,
    /// A passphrase is asked for.
    PassphrasePrompt,
    /// A recovery key is asked for, alone or besides a passphrase.
    RecoveryKeyPrompt,
    /// What was typed opened nothing.
    WrongPassphrase,
    /// systemd stopped asking.
    TooManyAttempts,
    /// No keyslot takes anything typed, so nothing is asked.
    NoPassphraseRegistered,
    /// An emergency or rescue shell.
    EmergencyShell,
    /// The login prompt.
    Login,
    /// The machine was reset so often without anything else decisive that it will be for ever: told by QEMU, not by the
    /// console.
    RestartLoop,
    /// The kernel powers off.
    PowersOff,
    /// The kernel restarts the machine.
    Restarts,
}

impl Pattern {
    /// In a few words, for milestones and messages.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::FirmwareStarts => "the firmware starts a boot option",
            Self::FirmwareRefusal => "the firmware refuses a boot option",
            Self::NoBootOption => "the firmware finds nothing to start",
            Self::FirmwareShell => "the firmware's shell",
            Self::BootOptionRestoration => "fbx64 restores boot entries",
            Self::ShimRefusal => "shim's box: verification failed",
            Self::ShimFatal => "shim gives up",
            Self::MokManager => "MokManager waits for a key",
            Self::GrubRefusal => "GRUB was refused a kernel",
            Self::KernelNotLoaded => "the firmware loads no kernel for GRUB",
            Self::KernelStarts => "the kernel starts",
            Self::KernelPanic => "the kernel panics",
            Self::PolicyMismatch => "the TPM's policy does not match",
            Self::TpmFallback => "systemd gives up on the TPM",
            Self::TpmLockout => "the TPM is in lockout",
            Self::PassphrasePrompt => "asks for a passphrase",
            Self::RecoveryKeyPrompt => "asks for a recovery key",
            Self::WrongPassphrase => "what was typed opens nothing",
            Self::TooManyAttempts => "stops asking",
            Self::NoPassphraseRegistered => "asks for nothing: no keyslot takes a passphrase",
            Self::EmergencyShell => "an emergency shell",
            Self::Login => "login prompt",
            Self::RestartLoop => "restarts again and again",
            Self::PowersOff => "powers off",
            Self::Restarts => "restarts",
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// A pattern that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConsoleEvent {
    /// Milliseconds from the machine's power-on.
    pub at_ms: u64,
    /// What was recognised.
    pub pattern: Pattern,
    /// The text that was recognised, cleaned of escapes, on one line.
    pub text: String,
}
