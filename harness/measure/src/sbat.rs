//! SBAT: what an image says of its components' generations, and what is revoked.
//!
//! Source: shim `SBAT.md` and `sbat.c`. Metadata lines have six columns or more; a revocation line has a
//! component and the lowest generation that is still allowed.

use serde::{Deserialize, Serialize};

/// Columns that shim requires of a metadata line (`SBAT_SECTION_COLUMNS`).
const COLUMNS: usize = 6;

/// Why text is not SBAT data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Bytes that are not text.
    #[error("reading SBAT data: it is not UTF-8")]
    NotText,
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
    lines(section)?
        .map(|(line, text)| {
            let columns: Vec<&str> = text.split(',').collect();
            let bad = |why| Error::Line { line, why };
            if columns.len() < COLUMNS || columns[..COLUMNS].iter().any(|c| c.is_empty()) {
                return Err(bad("six columns are needed, none of them empty"));
            }
            Ok(Component {
                name: columns[0].to_owned(),
                generation: columns[1].parse().map_err(|_| bad("the generation is not a number"))?,
                vendor: columns[2].to_owned(),
                package: columns[3].to_owned(),
                version: columns[4].to_owned(),
                url: columns[5..].join(","),
            })
        })
        .collect()
}

/// Lines that hold something, with their numbers.
fn lines(data: &[u8]) -> Result<impl Iterator<Item = (usize, &str)>, Error> {
    let used = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    let text = std::str::from_utf8(&data[..used]).map_err(|_| Error::NotText)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Ok(text.lines().map(str::trim_end).enumerate().map(|(i, l)| (i + 1, l)).filter(|(_, l)| !l.is_empty()))
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
        let mut all = lines(level)?;
        let head = Error::Line { line: 1, why: "it must start with sbat,1,DATE" };
        let (_, first) = all.next().ok_or_else(|| head.clone())?;
        let date = match first.split(',').collect::<Vec<_>>()[..] {
            ["sbat", "1", date, ..] => date.parse().map_err(|_| head)?,
            _ => return Err(head),
        };
        let minimum = all
            .map(|(line, text)| {
                let (name, generation) =
                    text.split_once(',').ok_or(Error::Line { line, why: "two columns are needed" })?;
                let generation = generation.split(',').next().unwrap_or_default();
                let generation = generation
                    .parse()
                    .map_err(|_| Error::Line { line, why: "the generation is not a number" })?;
                Ok((name.to_owned(), generation))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { date, minimum })
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

/// One metadata line as text with its newline, for building a `.sbat` section.
#[must_use]
pub fn line(component: &Component) -> String {
    let Component { name, generation, vendor, package, version, url } = component;
    format!("{name},{generation},{vendor},{package},{version},{url}\n")
}
