//! What somebody does next who has the disk of a machine that is elsewhere.

use latchkey_record::logged::LogComparison;
use latchkey_record::{Forecast, Outcome};

/// Where a disk is changed that its own machine does not open.
const ELSEWHERE: &str = "on another VM, to which the disk is attached,";
const KEYS: &str = "open it with its fallback passphrase or recovery key";

/// What is known of a disk besides its forecast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Whether its root volume is encrypted.
    pub(super) encrypted: bool,
    /// What is missing or damaged on it.
    pub(super) noticed: &'a [String],
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
        let all = "this disk needs nothing: a machine that asks for a key all the same has another TPM than the one that \
                   sealed it, or one in lockout, or firmware that trusts something else than is supposed";
        return known.encrypted.then(|| all.to_owned());
    }
    let added = known.log.and_then(|log| log.only_forecast.iter().find(|it| it.without == Some(Unlocked)));
    if let Some(added) = added {
        return Some(format!("{ELSEWHERE} move {} away, and forecast that disk again", added.file));
    }
    Some(match outcome {
        FallbackPrompt => format!("{KEYS}; {}", opens_again(known.log)),
        NoPrompt => format!("nobody is asked: {ELSEWHERE} {KEYS} (cryptsetup open), and seal the key anew"),
        EmergencyShell => {
            format!(
                "{ELSEWHERE} see whether `cryptsetup luksDump` reads the header and a key opens it (cryptsetup open)"
            )
        }
        NoBootOption | RestartLoop | RefusedByFirmware | RefusedByShim if !known.noticed.is_empty() => {
            format!("{ELSEWHERE} put back what is missing or damaged, and forecast that disk again")
        }
        RefusedByFirmware | RefusedByShim => {
            let by = forecast.reported_by.as_deref().unwrap_or("firmware");
            format!(
                "{ELSEWHERE} put back the program as it was when {by} started it, and forecast that disk again"
            )
        }
        NoBootOption | RestartLoop => {
            "hand in the machine's own boot options (--log of one of its boots, or --variables): \
                                       here it has none that leads to a program"
                .to_owned()
        }
        Crashed | Unlocked | UnlockedByPassphrase | UnlockedByRecoveryKey => return None,
    })
}

/// How a machine that asks for a key comes to open by itself again.
fn opens_again(log: Option<&LogComparison>) -> &'static str {
    let Some(log) = log else {
        return "the event log of a boot that opened by itself (--log) tells what moved since";
    };
    let sealed = |to_it: bool| log.tokens.values().any(|token| token.sealed_to_it == Some(to_it));
    if sealed(true) {
        return "then undo what differs from the log, to which the key was sealed, or seal the key anew \
                (scenarios/README.md#by-what-moved has the scenarios by the file behind it)";
    }
    if sealed(false) {
        return "then seal the key anew; the key was not sealed to this log's boot, so that an earlier one's tells more of \
                what moved";
    }
    "then seal the key anew"
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
    #[case::what_was_changed(Outcome::FallbackPrompt, Some(log(Some(true), None)), "undo what differs")]
    #[case::another_boots_log(
        Outcome::FallbackPrompt,
        Some(log(Some(false), None)),
        "an earlier one's tells more"
    )]
    #[case::no_log(Outcome::FallbackPrompt, None, "(--log)")]
    #[case::nobody_asks(Outcome::NoPrompt, None, "cryptsetup open")]
    #[case::nothing_to_start(Outcome::NoBootOption, None, "boot options")]
    #[case::refused(Outcome::RefusedByShim, None, "put back the program")]
    fn each_outcome_has_a_next_step(
        #[case] outcome: Outcome,
        #[case] log: Option<LogComparison>,
        #[case] said: &str,
    ) {
        let known = Known { encrypted: true, noticed: &[], log: log.as_ref() };
        let told = advice(&coming_to(Some(outcome)), &known).unwrap();
        assert!(told.contains(said), "{told}");
    }

    #[test]
    fn what_is_missing_is_put_back_and_what_opens_is_left_alone() {
        let missing = ["esp:/EFI/rocky/BOOTX64.CSV is missing".to_owned()];
        let known = |encrypted| Known { encrypted, noticed: &missing, log: None };
        let told = |outcome, encrypted| advice(&coming_to(outcome), &known(encrypted));
        assert!(told(Some(Outcome::RestartLoop), true).unwrap().contains("put back what is missing"));
        assert!(told(Some(Outcome::Unlocked), true).unwrap().contains("needs nothing"));
        // An image that nobody sealed a key for, and what hangs on something unmodelled.
        assert_eq!((told(Some(Outcome::Unlocked), false), told(None, true)), (None, None));
    }
}
