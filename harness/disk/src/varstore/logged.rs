//! The variables that decide over Secure Boot, and boot options, as a boot's event log tells of them.
//!
//! Firmware measures `SecureBoot`, `PK`, `KEK`, `db` and `dbx` whole, and `dbt` and `dbr` where it has them (TCG PC Client
//! Platform Firmware Profile, section "PCR[7]"; edk2 `SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c`, `mVariableType`); shim measures
//! `SbatLevel` and `MokSBState` (shim 15.8, `mok.c`, `mok_state_variable_data`). So the log of a machine that is elsewhere is enough
//! to know what its firmware trusts.

use std::collections::BTreeMap;

use latchkey_measure::Uuid;
use latchkey_measure::eventlog::{Event, EventLog, EventType};
use latchkey_measure::hash::digest;
use latchkey_measure::variable_event::VariableEvent;

use super::{Attributes, SecureBoot, VarStore, Variable, VariableId, vendor};

/// The PCR that these variables go into.
const SECURE_BOOT_PCR: u32 = 7;
/// What firmware measures whether it is there or not.
const ALWAYS: [(&str, Uuid); 4] = [
    ("PK", vendor::GLOBAL),
    ("KEK", vendor::GLOBAL),
    ("db", vendor::IMAGE_SECURITY),
    ("dbx", vendor::IMAGE_SECURITY),
];
/// What it measures where it has it.
const SOME: [(&str, Uuid); 2] = [("dbt", vendor::IMAGE_SECURITY), ("dbr", vendor::IMAGE_SECURITY)];
/// What shim measures into the same PCR where it is there.
const OF_SHIM: [&str; 2] = ["MokSBState", "SbatLevel"];

/// The PCR of boot options.
const OPTIONS_PCR: u32 = 1;
/// The node of a device path that is a partition, with its length; a GPT's, known by its GUID; and the node that is a file
/// (UEFI 2.10, sections 10.3.5.1 and 10.3.5.4).
const PARTITION: [u8; 4] = [4, 1, 42, 0];
const BY_GUID: [u8; 2] = [2, 2];
const FILE: [u8; 2] = [4, 4];

/// Why a log does not tell what its machine's firmware trusts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// An event that has to be there is not.
    #[error("the event log does not tell of the variable {0}; is it the whole log of a UEFI boot?")]
    Lacks(&'static str),
    /// An event says something else than what was measured.
    #[error("the event log says of the variable {0} something else than what was measured")]
    Disagrees(String),
    /// Secure Boot on without a platform key, which no firmware has.
    #[error("by the event log Secure Boot is on and there is no platform key")]
    NoPlatformKey,
}

impl VarStore {
    /// Makes the variables that decide over Secure Boot those of the boot that `log` tells of, and leaves all others: what shim
    /// was asked for is not told in full, and boot options are for [`Self::take_logged_options`].
    ///
    /// # Errors
    /// [`LogError`] when the log lacks one of them, or contradicts itself. The store may then have some of them.
    pub fn take_logged(&mut self, log: &EventLog) -> Result<(), LogError> {
        let on = logged(log, EventType::EFI_VARIABLE_DRIVER_CONFIG, "SecureBoot", vendor::GLOBAL)?;
        let on = on.ok_or(LogError::Lacks("SecureBoot"))?.first() == Some(&1);
        for (name, vendor) in ALWAYS {
            let data = logged(log, EventType::EFI_VARIABLE_DRIVER_CONFIG, name, vendor)?;
            let data = data.ok_or(LogError::Lacks(name))?;
            if on && name == "PK" && data.is_empty() {
                return Err(LogError::NoPlatformKey);
            }
            self.set(Variable::authenticated(VariableId::new(name, vendor), data));
        }
        for (name, vendor) in SOME {
            let data = logged(log, EventType::EFI_VARIABLE_DRIVER_CONFIG, name, vendor)?;
            self.set(Variable::authenticated(VariableId::new(name, vendor), data.unwrap_or_default()));
        }
        self.set_secure_boot(if on { SecureBoot::On } else { SecureBoot::Off });
        for name in OF_SHIM {
            let data = logged(log, EventType::EFI_VARIABLE_AUTHORITY, name, vendor::SHIM)?;
            let id = VariableId::new(name, vendor::SHIM);
            self.set(Variable::new(id, Attributes::BOOT, data.unwrap_or_default()));
        }
        Ok(())
    }

    /// Takes the boot options of `log` that lead to a file on one of `partitions`, by their GUIDs, in the log's order. Where the
    /// disk hangs is left out of their paths, since that is another place on each platform. Others are not taken. Gives
    /// their number.
    pub fn take_logged_options(&mut self, log: &EventLog, partitions: &[Uuid]) -> usize {
        if partitions.is_empty() {
            return 0;
        }
        let mut options = options(log);
        let order = options.remove("BOOTORDER").unwrap_or_default();
        let mut taken = Vec::new();
        for number in order.chunks_exact(2) {
            let name = format!("Boot{:04X}", u16::from_le_bytes([number[0], number[1]]));
            // Each counts once.
            let logged = options.remove(&name.to_uppercase());
            let Some(data) = logged.and_then(|data| leads_to(&data, partitions)) else { continue };
            self.set(Variable::new(VariableId::new(&name, vendor::GLOBAL), Attributes::RUNTIME, data));
            taken.extend(number);
        }
        let count = taken.len() / 2;
        self.set(Variable::new(VariableId::new("BootOrder", vendor::GLOBAL), Attributes::RUNTIME, taken));
        count
    }
}

/// The variables of the firmware's boot options, by their names in capital letters, as they were logged last. Of these the data
/// alone are hashed, or all of the event ([`latchkey_measure::variable_event`]); one that is neither is passed over, since
/// nothing is sealed to it here.
fn options(log: &EventLog) -> BTreeMap<String, Vec<u8>> {
    let kinds = [EventType::EFI_VARIABLE_BOOT, EventType::EFI_VARIABLE_BOOT2];
    let events = log.events.iter().filter(|e| e.register == OPTIONS_PCR && kinds.contains(&e.kind));
    let told = events.filter_map(|event| {
        let variable = VariableEvent::parse(&event.data).ok().filter(|it| it.vendor == vendor::GLOBAL)?;
        let seen = event.digests.iter().find_map(|logged| logged.known())?;
        let is = |bytes: &[u8]| digest(seen.alg(), bytes) == seen;
        let name = variable.name_text().to_uppercase();
        (is(&variable.data) || is(&event.data)).then_some((name, variable.data))
    });
    told.collect()
}

/// The boot option `data` (`EFI_LOAD_OPTION`, UEFI 2.10, section 3.1.3) with a path that begins with its partition, if that is
/// one of `partitions` and a file follows.
fn leads_to(data: &[u8], partitions: &[Uuid]) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_le_bytes(data.get(4..6)?.try_into().ok()?));
    let end = data.get(6..)?.chunks_exact(2).position(|unit| unit == [0, 0])?;
    let path_at = 6 + 2 * (end + 1);
    let mut path = data.get(path_at..path_at.checked_add(length)?)?;
    while !is_file_on(path, partitions) {
        let node = usize::from(u16::from_le_bytes(path.get(2..4)?.try_into().ok()?));
        path = path.get(node..).filter(|_| node >= PARTITION.len())?;
    }
    let size = u16::try_from(path.len()).ok()?.to_le_bytes();
    Some([&data[..4], &size, &data[6..path_at], path, &data[path_at + length..]].concat())
}

fn is_file_on(path: &[u8], partitions: &[Uuid]) -> bool {
    let guid = path.get(24..40).and_then(|guid| guid.try_into().ok()).map(Uuid::from_bytes_le);
    path.starts_with(&PARTITION)
        && path.get(40..42) == Some(&BY_GUID)
        && path.get(42..44) == Some(&FILE)
        && guid.is_some_and(|guid| partitions.contains(&guid))
}

/// The contents of a variable as `log` tells of them, the last time it does, provided that they are what was measured.
fn logged(log: &EventLog, kind: EventType, name: &str, vendor: Uuid) -> Result<Option<Vec<u8>>, LogError> {
    let wanted = |event: &&Event| event.register == SECURE_BOOT_PCR && event.kind == kind;
    let mut found = None;
    for event in log.events.iter().filter(wanted) {
        let Ok(variable) = VariableEvent::parse(&event.data) else { continue };
        if variable.vendor != vendor || variable.name_text() != name {
            continue;
        }
        let digests = event.digests.iter().filter_map(|logged| logged.known());
        if digests.clone().next().is_none()
            || digests.into_iter().any(|seen| digest(seen.alg(), &event.data) != seen)
        {
            return Err(LogError::Disagrees(name.to_owned()));
        }
        found = Some(variable.data);
    }
    Ok(found)
}
