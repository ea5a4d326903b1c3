//! Whether sealed objects belong to a TPM, asked of a copy of one that is switched off.
//!
//! A TPM loads only what it made itself, under the parent it was made under. Parents: systemd 252.39 and 255.9,
//! `src/shared/tpm2-util.c` (`tpm2_make_primary`, `tpm2_unseal`); command: TPM 2.0 Library, part 3, section 12.2 (`Load`).

use std::path::Path;

use latchkey_record::tpm::response;

use crate::Error;
use crate::bytes::Bytes;
use crate::facts::on_a_copy;
use crate::offline::{Offline, Request, reset};
use crate::seal::{Template, flush, primary};

/// A sealed object as a disk's token keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepsake {
    /// The key that it was sealed under.
    pub under: Under,
    /// `TPM2B_PRIVATE`, then `TPM2B_PUBLIC`.
    pub blob: Vec<u8>,
}

/// The key that whoever unseals an object makes or finds for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Under {
    /// systemd's primary key on the curve P-256, made anew each time.
    Ecc,
    /// Its primary key of 2048-bit RSA, for TPMs that lack the curve.
    Rsa,
    /// The object that the TPM keeps at this handle.
    Handle(u32),
}

/// Whether the TPM in `state_dir`, which stays as it is, loads each of `objects`. A copy is asked; a TPM that is
/// in use may be copied as long as it stands still.
///
/// # Errors
/// When there is no TPM, it cannot be copied, swtpm cannot be run, or the TPM is in a lockout that cannot be reset.
pub fn loads(program: &Path, state_dir: &Path, objects: &[Keepsake]) -> Result<Vec<bool>, Error> {
    on_a_copy(program, state_dir, |tpm| {
        // The copy may count as switched off uncleanly, and be in lockout for it.
        match reset(tpm) {
            Ok(()) | Err(Error::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        objects.iter().map(|object| load(tpm, object)).collect()
    })
}

fn load(tpm: &mut Offline, object: &Keepsake) -> Result<bool, Error> {
    let mut rest = Bytes(&object.blob);
    let whole = rest.sized().and(rest.sized()).is_some() && rest.0.is_empty();
    if !whole {
        return Ok(false);
    }
    let parent = match object.under {
        Under::Ecc => primary(tpm, &Template::ECC),
        Under::Rsa => primary(tpm, &Template::RSA),
        Under::Handle(handle) => Ok(handle),
    };
    let Some(parent) = unless_refused(parent)? else { return Ok(false) };
    let request = Request {
        name: "Load",
        code: 0x157,
        authorised: Some(parent),
        second: None,
        parameters: &object.blob,
    };
    let loaded = unless_refused(tpm.ask_for_object(&request))?;
    if let Some((handle, _)) = &loaded {
        flush(tpm, *handle)?;
    }
    if !matches!(object.under, Under::Handle(_)) {
        flush(tpm, parent)?;
    }
    Ok(loaded.is_some())
}

/// A refusal says that the object is not this TPM's, except in lockout.
fn unless_refused<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(done) => Ok(Some(done)),
        Err(Error::Refused { code, .. }) if code != response::LOCKOUT => Ok(None),
        Err(error) => Err(error),
    }
}
