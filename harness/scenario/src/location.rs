//! Where a file is: `esp:/EFI/rocky/shimx64.efi`, or `uki` for the one that the image boots.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A file on the EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Location {
    /// An absolute path on the ESP, with `/` between its parts.
    Esp(String),
    /// The UKI that the image's boot entry names.
    Uki,
}

/// A text that is no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no place for a file: use esp:/PATH, or uki for the UKI that the image boots")]
pub struct NoLocation(String);

impl FromStr for Location {
    type Err = NoLocation;
    fn from_str(text: &str) -> Result<Self, NoLocation> {
        if text == "uki" {
            return Ok(Self::Uki);
        }
        let sound = |path: &&str| {
            path.starts_with('/')
                && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..")
                && path.chars().all(|c| c.is_ascii_graphic() && c != '\'' && c != '\\')
        };
        let path = text.strip_prefix("esp:").filter(sound).ok_or_else(|| NoLocation(text.to_owned()))?;
        Ok(Self::Esp(path.to_owned()))
    }
}

impl TryFrom<String> for Location {
    type Error = NoLocation;
    fn try_from(text: String) -> Result<Self, NoLocation> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.to_string()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Esp(path) => write!(f, "esp:{path}"),
            Self::Uki => f.write_str("uki"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("esp:/EFI/rocky/shimx64.efi")]
    #[case("uki")]
    fn round_trips(#[case] text: &str) {
        assert_eq!(text.parse::<Location>().unwrap().to_string(), text);
    }

    #[rstest]
    #[case("")]
    #[case("esp:EFI")]
    #[case("esp:/")]
    #[case("esp:/EFI/../x")]
    #[case("esp:/a b")]
    #[case("esp:/it's")]
    #[case("root:/etc/passwd")]
    fn is_refused(#[case] text: &str) {
        assert!(text.parse::<Location>().is_err());
    }
}
