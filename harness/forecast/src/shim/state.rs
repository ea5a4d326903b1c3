//! The state of the machine's owner (MOK), which shim mirrors and measures.
//!
//! Source: shim 15.4, 15.6, 15.8 and 16.1, `mok.c` (`mok_state_variable_data`, `import_one_mok_state`, `mirror_one_mok_variable`).

use latchkey_disk::varstore::{Attributes, VariableId, vendor};
use latchkey_measure::shim::Version;
use latchkey_measure::{SignatureDb, SignatureList};
use latchkey_record::{Origin, Stage};

use super::level::SBAT_LEVEL;
use super::{Shim, Validation, own_list};
use crate::Chain;
use crate::chain::kind;
use crate::trust::{authority, say_unreadable};

/// Variables of shim's that a running system may neither see nor have made.
const OWN: [&str; 7] =
    ["MokList", "MokListX", "MokSBState", "MokDBState", SBAT_LEVEL, "MokListTrusted", "MokPolicy"];
/// The versions from which on shim knows `MokListTrusted` and `MokPolicy`.
const KNOWS_TRUSTED: Version = Version { major: 15, minor: 5 };
const KNOWS_POLICY: Version = Version { major: 15, minor: 6 };
/// `EFI_VARIABLE_RUNTIME_ACCESS`.
const RUNTIME: u32 = 4;
/// `MOK_POLICY_REQUIRE_NX`.
const REQUIRE_NX: u8 = 1;

/// A variable of shim's.
pub(super) fn variable(name: &str) -> VariableId {
    VariableId::new(name, vendor::SHIM)
}

/// Its value; nothing where there is none.
fn stored(chain: &Chain<'_>, name: &str) -> Vec<u8> {
    chain.variables.get(&variable(name)).map(|variable| variable.data.clone()).unwrap_or_default()
}

/// Deletes what a running system has put in the place of shim's variables.
fn delete_bad(chain: &mut Chain<'_>) {
    for name in OWN {
        let id = variable(name);
        let bad =
            |attributes: Attributes| attributes.0 & RUNTIME != 0 || attributes.0 & Attributes::BOOT.0 == 0;
        if chain.variables.get(&id).is_some_and(|variable| bad(variable.attributes)) {
            chain.variables.remove(&id);
            chain.leaves(name, "deleted by shim: the running system could write it");
        }
    }
}

impl Shim {
    /// Mirrors and measures the state, in the table's order, and keeps to it from then on.
    pub(super) fn mirror(&mut self, chain: &mut Chain<'_>, revoked: &[u8], file: &str) {
        let has_trusted = chain.variables.get(&variable("MokListTrusted")).is_some();
        delete_bad(chain);
        for name in ["MokList", "MokListX"] {
            say_unreadable(chain, Stage::Shim, &variable(name));
        }
        let vendor = match SignatureDb::parse(&self.vendor) {
            // A DER certificate starts with a sequence, a signature list with its type's GUID.
            _ if self.vendor.starts_with(&[0x30, 0x82]) => own_list(&self.vendor),
            Ok(_) => self.vendor.clone(),
            Err(_) => Vec::new(),
        };
        let mut list = [&vendor[..], &self.user].concat();
        list.extend(stored(chain, "MokList"));
        let mut denied = revoked.to_vec();
        denied.extend(stored(chain, "MokListX"));
        for (name, mut data) in [("MokList", list), ("MokListX", denied)] {
            if data.is_empty() {
                data = SignatureList::sha256(vendor::SHIM, &[[0; 32]]).to_bytes();
            }
            // Without the variable all of it is what shim brings along, and what certificate files add.
            let files: &[String] = if name == "MokList" { &self.user_files } else { &[] };
            let file = [&[file.to_owned()], files].concat().join(" + ");
            let from = match stored(chain, name).is_empty() {
                true => Origin::Part { file, part: format!("{name} and what shim adds") },
                false => Origin::Variable(name.to_owned()),
            };
            chain.measure(Stage::Shim, 14, kind::IPL, &data, name, from);
            chain.volatile.insert(variable(&format!("{name}RT")), data);
        }
        let from = |name: &str| Origin::Variable(name.to_owned());
        let sb_state = stored(chain, "MokSBState");
        if !sb_state.is_empty() {
            let id = variable("MokSBState");
            authority(chain, Stage::Shim, &mut self.seen, &id, &sb_state, from(&id.name));
            chain.measure(Stage::Shim, 14, kind::IPL, &sb_state, &id.name, from(&id.name));
        }
        let level = stored(chain, SBAT_LEVEL);
        if !level.is_empty() {
            authority(chain, Stage::Shim, &mut self.seen, &variable(SBAT_LEVEL), &level, from(SBAT_LEVEL));
        }
        // The other way round: 1 unless the variable was there, be it one that was deleted just now (`import_one_mok_state`).
        if !has_trusted && self.version >= KNOWS_TRUSTED {
            let name = "MokListTrusted";
            chain.measure(Stage::Shim, 14, kind::IPL, &[1], name, from(name));
        }
        let policy = match self.version < KNOWS_POLICY {
            true => Vec::new(),
            false => stored(chain, "MokPolicy"),
        };
        if !policy.is_empty() {
            chain.measure(Stage::Shim, 14, kind::IPL, &policy, "MokPolicy", from("MokPolicy"));
        }
        if matches!(policy[..], [flags] if flags & REQUIRE_NX != 0) {
            let why = "refusing programs that are not ready for memory without execution is not modelled";
            chain.unmodelled(Stage::Shim, "variable MokPolicy", why, &[4, 7]);
        }
        // A value of one byte counts, whatever it is but 0.
        let set = |value: &[u8]| matches!(value, [state] if *state != 0);
        self.validation = if set(&sb_state) { Validation::Off } else { Validation::On };
        self.ignores_db = set(&stored(chain, "MokDBState"));
    }
}
