//! PCR indices, hash algorithms, digests and bank values.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value that is not what its type says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PcrError {
    /// PC Client TPMs have PCR 0 to 23 (TCG PC Client Platform TPM Profile, section 4.6).
    #[error("there is no PCR {0}: a PC Client TPM has 0 to 23")]
    Index(u32),
    /// Not one of the four algorithms that PC Client banks use.
    #[error("`{0}` is no PCR bank: use sha1, sha256, sha384 or sha512")]
    Algorithm(String),
    /// A digest's length does not fit its algorithm.
    #[error("a {alg} digest has {expected} bytes, not {found}")]
    Length {
        /// The algorithm.
        alg: HashAlg,
        /// Bytes it makes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A digest's text is not `ALG:HEX`.
    #[error("`{0}` is no digest: expected ALG:HEX")]
    Text(String),
}

/// The number of a platform configuration register, 0 to 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(into = "u32")]
#[schemars(with = "u32")]
pub struct PcrIndex(u8);

impl<'de> Deserialize<'de> for PcrIndex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl serde::de::Visitor<'_> for Number {
            type Value = PcrIndex;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of a PCR, 0 to 23")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<PcrIndex, E> {
                let unsigned = serde::de::Unexpected::Unsigned(number);
                let number = u32::try_from(number).map_err(|_| E::invalid_value(unsigned, &self))?;
                PcrIndex::new(number).map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<PcrIndex, E> {
                let unsigned = serde::de::Unexpected::Signed(number);
                let number = u64::try_from(number).map_err(|_| E::invalid_value(unsigned, &self))?;
                self.visit_u64(number)
            }
        }
        deserializer.deserialize_u32(Number)
    }
}

impl PcrIndex {
    /// How many there are.
    pub const COUNT: u32 = 24;

    /// Checks the range.
    ///
    /// # Errors
    /// [`PcrError::Index`] beyond 23.
    pub fn new(index: u32) -> Result<Self, PcrError> {
        u8::try_from(index)
            .ok()
            .filter(|i| u32::from(*i) < Self::COUNT)
            .map(Self)
            .ok_or(PcrError::Index(index))
    }

    /// The plain number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    /// Whether it says something about a change. IMA extends 10 all through the boot, in no fixed order; 16 and 23 are for
    /// debugging and applications, 17 to 22 for dynamic launch.
    #[must_use]
    pub fn is_compared(self) -> bool {
        matches!(self.0, 0..=9 | 11..=15)
    }

    /// What it holds at start-up: ones for 17 to 22, which only a dynamic launch resets, zeros elsewhere
    /// (TCG PC Client Platform TPM Profile, table of PCR initial values).
    #[must_use]
    pub fn start_value(self, alg: HashAlg) -> Digest {
        let byte = if (17..=22).contains(&self.0) { 0xff } else { 0 };
        Digest { alg, bytes: vec![byte; alg.size()] }
    }
}

impl From<PcrIndex> for u32 {
    fn from(index: PcrIndex) -> Self {
        Self::from(index.0)
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hash algorithm that a PCR bank can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HashAlg {
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl HashAlg {
    /// All of them, weakest first.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Bytes of a digest.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// `TPM_ALG_ID` (TPM 2.0 Library, part 2, table 9).
    #[must_use]
    pub fn tpm_id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// The algorithm with this `TPM_ALG_ID`, when it is one of the four.
    #[must_use]
    pub fn from_tpm_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|alg| alg.tpm_id() == id)
    }
}

impl fmt::Display for HashAlg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        })
    }
}

impl FromStr for HashAlg {
    type Err = PcrError;
    fn from_str(text: &str) -> Result<Self, PcrError> {
        Self::ALL
            .into_iter()
            .find(|alg| alg.to_string() == text)
            .ok_or_else(|| PcrError::Algorithm(text.to_owned()))
    }
}

/// A digest and the algorithm that made it; written `sha256:0123...`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Digest {
    alg: HashAlg,
    bytes: Vec<u8>,
}

impl Digest {
    /// Takes `bytes` as a digest of `alg`.
    ///
    /// # Errors
    /// [`PcrError::Length`] when their number is not [`HashAlg::size`].
    pub fn new(alg: HashAlg, bytes: &[u8]) -> Result<Self, PcrError> {
        if bytes.len() == alg.size() {
            Ok(Self { alg, bytes: bytes.to_vec() })
        } else {
            Err(PcrError::Length { alg, expected: alg.size(), found: bytes.len() })
        }
    }

    /// What made it.
    #[must_use]
    pub fn alg(&self) -> HashAlg {
        self.alg
    }

    /// Its [`HashAlg::size`] bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Lower-case hex, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(&self.bytes)
    }

    /// The first eight hex digits, for tables.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.bytes[..4])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.alg, self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = PcrError;
    fn try_from(text: String) -> Result<Self, PcrError> {
        text.parse()
    }
}

impl FromStr for Digest {
    type Err = PcrError;
    fn from_str(text: &str) -> Result<Self, PcrError> {
        let (alg, digits) = text.split_once(':').ok_or_else(|| PcrError::Text(text.to_owned()))?;
        let bytes = hex::decode(digits).map_err(|_| PcrError::Text(text.to_owned()))?;
        Self::new(alg.parse()?, &bytes)
    }
}

/// The values of one bank, for the PCRs that are known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct PcrValues(pub BTreeMap<PcrIndex, Digest>);

impl PcrValues {
    /// The PCRs that both know and on which they differ, ascending.
    #[must_use]
    pub fn moved_since(&self, earlier: &Self) -> Vec<PcrIndex> {
        self.0
            .iter()
            .filter(|(index, now)| earlier.0.get(index).is_some_and(|then| then != *now))
            .map(|(index, _)| *index)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn text_round_trips_and_nonsense_is_refused() {
        let digest = Digest::new(HashAlg::Sha1, &[7; 20]).unwrap();
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        for bad in ["", "sha1", "sha1:", "sha1:zz", "sha3:00", "sha256:0707"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(PcrIndex::new(23).is_ok() && PcrIndex::new(24).is_err());
    }

    #[test]
    fn numbers_of_pcrs_are_read_and_others_refused() {
        let read = serde_json::from_str::<PcrIndex>;
        assert_eq!(read("23").unwrap().get(), 23);
        for bad in ["24", "-1", "5000000000", "\"4\"", "4.0", "null"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("0 to 23") || error.contains("24"), "{bad}: {error}");
        }
        let keys = serde_json::from_str::<BTreeMap<PcrIndex, u8>>(r#"{"7": 1}"#).unwrap();
        assert_eq!(keys.keys().map(|pcr| pcr.get()).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn moved_names_what_both_know_and_differs() {
        let bank = |pairs: &[(u32, u8)]| {
            PcrValues(
                pairs
                    .iter()
                    .map(|(i, b)| {
                        (PcrIndex::new(*i).unwrap(), Digest::new(HashAlg::Sha256, &[*b; 32]).unwrap())
                    })
                    .collect(),
            )
        };
        let moved = bank(&[(4, 1), (7, 2), (9, 3)]).moved_since(&bank(&[(4, 1), (7, 9), (11, 0)]));
        assert_eq!(moved, [PcrIndex::new(7).unwrap()]);
    }
}
