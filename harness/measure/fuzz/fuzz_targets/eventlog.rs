//! Event logs: what was read whole is written as it was read.
#![no_main]

use latchkey_measure::HashAlg;
use latchkey_measure::eventlog::{End, EventLog};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let log = EventLog::parse(bytes);
    let _ = (log.replay(), log.replay_cc(HashAlg::Sha384));
    let whole = match log.end {
        End::Complete => bytes.len(),
        End::Padding { at, .. } | End::Damaged { at, .. } => at,
    };
    let written = log.to_bytes().unwrap();
    // A first event may carry more than the specification gives it; that is not kept.
    let head = EventLog { events: Vec::new(), ..log.clone() }.to_bytes().unwrap().len();
    if !log.events.is_empty() {
        assert!(bytes[..whole].ends_with(&written[head..]));
    }
});
