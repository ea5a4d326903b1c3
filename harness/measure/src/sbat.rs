//! SBAT: what an image says of its components' generations, and what is revoked.
//!
//! Source: shim `SBAT.md` and `sbat.c`. Metadata lines have six columns or more; a revocation line has a
//! component and the lowest generation that is still allowed.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A byte order mark, which shim passes over at the beginning.
const BOM: &[u8] = b"\xef\xbb\xbf";
/// Columns that shim requires of a metadata line (`SBAT_SECTION_COLUMNS`).
const COLUMNS: usize = 6;
/// Columns of a revocation line that shim looks at (`SBAT_VAR_COLUMNS`); two it requires.
const LEVEL_COLUMNS: usize = 3;

/// Why text is not SBAT data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line with too few or empty columns.
    #[error("reading SBAT data, line {line}: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// One metadata line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// e.g. `shim`, `grub.debian`.
    pub name: String,
    /// Raised with every security fix.
    pub generation: u16,
    /// Who made it.
    pub vendor: String,
    /// The vendor's package.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// Where to ask.
    pub url: String,
}

/// Reads a `.sbat` section; zero bytes at its end are padding.
///
/// # Errors
/// [`Error`] at the first line that shim would not take.
pub fn parse(section: &[u8]) -> Result<Vec<Component>, Error> {
    lines(section)
        .map(|(line, text)| {
            let columns: Vec<&str> = text.split(',').collect();
            let bad = |why| Error::Line { line, why };
            if columns.len() < COLUMNS || columns[..COLUMNS].iter().any(|c| c.is_empty()) {
                return Err(bad("six columns are needed, none of them empty"));
            }
            Ok(Component {
                name: columns[0].to_owned(),
                generation: number(columns[1]),
                vendor: columns[2].to_owned(),
                package: columns[3].to_owned(),
                version: columns[4].to_owned(),
                url: columns[5..].join(","),
            })
        })
        .collect()
}

/// A generation, as shim has it read (`atoi`, of which it keeps 16 bits): digits up to what is none; no digits are 0.
fn number(text: &str) -> u16 {
    let digits = text.trim_start_matches([' ', '\t']).bytes().take_while(u8::is_ascii_digit);
    digits.fold(0, |sum: u16, digit| sum.wrapping_mul(10).wrapping_add(u16::from(digit - b'0')))
}

/// Lines that hold something, with their numbers, as shim parts them (`csv.c`, `parse_csv_data`): either character of a line's end
/// ends one, nothing is trimmed, and bytes may be any.
fn lines(data: &[u8]) -> impl Iterator<Item = (usize, Cow<'_, str>)> {
    let data = data.strip_prefix(BOM).unwrap_or(data);
    let used = data.split(|byte| *byte == 0).next().unwrap_or_default();
    (1..).zip(used.split(|byte| *byte == b'\n')).flat_map(|(number, line)| {
        let pieces = line.split(|byte| *byte == b'\r').filter(|piece| !piece.is_empty());
        pieces.map(move |piece| (number, String::from_utf8_lossy(piece)))
    })
}

/// What is revoked: the value of shim's `SbatLevel` variable, or a level built into shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// Date stamp, e.g. 2025021800; a later one wins.
    pub date: u32,
    /// Component and the lowest generation that may still run.
    pub minimum: Vec<(String, u16)>,
}

impl Revocations {
    /// Reads `sbat,1,DATE` and the lines after it.
    ///
    /// # Errors
    /// [`Error`] when the first line is not of that form or a later one is malformed.
    pub fn parse(level: &[u8]) -> Result<Self, Error> {
        let mut all = lines(level);
        let head = Error::Line { line: 1, why: "it must start with sbat,1,DATE" };
        let (_, first) = all.next().ok_or_else(|| head.clone())?;
        let date = match first.split(',').collect::<Vec<_>>()[..] {
            ["sbat", "1", date, ..] => date.trim_end().parse().map_err(|_| head)?,
            _ => return Err(head),
        };
        let minimum = all.map(minimum).collect::<Result<_, Error>>()?;
        Ok(Self { date, minimum })
    }

    /// Reads the variable `SbatLevel`, of which shim asks nothing but columns (`sbat.c`, `parse_sbat_var_data`): the first line
    /// is one like any other. A date that cannot be read is 0.
    ///
    /// # Errors
    /// [`Error`] at the first line that shim would not take.
    pub fn of_variable(level: &[u8]) -> Result<Self, Error> {
        let date: Option<u32> =
            lines(level).next().and_then(|(_, first)| first.split(',').nth(2)?.trim_end().parse().ok());
        let minimum = lines(level).map(minimum).collect::<Result<_, Error>>()?;
        Ok(Self { date: date.unwrap_or_default(), minimum })
    }

    /// The first component in `image` that is too old, with the generation that is needed.
    #[must_use]
    pub fn refuses<'a>(&self, image: &'a [Component]) -> Option<(&'a Component, u16)> {
        image.iter().find_map(|component| {
            let (_, needed) = self.minimum.iter().find(|(name, _)| *name == component.name)?;
            (component.generation < *needed).then_some((component, *needed))
        })
    }
}

/// A component and the lowest generation that may still run.
fn minimum((line, text): (usize, Cow<'_, str>)) -> Result<(String, u16), Error> {
    let columns: Vec<&str> = text.split(',').take(LEVEL_COLUMNS).collect();
    match columns[..] {
        [name, generation, ..] if columns.iter().all(|column| !column.is_empty()) => {
            Ok((name.to_owned(), number(generation)))
        }
        _ => Err(Error::Line { line, why: "two columns are needed, none of them empty" }),
    }
}

/// One metadata line as text with its newline, for building a `.sbat` section.
#[must_use]
pub fn line(component: &Component) -> String {
    let Component { name, generation, vendor, package, version, url } = component;
    format!("{name},{generation},{vendor},{package},{version},{url}\n")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("4", 4)]
    #[case(" 4x", 4)]
    #[case("x4", 0)]
    #[case("-4", 0)]
    #[case("65540", 4)]
    fn generations_are_read_as_shim_reads_them(#[case] text: &str, #[case] expected: u16) {
        let level = Revocations::parse(format!("sbat,1,2030010100\nshim,{text}\n").as_bytes()).unwrap();
        assert_eq!(level.minimum, [("shim".to_owned(), expected)]);
        let own = parse(format!("shim,{text},v,p,1,u\n").as_bytes()).unwrap();
        assert_eq!(own[0].generation, expected);
    }

    #[rstest]
    #[case::two_columns("sbat,1\nshim,4", Some(&[("sbat", 1), ("shim", 4)][..]))]
    #[case::what_the_fourth_says_is_not_read("sbat,1,2030010100,,", Some(&[("sbat", 1)][..]))]
    #[case::one_column("sbat,1,2030010100\nshim", None)]
    #[case::empty_column("sbat,1,2030010100\nshim,4,", None)]
    #[case::either_character_ends_a_line("sbat,1,2030010100\rshim,4\r\n\ngrub,3", Some(&[("sbat", 1), ("shim", 4), ("grub", 3)][..]))]
    #[case::nothing_is_trimmed("sbat,1,2030010100\nshim ,4 ", Some(&[("sbat", 1), ("shim ", 4)][..]))]
    #[case::a_line_of_blanks("sbat,1,2030010100\n \nshim,4", None)]
    fn of_the_variable_every_line_counts(#[case] level: &str, #[case] expected: Option<&[(&str, u16)]>) {
        let read = Revocations::of_variable(level.as_bytes()).ok().map(|level| level.minimum);
        let expected: Option<Vec<(String, u16)>> =
            expected.map(|all| all.iter().map(|(name, least)| ((*name).to_owned(), *least)).collect());
        assert_eq!(read, expected);
    }

    #[test]
    fn bytes_need_not_be_text() {
        let level = Revocations::of_variable(b"\xef\xbb\xbfsbat,1,2030010100\nshim,4\n\xff,2\0x").unwrap();
        let names: Vec<_> = level.minimum.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((level.date, names), (2_030_010_100, vec!["sbat", "shim", "\u{fffd}"]));
    }
}
