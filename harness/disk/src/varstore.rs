//! A UEFI variable store as OVMF keeps it in its `VARS.fd` flash image.
//!
//! The file is a firmware volume: its header, a variable store header, variables one after the other, and behind
//! the store the work space that lets the firmware survive a power cut while it tidies up. Only the variables are
//! touched here; everything else is kept byte for byte.
//!
//! Sources: UEFI PI 1.8 volume 3 section 3.2.1 (firmware volume header), edk2
//! `MdeModulePkg/Include/Guid/VariableFormat.h` (store, variables, states) and
//! `VariableRuntimeDxe/VariableParsing.c` (which of several copies counts).

use std::ops::Range;

use latchkey_measure::SignatureDb;
use uuid::{Uuid, uuid};

mod logged;
mod variable;

pub use logged::{LogError, LoggedOptions};
pub use variable::{Attributes, Variable, VariableId, vendor};

use variable::{HEADER, State, u32_at};

/// `gEfiSystemNvDataFvGuid`.
const NV_DATA: Uuid = uuid!("fff12b8d-7696-4c8b-a985-2747075b4f50");
/// `gEfiAuthenticatedVariableGuid`: variables with time stamps.
const AUTHENTICATED: Uuid = uuid!("aaf32c78-947b-439a-a180-2e144ec37792");
/// The store's own header: GUID, size, format, state, six reserved bytes.
const STORE_HEADER: usize = 28;
/// `VARIABLE_STORE_FORMATTED` and `VARIABLE_STORE_HEALTHY`.
const HEALTHY: [u8; 2] = [0x5a, 0xfe];

/// Why a variable store could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a flash image with variables.
    #[error("reading UEFI variables: {why}; expected a copy of OVMF's VARS.fd")]
    NotAStore {
        /// What is missing.
        why: &'static str,
    },
    /// A variable's header contradicts the store.
    #[error("reading UEFI variables: the variable at byte {at:#x} is damaged: {why}")]
    Damaged {
        /// Offset in the file.
        at: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More variables than there is room for.
    #[error("writing UEFI variables: they take {needed} bytes and the store has {room}")]
    Full {
        /// Bytes that the variables take.
        needed: usize,
        /// Bytes that the store has for them.
        room: usize,
    },
}

/// The variables of one flash image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VarStore {
    image: Vec<u8>,
    area: Range<usize>,
    variables: Vec<Variable>,
    edited: Edited,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edited {
    No,
    Yes,
}

/// What Secure Boot trusts, to be written into a store as a platform's owner would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecureBootKeys {
    /// Platform key: one certificate.
    pub pk: SignatureDb,
    /// Who may change db and dbx.
    pub kek: SignatureDb,
    /// What may start.
    pub db: SignatureDb,
    /// What may not.
    pub dbx: SignatureDb,
}

impl VarStore {
    /// Reads a flash image with authenticated variables, as every OVMF build with Secure Boot uses it.
    ///
    /// # Errors
    /// [`Error::NotAStore`] when it is something else, [`Error::Damaged`] when a variable does not fit.
    pub fn parse(image: &[u8]) -> Result<Self, Error> {
        let area = variable_area(image)?;
        let variables = read_variables(image, &area)?;
        Ok(Self { image: image.to_vec(), area, variables, edited: Edited::No })
    }

    /// Every variable, in the store's order.
    pub fn iter(&self) -> impl Iterator<Item = &Variable> {
        self.variables.iter()
    }

    /// The variable with this name and vendor.
    #[must_use]
    pub fn get(&self, id: &VariableId) -> Option<&Variable> {
        self.variables.iter().find(|v| v.id == *id)
    }

    /// Adds `variable`, or replaces the one of the same name and vendor where it stands. One without data is
    /// removed, as UEFI defines it.
    pub fn set(&mut self, variable: Variable) {
        if variable.data.is_empty() {
            self.remove(&variable.id);
            return;
        }
        self.edited = Edited::Yes;
        match self.variables.iter_mut().find(|v| v.id == variable.id) {
            Some(old) => *old = variable,
            None => self.variables.push(variable),
        }
    }

    /// Removes a variable and gives it, when it was there.
    pub fn remove(&mut self, id: &VariableId) -> Option<Variable> {
        let at = self.variables.iter().position(|v| v.id == *id)?;
        self.edited = Edited::Yes;
        Some(self.variables.remove(at))
    }

    /// Writes the Secure Boot keys and turns Secure Boot on, as enrolling them in the firmware's own menu does:
    /// PK, KEK, db and dbx with a fixed time stamp (so that the same keys always give the same bytes),
    /// `SecureBootEnable` on and `CustomMode` off.
    pub fn enrol(&mut self, keys: &SecureBootKeys) {
        let databases = [
            (VariableId::new("PK", vendor::GLOBAL), &keys.pk),
            (VariableId::new("KEK", vendor::GLOBAL), &keys.kek),
            (VariableId::new("db", vendor::IMAGE_SECURITY), &keys.db),
            (VariableId::new("dbx", vendor::IMAGE_SECURITY), &keys.dbx),
        ];
        for (id, database) in databases {
            self.set(Variable::authenticated(id, database.to_bytes()));
        }
        self.set_secure_boot(SecureBoot::On);
        let custom_mode = VariableId::new("CustomMode", vendor::CUSTOM_MODE);
        self.set(Variable::new(custom_mode, Attributes::BOOT, vec![0]));
    }

    /// Turns Secure Boot on or off for the next start, keys untouched (edk2's own `SecureBootEnable`; without a
    /// platform key it has no effect).
    pub fn set_secure_boot(&mut self, state: SecureBoot) {
        let id = VariableId::new("SecureBootEnable", vendor::SECURE_BOOT_ENABLE);
        let value = match state {
            SecureBoot::On => 1,
            SecureBoot::Off => 0,
        };
        self.set(Variable::new(id, Attributes::BOOT, vec![value]));
    }

    /// Whether the firmware will have Secure Boot on: a platform key is there and `SecureBootEnable` is not 0
    /// (when it is missing, edk2 turns it on).
    #[must_use]
    pub fn secure_boot(&self) -> SecureBoot {
        let enable = self.get(&VariableId::new("SecureBootEnable", vendor::SECURE_BOOT_ENABLE));
        let on = enable.is_none_or(|v| v.data.first() != Some(&0));
        let owned = self.get(&VariableId::new("PK", vendor::GLOBAL)).is_some();
        if on && owned { SecureBoot::On } else { SecureBoot::Off }
    }

    /// The flash image. Without an edit it is the one that was parsed, byte for byte; otherwise deleted copies
    /// are gone, as after the firmware's own tidying.
    ///
    /// # Errors
    /// [`Error::Full`] when the variables do not fit.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut image = self.image.clone();
        if self.edited == Edited::No {
            return Ok(image);
        }
        let mut body = Vec::new();
        for variable in &self.variables {
            variable.write(&mut body);
        }
        let room = self.area.len();
        if body.len() > room {
            return Err(Error::Full { needed: body.len(), room });
        }
        // Flash that was never written reads as ones.
        body.resize(room, 0xff);
        image[self.area.clone()].copy_from_slice(&body);
        Ok(image)
    }
}

/// Secure Boot, on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecureBoot {
    /// Only what db authorises may start.
    On,
    /// Anything may start.
    Off,
}

/// Where the variables lie in a flash image.
fn variable_area(image: &[u8]) -> Result<Range<usize>, Error> {
    let not = |why| Error::NotAStore { why };
    let guid = |at: usize| {
        let bytes = image.get(at..at.checked_add(16)?)?;
        Some(Uuid::from_bytes_le(bytes.try_into().ok()?))
    };
    if guid(16) != Some(NV_DATA) || image.get(40..44) != Some(b"_FVH") {
        return Err(not("it is not a firmware volume for variables"));
    }
    let header = image.get(48..50).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    let start = usize::from(header.ok_or_else(|| not("the file ends within its header"))?);
    if guid(start) != Some(AUTHENTICATED) {
        return Err(not("its variables are not of the authenticated kind"));
    }
    if image.get(start + 20..start + 22) != Some(&HEALTHY) {
        return Err(not("its variable store is not formatted and healthy"));
    }
    let size = u32_at(image, start + 16).and_then(|s| usize::try_from(s).ok()).unwrap_or(0);
    let end = start.checked_add(size).filter(|end| *end <= image.len());
    match end {
        Some(end) if size > STORE_HEADER => Ok(start + STORE_HEADER..end),
        _ => Err(not("its variable store is larger than the file")),
    }
}

fn read_variables(image: &[u8], area: &Range<usize>) -> Result<Vec<Variable>, Error> {
    let mut found: Vec<(Variable, State)> = Vec::new();
    let mut at = area.start;
    while at + HEADER <= area.end {
        let Some((variable, state, next)) = Variable::read(image, at, area.end)? else { break };
        at = next;
        let Some(variable) = variable else { continue };
        // An interrupted update leaves the old copy marked for deletion; it counts until the new one is complete.
        match found.iter_mut().find(|(v, _)| v.id == variable.id) {
            Some(place) if state == State::Added || place.1 != State::Added => *place = (variable, state),
            Some(_) => {}
            None => found.push((variable, state)),
        }
    }
    Ok(found.into_iter().map(|(variable, _)| variable).collect())
}
