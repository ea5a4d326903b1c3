//! What a shim binary says of itself.
#![no_main]

use latchkey_measure::shim;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = (shim::version(bytes), shim::version_text(bytes), shim::sbat_levels(bytes));
    if let Ok(vendor) = shim::vendor_cert(bytes) {
        assert!(vendor.authorised.len() <= bytes.len());
    }
    if let Ok(patched) = shim::replace_vendor_cert(bytes, &[0x30, 0x82, 0, 0]) {
        assert_eq!(shim::vendor_cert(&patched).unwrap().authorised, [0x30, 0x82, 0, 0]);
    }
});
