//! SBAT metadata and revocations.
#![no_main]

use latchkey_measure::sbat::{self, Revocations};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parsed = sbat::parse(bytes);
    let revocations = Revocations::parse(bytes);
    if let (Ok(components), Ok(revocations)) = (&parsed, &revocations) {
        let _ = revocations.refuses(components).is_some();
    }
    if let Ok(components) = parsed {
        let text: String = components.iter().map(sbat::line).collect();
        assert_eq!(sbat::parse(text.as_bytes()).unwrap(), components);
    }
});
