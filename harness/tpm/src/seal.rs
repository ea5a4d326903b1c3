//! Sealing a secret with a TPM that is switched off.
//!
//! Structures: TPM 2.0 Library, part 2, sections 12.2 (`TPMT_PUBLIC`) and 11.1 (`TPMS_SENSITIVE_CREATE`); commands: part 3,
//! sections 24.1 (`CreatePrimary`), 12.1 (`Create`), 12.4 (`ReadPublic`) and 28.5 (`EvictControl`). Templates: systemd 252.39,
//! `src/shared/tpm2-util.c` (`tpm2_make_primary`, `tpm2_seal`), and 255.9, the same file (`tpm2_get_srk_template`, which is
//! template L-2 of the TCG EK Credential Profile, and `tpm2_get_or_create_srk`).

use std::path::Path;

use zeroize::Zeroizing;

use crate::Error;
use crate::bytes::Bytes;
use crate::facts::STORAGE_ROOT;
use crate::offline::{Offline, Request, must_exist};

/// `TPM_RH_OWNER`.
const OWNER: u32 = 0x4000_0001;
/// `TPM_ALG` identifiers.
const RSA: u16 = 0x01;
const ECC: u16 = 0x23;
const KEYED_HASH: u16 = 0x08;
const SHA256: u16 = 0x0b;
const AES: u16 = 0x06;
const CFB: u16 = 0x43;
const NULL: u16 = 0x10;
/// `TPM_ECC_NIST_P256`.
const P256: u16 = 0x03;
/// `TPMA_OBJECT`: fixedTPM and fixedParent; for a parent also sensitiveDataOrigin, userWithAuth, restricted, decrypt.
const FIXED: u32 = 0x12;
const PARENT: u32 = FIXED | 0x60 | 0x3_0000;
/// `TPMA_OBJECT`, noDA: wrong tries do not count towards lockout.
const NO_DA: u32 = 0x400;
/// `IESYSC_KEY_RSRC` (tpm2-tss, `src/tss2-esys/esys_types.h`).
const KEY: u32 = 1;

/// A sealed secret: what only the TPM that sealed it can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedObject {
    /// `TPM2B_PRIVATE`, its size included.
    pub private: Vec<u8>,
    /// `TPM2B_PUBLIC`, its size included.
    pub public: Vec<u8>,
    /// The storage root key that it was sealed under, in the form that tpm2-tss keeps and systemd puts into its tokens
    /// (tpm2-tss, `src/tss2-esys/esys_mu.c`, `iesys_MU_IESYS_RESOURCE_Marshal`): handle, name, type, public area.
    pub storage_root: Option<Vec<u8>>,
}

/// The key that a secret is sealed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The primary key that systemd before 255 makes anew each time: elliptic curve P-256, in the owner hierarchy, without
    /// a password.
    Primary,
    /// The storage root key that the TPM keeps as 0x81000001; a TPM that has none gets it, as a cloud's has it.
    StorageRoot,
}

/// Seals `secret` (at most 128 bytes) under `parent` and a policy with this SHA-256 digest, by the TPM in `state_dir`, which
/// is switched on for it and shut down in order.
///
/// # Errors
/// When there is no TPM, swtpm cannot be run, or the TPM refuses.
pub fn seal(
    program: &Path,
    state_dir: &Path,
    parent: Parent,
    secret: &[u8],
    policy: &[u8],
) -> Result<SealedObject, Error> {
    must_exist(state_dir)?;
    let mut tpm = Offline::start(program, state_dir)?;
    let odd = |command| Error::Answer { command, state: state_dir.to_owned() };
    let (handle, storage_root) = match parent {
        Parent::Primary => (primary(&mut tpm, &Template::ECC)?, None),
        Parent::StorageRoot => {
            let public = match public_of(&mut tpm, STORAGE_ROOT) {
                Err(Error::Refused { .. }) => {
                    make_storage_root(&mut tpm)?;
                    public_of(&mut tpm, STORAGE_ROOT)
                }
                known => known,
            }?;
            (STORAGE_ROOT, Some(kept(&public).ok_or_else(|| odd("ReadPublic"))?))
        }
    };
    let parameters = parameters(secret, &sealed(policy));
    let create = Request {
        name: "Create",
        code: 0x153,
        authorised: Some(handle),
        second: None,
        parameters: &parameters,
    };
    let answer = tpm.ask(&create)?;
    let mut rest = Bytes(&answer);
    let private = rest.sized().map(with_size).ok_or_else(|| odd(create.name))?;
    let public = rest.sized().map(with_size).ok_or_else(|| odd(create.name))?;
    if parent == Parent::Primary {
        flush(&mut tpm, handle)?;
    }
    tpm.end()?;
    Ok(SealedObject { private, public, storage_root })
}

/// Makes a primary key in the owner hierarchy: its handle, good until it is flushed.
pub(crate) fn primary(tpm: &mut Offline, template: &Template) -> Result<u32, Error> {
    let parameters = parameters(&[], &template.public());
    let request = Request {
        name: "CreatePrimary",
        code: 0x131,
        authorised: Some(OWNER),
        second: None,
        parameters: &parameters,
    };
    Ok(tpm.ask_for_object(&request)?.0)
}

fn make_storage_root(tpm: &mut Offline) -> Result<(), Error> {
    let handle = primary(tpm, &Template::STORAGE_ROOT)?;
    tpm.ask(&Request {
        name: "EvictControl",
        code: 0x120,
        authorised: Some(OWNER),
        second: Some(handle),
        parameters: &STORAGE_ROOT.to_be_bytes(),
    })?;
    flush(tpm, handle)
}

pub(crate) fn flush(tpm: &mut Offline, handle: u32) -> Result<(), Error> {
    let parameters = &handle.to_be_bytes();
    tpm.ask(&Request { name: "FlushContext", code: 0x165, authorised: None, second: None, parameters })?;
    Ok(())
}

/// What `ReadPublic` says of an object.
fn public_of(tpm: &mut Offline, handle: u32) -> Result<Vec<u8>, Error> {
    let parameters = &handle.to_be_bytes();
    tpm.ask(&Request { name: "ReadPublic", code: 0x173, authorised: None, second: None, parameters })
}

/// The storage root key as tpm2-tss keeps it, out of its `ReadPublic`.
fn kept(answer: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Bytes(answer);
    let public = with_size(rest.sized()?);
    let name = with_size(rest.sized()?);
    Some([&STORAGE_ROOT.to_be_bytes()[..], &name, &KEY.to_be_bytes(), &public].concat())
}

/// A `TPM2B`.
fn with_size(data: &[u8]) -> Vec<u8> {
    let size = u16::try_from(data.len()).unwrap_or(u16::MAX);
    [&size.to_be_bytes()[..], data].concat()
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// `inSensitive` (no password, `secret`), `inPublic`, no `outsideInfo`, no `creationPCR`.
fn parameters(secret: &[u8], public: &[u8]) -> Zeroizing<Vec<u8>> {
    let sensitive = Zeroizing::new([with_size(&[]), with_size(secret)].concat());
    let tail = [0u8; 6];
    Zeroizing::new([&with_size(&sensitive)[..], &with_size(public), &tail].concat())
}

/// A primary key: what it is made from.
pub(crate) struct Template {
    algorithm: u16,
    attributes: u32,
}

impl Template {
    /// systemd's before 255.
    pub(crate) const ECC: Self = Self { algorithm: ECC, attributes: PARENT };
    /// The same systemd's for TPMs that lack the curve.
    pub(crate) const RSA: Self = Self { algorithm: RSA, attributes: PARENT };
    const STORAGE_ROOT: Self = Self { algorithm: ECC, attributes: PARENT | NO_DA };

    fn public(&self) -> Vec<u8> {
        let mut public = words(&[self.algorithm, SHA256]);
        public.extend(self.attributes.to_be_bytes());
        // No policy; AES-128 in CFB mode; no scheme.
        public.extend(words(&[0, AES, 128, CFB, NULL]));
        public.extend(match self.algorithm {
            // 2048 bits; the usual exponent; nothing unique.
            RSA => words(&[2048, 0, 0, 0]),
            // The curve; no key derivation; nothing unique: x and y are empty.
            _ => words(&[P256, NULL, 0, 0]),
        });
        public
    }
}

fn sealed(policy: &[u8]) -> Vec<u8> {
    let mut public = words(&[KEYED_HASH, SHA256]);
    public.extend(FIXED.to_be_bytes());
    public.extend(with_size(policy));
    public.extend(words(&[NULL, 0]));
    public
}
