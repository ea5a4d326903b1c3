//! The project's scenarios, one file each, built into the binary that runs them.

use include_dir::{Dir, include_dir};

static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR");

/// Name and text of every scenario, by name.
#[must_use]
pub fn all() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = FILES
        .files()
        .filter(|file| file.path().extension().is_some_and(|e| e == "toml"))
        .filter_map(|file| Some((file.path().file_stem()?.to_str()?, file.contents_utf8()?)))
        .filter(|(name, _)| *name != "Cargo")
        .collect();
    all.sort_unstable();
    all
}
