//! MokManager: what a running system asked the machine's owner for, and what becomes of it.
//!
//! Sources: shim 15.8 and 16.1, `mok.c` (`check_mok_request`), `MokManager.c` (`check_mok_request`, `enter_mok_menu`,
//! `draw_countdown`, `store_keys`, `delete_keys`).

use latchkey_disk::varstore::{Attributes, Variable};
use latchkey_measure::SignatureDb;
use latchkey_measure::siglist::X509;

use super::options::Asked;
use super::state::variable;
use super::{Shim, Started, own_list, refused};
use crate::target::Keyboard;
use crate::{Chain, Error, Next};

/// What makes shim start MokManager.
const REQUESTS: [&str; 10] = [
    "MokNew",
    "MokSB",
    "MokPW",
    "MokAuth",
    "MokDel",
    "MokDB",
    "MokXNew",
    "MokXDel",
    "MokXAuth",
    "MokListTrustedNew",
];
/// What it deletes besides, at its end at the latest.
const ANSWERED: [&str; 3] = ["MokDelAuth", "MokXDelAuth", "MokTimeout"];
/// A password for MokManager itself, which it then waits for.
const PASSWORD: &str = "MokPWStore";
/// `SHA256_DIGEST_SIZE` and `PASSWORD_CRYPT_SIZE`: the sizes that a password's hash may have.
const HASHES: [usize; 2] = [32, 172];
/// `SB_PASSWORD_LEN` characters after two numbers: the size of a request to change a state.
const STATE: usize = 8 + 2 * 16;

/// How a run of MokManager ends.
pub(super) enum Managed {
    /// It returns to shim.
    Returned,
    /// It changed something and resets the machine, or waits for ever.
    Ended(Next),
    /// It could not be started.
    Failed(Started),
}

impl Shim {
    /// Starts MokManager where something was asked for. `None` when the boot goes on.
    pub(super) fn answer_requests(&mut self, chain: &mut Chain<'_>) -> Result<Option<Next>, Error> {
        if !REQUESTS.iter().any(|name| chain.variables.get(&variable(name)).is_some()) {
            return Ok(None);
        }
        let why = match self.manage(chain)? {
            Managed::Returned | Managed::Failed(Started::Runs(_)) => return Ok(None),
            Managed::Ended(next) => return Ok(Some(next)),
            Managed::Failed(Started::Waits(why)) => return Ok(Some(refused(why))),
            Managed::Failed(Started::Missing(file)) => {
                let why = format!("{file}, which shall answer a request, is missing");
                if self.version.major >= 16 && self.removable {
                    return Ok(Some(Next::Reset));
                }
                why
            }
            // What it cannot make sense of stops shim only where it verifies (`efi_main`).
            Managed::Failed(Started::Malformed(_)) if !self.is_secure(chain) => return Ok(None),
            Managed::Failed(Started::Refused(why) | Started::Malformed(why) | Started::NoProgram(why)) => why,
        };
        Ok(Some(refused(format!("{why}; shim switches the machine off"))))
    }

    /// MokManager's run, with or without requests.
    pub(super) fn manage(&mut self, chain: &mut Chain<'_>) -> Result<Managed, Error> {
        let asked = Asked { path: self.path(&self.names.manager), options: Vec::new() };
        Ok(match self.start(chain, &asked, "MokManager")? {
            Started::Runs(_) => answer(chain),
            failed => Managed::Failed(failed),
        })
    }
}

/// Whether `name` holds the hash of a password.
fn is_allowed(chain: &Chain<'_>, name: &str) -> bool {
    value(chain, name).is_some_and(|hash| HASHES.contains(&hash.len()))
}

fn value(chain: &Chain<'_>, name: &str) -> Option<Vec<u8>> {
    chain.variables.get(&variable(name)).map(|variable| variable.data.clone())
}

fn answer(chain: &mut Chain<'_>) -> Managed {
    // A negative number of seconds: the menu at once.
    let menu = value(chain, "MokTimeout")
        .and_then(|seconds| Some(i32::from_le_bytes(seconds.get(..4)?.try_into().ok()?)))
        .is_some_and(|seconds| seconds < 0);
    let asked: Vec<(&str, Option<Vec<u8>>)> = REQUESTS
        .iter()
        .chain(&["MokDelAuth", "MokXDelAuth"])
        .map(|name| (*name, value(chain, name)))
        .collect();
    let changed = match chain.target.keyboard {
        Keyboard::Nobody if menu || is_allowed(chain, PASSWORD) => {
            return Managed::Ended(refused("MokManager waits for somebody".into()));
        }
        Keyboard::Nobody => false,
        Keyboard::Somebody => grant(chain),
    };
    for name in REQUESTS.iter().chain(&ANSWERED) {
        chain.variables.remove(&variable(name));
    }
    for (name, _) in asked.iter().filter(|(_, value)| value.is_some()) {
        chain.leaves(name, "deleted by MokManager");
    }
    if changed { Managed::Ended(Next::Reset) } else { Managed::Returned }
}

/// Does what was asked for: whether that changed anything.
fn grant(chain: &mut Chain<'_>) -> bool {
    let mut changed = false;
    for (new, allowed, list) in [("MokNew", "MokAuth", "MokList"), ("MokXNew", "MokXAuth", "MokListX")] {
        if !is_allowed(chain, allowed) {
            continue;
        }
        // Nothing new, and a password: all of it goes.
        let data = value(chain, new).map(|new| [value(chain, list).unwrap_or_default(), new].concat());
        put(chain, list, data.unwrap_or_default());
        changed = true;
    }
    for (gone, allowed, list) in [("MokDel", "MokDelAuth", "MokList"), ("MokXDel", "MokXDelAuth", "MokListX")]
    {
        let (Some(gone), Some(old)) = (value(chain, gone), value(chain, list)) else { continue };
        if is_allowed(chain, allowed)
            && let Some(rest) = without(&old, &gone)
        {
            put(chain, list, rest);
            changed = true;
        }
    }
    // 0 asks for less: no verification, no db; MokListTrusted counts the other way round.
    for (request, state, set_by) in
        [("MokSB", "MokSBState", 0), ("MokDB", "MokDBState", 0), ("MokListTrustedNew", "MokListTrusted", 1)]
    {
        let Some(asked) = value(chain, request).filter(|asked| asked.len() == STATE) else { continue };
        let wanted = u32::from(asked[..4] != [0; 4]);
        put(chain, state, if wanted == set_by { vec![1] } else { Vec::new() });
        changed = true;
    }
    if let Some(password) = value(chain, "MokPW").filter(|password| HASHES.contains(&password.len())) {
        let clears = password.iter().all(|byte| *byte == 0);
        put(chain, PASSWORD, if clears { Vec::new() } else { password });
        changed = true;
    }
    changed
}

fn put(chain: &mut Chain<'_>, name: &str, data: Vec<u8>) {
    if data.is_empty() {
        chain.variables.remove(&variable(name));
        chain.leaves(name, "deleted by MokManager");
    } else {
        chain.variables.set(Variable::new(variable(name), Attributes::BOOT, data));
        chain.leaves(name, "changed by MokManager");
    }
}

/// `delete_keys`: `list` without the certificates and hashes of `gone`. A certificate's list is written anew, with shim
/// for its owner.
fn without(list: &[u8], gone: &[u8]) -> Option<Vec<u8>> {
    let (list, gone) = (SignatureDb::parse(list).ok()?, SignatureDb::parse(gone).ok()?);
    let is_gone = |kind, data: &[u8]| gone.entries(kind).any(|entry| entry.data == data);
    let mut left = Vec::new();
    for list in list.lists() {
        let kind = list.kind();
        let kept = list.clone().retain(|entry| !is_gone(kind, &entry.data));
        match kept.entries() {
            [] => {}
            entries if kind == X509 => entries.iter().for_each(|entry| left.extend(own_list(&entry.data))),
            _ => left.extend(kept.to_bytes()),
        }
    }
    Some(left)
}
