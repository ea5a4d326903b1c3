//! Where a file is: `esp:/EFI/rocky/shimx64.efi`, `boot:/grub2/grub.cfg`, or `uki`, `kernel`, `initrd`,
//! `uki.extra.d/NAME` for what the image boots.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A file that is read before the root volume is open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Location {
    /// An absolute path on the ESP, with `/` between its parts.
    Esp(String),
    /// An absolute path on the partition with kernels, which the guest mounts at `/boot`.
    Boot(String),
    /// The UKI that the image's boot entry names.
    Uki,
    /// The kernel that the image boots: its UKI, or the one that GRUB starts.
    Kernel,
    /// The initrd that GRUB hands to that kernel.
    Initrd,
    /// A file in the directory beside that UKI from which systemd-stub takes add-ons, credentials and extensions
    /// (`systemd-stub(7)`).
    Beside(String),
}

/// What the place of a file beside the UKI begins with.
const BESIDE: &str = "uki.extra.d/";

/// The name of a file in a directory, a location's last part: one word of printable ASCII without a slash, a quote or a
/// backslash, and neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct FileName(String);

impl FileName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no name of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name for a file: it is one word without a slash, a quote or a backslash")]
pub struct NoFileName(String);

impl TryFrom<String> for FileName {
    type Error = NoFileName;
    fn try_from(text: String) -> Result<Self, NoFileName> {
        match is_sound(&format!("/{text}")) && !text.contains('/') {
            true => Ok(Self(text)),
            false => Err(NoFileName(text)),
        }
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `path` is absolute, and such that a shell and e2fsprogs' debugfs take it for one word.
fn is_sound(path: &str) -> bool {
    path.starts_with('/')
        && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..")
        && path.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '\'' | '"' | '\\'))
}

/// A text that is no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no place for a file: use esp:/PATH or boot:/PATH, or one of uki, kernel, initrd and uki.extra.d/NAME for what \
     the image boots"
)]
pub struct NoLocation(String);

impl FromStr for Location {
    type Err = NoLocation;
    fn from_str(text: &str) -> Result<Self, NoLocation> {
        match text {
            "uki" => return Ok(Self::Uki),
            "kernel" => return Ok(Self::Kernel),
            "initrd" => return Ok(Self::Initrd),
            _ => {}
        }
        if let Some(name) = text.strip_prefix(BESIDE) {
            let name = FileName::try_from(name.to_owned());
            return name.map(|name| Self::Beside(name.0)).map_err(|_| NoLocation(text.to_owned()));
        }
        let path = |volume| text.strip_prefix(volume).filter(|path| is_sound(path)).map(str::to_owned);
        let esp = path("esp:").map(Self::Esp);
        esp.or_else(|| path("boot:").map(Self::Boot)).ok_or_else(|| NoLocation(text.to_owned()))
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
            Self::Boot(path) => write!(f, "boot:{path}"),
            Self::Uki => f.write_str("uki"),
            Self::Kernel => f.write_str("kernel"),
            Self::Initrd => f.write_str("initrd"),
            Self::Beside(name) => write!(f, "{BESIDE}{name}"),
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
    #[case("boot:/grub2/grub.cfg")]
    #[case("uki")]
    #[case("kernel")]
    #[case("initrd")]
    #[case("uki.extra.d/sample.cred")]
    fn round_trips(#[case] text: &str) {
        assert_eq!(text.parse::<Location>().unwrap().to_string(), text);
    }

    #[rstest]
    #[case("")]
    #[case("esp:EFI")]
    #[case("esp:/")]
    #[case("boot:grub2")]
    #[case("esp:/EFI/../x")]
    #[case("esp:/a b")]
    #[case("esp:/it's")]
    #[case("boot:/a\"b")]
    #[case("root:/etc/passwd")]
    #[case("uki.extra.d/")]
    #[case("uki.extra.d/a/b")]
    #[case("uki.extra.d/..")]
    fn is_refused(#[case] text: &str) {
        assert!(text.parse::<Location>().is_err());
    }

    #[rstest]
    #[case("shim_certificate.efi", true)]
    #[case("", false)]
    #[case("..", false)]
    #[case("a/b", false)]
    #[case("two words", false)]
    #[case("x\ndump /vmlinuz /etc/x", false)]
    fn a_name_is_one_word(#[case] text: &str, #[case] sound: bool) {
        assert_eq!(FileName::try_from(text.to_owned()).is_ok(), sound);
    }
}
