//! Device paths as text.
#![no_main]

use latchkey_measure::device_path;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Two hex digits a byte, and names and separators around them: never much more than that.
    assert!(device_path::text(bytes).len() <= 64 * bytes.len());
});
