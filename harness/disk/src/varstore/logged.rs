//! The variables that decide over Secure Boot, as a boot's event log tells of them.
//!
//! Firmware measures `SecureBoot`, `PK`, `KEK`, `db` and `dbx` whole, and `dbt` and `dbr` where it has them (TCG PC Client
//! Platform Firmware Profile, section "PCR[7]"; edk2 `SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c`, `mVariableType`); shim measures
//! `SbatLevel` and `MokSBState` (shim 15.8, `mok.c`, `mok_state_variable_data`). So the log of a machine that is elsewhere is enough
//! to know what its firmware trusts.

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
    /// Makes the variables that decide over Secure Boot those of the boot that `log` tells of, and leaves all others: boot
    /// options, and what shim was asked for, are not told in full.
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
