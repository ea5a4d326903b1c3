//! `fbx64`: makes boot options out of the lists in the vendors' directories, and resets the machine.
//!
//! Source: shim 15.8 and 16.1, `fallback.c` (`find_boot_options`, `add_boot_option`, `try_start_first_option`).

use latchkey_disk::bootcsv;
use latchkey_disk::esp::EntryKind;
use latchkey_record::Stage;

use super::state::variable;
use crate::firmware::{add, encode, esp, file_path, find, set_order};
use crate::{Chain, End, Error, Next};

/// `LOAD_OPTION_ACTIVE`.
const ACTIVE: u32 = 1;
const LIST: &str = "BOOTX64.CSV";
const VENDORS: &str = "/EFI";
const REMOVABLE: &str = "BOOT";

/// From the fallback program's start to the reset.
pub(super) fn run(chain: &mut Chain<'_>) -> Result<Next, Error> {
    if chain.variables.get(&variable("FB_NO_REBOOT")).is_some() {
        let why = "starting the first new option without a reset is not modelled";
        chain.unmodelled(Stage::Shim, "variable FB_NO_REBOOT", why, &[4, 7]);
        return Ok(unknown("the fallback program does not reset the machine".into()));
    }
    let mut made = 0;
    for directory in chain.target.esp.list(VENDORS)?.unwrap_or_default() {
        let name = directory.name;
        if directory.kind != EntryKind::Directory || name.eq_ignore_ascii_case(REMOVABLE) {
            continue;
        }
        let path = format!("{VENDORS}/{name}/{LIST}");
        let Some(bytes) = chain.target.esp.read(&path)? else { continue };
        let Ok(entries) = bootcsv::parse(&bytes) else {
            chain.unmodelled(Stage::Shim, &format!("esp:{path}"), "it is no list of boot options", &[1]);
            continue;
        };
        let Some(partition) = esp(chain).cloned() else { continue };
        made += entries.len();
        for entry in entries {
            let device = file_path(&partition, &format!("{VENDORS}/{name}/{}", entry.file));
            let arguments: Vec<u8> = entry.options.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let data = encode(ACTIVE, &entry.label, &device, &arguments);
            prefer(chain, data, &entry.label);
        }
    }
    if made > 1 {
        let why = "which of several new boot options comes first is not modelled";
        chain.unmodelled(Stage::Shim, &format!("esp:{VENDORS}/*/{LIST}"), why, &[1, 4]);
    }
    if made == 0 {
        return Ok(unknown("the fallback program finds no boot option to make".into()));
    }
    Ok(Next::Reset)
}

/// Puts the option with this value first, made where it is not there yet.
fn prefer(chain: &mut Chain<'_>, data: Vec<u8>, label: &str) {
    let number = match find(&chain.variables, &data) {
        Some(number) => Some(number),
        None => add(&mut chain.variables, data),
    };
    let Some(number) = number else { return };
    let id = latchkey_disk::varstore::VariableId::new("BootOrder", latchkey_disk::varstore::vendor::GLOBAL);
    let order = chain.variables.get(&id).map(|variable| variable.data.clone()).unwrap_or_default();
    let rest = order.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).filter(|n| *n != number);
    let order: Vec<u16> = std::iter::once(number).chain(rest).collect();
    set_order(&mut chain.variables, &order);
    chain.leaves(&format!("Boot{number:04X}"), &format!("\"{label}\", first in BootOrder, by fbx64"));
}

fn unknown(because: String) -> Next {
    Next::End(End { outcome: None, because, reported_by: None })
}
