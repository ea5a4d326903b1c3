//! The keyslots' secrets, by role.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::secret::Secret;

/// What a keyslot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyRole {
    /// The platform's key, sealed in the vTPM. Nobody ever sees it.
    Platform,
    /// The owner's passphrase, typed at the prompt on the serial console.
    FallbackPassphrase,
}

impl KeyRole {
    /// All roles, with their names in scenario files.
    pub const ALL: [(Self, &'static str); 2] =
        [(Self::Platform, "platform"), (Self::FallbackPassphrase, "fallback-passphrase")];
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(role, _)| role == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for KeyRole {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(role, _)| *role).ok_or(())
    }
}

/// The secrets that can be typed, by role. [`KeyRole::Platform`] is never among them: it lives in the vTPM.
#[derive(Debug, Default)]
pub struct Keys(BTreeMap<KeyRole, Secret>);

impl Keys {
    /// Fresh secrets for every role in `roles` that somebody can type.
    #[must_use]
    pub fn generate(roles: &[KeyRole]) -> Self {
        let typed = roles.iter().filter(|role| **role != KeyRole::Platform);
        Self(typed.map(|role| (*role, Secret::generate())).collect())
    }

    /// The secret of `role`, when it is one that can be typed and the machine has it.
    #[must_use]
    pub fn get(&self, role: KeyRole) -> Option<&Secret> {
        self.0.get(&role)
    }

    /// All secrets with their roles.
    pub fn iter(&self) -> impl Iterator<Item = (KeyRole, &Secret)> {
        self.0.iter().map(|(role, secret)| (*role, secret))
    }
}
