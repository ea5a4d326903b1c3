//! Laws of event logs as properties, and no panic on anything.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use latchkey_measure::HashAlg;
use latchkey_measure::authvar::AuthenticatedVariable;
use latchkey_measure::device_path;
use latchkey_measure::eventlog::{
    End, Event, EventLog, EventType, FinalEvents, Format, LoggedDigest, SpecId,
};
use latchkey_measure::variable_event::VariableEvent;
use proptest::collection::vec;
use proptest::prelude::*;

/// Every type that has a layout of its own, and some that have none.
const KINDS: [u32; 21] = [
    1,
    3,
    4,
    5,
    6,
    8,
    0xd,
    0x77,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
    0x8000_0009,
    0x8000_000a,
    0x8000_000b,
    0x8000_000c,
    0x8000_000d,
    0x8000_0010,
    0x8000_00e0,
];

fn spec() -> impl Strategy<Value = SpecId> {
    let algorithms = proptest::sample::subsequence(
        vec![(4, 20), (0xb, 32), (0xc, 48), (0xd, 64), (0x12, 32), (0x27, 32), (0xffff, 0)],
        0..7,
    );
    (any::<u32>(), any::<u32>(), any::<[u8; 3]>(), any::<u8>(), algorithms, vec(any::<u8>(), 0..256))
        .prop_map(|(register, platform_class, version, uintn_size, algorithms, vendor_info)| SpecId {
            register,
            platform_class,
            version,
            uintn_size,
            algorithms,
            vendor_info,
        })
}

/// Any log of either format.
fn log() -> impl Strategy<Value = EventLog> {
    let agile = spec().prop_map(Format::Agile);
    (prop_oneof![Just(Format::Legacy), agile], 0_usize..12).prop_flat_map(|(format, count)| {
        let algorithms = match &format {
            Format::Legacy => vec![(4, 20)],
            Format::Agile(spec) => spec.algorithms.clone(),
        };
        vec(event(algorithms), count).prop_map(move |events| EventLog {
            format: format.clone(),
            events,
            end: End::Complete,
        })
    })
}

fn event(algorithms: Vec<(u16, u16)>) -> impl Strategy<Value = Event> {
    let digests: Vec<_> = algorithms
        .into_iter()
        .map(|(algorithm, size)| {
            vec(any::<u8>(), usize::from(size)).prop_map(move |bytes| LoggedDigest { algorithm, bytes })
        })
        .collect();
    let kind = proptest::sample::select(KINDS.to_vec());
    (prop_oneof![0_u32..26, any::<u32>()], kind, digests, vec(any::<u8>(), 0..200))
        .prop_map(|(register, kind, digests, data)| Event { register, kind: EventType(kind), digests, data })
}

/// Asks everything there is to ask; the answers do not matter.
fn ask_all(bytes: &[u8]) {
    let log = EventLog::parse(bytes);
    for event in &log.events {
        let _ = (event.decode().to_string(), event.kind.to_string());
    }
    let _ = (log.replay(), log.replay_cc(HashAlg::Sha384), log.to_bytes());
    let table = FinalEvents::parse(bytes, &log);
    let _ = (log.overlaps(&table), log.merged(&table));
    let _ = (VariableEvent::parse(bytes), AuthenticatedVariable::parse(bytes), device_path::text(bytes));
}

proptest! {
    #[test]
    fn writing_and_reading_are_inverse(log in log()) {
        let bytes = log.to_bytes().unwrap();
        // A legacy log whose first event looks like a crypto-agile log's is one by definition.
        prop_assert_eq!(EventLog::parse(&bytes), log);
    }

    #[test]
    fn a_cut_log_keeps_what_is_whole(log in log(), place in any::<proptest::sample::Index>()) {
        let bytes = log.to_bytes().unwrap();
        let mut ends = vec![EventLog { events: Vec::new(), ..log.clone() }.to_bytes().unwrap().len()];
        for count in 1..=log.events.len() {
            let part = EventLog { events: log.events[..count].to_vec(), ..log.clone() };
            ends.push(part.to_bytes().unwrap().len());
        }
        let cut = ends[0] + place.index(bytes.len() - ends[0] + 1);
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let read = EventLog::parse(&bytes[..cut]);
        prop_assert_eq!(&read.events, &log.events[..whole]);
        prop_assert_eq!(&read.format, &log.format);
        // A piece of an event may be zeros and nothing else, and looks like room that is not used.
        match read.end {
            End::Complete => prop_assert_eq!(cut, ends[whole]),
            End::Padding { at, byte } => {
                prop_assert_eq!(at, ends[whole]);
                prop_assert!(bytes[at..cut].iter().all(|b| *b == byte));
            }
            End::Damaged { at, .. } => prop_assert_eq!(at, ends[whole]),
        }
    }

    #[test]
    fn unused_room_is_no_event(
        log in log(),
        byte in prop_oneof![Just(0_u8), Just(0xff)],
        room in 1_usize..200,
    ) {
        let mut bytes = log.to_bytes().unwrap();
        let at = bytes.len();
        bytes.resize(at + room, byte);
        let read = EventLog::parse(&bytes);
        if at == 0 && byte == 0xff {
            prop_assert_eq!(read.end, End::Padding { at, byte });
        }
        prop_assert_eq!(read, EventLog { end: End::Padding { at, byte }, ..log });
    }

    #[test]
    fn merging_counts_nothing_twice(
        count in 0_usize..12,
        asked in 0_usize..12,
        fetched in 0_usize..12,
        same in 1_u8..4,
    ) {
        // All that was measured; the table starts when the log was first asked for, and the log ends when it
        // was fetched, which may be later. Some events are alike.
        let mut all = EventLog::agile(&[HashAlg::Sha256]);
        for index in 0..count {
            let data = [u8::try_from(index).unwrap() / same];
            all.measure(4, EventType::IPL, &data, &data);
        }
        let asked = asked.min(count);
        let fetched = fetched.clamp(asked, count);
        let part = EventLog { events: all.events[..fetched].to_vec(), ..all.clone() };
        let table = FinalEvents::new(all.events[asked..].to_vec());
        let table = FinalEvents::parse(&table.to_bytes(&all).unwrap(), &part);
        prop_assert_eq!(table.end, End::Complete);
        let overlaps = part.overlaps(&table);
        prop_assert!(overlaps.contains(&(fetched - asked)) && overlaps.last() == Some(&0));
        prop_assert!(overlaps.is_sorted_by(|a, b| a > b));
        for overlap in &overlaps {
            let (ends, begins) = (part.events.len() - overlap, *overlap);
            prop_assert_eq!(&part.events[ends..], &table.events[..begins]);
        }
        prop_assert_eq!(&part.merged_by(&table, fetched - asked), &all);
        if same == 1 {
            let expected = if fetched > asked { vec![fetched - asked, 0] } else { vec![0] };
            prop_assert_eq!(&overlaps, &expected);
            prop_assert_eq!(&part.merged(&table), &all);
        }
    }

    #[test]
    fn a_short_table_says_so(count in 1_usize..6, cut in 1_usize..40, more in 1_u64..9) {
        let mut log = EventLog::agile(&[HashAlg::Sha1]);
        for index in 0..count {
            log.measure(9, EventType::IPL, &[u8::try_from(index).unwrap()], &[1; 40]);
        }
        let table = FinalEvents::new(log.events.clone());
        let bytes = table.to_bytes(&log).unwrap();
        let read = FinalEvents::parse(&bytes[..bytes.len() - cut], &log);
        prop_assert_eq!(&read.events, &log.events[..count - 1]);
        let is_damaged = matches!(read.end, End::Damaged { .. });
        prop_assert!(is_damaged);
        let promising = FinalEvents { announced: table.announced + more, ..table.clone() };
        let read = FinalEvents::parse(&promising.to_bytes(&log).unwrap(), &log);
        let is_damaged = matches!(read.end, End::Damaged { .. });
        prop_assert!(is_damaged && read.events == log.events);
        // What follows the announced events is none of the table's.
        let read = FinalEvents::parse(&[bytes, vec![9; cut]].concat(), &log);
        prop_assert_eq!(read, table);
    }

    #[test]
    fn a_legacy_log_takes_only_sha1_from_a_table(data in vec(any::<[u8; 2]>(), 1..5)) {
        let mut agile = EventLog::agile(&[HashAlg::Sha1]);
        let mut legacy = EventLog::legacy();
        for bytes in &data {
            agile.measure(5, EventType::EFI_ACTION, bytes, bytes);
            legacy.measure(5, EventType::EFI_ACTION, bytes, bytes);
        }
        let mut table = FinalEvents::new(agile.events);
        for event in &mut table.events {
            event.digests.push(LoggedDigest { algorithm: 0xb, bytes: vec![1; 32] });
        }
        let merged = EventLog::legacy().merged(&table);
        prop_assert_eq!(&merged, &legacy);
        prop_assert_eq!(legacy.merged(&table).events.len(), legacy.events.len());
    }

    #[test]
    fn nothing_makes_it_panic(bytes in vec(any::<u8>(), 0..2048)) {
        ask_all(&bytes);
    }

    #[test]
    fn nor_do_damaged_logs(
        log in log(),
        places in vec(any::<proptest::sample::Index>(), 1..12),
        values in vec(prop_oneof![any::<u8>(), Just(0), Just(0xff)], 12),
    ) {
        let mut bytes = log.to_bytes().unwrap();
        for (place, value) in places.iter().zip(values) {
            if !bytes.is_empty() {
                let at = place.index(bytes.len());
                bytes[at] = value;
            }
        }
        ask_all(&bytes);
    }

    #[test]
    fn variables_round_trip(
        vendor in any::<u128>(),
        name in vec(any::<u16>(), 0..20),
        data in vec(any::<u8>(), 0..99),
        cut in 1_usize..32,
    ) {
        let vendor = latchkey_measure::Uuid::from_u128(vendor);
        let variable = VariableEvent { vendor, name, data };
        let bytes = variable.to_bytes();
        prop_assert_eq!(VariableEvent::parse(&bytes).unwrap(), variable);
        prop_assert!(VariableEvent::parse(&bytes[..bytes.len() - cut]).is_err());
    }
}
