//! A variable's value as scenarios write it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a value that is text begins with.
const TEXT: &str = "text:";
/// What boot options begin with.
const OPTIONS: &str = "options:";

/// Bytes, written as hexadecimal digits, as text or as boot options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Value {
    said: String,
    bytes: Vec<u8>,
}

/// A text that is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no value: write boot options as efibootmgr does, such as \"options:0003,0001\", text as \"text:7\", or bytes as \
     pairs of hexadecimal digits, such as \"0100\""
)]
pub struct NoValue(String);

impl Value {
    /// The bytes of the variable.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Numbers of boot options, four hexadecimal digits each, as the variable has them: two bytes, the lower one first (UEFI 2.10,
/// section 3.3, `BootOrder`).
fn options(text: &str) -> Option<Vec<u8>> {
    let number = |digits: &str| {
        let four = digits.len() == 4 && digits.bytes().all(|c| c.is_ascii_hexdigit());
        four.then(|| u16::from_str_radix(digits, 16).ok()).flatten().map(u16::to_le_bytes)
    };
    Some(text.split(',').map(number).collect::<Option<Vec<_>>>()?.concat())
}

impl FromStr for Value {
    type Err = NoValue;
    fn from_str(text: &str) -> Result<Self, NoValue> {
        let bytes = match (text.strip_prefix(TEXT), text.strip_prefix(OPTIONS)) {
            (Some(text), _) => Some(text.as_bytes().to_vec()),
            (_, Some(numbers)) => options(numbers),
            _ => hex::decode(text).ok(),
        };
        let bytes = bytes.ok_or_else(|| NoValue(text.to_owned()))?;
        Ok(Self { said: text.to_owned(), bytes })
    }
}

impl TryFrom<String> for Value {
    type Error = NoValue;
    fn try_from(text: String) -> Result<Self, NoValue> {
        text.parse()
    }
}

impl From<Value> for String {
    fn from(value: Value) -> Self {
        value.said
    }
}

/// As it stands in the scenario; of boot options their numbers.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.said.strip_prefix(OPTIONS).unwrap_or(&self.said))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::bytes("0100", Some(vec![1, 0]), "0100")]
    #[case::none("", Some(vec![]), "")]
    #[case::text("text:7", Some(b"7".to_vec()), "text:7")]
    #[case::one_option("options:0001", Some(vec![1, 0]), "0001")]
    #[case::options("options:0003,00AB", Some(vec![3, 0, 0xab, 0]), "0003,00AB")]
    #[case::half_a_byte("010", None, "")]
    #[case::no_option("options:", None, "")]
    #[case::option_without_zeros("options:1", None, "")]
    #[case::option_with_a_sign("options:+001", None, "")]
    fn a_value_is_written_as_people_read_it(
        #[case] text: &str,
        #[case] bytes: Option<Vec<u8>>,
        #[case] shown: &str,
    ) {
        let value = text.parse::<Value>();
        assert_eq!(value.as_ref().ok().map(|value| value.bytes().to_vec()), bytes);
        if let Ok(value) = value {
            assert_eq!((value.to_string().as_str(), String::from(value).as_str()), (shown, text));
        }
    }
}
