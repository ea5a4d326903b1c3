//! What a row shares with others: machines that were saved where rows part, and verdicts on the same inputs.

use latchkey_record::{Conclusion, ScenarioResult, Status, StepResult};

use crate::Error;
use crate::bench::Bench;
use crate::context::{Context, Keep};
use crate::file::Scenario;
use crate::plan::{Plan, Prefix, Remembered, prefixes};
use crate::store::{Failure, Forks, Store, Verdicts, copy_files};

/// How rows share.
#[derive(Debug, Clone, Copy)]
pub struct Sharing<'a> {
    /// Where saved machines and verdicts lie.
    pub store: &'a Store,
    /// Where rows part.
    pub plan: &'a Plan,
    /// Whether a row that passed with the same inputs counts.
    pub verdicts: Verdicts,
    /// Whether machines are forked at all.
    pub forks: Forks,
}

/// A row's way through the tree of all rows' steps.
pub(crate) struct Way<'a> {
    prefixes: Vec<Prefix>,
    /// The store's key of the verdict; none where nothing is shared.
    verdict: Option<String>,
    /// The key of one without forks, which is as good to whoever takes those with forks.
    stronger: Option<String>,
    /// The store's key of the machine after each step; 0 is provisioning. Empty where nothing is shared.
    pub(crate) keys: Vec<String>,
    /// After which steps the machine is saved and forked.
    pub(crate) stops: Vec<usize>,
    verdicts: Option<&'a Store>,
}

/// A verdict that was come to before.
pub(crate) struct Known {
    pub(crate) status: Status,
    pub(crate) steps: Vec<StepResult>,
    pub(crate) conclusion: Option<Conclusion>,
    pub(crate) reused: Option<String>,
}

impl<'a> Way<'a> {
    pub(crate) fn of(scenario: &Scenario, context: &Context<'a>) -> Self {
        let image = &context.image.name;
        let prefixes = prefixes(scenario, image);
        // A machine that is kept shall not lie over one that goes away.
        let sharing = context.sharing.filter(|_| context.keep == Keep::No);
        let Some(sharing) = sharing else {
            let (verdict, stronger, verdicts) = (None, None, None);
            return Self { prefixes, verdict, stronger, keys: Vec::new(), stops: Vec::new(), verdicts };
        };
        // What another VM did depends on what that is made of.
        let alone = scenario.steps.iter().take_while(|step| !step.is_on_another_vm()).count();
        let other = context.another_vm.map(|vm| format!("{}another VM {}\n", context.inputs, vm.key()));
        let inputs = |index| if index > alone { other.as_ref() } else { None }.unwrap_or(&context.inputs);
        let keys =
            prefixes.iter().enumerate().map(|(index, prefix)| Store::key(inputs(index), prefix)).collect();
        // What a row comes to in the end hangs on more than its steps. Whoever asks for no forks wants no verdict that
        // hangs on one.
        let verdict = |forks: Forks| {
            let judged = format!(
                "{}irreversible {}\nforks {forks:?}\n",
                inputs(scenario.steps.len()),
                scenario.irreversible
            );
            prefixes.last().map(|last| Store::key(&judged, last))
        };
        let (verdict, stronger) = (verdict(sharing.forks), verdict(Forks::No));
        let verdicts = (sharing.verdicts == Verdicts::Reuse).then_some(sharing.store);
        Self { prefixes, verdict, stronger, keys, stops: sharing.plan.stops(scenario, image), verdicts }
    }

    /// Whether the row passed before with the same inputs.
    fn is_known(&self) -> bool {
        let keys = || self.verdict.iter().chain(&self.stronger);
        self.verdicts.is_some_and(|store| keys().any(|key| store.verdict(key).is_some()))
    }
}

impl Context<'_> {
    /// What runs before left of `scenario` on this image, and whether it is skipped there, added to `remembered`.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn remembered(&self, scenario: &Scenario, remembered: &mut Remembered) -> Result<(), Error> {
        let row = || (scenario.name.clone(), self.image.name.clone());
        if let Some(reason) = self.lacks_for(scenario)? {
            remembered.skipped.insert(row(), reason);
            return Ok(());
        }
        let Some(sharing) = self.sharing else { return Ok(()) };
        let way = Way::of(scenario, self);
        if way.is_known() {
            remembered.passed.insert(row());
        }
        let saved = way.stops.iter().filter(|stop| sharing.store.saved(&way.keys[**stop]).is_some());
        remembered.saved.extend(saved.map(|stop| way.prefixes[*stop].clone()));
        Ok(())
    }
}

impl Bench<'_> {
    /// The verdict on a row with the same inputs that passed, when there is one.
    pub(crate) fn known(&self, way: &Way<'_>) -> Result<Option<Known>, Error> {
        let Some(store) = way.verdicts else { return Ok(None) };
        for key in way.verdict.iter().chain(&way.stronger) {
            // Another run may just be putting another in its place.
            let _claim = store.claim_verdict(key)?;
            let Some((result, record)) = store.verdict(key) else { continue };
            if let Err(error) = copy_files(&record, &self.dir) {
                tracing::warn!("{} is run again: {error}", self.row);
                return Ok(None);
            }
            let steps = result.steps.into_iter().map(|step| self.readdressed(step)).collect();
            let ScenarioResult { status, conclusion, reused, .. } = result;
            return Ok(Some(Known { status, steps, conclusion, reused }));
        }
        Ok(None)
    }

    /// The bench's steps, the last of which failed, for the rows that share them: they know nothing of the secrets in it, so
    /// that it is looked for those before.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        let (row, record) = (self.row.clone(), self.dir.clone());
        Failure { status: status.clone(), steps: self.steps.clone(), row, record }
    }

    /// Takes over the steps of another row of this run that failed where this one would do the same.
    pub(crate) fn share_failure(&mut self, failure: Failure) -> Result<Status, Error> {
        copy_files(&failure.record, &self.dir)?;
        self.steps = failure.steps.into_iter().map(|step| self.adopt(step, &failure.row)).collect();
        Ok(failure.status)
    }

    /// Remembers a row that passed, and how long its steps took.
    pub(crate) fn remember(&self, way: &Way<'_>, result: &ScenarioResult) -> Result<(), Error> {
        let Some(sharing) = &self.context.sharing else { return Ok(()) };
        let own = |step: &&StepResult| step.shared_with.is_none() && step.status == Status::Passed;
        let number = |step: &StepResult| usize::try_from(step.number).ok();
        let took = result.steps.iter().filter(own);
        sharing.store.took(
            took.filter_map(|step| {
                Some((way.prefixes.get(number(step)?)?.as_str().to_owned(), step.took_ms))
            }),
        );
        if let (Status::Passed, Some(key)) = (&result.status, &way.verdict) {
            // Two runs may come to it at once.
            let _claim = sharing.store.claim_verdict(key)?;
            let reused = Some(self.run());
            sharing.store.remember(key, &ScenarioResult { reused, ..result.clone() }, &self.dir)?;
        }
        Ok(())
    }
}
