//! What systemd takes for a token of a TPM.
//!
//! Sources: systemd 252.39 and 257.13, `src/shared/tpm2-util.c` (`tpm2_parse_luks2_json`, `tpm2_parse_pcr_json_array`,
//! `tpm2_parse_shard_array`), `src/basic/hexdecoct.c`.

use std::collections::BTreeMap;

use latchkey_disk::luks::Token;
use latchkey_measure::Policy;
use latchkey_record::pcr::{Digest, HashAlg, PcrIndex, PcrValues};
use serde_json::Value;

use crate::initrd::{Feature, Initrd};
use crate::options;

/// What has to be there besides the PCRs.
const NEEDED: [&str; 2] = ["tpm2-blob", "tpm2-policy-hash"];
/// Kinds of keys that a token may name (`tpm2_primary_alg_from_string`, later `tpm2_asym_alg_from_string`).
const KEYS: [&str; 2] = ["ecc", "rsa"];

/// The PCRs that a token is bound to, a bit each; `None` where systemd stumbles over its list before it compares it.
pub(super) fn mask(token: &Token) -> Option<u32> {
    let listed = token.contents.get("tpm2-pcrs")?.as_array()?;
    let pcrs = token.pcrs();
    if listed.len() == pcrs.len() { options::mask(pcrs) } else { None }
}

/// Why a token comes to no policy digest.
pub(crate) enum NoPolicy {
    /// It is no token that systemd takes (`cryptsetup_token_validate`).
    Malformed(String),
    /// This TPM comes to none.
    Never(String),
    /// It may.
    Unknown(String),
}

/// The digest of the policy that a token's PCRs come to. One that is bound to no PCR has a policy without a command, whose
/// digest stays zeros, and needs no bank (systemd, `src/shared/tpm2-util.c`, `tpm2_make_policy_session`).
///
/// # Errors
/// [`NoPolicy`] where there is none.
pub(crate) fn policy(token: &Token, now: &BTreeMap<HashAlg, PcrValues>) -> Result<Digest, NoPolicy> {
    let policy = Policy::new(HashAlg::Sha256);
    let listed = token.contents.get("tpm2-pcrs").and_then(serde_json::Value::as_array);
    let pcrs: Vec<PcrIndex> = token.pcrs().into_iter().filter_map(|pcr| PcrIndex::new(pcr).ok()).collect();
    if listed.is_none_or(|listed| listed.len() != pcrs.len()) {
        return Err(NoPolicy::Malformed("it names no PCRs, or one that no TPM has".into()));
    }
    if pcrs.is_empty() {
        return Ok(policy.digest().clone());
    }
    let bank = token.pcr_bank().ok_or_else(|| {
        NoPolicy::Unknown("it names no PCR bank, as those of systemd 249 and before".into())
    })?;
    let bank: HashAlg =
        bank.parse().map_err(|_| NoPolicy::Malformed("it names a PCR bank that nobody knows".into()))?;
    let values = now.get(&bank).ok_or_else(|| NoPolicy::Never(format!("the TPM has no {bank} bank")))?;
    let policy = policy.pcr(bank, &pcrs, values);
    let policy = policy.ok_or_else(|| NoPolicy::Unknown("one of its PCRs is not forecast".into()))?;
    Ok(policy.digest().clone())
}

/// Whether a field can be read that has this value.
type Fits = fn(&Value) -> bool;

/// Why systemd cannot read this token; `None` where it can. Fields that an initrd's systemd does not know it does not look at.
pub(super) fn malformed(initrd: &Initrd, token: &Token) -> Option<String> {
    if mask(token).is_none() {
        return Some("it names no PCRs, or one that no TPM has".into());
    }
    let is = |name: &str, fits: Fits| token.contents.get(name).is_none_or(fits);
    if !is("tpm2-pcr-bank", is_bank) {
        return Some("it names a PCR bank that nobody knows".into());
    }
    if let Some(name) = NEEDED.iter().find(|name| !token.contents.contains_key(**name)) {
        return Some(format!("it lacks {name}"));
    }
    let fields: [(&str, Fits, bool); 7] = [
        ("tpm2-primary-alg", is_key, true),
        ("tpm2-blob", is_base64, true),
        ("tpm2-policy-hash", is_hex, true),
        ("tpm2-pin", Value::is_boolean, true),
        ("tpm2_pubkey", is_base64, true),
        ("tpm2_pcrlock", Value::is_boolean, initrd.knows(Feature::Pcrlock)),
        ("tpm2_srk", is_base64, initrd.knows(Feature::TrustedSrk)),
    ];
    let wrong = fields.into_iter().find(|(name, fits, is_known)| *is_known && !is(name, *fits));
    wrong.map(|(name, ..)| format!("its {name} cannot be read"))
}

fn is_bank(value: &Value) -> bool {
    value.as_str().is_some_and(|name| name.parse::<HashAlg>().is_ok())
}

fn is_key(value: &Value) -> bool {
    value.as_str().is_some_and(|name| KEYS.contains(&name))
}

/// Base64 with its padding, blanks left out, or several pieces in a list. Whether bits are left over is not looked at.
fn is_base64(value: &Value) -> bool {
    let is_one = |text: &str| {
        let text: String = text.split_ascii_whitespace().collect();
        let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(&text);
        text.len().is_multiple_of(4)
            && digits.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
    };
    value.is_array() || value.as_str().is_some_and(is_one)
}

/// As [`is_base64`], in hexadecimal digits.
fn is_hex(value: &Value) -> bool {
    let is_one = |text: &str| {
        let text: String = text.split_ascii_whitespace().collect();
        text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    value.is_array() || value.as_str().is_some_and(is_one)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// A token with this in one of its fields, or without the field.
    #[rstest]
    #[case::as_it_is("tpm2-pin", Some(json!(false)), None)]
    #[case::without_a_bank("tpm2-pcr-bank", None, None)]
    #[case::another_bank("tpm2-pcr-bank", Some(json!("md5")), Some("a PCR bank that nobody knows"))]
    #[case::a_bank_that_is_no_text("tpm2-pcr-bank", Some(json!(1)), Some("a PCR bank that nobody knows"))]
    #[case::another_key("tpm2-primary-alg", Some(json!("dsa")), Some("its tpm2-primary-alg cannot be read"))]
    #[case::without_an_object("tpm2-blob", None, Some("it lacks tpm2-blob"))]
    #[case::an_empty_object("tpm2-blob", Some(json!("")), None)]
    #[case::with_blanks("tpm2-blob", Some(json!("AA\n A=")), None)]
    #[case::in_pieces("tpm2-blob", Some(json!(["AAA=", "AAA="])), None)]
    #[case::cut_off("tpm2-blob", Some(json!("AAA")), Some("its tpm2-blob cannot be read"))]
    #[case::no_base64("tpm2-blob", Some(json!("AA?=")), Some("its tpm2-blob cannot be read"))]
    #[case::no_text("tpm2-blob", Some(json!(null)), Some("its tpm2-blob cannot be read"))]
    #[case::without_a_policy("tpm2-policy-hash", None, Some("it lacks tpm2-policy-hash"))]
    #[case::half_a_byte("tpm2-policy-hash", Some(json!("abc")), Some("its tpm2-policy-hash cannot be read"))]
    #[case::no_hex("tpm2-policy-hash", Some(json!("xy")), Some("its tpm2-policy-hash cannot be read"))]
    #[case::a_pin_that_is_no_switch("tpm2-pin", Some(json!("yes")), Some("its tpm2-pin cannot be read"))]
    #[case::a_pcr_that_no_tpm_has("tpm2-pcrs", Some(json!([24])), Some("one that no TPM has"))]
    #[case::no_pcrs("tpm2-pcrs", None, Some("it names no PCRs"))]
    #[case::what_this_systemd_does_not_know("tpm2_srk", Some(json!(1)), None)]
    #[case::what_every_one_knows("tpm2_pubkey", Some(json!(1)), Some("its tpm2_pubkey cannot be read"))]
    fn a_token_can_be_read_or_not(
        #[case] field: &str,
        #[case] value: Option<Value>,
        #[case] expected: Option<&str>,
    ) {
        let whole = json!({
            "tpm2-pcrs": [4, 7], "tpm2-pcr-bank": "sha256", "tpm2-primary-alg": "ecc", "tpm2-blob": "AAA=",
            "tpm2-policy-hash": "00ff", "tpm2-pin": false,
        });
        let mut contents = whole.as_object().cloned().unwrap_or_default();
        match value {
            Some(value) => contents.insert(field.to_owned(), value),
            None => contents.remove(field),
        };
        let token = Token { kind: "systemd-tpm2".into(), keyslots: vec![1], contents };
        let told = malformed(&Initrd::default(), &token);
        assert_eq!(told.is_some(), expected.is_some(), "{told:?}");
        assert!(told.unwrap_or_default().contains(expected.unwrap_or_default()));
    }
}
