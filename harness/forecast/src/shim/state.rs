//! shim's variables: the SBAT level that only rises, and the MOK state that is mirrored and measured.

use latchkey_disk::varstore::{Attributes, SecureBoot, Variable, VariableId, vendor};
use latchkey_measure::sbat::Revocations;
use latchkey_measure::{PeImage, SignatureDb, SignatureList, shim};
use latchkey_record::pcr::Digest;
use latchkey_record::{Origin, Stage};

use super::own_list;
use crate::Chain;
use crate::chain::kind;
use crate::trust::authority;

/// `SBAT_VAR_ORIGINAL`: what is set where Secure Boot is off.
const ORIGINAL: &[u8] = b"sbat,1,2021030218\n";
const SBAT_LEVEL: &str = "SbatLevel";

/// A variable of shim's.
pub(super) fn variable(name: &str) -> VariableId {
    VariableId::new(name, vendor::SHIM)
}

/// The level that shim writes by itself, as its section holds it (`sbat_var.S`): a table of offsets, then texts.
fn automatic(bytes: &[u8]) -> Option<Vec<u8>> {
    let image = PeImage::parse(bytes).ok()?;
    let section = image.section(".sbatlevel")?;
    let offset = u32::from_le_bytes(section.get(4..8)?.try_into().ok()?);
    let text = section.get(usize::try_from(offset).ok()?.checked_add(4)?..)?;
    let end = text.iter().position(|b| *b == 0)?;
    Some(text[..end].to_vec())
}

/// Raises `SbatLevel` to the level built into shim, unless it is as high already.
pub(super) fn sbat_level(chain: &mut Chain<'_>, shim: &[u8], file: &str) {
    if chain.variables.get(&variable("SbatPolicy")).is_some() {
        let why = "a request to change the SBAT policy is not modelled";
        chain.unmodelled(Stage::Shim, "variable SbatPolicy", why, &[7]);
    }
    let secure = chain.secure_boot() == SecureBoot::On;
    let candidate = if secure { automatic(shim) } else { Some(ORIGINAL.to_vec()) };
    let Some(candidate) = candidate.filter(|level| Revocations::parse(level).is_ok()) else {
        chain.unmodelled(Stage::Shim, file, "its section .sbatlevel cannot be read", &[7]);
        return;
    };
    let date = |level: &[u8]| Revocations::parse(level).map_or(0, |level| level.date);
    let stored = chain.variables.get(&variable(SBAT_LEVEL)).map(|variable| variable.data.clone());
    if secure && stored.as_ref().is_some_and(|stored| date(stored) >= date(&candidate)) {
        return;
    }
    if stored.as_deref() != Some(&candidate) {
        chain.leaves(SBAT_LEVEL, &format!("raised to {} by {file}", date(&candidate)));
    }
    chain.variables.set(Variable::new(variable(SBAT_LEVEL), Attributes::BOOT, candidate));
}

/// What goes into the mirrored lists.
pub(super) struct Mok<'a> {
    /// The certificate built into shim, DER, or signature lists.
    pub(super) vendor: &'a [u8],
    /// Signature lists of what the vendor revoked.
    pub(super) revoked: &'a [u8],
    /// Signature lists out of certificate files.
    pub(super) user: &'a [u8],
}

impl Mok<'_> {
    /// Mirrors and measures the state, in the table's order.
    pub(super) fn mirror(
        &self,
        chain: &mut Chain<'_>,
        _version: shim::Version,
        seen: &mut Vec<Digest>,
        file: &str,
    ) {
        let stored = |chain: &Chain<'_>, name: &str| {
            chain.variables.get(&variable(name)).map(|variable| variable.data.clone()).unwrap_or_default()
        };
        let vendor = match SignatureDb::parse(self.vendor) {
            // A DER certificate starts with a sequence, a signature list with its type's GUID.
            _ if self.vendor.starts_with(&[0x30, 0x82]) => own_list(self.vendor),
            Ok(_) => self.vendor.to_vec(),
            Err(_) => Vec::new(),
        };
        let mut list = [&vendor[..], self.user].concat();
        list.extend(stored(chain, "MokList"));
        let mut denied = self.revoked.to_vec();
        denied.extend(stored(chain, "MokListX"));
        for (name, mut data) in [("MokList", list), ("MokListX", denied)] {
            if data.is_empty() {
                data = SignatureList::sha256(vendor::SHIM, &[[0; 32]]).to_bytes();
            }
            let from = Origin::Part { file: file.to_owned(), part: format!("{name} and what shim adds") };
            chain.measure(Stage::Shim, 14, kind::IPL, &data, name, from);
            chain.volatile.insert(variable(&format!("{name}RT")), data);
        }
        let from = |name: &str| Origin::Variable(name.to_owned());
        let sb_state = stored(chain, "MokSBState");
        if !sb_state.is_empty() {
            let id = variable("MokSBState");
            authority(chain, Stage::Shim, seen, &id, &sb_state, from(&id.name));
            chain.measure(Stage::Shim, 14, kind::IPL, &sb_state, &id.name, from(&id.name));
        }
        let level = stored(chain, SBAT_LEVEL);
        if !level.is_empty() {
            authority(chain, Stage::Shim, seen, &variable(SBAT_LEVEL), &level, from(SBAT_LEVEL));
        }
        // The other way round: 1 unless the variable is there.
        if chain.variables.get(&variable("MokListTrusted")).is_none() {
            let name = "MokListTrusted";
            chain.measure(Stage::Shim, 14, kind::IPL, &[1], name, from(name));
        }
        let policy = stored(chain, "MokPolicy");
        if !policy.is_empty() {
            chain.measure(Stage::Shim, 14, kind::IPL, &policy, "MokPolicy", from("MokPolicy"));
        }
    }
}
