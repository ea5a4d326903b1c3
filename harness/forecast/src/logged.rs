//! A forecast held against the event log of a boot: of a machine that is elsewhere, and about which its log is all there is.
//!
//! Only PCRs that the disk and its owner's variables decide over are compared. What the firmware measures of itself (PCR 0
//! to 3, 6) and of the place where the disk hangs (PCR 5) is another on each platform, and userspace has no log.

use std::collections::{BTreeMap, BTreeSet};

use latchkey_disk::luks::{Header, TPM2, Token};
use latchkey_measure::Uuid;
use latchkey_measure::eventlog::data::Decoded;
use latchkey_measure::eventlog::{Event, EventLog, EventType};
use latchkey_record::logged::{
    LogComparison, LoggedDifference, LoggedEvent, LoggedPcr, LoggedToken, OnlyForecast,
};
use latchkey_record::pcr::{Digest, HashAlg, PcrIndex, PcrValues};
use latchkey_record::{Certainty, Forecast, ForecastEvent, Origin, Stage};

use crate::cryptsetup;

/// The PCRs of boot loaders, of Secure Boot, of UKIs and of shim.
const COMPARED: [u8; 8] = [4, 7, 8, 9, 11, 12, 13, 14];
/// What IMA and systemd may extend after the log's end and before the root volume's turn, whatever is forecast.
const EXTENDED_LATER: [u8; 3] = [10, 11, 15];

/// What the firmware measures into PCR 4 of its own accord, and each in its own order.
const OF_PLATFORM: [EventType; 2] = [EventType::EFI_ACTION, EventType::SEPARATOR];
/// What ends the firmware's part of a log (TCG PC Client Platform Firmware Profile, section "Measuring UEFI Actions").
const LEFT_FIRMWARE: &[u8] = b"Exit Boot Services";

/// Holds `forecast` of a disk with the GUID `disk` against `log`, and asks of each TPM token of `header` whether it was sealed
/// to the boot that the log tells of. What the disk comes to without a file is not told here
/// ([`LogComparison::only_forecast`] has the files). `None` when they have no bank in common.
#[must_use]
pub fn against_log(
    forecast: &Forecast,
    disk: Uuid,
    header: Option<&Header>,
    log: &EventLog,
) -> Option<LogComparison> {
    let bank = bank(forecast, log)?;
    let replay = log.replay();
    let values: BTreeMap<HashAlg, PcrValues> =
        replay.banks.algorithms().map(|bank| (bank, replay.banks.values(bank))).collect();
    let pcrs = COMPARED.iter().filter_map(|pcr| PcrIndex::new(u32::from(*pcr)).ok());
    let tokens = header.iter().flat_map(|header| &header.tokens).filter(|(_, token)| token.kind == TPM2);
    let whole = log.events.iter().any(|event| event.data.starts_with(LEFT_FIRMWARE));
    let mut findings: Vec<String> = replay.findings.iter().map(ToString::to_string).collect();
    if !whole {
        let last = log.events.len().saturating_sub(1);
        findings.push(format!(
            "it ends before the firmware was left, with event {last} (counted from 0): what came after is not in it"
        ));
    }
    findings.extend(other_disk(disk, log));
    let later = extended_later(forecast);
    let sealed = |token| match sealed_to(token, &values, &later) {
        // What is missing in the log would have been in the PCRs.
        LoggedToken { sealed_to_it: Some(false), pcrs, bank } if !whole => {
            LoggedToken { sealed_to_it: None, pcrs, bank }
        }
        told => told,
    };
    let (only_forecast, only_logged) = programs(forecast, log, bank);
    Some(LogComparison {
        bank,
        findings,
        only_forecast,
        only_logged,
        pcrs: pcrs.map(|pcr| (pcr, compared(forecast, log, pcr, bank))).collect(),
        tokens: tokens.map(|(number, token)| (*number, sealed(token))).collect(),
    })
}

/// PCRs that userspace extends before the root volume's turn, which no firmware's log has.
fn extended_later(forecast: &Forecast) -> Vec<u8> {
    let leg = forecast.legs.last();
    let before =
        leg.map(|leg| &leg.events[..leg.tried_after.unwrap_or(leg.events.len())]).unwrap_or_default();
    let of_userspace = before.iter().filter(|event| event.stage == Stage::Userspace);
    EXTENDED_LATER.into_iter().chain(of_userspace.map(|event| event.pcr.get())).collect()
}

/// That the log is about another disk. Disks made of one image have the same GUID, so that the same says little.
fn other_disk(ours: Uuid, log: &EventLog) -> Option<String> {
    let tables = log.events.iter().filter_map(|event| match event.decode() {
        Decoded::Gpt { disk, .. } => Some(disk),
        _ => None,
    });
    let tables: Vec<Uuid> = tables.collect();
    (!tables.is_empty() && !tables.contains(&ours)).then(|| {
        let theirs = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!("it is of another disk: its partition table has the GUID {theirs}, and this disk's {ours}")
    })
}

/// Files that are forecast and were not logged, and programs that were logged and are not forecast.
fn programs(forecast: &Forecast, log: &EventLog, bank: HashAlg) -> (Vec<OnlyForecast>, Vec<String>) {
    let leg = forecast.legs.last().map(|leg| &leg.events[..]).unwrap_or_default();
    let compared = |register: u32| COMPARED.iter().any(|pcr| u32::from(*pcr) == register);
    let logged = || log.events.iter().filter(|e| e.is_measured() && compared(e.register));
    let seen: BTreeSet<(u32, Digest)> =
        logged().filter_map(|event| Some((event.register, event.digest(bank)?))).collect();
    let expected: BTreeSet<(u32, &Digest)> =
        leg.iter().filter_map(|event| Some((event.pcr.into(), event.digest(bank)?))).collect();
    let mut files: Vec<OnlyForecast> = Vec::new();
    for event in leg.iter().filter(|event| event.stage != Stage::Userspace && compared(event.pcr.into())) {
        // One that is open may be any of those that were logged.
        let (Origin::File(file), Some(digest)) = (&event.from, event.digest(bank)) else { continue };
        let is_logged = seen.contains(&(event.pcr.into(), digest.clone()));
        if !is_logged && files.iter().all(|known| known.file != *file) {
            files.push(OnlyForecast { file: file.clone(), without: None, because: String::new() });
        }
    }
    let started = logged().filter(|event| event.kind == EventType::EFI_BOOT_SERVICES_APPLICATION);
    let gone = started.filter(|event| {
        event.digest(bank).is_none_or(|digest| !expected.contains(&(event.register, &digest)))
    });
    let gone = gone.map(|event| event.decode().to_string());
    (files, gone.collect())
}

/// A bank that both have, SHA-256 if there is a choice.
fn bank(forecast: &Forecast, log: &EventLog) -> Option<HashAlg> {
    let both: Vec<HashAlg> =
        log.banks().into_iter().filter(|bank| forecast.pcrs.contains_key(bank)).collect();
    both.iter().copied().find(|bank| *bank == HashAlg::Sha256).or(both.first().copied())
}

fn compared(forecast: &Forecast, log: &EventLog, pcr: PcrIndex, bank: HashAlg) -> LoggedPcr {
    let leg = forecast.legs.last().map(|leg| &leg.events[..]).unwrap_or_default();
    let mut expected: Vec<&ForecastEvent> =
        leg.iter().filter(|event| event.pcr == pcr && event.stage != Stage::Userspace).collect();
    let of_pcr = |event: &&Event| event.is_measured() && event.register == u32::from(pcr.get());
    let mut seen: Vec<&Event> = log.events.iter().filter(of_pcr).collect();
    let first = parted(&expected, &seen, bank);
    let of_platform = |kind: EventType| pcr.get() == 4 && OF_PLATFORM.contains(&kind);
    let (there, here) = (expected.get(first), seen.get(first));
    let another_platform = there.is_some_and(|event| of_platform(EventType(event.kind)))
        || here.is_some_and(|event| of_platform(event.kind));
    if another_platform {
        expected.retain(|event| !of_platform(EventType(event.kind)));
        seen.retain(|event| !of_platform(event.kind));
    }
    let same = parted(&expected, &seen, bank);
    let logged = |event: &&Event| LoggedEvent {
        digest: event.digest(bank),
        what: format!("{} {}", event.kind, event.decode()),
    };
    let difference = LoggedDifference {
        forecast: expected.get(same).map(|event| (*event).clone()),
        logged: seen.get(same).map(logged),
    };
    let parts = difference.forecast.is_some() || difference.logged.is_some();
    LoggedPcr { same, another_platform, first: parts.then_some(difference) }
}

/// How many events are the same from the first on.
fn parted(expected: &[&ForecastEvent], seen: &[&Event], bank: HashAlg) -> usize {
    let alike = |(expected, seen): &(&&ForecastEvent, &&Event)| {
        matches!(expected.certainty, Certainty::Open(_))
            || expected.digest(bank) == seen.digest(bank).as_ref()
    };
    expected.iter().zip(seen).take_while(alike).count()
}

fn sealed_to(token: &Token, values: &BTreeMap<HashAlg, PcrValues>, later: &[u8]) -> LoggedToken {
    let pcrs: Vec<PcrIndex> = token.pcrs().into_iter().filter_map(|pcr| PcrIndex::new(pcr).ok()).collect();
    let bank = token.pcr_bank().map(str::to_owned);
    // What is not one policy over PCRs alone has a digest that PCRs do not lead to.
    let plain = ["tpm2_pubkey", "tpm2_pcrlock", "tpm2-pin"];
    let plain = plain
        .iter()
        .all(|field| matches!(token.contents.get(*field), None | Some(serde_json::Value::Bool(false))));
    let told = plain && !pcrs.iter().any(|pcr| later.contains(&pcr.get()));
    let digest = || {
        let policy = cryptsetup::policy(token, values).ok()?;
        let stored = token.contents.get("tpm2-policy-hash").and_then(serde_json::Value::as_str)?;
        Some(policy.hex() == stored)
    };
    LoggedToken { sealed_to_it: if told { digest() } else { None }, pcrs, bank }
}
