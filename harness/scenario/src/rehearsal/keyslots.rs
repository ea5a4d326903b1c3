//! The LUKS2 header that a machine would have: which keyslots there are, which tokens fill them.

use std::collections::{BTreeMap, BTreeSet};

use latchkey_disk::luks::{Copy, Header, Keyslot, TPM2, Token};
use latchkey_measure::Policy;
use latchkey_provision::{KeyRole, SealTo};
use latchkey_record::HashAlg;
use latchkey_tpm::Parent;
use serde_json::{Value, json};

use crate::Error;
use crate::step::Old;

/// Keyslots and tokens, without any secret.
#[derive(Debug, Clone)]
pub(crate) struct Keyslots {
    pub(super) header: Header,
    roles: BTreeMap<KeyRole, u32>,
    /// Which TPM, or which seed of it, sealed a TPM's token, by the token's number.
    sealed_by: BTreeMap<u32, u32>,
}

impl Keyslots {
    /// As provisioning makes them: the platform's keyslot, one for each key that somebody holds, the tokens of the TPM `seed`.
    pub(super) fn provisioned(keys: &[KeyRole], chains: &[SealTo], seed: u32) -> Result<Self, Error> {
        let header = Header {
            uuid: String::new(),
            label: String::new(),
            sequence: 1,
            copy: Copy::Primary,
            keyslots: BTreeMap::new(),
            tokens: [].into(),
            segments: BTreeMap::new(),
            requirements: Vec::new(),
        };
        let mut slots = Self { header, roles: BTreeMap::new(), sealed_by: BTreeMap::new() };
        slots.add(KeyRole::Platform);
        let held: BTreeSet<KeyRole> =
            keys.iter().copied().filter(|role| *role != KeyRole::Platform).collect();
        for role in held {
            let slot = slots.add(role);
            if role == KeyRole::RecoveryKey {
                slots.add_token("systemd-recovery", slot, json!({}));
            }
        }
        chains.iter().try_for_each(|chain| slots.seal(0, chain, seed))?;
        Ok(slots)
    }

    /// Adds a keyslot and gives its number.
    pub(crate) fn add(&mut self, role: KeyRole) -> u32 {
        let slot = free(|number| self.header.keyslots.contains_key(number));
        let keyslot =
            Keyslot { kind: "luks2".into(), key_size: 64, kdf: String::new(), iterations: 0, priority: 1 };
        self.header.keyslots.insert(slot, keyslot);
        self.roles.insert(role, slot);
        slot
    }

    /// Removes the keyslot of `role`, and what no token fills any more.
    pub(crate) fn remove(&mut self, role: KeyRole) {
        if let Some(slot) = self.roles.remove(&role) {
            self.wipe(slot);
        }
    }

    /// Whether the key of `role` opens a keyslot.
    pub(super) fn opens(&self, role: KeyRole) -> bool {
        self.roles.contains_key(&role)
    }

    /// Seals anew, as `systemd-cryptenroll` does, with `--wipe-slot=tpm2` unless the `old` tokens are kept; tells whether there was anything to do
    /// (`src/cryptenroll/cryptenroll-tpm2.c`: a policy that is enrolled already is left alone).
    pub(super) fn reseal(&mut self, chain: &SealTo, seed: u32, old: Old) -> Result<bool, Error> {
        let policy = policy(chain)?;
        let enrolled = |token: &Token| token.contents.get("tpm2-policy-hash") == Some(&json!(policy));
        if self.header.tokens.values().any(enrolled) {
            return Ok(false);
        }
        let before = if old == Old::Kept { Vec::new() } else { self.tpm_slots() };
        let slot = self.add(KeyRole::Platform);
        self.seal(slot, chain, seed)?;
        before.into_iter().for_each(|slot| self.wipe(slot));
        Ok(true)
    }

    /// One token more for the platform's keyslot, sealed by the TPM `seed`.
    pub(super) fn seal_ahead(&mut self, chain: &SealTo, seed: u32) -> Result<(), Error> {
        let slot = self.tpm_slots().first().copied();
        self.seal(slot.ok_or_else(|| Error::Bench("there is no TPM's token yet".into()))?, chain, seed)
    }

    /// Removes the TPM's tokens and their keyslots.
    pub(crate) fn wipe_tpm(&mut self) {
        self.tpm_slots().into_iter().for_each(|slot| self.wipe(slot));
    }

    /// Removes a token, and leaves its keyslot; tells whether there was one.
    pub(super) fn remove_token(&mut self, number: u32) -> bool {
        self.header.tokens.shift_remove(&number).is_some()
    }

    /// The numbers of TPM tokens, and which TPM sealed each.
    pub(super) fn tpm_tokens(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let sealed_by = |number: &u32| self.sealed_by.get(number).copied().unwrap_or_default();
        let tokens = self.header.tokens.iter().filter(|(_, token)| token.kind == TPM2);
        tokens.map(move |(number, _)| (*number, sealed_by(number)))
    }

    fn tpm_slots(&self) -> Vec<u32> {
        let tokens = self.header.tokens.values().filter(|token| token.kind == TPM2);
        tokens.flat_map(|token| token.keyslots.clone()).collect()
    }

    fn wipe(&mut self, slot: u32) {
        self.header.keyslots.remove(&slot);
        self.header.tokens.retain(|_, token| !token.keyslots.contains(&slot));
    }

    /// A token as `latchkey_provision` writes it, without the sealed object.
    fn seal(&mut self, slot: u32, chain: &SealTo, seed: u32) -> Result<(), Error> {
        let mut token = json!({
            "tpm2-pcrs": chain.pcrs,
            "tpm2-pcr-bank": chain.bank.to_string(),
            "tpm2-blob": "",
            "tpm2-policy-hash": policy(chain)?,
        });
        if chain.parent == Parent::StorageRoot {
            token["tpm2_srk"] = json!("");
        }
        let number = self.add_token(TPM2, slot, token);
        self.sealed_by.insert(number, seed);
        Ok(())
    }

    fn add_token(&mut self, kind: &str, slot: u32, contents: Value) -> u32 {
        let contents = contents.as_object().cloned().unwrap_or_default();
        let number = free(|number| self.header.tokens.contains_key(number));
        self.header.tokens.insert(number, Token { kind: kind.into(), keyslots: vec![slot], contents });
        number
    }
}

/// The policy digest of a chain, in hex.
fn policy(chain: &SealTo) -> Result<String, Error> {
    let policy = Policy::new(HashAlg::Sha256).pcr(chain.bank, &chain.pcrs, &chain.values);
    let unknown = || {
        let open: Vec<_> = chain.pcrs.iter().filter(|pcr| !chain.values.0.contains_key(pcr)).collect();
        let list = open.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Error::Bench(format!("the key is to be sealed to PCR {list}, of which nothing is forecast"))
    };
    Ok(policy.ok_or_else(unknown)?.digest().hex())
}

/// The lowest number that nothing has.
fn free(taken: impl Fn(&u32) -> bool) -> u32 {
    (0..).find(|number| !taken(number)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_record::{Digest, PcrIndex, PcrValues};

    use super::*;

    fn sealed_to(byte: u8) -> SealTo {
        let four = PcrIndex::new(4).unwrap();
        let value = Digest::new(HashAlg::Sha256, &[byte; 32]).unwrap();
        SealTo {
            pcrs: vec![four],
            bank: HashAlg::Sha256,
            values: PcrValues(BTreeMap::from([(four, value)])),
            parent: Parent::Primary,
        }
    }

    #[test]
    fn a_reseal_leaves_one_token_and_the_passphrase() {
        let keys = [KeyRole::Platform, KeyRole::FallbackPassphrase, KeyRole::RecoveryKey];
        let mut slots = Keyslots::provisioned(&keys, &[sealed_to(1), sealed_to(2)], 0).unwrap();
        assert_eq!(slots.header.keyslots.len(), 3);
        assert_eq!(slots.header.passphrase_keyslots(), [1]);
        assert_eq!(slots.tpm_tokens().count(), 2);
        assert!(!slots.reseal(&sealed_to(2), 5, Old::default()).unwrap(), "it is enrolled already");
        assert!(slots.reseal(&sealed_to(3), 5, Old::default()).unwrap());
        assert_eq!(slots.tpm_tokens().collect::<Vec<_>>(), [(3, 5)]);
        assert_eq!(slots.header.keyslots.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        slots.remove(KeyRole::FallbackPassphrase);
        assert!(!slots.opens(KeyRole::FallbackPassphrase) && slots.opens(KeyRole::RecoveryKey));
        assert!(slots.header.passphrase_keyslots().is_empty());
    }

    #[test]
    fn a_token_that_is_kept_stays_beside_the_new_one() {
        let keys = [KeyRole::Platform, KeyRole::FallbackPassphrase];
        let mut slots = Keyslots::provisioned(&keys, &[sealed_to(1)], 0).unwrap();
        assert!(slots.reseal(&sealed_to(2), 5, Old::Kept).unwrap());
        assert_eq!(slots.tpm_tokens().collect::<Vec<_>>(), [(0, 0), (1, 5)]);
        assert!(!slots.reseal(&sealed_to(1), 5, Old::Kept).unwrap(), "it is enrolled already");
    }

    /// As in a header: a number that is free is taken again, and its token stands last.
    #[test]
    fn a_token_that_is_removed_leaves_its_number_and_not_its_place() {
        let mut slots = Keyslots::provisioned(&[KeyRole::Platform], &[sealed_to(1)], 0).unwrap();
        slots.seal_ahead(&sealed_to(1), 1).unwrap();
        assert!(slots.remove_token(0) && !slots.remove_token(0));
        slots.seal_ahead(&sealed_to(1), 2).unwrap();
        assert_eq!(slots.tpm_tokens().collect::<Vec<_>>(), [(1, 1), (0, 2)]);
        assert_eq!(slots.header.keyslots.len(), 1);
    }
}
