//! Steps that fill the file system of the ESP, or damage it.

use latchkey_disk::gpt::kind;
use latchkey_machine::Running;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::another_vm::partition;
use super::{Act, Fault, SoFar};
use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::rehearsal::Rehearsal;

/// Where mkfs.fat keeps a copy of the first sector of a FAT32 file system (Microsoft's FAT specification, `BPB_BkBootSec`).
const COPY_AT: u32 = 6;

/// See [`super::Step::Esp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Esp {
    /// Its first sector is overwritten: nobody knows it for a file system any more.
    Damage,
    /// The first sector is put back from the copy that the file system has of it.
    Repair,
    /// A file that nothing reads takes all the room that is left; done in the guest.
    Fill,
}

/// Where that file lies in the guest.
const FILLER: &str = "/boot/efi/filler";

/// What is checked of an ESP that is filled.
const FULL: &str = "full";
/// What the C library says of `ENOSPC`.
pub(super) const NO_ROOM: &str = "No space left on device";

/// Whether an ESP has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It has.
    Left,
    /// It was filled.
    Gone,
}

/// Whether an ESP can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EspState {
    /// It can.
    Whole,
    /// It is damaged.
    Damaged,
}

fn fill(bench: &mut Bench<'_>) -> Result<(), Error> {
    let output = bench.running()?.guest(&format!("cat /dev/zero > {FILLER}; sync"), &[], COMMAND)?;
    let said = String::from_utf8_lossy(&output.stderr);
    bench.check("the ESP", FULL, if said.contains(NO_ROOM) { FULL } else { said.trim() });
    Ok(())
}

impl Act for Esp {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        // A damaged one still has its place in the partition table.
        let (volume, disk) = (partition(kind::ESP), Running::ATTACHED);
        let from = match self {
            Self::Repair => format!("if={volume} skip={COPY_AT}"),
            Self::Damage => "if=/dev/zero".to_owned(),
            Self::Fill => return fill(bench),
        };
        let command =
            format!("dd {from} of={volume} bs=512 count=1 conv=fsync,notrunc status=none && sync {disk}");
        bench.run_on_another_vm(&command, &[])
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        match self {
            Self::Damage => rehearsal.esp = EspState::Damaged,
            Self::Repair => rehearsal.esp = EspState::Whole,
            Self::Fill => {
                rehearsal.room = Room::Gone;
                return Ok(());
            }
        }
        rehearsal.switch_off();
        Ok(())
    }

    fn describe(&self) -> String {
        match self {
            Self::Damage => "overwrite the first sector of the ESP".into(),
            Self::Repair => "put the ESP's first sector back from its copy, on another VM".into(),
            Self::Fill => "fill the ESP in the guest".into(),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        if *self == Self::Fill {
            return so_far.guest();
        }
        so_far.off();
        Ok(())
    }

    fn is_on_another_vm(&self) -> bool {
        *self != Self::Fill
    }
}
