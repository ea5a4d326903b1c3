//! Forecasts held against event logs: what differs is named with the file behind it, and tokens with the boot that they
//! were sealed to.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use common::at_shim::uki_by;
use common::{Memory, VENDOR, shim_of, told, variables};
use latchkey_disk::luks::{Copy, Header, Token};
use latchkey_forecast::{Volume, Without, against_log};
use latchkey_measure::eventlog::{Event, EventLog, EventType};
use latchkey_measure::{HashAlg, Policy, Uuid};
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
    log.measure(5, EventType::EFI_ACTION, b"Exit Boot Services Invocation", b"Exit Boot Services Invocation");
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
    let told = against_log(&forecast, Uuid::nil(), Some(&sealed(&log, &[4, 7], &[])), &log).unwrap();
    assert_eq!((differing(&told), told.findings.len()), (vec![], 0));
    assert!(told.pcrs[&pcr(4)].same > 2 && told.pcrs[&pcr(7)].same > 5);
    assert_eq!(told.tokens[&3].sealed_to_it, Some(true));
}

/// The disk has another shim than at the boot that was logged and sealed to.
#[test]
fn the_first_event_that_parts_is_named_with_its_file() {
    let (then, now) = (chain("15.8"), chain("16.1"));
    let log = log(&then);
    let told = against_log(&now, Uuid::nil(), Some(&sealed(&log, &[4, 7], &[])), &log).unwrap();
    assert!(differing(&told).contains(&4), "{told:?}");
    let first = told.pcrs[&pcr(4)].first.as_ref().unwrap();
    let forecast = first.forecast.as_ref().unwrap();
    assert_eq!(forecast.from, Origin::File("esp:/EFI/BOOT/BOOTX64.EFI".into()));
    let logged = first.logged.as_ref().unwrap();
    assert!(logged.digest.is_some() && logged.digest.as_ref() != forecast.digest(HashAlg::Sha256));
    // The token is of the log's boot: it is the disk that changed since.
    assert_eq!(told.tokens[&3].sealed_to_it, Some(true));
    let other = sealed(&self::log(&now), &[4, 7], &[]);
    assert_eq!(
        against_log(&now, Uuid::nil(), Some(&other), &log).unwrap().tokens[&3].sealed_to_it,
        Some(false)
    );
}

/// What a shim of one version measures beside what the other did: the file behind the difference, and what is gone.
#[test]
fn files_that_only_one_side_has_are_named() {
    let (then, now) = (chain("15.8"), chain("16.1"));
    let mut log = log(&then);
    let shim = log.events.iter_mut().find(|e| e.kind == EventType::EFI_BOOT_SERVICES_APPLICATION).unwrap();
    // `UEFI_IMAGE_LOAD_EVENT` without a path: address, length, link address, length of the path.
    shim.data = [[0; 8], 4096u64.to_le_bytes(), [0; 8], [0; 8]].concat();
    let told = against_log(&now, Uuid::nil(), None, &log).unwrap();
    let files: Vec<&str> = told.only_forecast.iter().map(|file| file.file.as_str()).collect();
    assert_eq!(files, ["esp:/EFI/BOOT/BOOTX64.EFI"]);
    assert_eq!(told.only_logged, ["image of 4096 bytes"]);
    let same = against_log(&then, Uuid::nil(), None, &log).unwrap();
    assert!(same.only_forecast.is_empty() && same.only_logged.is_empty(), "{same:?}");
}

/// It says nothing of what was sealed, unless it comes to that.
#[test]
fn a_log_that_ends_early_does_not_deny_a_seal() {
    let forecast = chain("15.8");
    let whole = log(&forecast);
    let header = sealed(&whole, &[4, 7], &[]);
    let mut early = whole.clone();
    let loader =
        early.events.iter().position(|e| e.kind == EventType::EFI_BOOT_SERVICES_APPLICATION).unwrap();
    early.events.truncate(loader + 1);
    let told = against_log(&forecast, Uuid::nil(), Some(&header), &early).unwrap();
    assert_eq!(told.tokens[&3].sealed_to_it, None);
    assert!(told.findings.iter().any(|finding| finding.contains("ends before the firmware was left")));
    let at_it = sealed(&early, &[4, 7], &[]);
    let told = against_log(&forecast, Uuid::nil(), Some(&at_it), &early).unwrap();
    assert_eq!(told.tokens[&3].sealed_to_it, Some(true));
}

/// Firmware that measures its own events in another order, before a boot that is the same.
#[test]
fn another_platforms_own_events_hide_no_difference_of_the_disk() {
    let forecast = chain("15.8");
    let mut log = log(&forecast);
    let calling = log.events.iter().position(|e| e.register == 4 && e.kind == EventType::EFI_ACTION).unwrap();
    log.events.remove(calling);
    let told = against_log(&forecast, Uuid::nil(), None, &log).unwrap();
    assert!(differing(&told).is_empty() && told.pcrs[&pcr(4)].another_platform, "{told:?}");
    let told = against_log(&chain("16.1"), Uuid::nil(), None, &log).unwrap();
    let first = told.pcrs[&pcr(4)].first.as_ref().unwrap();
    assert_eq!(first.forecast.as_ref().unwrap().from, Origin::File("esp:/EFI/BOOT/BOOTX64.EFI".into()));
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
    let told = against_log(&forecast, Uuid::nil(), None, &log).unwrap();
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
    let told = against_log(&forecast, Uuid::nil(), Some(&sealed(&log, pcrs, more)), &log).unwrap();
    assert_eq!(told.tokens[&3].sealed_to_it, None);
}

#[test]
fn a_file_that_is_taken_not_to_be_there_is_neither_read_nor_listed() {
    let esp = Memory::default().with("/EFI/rocky/a.efi", vec![1]).with("/EFI/rocky/b.efi", vec![2]);
    let without = Without { volume: &esp, path: "/EFI/rocky/A.EFI" };
    assert_eq!(without.read("/EFI/ROCKY/a.efi").unwrap(), None);
    assert_eq!(without.read("/EFI/rocky/b.efi").unwrap().unwrap(), [2][..]);
    let names: Vec<String> =
        without.list("/EFI/rocky").unwrap().unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!((names, without.name()), (vec!["b.efi".to_owned()], "esp"));
}

/// As systemd's os-separator, which is extended when the firmware's log is long closed.
#[test]
fn what_userspace_extends_before_the_unlock_is_in_no_log() {
    let mut forecast = chain("15.8");
    let log = log(&forecast);
    let header = sealed(&log, &[4, 7], &[]);
    let leg = forecast.legs.last_mut().unwrap();
    let mut separator = leg.events[0].clone();
    (separator.pcr, separator.stage) = (pcr(7), Stage::Userspace);
    leg.events.push(separator);
    let told = against_log(&forecast, Uuid::nil(), Some(&header), &log).unwrap();
    assert_eq!((told.tokens[&3].sealed_to_it, differing(&told)), (None, vec![]));
}

#[test]
fn without_a_bank_in_common_nothing_is_compared() {
    let forecast = chain("15.8");
    assert!(against_log(&forecast, Uuid::nil(), None, &EventLog::agile(&[HashAlg::Sha512])).is_none());
}
