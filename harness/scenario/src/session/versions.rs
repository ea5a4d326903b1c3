//! Which versions of what decides over outcomes the images of a run have.

use std::collections::{BTreeMap, BTreeSet};

use latchkey_images::package_versions;
use latchkey_record::ScenarioResult;
use latchkey_record::results::ImageVersions;

use super::Session;

/// What decides over outcomes, and how the names of Debian's packages begin that bring it: the first one of an image counts.
const DECIDING: [(&str, &str); 8] = [
    ("shim", "shim-"),
    ("grub", "grub-efi-amd64-bin"),
    ("kernel", "linux-image-"),
    ("systemd", "systemd"),
    // What a UKI begins with.
    ("stub", "systemd-boot-efi"),
    ("cryptsetup", "libcryptsetup"),
    ("tpm2-tss", "libtss2-esys-"),
    ("dracut", "dracut-core"),
];

impl Session {
    /// Of the reference images that `rows` ran on, what is known of them.
    pub(super) fn versions_of(&self, rows: &[ScenarioResult]) -> Vec<ImageVersions> {
        // A row that tells which image it ran on has come to it, so that nobody has to wait here until one is built.
        let ran = rows.iter().filter_map(|row| Some((&row.image, row.image_identity.as_ref()?)));
        let told = |(name, identity): (&String, &String)| {
            let image = self.images.get(name, || Err(())).ok()?;
            let find = || Ok::<_, ()>(deciding(&package_versions(&image, &self.cache)));
            let versions = self.versions.get(name, find).ok().filter(|versions| !versions.is_empty())?;
            Some(ImageVersions { image: name.clone(), identity: identity.clone(), versions })
        };
        ran.collect::<BTreeSet<_>>().into_iter().filter_map(told).collect()
    }
}

/// What decides over outcomes, of all `packages` of an image.
fn deciding(packages: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let version = |(what, begins): (&str, &str)| {
        let (_, version) = packages.iter().find(|(name, _)| name.starts_with(begins))?;
        Some((what.to_owned(), version.clone()))
    };
    DECIDING.into_iter().filter_map(version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_is_found_by_its_packages() {
        let packages = [
            ("grub-common", "1"),
            ("libcryptsetup12", "2:2.6.1-4"),
            ("libsystemd0", "3"),
            ("libtss2-esys-3.0.2-0", "3.2.1-3"),
            ("linux-image-6.1.0-57-cloud-amd64", "6.1.192-3"),
            ("linux-image-cloud-amd64", "6.1.192-4"),
            ("shim-unsigned", "15.8-1"),
            ("systemd", "252.39-1"),
            ("systemd-boot-efi", "252.39-2"),
            ("tpm2-tools", "5.4-1"),
        ];
        let packages = packages.map(|(name, version)| (name.to_owned(), version.to_owned())).into();
        let found = deciding(&packages);
        let found: Vec<(&str, &str)> = found.iter().map(|(what, is)| (what.as_str(), is.as_str())).collect();
        let expected = [
            ("cryptsetup", "2:2.6.1-4"),
            ("kernel", "6.1.192-3"),
            ("shim", "15.8-1"),
            ("stub", "252.39-2"),
            ("systemd", "252.39-1"),
            ("tpm2-tss", "3.2.1-3"),
        ];
        assert_eq!(found, expected);
        assert!(deciding(&BTreeMap::new()).is_empty());
    }
}
