//! A scenario from its image to its result.

use std::path::Path;
use std::time::Instant;

use latchkey_record::results::NOT_REACHED;
use latchkey_record::{Conclusion, Outcome, ScenarioResult, Status, StepResult};
use latchkey_supervise::{Scratch, Wanted};

use crate::Error;
use crate::bench::Bench;
use crate::context::{Context, Keep};
use crate::file::Scenario;
use crate::sharing::{Known, Way};
use crate::watch::{Event, Watch};

mod judged;
mod keep;

use judged::judged;
use keep::keep;

/// What a machine takes besides its guest's memory, in MiB: QEMU itself, the TPM, and the files that the guest has in the
/// host's memory.
const BESIDES_MIB: u64 = 400;

/// What a machine of `scenario` takes, in MiB.
pub(crate) fn each_mib(scenario: &Scenario) -> u64 {
    u64::from(scenario.machine.hardware().memory_mib) + BESIDES_MIB
}

/// Runs `scenario` and gives its result, whatever happens: what fails is in the result's status.
#[must_use]
pub fn run(scenario: &Scenario, context: &Context<'_>, watch: &dyn Watch) -> ScenarioResult {
    let begun = Instant::now();
    let mut result = begin(scenario, &context.image.name, context.reproduce.clone(), watch);
    result.image_identity = Some(context.identity.clone());
    let done = match context.lacks_for(scenario) {
        Ok(Some(reason)) => {
            result.status = Status::Skipped { reason };
            Ok(())
        }
        Ok(None) => match context.why_no_other_vm.filter(|_| scenario.needs_another_vm()) {
            Some(why) => Err(Error::Bench(format!("there is no other VM to attach the disk to: {why}"))),
            None => on_a_machine(scenario, context, watch, &mut result),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        result.status = error.status();
    }
    result.took_ms = millis(begun);
    scenario.judge_known(&mut result, context.image.like.as_deref(), context.today);
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

/// The result of a scenario that is to run on `image` and has not, for the reason `why`.
#[must_use]
pub fn not_reached(scenario: &Scenario, image: &str, reproduce: String, why: NotReached) -> ScenarioResult {
    let reason = match why {
        NotReached::Interrupted => "the run was interrupted",
        NotReached::Yet => "the run goes on, or was killed",
    };
    let status = Status::Skipped { reason: format!("{NOT_REACHED}{reason}") };
    ScenarioResult { status, ..blank(scenario, image, reproduce) }
}

/// Why a run has not come to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReached {
    /// It goes on, as far as it knows.
    Yet,
    /// It was asked to end.
    Interrupted,
}

fn begin(scenario: &Scenario, image: &str, reproduce: String, watch: &dyn Watch) -> ScenarioResult {
    watch.event(&Event::ScenarioBegins { name: &scenario.name, image, steps: scenario.steps.len() });
    blank(scenario, image, reproduce)
}

fn blank(scenario: &Scenario, image: &str, reproduce: String) -> ScenarioResult {
    ScenarioResult {
        scenario: scenario.name.clone(),
        title: scenario.title.clone(),
        why: scenario.why.clone(),
        image: image.to_owned(),
        host: None,
        status: Status::Passed,
        conclusion: None,
        steps: Vec::new(),
        reproduce,
        kept: None,
        took_ms: 0,
        reused: None,
        image_identity: None,
    }
}

fn on_a_machine(
    scenario: &Scenario,
    context: &Context<'_>,
    watch: &dyn Watch,
    result: &mut ScenarioResult,
) -> Result<(), Error> {
    let scratch = Scratch::new(&context.machines, "machine-")?;
    let mut bench = Bench::new(scenario, context, watch, scratch.path())?;
    let way = Way::of(scenario, context);
    if let Some(known) = bench.known(&way)? {
        let Known { status, steps, conclusion, reused } = known;
        (result.status, result.steps, result.conclusion, result.reused) = (status, steps, conclusion, reused);
        return Ok(());
    }
    let machines = 1 + usize::from(scenario.needs_another_vm());
    let wanted = Wanted { each_mib: each_mib(scenario), things: machines, at_once: context.at_once };
    let _room = latchkey_supervise::room(wanted, || bench.note("waiting for room beside other machines"))?;
    let status = bench.all_steps(scenario, &way, scratch.path());
    // The console of its last power-off is part of the record.
    let by_hand = if context.keep == Keep::Yes { bench.by_hand() } else { None };
    let status = bench.unless_it_leaks(status);
    result.steps = std::mem::take(&mut bench.steps);
    if status == Status::Passed {
        result.conclusion = conclude(scenario, &result.steps);
    } else {
        result.steps.extend(not_done(scenario, &result.steps));
    }
    result.status = status;
    // The verdict stands, whether or not it can be remembered.
    if let Err(error) = bench.remember(&way, result) {
        tracing::warn!("{} will be run again next time: {error}", bench.row);
    }
    let keys = std::mem::take(&mut bench.keys);
    drop(bench);
    if context.keep == Keep::Yes {
        // Whatever becomes of the machine, the verdict stands.
        result.kept = keep(scratch, &by_hand, &keys)
            .inspect_err(|error| tracing::warn!("the machine of {} is not kept: {error}", result.row()))
            .ok();
    }
    Ok(())
}

impl Bench<'_> {
    /// Does every step until one does not hold, beginning with a fork of the machine after the last step that is shared
    /// with other rows.
    fn all_steps(&mut self, scenario: &Scenario, way: &Way<'_>, scratch: &Path) -> Status {
        let reached = self.reach(scenario, way, way.stops.len(), scratch);
        let from = way.stops.last().map_or(0, |stop| stop + 1);
        let status = match reached {
            Ok(Status::Passed) => self.steps_between(scenario, from, scenario.steps.len(), scratch),
            Ok(status) => status,
            Err(error) => error.status(),
        };
        // What the console showed since the last boot was clear is part of the record.
        if let (Status::Passed, Err(error)) = (&status, self.save_running_console()) {
            return error.status();
        }
        // So is the last power-off: it tells the TPM's lockout counter. A guest has told it already.
        let told = self.steps.iter().flat_map(|step| &step.boots).next_back();
        if status == Status::Passed
            && told.is_none_or(|boot| boot.lockout_counter.is_none())
            && let Err(error) = self.switch_off().map(drop)
        {
            return error.status();
        }
        status
    }

    /// Brings the bench to the first `count` of the places where rows part: with a fork of the machine that was saved
    /// there, by this row or by another. 0 is a bench with nothing on it.
    fn reach(
        &mut self,
        scenario: &Scenario,
        way: &Way<'_>,
        count: usize,
        scratch: &Path,
    ) -> Result<Status, Error> {
        let (Some(sharing), Some(stop)) = (&self.context.sharing, count.checked_sub(1)) else {
            return Ok(Status::Passed);
        };
        let (at, key) = (way.stops[stop], &way.keys[way.stops[stop]]);
        let store = sharing.store;
        let waiting = || self.note("waiting for another row to come to where this one goes on");
        let mut claim = Some(store.claim(key, waiting)?);
        let place = match store.saved(key) {
            Some(place) => place,
            None => {
                if let Some(failure) = store.failure(key) {
                    return self.share_failure(failure);
                }
                // Nobody has to wait for what is not saved.
                claim = claim.filter(|_| store.takes(key));
                let mut status = self.reach(scenario, way, stop, scratch)?;
                if status == Status::Passed {
                    let from = stop.checked_sub(1).map_or(0, |before| way.stops[before] + 1);
                    status = self.steps_between(scenario, from, at, scratch);
                }
                if let Status::Failed { .. } = status {
                    status = self.unless_it_leaks(status);
                    store.failed(key, self.failure(&status));
                }
                if status != Status::Passed || claim.is_none() {
                    return Ok(status);
                }
                let part = store.begin(key)?;
                self.save(part.path())?;
                part.finish()?
            }
        };
        let forked = self.fork(&place, &scratch.join(format!("fork-{count}")));
        if let Err(error) = &forked
            && error.is_of_what_was_saved()
        {
            self.note("what was saved is damaged: no row goes on from it, and a later run makes it anew");
            // What it is not is the reason, and not that nobody could write it down.
            if let Err(error) = store.discard(key, error) {
                tracing::warn!("{error}");
            }
        }
        drop(claim);
        forked?;
        self.model = Some(self.model(scenario)?);
        Ok(Status::Passed)
    }

    /// Does the steps from number `from` to number `to`, both included; 0 is provisioning.
    fn steps_between(&mut self, scenario: &Scenario, from: usize, to: usize, scratch: &Path) -> Status {
        for number in from..=to {
            let shown = u32::try_from(number).unwrap_or(u32::MAX);
            let what = in_words(scenario, number);
            let status = match number.checked_sub(1).and_then(|index| scenario.steps.get(index)) {
                Some(step) => self.timed(shown, &what, |b| b.step(step)),
                None => self.timed(shown, &what, |b| b.provision(scenario, scratch)),
            };
            if status != Status::Passed {
                return status;
            }
        }
        Status::Passed
    }

    fn timed(&mut self, number: u32, what: &str, act: impl FnOnce(&mut Self) -> Result<(), Error>) -> Status {
        self.watch.event(&Event::StepBegins { number, what });
        let begun = Instant::now();
        let done = act(self);
        // What is asserted of a boot that was never clear is told, and judges nothing.
        let asserted = self.checks.len();
        if done.is_err() {
            self.record_unclear();
        }
        let boots = std::mem::take(&mut self.records);
        let checks = std::mem::take(&mut self.checks);
        // What the console showed until then is what whoever reads this needs first.
        if done.is_err()
            && let Err(error) = self.save_running_console()
        {
            tracing::warn!("{error}");
        }
        let status = judged(&done, &checks[..asserted], latchkey_supervise::cancelled());
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

    /// How a person starts the machine by hand, when it is there and off.
    fn by_hand(&mut self) -> Option<String> {
        let host = self.context.host;
        self.switch_off().ok().map(|machine| machine.by_hand(host))
    }
}

/// The step `number` of `scenario` in one line; 0 is provisioning.
fn in_words(scenario: &Scenario, number: usize) -> String {
    match number.checked_sub(1).and_then(|index| scenario.steps.get(index)) {
        Some(step) => step.describe(),
        None => "provision: forecast, encrypt in place, seal, keyslots".to_owned(),
    }
}

/// What is left of `scenario` after the steps that were `done`; nothing where none was begun.
fn not_done(scenario: &Scenario, done: &[StepResult]) -> Vec<StepResult> {
    let last = done.last().and_then(|step| usize::try_from(step.number).ok());
    let Some(last) = last else { return Vec::new() };
    let one = |number: usize| StepResult {
        number: u32::try_from(number).unwrap_or(u32::MAX),
        what: in_words(scenario, number),
        status: Status::Skipped { reason: format!("{NOT_REACHED}the row ended before it") },
        checks: Vec::new(),
        boots: Vec::new(),
        took_ms: 0,
        shared_with: None,
    };
    (last + 1..=scenario.steps.len()).map(one).collect()
}

/// What the machine came to: whether its last boot opened by itself, what else opened it, or that nothing ever will.
fn conclude(scenario: &Scenario, steps: &[StepResult]) -> Option<Conclusion> {
    let outcomes: Vec<Outcome> =
        steps.iter().flat_map(|step| &step.boots).filter_map(|boot| boot.outcome).collect();
    match outcomes.last()? {
        Outcome::Unlocked => Some(Conclusion::Open),
        last if last.is_open() => Some(Conclusion::Recoverable { ways: vec![*last] }),
        _ if scenario.shows_lockout() => Some(Conclusion::LockedOut),
        // A machine that is left locked may still have a way in that the scenario did not try.
        _ => None,
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    const FILE: &str = "title = \"t\"\nwhy = \"w\"\n[machine]\nimage = \"rlc9-uki\"\nkeys = [\"platform\"]\n\
                        seal = { pcrs = [4, 7], bank = \"sha256\" }\n\
                        [[step]]\nboot = { expect = \"unlocked\" }\n\
                        [[step]]\nwrite = { path = \"/a\", text = \"x\" }\n\
                        [[step]]\nboot = { expect = \"unlocked\", how = \"cold\" }\n";

    #[test]
    fn what_a_row_did_not_come_to_is_told_after_the_step_that_ended_it() {
        let scenario = Scenario::parse(Path::new("drill.toml"), FILE).unwrap();
        let step = |number: u32, status: Status| StepResult {
            number,
            what: String::new(),
            status,
            checks: Vec::new(),
            boots: Vec::new(),
            took_ms: 1,
            shared_with: None,
        };
        let failed = || Status::Failed { reason: "no".into() };
        let broken = || Status::InfrastructureError { reason: "no room".into() };
        let told = not_done(&scenario, &[step(0, Status::Passed), step(1, failed())]);
        let words: Vec<_> = told.iter().map(|step| (step.number, step.what.clone())).collect();
        assert_eq!(words, [(2, scenario.steps[1].describe()), (3, scenario.steps[2].describe())]);
        assert!(told.iter().all(|step| step.took_ms == 0 && step.status.is_not_reached()));
        let rest = |done: &[StepResult]| not_done(&scenario, done).len();
        assert_eq!(rest(&[step(0, broken())]), 3);
        assert_eq!(rest(&[step(0, Status::Passed)]), 3, "as when a machine cannot be saved");
        assert_eq!(rest(&[step(3, failed())]), 0);
        assert_eq!(rest(&[]), 0, "it was never begun");
    }
}
