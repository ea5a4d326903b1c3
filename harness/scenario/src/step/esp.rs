//! Steps that damage the file system of the ESP.

use latchkey_disk::gpt::kind;
use latchkey_machine::Running;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::another_vm::partition;
use super::{Act, Fault, SoFar};
use crate::Error;
use crate::bench::Bench;
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
}

/// Whether an ESP can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EspState {
    /// It can.
    Whole,
    /// It is damaged.
    Damaged,
}

impl Act for Esp {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let (volume, disk) = (partition(kind::ESP), Running::ATTACHED);
        // A damaged one still has its place in the partition table.
        let from = match self {
            Self::Damage => "if=/dev/zero".to_owned(),
            Self::Repair => format!("if={volume} skip={COPY_AT}"),
        };
        let command =
            format!("dd {from} of={volume} bs=512 count=1 conv=fsync,notrunc status=none && sync {disk}");
        bench.run_on_another_vm(&command, &[])
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.switch_off();
        rehearsal.esp = match self {
            Self::Damage => EspState::Damaged,
            Self::Repair => EspState::Whole,
        };
        Ok(())
    }

    fn describe(&self) -> String {
        match self {
            Self::Damage => "overwrite the first sector of the ESP".into(),
            Self::Repair => "put the ESP's first sector back from its copy, on another VM".into(),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.off();
        Ok(())
    }

    fn is_on_another_vm(&self) -> bool {
        true
    }
}
