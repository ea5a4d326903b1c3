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

#[cfg(test)]
mod tests {
    #[test]
    fn the_catalogue_does_not_shrink() {
        let names: Vec<&str> = super::all().iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "certificate-rename",
                "first-boot",
                "foreign-boot-loader",
                "foreign-kernel",
                "one-time-boot-option",
                "pcrlock-agrees",
                "platform-key-only",
                "recovery-key",
                "sealed-to-all",
                "sealed-to-coming",
                "uki-update"
            ]
        );
    }
}
