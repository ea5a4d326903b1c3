//! X.509 certificates in words.
#![no_main]

use latchkey_measure::cert::CertificateInfo;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(info) = CertificateInfo::of(bytes) {
        let _ = info.common_name().len();
    }
});
