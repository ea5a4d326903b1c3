//! Forecasts held against event logs: what differs is named with the file behind it, and tokens with the boot that they
//! were sealed to.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use common::at_shim::uki_by;
use common::{Memory, VENDOR, shim_of, told, variables};
use latchkey_disk::luks::{Copy, Header, Token};
use latchkey_forecast::against_log;
use latchkey_measure::eventlog::{Event, EventLog, EventType};
use latchkey_measure::{HashAlg, Policy};
use latchkey_record::logged::LogComparison;
use latchkey_record::{Forecast, Origin, PcrIndex, Stage};
use rstest::rstest;
use serde_json::json;

fn chain(shim: &str) -> Forecast {
    let esp = Memory::default()
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of(shim))
        .with("/EFI/BOOT/grubx64.efi", uki_by(&VENDOR));
    told(&esp, &variables())
}

/// What a guest of `forecast` would find as its firmware's log.
fn log(forecast: &Forecast) -> EventLog {
    let mut log = EventLog::agile(&[HashAlg::Sha256]);
    let events = forecast.legs.last().unwrap().events.iter();
    log.events = events
        .filter(|event| event.stage != Stage::Userspace && !event.digests.is_empty())
        .map(|event| Event {
            register: event.pcr.into(),
            kind: EventType(event.kind),
            digests: event.digests.iter().map(Into::into).collect(),
            data: Vec::new(),
        })
        .collect();
    log
}

fn pcr(index: u32) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

/// A root whose one token is sealed to these PCRs of `log`.
fn sealed(log: &EventLog, pcrs: &[u32], more: &[(&str, serde_json::Value)]) -> Header {
    let values = log.replay().banks.values(HashAlg::Sha256);
    let indices: Vec<PcrIndex> = pcrs.iter().map(|index| pcr(*index)).collect();
    let policy = Policy::new(HashAlg::Sha256).pcr(HashAlg::Sha256, &indices, &values).unwrap();
    let contents =
        json!({"tpm2-pcrs": pcrs, "tpm2-pcr-bank": "sha256", "tpm2-policy-hash": policy.digest().hex()});
    let mut contents = contents.as_object().unwrap().clone();
    contents.extend(more.iter().map(|(field, value)| ((*field).to_owned(), value.clone())));
    Header {
        uuid: String::new(),
        label: String::new(),
        sequence: 1,
        copy: Copy::Primary,
        keyslots: BTreeMap::new(),
        tokens: [(3, Token { kind: "systemd-tpm2".into(), keyslots: vec![1], contents })].into(),
        segments: BTreeMap::new(),
        requirements: Vec::new(),
    }
}

fn differing(comparison: &LogComparison) -> Vec<u8> {
    comparison.pcrs.iter().filter(|(_, told)| told.first.is_some()).map(|(pcr, _)| pcr.get()).collect()
}

#[test]
fn the_same_boot_is_the_same_and_its_token_was_sealed_to_it() {
    let forecast = chain("15.8");
    let log = log(&forecast);
    let told = against_log(&forecast, Some(&sealed(&log, &[4, 7], &[])), &log).unwrap();
    assert_eq!((differing(&told), told.findings.len()), (vec![], 0));
    assert!(told.pcrs[&pcr(4)].same > 2 && told.pcrs[&pcr(7)].same > 5);
    assert_eq!(told.tokens[&3].sealed_to_it, Some(true));
}

/// The disk has another shim than at the boot that was logged and sealed to.
#[test]
fn the_first_event_that_parts_is_named_with_its_file() {
    let (then, now) = (chain("15.8"), chain("16.1"));
    let log = log(&then);
    let told = against_log(&now, Some(&sealed(&log, &[4, 7], &[])), &log).unwrap();
    assert!(differing(&told).contains(&4), "{told:?}");
    let first = told.pcrs[&pcr(4)].first.as_ref().unwrap();
    let forecast = first.forecast.as_ref().unwrap();
    assert_eq!(forecast.from, Origin::File("esp:/EFI/BOOT/BOOTX64.EFI".into()));
    let logged = first.logged.as_ref().unwrap();
    assert!(logged.digest.is_some() && logged.digest.as_ref() != forecast.digest(HashAlg::Sha256));
    // The token is of the log's boot: it is the disk that changed since.
    assert_eq!(told.tokens[&3].sealed_to_it, Some(true));
    let other = sealed(&self::log(&now), &[4, 7], &[]);
    assert_eq!(against_log(&now, Some(&other), &log).unwrap().tokens[&3].sealed_to_it, Some(false));
}

/// One side may end before the other.
#[rstest]
#[case::less(true)]
#[case::more(false)]
fn what_only_one_side_has_is_told(#[case] less: bool) {
    let forecast = chain("15.8");
    let mut log = log(&forecast);
    let at = log.events.iter().rposition(|event| event.register == 7).unwrap();
    let event = log.events[at].clone();
    if less {
        drop(log.events.remove(at))
    } else {
        log.events.insert(at, event)
    }
    let told = against_log(&forecast, None, &log).unwrap();
    assert_eq!(differing(&told), [7]);
    let first = told.pcrs[&pcr(7)].first.as_ref().unwrap();
    assert_eq!((first.forecast.is_some(), first.logged.is_some()), (less, !less));
}

/// What is extended after the log's end, and what is no policy over PCRs alone, a log cannot tell.
#[rstest]
#[case::a_phase(&[4, 11], &[])]
#[case::a_pin(&[4, 7], &[("tpm2-pin", json!(true))])]
#[case::a_signature(&[7], &[("tpm2_pubkey", json!("AA=="))])]
fn what_a_log_cannot_tell_is_said(#[case] pcrs: &[u32], #[case] more: &[(&str, serde_json::Value)]) {
    let forecast = chain("15.8");
    let log = log(&forecast);
    let told = against_log(&forecast, Some(&sealed(&log, pcrs, more)), &log).unwrap();
    assert_eq!(told.tokens[&3].sealed_to_it, None);
}

#[test]
fn without_a_bank_in_common_nothing_is_compared() {
    let forecast = chain("15.8");
    assert!(against_log(&forecast, None, &EventLog::agile(&[HashAlg::Sha512])).is_none());
}
