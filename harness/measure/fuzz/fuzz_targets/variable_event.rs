//! Measured variables: what is parsed is written as it was.
#![no_main]

use latchkey_measure::variable_event::VariableEvent;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(variable) = VariableEvent::parse(bytes) {
        assert!(bytes.starts_with(&variable.to_bytes()));
        let _ = variable.name_text();
    }
});
