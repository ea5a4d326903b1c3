//! Final-events tables, and merging one into a log.
#![no_main]

use latchkey_measure::HashAlg;
use latchkey_measure::eventlog::{EventLog, FinalEvents};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let empty = EventLog::agile(&[HashAlg::Sha1, HashAlg::Sha256]);
    let table = FinalEvents::parse(bytes, &empty);
    let size = table.to_bytes(&empty).unwrap().len();
    assert!(size <= bytes.len().max(16));
    // A log that ends with the first half of the table.
    let half = table.events.len() / 2;
    let log = EventLog { events: table.events[..half].to_vec(), ..empty };
    let overlaps = log.overlaps(&table);
    assert_eq!(overlaps.first(), Some(&half));
    assert_eq!(log.merged(&table).events, table.events);
});
