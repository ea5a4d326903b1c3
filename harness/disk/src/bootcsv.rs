//! `BOOTX64.CSV`: the boot entries that shim's fallback program makes for a vendor's directory.
//!
//! Source: shim `README.fallback` and `fallback.c` (`try_boot_csv`, `populate_stanza`): UTF-16LE text with or without a byte
//! order mark, up to the first NUL; a line of `FILE,LABEL,OPTIONS,COMMENT` for each entry, in which every blank counts. A line
//! without a file or a label is passed over. A column that a line has not is read out of the next line, up to a comma, and shim
//! ends the text at that comma: the line that it stands in still counts, those behind it do not.

use serde::{Deserialize, Serialize};

const NUL: u16 = 0;
const MARK: u16 = 0xfeff;
const RETURN: u16 = 0xd;
const FEED: u16 = 0xa;
const COMMA: u16 = 0x2c;

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
    /// A line has too few columns, and shim looks for them behind the end of the list.
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
    let mut text: Vec<u16> = bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    String::from_utf16(&text).map_err(|_| Error::NotUtf16)?;
    text.push(NUL);
    let mut entries = Vec::new();
    let (mut at, mut line) = (usize::from(text[0] == MARK), 1);
    while text[at] != NUL {
        if [RETURN, FEED].contains(&text[at]) {
            line += usize::from(text[at] == FEED);
            at += 1;
            continue;
        }
        let end = end_of(&text, at, &[RETURN, FEED]).ok_or(Error::Line { line })?;
        let terminator = std::mem::replace(&mut text[end], NUL);
        entries.extend(entry(&mut text, at, end, line)?);
        text[end] = terminator;
        at = end;
    }
    Ok(entries)
}

/// Where a text that begins at `at` has one of these characters, or ends (`StrCSpn`). `None` behind the end of the list.
fn end_of(text: &[u16], at: usize, characters: &[u16]) -> Option<usize> {
    let is_it = |unit: &u16| *unit == NUL || characters.contains(unit);
    Some(at + text.get(at..)?.iter().position(is_it)?)
}

/// `populate_stanza`: the entry of the line from `at` to `end`, where a NUL is. The error says that it goes on behind the end of
/// the list.
fn entry(text: &mut [u16], at: usize, end: usize, line: usize) -> Result<Option<BootEntry>, Error> {
    let mut from = at;
    let mut columns: [String; 3] = Default::default();
    for (number, column) in columns.iter_mut().enumerate() {
        let to = end_of(text, from, &[COMMA]).ok_or(Error::Line { line })?;
        *column = String::from_utf16_lossy(&text[from..to]);
        if column.is_empty() && number < 2 {
            return Ok(None);
        }
        text[to] = NUL;
        from = to + 1;
    }
    let [file, label, options] = columns;
    let comment = text.get(from..end).map(String::from_utf16_lossy).unwrap_or_default();
    Ok(Some(BootEntry { file, label, options, comment }))
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
    use rstest::rstest;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    /// Of each entry the file, the label and the options. The last line has a line behind it wherever that counts.
    #[rstest]
    #[case::nothing_behind("a,b\n", &["a|b|"])]
    #[case::half_a_line_end_behind("a,b\r\n", &["a|b|\n"])]
    #[case::the_next_lines_file("a,b\nc,d,e,f\ng,h,i,j\n", &["a|b|c", "c|d|e"])]
    #[case::with_half_a_line_end("a,b\r\nc,d,e,f\r\n", &["a|b|\nc", "c|d|e"])]
    #[case::both_short("a,b\nc,d\ne,f,g,h\n", &["a|b|c", "c|d\ne|f"])]
    #[case::a_line_before("a,b,c,d\ne,f\n", &["a|b|c", "e|f|"])]
    #[case::one_column_and_nothing("a\n", &[])]
    #[case::one_column("a\nb,c,d,e\n", &["a|b|c", "b|c|d"])]
    fn columns_that_are_missing_come_out_of_the_next_line(#[case] list: &str, #[case] expected: &[&str]) {
        let told = |entry: &BootEntry| format!("{}|{}|{}", entry.file, entry.label, entry.options);
        let entries = parse(&utf16(list)).unwrap();
        assert_eq!(entries.iter().map(told).collect::<Vec<_>>(), expected);
    }

    #[rstest]
    #[case("a,b")]
    #[case("a")]
    #[case("a,b,c,d\0e")]
    fn what_stands_behind_the_list_nobody_knows(#[case] list: &str) {
        let expected = if list.starts_with("a,b,c") { Ok(1) } else { Err(Error::Line { line: 1 }) };
        assert_eq!(parse(&utf16(list)).map(|entries| entries.len()), expected);
    }

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
        let read = parse(&utf16(" a , b ,c \r\n\rd,e,\rf,,g\n,h\ni,j,k\0l,m")).unwrap();
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
