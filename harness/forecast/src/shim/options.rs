//! What shim's load options ask for, and `options.csv` in its directory.
//!
//! Source: shim 15.8 and 16.1, `load-options.c` (`parse_load_options`, `split_load_options`,
//! `generate_path_from_image_path`), `shim.c` (`set_second_stage`, `load_image`; `load_shim_options`, 16.0 and later).

use latchkey_measure::shim::Version;
use memchr::memmem;

use super::Shim;
use crate::{Chain, Error};

/// A file that names the second stage where the load options do not.
const LIST: &str = "options.csv";
/// `BDS_GUID`: firmware adds it to the options of its own making; shim takes it off where more is there.
const FIRMWARE: [u8; 16] =
    [0x4e, 0xac, 0x08, 0x81, 0x11, 0x9f, 0x59, 0x4d, 0x85, 0x0e, 0xe2, 0x1a, 0x52, 0x2c, 0x59, 0xb2];
/// A path that begins like this is one from the partition's root; of any other only the last part counts.
const ROOT: &str = "\\EFI\\";
const BLANK: u16 = 0x20;
/// What a build with `DISABLE_REMOVABLE_LOAD_OPTIONS` has to say, and no other (15.5 and later).
const IGNORES: &str = "Invoked from removable media path, ignoring boot options";

/// Whether a shim looks at no load options where it was started from the removable-media path.
pub(super) fn are_ignored_on_removable_media(shim: &[u8]) -> bool {
    let says: Vec<u8> = IGNORES.encode_utf16().flat_map(u16::to_le_bytes).collect();
    memmem::find(shim, &says).is_some()
}

/// A second stage, and what is left of the options for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) options: Vec<u8>,
}

impl Shim {
    /// What shim shall start, and with which options. `None` where that is its own directory: 15.8 takes an empty name for
    /// one, opens the directory, and finds no program in what it reads (`EFI_UNSUPPORTED`), so that it does not try GRUB.
    pub(super) fn asked(&self, chain: &Chain<'_>, own: &str, options: &[u8]) -> Result<Option<Asked>, Error> {
        let named = if self.ignores_options { None } else { named(options, own, &self.directory) };
        Ok(Some(match named {
            Some((name, options)) if !name.is_empty() => {
                Asked { path: full_path(&self.directory, &name), options }
            }
            Some((_, options)) if self.version.major >= 16 => Asked { path: self.default(chain)?, options },
            Some(_) => return Ok(None),
            None => Asked { path: self.default(chain)?, options: Vec::new() },
        }))
    }

    /// GRUB, unless `options.csv` names something else.
    fn default(&self, chain: &Chain<'_>) -> Result<String, Error> {
        let file = match self.version {
            Version { major: 16.., .. } => chain.target.esp.read(&self.path(LIST))?,
            _ => None,
        };
        let listed = file.and_then(|bytes| {
            let text: Vec<u16> = units(&bytes).take_while(|unit| *unit != 0).collect();
            let text = String::from_utf16_lossy(&text);
            let first = text.trim_start_matches('\u{feff}').split(',').next()?.to_owned();
            (!first.is_empty()).then_some(first)
        });
        Ok(listed.map_or_else(|| self.path(&self.names.loader), |name| full_path(&self.directory, &name)))
    }
}

/// The first word of the options, and what follows; not shim's own path, which a shell puts in front. `None` where nothing
/// ends the word: shim then takes the options for nothing.
fn named(options: &[u8], own: &str, directory: &str) -> Option<(String, Vec<u8>)> {
    if !options.len().is_multiple_of(2) {
        return None;
    }
    let options = match options.strip_suffix(&FIRMWARE) {
        Some(rest) if !rest.is_empty() => rest,
        _ => options,
    };
    if options.starts_with(&[0, 0]) {
        return None;
    }
    let (first, rest) = split(options)?;
    if full_path(directory, &first).eq_ignore_ascii_case(own) {
        return split(&rest);
    }
    Some((first, rest))
}

/// The first word and what comes after the character that ends it.
fn split(options: &[u8]) -> Option<(String, Vec<u8>)> {
    let all: Vec<u16> = units(options).collect();
    let start = all.iter().position(|unit| *unit != BLANK)?;
    let end = start + all[start..].iter().position(|unit| matches!(*unit, BLANK | 0))?;
    let rest = all[end + 1..].iter().flat_map(|unit| unit.to_le_bytes()).collect();
    Some((String::from_utf16_lossy(&all[start..end]), rest))
}

fn units(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
}

fn full_path(directory: &str, name: &str) -> String {
    if name.starts_with(ROOT) {
        return name.replace('\\', "/");
    }
    let last = name.rsplit('\\').next().unwrap_or(name);
    format!("{directory}/{}", last.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const OWN: &str = "/EFI/rocky/shimx64.efi";

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[rstest]
    #[case::a_path(r"\EFI\Linux\uki.efi ", Some(("/EFI/Linux/uki.efi", "")))]
    #[case::with_more(r"\EFI\Linux\uki.efi a b", Some(("/EFI/Linux/uki.efi", "a b")))]
    #[case::nothing_ends_it(r"\EFI\Linux\uki.efi", None)]
    #[case::ended_by_a_nul("\\EFI\\Linux\\uki.efi\0", Some(("/EFI/Linux/uki.efi", "")))]
    #[case::beside_shim("fwupdx64.efi\0", Some(("/EFI/rocky/fwupdx64.efi", "")))]
    #[case::the_last_part_counts("\\fedora\\grubx64.efi\0", Some(("/EFI/rocky/grubx64.efi", "")))]
    #[case::as_a_shell_has_it("\\EFI\\rocky\\shimx64.efi \\EFI\\x.efi\0", Some(("/EFI/x.efi", "")))]
    #[case::nothing_at_all("", None)]
    fn the_first_word_names_the_second_stage(#[case] options: &str, #[case] expected: Option<(&str, &str)>) {
        let found = named(&utf16(options), OWN, "/EFI/rocky");
        let found = found.map(|(name, rest)| (full_path("/EFI/rocky", &name), rest));
        assert_eq!(found, expected.map(|(path, rest)| (path.to_owned(), utf16(rest))));
    }

    #[test]
    fn the_firmwares_mark_is_taken_off_where_more_is_there() {
        assert_eq!(named(&FIRMWARE, OWN, "/EFI/rocky"), None);
        let marked = [utf16("x.efi\0"), FIRMWARE.to_vec()].concat();
        assert_eq!(named(&marked, OWN, "/EFI/rocky"), Some(("x.efi".into(), Vec::new())));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(options in proptest::collection::vec(0u8.., 0..80)) {
            let _ = named(&options, OWN, "/EFI/rocky");
        }
    }
}
