//! Rehearsals: a whole scenario forecast without booting anything, from an image's files alone.
//!
//! A [`Desk`] holds what the machines made of one image have in common, read once. [`rehearse`] goes through a scenario's
//! steps on values: each boot is forecast from what the forecast of the boot before left behind, each change is made to a
//! copy in memory. What only a real guest can tell ([`crate::step::Guest`]) is taken to be as declared.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use latchkey_disk::VarStore;
use latchkey_disk::kernels::Error as Unusable;
use latchkey_forecast::{
    Keyboard, RootVolume, Target, TokenFact, TpmState, Unreadable, Volume, foresee, pcrs_after,
};
use latchkey_machine::Hardware;
use latchkey_measure::hash::digest;
use latchkey_provision::{KeyRole, SealTo};
use latchkey_record::results::Check;
use latchkey_record::{Certainty, Forecast, ForecastEvent, HashAlg, Outcome, PcrIndex, PcrValues};

use crate::behind::{parted, unvalued};
use crate::file::Scenario;
use crate::model::Model;
use crate::pcrs;
use crate::provisioning::{banks, chain, parent};
use crate::step::{By, EspState, Old, Place, Room, Seal, To};
use crate::{Error, ModelError};

mod aside;
mod desk;
mod keyslots;
mod sheet;
mod site;
mod told;

use aside::Aside;
pub use desk::Desk;
use desk::Volumes;
use keyslots::Keyslots;
use sheet::Sheet;
pub use told::{Rehearsed, RehearsedBoot};

/// How many failures lock a TPM that nobody set otherwise (libtpms, `DAInit`: `maxTries`).
const FAILURES: u32 = 3;

/// Forecasts all of `scenario` on the image of `desk`, and holds it against what the scenario expects.
///
/// # Errors
/// When the platform's constant cannot be measured, a file system cannot be read, or the user asks to stop. Everything that a scenario or a
/// machine has wrong is in the answer.
pub fn rehearse(scenario: &Scenario, desk: &Desk<'_>) -> Result<Rehearsed, Error> {
    let (name, image) = (scenario.name.clone(), desk.context.image.name.clone());
    if let skipped @ Some(_) = desk.context.lacks_for(scenario)? {
        let (boots, broken) = (Vec::new(), Vec::new());
        return Ok(Rehearsed { scenario: name, image, boots, broken, failed_at: None, known: None, skipped });
    }
    let mut rehearsal = Rehearsal::new(scenario, desk)?;
    let mut broken = Vec::new();
    match rehearsal.provision(scenario) {
        Ok(()) => {}
        Err(Error::Bench(why) | Error::Verdict(why)) => broken.push(format!("provisioning: {why}")),
        Err(error) => return Err(error),
    }
    for (number, step) in (1..).zip(&scenario.steps) {
        if !broken.is_empty() {
            break;
        }
        rehearsal.step = number;
        rehearsal.ends_unless_it_listens();
        match step.rehearse(&mut rehearsal) {
            Ok(()) => {}
            Err(Error::Bench(why) | Error::Verdict(why)) => broken.push(format!("step {number}: {why}")),
            Err(error) => return Err(error),
        }
        let wrong = rehearsal.checks.drain(..).filter(|check| !check.held);
        broken
            .extend(wrong.map(|c| {
                format!("step {number}: {}: expected {}, and it is {}", c.what, c.expected, c.seen)
            }));
    }
    let failed_at = (!broken.is_empty()).then_some(rehearsal.step);
    let Rehearsal { boots, .. } = rehearsal;
    Ok(Rehearsed { scenario: name, image, boots, broken, failed_at, known: None, skipped: None })
}

/// A machine as values, as the steps so far would leave it.
#[derive(Debug, Clone)]
pub(crate) struct Rehearsal<'a> {
    desk: &'a Desk<'a>,
    model: Rc<Model>,
    hardware: Hardware,
    bank: HashAlg,
    volumes: Volumes,
    /// The partition with kernels as it was before the guest that runs changed it, if its log alone has the changes.
    before: Option<Sheet>,
    /// The same after a power cut, until Linux mounts it: what boot loaders read.
    blocks: Option<Sheet>,
    pub(crate) variables: VarStore,
    pub(crate) keyslots: Option<Keyslots>,
    /// Whether the LUKS header was overwritten, with all keyslots.
    damaged: bool,
    aside: Aside,
    banks: Vec<HashAlg>,
    /// Whether the machine has a TPM.
    pub(crate) has_tpm: bool,
    /// Whether the file system of the ESP can be read.
    pub(crate) esp: EspState,
    /// Whether it has room.
    pub(crate) room: Room,
    /// Which TPM, or which seed of it, the machine has; and the last one that there was.
    seed: u32,
    seeds: u32,
    failures: u32,
    wrong: u32,
    step: u32,
    number: u32,
    /// The boot that is under way.
    now: Option<Forecast>,
    pub(crate) outcome: Option<Outcome>,
    /// PCRs and events of the last boot that opened by itself.
    baseline: Option<(BTreeMap<HashAlg, PcrValues>, Vec<ForecastEvent>)>,
    boots: Vec<RehearsedBoot>,
    checks: Vec<Check>,
}

impl<'a> Rehearsal<'a> {
    fn new(scenario: &Scenario, desk: &'a Desk<'a>) -> Result<Self, Error> {
        let odd = |e: latchkey_disk::varstore::Error| Error::Bench(e.to_string());
        Ok(Self {
            desk,
            model: desk.model_of(&scenario.machine.hardware(), banks(&scenario.machine.seal))?,
            hardware: scenario.machine.hardware(),
            bank: scenario.machine.seal.bank,
            volumes: desk.volumes.clone(),
            before: None,
            blocks: None,
            variables: VarStore::parse(&desk.context.variables).map_err(odd)?,
            keyslots: None,
            damaged: false,
            aside: Aside::default(),
            banks: banks(&scenario.machine.seal).to_vec(),
            has_tpm: true,
            esp: EspState::Whole,
            room: Room::Left,
            seed: 0,
            seeds: 0,
            failures: 0,
            wrong: 0,
            step: 0,
            number: 0,
            now: None,
            outcome: None,
            baseline: None,
            boots: Vec::new(),
            checks: Vec::new(),
        })
    }

    fn provision(&mut self, scenario: &Scenario) -> Result<(), Error> {
        let machine = &scenario.machine;
        let mut chains = vec![chain(&self.forecast()?.0, &machine.seal)?];
        for change in &machine.coming {
            let mut coming = self.clone();
            change.rehearse(&mut coming)?;
            chains.push(chain(&coming.forecast()?.0, &machine.seal)?);
        }
        self.keyslots = Some(Keyslots::provisioned(&machine.keys, &chains, self.seed)?);
        Ok(())
    }

    /// What the next boot measures, and the variables that it leaves.
    fn forecast(&self) -> Result<(Forecast, VarStore), Error> {
        self.forecast_with(Keyboard::Nobody)
    }

    fn forecast_with(&self, keyboard: Keyboard) -> Result<(Forecast, VarStore), Error> {
        // Whatever takes long here is a forecast, or many of them.
        if latchkey_supervise::cancelled() {
            return Err(latchkey_supervise::Error::Cancelled.into());
        }
        let slots = self.keyslots.iter().filter(|_| !self.damaged);
        let fact = |seed| if seed == self.seed { TokenFact::Loads } else { TokenFact::Foreign };
        let tokens =
            slots.flat_map(Keyslots::tpm_tokens).map(|(number, seed)| (number, fact(seed))).collect();
        let banks = if self.has_tpm { self.banks.clone() } else { Vec::new() };
        let tpm = TpmState { banks, locked: self.failures >= FAILURES, tokens };
        let target = Target {
            firmware: &self.model.firmware,
            platform: &self.model.platform,
            variables: &self.variables,
            table: &self.desk.table,
            partitions: &self.desk.partitions,
            esp: match self.esp {
                EspState::Whole => &self.volumes.esp,
                EspState::Damaged => &Unreadable,
            },
            boot: self
                .volumes
                .boot
                .as_ref()
                .map(|(number, sheet)| (*number, self.blocks.as_ref().unwrap_or(sheet) as &dyn Volume)),
            root: match &self.keyslots {
                _ if self.damaged => RootVolume::Unrecognised,
                Some(slots) => RootVolume::Luks(&slots.header),
                None => RootVolume::Plain,
            },
            tpm: &tpm,
            keyboard,
        };
        Ok(foresee(&target, &self.desk.memo).map_err(ModelError::from)?)
    }

    /// The next boot.
    pub(crate) fn boot(&mut self, keyboard: Keyboard) -> Result<(), Error> {
        self.ends_unless_it_listens();
        // A guest that ran until now has unmounted it.
        self.before = None;
        let (forecast, left) = self.forecast_with(keyboard)?;
        self.variables = left;
        self.wrong = 0;
        self.number += 1;
        self.comes_to(forecast.outcome);
        let tried = !forecast.untried && forecast.legs.last().is_some_and(|leg| leg.tried_after.is_some());
        self.boots.push(RehearsedBoot {
            number: self.number,
            step: self.step,
            outcome: forecast.outcome,
            because: forecast.because.clone(),
            events: forecast.legs.iter().map(|leg| leg.events.len()).sum(),
            pcrs: forecast.pcrs.clone(),
            tried,
        });
        self.now = Some(forecast);
        Ok(())
    }

    /// Compares the boot that is under way with the last one that opened by itself, and makes it that one if it does. Gives
    /// the PCRs that moved, and where the measurements came from that one has and the other has not.
    pub(crate) fn moved(&mut self) -> Option<(String, BTreeSet<String>)> {
        if !self.has_tpm {
            return None;
        }
        let forecast = self.now.as_ref()?;
        let events = forecast.legs.last().map(|leg| leg.events.clone()).unwrap_or_default();
        let now = forecast.pcrs.clone();
        let moved = self.baseline.as_ref().map(|(then, events_then)| {
            let moved = pcrs::moved(&now, then, self.bank, PcrIndex::is_compared).map(|mut moved| {
                if let (Some(then), Some(now)) = (then.get(&self.bank), now.get(&self.bank)) {
                    moved.extend(unvalued((then, events_then), (now, &events)));
                    moved.sort_unstable();
                }
                moved
            });
            (pcrs::list_or_unknown(moved.as_deref()), parted(events_then, &events))
        });
        if self.outcome == Some(Outcome::Unlocked) {
            self.baseline = Some((now, events));
        }
        moved
    }

    /// Who reports a refusal.
    pub(crate) fn reported_by(&self) -> String {
        let reported = self.now.as_ref().and_then(|forecast| forecast.reported_by.clone());
        reported.unwrap_or_else(|| "nobody".into())
    }

    /// Somebody types a key, `times` times.
    pub(crate) fn answer(&mut self, role: KeyRole, times: u32) -> Result<(), Error> {
        if self.outcome != Some(Outcome::FallbackPrompt) {
            return Err(Error::Verdict("nothing asks for a key".into()));
        }
        let opens = role.survives_prompt() && self.opens(role) == Some(true);
        let (outcome, because) = match role {
            role if opens && role.is_recovery() => {
                (Some(Outcome::UnlockedByRecoveryKey), "it opens a keyslot".to_owned())
            }
            _ if opens => (Some(Outcome::UnlockedByPassphrase), "it opens a keyslot".to_owned()),
            _ => {
                self.wrong += times;
                match self.now.as_ref().and_then(|now| now.prompts) {
                    Some(most) if self.wrong >= most => {
                        (Some(Outcome::EmergencyShell), format!("this systemd asks {most} times and no more"))
                    }
                    Some(_) => (
                        Some(Outcome::FallbackPrompt),
                        "it opens nothing, and somebody is asked again".to_owned(),
                    ),
                    None => (None, "how often this systemd asks is not known".to_owned()),
                }
            }
        };
        self.comes_to(outcome);
        if let Some(boot) = self.boots.last().cloned() {
            let step = self.step;
            self.boots.push(RehearsedBoot { step, outcome: self.outcome, because, ..boot });
        }
        Ok(())
    }

    /// The boot that is under way comes to `outcome`. Where that is a system, it mounts what it finds.
    pub(crate) fn comes_to(&mut self, outcome: Option<Outcome>) {
        self.outcome = outcome;
        if outcome.is_some_and(Outcome::is_open) {
            self.blocks = None;
        }
    }

    /// Somebody changes the file at `place`.
    ///
    /// # Errors
    /// [`Error::Bench`] where he cannot.
    fn changes(&mut self, place: &Place, by: By) -> Result<(), Error> {
        let Place::Boot(path) = place else { return Ok(()) };
        let Some(sheet) =
            self.volumes.boot.as_ref().map(|(_, sheet)| sheet).filter(|sheet| sheet.xfs.is_some())
        else {
            return Ok(());
        };
        match by {
            By::Guest => self.before = Some(self.before.take().unwrap_or_else(|| sheet.clone())),
            By::AnotherVm => self.blocks = None,
            By::Rescue => return Err(Error::Bench(Unusable::only_linux_writes(path).to_string())),
        }
        Ok(())
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn forget_failures(&mut self) {
        self.failures = 0;
    }

    /// Another TPM, or another seed in the same.
    pub(crate) fn lose_tpm(&mut self) {
        self.failures = 0;
        self.seeds += 1;
        self.seed = self.seeds;
    }

    /// `bank` is the only one from now on.
    pub(crate) fn allocate(&mut self, bank: HashAlg) -> Result<(), Error> {
        self.model = self.desk.model_of(&self.hardware, &[bank])?;
        (self.banks, self.bank, self.baseline) = (vec![bank], bank, None);
        Ok(())
    }

    /// Seals to the boot that is under way, whose guest runs, or to the next one; tells whether there was anything to do.
    pub(crate) fn reseal(&mut self, sealed: &[PcrIndex], to: To, old: Old) -> Result<bool, Error> {
        let none = || Error::Bench("there is nothing to seal to yet".into());
        if to == To::NextBoot {
            let seal = Seal { pcrs: sealed.to_vec(), bank: self.bank, under: None };
            let next = self.forecast()?.0;
            // The versions that know a parent of the key take values as well: 255, RHEL's 252-27.
            if !next.systemd.is_some_and(|systemd| systemd.trusted_srk) {
                let why = "this systemd-cryptenroll seals to values that the TPM has, and to no others";
                return Err(Error::Verdict(why.into()));
            }
            let chain = chain(&next, &seal)?;
            return self.keyslots.as_mut().ok_or_else(none)?.reseal(&chain, self.seed, old);
        }
        let (now, slots) = (self.now.as_ref().ok_or_else(none)?, self.keyslots.as_mut().ok_or_else(none)?);
        let events = now.legs.last().map(|leg| &leg.events[..]).unwrap_or_default();
        let mut values = pcrs_after(&self.banks, events).remove(&HashAlg::Sha256).unwrap_or_default();
        // What a PCR has that was extended by what nobody forecasts is no value that anybody forecasts.
        for event in events.iter().filter(|event| matches!(event.certainty, Certainty::Open(_))) {
            values.0.entry(event.pcr).or_insert_with(|| digest(HashAlg::Sha256, b"not forecast"));
        }
        let parent = parent(now);
        let chain = SealTo { pcrs: sealed.to_vec(), bank: HashAlg::Sha256, values, parent };
        slots.reseal(&chain, self.seed, old)
    }

    /// Adds a token for the next boot.
    pub(crate) fn seal_ahead(&mut self, pcrs: &[PcrIndex]) -> Result<(), Error> {
        let chain = chain(&self.forecast()?.0, &Seal { pcrs: pcrs.to_vec(), bank: self.bank, under: None })?;
        let none = || Error::Bench("the machine is not provisioned".into());
        self.keyslots.as_mut().ok_or_else(none)?.seal_ahead(&chain, self.seed)
    }

    /// Removes the token with this number.
    pub(crate) fn remove_token(&mut self, number: u32) -> Result<(), Error> {
        let none = || Error::Verdict(format!("there is no token {number}"));
        self.keyslots.as_mut().is_some_and(|slots| slots.remove_token(number)).then_some(()).ok_or_else(none)
    }

    pub(crate) fn check(&mut self, what: &str, expected: impl Into<String>, seen: impl Into<String>) {
        let (expected, seen) = (expected.into(), seen.into());
        let held = expected == seen;
        self.checks.push(Check { what: what.to_owned(), expected, seen, held });
    }

    pub(crate) fn check_outcome(&mut self, expected: Outcome) {
        let seen = match (self.outcome, self.boots.last()) {
            (Some(outcome), Some(boot)) if outcome != expected => format!("{outcome} ({})", boot.because),
            (Some(outcome), _) => outcome.to_string(),
            (None, boot) => format!("open: {}", boot.map_or("nothing was booted", |boot| &boot.because)),
        };
        self.check("outcome", expected.code(), seen);
    }
}
