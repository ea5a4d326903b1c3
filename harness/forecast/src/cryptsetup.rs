//! Which token frees the volume key, and what happens when none does.
//!
//! Sources: systemd 252.39 to 262, `src/cryptsetup/cryptsetup.c` and `cryptsetup-tokens/`; cryptsetup 2.6,
//! `lib/luks2/luks2_token.c` (tokens are tried until one opens a keyslot); `check_registered_passwords` (no prompt when every
//! keyslot belongs to a token that is no recovery key).

use latchkey_disk::luks::{Header, Token};
use latchkey_measure::Policy;
use latchkey_record::Outcome;
use latchkey_record::pcr::{HashAlg, PcrIndex};

use crate::initrd::{Feature, Initrd};
use crate::options::Options;
use crate::{Chain, End, RootVolume, TokenFact};

/// systemd's recovery key, typed at a prompt.
const RECOVERY: &str = "systemd-recovery";
/// The type of systemd's TPM tokens.
pub const TPM2: &str = "systemd-tpm2";

/// What systemd-cryptsetup tries before it gives up (`arg_tries`).
const TRIES: u32 = 3;

/// PCRs of the firmware's own code and options, and of the place where the disk hangs.
const OF_PLATFORM: [u32; 6] = [0, 1, 2, 3, 5, 6];

/// An end whose outcome nobody knows.
pub(crate) fn unknown(because: String) -> End {
    End { outcome: None, because, reported_by: None }
}

fn known(outcome: Outcome, because: String) -> End {
    End { outcome: Some(outcome), because, reported_by: None }
}

/// Who tries the tokens (`use_token_plugins`: a plugin gives no volume key to measure).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// libcryptsetup, with systemd's plugin.
    Plugin,
    /// systemd-cryptsetup, with its own code.
    Own,
    /// Nobody: the volume key is to be measured, and no TPM is to be used (from 255 on; systemd issue 30176).
    NoTpm,
}

/// What a token's policy comes to.
enum Trial {
    Opens,
    /// The policy says no, and the next token is tried.
    Refused(String),
    /// It does not come to the policy. That ends it, in both ways (libcryptsetup's `break_loop_retval`).
    Failed(String),
    /// Another TPM's, which ends it until that was repaired.
    Foreign,
    Unknown(String),
}

/// Tries the tokens of the root volume, which is opened with `options`, with the PCRs as they are now.
pub(crate) fn unlock(chain: &mut Chain<'_>, initrd: &Initrd, options: Options) -> End {
    let way = options.way(initrd);
    let header = match chain.target.root {
        RootVolume::Luks(header) => header,
        RootVolume::Plain => {
            return known(
                Outcome::Unlocked,
                "the root partition is not encrypted, and nothing has to be unsealed".into(),
            );
        }
        // Found by its type it is mounted, which fails; looked for by its UUID it never appears.
        RootVolume::Unrecognised => {
            let because = "the root partition has neither a LUKS2 header nor a file system";
            return known(Outcome::EmergencyShell, because.into());
        }
    };
    if !initrd.has_cryptsetup() {
        return known(Outcome::EmergencyShell, "the initrd cannot open LUKS volumes".into());
    }
    let mut tokens = match way {
        Way::Own => by_number(header),
        Way::Plugin | Way::NoTpm => header.tokens_tried(),
    };
    tokens.retain(|(_, token)| token.kind == TPM2);
    let mut reasons = Vec::new();
    if tokens.is_empty() {
        let any = header.tokens.values().any(|token| token.kind == TPM2);
        let none =
            if any { "none of the volume's TPM tokens may be tried" } else { "the volume has no TPM token" };
        reasons.push(none.to_owned());
    } else if !chain.has_tpm() {
        reasons.push("the machine has no TPM".to_owned());
    } else if !initrd.has_tpm() {
        reasons.push("the initrd lacks the TPM libraries".to_owned());
    } else if way == Way::NoTpm {
        reasons.push(
            "the volume key is to be measured, and no TPM was named to open the volume with".to_owned(),
        );
    } else if way == Way::Plugin && !initrd.has_token_plugin() {
        reasons.push("the initrd lacks the plugin for TPM tokens".to_owned());
    }
    let untried = !reasons.is_empty();
    if !untried {
        let last = tokens.last().map(|(number, _)| *number);
        for (number, token) in tokens {
            match trial(chain, initrd, number, token) {
                Trial::Opens => {
                    let supposed = match chain.target.tpm.tokens.get(&number) {
                        Some(TokenFact::Supposed) => ", if the machine's TPM is the one that sealed it",
                        _ => "",
                    };
                    let slots = list(&token.keyslots);
                    return known(
                        Outcome::Unlocked,
                        format!("token {number} frees keyslot {slots}{supposed}"),
                    );
                }
                Trial::Refused(why) => reasons.push(format!("token {number}: {why}")),
                Trial::Failed(why) => {
                    reasons.push(format!("token {number}: {why}"));
                    break;
                }
                Trial::Foreign => {
                    reasons.push(format!("token {number}: another TPM sealed it, or it is damaged"));
                    match repaired(initrd) {
                        Some(false) => break,
                        None if Some(number) != last => {
                            let why = "whether this systemd goes on after another TPM's token is not known";
                            return unknown(format!("token {number}: {why}"));
                        }
                        _ => {}
                    }
                }
                Trial::Unknown(why) => return unknown(format!("token {number}: {why}")),
            }
        }
    }
    if untried {
        chain.leaves_tpm_alone();
    }
    let end = fallback(header, &reasons.join("; "));
    if end.outcome == Some(Outcome::FallbackPrompt) {
        chain.asks(prompts(initrd, options));
    }
    end
}

/// Tokens as systemd's own code goes through them; those that fill no keyslot, or several, it passes over
/// (`find_tpm2_auto_data`, and `tpm2_parse_luks2_json`, `EUCLEAN`).
fn by_number(header: &Header) -> Vec<(u32, &Token)> {
    let tokens = header.tokens.iter().map(|(number, token)| (*number, token));
    let mut tokens: Vec<_> = tokens.filter(|(_, token)| token.keyslots.len() == 1).collect();
    tokens.sort_by_key(|(number, _)| *number);
    tokens
}

/// How often somebody is asked, of [`TRIES`] in all: asking the TPM that the options name is one, even where a plugin asked
/// it before. From 257 on what is typed first is tried a second time, when a key file that it might have discovered would
/// have its turn, until that was repaired.
fn prompts(initrd: &Initrd, options: Options) -> Option<u32> {
    if options.has_tries {
        return None;
    }
    let left = TRIES - u32::from(options.names_tpm);
    match initrd.systemd()? {
        ..=256 => Some(left),
        _ => repaired(initrd).map(|repaired| left - u32::from(!repaired)),
    }
}

/// Whether this systemd has two repairs of spring 2026: what is typed counts once (pull request 42102), and another TPM's
/// token is not the last that is tried (41737). Read without them up to 257.13, 258.7, 259.5 and 260.1, and with them in
/// 262; those between were not read.
fn repaired(initrd: &Initrd) -> Option<bool> {
    match (initrd.systemd()?, initrd.systemd_patch()) {
        (..=256, _) => Some(false),
        (257, Some(..=13)) | (258, Some(..=7)) | (259, Some(..=5)) | (260, Some(..=1)) => Some(false),
        (262.., _) => Some(true),
        _ => None,
    }
}

/// Nothing opened by itself: somebody is asked, or nobody can be.
fn fallback(header: &Header, why: &str) -> End {
    let recovery = header.tokens.values().any(|token| token.kind == RECOVERY);
    if recovery || !header.passphrase_keyslots().is_empty() {
        known(Outcome::FallbackPrompt, format!("{why}; somebody is asked for a key"))
    } else {
        known(Outcome::NoPrompt, format!("{why}; no keyslot is for a passphrase or a recovery key"))
    }
}

fn trial(chain: &Chain<'_>, initrd: &Initrd, number: u32, token: &Token) -> Trial {
    if chain.target.tpm.locked {
        return Trial::Failed("the TPM is in dictionary-attack lockout".into());
    }
    if chain.target.tpm.tokens.get(&number) == Some(&TokenFact::Foreign) {
        return Trial::Foreign;
    }
    let text = |name: &str| token.contents.get(name).and_then(|value| value.as_str());
    let flag = |name: &str| token.contents.get(name).and_then(serde_json::Value::as_bool).unwrap_or(false);
    if flag("tpm2-pin") {
        return Trial::Refused("it wants a PIN".into());
    }
    if text("tpm2_srk").is_some() && !initrd.knows(Feature::TrustedSrk) {
        return Trial::Failed(
            "it is sealed under the storage root key, of which this systemd knows nothing".into(),
        );
    }
    if flag("tpm2_pcrlock") || text("tpm2_pubkey").is_some() {
        return Trial::Unknown("policies with a signature or pcrlock are not modelled".into());
    }
    let supposed = chain.target.tpm.tokens.get(&number) == Some(&TokenFact::Supposed);
    if let Some(pcr) = token.pcrs().into_iter().find(|pcr| supposed && OF_PLATFORM.contains(pcr)) {
        return Trial::Unknown(format!("PCR {pcr} is the machine's own, which is not this computer's"));
    }
    let bank = match token.pcr_bank().map(str::parse::<HashAlg>) {
        Some(Ok(bank)) => bank,
        Some(Err(_)) => return Trial::Failed("it names a PCR bank that nobody knows".into()),
        None => return Trial::Unknown("it names no PCR bank, as those of systemd 249 and before".into()),
    };
    let pcrs: Vec<PcrIndex> = token.pcrs().into_iter().filter_map(|pcr| PcrIndex::new(pcr).ok()).collect();
    let now = chain.pcrs();
    let Some(values) = now.get(&bank) else {
        return Trial::Failed(format!("the TPM has no {bank} bank"));
    };
    let policy = Policy::new(HashAlg::Sha256).pcr(bank, &pcrs, values).map(|p| p.digest().hex());
    match policy {
        None => Trial::Unknown("one of its PCRs is not forecast".into()),
        Some(policy) if text("tpm2-policy-hash") == Some(policy.as_str()) => Trial::Opens,
        Some(policy) => {
            let stored = text("tpm2-policy-hash").unwrap_or("nothing");
            Trial::Refused(format!(
                "PCR {} lead to the policy digest {}, and it was sealed to {}",
                pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
                &policy[..8],
                stored.get(..8).unwrap_or(stored),
            ))
        }
    }
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
