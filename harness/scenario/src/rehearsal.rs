//! Rehearsals: a whole scenario forecast without booting anything, from an image's files alone.
//!
//! A [`Desk`] holds what the machines made of one image have in common, read once. [`rehearse`] goes through a scenario's
//! steps on values: each boot is forecast from what the forecast of the boot before left behind, each change is made to a
//! copy in memory. What only a real guest can tell ([`crate::step::Guest`]) is taken to be as declared.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use latchkey_disk::gpt::Gpt;
use latchkey_disk::{Access, OpenDisk, VarStore};
use latchkey_forecast::{Keyboard, Memo, Target, TokenFact, TpmState, foresee, pcrs_after};
use latchkey_images::{Image, Pki};
use latchkey_provision::{KeyRole, SealTo};
use latchkey_record::results::Check;
use latchkey_record::{BootRecord, Forecast, HashAlg, Outcome, PcrIndex, PcrValues, ScenarioResult};
use serde::Serialize;

use crate::context::Context;
use crate::file::Scenario;
use crate::model::{Model, TABLE};
use crate::pcrs::{self, is_compared};
use crate::provisioning::{banks, chain};
use crate::step::{Artefact, Seal};
use crate::{Error, ModelError};

mod keyslots;
mod sheet;

use keyslots::Keyslots;
use sheet::Sheet;

/// After how many wrong passphrases systemd asks no more (`src/cryptsetup/cryptsetup.c`, `arg_tries`).
const TRIES: u32 = 3;
/// How many failures lock a TPM that nobody set otherwise (libtpms, `DAInit`: `maxTries`).
const FAILURES: u32 = 3;

/// What rehearsals on one image share.
#[derive(Debug)]
pub struct Desk<'a> {
    context: &'a Context<'a>,
    table: Vec<u8>,
    partitions: Gpt,
    esp: Sheet,
    boot: Option<(u32, Sheet)>,
    memo: Memo,
    models: RefCell<BTreeMap<String, Rc<Model>>>,
    made: RefCell<BTreeMap<String, Bytes>>,
}

/// A scenario that was rehearsed on an image.
#[derive(Debug, Clone, Serialize)]
pub struct Rehearsed {
    /// The scenario.
    pub scenario: String,
    /// The image.
    pub image: String,
    /// Its boots in order, as far as the steps before them held.
    pub boots: Vec<RehearsedBoot>,
    /// What was asserted and did not hold, or why it did not come to its end; none when all is as the scenario expects.
    pub broken: Vec<String>,
}

/// One boot of a rehearsal, or the answer at its prompt.
#[derive(Debug, Clone, Serialize)]
pub struct RehearsedBoot {
    /// Counts from 1, as in a run.
    pub number: u32,
    /// The step that it belongs to.
    pub step: u32,
    /// What it comes to; `None` when that hangs on something unmodelled.
    pub outcome: Option<Outcome>,
    /// Why, in a sentence.
    pub because: String,
    /// How many events are measured.
    pub events: usize,
    /// PCR values at the root volume's turn, by bank; at the end where it does not come to that.
    pub pcrs: BTreeMap<HashAlg, PcrValues>,
    /// Whether it comes to the root volume's turn, so that these can be compared with a boot's.
    pub tried: bool,
}

impl Rehearsed {
    /// Where the boots of a run came out, or measured, otherwise than rehearsed, in sentences; empty when nowhere.
    #[must_use]
    pub fn against(&self, real: &ScenarioResult) -> Vec<String> {
        let real: Vec<&BootRecord> = real.steps.iter().flat_map(|step| &step.boots).collect();
        let mut differ: Vec<String> = self.broken.clone();
        if self.boots.len() != real.len() {
            differ.push(format!(
                "{} boots and answers were rehearsed, and there were {}",
                self.boots.len(),
                real.len()
            ));
        }
        for (rehearsed, real) in self.boots.iter().zip(real) {
            let number = rehearsed.number;
            if (number, rehearsed.outcome) != (real.number, real.outcome) {
                let word = |outcome: Option<Outcome>| {
                    outcome.map_or("open".to_owned(), |outcome| outcome.to_string())
                };
                let (told, seen) = (word(rehearsed.outcome), word(real.outcome));
                differ.push(format!(
                    "boot {number}: {told} was rehearsed, and boot {} was {seen}",
                    real.number
                ));
            }
            if !rehearsed.tried {
                continue;
            }
            // A run keeps the bank that its key is sealed to.
            if !rehearsed.pcrs.keys().any(|bank| real.pcrs.contains_key(bank)) {
                differ.push(format!("boot {number}: no bank of PCRs is known of both"));
            }
            for (bank, told) in &rehearsed.pcrs {
                let Some(seen) = real.pcrs.get(bank) else { continue };
                let compared = told.0.iter().filter(|(pcr, _)| is_compared(**pcr));
                let differ_here = compared.filter(|(pcr, value)| seen.0.get(pcr) != Some(value));
                let wrong: Vec<PcrIndex> = differ_here.map(|(pcr, _)| *pcr).collect();
                if !wrong.is_empty() {
                    differ.push(format!("boot {number}: {bank} PCR {} is another", pcrs::list(&wrong)));
                }
            }
        }
        differ
    }
}

impl<'a> Desk<'a> {
    /// Reads the image of `context`: its partition table, and all that boot loaders can read.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn new(context: &'a Context<'a>) -> Result<Self, Error> {
        let mut disk = OpenDisk::open(&context.image.path, Access::ReadOnly)?;
        let partitions = disk.table()?;
        let mut table = Vec::new();
        let start = File::open(disk.raw()).and_then(|whole| whole.take(TABLE).read_to_end(&mut table));
        start.map_err(Error::file("reading", &context.image.path))?;
        let esp = Sheet::of_esp(&disk.esp()?)?;
        let kernels = disk.kernels()?;
        let boot =
            kernels.as_ref().map(|kernels| Ok::<_, Error>((kernels.number(), Sheet::of_kernels(kernels)?)));
        let boot = boot.transpose()?;
        drop(kernels);
        disk.close()?;
        let (models, made) = (RefCell::default(), RefCell::default());
        Ok(Self { context, table, partitions, esp, boot, memo: Memo::default(), models, made })
    }

    fn model(&self, scenario: &Scenario) -> Result<Rc<Model>, Error> {
        let (hardware, banks) = (scenario.machine.hardware(), banks(&scenario.machine.seal));
        let key = format!("{hardware:?} {banks:?}");
        if let Some(model) = self.models.borrow().get(&key) {
            return Ok(model.clone());
        }
        let context = self.context;
        let model = Model::new(context.host, &hardware, &context.variables, banks, &context.platform)?;
        let model = Rc::new(model);
        self.models.borrow_mut().insert(key, model.clone());
        Ok(model)
    }
}

/// Forecasts all of `scenario` on the image of `desk`, and holds it against what the scenario expects.
///
/// # Errors
/// When the platform's constant cannot be measured, or a file system cannot be read. Everything that a scenario or a
/// machine has wrong is in the answer.
pub fn rehearse(scenario: &Scenario, desk: &Desk<'_>) -> Result<Rehearsed, Error> {
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
    let Rehearsal { boots, .. } = rehearsal;
    Ok(Rehearsed { scenario: scenario.name.clone(), image: desk.context.image.name.clone(), boots, broken })
}

/// A machine as values, as the steps so far would leave it.
#[derive(Debug, Clone)]
pub(crate) struct Rehearsal<'a> {
    desk: &'a Desk<'a>,
    model: Rc<Model>,
    bank: HashAlg,
    esp: Sheet,
    boot: Option<(u32, Sheet)>,
    pub(crate) variables: VarStore,
    pub(crate) keyslots: Option<Keyslots>,
    banks: &'static [HashAlg],
    /// Whether the TPM is another than the one that the tokens were sealed by.
    foreign: bool,
    failures: u32,
    wrong: u32,
    step: u32,
    number: u32,
    /// The boot that is under way.
    now: Option<Forecast>,
    pub(crate) outcome: Option<Outcome>,
    baseline: Option<BTreeMap<HashAlg, PcrValues>>,
    boots: Vec<RehearsedBoot>,
    checks: Vec<Check>,
}

impl<'a> Rehearsal<'a> {
    fn new(scenario: &Scenario, desk: &'a Desk<'a>) -> Result<Self, Error> {
        let odd = |e: latchkey_disk::varstore::Error| Error::Bench(e.to_string());
        Ok(Self {
            desk,
            model: desk.model(scenario)?,
            bank: scenario.machine.seal.bank,
            esp: desk.esp.clone(),
            boot: desk.boot.clone(),
            variables: VarStore::parse(&desk.context.variables).map_err(odd)?,
            keyslots: None,
            banks: banks(&scenario.machine.seal),
            foreign: false,
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
        self.keyslots = Some(Keyslots::provisioned(&machine.keys, &chains)?);
        Ok(())
    }

    /// What the next boot measures, and the variables that it leaves.
    fn forecast(&self) -> Result<(Forecast, VarStore), Error> {
        let fact = if self.foreign { TokenFact::Foreign } else { TokenFact::Loads };
        let tokens =
            self.keyslots.iter().flat_map(Keyslots::tpm_tokens).map(|number| (number, fact)).collect();
        let tpm = TpmState { banks: self.banks.to_vec(), locked: self.failures >= FAILURES, tokens };
        let target = Target {
            firmware: &self.model.firmware,
            platform: &self.model.platform,
            variables: &self.variables,
            table: &self.desk.table,
            partitions: &self.desk.partitions,
            esp: &self.esp,
            boot: self
                .boot
                .as_ref()
                .map(|(number, sheet)| (*number, sheet as &dyn latchkey_forecast::Volume)),
            header: self.keyslots.as_ref().map(|slots| &slots.header),
            tpm: &tpm,
            keyboard: Keyboard::Nobody,
        };
        Ok(foresee(&target, &self.desk.memo).map_err(ModelError::from)?)
    }

    /// The next boot.
    pub(crate) fn boot(&mut self) -> Result<(), Error> {
        let (forecast, left) = self.forecast()?;
        self.variables = left;
        self.wrong = 0;
        self.number += 1;
        self.outcome = forecast.outcome;
        let tried = forecast.legs.last().is_some_and(|leg| leg.tried_after.is_some());
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

    /// Compares the boot that is under way with the last one that opened by itself, and makes it that one if it does.
    pub(crate) fn moved(&mut self) -> Option<String> {
        let now = self.now.as_ref()?.pcrs.clone();
        let moved = self.baseline.as_ref().map(|then| {
            let moved = pcrs::moved(&now, then, self.bank, is_compared);
            pcrs::list_or_unknown(moved.as_deref())
        });
        if self.outcome == Some(Outcome::Unlocked) {
            self.baseline = Some(now);
        }
        moved
    }

    /// Who reports a refusal.
    pub(crate) fn reported_by(&self) -> String {
        let reported = self.now.as_ref().and_then(|forecast| forecast.reported_by.clone());
        reported.unwrap_or_else(|| "nobody".into())
    }

    /// Whether the TPM refuses for its lockout.
    pub(crate) fn locked_out(&self) -> bool {
        let tried = self.boots.last().is_some_and(|boot| boot.tried);
        tried && self.failures >= FAILURES && !self.foreign
    }

    /// Somebody types a key, `times` times.
    pub(crate) fn answer(&mut self, role: KeyRole, times: u32) -> Result<(), Error> {
        if self.outcome != Some(Outcome::FallbackPrompt) {
            return Err(Error::Verdict("nothing asks for a key".into()));
        }
        let opens = self.keyslots.as_ref().is_some_and(|slots| slots.opens(role));
        let (outcome, because) = match role {
            role if opens && role.is_recovery() => (Outcome::UnlockedByRecoveryKey, "it opens a keyslot"),
            _ if opens => (Outcome::UnlockedByPassphrase, "it opens a keyslot"),
            _ => {
                self.wrong += times;
                match self.wrong {
                    TRIES.. => (Outcome::EmergencyShell, "nobody is asked a fourth time"),
                    _ => (Outcome::FallbackPrompt, "it opens nothing, and somebody is asked again"),
                }
            }
        };
        self.outcome = Some(outcome);
        if let Some(boot) = self.boots.last().cloned() {
            let (step, because) = (self.step, because.to_owned());
            self.boots.push(RehearsedBoot { step, outcome: self.outcome, because, ..boot });
        }
        Ok(())
    }

    /// The machine's power goes while a guest runs that used the TPM's key.
    pub(crate) fn cut_power(&mut self) {
        if self.outcome == Some(Outcome::Unlocked) {
            self.failures += 1;
        }
        self.outcome = None;
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn forget_failures(&mut self) {
        self.failures = 0;
    }

    /// Another TPM, or another seed in the same.
    pub(crate) fn lose_tpm(&mut self) {
        self.foreign = true;
        self.failures = 0;
    }

    /// Seals to the boot that is under way, whose guest runs; tells whether there was anything to do.
    pub(crate) fn reseal(&mut self, sealed: &[PcrIndex]) -> Result<bool, Error> {
        let none = || Error::Bench("there is nothing to seal to yet".into());
        let (now, slots) = (self.now.as_ref().ok_or_else(none)?, self.keyslots.as_mut().ok_or_else(none)?);
        let events = now.legs.last().map(|leg| &leg.events[..]).unwrap_or_default();
        let values = pcrs_after(self.banks, events).remove(&HashAlg::Sha256).unwrap_or_default();
        let parent = crate::provisioning::parent(now);
        let chain = SealTo { pcrs: sealed.to_vec(), bank: HashAlg::Sha256, values, parent };
        let done = slots.reseal(&chain)?;
        self.foreign &= !done;
        Ok(done)
    }

    /// Adds a token for the next boot.
    pub(crate) fn seal_ahead(&mut self, pcrs: &[PcrIndex]) -> Result<(), Error> {
        let chain = chain(&self.forecast()?.0, &Seal { pcrs: pcrs.to_vec(), bank: self.bank })?;
        let none = || Error::Bench("the machine is not provisioned".into());
        self.keyslots.as_mut().ok_or_else(none)?.seal_ahead(&chain)
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

    pub(crate) fn image(&self) -> &'a Image {
        self.desk.context.image
    }

    pub(crate) fn pki(&self) -> &'a Pki {
        self.desk.context.pki
    }

    pub(crate) fn artefacts(&self) -> &'a BTreeMap<Artefact, PathBuf> {
        &self.desk.context.artefacts
    }

    /// The file systems as they are by now.
    pub(crate) fn sheet(&mut self, boot: bool) -> Result<&mut Sheet, Error> {
        match (boot, &mut self.boot) {
            (false, _) => Ok(&mut self.esp),
            (true, Some((_, sheet))) => Ok(sheet),
            (true, None) => Err(Error::Bench("the disk has no partition with kernels".into())),
        }
    }

    /// A file as the image has it.
    pub(crate) fn in_image(&self, boot: bool, path: &str) -> Result<Option<Bytes>, Error> {
        let sheet = match (boot, &self.desk.boot) {
            (false, _) => Some(&self.desk.esp),
            (true, boot) => boot.as_ref().map(|(_, sheet)| sheet),
        };
        let read = sheet.map(|sheet| latchkey_forecast::Volume::read(sheet, path)).transpose();
        Ok(read.map_err(|e| Error::Bench(e.to_string()))?.flatten())
    }

    /// What `make` makes, which is called `what`: made once for all rehearsals on this image.
    pub(crate) fn once(
        &self,
        what: String,
        make: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<Bytes, Error> {
        if let Some(made) = self.desk.made.borrow().get(&what) {
            return Ok(made.clone());
        }
        let made = Bytes::from(make()?);
        self.desk.made.borrow_mut().insert(what, made.clone());
        Ok(made)
    }
}
