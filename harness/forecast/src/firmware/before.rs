//! What the firmware does before it tries a boot option, where somebody asked for it. None of it is modelled, and all of it
//! said.

use latchkey_record::Stage;

use super::global;
use crate::{Chain, End};

/// `EFI_OS_INDICATIONS_BOOT_TO_FW_UI` and `EFI_OS_INDICATIONS_START_PLATFORM_RECOVERY`, each with what is started.
const WISHES: [(u8, &str, &str); 2] = [
    (0x01, "the firmware's menu", "somebody decides there what happens"),
    (0x40, "the platform's recovery", "no boot option is tried"),
];

/// Drivers and applications that run before any boot option, on builds and machines that have them (edk2 `BdsEntry.c`).
pub(super) fn programs(chain: &mut Chain<'_>) {
    for order in ["DriverOrder", "SysPrepOrder"] {
        if chain.variables.get(&global(order)).is_some_and(|variable| !variable.data.is_empty()) {
            let why = "programs that run before the boot options are not modelled";
            chain.unmodelled(Stage::Firmware, order, why, &[2, 4, 7]);
        }
    }
}

/// Somebody asked for the firmware's menu, or for its recovery (UEFI 2.10, section 8.5.4): it is started before any boot
/// option. What is done there nobody knows.
pub(super) fn wished(chain: &mut Chain<'_>) -> Option<End> {
    let mut wish = chain.variables.get(&global("OsIndications"))?.clone();
    let (_, what, then) =
        WISHES.into_iter().find(|(bit, ..)| wish.data.len() == 8 && wish.data[0] & bit != 0)?;
    // Both are, whichever was.
    WISHES.iter().for_each(|(bit, ..)| wish.data[0] &= !bit);
    chain.variables.set(wish);
    chain.leaves("OsIndications", &format!("the wish for {what} is used up"));
    let why = format!("{what} is started first, and {then}");
    chain.unmodelled(Stage::Firmware, "OsIndications", &why, &[1, 4, 7]);
    Some(End { outcome: None, because: format!("OsIndications: {why}"), reported_by: None })
}
