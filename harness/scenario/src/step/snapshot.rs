//! Steps that keep the machine as it is, and put back what was kept.

use std::fs;
use std::path::Path;

use latchkey_machine::{Forked, Machine, Offline, Saved};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tpm::new_tpm;
use super::{Act, Fault, SoFar};
use crate::Error;
use crate::bench::{Bench, Power};
use crate::rehearsal::Rehearsal;

/// What the snapshot is called in the directory of what is set aside.
const SNAPSHOT: &str = "snapshot";

/// See [`super::Step::Snapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Snapshot {
    /// Of all that the machine is: disk, UEFI variables, TPM.
    Machine,
}

/// See [`super::Step::Revert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Revert {
    /// The disk: the same machine goes on with it, its variables and its TPM as they are now.
    Disk,
    /// The disk, in a new machine: the variables of a new one, and a TPM that never saw this disk.
    DiskOnNewVm,
    /// The TPM's state alone: the disk and the variables stay as they are now.
    Tpm,
    /// What a platform keeps beside the disk, the UEFI variables and the TPM's state: the disk stays as it is now.
    GuestState,
}

impl Act for Snapshot {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        bench.switch_off()?;
        let aside = bench.aside()?;
        let Power::Off(machine) = std::mem::replace(&mut bench.power, Power::Lost) else {
            return Err(Error::Bench("the machine was lost in an earlier step".into()));
        };
        let saved = machine.save()?;
        let place = aside.join(SNAPSHOT);
        fs::rename(saved.dir(), &place).map_err(Error::file("renaming", saved.dir()))?;
        bench.power = Power::Off(bench.fork_of_snapshot("after-snapshot")?);
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.switch_off();
        rehearsal.snapshot();
        Ok(())
    }

    fn describe(&self) -> String {
        "take a snapshot of disk, variables and TPM".into()
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.off();
        so_far.takes_snapshot()
    }

    fn sets_aside(&self) -> bool {
        true
    }
}

impl Act for Revert {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let (host, variables) = (bench.context.host, bench.context.variables.clone());
        bench.switch_off()?;
        if self.brings_variables() {
            bench.request = None;
        }
        let mut then = bench.fork_of_snapshot(&format!("reverted-{}", bench.steps.len()))?;
        match self {
            Self::Disk => {
                let now = bench.switch_off()?;
                then = then.with_hardware(now.hardware().clone())?;
                now.offline(|now| then.offline(|then| put_guest_state(&now, &then)))?;
                bench.power = Power::Off(then);
            }
            Self::DiskOnNewVm => {
                let banks = then.tpm_facts(host)?.banks;
                then.offline(|then| {
                    fs::write(then.variables, &variables).map_err(Error::file("writing", then.variables))?;
                    new_tpm(&host.tools.swtpm.path, then.tpm, &banks)
                })?;
                bench.power = Power::Off(then);
            }
            Self::Tpm => {
                bench.switch_off()?.offline(|now| then.offline(|then| put_tpm(then.tpm, now.tpm)))?;
            }
            Self::GuestState => {
                bench.switch_off()?.offline(|now| then.offline(|then| put_guest_state(&then, &now)))?;
            }
        }
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.switch_off();
        rehearsal.revert(*self)
    }

    fn describe(&self) -> String {
        match self {
            Self::Disk => "restore the disk from its snapshot, on the same machine".into(),
            Self::DiskOnNewVm => "restore the disk from its snapshot, on a new machine with a new TPM".into(),
            Self::Tpm => "put the TPM's state of the snapshot back, and nothing else".into(),
            Self::GuestState => "put variables and TPM of the snapshot back, and leave the disk".into(),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.off();
        so_far.has_snapshot()?;
        if self.brings_variables() {
            so_far.loses_request();
        }
        so_far.has_first_banks()
    }
}

impl Revert {
    /// Whether the machine has other UEFI variables than before.
    fn brings_variables(self) -> bool {
        matches!(self, Self::DiskOnNewVm | Self::GuestState)
    }
}

/// Puts a machine's variables and its TPM's state in the place of another's.
fn put_guest_state(from: &Offline<'_>, to: &Offline<'_>) -> Result<(), Error> {
    fs::copy(from.variables, to.variables).map_err(Error::file("copying", from.variables))?;
    put_tpm(from.tpm, to.tpm)
}

/// Puts a TPM's state in the place of another's.
fn put_tpm(from: &Path, to: &Path) -> Result<(), Error> {
    fs::remove_dir_all(to).map_err(Error::file("removing", to))?;
    Ok(latchkey_tpm::copy_state(from, to).map_err(latchkey_machine::Error::from)?)
}

impl Bench<'_> {
    /// A fork, called `name`, of the machine as the snapshot has it.
    fn fork_of_snapshot(&self, name: &str) -> Result<Machine, Error> {
        let aside = self.aside()?;
        let saved = Saved::open(&aside.join(SNAPSHOT))?;
        match saved.fork(self.context.host, &aside.join(name), &[])? {
            Forked::Off(machine) => Ok(machine),
            Forked::On(_) => Err(Error::Bench("the snapshot is of a machine that ran".into())),
        }
    }
}
