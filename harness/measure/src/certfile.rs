//! Building a `shim_certificate.efi`: a PE image that only carries certificates.
//!
//! shim (`load_cert_file`) verifies such a file like any image it would start, SBAT included, and then takes the
//! signature lists from its section `.db`. The image is a valid application all the same: started by mistake, it
//! returns success and does nothing.

use crate::pe_build::{DOES_NOTHING, Part};
use crate::siglist::{self, SignatureDb};
use crate::{pe_build, sbat, sign};

/// Why a certificate file could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The signature lists are malformed.
    #[error(transparent)]
    Lists(#[from] siglist::Error),
    /// The SBAT text is malformed.
    #[error(transparent)]
    Sbat(#[from] sbat::Error),
    /// There is nothing to carry.
    #[error("building a certificate file: it needs at least one signature list and one line of SBAT")]
    Empty,
    /// The contents are more than an image can hold.
    #[error(transparent)]
    Image(#[from] sign::Error),
}

/// A certificate file with `lists` (one or more `EFI_SIGNATURE_LIST`s) and `sbat_csv` as its SBAT metadata, for
/// x86-64, not signed yet. shim 15.8 reads only the first list.
///
/// # Errors
/// [`Error`] when the lists or the SBAT text are empty, malformed or too large.
pub fn build(lists: &[u8], sbat_csv: &str) -> Result<Vec<u8>, Error> {
    if SignatureDb::parse(lists)?.lists().is_empty() || sbat::parse(sbat_csv.as_bytes())?.is_empty() {
        return Err(Error::Empty);
    }
    let sections = [
        Part::code(".text", &DOES_NOTHING),
        Part::data(".sbat", sbat_csv.as_bytes()),
        Part::data(".db", lists),
    ];
    Ok(pe_build::application(&sections)?)
}
