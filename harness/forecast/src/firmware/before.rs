//! What the firmware does before it tries a boot option, where somebody asked for it. None of it is modelled, and all of it
//! said.

use latchkey_record::Stage;

use super::global;
use crate::{Chain, End};

/// `EFI_OS_INDICATIONS_BOOT_TO_FW_UI`.
const BOOT_TO_FW_UI: u8 = 0x01;

/// Drivers and applications that run before any boot option, on builds and machines that have them (edk2 `BdsEntry.c`).
pub(super) fn programs(chain: &mut Chain<'_>) {
    for order in ["DriverOrder", "SysPrepOrder"] {
        if chain.variables.get(&global(order)).is_some_and(|variable| !variable.data.is_empty()) {
            let why = "programs that run before the boot options are not modelled";
            chain.unmodelled(Stage::Firmware, order, why, &[2, 4, 7]);
        }
    }
}

/// Somebody asked for the firmware's menu (UEFI 2.10, section 8.5.4, `EFI_OS_INDICATIONS_BOOT_TO_FW_UI`): it is started
/// before any boot option, and waits. What is done there nobody knows.
pub(super) fn menu(chain: &mut Chain<'_>) -> Option<End> {
    let mut wish = chain.variables.get(&global("OsIndications"))?.clone();
    if wish.data.len() != 8 || wish.data[0] & BOOT_TO_FW_UI == 0 {
        return None;
    }
    wish.data[0] &= !BOOT_TO_FW_UI;
    chain.variables.set(wish);
    chain.leaves("OsIndications", "the wish for the firmware's menu is used up");
    let why = "the firmware's menu is started first, and somebody decides there what happens";
    chain.unmodelled(Stage::Firmware, "OsIndications", why, &[1, 4, 7]);
    Some(End { outcome: None, because: format!("OsIndications: {why}"), reported_by: None })
}
