//! What a scenario runs on, and where its record goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use latchkey_disk::{Access, OpenDisk};
use latchkey_host::Host;
use latchkey_images::{Image, Pki, Signing};
use latchkey_record::Day;

use crate::Error;
use crate::another_vm::AnotherVm;
use crate::file::Scenario;
use crate::sharing::Sharing;
use crate::step::{Artefact, BESIDE, DNF};

/// Whether machines are left in place after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// They go away.
    #[default]
    No,
    /// They stay, and the results tell how to enter them.
    Yes,
}

impl Context<'_> {
    /// Why `scenario` cannot be done on this image: artefacts that its vendor alone can make, and that nobody handed in, or
    /// a program that its guest does not have. The first word is one to look for. `None` where nothing is lacking.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn lacks_for(&self, scenario: &Scenario) -> Result<Option<String>, Error> {
        let lacking: BTreeSet<Artefact> =
            scenario.artefacts().filter(|artefact| self.lacks(*artefact)).collect();
        if !lacking.is_empty() {
            return Ok(Some(needs_vendor_key(&lacking)));
        }
        if scenario.needs_dnf() {
            let mut disk = OpenDisk::open(&self.image.path, Access::ReadOnly)?;
            let has = disk.root_has(DNF, BESIDE)?;
            disk.close()?;
            // Where nobody can tell, the guest will.
            if has == Some(false) {
                return Ok(Some(format!(
                    "needs-dnf: the image has no {DNF}, so that no package comes that way"
                )));
            }
        }
        Ok(None)
    }

    fn lacks(&self, artefact: Artefact) -> bool {
        artefact.needs_vendor_key()
            && self.image.signing == Signing::Unavailable
            && !self.artefacts.contains_key(&artefact)
    }
}

/// What a scenario runs on, and where its record goes.
#[derive(Debug)]
pub struct Context<'a> {
    /// Where machines run.
    pub host: &'a Host,
    /// The image that its machine is made of. Never written to.
    pub image: &'a Image,
    /// What tells the image from others of its name, for people ([`latchkey_record::ScenarioResult::image_identity`]).
    pub identity: String,
    /// The test keys; what the image's vendor would sign is signed with them.
    pub pki: &'a Pki,
    /// A new machine's UEFI variables, a whole variable store.
    pub variables: Vec<u8>,
    /// Where what was measured of the platform is remembered.
    pub platform: PathBuf,
    /// Under which machines are made while they are needed.
    pub machines: PathBuf,
    /// Artefacts that the user handed in; the others are made.
    pub artefacts: BTreeMap<Artefact, PathBuf>,
    /// The run's directory; the scenario makes one of its own in it.
    pub results: PathBuf,
    /// Whether the machine is left in place.
    pub keep: Keep,
    /// What a VM is made of that disks are attached to; `None` where no step needs one.
    pub another_vm: Option<&'a AnotherVm>,
    /// Why there is none, where a step needs one.
    pub why_no_other_vm: Option<&'a str>,
    /// How it shares with other rows; `None` when it runs by itself from its provisioning on.
    pub sharing: Option<Sharing<'a>>,
    /// Everything besides scenario and harness that a verdict depends on, as text; empty where nothing is shared.
    pub inputs: String,
    /// How many rows at most are at it at once on this computer, in all of the user's runs.
    pub at_once: usize,
    /// The command that does it again.
    pub reproduce: String,
    /// The day on which it runs: known failures are expected until one.
    pub today: Day,
}

fn needs_vendor_key(lacking: &BTreeSet<Artefact>) -> String {
    let names: Vec<&str> = lacking.iter().map(|artefact| artefact.name()).collect();
    let options: Vec<String> = names.iter().map(|name| format!("--artefact {name}=PATH")).collect();
    let (names, options) = (names.join(", "), options.join(" "));
    format!("needs-vendor-key: only the image's vendor makes {names}, to be handed in with `{options}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_a_vendors_artefact_is_told_how_to_hand_it_in() {
        let lacking = BTreeSet::from([Artefact::Addon, Artefact::UkiSignedByVendor]);
        assert_eq!(
            needs_vendor_key(&lacking),
            "needs-vendor-key: only the image's vendor makes uki-signed-by-vendor, addon, to be handed in with \
             `--artefact uki-signed-by-vendor=PATH --artefact addon=PATH`"
        );
    }
}
