//! From the witnesses of a boot to its outcome, or to a contradiction.
//!
//! The console says first what a boot seems to have come to; each other witness is then asked whether it saw
//! what goes with that. Nobody is believed alone.

use latchkey_machine::Observation;
use latchkey_provision::KeyRole;
use latchkey_record::Outcome;
use latchkey_record::boot::{Contradiction, Witness, WitnessName};
use latchkey_record::console::{ConsoleEvent, Pattern};
use latchkey_record::tpm::TpmRecord;
use serde::{Deserialize, Serialize};

/// The patterns that end a boot, one way or another. A boot option that the firmware refuses is none: it goes on to the
/// next.
pub const DECISIVE: &[Pattern] = &[
    Pattern::Login,
    Pattern::PassphrasePrompt,
    Pattern::RecoveryKeyPrompt,
    Pattern::NoPassphraseRegistered,
    Pattern::ShimRefusal,
    Pattern::ShimFatal,
    Pattern::MokManager,
    Pattern::GrubRefusal,
    Pattern::KernelNotLoaded,
    Pattern::NoBootOption,
    Pattern::FirmwareShell,
    Pattern::EmergencyShell,
    Pattern::KernelPanic,
];

/// What QEMU says of a VM whose processors run (qapi/run-state.json).
pub(crate) const RUNNING: &str = "running";

/// Whether a key is sealed to the machine's TPM, so that a boot that comes to userspace has something to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sealed {
    /// Not yet: the machine is being provisioned.
    No,
    /// A keyslot's secret is.
    Yes,
    /// One is, and by the forecast nobody asks the TPM for it: it is gone, or whoever opens the volume cannot.
    OutOfReach,
}

/// What the witnesses of one boot have to say.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// The console's decisive pattern.
    pub decisive: &'a ConsoleEvent,
    /// Which key was typed in this boot, if any.
    pub typed: Option<KeyRole>,
    /// Whether there is a sealed key to try.
    pub sealed: Sealed,
    /// The SSH banner, if one came.
    pub banner: Option<&'a str>,
    /// What QEMU says of the VM.
    pub run_state: &'a str,
    /// The TPM's record of this boot alone.
    pub tpm: &'a TpmRecord,
}

/// What the witnesses come to together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What the console shows, if nobody contradicts.
    pub outcome: Option<Outcome>,
    /// Who reported a refusal.
    pub reported_by: Option<&'static str>,
    /// Whether a screen waits for a key, for ever.
    pub waiting_for_key: bool,
    /// Everybody's account.
    pub witnesses: Vec<Witness>,
    /// Who disagrees with the console.
    pub contradictions: Vec<Contradiction>,
}

impl Judgement {
    /// Of a boot that nobody could judge: what each witness had seen by then.
    pub(crate) fn unclear(seen: &Observation, tpm: &TpmRecord) -> Self {
        let last = seen.console.last().map_or("nothing that is known", |event| event.text.as_str());
        let greeted = seen.ssh_banner.as_ref().map_or("no banner", |banner| banner.text.as_str());
        let accounts = [
            (WitnessName::Console, last.to_owned()),
            (WitnessName::Tpm, at_the_tpm(tpm).to_owned()),
            (WitnessName::Ssh, greeted.to_owned()),
            (WitnessName::RunState, seen.run_state.clone()),
        ];
        Self {
            outcome: None,
            reported_by: None,
            waiting_for_key: false,
            witnesses: accounts.map(|(name, saw)| Witness { name, saw }).into(),
            contradictions: Vec::new(),
        }
    }

    /// Whether nobody could judge.
    pub(crate) fn is_unclear(&self) -> bool {
        self.outcome.is_none() && self.contradictions.is_empty()
    }
}

/// Why no verdict may hang on what was seen of a machine that runs: the TPM's record may lack something, or nobody reads the
/// console any more. `None` where nothing speaks against it.
pub(crate) fn doubt(tpm: &TpmRecord, is_console_closed: bool) -> Option<String> {
    match tpm.doubts.first() {
        Some(doubt) => Some(format!("the TPM's record may lack something: {doubt}")),
        None if is_console_closed => {
            Some("the console's line has ended and the machine runs: what it shows is not read".to_owned())
        }
        None => None,
    }
}

/// Weighs the evidence.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Judgement {
    let (outcome, reported_by, waiting_for_key) = apparent(evidence.decisive.pattern, evidence.typed);
    let mut witnesses = vec![Witness { name: WitnessName::Console, saw: evidence.decisive.text.clone() }];
    let mut contradictions = Vec::new();
    for account in accounts(evidence, outcome) {
        if !account.agrees {
            contradictions.push(Contradiction {
                name: account.name,
                expected: account.expected.to_owned(),
                saw: account.saw.clone(),
            });
        }
        witnesses.push(Witness { name: account.name, saw: account.saw });
    }
    let outcome = contradictions.is_empty().then_some(outcome);
    Judgement { outcome, reported_by, waiting_for_key, witnesses, contradictions }
}

/// What a boot seems to have come to whose console shows `pattern`, with nothing typed.
pub(crate) fn comes_to(pattern: Pattern) -> Outcome {
    apparent(pattern, None).0
}

/// What the console shows: the outcome, who reported a refusal, and whether a screen waits for a key.
fn apparent(pattern: Pattern, typed: Option<KeyRole>) -> (Outcome, Option<&'static str>, bool) {
    match pattern {
        Pattern::Login if typed.is_some_and(KeyRole::is_recovery) => {
            (Outcome::UnlockedByRecoveryKey, None, false)
        }
        Pattern::Login if typed.is_some() => (Outcome::UnlockedByPassphrase, None, false),
        Pattern::Login => (Outcome::Unlocked, None, false),
        Pattern::PassphrasePrompt | Pattern::RecoveryKeyPrompt => (Outcome::FallbackPrompt, None, true),
        Pattern::NoPassphraseRegistered => (Outcome::NoPrompt, None, false),
        Pattern::ShimRefusal | Pattern::MokManager => (Outcome::RefusedByShim, Some("shim"), true),
        Pattern::ShimFatal => (Outcome::RefusedByShim, Some("shim"), false),
        Pattern::GrubRefusal => (Outcome::RefusedByShim, Some("grub"), true),
        Pattern::KernelNotLoaded => (Outcome::RefusedByFirmware, Some("grub"), true),
        Pattern::FirmwareRefusal => (Outcome::RefusedByFirmware, Some("firmware"), false),
        Pattern::NoBootOption | Pattern::FirmwareShell => (Outcome::NoBootOption, None, true),
        Pattern::RestartLoop => (Outcome::RestartLoop, None, false),
        Pattern::EmergencyShell => (Outcome::EmergencyShell, None, true),
        Pattern::KernelPanic => (Outcome::Crashed, None, false),
        // None of these decides (`DECISIVE`): who makes one do so tells here what it comes to.
        Pattern::FirmwareStarts
        | Pattern::BootOptionRestoration
        | Pattern::KernelStarts
        | Pattern::PolicyMismatch
        | Pattern::TpmFallback
        | Pattern::TpmLockout
        | Pattern::WrongPassphrase
        | Pattern::TooManyAttempts
        | Pattern::PowersOff
        | Pattern::Restarts => (Outcome::Crashed, None, false),
    }
}

struct Account {
    name: WitnessName,
    expected: &'static str,
    saw: String,
    agrees: bool,
}

fn accounts(evidence: &Evidence<'_>, outcome: Outcome) -> [Account; 3] {
    [
        tpm(evidence.tpm, evidence.sealed, outcome),
        ssh(evidence.banner, outcome),
        run_state(evidence.run_state),
    ]
}

/// By itself only with a secret out of the TPM; anything else only without one. Where the chain stopped before
/// userspace, nobody can have tried; where it came to a prompt although a key is sealed, somebody must have.
fn tpm(record: &TpmRecord, sealed: Sealed, outcome: Outcome) -> Account {
    let (tried, unsealed) = (record.policy_tried(), record.unsealed());
    let saw = at_the_tpm(record).to_owned();
    let (expected, agrees) = match outcome {
        Outcome::Unlocked => ("a secret unsealed", unsealed),
        Outcome::RefusedByFirmware
        | Outcome::RefusedByShim
        | Outcome::NoBootOption
        | Outcome::RestartLoop => ("nothing tried", !tried && !unsealed),
        // A machine can crash after its root was opened.
        Outcome::Crashed | Outcome::EmergencyShell => ("anything", true),
        _ if sealed == Sealed::OutOfReach => ("nothing tried", !tried && !unsealed),
        _ if sealed == Sealed::Yes => ("policy tried, nothing unsealed", tried && !unsealed),
        _ => ("nothing unsealed", !unsealed),
    };
    Account { name: WitnessName::Tpm, expected, saw, agrees }
}

/// What a TPM's record tells of attempts to unseal.
fn at_the_tpm(record: &TpmRecord) -> &'static str {
    match (record.policy_tried(), record.unsealed()) {
        (_, true) => "unsealed",
        (true, false) if record.locked_out() => "tried, refused: dictionary-attack lockout",
        (true, false) if record.foreign_object() => "tried, refused: sealed by another TPM",
        (true, false) => "policy tried, nothing unsealed",
        (false, false) => "nothing tried",
    }
}

fn ssh(banner: Option<&str>, outcome: Outcome) -> Account {
    let expected = if outcome.is_open() { "a banner" } else { "no banner" };
    let saw = banner.map_or("no banner".to_owned(), str::to_owned);
    Account { name: WitnessName::Ssh, expected, saw, agrees: banner.is_some() == outcome.is_open() }
}

fn run_state(state: &str) -> Account {
    let agrees = state == RUNNING;
    Account { name: WitnessName::RunState, expected: RUNNING, saw: state.to_owned(), agrees }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latchkey_record::tpm::{TpmExchange, TpmResponse, command};
    use rstest::rstest;

    fn record(codes: &[(u32, u32)]) -> TpmRecord {
        let exchange = |(code, rc): &(u32, u32)| TpmExchange {
            at_ms: 0,
            reset: 0,
            code: *code,
            command: String::new(),
            handles: vec![],
            detail: None,
            response: TpmResponse { code: *rc, words: String::new() },
        };
        TpmRecord { exchanges: codes.iter().map(exchange).collect(), doubts: vec![] }
    }

    const UNSEALED: &[(u32, u32)] = &[(command::LOAD, 0x922), (command::LOAD, 0), (command::UNSEAL, 0)];
    const REFUSED: &[(u32, u32)] = &[(command::LOAD, 0), (command::POLICY_PCR, 0)];
    const UNTRIED: &[(u32, u32)] = &[(command::PCR_EXTEND, 0)];

    #[rstest]
    #[case(Pattern::Login, None, true, UNSEALED, Some(Outcome::Unlocked))]
    #[case(
        Pattern::Login,
        Some(KeyRole::FallbackPassphrase),
        true,
        REFUSED,
        Some(Outcome::UnlockedByPassphrase)
    )]
    #[case(
        Pattern::Login,
        Some(KeyRole::AzureRecoveryKey),
        true,
        REFUSED,
        Some(Outcome::UnlockedByRecoveryKey)
    )]
    #[case(Pattern::PassphrasePrompt, None, false, REFUSED, Some(Outcome::FallbackPrompt))]
    // An initrd that has lost its TPM support asks for the passphrase, too: that is no mismatch.
    #[case(Pattern::PassphrasePrompt, None, false, UNTRIED, None)]
    #[case(Pattern::ShimRefusal, None, false, UNTRIED, Some(Outcome::RefusedByShim))]
    #[case(Pattern::KernelNotLoaded, None, false, UNTRIED, Some(Outcome::RefusedByFirmware))]
    #[case(Pattern::NoPassphraseRegistered, None, false, REFUSED, Some(Outcome::NoPrompt))]
    // A login that the TPM did not open and nobody typed for: the disk was not encrypted, or somebody lies.
    #[case(Pattern::Login, None, true, UNTRIED, None)]
    // A login prompt without SSH.
    #[case(Pattern::Login, None, false, UNSEALED, None)]
    // A prompt on a machine that answers on SSH, or whose TPM gave the secret away.
    #[case(Pattern::PassphrasePrompt, None, true, REFUSED, None)]
    #[case(Pattern::PassphrasePrompt, None, false, UNSEALED, None)]
    // A machine that restarts for ever never comes to a system that asks the TPM.
    #[case(Pattern::RestartLoop, None, false, UNTRIED, Some(Outcome::RestartLoop))]
    #[case(Pattern::RestartLoop, None, false, REFUSED, None)]
    // A refusal after userspace had tried the policy.
    #[case(Pattern::ShimRefusal, None, false, REFUSED, None)]
    fn is_judged(
        #[case] pattern: Pattern,
        #[case] typed: Option<KeyRole>,
        #[case] ssh: bool,
        #[case] tpm: &[(u32, u32)],
        #[case] outcome: Option<Outcome>,
    ) {
        let decisive = ConsoleEvent { at_ms: 0, pattern, text: String::new() };
        let tpm = record(tpm);
        let banner = ssh.then_some("SSH-2.0-x");
        let evidence = Evidence {
            decisive: &decisive,
            typed,
            sealed: Sealed::Yes,
            banner,
            run_state: "running",
            tpm: &tpm,
        };
        let judgement = judge(&evidence);
        assert_eq!(judgement.outcome, outcome, "{:?}", judgement.contradictions);
        assert_eq!(judgement.witnesses.len(), 4);
        let paused = judge(&Evidence { run_state: "paused", ..evidence });
        assert!(paused.contradictions.iter().any(|c| c.name == WitnessName::RunState));
    }

    /// Before anything is sealed nobody has to try; where by the forecast nobody can, nobody must have.
    #[rstest]
    #[case::nothing_is_sealed(Sealed::No, UNTRIED, Some(Outcome::FallbackPrompt))]
    #[case::out_of_reach(Sealed::OutOfReach, UNTRIED, Some(Outcome::FallbackPrompt))]
    #[case::out_of_reach_and_tried(Sealed::OutOfReach, REFUSED, None)]
    fn a_prompt_hangs_on_what_could_be_tried(
        #[case] sealed: Sealed,
        #[case] tpm: &[(u32, u32)],
        #[case] outcome: Option<Outcome>,
    ) {
        let decisive = ConsoleEvent { at_ms: 0, pattern: Pattern::PassphrasePrompt, text: String::new() };
        let (tpm, run_state) = (record(tpm), "running");
        let evidence =
            Evidence { decisive: &decisive, typed: None, sealed, banner: None, run_state, tpm: &tpm };
        assert_eq!(judge(&evidence).outcome, outcome);
    }

    /// Everything else that is shown on the way says nothing of the end.
    #[test]
    fn of_what_decides_a_panic_alone_is_a_crash() {
        let crashes = |pattern: &&Pattern| comes_to(**pattern) == Outcome::Crashed;
        let found: Vec<_> = DECISIVE.iter().filter(crashes).collect();
        assert_eq!(found, [&Pattern::KernelPanic]);
    }

    #[test]
    fn nothing_hangs_on_what_may_lack_something() {
        let mut tpm = record(UNSEALED);
        assert_eq!(doubt(&tpm, false), None);
        assert!(doubt(&tpm, true).is_some_and(|why| why.contains("console")));
        tpm.doubts.push("a command without an answer".into());
        assert!(doubt(&tpm, false).is_some_and(|why| why.ends_with("a command without an answer")));
    }

    #[test]
    fn a_lockout_is_told_from_a_mismatch() {
        let decisive = ConsoleEvent { at_ms: 0, pattern: Pattern::PassphrasePrompt, text: String::new() };
        let tpm = record(&[(command::LOAD, 0x921)]);
        let evidence = Evidence {
            decisive: &decisive,
            typed: None,
            sealed: Sealed::Yes,
            banner: None,
            run_state: "running",
            tpm: &tpm,
        };
        assert!(judge(&evidence).witnesses.iter().any(|w| w.saw.contains("lockout")));
    }
}
