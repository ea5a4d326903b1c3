//! A secret that does not show itself.

use std::fmt;

use rand::Rng;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

/// Characters of a generated passphrase: typed on any console without trouble, and not mistaken for each
/// other on paper.
const ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Yubico's modhex: characters that lie in the same place on most keyboards.
const MODHEX: &[u8; 16] = b"cbdefghijklnrtuv";
/// 31^24 is about 119 bits.
const LENGTH: usize = 24;

/// A passphrase. Prints as `(secret)` and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// A fresh random passphrase that can be typed: groups of six, about 119 bits.
    #[must_use]
    pub fn generate() -> Self {
        let mut text = String::with_capacity(LENGTH + LENGTH / 6);
        for i in 0..LENGTH {
            if i > 0 && i % 6 == 0 {
                text.push('-');
            }
            text.push(char::from(ALPHABET[OsRng.gen_range(0..ALPHABET.len())]));
        }
        Self::new(text)
    }

    /// A fresh recovery key as systemd makes it (`src/shared/recovery-key.c`): 32 random bytes, each as two modhex
    /// characters, in groups of eight.
    #[must_use]
    pub fn recovery_key() -> Self {
        let mut text = String::with_capacity(71);
        for i in 0..32 {
            if i > 0 && i % 4 == 0 {
                text.push('-');
            }
            let byte: u8 = OsRng.r#gen();
            text.push(char::from(MODHEX[usize::from(byte >> 4)]));
            text.push(char::from(MODHEX[usize::from(byte & 15)]));
        }
        Self::new(text)
    }

    /// A fresh recovery key in Azure's text form (cvmutils, `--recovery-key-type text`): 16 random bytes as eight
    /// little-endian words of five digits each.
    #[must_use]
    pub fn azure_recovery_key() -> Self {
        let mut text = String::with_capacity(47);
        for i in 0..8 {
            if i > 0 {
                text.push('-');
            }
            let word: u16 = OsRng.r#gen();
            text.push_str(&format!("{word:05}"));
        }
        Self::new(text)
    }

    /// The text itself. It goes to a console, a pipe or libcryptsetup, and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_keys_have_the_forms_that_people_are_given() {
        let (ours, azure) = (Secret::recovery_key(), Secret::azure_recovery_key());
        let groups: Vec<&str> = ours.expose().split('-').collect();
        assert_eq!(groups.len(), 8);
        assert!(groups.iter().all(|g| g.len() == 8 && g.bytes().all(|b| MODHEX.contains(&b))), "{groups:?}");
        let groups: Vec<&str> = azure.expose().split('-').collect();
        assert_eq!(groups.len(), 8);
        assert!(groups.iter().all(|g| g.len() == 5 && g.parse::<u16>().is_ok()), "{groups:?}");
    }

    #[test]
    fn generated_secrets_differ_and_do_not_print() {
        let (one, other) = (Secret::generate(), Secret::generate());
        assert_ne!(one.expose(), other.expose());
        assert_eq!(one.expose().len(), 27);
        assert_eq!(format!("{one:?}"), "(secret)");
    }
}
