//! A secret that does not show itself.

use std::fmt;

use rand::Rng;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

/// Characters of a generated passphrase: typed on any console without trouble, and not mistaken for each
/// other on paper.
const ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
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
    fn generated_secrets_differ_and_do_not_print() {
        let (one, other) = (Secret::generate(), Secret::generate());
        assert_ne!(one.expose(), other.expose());
        assert_eq!(one.expose().len(), 27);
        assert_eq!(format!("{one:?}"), "(secret)");
    }
}
