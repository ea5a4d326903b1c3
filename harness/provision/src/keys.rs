//! The keyslots' secrets, by role.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// What a keyslot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyRole {
    /// The platform's key, sealed in the vTPM. Nobody ever sees it.
    Platform,
    /// The owner's passphrase, typed at the prompt on the serial console.
    FallbackPassphrase,
    /// systemd's recovery key: 256 bits as eight groups of eight modhex characters, with a token that says what it is.
    RecoveryKey,
    /// The recovery key in Azure's published form: 128 bits as eight groups of five digits.
    AzureRecoveryKey,
    /// Azure's recovery key of a disk whose key its customer manages: it is nowhere but in the VM's guest state, wrapped with a
    /// key in the customer's vault. A local RSA key stands for that.
    WrappedRecoveryKey,
    /// The recovery key in the form that cvmutils has when it is asked for the binary one: 16 bytes of any value, which
    /// nobody can type. It opens the disk on another machine.
    BinaryRecoveryKey,
    /// A passphrase that its owner adds later, in the guest.
    AddedPassphrase,
    /// A passphrase that has a keyslot and that nobody holds any more: something asks for it, for ever.
    LostPassphrase,
    /// A passphrase with a tab in it, as one that was pasted out of a sheet: the prompt takes the tab for a wish not to see
    /// what is typed (systemd, `src/shared/ask-password-api.c`), so that it opens nothing there.
    PassphraseWithTab,
    /// A passphrase that opens nothing.
    WrongPassphrase,
}

impl KeyRole {
    /// Whether it is a recovery key, of whatever form.
    #[must_use]
    pub fn is_recovery(self) -> bool {
        matches!(
            self,
            Self::RecoveryKey | Self::AzureRecoveryKey | Self::WrappedRecoveryKey | Self::BinaryRecoveryKey
        )
    }

    /// Whether somebody can type it at a prompt.
    #[must_use]
    pub fn can_be_typed(self) -> bool {
        !matches!(self, Self::Platform | Self::BinaryRecoveryKey | Self::LostPassphrase)
    }

    /// Whether it comes through the prompt as it was typed.
    #[must_use]
    pub fn survives_prompt(self) -> bool {
        self.can_be_typed() && !matches!(self, Self::PassphraseWithTab | Self::WrongPassphrase)
    }

    /// Whether a machine can have it before its first boot.
    #[must_use]
    pub fn is_handed_out(self) -> bool {
        !matches!(self, Self::AddedPassphrase | Self::WrongPassphrase)
    }

    /// A fresh secret for it; `None` for the platform's, which nobody ever sees, and for those that no new machine has.
    fn fresh(self) -> Option<Secret> {
        match self {
            Self::Platform | Self::AddedPassphrase | Self::WrongPassphrase => None,
            Self::FallbackPassphrase | Self::LostPassphrase => Some(Secret::generate()),
            Self::PassphraseWithTab => Some(Secret::with_tab()),
            Self::RecoveryKey => Some(Secret::recovery_key()),
            Self::AzureRecoveryKey | Self::WrappedRecoveryKey => Some(Secret::azure_recovery_key()),
            Self::BinaryRecoveryKey => Some(Secret::binary_recovery_key()),
        }
    }
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Platform => "platform",
            Self::FallbackPassphrase => "fallback-passphrase",
            Self::RecoveryKey => "recovery-key",
            Self::AzureRecoveryKey => "azure-recovery-key",
            Self::WrappedRecoveryKey => "wrapped-recovery-key",
            Self::BinaryRecoveryKey => "binary-recovery-key",
            Self::AddedPassphrase => "added-passphrase",
            Self::LostPassphrase => "lost-passphrase",
            Self::PassphraseWithTab => "passphrase-with-tab",
            Self::WrongPassphrase => "wrong-passphrase",
        })
    }
}

/// The secrets that people hold, by role. [`KeyRole::Platform`] is never among them: it lives in the vTPM.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Keys(BTreeMap<KeyRole, Secret>);

impl Keys {
    /// Fresh secrets for every role in `roles` that somebody holds.
    #[must_use]
    pub fn generate(roles: &[KeyRole]) -> Self {
        Self(roles.iter().filter_map(|role| Some((*role, role.fresh()?))).collect())
    }

    /// The secret of `role`, when it is one that somebody holds and the machine has it.
    #[must_use]
    pub fn get(&self, role: KeyRole) -> Option<&Secret> {
        self.0.get(&role)
    }

    /// Gives somebody the secret of `role`.
    pub fn add(&mut self, role: KeyRole, secret: Secret) {
        self.0.insert(role, secret);
    }

    /// Takes the secret of `role` away.
    pub fn remove(&mut self, role: KeyRole) {
        self.0.remove(&role);
    }

    /// All secrets with their roles.
    pub fn iter(&self) -> impl Iterator<Item = (KeyRole, &Secret)> {
        self.0.iter().map(|(role, secret)| (*role, secret))
    }
}
