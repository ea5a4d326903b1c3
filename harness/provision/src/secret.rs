//! A secret that does not show itself.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rand::rngs::OsRng;
use rand::{Rng, RngCore};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// Characters of a generated passphrase: typed on any console without trouble, and not mistaken for each
/// other on paper.
const ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Yubico's modhex: characters that lie in the same place on most keyboards.
const MODHEX: &[u8; 16] = b"cbdefghijklnrtuv";
/// 31^24 is about 119 bits.
const LENGTH: usize = 24;

/// What opens a keyslot. Prints as `(secret)` and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// As base64, for the file that a saved machine's keys lie in: for its owner alone.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&Zeroizing::new(BASE64_STANDARD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(from)?);
        let bytes = BASE64_STANDARD.decode(&*text).map_err(D::Error::custom)?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

impl Secret {
    /// Takes a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text.into_bytes()))
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
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

    /// As [`Self::generate`], with a tab instead of each dash.
    #[must_use]
    pub fn with_tab() -> Self {
        let mut bytes = Self::generate().0;
        bytes.iter_mut().filter(|byte| **byte == b'-').for_each(|byte| *byte = b'\t');
        Self(bytes)
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
        let mut bytes = Zeroizing::new([0; 16]);
        OsRng.fill_bytes(&mut *bytes);
        Self::of_azure_bytes(&bytes)
    }

    /// These bytes in Azure's text form.
    pub(crate) fn of_azure_bytes(bytes: &[u8; 16]) -> Self {
        // As long as it gets, so that no shorter copy of it stays behind.
        let mut text = String::with_capacity(47);
        for (index, word) in bytes.chunks_exact(2).enumerate() {
            let dash = if index > 0 { "-" } else { "" };
            text.push_str(&format!("{dash}{:05}", u16::from_le_bytes([word[0], word[1]])));
        }
        Self::new(text)
    }

    /// The bytes of a key in Azure's text form; `None` when it is in another.
    pub(crate) fn azure_bytes(&self) -> Option<Zeroizing<[u8; 16]>> {
        let mut bytes = Zeroizing::new([0; 16]);
        let mut groups = self.typed()?.split('-');
        for place in bytes.chunks_exact_mut(2) {
            place.copy_from_slice(&groups.next()?.parse::<u16>().ok()?.to_le_bytes());
        }
        groups.next().is_none().then_some(bytes)
    }

    /// A fresh recovery key in Azure's binary form (cvmutils, `--recovery-key-type binary`): 16 bytes of any value. Some
    /// of them are no character.
    #[must_use]
    pub fn binary_recovery_key() -> Self {
        let mut bytes = Zeroizing::new(vec![0; 16]);
        while std::str::from_utf8(&bytes).is_ok() {
            OsRng.fill_bytes(&mut bytes);
        }
        Self(bytes)
    }

    /// The bytes themselves. They go to a pipe or libcryptsetup, and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The text that is typed on a console; `None` when it is none.
    #[must_use]
    pub fn typed(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
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
        let groups: Vec<&str> = ours.typed().unwrap_or_default().split('-').collect();
        assert_eq!(groups.len(), 8);
        assert!(groups.iter().all(|g| g.len() == 8 && g.bytes().all(|b| MODHEX.contains(&b))), "{groups:?}");
        let groups: Vec<&str> = azure.typed().unwrap_or_default().split('-').collect();
        assert_eq!(groups.len(), 8);
        assert!(groups.iter().all(|g| g.len() == 5 && g.parse::<u16>().is_ok()), "{groups:?}");
    }

    #[test]
    fn nobody_types_a_binary_key() {
        let key = Secret::binary_recovery_key();
        assert_eq!((key.expose().len(), key.typed()), (16, None));
    }

    #[test]
    fn generated_secrets_differ_and_do_not_print() {
        let (one, other) = (Secret::generate(), Secret::generate());
        assert_ne!(one.expose(), other.expose());
        assert_eq!(one.expose().len(), 27);
        assert_eq!(format!("{one:?}"), "(secret)");
    }
}
