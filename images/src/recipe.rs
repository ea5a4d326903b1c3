//! Recipes: what an image is made of, as data files beside this crate.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Error;

/// A recipe's files: path and contents.
pub(crate) type Files = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($dir:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../recipes/", $dir, "/", $path)))),+]
    };
}
pub(crate) use files;

/// What all of them have in common.
const RLC: Files = files!("rlc":
    "recipe.toml",
    "customize.sh",
    "clean.sh",
    "overlay/etc/dracut.conf.d/50-any-machine.conf",
    "overlay/etc/modprobe.d/virtual-machine.conf",
    "overlay/etc/ssh/sshd_config.d/10-keys.conf",
    "overlay/etc/systemd/journald.conf.d/20-system.conf",
    "overlay/etc/systemd/network/20-wired.network",
    "overlay/etc/systemd/system/power-button.service",
    "overlay/etc/systemd/system/serial-getty@.service.d/10-size.conf",
    "overlay/etc/systemd/system/ssh.service.d/10-quick.conf",
    "overlay/etc/systemd/system/ssh-host-key.service",
    "overlay/etc/udev/rules.d/70-power-button.rules",
    "overlay/usr/lib/dracut/modules.d/99slim/module-setup.sh",
    "overlay/usr/lib/systemd/system/systemd-udev-trigger.service.d/10-few.conf",
    "overlay/usr/lib/systemd/journald.conf.d/10-initrd.conf",
    "overlay/usr/lib/systemd/system.conf.d/10-virtual-machine.conf",
);

/// The releases.
const RLC9: Files = files!("rlc9": "recipe.toml");
const RLC10: Files = files!("rlc10": "recipe.toml", "overlay/etc/dracut.conf.d/55-cryptsetup.conf");

/// The layouts.
const UKI: Files = files!("rlc-uki": "recipe.toml", "overlay/etc/fstab");
const GRUB: Files = files!("rlc-grub":
    "recipe.toml",
    "grub-early.cfg",
    "grub.cfg",
    "overlay/etc/crypttab",
    "overlay/etc/dracut.conf.d/60-crypttab.conf",
    "overlay/etc/fstab",
    "overlay/sbat.csv",
);

/// What makes of that layout one with snippets: its files come before those of the layout.
const BLS: Files = files!("rlc-bls":
    "recipe.toml",
    "grub.cfg",
    "overlay/etc/fstab",
    "overlay/etc/yum.repos.d/rocky.repo",
    "loader/entries/rocky-0-rescue.conf",
    "loader/entries/rocky-@KERNEL@.conf",
);

/// Name, what it is, and the directories that it is made of.
const ALL: &[(&str, &str, &[Files])] = &[
    (
        "rlc9-uki",
        "systemd 252, shim 15.8 and a UKI, laid out as RHEL-family confidential images are",
        &[RLC, RLC9, UKI],
    ),
    (
        "rlc9-grub",
        "systemd 252, shim 15.8, GRUB 2.06 and a /boot partition, laid out as RHEL-family images are",
        &[RLC, RLC9, GRUB],
    ),
    (
        "rlc10-uki",
        "systemd 257, shim 16.1 and a UKI, laid out as RHEL-family confidential images are",
        &[RLC, RLC10, UKI],
    ),
    (
        "rlc10-grub",
        "systemd 257, shim 16.1, GRUB 2.12 and a /boot partition, laid out as RHEL-family images are",
        &[RLC, RLC10, GRUB],
    ),
    (
        "rlc10-bls",
        "systemd 257, shim 16.1 and GRUB 2.14 with a menu of Boot Loader Specification snippets, on a /boot partition that is XFS; dnf",
        &[RLC, RLC10, BLS, GRUB],
    ),
];

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Its name, as users type it.
    pub name: &'static str,
    /// What it is, in one line.
    pub title: &'static str,
    /// What the `recipe.toml` of its directories say together.
    pub spec: Spec,
    files: &'static [Files],
}

/// The contents of `recipe.toml`, which each of a recipe's directories may have a part of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The system on it.
    pub rootfs: Rootfs,
    /// Where shim comes from.
    pub shim: Package,
    /// Other shims that scenarios put on a machine, by the name of their artefact.
    #[serde(default)]
    pub other_shims: BTreeMap<String, OtherShim>,
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
    /// Packages of a later release that are unpacked over them.
    #[serde(default)]
    pub newer: Option<Newer>,
}

/// Packages of another release, unpacked as they are: what they need has to be there already.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Newer {
    /// The Debian release's code name.
    pub suite: String,
    /// The packages.
    pub packages: Vec<String>,
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

/// A shim that an image does not boot from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherShim {
    /// The Debian release's code name.
    pub suite: String,
    /// The package's name.
    pub package: String,
    /// Its file in the package, without a slash at its start.
    pub file: String,
    /// Whose it becomes.
    pub made: Made,
}

/// Whose a shim becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Made {
    /// It gets the image's vendor's certificate, and the platform's signature.
    OurVendors,
    /// It stays as it came: another vendor's, with that vendor's signatures.
    AsItCame,
}

/// Sizes, in MiB.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The EFI system partition.
    pub esp: u64,
    /// The partition with kernels; none when it is 0.
    #[serde(default)]
    pub boot: u64,
    /// The file system in it.
    #[serde(default)]
    pub boot_filesystem: BootFileSystem,
    /// The root partition.
    pub root: u64,
    /// The file system in it, smaller so that a LUKS2 header fits.
    pub root_filesystem: u64,
}

/// What the partition with kernels is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootFileSystem {
    /// ext4, by `mkfs.ext4`.
    #[default]
    Ext4,
    /// XFS, as RHEL and Rocky Linux make it by default; by `mkfs.xfs`, which makes none below 300 MiB.
    Xfs,
}

/// How an image boots.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// What shim starts.
    #[serde(default)]
    pub loader: Loader,
    /// The directory under `\EFI`.
    pub vendor: String,
    /// The boot entry's title.
    pub title: String,
    /// The kernel's command line, word by word, built into the UKI or written into GRUB's configuration.
    pub options: Vec<String>,
}

impl Boot {
    /// The kernel's command line.
    #[must_use]
    pub fn command_line(&self) -> String {
        self.options.join(" ")
    }
}

/// What shim starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loader {
    /// A UKI on the EFI system partition.
    #[default]
    Uki,
    /// GRUB, with kernel and initrd on a partition of their own.
    Grub,
}

/// How much smaller than its partition a file system must be for encrypting it in place, in MiB: twice the
/// default LUKS2 header of 16 MiB (`cryptsetup-reencrypt(8)`, `--reduce-device-size`).
pub(crate) const ROOM_MIB: u64 = latchkey_disk::luks::ROOM >> 20;

impl Recipe {
    /// The names of all recipes.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        ALL.iter().map(|(name, ..)| *name).collect()
    }

    /// The recipe called `name`.
    ///
    /// # Errors
    /// [`Error::UnknownRecipe`]; [`Error::Recipe`] when its own files are wrong.
    pub fn named(name: &str) -> Result<Self, Error> {
        let (name, title, files) = ALL
            .iter()
            .find(|(known, ..)| *known == name)
            .ok_or_else(|| Error::UnknownRecipe { name: name.to_owned(), known: crate::names() })?;
        let wrong = |why: String| Error::Recipe { name: (*name).to_owned(), why };
        let mut merged = toml::Table::new();
        for (_, text) in
            files.iter().flat_map(|files| files.iter()).filter(|(path, _)| *path == "recipe.toml")
        {
            merge(&mut merged, text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?);
        }
        let spec: Spec = merged.try_into().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
        if spec.disk.root < spec.disk.root_filesystem + ROOM_MIB {
            return Err(wrong(format!(
                "the root file system leaves less than {ROOM_MIB} MiB of its partition"
            )));
        }
        if (spec.boot.loader == Loader::Grub) != (spec.disk.boot > 0) {
            return Err(wrong("GRUB, and nothing else, needs a partition with kernels".to_owned()));
        }
        Ok(Self { name, title, spec, files })
    }

    /// The text of one of the recipe's files.
    pub(crate) fn file(&self, path: &str) -> Result<&'static str, Error> {
        let mut all = self.files.iter().copied().flatten();
        all.find(|(known, _)| *known == path)
            .map(|(_, text)| *text)
            .ok_or_else(|| Error::Recipe { name: self.name.to_owned(), why: format!("it has no {path}") })
    }

    /// The files that go into the system: path from its root, and contents.
    pub(crate) fn overlay(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.below("overlay/")
    }

    /// The files in one of the recipe's directories, which is called `dir` with a slash at its end: path from there, and
    /// contents. Of files of the same path the first one.
    pub(crate) fn below(&self, dir: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        let mut seen = BTreeSet::new();
        let all = self.files.iter().copied().flatten();
        all.filter_map(move |(path, text)| Some((path.strip_prefix(dir)?, *text)))
            .filter(move |(path, _)| seen.insert(*path))
    }

    /// SHA-256 over all of the recipe's files, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(self.files.iter().copied().flatten())
    }
}

/// SHA-256 over files, in hex.
pub(crate) fn digest(files: impl Iterator<Item = &'static (&'static str, &'static str)>) -> String {
    let mut hash = Sha256::new();
    for (path, text) in files {
        hash.update(format!("{} {path}\0{}\0", path.len(), text.len()));
        hash.update(text);
    }
    hex::encode(hash.finalize())
}

/// Adds what `more` says: lists grow, and of what stands alone the first word counts, as the first file of a name does.
fn merge(table: &mut toml::Table, more: toml::Table) {
    for (key, value) in more {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(more)) => merge(inner, more),
            (Some(toml::Value::Array(list)), toml::Value::Array(more)) => list.extend(more),
            (Some(_), _) => {}
            (None, value) => {
                table.insert(key, value);
            }
        }
    }
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
        for (name, files) in [
            ("rlc", RLC),
            ("rlc9", RLC9),
            ("rlc10", RLC10),
            ("rlc-uki", UKI),
            ("rlc-grub", GRUB),
            ("rlc-bls", BLS),
            ("debian", crate::stock::FILES),
        ] {
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
