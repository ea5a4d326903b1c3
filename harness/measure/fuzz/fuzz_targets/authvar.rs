//! Authenticated variables: parsing and writing are inverse to each other.
#![no_main]

use latchkey_measure::Uuid;
use latchkey_measure::authvar::{ATTRIBUTES, AuthenticatedVariable};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(update) = AuthenticatedVariable::parse(bytes) {
        assert_eq!(update.to_bytes(), bytes);
        let _ = (update.certificates(), update.signed_bytes("db", Uuid::nil(), ATTRIBUTES));
    }
});
