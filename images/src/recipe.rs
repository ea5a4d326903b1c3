//! Recipes: what an image is made of, as data files beside this crate.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Error;

/// A recipe's files: path and contents.
type Files = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($dir:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../recipes/", $dir, "/", $path)))),+]
    };
}

const RLC9_UKI: Files = files!("rlc9-uki":
    "recipe.toml",
    "customize.sh",
    "clean.sh",
    "overlay/etc/dracut.conf.d/50-uki.conf",
    "overlay/etc/fstab",
    "overlay/etc/modprobe.d/virtual-machine.conf",
    "overlay/etc/ssh/sshd_config.d/10-keys.conf",
    "overlay/etc/systemd/journald.conf.d/20-system.conf",
    "overlay/etc/systemd/network/20-wired.network",
    "overlay/etc/systemd/system/power-button.service",
    "overlay/etc/systemd/system/ssh-host-key.service",
    "overlay/etc/udev/rules.d/70-power-button.rules",
    "overlay/usr/lib/dracut/modules.d/99slim/module-setup.sh",
    "overlay/usr/lib/systemd/system/systemd-udev-trigger.service.d/10-few.conf",
    "overlay/usr/lib/systemd/journald.conf.d/10-initrd.conf",
);

const ALL: &[(&str, Files)] = &[("rlc9-uki", RLC9_UKI)];

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Its name, as users type it.
    pub name: &'static str,
    /// What its `recipe.toml` says.
    pub spec: Spec,
    files: Files,
}

/// The contents of `recipe.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What it is, in one line.
    pub title: String,
    /// The system on it.
    pub rootfs: Rootfs,
    /// Where shim comes from.
    pub shim: Package,
    /// Sizes.
    pub disk: Disk,
    /// How it boots.
    pub boot: Boot,
}

/// The system on an image.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rootfs {
    /// The Debian release's code name.
    pub suite: String,
    /// Packages besides the essential ones.
    pub packages: Vec<String>,
    /// Glob patterns of paths that are not unpacked (dpkg's `path-exclude`).
    pub exclude: Vec<String>,
}

/// One package of one release.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// The Debian release's code name.
    pub suite: String,
    /// The package's name.
    pub package: String,
}

/// Sizes, in MiB.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The EFI system partition.
    pub esp: u64,
    /// The root partition.
    pub root: u64,
    /// The file system in it, smaller so that a LUKS2 header fits.
    pub root_filesystem: u64,
}

/// How an image boots.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The directory under `\EFI`.
    pub vendor: String,
    /// The boot entry's title.
    pub title: String,
    /// The kernel's command line, built into the UKI.
    pub command_line: String,
}

/// How much smaller than its partition a file system must be for encrypting it in place, in MiB: twice the
/// default LUKS2 header of 16 MiB (`cryptsetup-reencrypt(8)`, `--reduce-device-size`).
pub(crate) const REDUCE_MIB: u64 = 32;

impl Recipe {
    /// The names of all recipes.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        ALL.iter().map(|(name, _)| *name).collect()
    }

    /// The recipe called `name`.
    ///
    /// # Errors
    /// [`Error::UnknownRecipe`]; [`Error::Recipe`] when its own files are wrong.
    pub fn named(name: &str) -> Result<Self, Error> {
        let (name, files) = ALL
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| Error::UnknownRecipe { name: name.to_owned(), known: Self::names() })?;
        let wrong = |why: String| Error::Recipe { name: (*name).to_owned(), why };
        let text = find(files, "recipe.toml").ok_or_else(|| wrong("it has no recipe.toml".to_owned()))?;
        let spec: Spec = toml::from_str(text).map_err(|e| wrong(e.to_string()))?;
        if spec.disk.root < spec.disk.root_filesystem + REDUCE_MIB {
            return Err(wrong(format!(
                "the root file system leaves less than {REDUCE_MIB} MiB of its partition"
            )));
        }
        Ok(Self { name, spec, files })
    }

    /// The text of one of the recipe's files.
    pub(crate) fn file(&self, path: &str) -> Result<&'static str, Error> {
        find(self.files, path)
            .ok_or_else(|| Error::Recipe { name: self.name.to_owned(), why: format!("it has no {path}") })
    }

    /// The files that go into the system: path from its root, and contents.
    pub(crate) fn overlay(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.files.iter().filter_map(|(path, text)| Some((path.strip_prefix("overlay/")?, *text)))
    }

    /// SHA-256 over all of the recipe's files, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (path, text) in self.files {
            hash.update(format!("{} {path}\0{}\0", path.len(), text.len()));
            hash.update(text);
        }
        hex::encode(hash.finalize())
    }
}

fn find(files: Files, path: &str) -> Option<&'static str> {
    files.iter().find(|(known, _)| *known == path).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn every_recipe_reads() {
        for name in Recipe::names() {
            let recipe = Recipe::named(name).unwrap();
            assert_eq!(recipe.digest().len(), 64);
            assert!(recipe.overlay().count() > 0);
            assert!(recipe.file("customize.sh").is_ok() && recipe.file("nothing").is_err());
        }
    }

    #[test]
    fn every_file_of_a_recipe_is_known_here() {
        fn walk(dir: &std::path::Path, found: &mut usize) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { *found += 1 }
            }
        }
        for (name, files) in ALL {
            let mut found = 0;
            walk(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name), &mut found);
            assert_eq!(found, files.len(), "{name}: a file is missing from the list in recipe.rs");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        assert!(Recipe::named("rlc8").unwrap_err().to_string().contains("rlc9-uki"));
    }
}
