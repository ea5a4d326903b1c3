//! What is built into GRUB's image: modules, the directory it looks into, a first configuration, a small disk.
//!
//! Sources: GRUB 2.06, `include/grub/kernel.h` (`struct grub_module_info64`, `struct grub_module_header`),
//! `util/mkimage.c`, `util/grub-mkimagexx.c` (the section `mods`).

use std::collections::BTreeSet;

use latchkey_measure::{PeImage, sbat};
use object::{Object, ObjectSection};

/// `GRUB_MODULE_MAGIC`, "mimg".
const MAGIC: u32 = 0x676d_696d;
const ELF: u32 = 0;
const MEMDISK: u32 = 1;
const CONFIG: u32 = 2;
const PREFIX: u32 = 3;
const DISABLE_CLI: u32 = 8;
/// The variable's name, as the program has it among its texts.
const FW_PATH: &[u8] = b"\0fw_path\0";

/// The versions whose behaviour is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Version {
    /// Kernels are started through the hand-over entry.
    #[default]
    V2_06,
    /// Kernels are started as EFI programs, with `LoadFile2`.
    V2_12,
    /// As 2.12, and where shim offers to load programs (from 16.0 on) it loads the kernel.
    V2_14,
}

/// What an XFS may have for that version to read it (`grub-core/fs/xfs.c`, `XFS_SB_FEAT_INCOMPAT_SUPPORTED`; numbers as in
/// Linux, `fs/xfs/libxfs/xfs_format.h`): types in directories, sparse inodes and another UUID for metadata; from 2.12 on
/// times after 2038, a need of repair and many extents (the first is in distributions' 2.06 as well); from 2.14 on
/// exchanges, parents and a tree of metadata.
const XFS_READ: [u32; 3] = [0x0f, 0x3f, 0x1ff];

/// The protocol by which shim loads programs, as it lies in a module (shim 16, `include/guid.h`, `SHIM_IMAGE_LOADER_GUID`).
const SHIM_LOADER: [u8; 16] =
    [0x41, 0x20, 0x49, 0x1f, 0xdb, 0xfa, 0x59, 0x4e, 0x9e, 0x57, 0x7c, 0xaf, 0xe7, 0x3a, 0x55, 0xab];
/// A function that its modules may call, from where on shim loads programs for it also where its owner switched verification off
/// (Debian's 2.14-4, `kern/efi/sb.c`, `grub_shim_lock_protocol_setup`): until then such programs were left to the firmware.
const ALWAYS_BY_SHIM: &[u8] = b"\0grub_efi_get_secureboot_real\0";
/// The module with which GRUB starts programs by itself.
const PEIMAGE: &str = "peimage";

/// GRUB, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Core {
    /// Upstream's version.
    pub(crate) version: Version,
    /// Whether it looks for its configuration in the directory that it was started from, before its prefix, and opens
    /// what it finds twice: the patch that brings the variable `fw_path` (Debian's 2.12, Fedora's).
    pub(crate) looks_around: bool,
    /// Names of built-in modules.
    pub(crate) modules: BTreeSet<String>,
    /// Whether its `peimage` leaves starting programs to shim where shim offers that.
    pub(crate) stands_back: bool,
    /// Whether shim loads programs for it also where shim verifies nothing, and Secure Boot is on.
    pub(crate) always_by_shim: bool,
    /// Where it looks for its files.
    pub(crate) prefix: String,
    /// What it runs before anything else.
    pub(crate) config: Option<String>,
    /// A file system that it brings along.
    pub(crate) memdisk: Option<Vec<u8>>,
}

impl Core {
    /// Whether it reads an XFS with these `features`; says why not.
    pub(crate) fn reads_xfs(&self, features: u32) -> Result<(), String> {
        if !self.modules.contains("xfs") {
            return Err("it has no module for XFS, which /boot is".into());
        }
        match features & !XFS_READ[self.version as usize] {
            0 => Ok(()),
            more => Err(format!("it reads no XFS with the features {more:#x}, which /boot has")),
        }
    }

    /// Reads an image; says what is missing.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let image = PeImage::parse(bytes).map_err(|_| "it is no PE image")?;
        let components = image.section(".sbat").and_then(|section| sbat::parse(section).ok());
        let grub = components.into_iter().flatten().find(|component| component.name == "grub");
        let version = grub.map(|component| component.version).ok_or("its SBAT data do not name GRUB")?;
        let version = match version.as_str() {
            "2.06" => Version::V2_06,
            "2.12" => Version::V2_12,
            "2.14" => Version::V2_14,
            other => return Err(format!("GRUB {other} is not modelled")),
        };
        let has = |text: &[u8]| memchr::memmem::find(bytes, text).is_some();
        let (looks_around, always_by_shim) = (has(FW_PATH), has(ALWAYS_BY_SHIM));
        let mut core = Self { version, looks_around, always_by_shim, ..Self::default() };
        let mods = image.section("mods").ok_or("it has no section `mods`")?;
        if word(mods, 0) != Some(MAGIC) {
            return Err("its section `mods` is damaged".into());
        }
        let long = |at: usize| Some(u64::from(word(mods, at)?) | u64::from(word(mods, at + 4)?) << 32);
        let (start, size) = long(8).zip(long(16)).ok_or("its section `mods` is damaged")?;
        let end = usize::try_from(size).unwrap_or(usize::MAX).min(mods.len());
        let mut at = usize::try_from(start).unwrap_or(usize::MAX);
        while at.checked_add(8).is_some_and(|body| body <= end) {
            let Some((kind, size)) = word(mods, at).zip(word(mods, at + 4)) else { break };
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let Some(body) = at.checked_add(size).and_then(|next| mods.get(at + 8..next)) else { break };
            if kind == DISABLE_CLI {
                return Err("a GRUB whose command line is disabled is not modelled".into());
            }
            core.take(kind, body);
            at += size;
        }
        Ok(core)
    }

    fn take(&mut self, kind: u32, body: &[u8]) {
        let text = || {
            let end = body.iter().position(|b| *b == 0).unwrap_or(body.len());
            String::from_utf8_lossy(&body[..end]).into_owned()
        };
        match kind {
            ELF => {
                let name = module_name(body);
                self.stands_back |=
                    name.as_deref() == Some(PEIMAGE) && memchr::memmem::find(body, &SHIM_LOADER).is_some();
                self.modules.extend(name);
            }
            MEMDISK => self.memdisk = Some(body.to_vec()),
            CONFIG => self.config = Some(text()),
            PREFIX => self.prefix = text(),
            _ => {}
        }
    }
}

/// The name that a module gives itself.
pub(crate) fn module_name(elf: &[u8]) -> Option<String> {
    texts(elf, ".modname").into_iter().next()
}

/// The modules that a module needs.
pub(crate) fn needs(elf: &[u8]) -> Vec<String> {
    texts(elf, ".moddeps")
}

/// The texts in a section of an ELF object, each ended by a NUL.
fn texts(elf: &[u8], section: &str) -> Vec<String> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf).ok();
    let data = file.as_ref().and_then(|file| file.section_by_name(section)?.data().ok()).unwrap_or_default();
    let texts = data.split(|b| *b == 0).filter(|text| !text.is_empty());
    texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_was_built_in_is_found() {
        let image = |version| {
            latchkey_measure::samples::grub(version, &["normal", "tpm"], "/EFI/rocky", Some("normal"))
                .unwrap()
        };
        assert!(Core::read(&image("2.15")).unwrap_err().contains("2.15"));
        assert_eq!(Core::read(&image("2.14")).unwrap().version, Version::V2_14);
        let later = Core::read(&image("2.12")).unwrap();
        assert_eq!((later.version, later.looks_around), (Version::V2_12, true));
        let image = image("2.06");
        let core = Core::read(&image).unwrap();
        assert_eq!((core.version, core.looks_around), (Version::V2_06, false));
        assert_eq!(core.modules.iter().map(String::as_str).collect::<Vec<_>>(), ["normal", "tpm"]);
        assert_eq!((core.prefix.as_str(), core.config.as_deref()), ("/EFI/rocky", Some("normal")));
        assert!(Core::read(&image[..image.len() / 2]).is_err());
    }

    #[test]
    fn an_xfs_is_read_by_who_has_the_module_and_knows_its_features() {
        let core = |version| Core { version, modules: ["xfs".to_owned()].into(), ..Core::default() };
        let reads = |version, features| core(version).reads_xfs(features).is_ok();
        // RHEL 9's, xfsprogs' from 6.5 on, and from 6.18 on.
        for (features, by) in [(0xb, 0), (0x2b, 1), (0xeb, 2)] {
            for (number, version) in (0..).zip([Version::V2_06, Version::V2_12, Version::V2_14]) {
                assert_eq!(reads(version, features), number >= by, "{features:#x} by {version:?}");
            }
        }
        assert!(!reads(Version::V2_14, 0x200));
        let without = Core { version: Version::V2_14, ..Core::default() };
        assert!(without.reads_xfs(0).unwrap_err().contains("no module"));
    }
}
