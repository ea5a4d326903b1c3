//! Event data in words. The first four bytes choose the event's type.
#![no_main]

use latchkey_measure::eventlog::{Event, EventType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, data)) = bytes.split_first_chunk() else { return };
    let kind = EventType(u32::from_le_bytes(*kind));
    let event = Event { register: 0, kind, digests: Vec::new(), data: data.to_vec() };
    assert!(!event.decode().to_string().is_empty());
});
