//! `BOOTX64.CSV`: the boot entries that shim's fallback program makes for a vendor's directory.
//!
//! Source: shim `README.fallback` and `fallback.c` (`try_boot_csv`, `populate_stanza`): UTF-16LE text with or without a byte
//! order mark, up to the first NUL; a line of `FILE,LABEL,OPTIONS,COMMENT` for each entry, in which every blank counts. A line
//! without a file or a label is passed over.

use serde::{Deserialize, Serialize};

/// One boot entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEntry {
    /// The program to start, in the directory of the CSV file.
    pub file: String,
    /// What the firmware's menu shows.
    pub label: String,
    /// What the program is given: for shim, the second stage to start instead of GRUB, e.g. the path of a UKI with
    /// backslashes. Often empty; blanks at its end are part of it.
    pub options: String,
    /// For people.
    pub comment: String,
}

/// Why a file is not a list of boot entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not UTF-16.
    #[error("reading a boot entry list: it is not UTF-16LE text")]
    NotUtf16,
    /// A line has too few columns.
    #[error("reading a boot entry list, line {line}: expected FILE,LABEL,OPTIONS,COMMENT")]
    Line {
        /// Counted from 1.
        line: usize,
    },
}

/// Reads the contents of a CSV file.
///
/// # Errors
/// [`Error`] when it is not of that form.
pub fn parse(bytes: &[u8]) -> Result<Vec<BootEntry>, Error> {
    if !bytes.len().is_multiple_of(2) {
        return Err(Error::NotUtf16);
    }
    let units: Vec<u16> = bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    let text = String::from_utf16(&units).map_err(|_| Error::NotUtf16)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.split('\0').next().unwrap_or_default();
    // A return alone ends a line as well; one with a line feed ends it once.
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).zip(1..);
    let lines = lines.flat_map(|(text, line)| text.split('\r').map(move |text| (text, line)));
    let named = |text: &str| {
        let mut columns = text.split(',');
        columns.next().is_some_and(|file| !file.is_empty()) && columns.next() != Some("")
    };
    lines
        .filter(|(text, _)| named(text))
        .map(|(text, line)| {
            let mut columns = text.splitn(4, ',');
            let mut next = || columns.next().ok_or(Error::Line { line });
            Ok(BootEntry {
                file: next()?.to_owned(),
                label: next()?.to_owned(),
                // Blanks count: the boot option gets this column as it is, and is measured.
                options: next().unwrap_or_default().to_owned(),
                comment: next().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

/// The contents of a CSV file with `entries`, as shim's own build writes it (with a byte order mark).
#[must_use]
pub fn to_bytes(entries: &[BootEntry]) -> Vec<u8> {
    let mut text = String::from('\u{feff}');
    for BootEntry { file, label, options, comment } in entries {
        text.push_str(&format!("{file},{label},{options},{comment}\n"));
    }
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_read_with_and_without_a_mark() {
        let entry = BootEntry {
            file: "shimx64.efi".into(),
            label: "Rocky Linux".into(),
            options: r"\EFI\Linux\uki.efi".into(),
            comment: "one, two".into(),
        };
        let bytes = to_bytes(std::slice::from_ref(&entry));
        assert_eq!(bytes[..4], [0xff, 0xfe, b's', 0]);
        for bytes in [&bytes[..], &bytes[2..]] {
            assert_eq!(parse(bytes).unwrap(), std::slice::from_ref(&entry));
        }
        assert_eq!(parse(b"a\0\n\0"), Err(Error::Line { line: 1 }));
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let read = parse(&utf16(" a , b ,c \r\n\rd,e\rf,,g\n,h\ni,j,k\0l,m")).unwrap();
        let told: Vec<_> = read.iter().map(|entry| [&entry.file, &entry.label, &entry.options]).collect();
        assert_eq!(told, [[" a ", " b ", "c "], ["d", "e", ""], ["i", "j", "k"]]);
        assert_eq!(parse(b"odd"), Err(Error::NotUtf16));
        assert_eq!(parse(b"").unwrap(), []);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
