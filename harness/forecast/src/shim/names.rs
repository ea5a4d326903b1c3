//! What a shim calls the programs that it starts beside itself: names that are built into it.
//!
//! Sources: shim 15.8 and 16.1, `shim.h` (`DEFAULT_LOADER`, `FALLBACK`, `MOK_MANAGER`), `Make.defaults` (`DEFAULT_LOADER`, which a
//! build may set, and of which each backslash comes out twice); SUSE's build has `grub.efi`, `MokManager.efi` and `fallback.efi`.

use std::collections::BTreeSet;

use memchr::memmem;

const LOADER: &str = "grubx64.efi";
const MANAGERS: [&str; 2] = ["mmx64.efi", "MokManager.efi"];
const FALLBACKS: [&str; 2] = ["fbx64.efi", "fallback.efi"];
const ENDING: &str = ".efi\0";
const BACKSLASH: u16 = 0x5c;

/// Names of files in shim's own directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// What it starts when nothing else is asked for.
    pub(super) loader: String,
    pub(super) manager: String,
    /// What it starts from the removable-media directory.
    pub(super) fallback: String,
}

impl Names {
    /// Those in a shim's texts, or the usual ones where it has none. The error names what may be its loader, where that is not
    /// one.
    pub(super) fn of(shim: &[u8]) -> Result<Self, String> {
        let built_in = built_in(shim);
        let take = |known: [&str; 2]| {
            let found = known.into_iter().find(|name| built_in.contains(*name));
            found.unwrap_or(known[0]).to_owned()
        };
        let is_known = |name: &str| MANAGERS.contains(&name) || FALLBACKS.contains(&name);
        let rest: Vec<&str> = built_in.iter().map(String::as_str).filter(|name| !is_known(name)).collect();
        let loader = match rest[..] {
            [] if built_in.is_empty() => LOADER,
            [loader] => loader,
            [] => return Err(Vec::from_iter(built_in).join(", ")),
            _ => return Err(rest.join(", ")),
        };
        Ok(Self { loader: loader.to_owned(), manager: take(MANAGERS), fallback: take(FALLBACKS) })
    }
}

/// Each text in UTF-16LE that ends with `.efi` and a NUL, from its last backslash on.
fn built_in(shim: &[u8]) -> BTreeSet<String> {
    let ending: Vec<u8> = ENDING.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let name = |end: usize| {
        let units = shim[..end].rchunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let text: Vec<u16> = units.take_while(|unit| (0x20..0x7f).contains(unit)).collect();
        // What has no backslash is no path.
        let length = text.iter().position(|unit| *unit == BACKSLASH)?;
        let name: Vec<u16> = text[..length].iter().rev().copied().collect();
        String::from_utf16(&name).ok()
    };
    // The text without its NUL.
    memmem::find_iter(shim, &ending).filter_map(|at| name(at + ending.len() - 2)).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const USUAL: [&str; 3] = [LOADER, "mmx64.efi", "fbx64.efi"];

    /// The texts of a build, one behind the other.
    #[rstest]
    #[case::no_texts(&[], Some(USUAL))]
    #[case::as_built_upstream(
        &["\\fbx64.efi", "\\EFI\\BOOT\\fbx64.efi", "\\mmx64.efi", "\\\\grubx64.efi", "revocations.efi"], Some(USUAL))]
    #[case::as_suse_builds_it(
        &["\\fallback.efi", "\\MokManager.efi", "\\\\grub.efi", "shim_certificate.efi"],
        Some(["grub.efi", "MokManager.efi", "fallback.efi"]))]
    #[case::a_uki(&["\\mmx64.efi", "\\fbx64.efi", "\\linux.efi"], Some(["linux.efi", "mmx64.efi", "fbx64.efi"]))]
    #[case::two_of_them(&["\\grub.efi", "\\linux.efi"], None)]
    #[case::both_names_of_each(
        &["\\mmx64.efi", "\\MokManager.efi", "\\fbx64.efi", "\\fallback.efi", "\\grub.efi"],
        Some(["grub.efi", "mmx64.efi", "fbx64.efi"]))]
    #[case::no_loader_among_them(&["\\mmx64.efi", "\\fbx64.efi"], None)]
    #[case::managers_alone(&["\\mmx64.efi", "\\MokManager.efi"], None)]
    fn names_are_among_the_texts(#[case] texts: &[&str], #[case] expected: Option<[&str; 3]>) {
        let units = texts.iter().flat_map(|text| text.encode_utf16().chain([0]));
        let binary: Vec<u8> = [0x90].into_iter().chain(units.flat_map(u16::to_le_bytes)).collect();
        let names = Names::of(&binary).ok().map(|names| [names.loader, names.manager, names.fallback]);
        assert_eq!(names, expected.map(|names| names.map(str::to_owned)));
    }
}
