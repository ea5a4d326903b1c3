//! A scenario from its image to its result.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use latchkey_disk::Access;
use latchkey_machine::{Hardware, Machine, NewMachine};
use latchkey_provision::{Keys, Parent, SealTo, provision};
use latchkey_record::{
    Conclusion, Forecast, HashAlg, Outcome, PcrIndex, ScenarioResult, Status, StepResult, Systemd,
};
use latchkey_supervise::Scratch;

use crate::Error;
use crate::bench::{Bench, Power};
use crate::context::{Context, Keep};
use crate::file::Scenario;
use crate::judge::Sealed;
use crate::model::{Model, tpm_state};
use crate::step::Seal;
use crate::watch::{Event, Watch};

/// Runs `scenario` and gives its result, whatever happens: what fails is in the result's status.
#[must_use]
pub fn run(scenario: &Scenario, context: &Context<'_>, watch: &dyn Watch) -> ScenarioResult {
    let begun = Instant::now();
    let mut result = begin(scenario, &context.image.name, context.reproduce.clone(), watch);
    if scenario.artefacts().any(|artefact| context.lacks(artefact)) {
        result.status = Status::Skipped { reason: "needs-vendor-key".into() };
    } else if let Err(error) = on_a_machine(scenario, context, watch, &mut result) {
        result.status = error.status();
    }
    result.took_ms = millis(begun);
    scenario.judge_known(&mut result, context.today);
    watch.event(&Event::ScenarioEnds(&result));
    result
}

/// The result of a scenario whose `image` cannot be had, for the reason `why`: nobody's verdict.
#[must_use]
pub fn without_image(
    scenario: &Scenario,
    image: &str,
    why: String,
    reproduce: String,
    watch: &dyn Watch,
) -> ScenarioResult {
    let mut result = begin(scenario, image, reproduce, watch);
    result.status = Status::InfrastructureError { reason: why };
    watch.event(&Event::ScenarioEnds(&result));
    result
}

fn begin(scenario: &Scenario, image: &str, reproduce: String, watch: &dyn Watch) -> ScenarioResult {
    watch.event(&Event::ScenarioBegins { name: &scenario.name, image, steps: scenario.steps.len() });
    ScenarioResult {
        scenario: scenario.name.clone(),
        title: scenario.title.clone(),
        why: scenario.why.clone(),
        image: image.to_owned(),
        status: Status::Passed,
        conclusion: None,
        steps: Vec::new(),
        reproduce,
        kept: None,
        took_ms: 0,
        reused: None,
    }
}

fn on_a_machine(
    scenario: &Scenario,
    context: &Context<'_>,
    watch: &dyn Watch,
    result: &mut ScenarioResult,
) -> Result<(), Error> {
    let scratch = Scratch::new(&context.machines, "machine-")?;
    let dir = match scenario.machine.image.names() {
        [_] => context.results.join(&scenario.name),
        _ => context.results.join(format!("{}.{}", scenario.name, context.image.name)),
    };
    std::fs::create_dir_all(&dir).map_err(Error::file("making", &dir))?;
    let mut bench = Bench {
        context,
        watch,
        power: Power::Lost,
        keys: Keys::generate(&scenario.machine.keys),
        bank: scenario.machine.seal.bank,
        baseline: None,
        outcome: None,
        mark: 0,
        next_boot: 1,
        model: None,
        forecast: None,
        tpm: None,
        sealed: Sealed::No,
        locked_out: false,
        powered_on: 0,
        dir,
        name: scenario.name.clone(),
        steps: Vec::new(),
        records: Vec::new(),
        checks: Vec::new(),
    };
    let status = bench.all_steps(scenario, scratch.path());
    result.steps = std::mem::take(&mut bench.steps);
    if status == Status::Passed {
        result.conclusion = conclude(&result.steps);
    }
    result.status = status;
    let by_hand = if context.keep == Keep::Yes { bench.by_hand() } else { None };
    let keys = std::mem::take(&mut bench.keys);
    drop(bench);
    if context.keep == Keep::Yes {
        result.kept = Some(keep(scratch, &by_hand, &keys)?);
    }
    Ok(())
}

impl Bench<'_> {
    /// Provisions, then does every step until one does not hold.
    fn all_steps(&mut self, scenario: &Scenario, scratch: &Path) -> Status {
        let mut status = self.timed(0, "provision: forecast, encrypt in place, seal, keyslots", |b| {
            b.provision(scenario, scratch)
        });
        for (number, step) in (1..).zip(&scenario.steps) {
            if status != Status::Passed {
                break;
            }
            status = self.timed(number, &step.describe(), |b| b.step(step));
        }
        // The last power-off is part of the record: it tells the TPM's lockout counter.
        if status == Status::Passed
            && let Err(error) = self.switch_off().map(drop)
        {
            status = error.status();
        }
        status
    }

    fn timed(&mut self, number: u32, what: &str, act: impl FnOnce(&mut Self) -> Result<(), Error>) -> Status {
        self.watch.event(&Event::StepBegins { number, what });
        let begun = Instant::now();
        let done = act(self);
        let boots = std::mem::take(&mut self.records);
        let checks = std::mem::take(&mut self.checks);
        let status = match done {
            Err(error) => {
                // What the console showed until then is what whoever reads this needs first.
                if let Err(error) = self.save_running_console() {
                    tracing::warn!("{error}");
                }
                error.status()
            }
            Ok(()) => {
                let broken: Vec<String> = checks
                    .iter()
                    .filter(|check| !check.held)
                    .map(|c| format!("{}: expected {}, saw {}", c.what, c.expected, c.seen))
                    .collect();
                if broken.is_empty() { Status::Passed } else { Status::Failed { reason: broken.join("\n") } }
            }
        };
        let took_ms = millis(begun);
        let step = StepResult {
            number,
            what: what.to_owned(),
            status: status.clone(),
            checks,
            boots,
            took_ms,
            shared_with: None,
        };
        self.watch.event(&Event::StepEnds(&step));
        self.steps.push(step);
        status
    }

    /// Makes the machine and does to it what the cloud's host does before anybody boots it: forecasts its boot chain,
    /// encrypts the root in place, seals the key to the forecast PCRs.
    fn provision(&mut self, scenario: &Scenario, scratch: &Path) -> Result<(), Error> {
        let context = self.context;
        let seal = &scenario.machine.seal;
        let banks: &[HashAlg] =
            if seal.bank == HashAlg::Sha256 { &[HashAlg::Sha256] } else { &[HashAlg::Sha256, seal.bank] };
        let new = NewMachine {
            base: &context.image.path,
            format: latchkey_disk::format::detect(&context.image.path)
                .map_err(latchkey_disk::open::Error::from)?,
            variables: &context.variables,
            banks,
            hardware: Hardware::default(),
        };
        let mut machine = Machine::create(context.host, &scratch.join("machine"), &new)?;
        let model =
            Model::new(context.host, machine.hardware(), &context.variables, banks, &context.platform)?;
        let tpm = tpm_state(context.host, &machine)?;
        self.note("forecasting the boot chain");
        let forecast = machine.offline(|files| model.forecast(&files, Access::ReadOnly, &tpm))?;
        let mut chains = vec![chain(&forecast, seal)?];
        for change in &scenario.machine.coming {
            self.note(&format!("forecasting the boot chain after: {}", change.describe()));
            let copy = Machine::create(context.host, &scratch.join("coming"), &new)?;
            self.power = Power::Off(copy);
            self.step(change)?;
            let copy = self.switch_off()?;
            let forecast = copy.offline(|files| model.forecast(&files, Access::ReadOnly, &tpm))?;
            chains.push(chain(&forecast, seal)?);
            self.power = Power::Lost;
            std::fs::remove_dir_all(scratch.join("coming"))
                .map_err(Error::file("removing", &scratch.join("coming")))?;
        }
        self.note("encrypting the root partition in place, sealing its key to the forecast PCRs");
        let platform = provision(&mut machine, context.host, &self.keys, &chains, scratch)?;
        self.watch.event(&Event::Provisioned { keys: &self.keys, platform: &platform });
        self.model = Some(model);
        self.sealed = Sealed::Yes;
        self.power = Power::Off(machine);
        Ok(())
    }

    /// How a person starts the machine by hand, when it is there and off.
    fn by_hand(&mut self) -> Option<String> {
        let host = self.context.host;
        self.switch_off().ok().map(|machine| machine.by_hand(host))
    }
}

/// What a key is sealed to so that the boot that is forecast opens it.
fn chain(forecast: &Forecast, seal: &Seal) -> Result<SealTo, Error> {
    if let Some(why) = unforeseeable(forecast, &seal.pcrs) {
        return Err(Error::Bench(why));
    }
    let values = forecast.pcrs.get(&seal.bank).cloned().unwrap_or_default();
    // Who unseals decides under which key it is sealed.
    let parent = match forecast.systemd {
        Some(Systemd { trusted_srk: true, .. }) => Parent::StorageRoot,
        _ => Parent::Primary,
    };
    Ok(SealTo { pcrs: seal.pcrs.clone(), bank: seal.bank, values, parent })
}

/// Why a key cannot be sealed to `pcrs` as they are forecast: the chain leads somewhere that is not modelled.
fn unforeseeable(forecast: &Forecast, pcrs: &[PcrIndex]) -> Option<String> {
    let open = forecast.unmodelled.iter().find(|open| open.pcrs.iter().any(|pcr| pcrs.contains(pcr)));
    if let Some(open) = open {
        return Some(format!(
            "the key cannot be sealed before the first boot, since {} ({}) is not modelled: {}",
            open.what, open.stage, open.why
        ));
    }
    let to_the_end = forecast.legs.last().is_some_and(|leg| leg.tried_after.is_some());
    (!to_the_end).then(|| {
        format!(
            "the key cannot be sealed: by its forecast the first boot does not come to userspace: {}",
            forecast.because
        )
    })
}

/// Leaves the machine in place, with a script that starts it.
fn keep(scratch: Scratch, by_hand: &Option<String>, keys: &Keys) -> Result<String, Error> {
    let dir = scratch.keep();
    // Whoever enters the machine will need them; they lie beside its disk, for its owner alone.
    for (role, key) in keys.iter() {
        let path = dir.join(role.to_string());
        let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = options.and_then(|mut file| file.write_all(key.expose()));
        written.map_err(Error::file("writing", &path))?;
    }
    let Some(script) = by_hand else {
        return Ok(format!("{} (its power-off failed)", dir.display()));
    };
    let path = dir.join("start.sh");
    std::fs::write(&path, script).map_err(Error::file("writing", &path))?;
    Ok(format!(
        "start it with `sh {}`; its keys lie beside that; remove {} when done",
        path.display(),
        dir.display()
    ))
}

/// What the machine came to: whether its last boot opened by itself, or what else opened it.
fn conclude(steps: &[StepResult]) -> Option<Conclusion> {
    let outcomes: Vec<Outcome> =
        steps.iter().flat_map(|step| &step.boots).filter_map(|boot| boot.outcome).collect();
    match outcomes.last()? {
        Outcome::Unlocked => Some(Conclusion::Open),
        last if last.is_open() => Some(Conclusion::Recoverable { ways: vec![*last] }),
        // A machine that is left locked may still have a way in that the scenario did not try.
        _ => None,
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
