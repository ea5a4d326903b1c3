//! Whether a file is a program for UEFI firmware, and what it is instead.

use latchkey_measure::PeImage;

/// What files begin with that are often taken for programs: the first bytes, and what such a file is. Sources: the formats'
/// own specifications, and `magic(5)` of file 5.44.
const BEGINNINGS: [(&[u8], &str); 13] = [
    (b"MZ", "a PE image that is cut off or damaged"),
    (b"\x1f\x8b", "compressed (gzip)"),
    (b"\xfd7zXZ\0", "compressed (xz)"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)"),
    (b"BZh", "compressed (bzip2)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"!<arch>\n", "an archive, as Debian's packages are"),
    (b"\xed\xab\xee\xdb", "an RPM package"),
    (b"070701", "a cpio archive, as initrds are"),
    (b"\x7fELF", "an ELF program, as Linux runs them"),
    (b"QFI\xfb", "a qcow2 disk"),
    (b"-----BEGIN ", "a key, certificate or signature in PEM"),
    (b"\x30\x82", "DER, as certificates and detached signatures are"),
];

/// `None` of the bytes of a PE image, which all UEFI programs are; of others in words what they look like.
#[must_use]
pub fn no_program(bytes: &[u8]) -> Option<&'static str> {
    if PeImage::parse(bytes).is_ok() {
        return None;
    }
    if bytes.is_empty() {
        return Some("empty");
    }
    if let Some((_, what)) = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
        return Some(what);
    }
    let text = std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'));
    Some(if text { "text" } else { "of no kind that is known" })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_measure::samples;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing(b"", "empty")]
    #[case::text(b"[package]\n", "text")]
    #[case::cut_off(b"MZ\0\0", "cut off or damaged")]
    #[case::packed(b"\x28\xb5\x2f\xfd\0", "zstd")]
    #[case::package(b"\xed\xab\xee\xdb\x03", "RPM")]
    #[case::unknown(b"\xff\xfe\0", "no kind that is known")]
    fn what_is_no_program_is_told(#[case] bytes: &[u8], #[case] said: &str) {
        assert!(no_program(bytes).unwrap().contains(said), "{:?}", no_program(bytes));
    }

    #[test]
    fn a_program_is_one() {
        assert_eq!(no_program(&samples::uki(b"kernel", "quiet").unwrap()), None);
    }
}
