//! What a scenario file comes to, step by step, as far as it can be told without running it.

use latchkey_provision::KeyRole;
use latchkey_record::Outcome;

use super::{By, MachineSpec};

/// What is wrong with a step where it stands, and what to do instead.
pub(crate) type Fault = (String, &'static str);

/// The machine as the steps before leave it.
pub(crate) struct SoFar {
    /// What the boot that is under way came to; none when the machine is off.
    last: Option<Outcome>,
    booted: bool,
    /// Whether a boot opened by itself, with the banks that the TPM has.
    baseline: bool,
    keys: Vec<KeyRole>,
    images: Vec<String>,
    header_kept: bool,
    snapshot: bool,
    request: bool,
    banks_changed: bool,
}

impl SoFar {
    pub(crate) fn new(machine: &MachineSpec) -> Self {
        let images = machine.image.names().to_vec();
        Self {
            last: None,
            booted: false,
            baseline: false,
            keys: machine.keys.clone(),
            images,
            header_kept: false,
            snapshot: false,
            request: false,
            banks_changed: false,
        }
    }

    /// The scenario has to be for `image`.
    pub(super) fn is_for(&self, image: &str) -> Result<(), Fault> {
        if self.images.iter().any(|known| known == image) {
            return Ok(());
        }
        Err((format!("`{image}` is none of the machine's images"), "name one of the images under [machine]"))
    }

    /// Whether any step boots.
    pub(crate) fn booted(&self) -> bool {
        self.booted
    }

    /// A boot or an answer comes to `outcome`.
    pub(super) fn boots(&mut self, outcome: Outcome) {
        self.booted = true;
        // A boot that nobody watches lets go of what was asked of MokManager.
        self.request = false;
        self.baseline |= outcome == Outcome::Unlocked;
        self.last = Some(outcome);
    }

    /// The machine is switched off.
    pub(super) fn off(&mut self) {
        self.last = None;
    }

    /// A guest has to run.
    pub(super) fn guest(&self) -> Result<(), Fault> {
        if self.last.is_some_and(Outcome::is_open) {
            return Ok(());
        }
        Err(("no guest runs here".into(), "put it after a boot or an answer that opens the machine"))
    }

    /// Somebody changes something: in the guest, which has to run, or from outside, on a machine that is switched off.
    pub(super) fn changed(&mut self, by: By) -> Result<(), Fault> {
        match by {
            By::Guest => self.guest(),
            By::Rescue | By::AnotherVm => {
                self.off();
                Ok(())
            }
        }
    }

    /// The LUKS header is backed up.
    pub(super) fn keeps_header(&mut self) {
        self.header_kept = true;
    }

    /// There has to be a backup of the LUKS header.
    pub(super) fn has_kept_header(&self) -> Result<(), Fault> {
        if self.header_kept {
            return Ok(());
        }
        Err(("there is no backup of the header yet".into(), "put `header = \"back-up\"` before it"))
    }

    /// Other PCR banks are active from now on.
    pub(super) fn changes_banks(&mut self) {
        self.baseline = false;
        self.banks_changed = true;
    }

    /// The TPM has to have the banks that it began with.
    pub(super) fn has_first_banks(&self) -> Result<(), Fault> {
        if !self.banks_changed {
            return Ok(());
        }
        Err(("a snapshot has the TPM's banks of before".into(), "put `pcr-bank` after the `revert`"))
    }

    /// Something is asked of MokManager.
    pub(super) fn requests(&mut self) {
        self.request = true;
    }

    /// The variables are others: what was asked of MokManager is in none of them.
    pub(super) fn loses_request(&mut self) {
        self.request = false;
    }

    /// Something has to have been asked of MokManager since the last boot.
    pub(super) fn uses_request(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.request) {
            return Ok(());
        }
        let help = "put a `request-key` step before it, or leave `at-console` out";
        Err(("MokManager has nothing to ask in this boot".into(), help))
    }

    /// A snapshot is taken; there is one at a time.
    pub(super) fn takes_snapshot(&mut self) -> Result<(), Fault> {
        if std::mem::replace(&mut self.snapshot, true) {
            return Err(("there is a snapshot already".into(), "take one snapshot in a scenario"));
        }
        Ok(())
    }

    /// There has to be a boot to compare with.
    pub(super) fn has_baseline(&self) -> Result<(), Fault> {
        if self.baseline {
            return Ok(());
        }
        let help = "leave `moved` out, or put a boot with `expect = \"unlocked\"` before it";
        Err(("no boot before this one opened by itself, so nothing can have moved since".into(), help))
    }

    /// There has to be a snapshot.
    pub(super) fn has_snapshot(&self) -> Result<(), Fault> {
        if self.snapshot {
            return Ok(());
        }
        Err(("there is no snapshot yet".into(), "put `snapshot = \"machine\"` before it"))
    }

    /// Something has to ask for a key.
    pub(super) fn prompt(&self) -> Result<(), Fault> {
        if self.last == Some(Outcome::FallbackPrompt) {
            return Ok(());
        }
        Err(("nothing asks for a key here".into(), "put it after a boot with `expect = \"fallback-prompt\"`"))
    }

    /// Somebody has to hold the key of `role`.
    pub(super) fn holds(&self, role: KeyRole) -> Result<(), Fault> {
        if self.keys.contains(&role) {
            return Ok(());
        }
        let help = match role {
            KeyRole::AddedPassphrase => {
                "put it after a step that adds it: `add-key = { key = \"added-passphrase\" }`"
            }
            _ => "add it to `keys` under [machine]",
        };
        Err((format!("nobody has the key {role} here"), help))
    }

    /// Somebody has to hold the key of `role`, and to be able to type it.
    pub(super) fn typed(&self, role: KeyRole) -> Result<(), Fault> {
        if role.can_be_typed() {
            return self.holds(role);
        }
        let what = match role {
            KeyRole::Platform => "the platform's key is sealed in the vTPM; nobody can type it",
            KeyRole::LostPassphrase => "the lost passphrase is one that nobody holds any more",
            _ => "the binary form of a recovery key has bytes that nobody can type",
        };
        Err((what.into(), "name a key that can be typed, such as \"fallback-passphrase\""))
    }

    /// A keyslot for the key of `role` is made.
    pub(super) fn gets(&mut self, role: KeyRole) -> Result<(), Fault> {
        if self.keys.contains(&role) {
            return Err(("the machine has this key already".into(), "remove it before it is added again"));
        }
        self.keys.push(role);
        Ok(())
    }

    /// The keyslot of `role` goes.
    pub(super) fn loses(&mut self, role: KeyRole) {
        self.keys.retain(|key| *key != role);
    }
}
