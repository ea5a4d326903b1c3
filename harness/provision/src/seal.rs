//! Sealing before the first boot: the platform's key goes under the PCRs that a boot chain is forecast to have.

use std::fs::File;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use latchkey_disk::luks::{Header, TPM2};
use latchkey_host::Host;
use latchkey_machine::Machine;
use latchkey_measure::{HashAlg, Policy};
use latchkey_record::{PcrIndex, PcrValues};
use latchkey_tpm::{Parent, SealedObject};
use rand::RngCore;
use rand::rngs::OsRng;
use serde_json::json;
use zeroize::Zeroizing;

use crate::filesystem::leave_room;
use crate::keys::{KeyRole, Keys};
use crate::offline::on_root;
use crate::secret::Secret;
use crate::{Error, luks};

/// Bytes of the sealed secret, as systemd has it.
const SECRET: usize = 32;
/// Most boot chains that one machine is sealed to, as cvmutils has it.
const MOST_CHAINS: usize = 16;

/// What a key is sealed to: one boot chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealTo {
    /// Which PCRs.
    pub pcrs: Vec<PcrIndex>,
    /// Of which bank.
    pub bank: HashAlg,
    /// Their values when the root volume is opened.
    pub values: PcrValues,
    /// The key that the systemd of this chain unseals under.
    pub parent: Parent,
}

/// Encrypts the root partition of `machine` in place, seals its platform key to the machine's vTPM for each of `chains`
/// (one token each), and gives it a keyslot for every key of `keys`, also for those that nobody can type. No other keyslot is left.
/// Nothing is booted. `scratch` takes the partition and its header in the making.
///
/// Gives the platform's key, for nothing else than to look for it where it must not be.
///
/// # Errors
/// [`Error::UnknownPcr`] when a chain does not tell a PCR's value, [`Error::Chains`] for none or too many of them, [`Error::NoRoot`]
/// without a partition of the discoverable root type; others with what was being done.
pub fn provision(
    machine: &mut Machine,
    host: &Host,
    keys: &Keys,
    chains: &[SealTo],
    scratch: &Path,
) -> Result<Secret, Error> {
    if chains.is_empty() || chains.len() > MOST_CHAINS {
        return Err(Error::Chains(chains.len()));
    }
    let mut secret = Zeroizing::new([0u8; SECRET]);
    OsRng.fill_bytes(&mut secret[..]);
    let swtpm = &host.tools.swtpm.path;
    let sealed: Vec<(SealedObject, Policy, &SealTo)> = chains
        .iter()
        .map(|chain| {
            let (object, policy) = sealed(machine, swtpm, &secret[..], chain)?;
            Ok((object, policy, chain))
        })
        .collect::<Result<_, Error>>()?;
    // The keyslot's passphrase is the secret's text, so that it can be handed to anything that takes passphrases.
    let platform = Secret::new(STANDARD.encode(&secret[..]));
    on_root(machine, scratch, |root| {
        leave_room(root)?;
        let slot = luks::encrypt_in_place(root, scratch, &platform)?;
        for (role, key) in keys.iter() {
            let slot = luks::add_passphrase(root, &platform, key)?;
            if role == KeyRole::RecoveryKey {
                luks::add_token(root, &json!({"type": "systemd-recovery", "keyslots": [slot.to_string()]}))?;
            }
        }
        sealed.iter().try_for_each(|(object, policy, chain)| {
            luks::add_token(root, &token(slot, object, policy, chain))
        })
    })?;
    Ok(platform)
}

/// Adds a token to `machine`, which was provisioned before: its `platform` key, sealed to `chain` as well. Nothing is booted,
/// and what is sealed already stays. `scratch` takes the partition meanwhile.
///
/// # Errors
/// As [`provision`]; [`Error::NoToken`] when no token of a TPM's tells the platform's keyslot, or `platform` is none that
/// [`provision`] gave.
pub fn seal_ahead(
    machine: &mut Machine,
    host: &Host,
    platform: &Secret,
    chain: &SealTo,
    scratch: &Path,
) -> Result<(), Error> {
    let raw = STANDARD.decode(platform.expose()).map(Zeroizing::new).map_err(|_| Error::NoToken)?;
    let swtpm = &host.tools.swtpm.path;
    let (object, policy) = sealed(machine, swtpm, &raw, chain)?;
    on_root(machine, scratch, |root| {
        let failed = |source| Error::File { what: "reading", path: root.to_owned(), source };
        let header = Header::read(&mut File::open(root).map_err(failed)?)?;
        let known = header.tokens.values().find(|token| token.kind == TPM2);
        let slot = *known.and_then(|token| token.keyslots.first()).ok_or(Error::NoToken)?;
        luks::add_token(root, &token(slot, &object, &policy, chain))
    })
}

/// `secret`, sealed to `chain` by the machine's TPM.
fn sealed(
    machine: &mut Machine,
    swtpm: &Path,
    secret: &[u8],
    chain: &SealTo,
) -> Result<(SealedObject, Policy), Error> {
    let policy = Policy::new(HashAlg::Sha256).pcr(chain.bank, &chain.pcrs, &chain.values);
    let policy = policy.ok_or_else(|| Error::UnknownPcr(unknown(chain)))?;
    let digest = policy.digest().bytes().to_vec();
    let object = machine.offline(|parts| latchkey_tpm::seal(swtpm, parts.tpm, chain.parent, secret, &digest));
    Ok((object.map_err(latchkey_machine::Error::from)?, policy))
}

/// Which of a chain's PCRs has no value.
fn unknown(chain: &SealTo) -> String {
    let missing = chain.pcrs.iter().filter(|pcr| !chain.values.0.contains_key(pcr));
    missing.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A `systemd-tpm2` token as systemd 252 writes it, or, for the storage root key, as 255 and later do
/// (`src/shared/tpm2-util.c`, `tpm2_make_luks2_json`).
fn token(slot: u32, object: &SealedObject, policy: &Policy, chain: &SealTo) -> serde_json::Value {
    let blob = [&object.private[..], &object.public].concat();
    let mut token = json!({
        "type": TPM2,
        "keyslots": [slot.to_string()],
        "tpm2-blob": STANDARD.encode(blob),
        "tpm2-pcrs": chain.pcrs,
        "tpm2-pcr-bank": chain.bank.to_string(),
        "tpm2-primary-alg": "ecc",
        "tpm2-policy-hash": policy.digest().hex(),
        "tpm2-pin": false,
    });
    if let Some(key) = &object.storage_root {
        token["tpm2_pcrlock"] = json!(false);
        token["tpm2_srk"] = json!(STANDARD.encode(key));
    }
    token
}
