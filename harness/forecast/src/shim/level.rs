//! The SBAT level, which only rises; the policies that a running system asks for; and files with revocations.
//!
//! Sources: shim 15.8 and 16.1, `sbat.c` (`set_sbat_uefi_variable`, `set_ssp_uefi_variable`), `sbat_var.S`, `shim.c`
//! (`load_revocations_file`, `load_unbundled_trust`).

use latchkey_disk::varstore::{Attributes, SecureBoot, Variable, VariableId};
use latchkey_measure::sbat::{self, Revocations};
use latchkey_measure::shim::Version;
use latchkey_measure::{PeImage, Uuid};
use latchkey_record::Stage;

use super::Shim;
use super::state::variable;
use crate::Chain;

/// The first version that raises the level as it is modelled here.
pub(super) const RAISES: Version = Version { major: 15, minor: 8 };
/// `SBAT_VAR_ORIGINAL`: what is set where Secure Boot is off.
const ORIGINAL: &[u8] = b"sbat,1,2021030218\n";
/// How many characters of a date are compared (`SBAT_VAR_ORIGINAL_DATE`).
const DATE: usize = 10;
/// What every level begins with (`SBAT_VAR_SIG`).
const MARK: &[u8] = b"sbat,";
pub(super) const SBAT_LEVEL: &str = "SbatLevel";
/// `SECUREBOOT_EFI_NAMESPACE_GUID`, whose variables Windows' boot manager reads.
const WINDOWS: Uuid = Uuid::from_u128(0x77fa_9abd_0359_4d32_bd60_28f4_e78f_784b);
/// `SSPVER_SIZE`, `SSPSIG_SIZE`: a version of four numbers, and the policy's signers.
const SSP_VERSION: usize = 8;
const SSP_SIGNERS: usize = 131;
/// `UEFI_VAR_NV_BS_TIMEAUTH`.
const SIGNED: u32 = 0x23;

/// The two levels that a shim or a file of revocations has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Levels {
    automatic: Vec<u8>,
    latest: Vec<u8>,
}

impl Levels {
    /// Those built into a shim: a table of offsets, then texts (`sbat_var.S`).
    fn of_shim(bytes: &[u8]) -> Option<Self> {
        let image = PeImage::parse(bytes).ok()?;
        let section = image.section(".sbatlevel")?;
        let level = |at: usize| {
            let offset = u32::from_le_bytes(section.get(at..at + 4)?.try_into().ok()?);
            let text = section.get(usize::try_from(offset).ok()?.checked_add(4)?..)?;
            text.contains(&0).then(|| up_to_nul(text))
        };
        Some(Self { automatic: level(4)?, latest: level(8)? })
    }
}

fn up_to_nul(text: &[u8]) -> Vec<u8> {
    text.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

/// What a running system asks for through `SbatPolicy` and `SSPPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// The latest level that is known.
    Latest,
    /// The one that shim sets by itself.
    Automatic,
    /// None, where Secure Boot is off.
    Reset,
    /// Nothing was asked for, or nothing that shim knows.
    Default,
}

impl Policy {
    /// Reads the request, which counts once.
    fn take(chain: &mut Chain<'_>, name: &str) -> Self {
        let Some(value) = chain.variables.remove(&variable(name)) else { return Self::Default };
        chain.leaves(name, "used up by shim");
        match value.data.first() {
            Some(1) => Self::Latest,
            Some(2) => Self::Automatic,
            Some(3) => Self::Reset,
            _ => Self::Default,
        }
    }
}

impl Shim {
    /// What shim does first: its own levels, and whether it may itself still run. The answer is why it switches the machine
    /// off.
    pub(super) fn start_level(&mut self, chain: &mut Chain<'_>, bytes: &[u8], file: &str) -> Option<String> {
        self.policy = Policy::take(chain, "SbatPolicy");
        self.windows_policy = Policy::take(chain, "SSPPolicy");
        let sbat = PeImage::parse(bytes).ok().and_then(|image| sbat::parse(image.section(".sbat")?).ok());
        self.components = sbat.unwrap_or_default();
        let raised = match Levels::of_shim(bytes) {
            Some(levels) => self.raise(chain, &levels, file),
            None => {
                chain.unmodelled(Stage::Shim, file, "its section .sbatlevel cannot be read", &[7]);
                Ok(())
            }
        };
        if chain.secure_boot() == SecureBoot::Off {
            if self.windows_policy == Policy::Reset {
                forget_windows_policy(chain);
            }
            return None;
        }
        if let Err(why) = raised {
            return Some(why);
        }
        let stored = chain.variables.get(&variable(SBAT_LEVEL));
        match stored.map(|level| Revocations::of_variable(&level.data)).transpose() {
            Ok(level) => self.level = level,
            // `parse_sbat_var` fails, and `efi_main` gives up.
            Err(why) => return Some(format!("variable {SBAT_LEVEL}: {why}")),
        }
        let (own, needed) = self.level.as_ref()?.refuses(&self.components)?;
        Some(format!("{file} has {},{}, and SbatLevel wants {needed}", own.name, own.generation))
    }

    /// Raises `SbatLevel` to what the policy wants of `levels`, unless it is as high already. The error says that shim
    /// would revoke itself.
    fn raise(&mut self, chain: &mut Chain<'_>, levels: &Levels, file: &str) -> Result<(), String> {
        let secure = chain.secure_boot() == SecureBoot::On;
        if self.version < RAISES && (!secure || self.policy == Policy::Automatic) {
            let why =
                "how shims before 15.8 set SbatLevel without Secure Boot, or by SbatPolicy, is not modelled";
            chain.unmodelled(Stage::Shim, file, why, &[7]);
        }
        let (candidate, anyway) = match self.policy {
            Policy::Latest => (levels.latest.clone(), false),
            Policy::Reset | Policy::Default if !secure => (ORIGINAL.to_vec(), true),
            _ => (levels.automatic.clone(), false),
        };
        let Ok(wanted) = Revocations::parse(&candidate) else {
            chain.unmodelled(Stage::Shim, file, "the SBAT level in it cannot be read", &[7]);
            return Ok(());
        };
        let date = wanted.date;
        if let Some(stored) = chain.variables.get(&variable(SBAT_LEVEL)).cloned() {
            if !anyway && is_kept(&stored, &candidate) {
                return Ok(());
            }
            // From here on this is the level that counts, even where it is then not written.
            let revoked = wanted.refuses(&self.components).map(|(own, needed)| {
                format!(
                    "the SBAT level {date} of {file} wants {},{needed}: shim would revoke itself",
                    own.name
                )
            });
            self.level = Some(wanted);
            if let Some(why) = revoked {
                return Err(why);
            }
            if stored.data == candidate && stored.attributes == Attributes::BOOT {
                return Ok(());
            }
        }
        chain.leaves(SBAT_LEVEL, &format!("set to {date} by {file}"));
        chain.variables.set(Variable::new(variable(SBAT_LEVEL), Attributes::BOOT, candidate));
        Ok(())
    }

    /// The names of the files with revocations for this version: for shim and GRUB, and for Windows' boot manager.
    pub(super) fn revocation_files(&self) -> [Option<&'static str>; 2] {
        match self.version {
            Version { major: 16.., .. } => [Some("revocations_sbat.efi"), Some("revocations_sku.efi")],
            Version { major: 15, minor: 8.. } => [Some("revocations.efi"), None],
            _ => [None, None],
        }
    }

    /// Takes the levels out of a file that was verified. Nothing of it is measured but the file and, later, `SbatLevel`.
    pub(super) fn take_revocations(&mut self, chain: &mut Chain<'_>, bytes: &[u8], file: &str) {
        let Ok(image) = PeImage::parse(bytes) else { return };
        let text = |name: &str| image.section(name).map(up_to_nul);
        if let (Some(automatic), Some(latest)) = (text(".sbata"), text(".sbatl")) {
            // shim says so for ten seconds and goes on.
            let _ = self.raise(chain, &Levels { automatic, latest }, file);
        }
        let part = |name: &str, size: usize| image.section(name).and_then(|data| data.get(..size));
        let pair = |version, signers| Some((part(version, SSP_VERSION)?, part(signers, SSP_SIGNERS)?));
        let (automatic, latest) = (pair(".sspva", ".sspsa"), pair(".sspvl", ".sspsl"));
        if automatic.is_none() && latest.is_none() {
            return;
        }
        let wanted = match self.windows_policy {
            Policy::Latest => latest,
            _ => automatic,
        };
        let Some((version, signers)) = wanted else { return };
        let [version_id, signers_id] = windows();
        let older = |stored: &Variable| {
            stored.data.len() == SSP_VERSION
                && is_boot(stored.attributes)
                && number(&stored.data) >= number(version)
        };
        if chain.variables.get(&version_id).is_some_and(older) {
            return;
        }
        for (id, data) in [(version_id, version), (signers_id, signers)] {
            chain.leaves(&id.name, &format!("set by {file}, for Windows' boot manager"));
            chain.variables.set(Variable::new(id, Attributes::BOOT, data.to_vec()));
        }
    }
}

fn forget_windows_policy(chain: &mut Chain<'_>) {
    for id in windows() {
        if chain.variables.remove(&id).is_some() {
            chain.leaves(&id.name, "deleted by shim");
        }
    }
}

/// The policy that Windows' boot manager keeps to: its version, and who may sign a newer one.
fn windows() -> [VariableId; 2] {
    ["SkuSiPolicyVersion", "SkuSiPolicyUpdateSigners"].map(|name| VariableId::new(name, WINDOWS))
}

/// `ssp_ver_to_ull`: four numbers of two bytes, the first counts most.
fn number(version: &[u8]) -> u64 {
    version.chunks_exact(2).fold(0, |sum, pair| sum << 16 | u64::from(u16::from_le_bytes([pair[0], pair[1]])))
}

fn is_boot(attributes: Attributes) -> bool {
    attributes == Attributes::BOOT || attributes.0 == SIGNED
}

/// `preserve_sbat_uefi_variable`: whether a stored level stays as it is in front of another: by its version, then by its date,
/// as texts. Nothing else in it is looked at.
fn is_kept(stored: &Variable, candidate: &[u8]) -> bool {
    if !is_boot(stored.attributes) || stored.data.len() < ORIGINAL.len() || !stored.data.starts_with(MARK) {
        return false;
    }
    let (old, new) = (up_to_nul(&stored.data), up_to_nul(candidate));
    let [(old_version, old_date), (new_version, new_date)] =
        [&old, &new].map(|level| (behind_commas(level, 1), behind_commas(level, 2)));
    // The version is longer by the comma behind it.
    let length = |version: &[u8], date: &[u8]| version.len() - date.len();
    let (old_length, new_length) = (length(old_version, old_date), length(new_version, new_date));
    let digits = new_length.saturating_sub(1);
    old_length > new_length
        || (old_length == new_length && first(old_version, digits) > first(new_version, digits))
        || first(old_date, DATE) >= first(new_date, DATE)
}

/// What comes behind so many commas; nothing where there are fewer (`nth_sbat_field`).
fn behind_commas(text: &[u8], count: usize) -> &[u8] {
    text.splitn(count + 1, |byte| *byte == b',').nth(count).unwrap_or_default()
}

fn first(text: &[u8], count: usize) -> &[u8] {
    &text[..text.len().min(count)]
}
