//! Building an add-on: a PE image beside a UKI that only carries more command line.
//!
//! systemd-stub (`load_addons`, from 254 on) has the firmware load such a file as any image it would start, so that it is
//! verified and measured, takes its section `.cmdline`, and never starts it (`systemd-stub(7)`).

use crate::pe_build::{self, DOES_NOTHING, Part};
use crate::{sbat, sign};

/// Why an add-on could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The SBAT text is malformed.
    #[error(transparent)]
    Sbat(#[from] sbat::Error),
    /// There is nothing to carry.
    #[error("building an add-on: it needs a command line and at least one line of SBAT")]
    Empty,
    /// The contents are more than an image can hold.
    #[error(transparent)]
    Image(#[from] sign::Error),
}

/// An add-on with `command_line` and `sbat_csv` as its SBAT metadata, for x86-64 and any kernel release, not signed yet.
///
/// # Errors
/// [`Error`] when either is empty, or the SBAT text malformed.
pub fn build(command_line: &str, sbat_csv: &str) -> Result<Vec<u8>, Error> {
    if command_line.is_empty() || sbat::parse(sbat_csv.as_bytes())?.is_empty() {
        return Err(Error::Empty);
    }
    let sections = [
        Part::code(".text", &DOES_NOTHING),
        Part::data(".sbat", sbat_csv.as_bytes()),
        Part::data(".cmdline", command_line.as_bytes()),
    ];
    Ok(pe_build::application(&sections)?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::PeImage;

    const SBAT: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";

    #[test]
    fn it_carries_what_it_was_given() {
        let bytes = build("quiet", SBAT).unwrap();
        let image = PeImage::parse(&bytes).unwrap();
        assert_eq!(image.section(".cmdline"), Some(&b"quiet"[..]));
        assert_eq!(image.section(".sbat"), Some(SBAT.as_bytes()));
        assert!(image.section(".linux").is_none());
    }

    #[test]
    fn nothing_is_no_add_on() {
        assert!(matches!(build("", SBAT), Err(Error::Empty)));
        assert!(matches!(build("quiet", ""), Err(Error::Empty | Error::Sbat(_))));
    }
}
