//! Boot options, tried one after the other (edk2 `BdsDxe`, `UefiBootManagerLib`).

use std::collections::VecDeque;

use latchkey_disk::varstore::SecureBoot;
use latchkey_record::pcr::Digest;
use latchkey_record::{Origin, Outcome, Stage};
use uuid::Uuid;

use super::load::{Table, start_image};
use super::options::{self, BootOption};
use super::place::{DEFAULT, Place};
use super::{constant, esp, global, is_recent, separator};
use crate::chain::{Image, kind};
use crate::{Chain, End, Error, Next};

const CALLING: &str = "Calling EFI Application from Boot Option";
const RETURNING: &str = "Returning from EFI Application from Boot Option";

fn action(chain: &mut Chain<'_>, text: &str) {
    chain.measure(Stage::Firmware, 4, kind::ACTION, text.as_bytes(), text, constant("boot option"));
}

/// Tries the option that `BootNext` asks for, and those of the order.
pub(super) fn first(chain: &mut Chain<'_>, options: &[BootOption]) -> Result<Next, Error> {
    let next = once(chain, options);
    let ordered = options.iter().filter(|option| option.is_tried()).cloned();
    chain.firmware.untried = next.into_iter().chain(ordered).collect();
    try_options(chain, None)
}

/// The option that `BootNext` asks for, active or not, which is tried before the order and then forgotten (edk2
/// `MdeModulePkg/Universal/BdsDxe/BdsEntry.c`). It is not measured.
fn once(chain: &mut Chain<'_>, options: &[BootOption]) -> Option<BootOption> {
    let id = global("BootNext");
    let data = chain.variables.get(&id)?.data.clone();
    chain.variables.remove(&id);
    chain.leaves("BootNext", "used up");
    let number = u16::from_le_bytes(data.try_into().ok()?);
    let ordered = options.iter().find(|option| option.number == number).cloned();
    // One that is not in the order counts here, is not brought up to date and not measured into PCR 1.
    ordered.or_else(|| options::read(&chain.variables, number, chain.target.platform.disk))
}

/// What the firmware knows of one start of the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Started {
    /// Options that it has not tried yet.
    untried: VecDeque<BootOption>,
    /// How many it has tried.
    tried: usize,
    /// Why it refused one.
    refused: Option<String>,
    /// Authorities that it has measured: each once.
    pub(super) seen: Vec<Digest>,
    /// Whether it waits in a program of its own.
    waits: bool,
    /// Whether it has tried what it starts when no option leads anywhere.
    recovered: bool,
    /// Whether it has measured the partition table, which it does before the first program from the disk.
    pub(super) table: Table,
}

/// Whether there is a file where an option for one leads.
pub(super) fn leads_somewhere(chain: &Chain<'_>, option: &BootOption) -> Result<bool, Error> {
    match esp(chain).and_then(|esp| option.place.file_on(esp)) {
        Some(path) => Ok(chain.target.esp.read(path)?.is_some()),
        None => Ok(false),
    }
}

/// A boot loader returned: the next option is tried.
pub(crate) fn again(chain: &mut Chain<'_>, why: String) -> Result<Next, Error> {
    try_options(chain, Some(why))
}

/// Tries one option after the other until one starts; `returned` is what the last one came back with.
fn try_options(chain: &mut Chain<'_>, returned: Option<String>) -> Result<Next, Error> {
    while let Some(option) = chain.firmware.untried.pop_front() {
        attempt(chain);
        let path = match &option.place {
            Place::Inside(name) => {
                inside(chain, &option, *name);
                // Its shell ends at once where Secure Boot is on.
                chain.firmware.waits = chain.secure_boot() == SecureBoot::Off;
                break;
            }
            Place::Disk => DEFAULT.to_owned(),
            place @ (Place::File { .. } | Place::Anywhere(_)) => {
                match esp(chain).and_then(|esp| place.file_on(esp)) {
                    Some(path) => path.to_owned(),
                    None => continue,
                }
            }
            Place::Unnamed | Place::Elsewhere => {
                let what = format!("Boot{:04X}, {}", option.number, option.title);
                let why = "where it leads, and whether anything is there, is not modelled";
                chain.unmodelled(Stage::Firmware, &what, why, &[4, 7]);
                let because = format!("{what}: {why}");
                return Ok(Next::End(End { outcome: None, because, reported_by: None }));
            }
        };
        let Some(bytes) = chain.target.esp.read(&path)? else { continue };
        let image = Image { path, bytes, options: option.optional.clone() };
        match start_image(chain, image) {
            Ok(next) => return Ok(next),
            Err(why) => chain.firmware.refused = Some(why),
        }
    }
    if let Some(next) = recover(chain)? {
        return Ok(next);
    }
    Ok(Next::End(match (returned, chain.firmware.refused.take()) {
        (Some(because), _) => End { outcome: Some(Outcome::NoBootOption), because, reported_by: None },
        (None, Some(because)) => {
            End { outcome: Some(Outcome::RefusedByFirmware), because, reported_by: Some("firmware") }
        }
        (None, None) => End {
            outcome: Some(Outcome::NoBootOption),
            because: "no boot option leads to a program that is there".into(),
            reported_by: None,
        },
    }))
}

/// What is measured before an option is tried (edk2 `Tcg2Dxe.c`, `OnReadyToBoot`).
fn attempt(chain: &mut Chain<'_>) {
    if chain.firmware.tried == 0 {
        action(chain, CALLING);
        (0..=6).for_each(|pcr| separator(chain, pcr));
    } else {
        action(chain, RETURNING);
        action(chain, CALLING);
    }
    chain.firmware.tried += 1;
}

/// `PlatformRecovery0000`: after the last option the removable-media path once more. Builds before 2024.02 say no word in PCR 4
/// about it (edk2 `BmLoadOption.c`, `EfiBootManagerProcessLoadOption`; found by booting `fallback-missing` on both).
fn recover(chain: &mut Chain<'_>) -> Result<Option<Next>, Error> {
    let started = &mut chain.firmware;
    if started.waits || std::mem::replace(&mut started.recovered, true) {
        return Ok(None);
    }
    if is_recent(chain) {
        attempt(chain);
    }
    if esp(chain).is_none() {
        return Ok(None);
    }
    let Some(bytes) = chain.target.esp.read(DEFAULT)? else { return Ok(None) };
    let image = Image { path: DEFAULT.to_owned(), bytes, options: Vec::new() };
    match start_image(chain, image) {
        Ok(next) => Ok(Some(next)),
        Err(why) => {
            chain.firmware.refused.get_or_insert(why);
            Ok(None)
        }
    }
}

/// A program of the firmware's own, which then waits for somebody.
fn inside(chain: &mut Chain<'_>, option: &BootOption, name: Uuid) {
    let program = chain.target.firmware.program(name);
    let from = Origin::Firmware(option.title.clone());
    let measured = program.map(|program| chain.measure_image(Stage::Firmware, &program, &option.title, from));
    if !matches!(measured, Some(Ok(()))) {
        chain.unmodelled(Stage::Firmware, &option.title, "the firmware's file has no such program", &[4]);
    }
}
