//! Steps in a guest that runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Act, Fault, SoFar};
use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::rehearsal::Rehearsal;
use latchkey_supervise::quoted;

/// See [`super::Step::Write`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Write {
    /// An absolute path on the guest's root file system.
    pub path: String,
    /// The file's text.
    pub text: String,
}

/// See [`super::Step::Read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Read {
    /// An absolute path on the guest's root file system.
    pub path: String,
    /// The file's text.
    pub text: String,
}

/// See [`super::Step::Guest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table such as `{ run = \"true\", effect = \"none\" }`"
)]
pub struct Guest {
    /// A command line for the guest's shell. It must exit with 0.
    pub run: String,
    /// What it changes of what is measured. A wrong declaration is caught by the next boot.
    pub effect: Effect,
}

/// What a raw command changes of what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing.
    None,
}

impl Act for Write {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let command = format!("cat > {} && sync", quoted(&self.path));
        bench.running()?.guest_ok(&command, self.text.as_bytes(), COMMAND)?;
        Ok(())
    }

    /// Nothing that is measured changes.
    fn rehearse(&self, _rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn describe(&self) -> String {
        format!("write {} in the guest", self.path)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()
    }
}

impl Act for Read {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let output = bench.running()?.guest_ok(&format!("cat {}", quoted(&self.path)), &[], COMMAND)?;
        bench.check(&self.path, self.text.as_str(), output.text());
        Ok(())
    }

    /// Nothing that is measured changes.
    fn rehearse(&self, _rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn describe(&self) -> String {
        format!("expect {} in the guest", self.path)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()
    }
}

impl Act for Guest {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        bench.running()?.guest_ok(&self.run, &[], COMMAND)?;
        Ok(())
    }

    /// Nothing that is measured changes.
    fn rehearse(&self, _rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn describe(&self) -> String {
        format!("run `{}` in the guest", self.run)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()
    }
}
