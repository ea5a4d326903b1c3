//! What a boot came to, and what a scenario concludes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a boot came to. The codes are stable.
///
/// An infrastructure error is not among them: it says nothing about the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The root volume was opened by the TPM alone.
    Unlocked,
    /// Running, no SSH banner, asks for a passphrase.
    FallbackPrompt,
    /// Running, locked, asks for nothing.
    NoPrompt,
    /// Opened with a passphrase typed at the prompt.
    UnlockedByPassphrase,
    /// Opened with a recovery key typed at the prompt.
    UnlockedByRecoveryKey,
    /// The firmware's Secure Boot check refused what it was to start: the first stage, or a kernel that GRUB left to it.
    RefusedByFirmware,
    /// shim refused what it was to start.
    RefusedByShim,
    /// The initrd or the system gave up and offers a shell.
    EmergencyShell,
    /// The firmware found nothing to start.
    NoBootOption,
    /// The machine restarts again and again, and comes to nothing else.
    RestartLoop,
    /// The kernel panicked, or the guest stopped in a way it does not stop by itself.
    Crashed,
}

impl Outcome {
    /// Every outcome, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::Unlocked,
        Self::FallbackPrompt,
        Self::NoPrompt,
        Self::UnlockedByPassphrase,
        Self::UnlockedByRecoveryKey,
        Self::RefusedByFirmware,
        Self::RefusedByShim,
        Self::EmergencyShell,
        Self::NoBootOption,
        Self::RestartLoop,
        Self::Crashed,
    ];

    /// The stable code, as in scenario files and reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unlocked => "unlocked",
            Self::FallbackPrompt => "fallback-prompt",
            Self::NoPrompt => "no-prompt",
            Self::UnlockedByPassphrase => "unlocked-by-passphrase",
            Self::UnlockedByRecoveryKey => "unlocked-by-recovery-key",
            Self::RefusedByFirmware => "refused-by-firmware",
            Self::RefusedByShim => "refused-by-shim",
            Self::EmergencyShell => "emergency-shell",
            Self::NoBootOption => "no-boot-option",
            Self::RestartLoop => "restart-loop",
            Self::Crashed => "crashed",
        }
    }

    /// Whether the root volume is open and the system is up.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Unlocked | Self::UnlockedByPassphrase | Self::UnlockedByRecoveryKey)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// What a scenario's machine comes to in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Conclusion {
    /// It opened by itself in its last boot.
    Open,
    /// It does not open by itself, but these ways in worked.
    Recoverable {
        /// Outcomes that opened it.
        ways: Vec<Outcome>,
    },
    /// The keys held cannot answer, or nothing asks, and the change cannot be undone.
    LockedOut,
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Recoverable { .. } => "recoverable",
            Self::LockedOut => "locked-out",
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn the_code_is_what_serde_writes() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.code());
        }
    }
}
