//! What somebody does next who has the disk of a machine that is elsewhere.

use latchkey_record::logged::LogComparison;
use latchkey_record::{Forecast, Outcome};

/// Where a disk is changed that its own machine does not open.
const ELSEWHERE: &str = "on another VM, to which a copy of the disk is attached,";
const KEYS: &str = "open it with its fallback passphrase or recovery key";

/// What is known of a disk besides its forecast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Whether its root volume is encrypted.
    pub(super) encrypted: bool,
    /// Whether something that leads to the system, or is started on the way, is missing or damaged on it.
    pub(super) chain_is_broken: bool,
    /// Whether the machine's own boot options are.
    pub(super) has_options: bool,
    /// How it compares with the event log of a boot, where there is one.
    pub(super) log: Option<&'a LogComparison>,
}

/// The next step, in words; `None` where there is nothing to do, or nothing is known.
pub(super) fn advice(forecast: &Forecast, known: &Known<'_>) -> Option<String> {
    use Outcome::{
        Crashed, EmergencyShell, FallbackPrompt, NoBootOption, NoPrompt, RefusedByFirmware, RefusedByShim,
        RestartLoop, Unlocked, UnlockedByPassphrase, UnlockedByRecoveryKey,
    };
    let outcome = forecast.outcome?;
    if outcome == Unlocked {
        let all = "nothing of what opens this disk has changed: a machine that asks for a key all the same has another TPM \
                   than the one that sealed it, or one in lockout, or firmware that trusts something else than is supposed";
        return known.encrypted.then(|| all.to_owned());
    }
    let added = known.log.and_then(|log| log.only_forecast.iter().find(|it| it.without == Some(Unlocked)));
    if let Some(added) = added {
        return Some(format!("{ELSEWHERE} move {} away, and forecast that disk again", added.file));
    }
    Some(match outcome {
        FallbackPrompt => moved(known.log),
        NoPrompt => format!(
            "no passphrase or recovery key opens it, only its own TPM does: keep a copy of the disk, remove no keyslot and no \
             token, and {ELSEWHERE} undo what moved since it opened by itself (--log of such a boot tells)"
        ),
        EmergencyShell => {
            format!("nobody is asked there: {ELSEWHERE} {KEYS} (cryptsetup open), and mend what the outcome names")
        }
        NoBootOption | RestartLoop | RefusedByFirmware | RefusedByShim if known.chain_is_broken => {
            format!("{ELSEWHERE} put back what is missing or damaged, and forecast that disk again")
        }
        RefusedByFirmware | RefusedByShim => format!(
            "either the program changed, or what is trusted did (dbx, SbatLevel): {ELSEWHERE} put back the program as it was, \
             or one that is trusted still, and forecast that disk again"
        ),
        NoBootOption | RestartLoop if known.has_options => {
            "`--explain 4` tells what the firmware starts, and in which order".to_owned()
        }
        NoBootOption | RestartLoop => {
            "hand in the machine's own boot options (--log of one of its boots, or --variables): here it has none".to_owned()
        }
        Crashed | Unlocked | UnlockedByPassphrase | UnlockedByRecoveryKey => return None,
    })
}

/// How a machine that asks for a key comes to open by itself again. What is typed goes to whatever asks for it, so that what
/// moved comes first.
fn moved(log: Option<&LogComparison>) -> String {
    let first = match log {
        None => "see what moved, as the event log of a boot that opened by itself tells (--log)",
        Some(log) if log.tokens.values().any(|token| token.sealed_to_it == Some(true)) => {
            "see whether what differs from the log, to which the key was sealed, was meant to be, and undo it if not \
             (scenarios/README.md#by-what-moved has the scenarios by the file behind it)"
        }
        Some(_) => {
            "see what moved: the key was not sealed to this log's boot, so that an earlier one's tells more of it"
        }
    };
    format!("{first}; where it was meant to be, {KEYS}, and seal the key anew in the machine itself")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::BTreeMap;

    use latchkey_record::HashAlg;
    use latchkey_record::logged::{LoggedToken, OnlyForecast};
    use rstest::rstest;

    use super::*;

    fn coming_to(outcome: Option<Outcome>) -> Forecast {
        let forecast = serde_json::json!({"legs": [], "outcome": outcome, "because": "", "pcrs": {}});
        serde_json::from_value(forecast).unwrap()
    }

    fn log(sealed_to_it: Option<bool>, without: Option<Outcome>) -> LogComparison {
        let file = OnlyForecast { file: "esp:/a.efi".into(), without, because: String::new() };
        LogComparison {
            bank: HashAlg::Sha256,
            findings: Vec::new(),
            only_forecast: vec![file],
            only_logged: Vec::new(),
            pcrs: BTreeMap::new(),
            tokens: BTreeMap::from([(0, LoggedToken { pcrs: Vec::new(), bank: None, sealed_to_it })]),
        }
    }

    #[rstest]
    #[case::what_was_added(
        Outcome::FallbackPrompt,
        Some(log(Some(true), Some(Outcome::Unlocked))),
        "move esp:/a.efi away"
    )]
    #[case::what_was_changed(Outcome::FallbackPrompt, Some(log(Some(true), None)), "undo it if not")]
    #[case::another_boots_log(
        Outcome::FallbackPrompt,
        Some(log(Some(false), None)),
        "an earlier one's tells more"
    )]
    #[case::no_log(Outcome::FallbackPrompt, None, "(--log)")]
    #[case::nobody_asks(Outcome::NoPrompt, None, "remove no keyslot and no token")]
    #[case::a_shell(Outcome::EmergencyShell, None, "cryptsetup open")]
    #[case::nothing_to_start(Outcome::NoBootOption, None, "boot options")]
    #[case::refused(Outcome::RefusedByShim, None, "or what is trusted did")]
    fn each_outcome_has_a_next_step(
        #[case] outcome: Outcome,
        #[case] log: Option<LogComparison>,
        #[case] said: &str,
    ) {
        let known = Known { encrypted: true, chain_is_broken: false, has_options: false, log: log.as_ref() };
        let told = advice(&coming_to(Some(outcome)), &known).unwrap();
        assert!(told.contains(said), "{told}");
    }

    #[test]
    fn what_is_missing_is_put_back_and_what_opens_is_left_alone() {
        let known = |encrypted, chain_is_broken, has_options| Known {
            encrypted,
            chain_is_broken,
            has_options,
            log: None,
        };
        let told = |outcome, encrypted| advice(&coming_to(outcome), &known(encrypted, true, true));
        let refused = told(Some(Outcome::RefusedByShim), true).unwrap();
        assert!(told(Some(Outcome::RestartLoop), true).unwrap().contains("put back what is missing"));
        assert!(refused.contains("put back what is missing"));
        assert!(told(Some(Outcome::Unlocked), true).unwrap().contains("another TPM"));
        let whole = advice(&coming_to(Some(Outcome::RestartLoop)), &known(true, false, true)).unwrap();
        assert!(whole.contains("--explain 4"), "{whole}");
        // An image that nobody sealed a key for, and what hangs on something unmodelled.
        assert_eq!((told(Some(Outcome::Unlocked), false), told(None, true)), (None, None));
    }
}
