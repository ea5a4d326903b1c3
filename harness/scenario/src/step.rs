//! The steps of a scenario: as they are written, as people say them, and done to the real machine. One module a family.

use std::fmt::Display;

use latchkey_record::Outcome;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

mod another_vm;
mod answer;
mod artefact;
mod boot;
mod esp;
mod files;
mod guest;
mod keys;
mod machine;
mod module;
mod package;
mod place;
mod replace;
mod request;
mod snapshot;
mod so_far;
mod tpm;
mod value;
mod variables;

pub use another_vm::{Attach, Attached, Header};
pub use answer::Answer;
pub use artefact::Artefact;
pub use boot::{AtConsole, Boot, How, Moved, TpmLockout};
pub use esp::{Esp, EspState, Room};
pub use files::{By, Copy, CutOff, Edit, Pad, Put, Remove, Rename, Resign, Signer, Within};
pub use guest::{Effect, Guest, Read, Write};
pub use keys::{AddKey, Device, Old, RemoveKey, RemoveToken, Reseal, Resealed, SealAhead, To};
pub use machine::{Disk, Images, MachineSpec, Seal, Under};
pub use module::{LoadModule, Loaded};
pub(crate) use package::{BESIDE, DNF};
pub use package::{InstallKernel, Installed, NoRepository, RepositoryId};
pub(crate) use place::{Place, Site, place, room_for};
pub use replace::{Replace, Replaced, Restore};
pub use request::RequestKey;
pub use snapshot::{Revert, Snapshot};
pub(crate) use so_far::{Fault, SoFar};
pub use tpm::{CutPower, Lockout, PcrBank, Tpm};
pub use value::{NoValue, Value};
pub use variables::{Enrol, Entry, List, Name, SetVariable, Switch};

use crate::Error;
use crate::bench::Bench;
use crate::rehearsal::Rehearsal;

/// One thing that a scenario does to its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Start the machine, or restart it when its guest runs, and wait until the outcome is clear.
    Boot(Boot),
    /// Type a key at the prompt that the last boot ended with.
    Answer(Answer),
    /// Give a file another name in its directory.
    Rename(Rename),
    /// Put an artefact in the place of a file.
    Replace(Replace),
    /// Put back what the image has in a file's place.
    Restore(Restore),
    /// Remove a file.
    Remove(Remove),
    /// Put a file of the image somewhere else, too.
    Copy(Copy),
    /// Write a text file where the boot chain reads it.
    Put(Put),
    /// Give a boot loader, kernel or certificate file another signature, or none.
    Resign(Resign),
    /// Change a line of a configuration.
    Edit(Edit),
    /// Add zeros to the end of a file, so that it does the same and measures as another.
    Pad(Pad),
    /// Leave the beginning of a program alone, as an interrupted or full copy does.
    CutOff(CutOff),
    /// Add a keyslot in the guest, opened with the TPM: `cryptsetup luksAddKey DEV --token-type systemd-tpm2`.
    AddKey(AddKey),
    /// Remove a keyslot in the guest: `cryptsetup luksRemoveKey DEV`.
    RemoveKey(RemoveKey),
    /// Remove a token in the guest, and leave its keyslot: `cryptsetup token remove --token-id N DEV`.
    RemoveToken(RemoveToken),
    /// Seal to the boot that is under way, or to the next one, in the guest: `systemd-cryptenroll --wipe-slot=tpm2
    /// --tpm2-device=auto`.
    Reseal(Reseal),
    /// Seal to the boot that comes next as well, forecast from the machine's files as they are now, before it happens: what
    /// a package that brings an update can do, and systemd 252's `systemd-cryptenroll` cannot. Powers the machine off.
    SealAhead(SealAhead),
    /// Put another TPM into the machine, clear the one that it has, take it away or put it back. It is switched off for it.
    Tpm(Tpm),
    /// Cut the power of a guest that runs, once or several times. The TPM's dictionary-attack counter rises.
    CutPower(CutPower),
    /// Attach the disk of the machine, which is switched off for it, to another VM, and try to open its root volume there.
    Attach(Attach),
    /// Back up, damage or restore the LUKS header of the root volume, on another VM.
    Header(Header),
    /// Fill the ESP in the guest; or damage its file system, or put that right, on another VM.
    Esp(Esp),
    /// Switch all PCR banks of the TPM off but one, as in the firmware's menu. Powers the machine off.
    PcrBank(PcrBank),
    /// Load a kernel module in the guest that somebody signed anew.
    LoadModule(LoadModule),
    /// Install somebody else's kernel as a package, with the guest's dnf, from its own repositories.
    InstallKernel(InstallKernel),
    /// Ask for a machine owner's key to be enrolled, in the guest, as `mokutil --import` does: MokManager asks for the
    /// password at the next start.
    RequestKey(RequestKey),
    /// Keep the machine as it is now. It is switched off for it.
    Snapshot(Snapshot),
    /// Put back what the snapshot has. The machine is switched off for it.
    Revert(Revert),
    /// End a dictionary-attack lockout of the TPM.
    Lockout(Lockout),
    /// Switch Secure Boot on or off in the firmware's menu, with the machine off.
    SecureBoot(Switch),
    /// Add an entry to a list of what may start or may not.
    Enrol(Enrol),
    /// Give a UEFI variable another value.
    SetVariable(SetVariable),
    /// Write a file in the guest, to be looked for later.
    Write(Write),
    /// Expect a file in the guest, with this text.
    Read(Read),
    /// Run a command in the guest that no typed step covers.
    Guest(Guest),
}

/// How often a step does the same in a row at most. Each time is a boot or a prompt: more of them show nothing new, and take
/// hours on a machine and gigabytes in a rehearsal.
const MOST_TIMES: u32 = 100;

/// A number of times, refused where it stands in the file.
fn times<'de, D: Deserializer<'de>>(text: D) -> Result<u32, D::Error> {
    up_to(text, "times", MOST_TIMES)
}

/// What `field` has: a number from 1 to `most`.
fn up_to<'de, D: Deserializer<'de>>(text: D, field: &str, most: u32) -> Result<u32, D::Error> {
    let number = i64::deserialize(text)?;
    let sound = u32::try_from(number).ok().filter(|number| (1..=most).contains(number));
    sound.ok_or_else(|| D::Error::custom(format!("`{field}` cannot be {number}: give 1 to {most}")))
}

/// A list that names nothing twice, refused where it stands in the file.
fn once_each<'de, T: Deserialize<'de> + PartialEq + Display, D: Deserializer<'de>>(
    text: D,
) -> Result<Vec<T>, D::Error> {
    let all = Vec::<T>::deserialize(text)?;
    let twice = all.iter().enumerate().find(|(at, one)| all[..*at].contains(one));
    let refused =
        |(_, one): (usize, &T)| D::Error::custom(format!("{one} stands twice in this list: leave one out"));
    twice.map(refused).map_or(Ok(()), Err)?;
    Ok(all)
}

/// The same, of a list that cannot be empty.
fn some<'de, T: Deserialize<'de> + PartialEq + Display, D: Deserializer<'de>>(
    text: D,
) -> Result<Vec<T>, D::Error> {
    let all = once_each(text)?;
    if all.is_empty() { Err(D::Error::custom("this list is empty: name one at least")) } else { Ok(all) }
}

/// What every step can do. It acts through the [`Bench`] alone and keeps nothing outside it.
trait Act {
    /// Does it to the real machine and asserts what it expects.
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error>;

    /// Does it to a machine that is values alone, and asserts the same.
    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error>;

    /// It in one line, as a person would say it.
    fn describe(&self) -> String;

    /// Whether it makes sense after the steps before, and what it makes of the machine.
    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault>;

    /// Who changes a file, when it does nothing else.
    fn changes_file(&self) -> Option<By> {
        None
    }

    /// What it puts on the machine.
    fn artefact(&self) -> Option<Artefact> {
        None
    }

    /// Whether it is done on another VM.
    fn is_on_another_vm(&self) -> bool {
        self.changes_file() == Some(By::AnotherVm)
    }

    /// Whether it sets something aside, which a saved machine does not have.
    fn sets_aside(&self) -> bool {
        false
    }

    /// Whether the guest has to have dnf.
    fn needs_dnf(&self) -> bool {
        false
    }
}

impl Step {
    fn kind(&self) -> &dyn Act {
        match self {
            Self::Boot(step) => step,
            Self::Answer(step) => step,
            Self::Rename(step) => step,
            Self::Replace(step) => step,
            Self::Restore(step) => step,
            Self::Remove(step) => step,
            Self::Copy(step) => step,
            Self::Put(step) => step,
            Self::Resign(step) => step,
            Self::Edit(step) => step,
            Self::Pad(step) => step,
            Self::CutOff(step) => step,
            Self::AddKey(step) => step,
            Self::RemoveKey(step) => step,
            Self::RemoveToken(step) => step,
            Self::Reseal(step) => step,
            Self::SealAhead(step) => step,
            Self::Tpm(step) => step,
            Self::CutPower(step) => step,
            Self::Attach(step) => step,
            Self::Header(step) => step,
            Self::Esp(step) => step,
            Self::PcrBank(step) => step,
            Self::RequestKey(step) => step,
            Self::LoadModule(step) => step,
            Self::InstallKernel(step) => step,
            Self::Snapshot(step) => step,
            Self::Revert(step) => step,
            Self::Lockout(step) => step,
            Self::SecureBoot(step) => step,
            Self::Enrol(step) => step,
            Self::SetVariable(step) => step,
            Self::Write(step) => step,
            Self::Read(step) => step,
            Self::Guest(step) => step,
        }
    }

    /// It in one line, as a person would say it.
    #[must_use]
    pub fn describe(&self) -> String {
        self.kind().describe()
    }

    /// The artefact that it puts on the machine.
    #[must_use]
    pub fn artefact(&self) -> Option<Artefact> {
        self.kind().artefact()
    }

    /// What it has to come to, when it boots the machine or goes on with a boot.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Boot(boot) => Some(boot.expect),
            Self::Answer(answer) => Some(answer.expect),
            _ => None,
        }
    }

    /// How many boots it is.
    pub(crate) fn boots(&self) -> u32 {
        match self {
            Self::Boot(boot) => boot.times,
            // Before each cut but the first one the machine is started.
            Self::CutPower(cut) => cut.times.saturating_sub(1),
            _ => 0,
        }
    }

    /// Whether how long it takes hangs on what it says: how often, or for how many seconds.
    pub(crate) fn tells_how_long(&self) -> bool {
        match self {
            Self::Boot(boot) => boot.times != 1 || boot.for_seconds.is_some(),
            Self::Answer(answer) => answer.times != 1,
            Self::CutPower(cut) => cut.times != 1,
            _ => false,
        }
    }

    /// Whether it does nothing but change a file from outside, on a disk that nothing runs on.
    pub(crate) fn is_change_from_outside(&self) -> bool {
        self.kind().changes_file() == Some(By::Rescue)
    }

    /// Whether it is done on another VM.
    #[must_use]
    pub fn is_on_another_vm(&self) -> bool {
        self.kind().is_on_another_vm()
    }

    /// Whether the guest has to have dnf.
    pub(crate) fn needs_dnf(&self) -> bool {
        self.kind().needs_dnf()
    }

    /// Whether it sets something aside, which a saved machine does not have.
    pub(crate) fn sets_aside(&self) -> bool {
        self.kind().sets_aside()
    }

    /// Does it in a rehearsal.
    pub(crate) fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        self.kind().rehearse(rehearsal)
    }

    /// Whether it makes sense after the steps before, and what it makes of the machine.
    pub(crate) fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        self.kind().check(so_far)
    }
}

impl Bench<'_> {
    /// Does one step and asserts what it expects.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), Error> {
        step.kind().act(self)
    }
}
