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
const PARTITION_LENGTH: usize = 42;
const BY_GUID: [u8; 2] = [2, 2];
const FILE: [u8; 2] = [4, 4];
/// The PCR of programs that were started.
const PROGRAMS_PCR: u32 = 4;
/// `LOAD_OPTION_ACTIVE` (UEFI 2.10, section 3.1.3).
const ACTIVE: [u8; 4] = [1, 0, 0, 0];

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
    /// disk hangs is left out of their paths, since that is another place on each platform. Others are not taken. Of a log
    /// that has none at all one is made of what it tells that was started from the disk.
    pub fn take_logged_options(&mut self, log: &EventLog, partitions: &[Uuid]) -> LoggedOptions {
        if partitions.is_empty() {
            return LoggedOptions::Untold;
        }
        if !boot_variables(log).any(|(_, variable)| is_of_options(&variable.name_text())) {
            let (told, option) = match started(log, partitions) {
                Some((option, file, starts)) => (LoggedOptions::Derived { file, starts }, Some(option)),
                None => (LoggedOptions::Untold, None),
            };
            let order = if option.is_some() { vec![0, 0] } else { Vec::new() };
            if let Some(option) = option {
                self.set_global("Boot0000", option);
            }
            self.set_global("BootOrder", order);
            return told;
        }
        let mut options = options(log);
        let order = options.remove("BOOTORDER").unwrap_or_default();
        let mut taken = Vec::new();
        for number in order.chunks_exact(2) {
            let name = format!("Boot{:04X}", u16::from_le_bytes([number[0], number[1]]));
            // Each counts once.
            let logged = options.remove(&name.to_uppercase());
            let Some(data) = logged.and_then(|data| leads_to(&data, partitions)) else { continue };
            self.set_global(&name, data);
            taken.extend(number);
        }
        let count = taken.len() / 2;
        self.set_global("BootOrder", taken);
        LoggedOptions::Told(count)
    }

    fn set_global(&mut self, name: &str, data: Vec<u8>) {
        self.set(Variable::new(VariableId::new(name, vendor::GLOBAL), Attributes::RUNTIME, data));
    }
}

/// What a log tells of the boot options of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedOptions {
    /// It has some, and so many of them lead to a file on the disk.
    Told(usize),
    /// It has none, of this disk or another, which says nothing of the machine: Azure's firmware measures none (a log of one:
    /// `docs/event-logs.md`). One was made of the first program that was started from the disk. That is what the log says of
    /// it: a path is not what was hashed.
    Derived {
        /// The program's path.
        file: String,
        /// What that started by the option's own data: another program than shim starts of its own accord.
        starts: Option<String>,
    },
    /// It has none, and no program that was started from the disk; or nobody told which disk that is.
    Untold,
}

/// The variables that were logged as boot options are, with their events.
fn boot_variables(log: &EventLog) -> impl Iterator<Item = (&Event, VariableEvent)> {
    let kinds = [EventType::EFI_VARIABLE_BOOT, EventType::EFI_VARIABLE_BOOT2];
    let events = log.events.iter().filter(move |e| e.register == OPTIONS_PCR && kinds.contains(&e.kind));
    events.filter_map(|event| {
        let variable = VariableEvent::parse(&event.data).ok().filter(|it| it.vendor == vendor::GLOBAL)?;
        Some((event, variable))
    })
}

/// Whether it is the name of a boot option, or of their order.
fn is_of_options(name: &str) -> bool {
    let rest = name.strip_prefix("Boot").unwrap_or_default();
    rest == "Order" || rest.len() == 4 && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The variables of the firmware's boot options, by their names in capital letters, as they were logged last. Of these the data
/// alone are hashed, or all of the event ([`latchkey_measure::variable_event`]); one that is neither is passed over, since
/// nothing is sealed to it here.
fn options(log: &EventLog) -> BTreeMap<String, Vec<u8>> {
    let told = boot_variables(log).filter_map(|(event, variable)| {
        let seen = event.digests.iter().find_map(|logged| logged.known())?;
        let is = |bytes: &[u8]| digest(seen.alg(), bytes) == seen;
        let name = variable.name_text().to_uppercase();
        (is(&variable.data) || is(&event.data)).then_some((name, variable.data))
    });
    told.collect()
}

/// A boot option that starts what `log` tells was started first from one of `partitions`, that program's path, and what the
/// option's own data have it start.
fn started(log: &EventLog, partitions: &[Uuid]) -> Option<(Vec<u8>, String, Option<String>)> {
    let is_program =
        |e: &&Event| e.register == PROGRAMS_PCR && e.kind == EventType::EFI_BOOT_SERVICES_APPLICATION;
    let mut paths = log.events.iter().filter(is_program).filter_map(|event| image_path(&event.data));
    let path = paths.find_map(|path| behind(path, partitions))?;
    let file = file(&path[PARTITION_LENGTH..])?;
    // shim logs what it starts, and files with certificates, which have its own path, without their partition. MokManager comes
    // before what it starts then, where something was requested.
    let passed_over =
        |next: &String| next.eq_ignore_ascii_case(&file) || is_beside(&file, &["mmx64.efi"], next);
    let next = paths.filter_map(self::file).find(|next| !passed_over(next));
    let starts = next.filter(|next| !is_beside(&file, &OF_SHIMS_OWN_ACCORD, next));
    let data = starts.as_deref().map(utf16).unwrap_or_default();
    let size = u16::try_from(path.len()).ok()?.to_le_bytes();
    let option = [&ACTIVE[..], &size, &utf16("from an event log"), path, &data].concat();
    Some((option, file, starts))
}

/// The device path of a logged program (`UEFI_IMAGE_LOAD_EVENT`: three u64, u64 length of the path, the path).
fn image_path(data: &[u8]) -> Option<&[u8]> {
    let length = u64::from_le_bytes(data.get(24..32)?.try_into().ok()?);
    data.get(32..)?.get(..usize::try_from(length).ok()?)
}

/// What shim starts beside itself where no option asks for anything: GRUB, or the fallback program (shim 15.8, `shim.c`,
/// `set_second_stage` and `should_use_fallback`).
const OF_SHIMS_OWN_ACCORD: [&str; 2] = ["grubx64.efi", "fbx64.efi"];

/// Whether `next` is one of `names` in the directory of the program at `shim`.
fn is_beside(shim: &str, names: &[&str], next: &str) -> bool {
    let directory = shim.rsplit_once('\\').map_or("", |(directory, _)| directory);
    names.iter().any(|name| format!("{directory}\\{name}").eq_ignore_ascii_case(next))
}

/// The file that a path's first node names.
fn file(path: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_le_bytes(path.get(2..4)?.try_into().ok()?));
    let name = path.get(4..length).filter(|_| path.starts_with(&FILE))?;
    let units = name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let name = String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>());
    (!name.is_empty()).then_some(name)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// The boot option `data` (`EFI_LOAD_OPTION`, UEFI 2.10, section 3.1.3) with a path that begins with its partition, if that is
/// one of `partitions` and a file follows.
fn leads_to(data: &[u8], partitions: &[Uuid]) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_le_bytes(data.get(4..6)?.try_into().ok()?));
    let end = data.get(6..)?.chunks_exact(2).position(|unit| unit == [0, 0])?;
    let path_at = 6 + 2 * (end + 1);
    let path = behind(data.get(path_at..path_at.checked_add(length)?)?, partitions)?;
    let size = u16::try_from(path.len()).ok()?.to_le_bytes();
    Some([&data[..4], &size, &data[6..path_at], path, &data[path_at + length..]].concat())
}

/// What is left of `path` from its partition on, if that is one of `partitions` and a file follows.
fn behind<'a>(mut path: &'a [u8], partitions: &[Uuid]) -> Option<&'a [u8]> {
    while !is_file_on(path, partitions) {
        let node = usize::from(u16::from_le_bytes(path.get(2..4)?.try_into().ok()?));
        path = path.get(node..).filter(|_| node >= PARTITION.len())?;
    }
    Some(path)
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
