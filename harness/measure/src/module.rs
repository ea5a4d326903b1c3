//! Signatures of kernel modules, as the kernel's `scripts/sign-file.c` appends them.
//!
//! Source: Linux, `include/linux/module_signature.h`, `kernel/module_signature.c`; `crypto/asymmetric_keys/pkcs7_verify.c`
//! (a module's signature has no attributes).

use crate::sign::{Error, Signer};

/// What ends a signed module.
const MAGIC: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`: its size, and `PKEY_ID_PKCS7` where its kind stands.
const TRAILER: usize = 12;
const KIND_AT: usize = 2;
const PKCS7: u8 = 2;

/// The module without its signature; as it is when it has none that is whole.
#[must_use]
pub fn strip(module: &[u8]) -> &[u8] {
    let bare = || {
        let signed = module.strip_suffix(MAGIC)?;
        let (rest, trailer) = signed.split_at_checked(signed.len().checked_sub(TRAILER)?)?;
        let size = u32::from_be_bytes(*trailer.last_chunk()?);
        rest.get(..rest.len().checked_sub(usize::try_from(size).ok()?)?)
    };
    bare().unwrap_or(module)
}

/// `module`, which is bare, with a signature (SHA-256) by `signer`.
///
/// # Errors
/// [`Error::Build`] when the structure cannot be built, [`Error::TooLarge`] when it has no place.
pub fn sign(module: &[u8], signer: &Signer) -> Result<Vec<u8>, Error> {
    let pkcs7 = signer.without_attributes(module)?;
    let mut trailer = [0; TRAILER];
    trailer[KIND_AT] = PKCS7;
    trailer[TRAILER - 4..]
        .copy_from_slice(&u32::try_from(pkcs7.len()).map_err(|_| Error::TooLarge)?.to_be_bytes());
    Ok([module, &pkcs7, &trailer, MAGIC].concat())
}
