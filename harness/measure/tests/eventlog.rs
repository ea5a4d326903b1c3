//! Event logs: laws of reading, writing, replaying and merging, with tpm2_eventlog and a TPM as judges.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod tools;

use std::collections::BTreeMap;

use latchkey_measure::bank::StartupLocality;
use latchkey_measure::eventlog::cc::CcRegister;
use latchkey_measure::eventlog::{Damage, End, Event, EventLog, EventType, Finding, Format, LoggedDigest};
use latchkey_measure::variable_event::VariableEvent;
use latchkey_measure::{Digest, HashAlg, Uuid, hash};
use latchkey_record::pcr::{PcrIndex, PcrValues};
use rstest::rstest;

use HashAlg::{Sha1, Sha256, Sha384};
use tools::Tools;

fn pcr(number: u32) -> PcrIndex {
    PcrIndex::new(number).unwrap()
}

/// A log such as a small machine writes.
fn boot(mut log: EventLog) -> EventLog {
    let global = Uuid::from_u128(0x8be4_df61_93ca_11d2_aa0d_00e0_9803_2b8c);
    let secure_boot = VariableEvent::new(global, "SecureBoot", &[1]).to_bytes();
    let order = VariableEvent::new(global, "BootOrder", &[1, 0, 0, 0]);
    let version: Vec<u8> = "v1\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    log.measure(0, EventType::S_CRTM_VERSION, &version, &version);
    log.measure(0, EventType::EFI_PLATFORM_FIRMWARE_BLOB, b"the volume itself", &[0x10; 16]);
    log.measure(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, &secure_boot, &secure_boot);
    log.measure(1, EventType::EFI_VARIABLE_BOOT, &order.data, &order.to_bytes());
    let calling = b"Calling EFI Application from Boot Option";
    log.measure(4, EventType::EFI_ACTION, calling, calling);
    for number in 0..8 {
        log.measure(number, EventType::SEPARATOR, &[0; 4], &[0; 4]);
    }
    let mut image = [1, 2, 3].map(u64::to_le_bytes).concat();
    image.extend(4_u64.to_le_bytes());
    image.extend([0x7f, 0xff, 4, 0]);
    log.measure(4, EventType::EFI_BOOT_SERVICES_APPLICATION, b"an image", &image);
    log.measure(14, EventType::IPL, b"mok", b"MokList\0");
    log.measure(8, EventType::IPL, b"linux /vmlinuz", b"grub_cmd: linux /vmlinuz\0");
    log.measure(5, EventType::EFI_ACTION, b"Exit Boot Services Invocation", b"Exit Boot Services Invocation");
    log
}

/// What tpm2_eventlog replays a log to, by bank and PCR, and the events' types in order.
fn tpm2_eventlog(bytes: &[u8]) -> (BTreeMap<(String, u8), String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, bytes).unwrap();
    let shown = latchkey_supervise::run("tpm2_eventlog", &[&path]).unwrap().text();
    let kinds = shown.lines().filter_map(|line| line.trim().strip_prefix("EventType: "));
    let (_, pcrs) = shown.split_once("\npcrs:\n").unwrap();
    let (mut bank, mut values) = (String::new(), BTreeMap::new());
    for line in pcrs.lines() {
        match line.split_once(':') {
            Some((name, "")) => bank = name.trim().to_owned(),
            Some((number, value)) => {
                let value = value.trim().trim_start_matches("0x").to_owned();
                values.insert((bank.clone(), number.trim().parse().unwrap()), value);
            }
            None => panic!("{line}"),
        }
    }
    (values, kinds.map(str::to_owned).collect())
}

#[rstest]
#[case::legacy(EventLog::legacy(), 0)]
#[case::one_bank(EventLog::agile(&[Sha256]), 1)]
#[case::azure(EventLog::agile(&[Sha1, Sha256, Sha384]), 1)]
#[case::all(EventLog::agile(&HashAlg::ALL), 1)]
fn tpm2_eventlog_reads_what_we_write(#[case] empty: EventLog, #[case] heads: usize) {
    let log = boot(empty);
    let (values, kinds) = tpm2_eventlog(&log.to_bytes().unwrap());
    let ours: Vec<String> = log.events.iter().map(|event| event.kind.to_string()).collect();
    assert_eq!(kinds[heads..], ours);
    let replay = log.replay();
    assert!(replay.findings.is_empty(), "{:?}", replay.findings);
    let mut seen = 0;
    for bank in log.banks() {
        for number in [0, 1, 2, 3, 4, 5, 6, 7, 8, 14] {
            let theirs = &values[&(bank.to_string(), number)];
            assert_eq!(&replay.banks.get(bank, pcr(number.into())).unwrap().hex(), theirs, "{bank} {number}");
            seen += 1;
        }
    }
    assert_eq!(seen, values.len());
}

#[test]
fn a_tpm_that_was_extended_as_the_log_says_agrees_with_its_replay() {
    let tools = Tools::start();
    let log = boot(EventLog::agile(&HashAlg::ALL));
    for event in &log.events {
        let digests = event.digests.iter().map(|d| d.known().unwrap());
        let list: Vec<String> = digests.map(|d| format!("{}={}", d.alg(), d.hex())).collect();
        tools.run(&format!("tpm2_pcrextend {}:{}", event.register, list.join(",")));
    }
    let replay = EventLog::parse(&log.to_bytes().unwrap()).replay();
    for bank in HashAlg::ALL {
        assert_eq!(replay.compare(bank, &tools.bank(bank)), None);
    }
    // Something that no log tells of.
    tools.run(&format!("tpm2_pcrextend 7:sha256={}", "5a".repeat(32)));
    let finding = replay.compare(Sha256, &tools.bank(Sha256)).unwrap();
    assert_eq!(finding, Finding::LogIncomplete { bank: Sha256, pcrs: vec![pcr(7)] });
    assert_eq!(finding.to_string(), "log incomplete: in bank sha256 its replay differs from PCR 7");
    assert_eq!(replay.compare(Sha1, &tools.bank(Sha1)), None);
    // A log that lost its end says less than the TPM.
    let bytes = log.to_bytes().unwrap();
    let cut = EventLog::parse(&bytes[..bytes.len() - 1]).replay();
    assert_eq!(
        cut.compare(Sha384, &tools.bank(Sha384)),
        Some(Finding::LogIncomplete { bank: Sha384, pcrs: vec![pcr(5)] })
    );
    tools.end();
}

#[rstest]
fn the_startup_locality_counts_wherever_the_log_says_it(
    #[values(StartupLocality::Zero, StartupLocality::Three, StartupLocality::Four)] locality: StartupLocality,
    #[values("first", "last")] place: &str,
    #[values(EventLog::legacy(), EventLog::agile(&[Sha1, Sha256]))] mut log: EventLog,
) {
    if place == "first" {
        log.started_from(locality);
    }
    log.measure(0, EventType::S_CRTM_VERSION, b"v", b"v");
    if place == "last" {
        log.started_from(locality);
    }
    let replay = EventLog::parse(&log.to_bytes().unwrap()).replay();
    assert_eq!(replay.locality, locality);
    let mut start = vec![0; 20];
    start[19] = locality.number();
    let start = Digest::new(Sha1, &start).unwrap();
    let expected = hash::extend(&start, &hash::digest(Sha1, b"v"));
    assert_eq!(replay.banks.get(Sha1, pcr(0)), Some(&expected));
}

#[test]
fn what_a_log_lacks_is_found() {
    let mut log = EventLog::agile(&[Sha1, Sha256]);
    for register in [0, 24, u32::MAX, 7, 7] {
        log.measure(register, EventType::IPL, b"x", b"x");
    }
    for event in &mut log.events[3..] {
        event.digests.truncate(1);
    }
    log.remark(0, b"StartupLocality\0\x02");
    // Not measured, so its register does not matter.
    log.remark(u32::MAX, b"remark");
    let Format::Agile(spec) = &mut log.format else { panic!() };
    spec.algorithms.push((0x12, 32));
    let read = EventLog::parse(&log.to_bytes().unwrap());
    assert_eq!(read, log);
    let replay = read.replay();
    assert_eq!(
        replay.findings,
        [
            Finding::UnknownBank(0x12),
            Finding::Locality { index: 5, locality: 2 },
            Finding::NoRegister { index: 1, register: 24 },
            Finding::NoRegister { index: 2, register: u32::MAX },
            Finding::NoDigest { bank: Sha256, first: 3, count: 2 },
        ]
    );
    assert_eq!(replay.banks.get(Sha256, pcr(7)), Some(&pcr(7).start_value(Sha256)));
    assert_ne!(replay.banks.get(Sha1, pcr(7)), Some(&pcr(7).start_value(Sha1)));
}

fn cut(damage: Damage) -> End {
    End::Damaged { at: 0, damage }
}

#[rstest]
#[case::nothing(&[], End::Complete)]
#[case::room(&[0; 100], End::Padding { at: 0, byte: 0 })]
#[case::text(b"this is not an event log, is it?", cut(Damage::Data { size: 0x3f74_6920, left: 0 }))]
#[case::short(b"short", cut(Damage::Head))]
fn what_is_no_log_is_an_empty_one(#[case] bytes: &[u8], #[case] end: End) {
    let log = EventLog::parse(bytes);
    assert_eq!((log.events.len(), log.end), (0, end));
    assert_eq!(log.replay().findings.len(), usize::from(matches!(end, End::Damaged { .. })));
}

#[test]
fn a_digest_of_unknown_size_ends_the_reading() {
    let log = boot(EventLog::agile(&[Sha256]));
    let mut bytes = log.to_bytes().unwrap();
    let at = bytes.len();
    bytes.extend([7, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0x27, 0, 9, 9]);
    let read = EventLog::parse(&bytes);
    assert_eq!(read.events, log.events);
    assert_eq!(read.end, End::Damaged { at, damage: Damage::Algorithm(0x27) });
}

#[test]
fn no_log_has_more_algorithms_than_there_are() {
    let mut log = EventLog::agile(&[Sha256]);
    let Format::Agile(spec) = &mut log.format else { panic!() };
    spec.algorithms.resize(16, (0xffff, 0));
    assert_eq!(EventLog::parse(&log.to_bytes().unwrap()), log);
    let Format::Agile(spec) = &mut log.format else { panic!() };
    spec.algorithms.push((0xffff, 0));
    assert_eq!(EventLog::parse(&log.to_bytes().unwrap()).end, cut(Damage::SpecId));
}

#[test]
fn no_event_has_more_digests_than_there_are_algorithms() {
    let log = boot(EventLog::agile(&[Sha256]));
    let mut more = log.clone();
    let digest = LoggedDigest { algorithm: 0xb, bytes: vec![7; 32] };
    let (register, kind, data) = (4, EventType::IPL, Vec::new());
    more.events.push(Event { register, kind, digests: vec![digest; 17], data });
    let read = EventLog::parse(&more.to_bytes().unwrap());
    assert_eq!(read.events, log.events);
    assert!(matches!(read.end, End::Damaged { damage: Damage::Digests(17), .. }), "{:?}", read.end);
}

#[test]
fn what_does_not_fit_a_format_is_not_written() {
    let digest = LoggedDigest::from(&hash::digest(Sha256, b"x"));
    let event = Event { register: 0, kind: EventType::IPL, digests: vec![digest], data: Vec::new() };
    let mut legacy = EventLog::legacy();
    legacy.events.push(event.clone());
    assert!(legacy.to_bytes().is_err());
    let mut agile = EventLog::agile(&[Sha256]);
    agile.events.push(event);
    assert!(agile.to_bytes().is_ok());
    agile.events[0].digests[0].bytes.pop();
    assert!(agile.to_bytes().is_err());
}

#[rstest]
#[case(0, "MRTD", 0)]
#[case(1, "RTMR0", 1)]
#[case(7, "RTMR0", 1)]
#[case(2, "RTMR1", 2)]
#[case(4, "RTMR1", 2)]
#[case(6, "RTMR1", 2)]
#[case(8, "RTMR2", 3)]
#[case(15, "RTMR2", 3)]
fn a_pcr_has_its_register(#[case] number: u32, #[case] name: &str, #[case] index: u32) {
    let register = CcRegister::of_pcr(pcr(number)).unwrap();
    assert_eq!((register.to_string().as_str(), register.index()), (name, index));
    assert_eq!(CcRegister::from_index(index), Some(register));
}

#[test]
fn a_log_of_confidential_computing_replays_into_its_registers() {
    assert_eq!((CcRegister::of_pcr(pcr(16)), CcRegister::from_index(5)), (None, None));
    let mut log = EventLog::agile(&[Sha384]);
    let Format::Agile(spec) = &mut log.format else { panic!() };
    spec.register = 1;
    for (register, data) in [(1, "a"), (0, "loader"), (2, "b"), (1, "c"), (4, "d"), (5, "none"), (9, "none")]
    {
        log.measure(register, EventType::IPL, data.as_bytes(), data.as_bytes());
    }
    let read = EventLog::parse(&[log.to_bytes().unwrap(), vec![0xff; 999]].concat());
    assert_eq!(read.end, End::Padding { at: log.to_bytes().unwrap().len(), byte: 0xff });
    let replay = read.replay_cc(Sha384);
    let zeros = Digest::new(Sha384, &[0; 48]).unwrap();
    let fold = |parts: &[&str]| {
        parts
            .iter()
            .fold(zeros.clone(), |value, part| hash::extend(&value, &hash::digest(Sha384, part.as_bytes())))
    };
    let expected = [fold(&["a", "c"]), fold(&["b"]), zeros.clone(), fold(&["d"])];
    assert_eq!(replay.registers.into_values().collect::<Vec<_>>(), expected);
    let none = |index, register| Finding::NoRegister { index, register };
    assert_eq!(replay.findings, [none(5, 5), none(6, 9)]);
}

#[test]
fn a_comparison_is_about_the_pcrs_that_are_given() {
    let log = boot(EventLog::agile(&[Sha256]));
    let replay = log.replay();
    let mut values = PcrValues::default();
    assert_eq!(replay.compare(Sha256, &values), None);
    values.0.insert(pcr(10), hash::digest(Sha256, b"ima"));
    values.0.insert(pcr(4), replay.banks.get(Sha256, pcr(4)).unwrap().clone());
    let finding = Finding::LogIncomplete { bank: Sha256, pcrs: vec![pcr(10)] };
    assert_eq!(replay.compare(Sha256, &values), Some(finding));
}
