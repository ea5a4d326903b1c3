//! A `TPM_RC` in words (TPM 2.0 Library, part 1, "response code formats"; part 2, table "TPM_RC values").

/// Format-zero errors of TPM 2.0 (`RC_VER1`), by their low seven bits.
const VERSION_ONE: &[(u32, &str)] = &[
    (0x00, "INITIALIZE"),
    (0x01, "FAILURE"),
    (0x03, "SEQUENCE"),
    (0x0b, "PRIVATE"),
    (0x19, "HMAC"),
    (0x20, "DISABLED"),
    (0x21, "EXCLUSIVE"),
    (0x24, "AUTH_TYPE"),
    (0x25, "AUTH_MISSING"),
    (0x26, "POLICY"),
    (0x27, "PCR"),
    (0x28, "PCR_CHANGED"),
    (0x2d, "UPGRADE"),
    (0x2e, "TOO_MANY_CONTEXTS"),
    (0x2f, "AUTH_UNAVAILABLE"),
    (0x30, "REBOOT"),
    (0x31, "UNBALANCED"),
    (0x42, "COMMAND_SIZE"),
    (0x43, "COMMAND_CODE"),
    (0x44, "AUTHSIZE"),
    (0x45, "AUTH_CONTEXT"),
    (0x46, "NV_RANGE"),
    (0x47, "NV_SIZE"),
    (0x48, "NV_LOCKED"),
    (0x49, "NV_AUTHORIZATION"),
    (0x4a, "NV_UNINITIALIZED"),
    (0x4b, "NV_SPACE"),
    (0x4c, "NV_DEFINED"),
    (0x50, "BAD_CONTEXT"),
    (0x51, "CPHASH"),
    (0x52, "PARENT"),
    (0x53, "NEEDS_TEST"),
    (0x54, "NO_RESULT"),
    (0x55, "SENSITIVE"),
];

/// Format-one errors (`RC_FMT1`), by their low six bits.
const FORMAT_ONE: &[(u32, &str)] = &[
    (0x01, "ASYMMETRIC"),
    (0x02, "ATTRIBUTES"),
    (0x03, "HASH"),
    (0x04, "VALUE"),
    (0x05, "HIERARCHY"),
    (0x07, "KEY_SIZE"),
    (0x08, "MGF"),
    (0x09, "MODE"),
    (0x0a, "TYPE"),
    (0x0b, "HANDLE"),
    (0x0c, "KDF"),
    (0x0d, "RANGE"),
    (0x0e, "AUTH_FAIL"),
    (0x0f, "NONCE"),
    (0x10, "PP"),
    (0x12, "SCHEME"),
    (0x15, "SIZE"),
    (0x16, "SYMMETRIC"),
    (0x17, "TAG"),
    (0x18, "SELECTOR"),
    (0x1a, "INSUFFICIENT"),
    (0x1b, "SIGNATURE"),
    (0x1c, "KEY"),
    (0x1d, "POLICY_FAIL"),
    (0x1f, "INTEGRITY"),
    (0x20, "TICKET"),
    (0x21, "RESERVED_BITS"),
    (0x22, "BAD_AUTH"),
    (0x23, "EXPIRED"),
    (0x24, "POLICY_CC"),
    (0x25, "BINDING"),
    (0x26, "CURVE"),
    (0x27, "ECC_POINT"),
];

/// Warnings (`RC_WARN`), by their low seven bits.
const WARNING: &[(u32, &str)] = &[
    (0x01, "CONTEXT_GAP"),
    (0x02, "OBJECT_MEMORY"),
    (0x03, "SESSION_MEMORY"),
    (0x04, "MEMORY"),
    (0x05, "SESSION_HANDLES"),
    (0x06, "OBJECT_HANDLES"),
    (0x07, "LOCALITY"),
    (0x08, "YIELDED"),
    (0x09, "CANCELED"),
    (0x0a, "TESTING"),
    (0x10, "REFERENCE_H0"),
    (0x11, "REFERENCE_H1"),
    (0x12, "REFERENCE_H2"),
    (0x13, "REFERENCE_H3"),
    (0x14, "REFERENCE_H4"),
    (0x15, "REFERENCE_H5"),
    (0x16, "REFERENCE_H6"),
    (0x18, "REFERENCE_S0"),
    (0x19, "REFERENCE_S1"),
    (0x1a, "REFERENCE_S2"),
    (0x1b, "REFERENCE_S3"),
    (0x1c, "REFERENCE_S4"),
    (0x1d, "REFERENCE_S5"),
    (0x1e, "REFERENCE_S6"),
    (0x20, "NV_RATE"),
    (0x21, "LOCKOUT"),
    (0x22, "RETRY"),
    (0x23, "NV_UNAVAILABLE"),
];

/// `code` in the specification's words, without their prefix: `SUCCESS`, `LOCKOUT`, `INTEGRITY (parameter 1)`.
/// A code the specification does not know is given in hex.
#[must_use]
pub fn response_words(code: u32) -> String {
    let known = match code {
        0 => Some("SUCCESS".to_owned()),
        // The one answer in the TPM 1.2 format.
        0x1e => Some("BAD_TAG".to_owned()),
        _ if code >> 12 != 0 => None,
        _ if code & 0x80 != 0 => look_up(FORMAT_ONE, code & 0x3f).map(|name| name.to_owned() + &about(code)),
        // Bit 10 marks a vendor's own code.
        _ if code & 0x400 != 0 => None,
        _ if code & 0x900 == 0x900 => look_up(WARNING, code & 0x7f).map(str::to_owned),
        _ if code & 0x100 != 0 => look_up(VERSION_ONE, code & 0x7f).map(str::to_owned),
        _ => None,
    };
    known.unwrap_or_else(|| format!("{code:#x}"))
}

fn look_up(table: &[(u32, &'static str)], number: u32) -> Option<&'static str> {
    table.iter().find(|(n, _)| *n == number).map(|(_, name)| *name)
}

/// What a format-one code is about: bit 6 marks a parameter, bit 11 otherwise a session, else it is a handle.
fn about(code: u32) -> String {
    let number = code >> 8 & 0xf;
    let (what, number) = match (code & 0x40 != 0, number) {
        (true, n) => ("parameter", n),
        (false, n @ 8..) => ("session", n - 8),
        (false, n) => ("handle", n),
    };
    if number == 0 { String::new() } else { format!(" ({what} {number})") }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "SUCCESS")]
    #[case(0x922, "RETRY")]
    #[case(0x921, "LOCKOUT")]
    #[case(0x902, "OBJECT_MEMORY")]
    #[case(0x128, "PCR_CHANGED")]
    #[case(0x1df, "INTEGRITY (parameter 1)")]
    #[case(0x99d, "POLICY_FAIL (session 1)")]
    #[case(0x98e, "AUTH_FAIL (session 1)")]
    #[case(0x18b, "HANDLE (handle 1)")]
    #[case(0x9d, "POLICY_FAIL")]
    #[case(0x100, "INITIALIZE")]
    #[case(0x1e, "BAD_TAG")]
    #[case(0x500, "0x500")]
    #[case(0xffff_ffff, "0xffffffff")]
    fn codes_in_words(#[case] code: u32, #[case] words: &str) {
        assert_eq!(response_words(code), words);
    }
}
