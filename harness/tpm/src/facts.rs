//! What a TPM that is switched off would answer.

use std::path::{Path, PathBuf};

use latchkey_record::pcr::HashAlg;
use latchkey_supervise::Scratch;

use crate::Error;
use crate::bytes::Bytes;
use crate::offline::{Offline, Request, copy_state};

/// `TPM_CAP` (part 2, table "TPM_CAP constants").
const CAP_HANDLES: u32 = 1;
const CAP_PCRS: u32 = 5;
const CAP_PROPERTIES: u32 = 6;
/// `TPM_PT` (part 2, table "TPM_PT constants").
const PT_PERMANENT: u32 = 0x200;
const PT_LOCKOUT_COUNTER: u32 = 0x20e;
const PT_MAX_AUTH_FAIL: u32 = 0x20f;
const PT_LOCKOUT_INTERVAL: u32 = 0x210;
const PT_LOCKOUT_RECOVERY: u32 = 0x211;
/// `TPMA_PERMANENT` bit `inLockout`.
const IN_LOCKOUT: u32 = 1 << 9;
/// Where persistent objects and NV indices begin (part 2, table "TPM_HT constants").
const PERSISTENT: u32 = 0x8100_0000;
const NV: u32 = 0x0100_0000;
/// Where the storage root key lies by convention (TCG TPM v2.0 Provisioning Guidance, table 2).
pub(crate) const STORAGE_ROOT: u32 = 0x8100_0001;
/// How many entries to ask for at once; more than a TPM of this size can hold.
const MANY: u32 = 254;

/// What a TPM that is switched off would answer at its next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmFacts {
    /// PCR banks with at least one register, weakest first.
    pub banks: Vec<HashAlg>,
    /// Where it stands with dictionary attacks.
    pub lockout: LockoutFacts,
    /// Persistent objects, by handle.
    pub persistent: Vec<PersistentObject>,
    /// NV indices in use, ascending.
    pub nv_indices: Vec<u32>,
}

/// Where a TPM stands with dictionary attacks, as its next start finds it: a power cut after a key that
/// counts was used adds one at that start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockoutFacts {
    /// Failures counted.
    pub counter: u32,
    /// How many lead to lockout.
    pub most: u32,
    /// Seconds after which one failure is forgotten, while the TPM is on.
    pub forget_seconds: u32,
    /// Seconds for which a wrong lockout password locks the lockout hierarchy itself.
    pub recovery_seconds: u32,
    /// Whether it refuses every key that counts.
    pub locked: bool,
}

/// An object that stays in the TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistentObject {
    /// `0x81......`.
    pub handle: u32,
    /// `TPM_ALG_ID` of its kind: 1 for RSA, 0x23 for ECC.
    pub algorithm: u16,
    /// Its name: the name algorithm's `TPM_ALG_ID`, then the digest of the public area.
    pub name: Vec<u8>,
}

impl TpmFacts {
    /// Asks a copy of the state in `state_dir`, which stays as it is.
    ///
    /// # Errors
    /// When there is no TPM in `state_dir`, it cannot be copied, swtpm cannot be run, or the TPM fails.
    pub fn read(program: &Path, state_dir: &Path) -> Result<Self, Error> {
        on_a_copy(program, state_dir, |tpm| ask(tpm, state_dir))
    }

    /// The storage root key, if there is one.
    #[must_use]
    pub fn srk(&self) -> Option<&PersistentObject> {
        self.persistent.iter().find(|object| object.handle == STORAGE_ROOT)
    }
}

/// Switches on a copy of the TPM in `state_dir`, which stays as it is, and so does all that lies beside it.
pub(crate) fn on_a_copy<T>(
    program: &Path,
    state_dir: &Path,
    ask: impl FnOnce(&mut Offline) -> Result<T, Error>,
) -> Result<T, Error> {
    let (_scratch, copy) = copied(state_dir)?;
    let mut tpm = Offline::start(program, &copy)?;
    let answer = ask(&mut tpm)?;
    tpm.end()?;
    Ok(answer)
}

/// A copy of the state in `state_dir`, and the directory that it is gone with.
pub(crate) fn copied(state_dir: &Path) -> Result<(Scratch, PathBuf), Error> {
    // It has the TPM's seeds in it: gone also when this process is killed.
    let scratch = Scratch::new(&latchkey_supervise::private_root()?, "tpm-")?;
    let copy = scratch.path().join("state");
    copy_state(state_dir, &copy)?;
    Ok((scratch, copy))
}

fn ask(tpm: &mut Offline, state: &Path) -> Result<TpmFacts, Error> {
    let odd = |command| Error::Answer { command, state: state.to_owned() };
    let capability = "GetCapability";
    let banks = banks(&get(tpm, CAP_PCRS, 0)?).ok_or_else(|| odd(capability))?;
    let lockout = lockout(tpm, state)?;
    let handles = handles(&get(tpm, CAP_HANDLES, PERSISTENT)?).ok_or_else(|| odd(capability))?;
    let mut persistent = Vec::new();
    for handle in handles {
        let request = Request {
            name: "ReadPublic",
            code: 0x173,
            authorised: None,
            second: None,
            parameters: &handle.to_be_bytes(),
        };
        let answer = tpm.ask(&request)?;
        persistent.push(object(handle, &answer).ok_or_else(|| odd("ReadPublic"))?);
    }
    let nv_indices = self::handles(&get(tpm, CAP_HANDLES, NV)?).ok_or_else(|| odd(capability))?;
    Ok(TpmFacts { banks, lockout, persistent, nv_indices })
}

/// Where a TPM that is on stands with dictionary attacks.
pub(crate) fn lockout(tpm: &mut Offline, state: &Path) -> Result<LockoutFacts, Error> {
    let odd = || Error::Answer { command: "GetCapability", state: state.to_owned() };
    let properties = pairs(&get(tpm, CAP_PROPERTIES, PT_PERMANENT)?).ok_or_else(odd)?;
    let property = |wanted| {
        let found = properties.iter().find(|(tag, _)| *tag == wanted);
        found.map(|(_, value)| *value).ok_or_else(odd)
    };
    Ok(LockoutFacts {
        counter: property(PT_LOCKOUT_COUNTER)?,
        most: property(PT_MAX_AUTH_FAIL)?,
        forget_seconds: property(PT_LOCKOUT_INTERVAL)?,
        recovery_seconds: property(PT_LOCKOUT_RECOVERY)?,
        locked: property(PT_PERMANENT)? & IN_LOCKOUT != 0,
    })
}

/// The entries of a capability, after `moreData` and the capability's own number.
fn get(tpm: &mut Offline, capability: u32, property: u32) -> Result<Vec<u8>, Error> {
    let parameters: Vec<u8> = [capability, property, MANY].iter().flat_map(|n| n.to_be_bytes()).collect();
    let request = Request {
        name: "GetCapability",
        code: 0x17a,
        authorised: None,
        second: None,
        parameters: &parameters,
    };
    Ok(tpm.ask(&request)?.get(5..).unwrap_or_default().to_vec())
}

fn banks(entries: &[u8]) -> Option<Vec<HashAlg>> {
    let mut rest = Bytes(entries);
    let mut banks = Vec::new();
    for _ in 0..rest.u32()? {
        let alg = rest.u16()?;
        let size = rest.u8()?;
        let active = rest.take(size.into())?.iter().any(|byte| *byte != 0);
        banks.extend(HashAlg::from_tpm_id(alg).filter(|_| active));
    }
    banks.sort_unstable();
    Some(banks)
}

fn pairs(entries: &[u8]) -> Option<Vec<(u32, u32)>> {
    let mut rest = Bytes(entries);
    (0..rest.u32()?).map(|_| Some((rest.u32()?, rest.u32()?))).collect()
}

fn handles(entries: &[u8]) -> Option<Vec<u32>> {
    let mut rest = Bytes(entries);
    (0..rest.u32()?).map(|_| rest.u32()).collect()
}

fn object(handle: u32, answer: &[u8]) -> Option<PersistentObject> {
    let mut rest = Bytes(answer);
    let algorithm = Bytes(rest.sized()?).u16()?;
    Some(PersistentObject { handle, algorithm, name: rest.sized()?.to_vec() })
}
