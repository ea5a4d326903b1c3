//! Sealing a secret with a TPM that is switched off.
//!
//! Structures: TPM 2.0 Library, part 2, sections 12.2 (`TPMT_PUBLIC`) and 11.1 (`TPMS_SENSITIVE_CREATE`); commands: part 3,
//! sections 24.1 (`CreatePrimary`) and 12.1 (`Create`). Templates: systemd 252.39, `src/shared/tpm2-util.c`
//! (`tpm2_make_primary`, `tpm2_seal`); later versions still open what was sealed that way.

use std::path::Path;

use zeroize::Zeroizing;

use crate::Error;
use crate::bytes::Bytes;
use crate::offline::{Offline, Request, must_exist};

/// `TPM_RH_OWNER`.
const OWNER: u32 = 0x4000_0001;
/// `TPM_ALG` identifiers.
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

/// A sealed secret: what only the TPM that sealed it can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedObject {
    /// `TPM2B_PRIVATE`, its size included.
    pub private: Vec<u8>,
    /// `TPM2B_PUBLIC`, its size included.
    pub public: Vec<u8>,
}

/// Seals `secret` (at most 128 bytes) under a policy with this SHA-256 digest, by the TPM in `state_dir`, which is
/// switched on for it and shut down in order. The parent is the primary key that systemd makes anew each time: elliptic
/// curve P-256, in the owner hierarchy, without a password.
///
/// # Errors
/// When there is no TPM, swtpm cannot be run, or the TPM refuses.
pub fn seal(program: &Path, state_dir: &Path, secret: &[u8], policy: &[u8]) -> Result<SealedObject, Error> {
    must_exist(state_dir)?;
    let mut tpm = Offline::start(program, state_dir)?;
    let parameters = parameters(&[], &parent());
    let primary =
        Request { name: "CreatePrimary", code: 0x131, authorised: Some(OWNER), parameters: &parameters };
    let (parent, _) = tpm.ask_for_object(&primary)?;
    let parameters = self::parameters(secret, &sealed(policy));
    let create = Request { name: "Create", code: 0x153, authorised: Some(parent), parameters: &parameters };
    let answer = tpm.ask(&create)?;
    let odd = || Error::Answer { command: create.name, state: state_dir.to_owned() };
    let mut rest = Bytes(&answer);
    let private = rest.sized().map(with_size).ok_or_else(odd)?;
    let public = rest.sized().map(with_size).ok_or_else(odd)?;
    let handle = parent.to_be_bytes();
    tpm.ask(&Request { name: "FlushContext", code: 0x165, authorised: None, parameters: &handle })?;
    tpm.end()?;
    Ok(SealedObject { private, public })
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

fn parent() -> Vec<u8> {
    let mut public = words(&[ECC, SHA256]);
    public.extend(PARENT.to_be_bytes());
    // No policy; AES-128 in CFB mode; no scheme; the curve; no key derivation; nothing unique: x and y are empty.
    public.extend(words(&[0, AES, 128, CFB, NULL, P256, NULL, 0, 0]));
    public
}

fn sealed(policy: &[u8]) -> Vec<u8> {
    let mut public = words(&[KEYED_HASH, SHA256]);
    public.extend(FIXED.to_be_bytes());
    public.extend(with_size(policy));
    public.extend(words(&[NULL, 0]));
    public
}
