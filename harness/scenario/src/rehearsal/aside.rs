//! How a rehearsal's machine ends, and what is set aside of it: a header's backup, a snapshot.

use latchkey_disk::VarStore;
use latchkey_provision::KeyRole;

use super::desk::Volumes;
use super::keyslots::Keyslots;
use super::{FAILURES, Rehearsal};
use crate::Error;
use crate::bench::listens;
use crate::step::{EspState, Revert, Room};

/// What is set aside.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside {
    header: Option<Keyslots>,
    snapshot: Option<Snapshot>,
}

/// A machine as it was.
#[derive(Debug, Clone)]
struct Snapshot {
    volumes: Volumes,
    variables: VarStore,
    keyslots: Option<Keyslots>,
    damaged: bool,
    esp: EspState,
    room: Room,
    seed: u32,
    failures: u32,
}

impl Rehearsal<'_> {
    /// Whether the TPM refuses for its lockout.
    pub(crate) fn locked_out(&self) -> bool {
        self.tried() && self.failures >= FAILURES
    }

    /// Whether the boot that is under way tried a key that this TPM sealed.
    fn tried(&self) -> bool {
        let asked = self.now.as_ref().is_some_and(|now| !now.untried);
        let tried = asked && self.boots.last().is_some_and(|boot| boot.tried);
        tried && self.keyslots.iter().flat_map(Keyslots::tpm_tokens).any(|(_, seed)| seed == self.seed)
    }

    /// The machine's power goes. A TPM counts that where a key of its own was tried, whatever came of it, and not while it
    /// refuses all keys for its lockout (libtpms, src/tpm2/DA.c, `DAStartup`: `g_daUsed`).
    pub(crate) fn cut_power(&mut self) {
        if self.outcome.is_some() && self.tried() && self.failures < FAILURES {
            self.failures += 1;
        }
        // What was synced to an XFS stays in its log until Linux mounts it, however often the power goes.
        if let Some(before) = self.before.take() {
            self.blocks = Some(before);
        }
        self.outcome = None;
    }

    /// A machine in which nothing acts on a wish to switch it off is stopped by force before anything else is done to it.
    pub(super) fn ends_unless_it_listens(&mut self) {
        if self.outcome.is_some_and(|outcome| !listens(outcome)) {
            self.cut_power();
        }
    }

    /// The machine is switched off.
    pub(crate) fn switch_off(&mut self) {
        self.before = None;
        self.outcome = None;
    }

    /// Whether the key of `role` opens a keyslot; `None` when there is no header.
    pub(crate) fn opens(&self, role: KeyRole) -> Option<bool> {
        self.keyslots.as_ref().filter(|_| !self.damaged).map(|slots| slots.opens(role))
    }

    /// Keeps the header.
    pub(crate) fn back_up_header(&mut self) -> Result<(), Error> {
        if self.damaged {
            return Err(Error::Bench("there is no header to back up any more".into()));
        }
        self.aside.header.clone_from(&self.keyslots);
        Ok(())
    }

    /// The header is overwritten.
    pub(crate) fn damage_header(&mut self) {
        self.damaged = true;
    }

    /// Puts the header that was kept back.
    pub(crate) fn restore_header(&mut self) -> Result<(), Error> {
        let missing = || Error::Bench("there is no backup of the header".into());
        self.keyslots = Some(self.aside.header.clone().ok_or_else(missing)?);
        self.damaged = false;
        Ok(())
    }

    /// Keeps the machine.
    pub(crate) fn snapshot(&mut self) {
        let Self { volumes, variables, keyslots, damaged, esp, room, seed, failures, .. } = &*self;
        self.aside.snapshot = Some(Snapshot {
            volumes: volumes.clone(),
            variables: variables.clone(),
            keyslots: keyslots.clone(),
            damaged: *damaged,
            esp: *esp,
            room: *room,
            seed: *seed,
            failures: *failures,
        });
    }

    /// Puts back what the snapshot has.
    pub(crate) fn revert(&mut self, what: Revert) -> Result<(), Error> {
        let missing = || Error::Bench("there is no snapshot".into());
        let then = self.aside.snapshot.clone().ok_or_else(missing)?;
        if matches!(what, Revert::Tpm | Revert::GuestState) {
            (self.seed, self.failures) = (then.seed, then.failures);
            if what == Revert::GuestState {
                self.variables = then.variables;
            }
            return Ok(());
        }
        (self.volumes, self.keyslots, self.damaged) = (then.volumes, then.keyslots, then.damaged);
        (self.esp, self.room) = (then.esp, then.room);
        if what == Revert::DiskOnNewVm {
            let odd = |e: latchkey_disk::varstore::Error| Error::Bench(e.to_string());
            self.variables = VarStore::parse(&self.desk.context.variables).map_err(odd)?;
            self.lose_tpm();
        }
        Ok(())
    }
}
