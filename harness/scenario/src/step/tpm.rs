//! Steps that change the machine's TPM.

use std::fs;

use latchkey_record::Outcome;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Act, Fault, SoFar};
use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::rehearsal::Rehearsal;

/// See [`super::Step::Tpm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tpm {
    /// The vTPM is lost, and the machine gets a new one, as a new VM that the disk is attached to does.
    Fresh,
    /// The same TPM, cleared with `TPM2_Clear`: its storage hierarchy gets another seed.
    Cleared,
}

/// See [`super::Step::CutPower`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CutPower {
    /// How often. Before each time but the first, the machine boots and has to open by itself.
    #[schemars(range(min = 1))]
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
        let machine = bench.switch_off()?;
        let banks = machine.tpm_facts(host)?.banks;
        machine.offline(|parts| match self {
            Self::Fresh => {
                fs::remove_dir_all(parts.tpm).map_err(Error::file("removing", parts.tpm))?;
                let made = latchkey_tpm::manufacture(&swtpm, parts.tpm, &banks);
                Ok(made.map_err(latchkey_machine::Error::from)?)
            }
            Self::Cleared => {
                Ok(latchkey_tpm::clear(&swtpm, parts.tpm).map_err(latchkey_machine::Error::from)?)
            }
        })
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.lose_tpm();
        Ok(())
    }

    fn describe(&self) -> String {
        match self {
            Self::Fresh => "replace the TPM by a new one".into(),
            Self::Cleared => "clear the TPM".into(),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.off();
        Ok(())
    }
}

impl Act for CutPower {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        for time in 0..self.times {
            if time > 0 {
                bench.boot(Outcome::Unlocked)?;
                bench.check_outcome(Outcome::Unlocked);
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
                rehearsal.boot()?;
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
        if self.times == 0 {
            return Err(("the power is cut no time".into(), "give `times` 1 or more"));
        }
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
