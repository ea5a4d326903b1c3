//! Steps that change the machine's TPM.

use std::fs;
use std::path::Path;

use latchkey_forecast::Keyboard;
use latchkey_machine::TpmDevice;
use latchkey_provision::Secret;
use latchkey_record::{HashAlg, Outcome};
use latchkey_tpm::{Parent, seal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Act, AtConsole, Fault, MOST_TIMES, SoFar, times};
use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::model::Model;
use crate::rehearsal::Rehearsal;

/// See [`super::Step::Tpm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tpm {
    /// The vTPM is lost, and the machine gets a new one, as a new VM that the disk is attached to does.
    Fresh,
    /// It gets one that was another VM's: with the storage root key that its systemd made.
    AnotherVms,
    /// The machine runs without a TPM, as on a host that has none to give. Its state stays where it is.
    Absent,
    /// It has its TPM again.
    Present,
    /// The same TPM, cleared with `TPM2_Clear`: its storage hierarchy gets another seed.
    Cleared,
}

/// See [`super::Step::PcrBank`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PcrBank(pub HashAlg);

/// See [`super::Step::CutPower`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CutPower {
    /// How often. Before each time but the first, the machine boots and has to open by itself.
    #[serde(deserialize_with = "times")]
    #[schemars(range(min = 1, max = MOST_TIMES))]
    pub times: u32,
    /// What the TPM's dictionary-attack counter must be afterwards.
    pub counter: u32,
}

/// See [`super::Step::Lockout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Lockout {
    /// The owner resets it (`TPM2_DictionaryAttackLockReset`).
    Reset,
    /// It is waited for, with the time that a failure takes to be forgotten set to one second instead of the TPM's own.
    WaitedOut,
}

impl Act for Tpm {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let swtpm = bench.context.host.tools.swtpm.path.clone();
        let host = bench.context.host;
        let device = match self {
            Self::Absent => Some(TpmDevice::Absent),
            Self::Present => Some(TpmDevice::Crb),
            Self::Fresh | Self::AnotherVms | Self::Cleared => None,
        };
        if let Some(device) = device {
            return bench.refit(|hardware| hardware.with_tpm(device));
        }
        let machine = bench.switch_off()?;
        let banks = machine.tpm_facts(host)?.banks;
        machine.offline(|parts| match self {
            Self::Fresh => new_tpm(&swtpm, parts.tpm, &banks),
            Self::AnotherVms => {
                new_tpm(&swtpm, parts.tpm, &banks)?;
                // What was sealed for that VM is in its disk's header; the key that it is sealed under is in the TPM.
                let (key, policy) = (Secret::generate(), [0; 32]);
                let sealed = seal(&swtpm, parts.tpm, Parent::StorageRoot, key.expose(), &policy);
                Ok(sealed.map(drop).map_err(latchkey_machine::Error::from)?)
            }
            _ => Ok(latchkey_tpm::clear(&swtpm, parts.tpm).map_err(latchkey_machine::Error::from)?),
        })
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        match self {
            Self::Fresh | Self::AnotherVms | Self::Cleared => rehearsal.lose_tpm(),
            Self::Absent => rehearsal.has_tpm = false,
            Self::Present => rehearsal.has_tpm = true,
        }
        Ok(())
    }

    fn describe(&self) -> String {
        match self {
            Self::Absent => "take the TPM away".into(),
            Self::Present => "put the TPM back".into(),
            Self::Fresh => "replace the TPM by a new one".into(),
            Self::AnotherVms => "replace the TPM by another VM's".into(),
            Self::Cleared => "clear the TPM".into(),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.off();
        Ok(())
    }
}

impl Act for PcrBank {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let swtpm = bench.context.host.tools.swtpm.path.clone();
        let done =
            bench.switch_off()?.offline(|parts| latchkey_tpm::allocate_banks(&swtpm, parts.tpm, &[self.0]));
        done.map_err(latchkey_machine::Error::from)?;
        let context = bench.context;
        let hardware = bench.switch_off()?.hardware().clone();
        let model = Model::new(context.host, &hardware, &context.variables, &[self.0], &context.platform)?;
        bench.model = Some(model);
        // What was measured in the bank of before cannot be compared with what is measured from now on.
        (bench.bank, bench.baseline) = (self.0, None);
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.allocate(self.0)
    }

    fn describe(&self) -> String {
        format!("switch all PCR banks off but {}", self.0)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.off();
        so_far.changes_banks();
        Ok(())
    }

    /// The banks: a fork's model would have those of before.
    fn sets_aside(&self) -> bool {
        true
    }
}

/// Puts a new TPM with these banks in the place of the one in `state`.
pub(super) fn new_tpm(swtpm: &Path, state: &Path, banks: &[HashAlg]) -> Result<(), Error> {
    fs::remove_dir_all(state).map_err(Error::file("removing", state))?;
    Ok(latchkey_tpm::manufacture(swtpm, state, banks).map_err(latchkey_machine::Error::from)?)
}

impl Act for CutPower {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        for time in 0..self.times {
            if time > 0 {
                bench.boot(Outcome::Unlocked, AtConsole::Nobody)?;
                bench.check_outcome(Outcome::Unlocked);
                if !bench.holds_so_far() {
                    return Ok(());
                }
            }
            // What counts is the TPM, not what a file system that is not written out makes of it.
            bench.running()?.guest_ok("sync", &[], COMMAND)?;
            bench.cut_power()?;
        }
        let host = bench.context.host;
        let counter = bench.switch_off()?.tpm_facts(host)?.lockout.counter;
        bench.check("the TPM's dictionary-attack counter", self.counter.to_string(), counter.to_string());
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        for time in 0..self.times {
            if time > 0 {
                rehearsal.boot(Keyboard::Nobody)?;
                rehearsal.check_outcome(Outcome::Unlocked);
            }
            rehearsal.cut_power();
        }
        let counter = rehearsal.failures();
        rehearsal.check("the TPM's dictionary-attack counter", self.counter.to_string(), counter.to_string());
        Ok(())
    }

    fn describe(&self) -> String {
        match self.times {
            1 => "cut the power".into(),
            times => format!("cut the power {times} times, each time in a machine that opened by itself"),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()?;
        so_far.off();
        Ok(())
    }
}

impl Act for Lockout {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let host = bench.context.host;
        let swtpm = &host.tools.swtpm.path;
        let machine = bench.switch_off()?;
        machine
            .offline(|parts| match self {
                Self::Reset => latchkey_tpm::reset_lockout(swtpm, parts.tpm),
                Self::WaitedOut => latchkey_tpm::wait_out_lockout(swtpm, parts.tpm),
            })
            .map_err(latchkey_machine::Error::from)?;
        let counter = machine.tpm_facts(host)?.lockout.counter;
        bench.check("the TPM's dictionary-attack counter", "0", counter.to_string());
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.forget_failures();
        Ok(())
    }

    fn describe(&self) -> String {
        match self {
            Self::Reset => "reset the TPM's lockout".into(),
            Self::WaitedOut => "wait until the TPM has forgotten its failures, one a second".into(),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.off();
        Ok(())
    }
}
