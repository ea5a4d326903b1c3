//! Which token frees the volume key, and what happens when none does.
//!
//! Sources: systemd 252.39 to 262, `src/cryptsetup/cryptsetup.c` and `cryptsetup-tokens/`; cryptsetup 2.6,
//! `lib/luks2/luks2_token.c` (tokens are tried until one opens a keyslot); `check_registered_passwords` (no prompt when every
//! keyslot belongs to a token that is no recovery key).

mod token;

use latchkey_disk::luks::{Header, TPM2, Token};
use latchkey_record::Outcome;

use crate::initrd::{Feature, Initrd};
use crate::options::{Options, Pcrs};
use crate::{Chain, End, RootVolume, TokenFact};
pub(crate) use token::{NoPolicy, policy};
use token::{malformed, mask};

/// systemd's recovery key, typed at a prompt.
const RECOVERY: &str = "systemd-recovery";

/// What systemd-cryptsetup tries before it gives up (`arg_tries`).
const TRIES: u32 = 3;

/// PCRs of the firmware's own code and options, and of the place where the disk hangs.
const OF_PLATFORM: [u32; 6] = [0, 1, 2, 3, 5, 6];

/// An end whose outcome nobody knows.
pub(crate) fn unknown(because: String) -> End {
    End { outcome: None, because, reported_by: None }
}

/// Before anything else somebody is asked for a token's PIN.
fn asks_for_pin(number: u32) -> End {
    unknown(format!("token {number}: somebody is asked for its PIN first, which is not modelled"))
}

/// An end that is known.
pub(crate) fn known(outcome: Outcome, because: String) -> End {
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
    /// systemd's own code cannot read it.
    Malformed(String),
    /// Another TPM's, which ends it until that was repaired.
    Foreign,
    /// Somebody is to type its PIN.
    Pin,
    Unknown(String),
}

/// Tries the tokens of the root volume with the PCRs as they are now. `attached` says with which options it is opened, or
/// how it ends where it is not.
pub(crate) fn unlock(chain: &mut Chain<'_>, initrd: &Initrd, attached: Result<Options, End>) -> End {
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
    if !initrd.has_cryptsetup() && !initrd.opens_by_scripts() {
        return known(Outcome::EmergencyShell, "the initrd cannot open LUKS volumes".into());
    }
    let options = match attached {
        Ok(options) => options,
        Err(end) => return end,
    };
    let way = options.way(initrd);
    let tokens = match way {
        Way::Own => match by_number(initrd, header, options.pcrs) {
            Ok(tokens) => tokens,
            Err(end) => return end,
        },
        Way::Plugin | Way::NoTpm => header.tokens_tried().into_iter().filter(is_tpms).collect(),
    };
    // The first one is read before anybody looks for a TPM.
    let first = tokens.first().filter(|_| way == Way::Own);
    if let Some((number, why)) = first.and_then(|(n, token)| Some((n, malformed(initrd, token)?))) {
        chain.leaves_tpm_alone();
        return gives_up(*number, &why);
    }
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
    if reasons.is_empty() {
        let mut tried = tries(chain, initrd, options, way, &tokens, &mut reasons);
        if tried.is_ok() && way == Way::Plugin && has_two_turns(initrd, options) {
            tried = again(chain, initrd, header, options);
        }
        if let Err(end) = tried {
            return end;
        }
    } else {
        chain.leaves_tpm_alone();
    }
    let end = fallback(header, options, &reasons.join("; "));
    if end.outcome == Some(Outcome::FallbackPrompt) {
        chain.asks(prompts(initrd, options));
    }
    end
}

fn is_tpms((_, token): &(u32, &Token)) -> bool {
    token.kind == TPM2
}

/// Goes through tokens in one way, and notes why each opens nothing.
///
/// # Errors
/// How it ends, where that is clear with one of them.
fn tries(
    chain: &Chain<'_>,
    initrd: &Initrd,
    options: Options,
    way: Way,
    tokens: &[(u32, &Token)],
    reasons: &mut Vec<String>,
) -> Result<(), End> {
    let last = tokens.last().map(|(number, _)| *number);
    let mut pin = None;
    for &(number, token) in tokens {
        match trial(chain, initrd, way, number, token) {
            Trial::Opens => {
                let supposed = match chain.target.tpm.tokens.get(&number) {
                    Some(TokenFact::Supposed) => ", if the machine's TPM is the one that sealed it",
                    _ => "",
                };
                let slots = list(&token.keyslots);
                return Err(known(
                    Outcome::Unlocked,
                    format!("token {number} frees keyslot {slots}{supposed}"),
                ));
            }
            Trial::Refused(why) => reasons.push(format!("token {number}: {why}")),
            Trial::Malformed(why) => return Err(gives_up(number, &why)),
            Trial::Failed(why) => {
                reasons.push(format!("token {number}: {why}"));
                // What ends the search is the last word, and no PIN is asked for.
                return Ok(());
            }
            Trial::Foreign => {
                reasons.push(format!("token {number}: another TPM sealed it, or it is damaged"));
                match repaired(initrd) {
                    Some(false) => return Ok(()),
                    None if Some(number) != last => {
                        let why = "whether this systemd goes on after another TPM's token is not known";
                        return Err(unknown(format!("token {number}: {why}")));
                    }
                    _ => {}
                }
            }
            Trial::Unknown(why) => return Err(unknown(format!("token {number}: {why}"))),
            // The plugins go on, systemd's own code does not.
            Trial::Pin if options.is_headless => {
                reasons.push(format!("token {number}: nobody is asked for its PIN"));
                if way == Way::Own {
                    return Ok(());
                }
            }
            // A plugin's is asked for when no other token opens (`crypt_activate_by_token_pin_ask_password`).
            Trial::Pin if way == Way::Plugin => pin = Some(number),
            Trial::Pin => return Err(asks_for_pin(number)),
        }
    }
    pin.map_or(Ok(()), |number| Err(asks_for_pin(number)))
}

/// Whether systemd's own code tries the tokens after the plugin did: up to 254 the plugin tries them whatever is to be
/// measured, and where a TPM is named its own code does once more, without the plugin if the volume key is to be measured
/// (`libcryptsetup_plugins_support`; Red Hat's 252 likewise).
fn has_two_turns(initrd: &Initrd, options: Options) -> bool {
    let is_early = initrd.systemd().is_some_and(|version| version <= 254);
    is_early && options.names_tpm && options.measured_into.is_some()
}

/// After the plugin systemd's own code has its turn, which takes tokens in another order.
///
/// # Errors
/// How it ends, where that is otherwise than with the plugin alone.
fn again(chain: &Chain<'_>, initrd: &Initrd, header: &Header, options: Options) -> Result<(), End> {
    let tokens = by_number(initrd, header, options.pcrs)?;
    tries(chain, initrd, options, Way::Own, &tokens, &mut Vec::new()).map_err(|end| match end.outcome {
        // It would measure the volume key, as the plugin does not.
        Some(Outcome::Unlocked) => unknown(format!(
            "the plugin opens nothing, and that systemd's own code does is not modelled: {}",
            end.because
        )),
        _ => end,
    })
}

/// What its own code does about a token that it cannot read: no attempt more, and nobody is asked
/// (`attach_luks_or_plain_or_bitlk_by_tpm2` hands on what is no `EAGAIN`).
fn gives_up(number: u32, why: &str) -> End {
    known(Outcome::EmergencyShell, format!("token {number}: {why}, and systemd-cryptsetup gives up"))
}

/// Tokens as systemd's own code goes through them; those that fill no keyslot, or several, it passes over
/// (`find_tpm2_auto_data`, and `tpm2_parse_luks2_json`, `EUCLEAN`), and, if it can read them, those that are bound to other
/// PCRs than these.
///
/// # Errors
/// The end that is not known, where the PCRs are not.
fn by_number<'h>(initrd: &Initrd, header: &'h Header, pcrs: Pcrs) -> Result<Vec<(u32, &'h Token)>, End> {
    let fits = |token: &Token| match pcrs {
        Pcrs::These(pcrs) => mask(token) == Some(pcrs) || malformed(initrd, token).is_some(),
        Pcrs::Any | Pcrs::Unknown => true,
    };
    if pcrs == Pcrs::Unknown {
        return Err(unknown("tpm2-pcrs= with names or banks is not modelled".into()));
    }
    let tokens = header.tokens.iter().map(|(number, token)| (*number, token)).filter(is_tpms);
    let mut tokens: Vec<_> = tokens.filter(|(_, token)| token.keyslots.len() == 1 && fits(token)).collect();
    tokens.sort_by_key(|(number, _)| *number);
    Ok(tokens)
}

/// How often somebody is asked, of [`TRIES`] in all: asking the TPM that the options name is one, even where a plugin asked
/// it before. From 257 on what is typed first is tried a second time, when a key file that it might have discovered would
/// have its turn, until that was repaired.
fn prompts(initrd: &Initrd, options: Options) -> Option<u32> {
    if options.tries.is_some() {
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

/// Nothing opened by itself: somebody is asked, or nobody can be (`run`, `get_password`).
fn fallback(header: &Header, options: Options, why: &str) -> End {
    if options.names_tpm && options.tries == Some(1) {
        return known(Outcome::EmergencyShell, format!("{why}; asking the TPM was the only try"));
    }
    if options.tries_empty {
        return unknown(format!("{why}; that an empty passphrase is tried then is not modelled"));
    }
    let recovery = header.tokens.values().any(|token| token.kind == RECOVERY);
    if !recovery && header.passphrase_keyslots().is_empty() {
        known(Outcome::NoPrompt, format!("{why}; no keyslot is for a passphrase or a recovery key"))
    } else if options.is_headless {
        known(Outcome::EmergencyShell, format!("{why}; nobody is asked for a key (headless)"))
    } else {
        known(Outcome::FallbackPrompt, format!("{why}; somebody is asked for a key"))
    }
}

fn trial(chain: &Chain<'_>, initrd: &Initrd, way: Way, number: u32, token: &Token) -> Trial {
    let text = |name: &str| token.contents.get(name).and_then(|value| value.as_str());
    let flag = |name: &str| token.contents.get(name).and_then(serde_json::Value::as_bool).unwrap_or(false);
    // Before the TPM is asked for anything.
    if let Some(why) = malformed(initrd, token) {
        // The plugin says that such a token is none of its own, and libcryptsetup goes on (`translate_errno` of `EINVAL`).
        return if way == Way::Own { Trial::Malformed(why) } else { Trial::Refused(why) };
    }
    let is_list = |name: &str| token.contents.get(name).is_some_and(serde_json::Value::is_array);
    if is_list("tpm2-blob") || is_list("tpm2-policy-hash") {
        return Trial::Unknown("an object in several parts is not modelled".into());
    }
    if flag("tpm2-pin") {
        return Trial::Pin;
    }
    if chain.target.tpm.locked {
        return Trial::Failed("the TPM is in dictionary-attack lockout".into());
    }
    if chain.target.tpm.tokens.get(&number) == Some(&TokenFact::Foreign) {
        return Trial::Foreign;
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
    let policy = match policy(token, &chain.pcrs()) {
        Ok(policy) => policy.hex(),
        // The TPM takes PCRs of a bank that is off for none at all, and comes to another digest (TPM 2.0 part 3, section 23.7,
        // `PCRComputeCurrentDigest` of the reference code).
        Err(NoPolicy::Never(why) | NoPolicy::Malformed(why)) => return Trial::Refused(why),
        Err(NoPolicy::Unknown(why)) => return Trial::Unknown(why),
    };
    if text("tpm2-policy-hash") == Some(policy.as_str()) {
        // libcryptsetup passes over a token that fills no other keyslot.
        let opens = |slot: &u32| chain.target.root.header().is_some_and(|header| header.opens(*slot));
        if !token.keyslots.iter().any(opens) {
            return Trial::Unknown("its keyslot holds a key of something else than the volume".into());
        }
        return Trial::Opens;
    }
    let stored = text("tpm2-policy-hash").unwrap_or("nothing");
    let pcrs = token.pcrs().iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
    let lead = if pcrs.is_empty() { "no PCRs".into() } else { format!("PCR {pcrs}") };
    Trial::Refused(format!(
        "{lead} lead to the policy digest {}, and it was sealed to {}",
        &policy[..8],
        stored.get(..8).unwrap_or(stored),
    ))
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
