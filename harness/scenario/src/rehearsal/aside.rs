//! What a rehearsal sets aside: a header's backup, a snapshot.

use latchkey_disk::VarStore;
use latchkey_provision::KeyRole;

use super::Rehearsal;
use super::desk::Volumes;
use super::keyslots::Keyslots;
use crate::Error;
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
