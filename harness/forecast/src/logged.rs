//! A forecast held against the event log of a boot: of a machine that is elsewhere, and about which its log is all there is.
//!
//! Only PCRs that the disk and its owner's variables decide over are compared. What the firmware measures of itself (PCR 0
//! to 3, 6) and of the place where the disk hangs (PCR 5) is another on each platform, and userspace has no log.

use std::collections::BTreeMap;

use latchkey_disk::luks::{Header, Token};
use latchkey_measure::Policy;
use latchkey_measure::eventlog::{Event, EventLog};
use latchkey_record::logged::{LogComparison, LoggedDifference, LoggedEvent, LoggedPcr, LoggedToken};
use latchkey_record::pcr::{HashAlg, PcrIndex, PcrValues};
use latchkey_record::{Certainty, Forecast, ForecastEvent, Stage};

use crate::cryptsetup::TPM2;

/// The PCRs of boot loaders, of Secure Boot, of UKIs and of shim.
const COMPARED: [u8; 8] = [4, 7, 8, 9, 11, 12, 13, 14];
/// What is extended after the log's end and before the root volume's turn: by IMA, and by systemd's phases.
const EXTENDED_LATER: [u8; 3] = [10, 11, 15];

/// Holds `forecast` against `log`, and asks of each TPM token of `header` whether it was sealed to the boot that the log
/// tells of. `None` when they have no bank in common.
#[must_use]
pub fn against_log(forecast: &Forecast, header: Option<&Header>, log: &EventLog) -> Option<LogComparison> {
    let bank = bank(forecast, log)?;
    let replay = log.replay();
    let values: BTreeMap<HashAlg, PcrValues> =
        replay.banks.algorithms().map(|bank| (bank, replay.banks.values(bank))).collect();
    let pcrs = COMPARED.iter().filter_map(|pcr| PcrIndex::new(u32::from(*pcr)).ok());
    let tokens = header.iter().flat_map(|header| &header.tokens).filter(|(_, token)| token.kind == TPM2);
    Some(LogComparison {
        bank,
        findings: replay.findings.iter().map(ToString::to_string).collect(),
        pcrs: pcrs.map(|pcr| (pcr, compared(forecast, log, pcr, bank))).collect(),
        tokens: tokens.map(|(number, token)| (*number, sealed_to(token, &values))).collect(),
    })
}

/// A bank that both have, SHA-256 if there is a choice.
fn bank(forecast: &Forecast, log: &EventLog) -> Option<HashAlg> {
    let both: Vec<HashAlg> =
        log.banks().into_iter().filter(|bank| forecast.pcrs.contains_key(bank)).collect();
    both.iter().copied().find(|bank| *bank == HashAlg::Sha256).or(both.first().copied())
}

fn compared(forecast: &Forecast, log: &EventLog, pcr: PcrIndex, bank: HashAlg) -> LoggedPcr {
    let leg = forecast.legs.last().map(|leg| &leg.events[..]).unwrap_or_default();
    let expected: Vec<&ForecastEvent> =
        leg.iter().filter(|event| event.pcr == pcr && event.stage != Stage::Userspace).collect();
    let of_pcr = |event: &&Event| event.is_measured() && event.register == u32::from(pcr.get());
    let seen: Vec<&Event> = log.events.iter().filter(of_pcr).collect();
    let alike = |(expected, seen): &(&&ForecastEvent, &&Event)| {
        matches!(expected.certainty, Certainty::Open(_))
            || expected.digest(bank) == seen.digest(bank).as_ref()
    };
    let same = expected.iter().zip(&seen).take_while(alike).count();
    let logged = |event: &&Event| LoggedEvent {
        digest: event.digest(bank),
        what: format!("{} {}", event.kind, event.decode()),
    };
    let difference = LoggedDifference {
        forecast: expected.get(same).map(|event| (*event).clone()),
        logged: seen.get(same).map(logged),
    };
    let parts = difference.forecast.is_some() || difference.logged.is_some();
    LoggedPcr { same, first: parts.then_some(difference) }
}

fn sealed_to(token: &Token, values: &BTreeMap<HashAlg, PcrValues>) -> LoggedToken {
    let pcrs: Vec<PcrIndex> = token.pcrs().into_iter().filter_map(|pcr| PcrIndex::new(pcr).ok()).collect();
    let bank = token.pcr_bank().unwrap_or("none").to_owned();
    // What is not one policy over PCRs alone has a digest that PCRs do not lead to.
    let plain = ["tpm2_pubkey", "tpm2_pcrlock", "tpm2-pin"];
    let plain = plain
        .iter()
        .all(|field| matches!(token.contents.get(*field), None | Some(serde_json::Value::Bool(false))));
    let told = plain && !pcrs.iter().any(|pcr| EXTENDED_LATER.contains(&pcr.get()));
    let digest = || {
        let bank: HashAlg = bank.parse().ok()?;
        let policy = Policy::new(HashAlg::Sha256).pcr(bank, &pcrs, values.get(&bank)?)?;
        let stored = token.contents.get("tpm2-policy-hash").and_then(serde_json::Value::as_str)?;
        Some(policy.digest().hex() == stored)
    };
    LoggedToken { sealed_to_it: if told { digest() } else { None }, pcrs, bank }
}
