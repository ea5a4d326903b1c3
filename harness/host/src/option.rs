//! Words for QEMU's options.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// A path as the value in one of QEMU's options: a comma in it is written twice (QEMU, `util/keyval.c`).
#[must_use]
pub fn doubled_commas(path: &Path) -> OsString {
    let parts: Vec<&[u8]> = path.as_os_str().as_bytes().split(|byte| *byte == b',').collect();
    OsString::from_vec(parts.join(&b",,"[..]))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(b"/a/b", b"/a/b")]
    #[case(b"/a,b/,", b"/a,,b/,,")]
    #[case::no_utf8(b"/\xff,\xfe", b"/\xff,,\xfe")]
    fn a_comma_is_written_twice_and_all_else_as_it_is(#[case] path: &[u8], #[case] option: &[u8]) {
        assert_eq!(doubled_commas(Path::new(OsStr::from_bytes(path))).as_bytes(), option);
    }
}
