//! Signature databases: parsing and writing are inverse to each other.
#![no_main]

use latchkey_measure::SignatureDb;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(db) = SignatureDb::parse(bytes) {
        assert_eq!(db.to_bytes(), bytes);
    }
});
