//! What changed between two runs: rows, verdicts, outcomes, PCRs.

mod images;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use latchkey_record::{
    BootRecord, Conclusion, HashAlg, Outcome, PcrIndex, PcrValues, RunResults, ScenarioResult, Status,
};
use serde::Serialize;

use crate::account::Account;
pub use images::VersionChange;

/// Something before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pair<T> {
    /// In the first run.
    pub one: T,
    /// In the other.
    pub other: T,
}

impl<T: PartialEq> Pair<T> {
    fn of(one: T, other: T) -> Option<Self> {
        (one != other).then_some(Self { one, other })
    }
}

/// What two runs differ in. Times and names of runs are not compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunDiff {
    /// The runs' names.
    pub runs: Pair<String>,
    /// The hosts, where they differ. Not a change by itself: comparing hosts is a reason to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Pair<String>>,
    /// The harness, its version and which build of it, where they differ. Not a change by itself either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub harness: Option<Pair<String>>,
    /// Images that are not the same in both, by name. Not a change by itself either.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, Pair<String>>,
    /// By image which package versions on it differ, of what decides over outcomes and as far as both runs tell them. Not a
    /// change by itself either.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, Vec<VersionChange>>,
    /// Rows that differ: what got worse, what failed and was not run before, what lost coverage, then in the first run's order;
    /// those that only the other has come last.
    pub rows: Vec<Row>,
    /// How many rows are the same in both.
    pub same: usize,
    /// How many rows were run in neither: nothing is known of them.
    pub not_run: usize,
}

/// A scenario on an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The scenario.
    pub scenario: String,
    /// The image.
    pub image: String,
    /// Which run did not come to it, or not to its end, where that is what changed: it says nothing of the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Side>,
    /// What changed.
    #[serde(flatten)]
    pub change: Change,
}

/// One of the two runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The first.
    One,
    /// The other.
    Other,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Change {
    /// Only the other run has it.
    New {
        /// Whether it failed there.
        #[serde(skip_serializing_if = "Option::is_none")]
        turn: Option<Turn>,
        /// Its status there, in words.
        status: String,
    },
    /// Only the first run has it.
    Vanished {
        /// Whether it was good there.
        #[serde(skip_serializing_if = "Option::is_none")]
        turn: Option<Turn>,
        /// Its status there, in words.
        status: String,
    },
    /// Both have it, and they differ.
    Differs {
        /// Whether it was good and is not any more, or the other way round.
        #[serde(skip_serializing_if = "Option::is_none")]
        turn: Option<Turn>,
        /// The statuses, in words, where they differ.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<Pair<String>>,
        /// The conclusions, where they differ.
        #[serde(skip_serializing_if = "Option::is_none")]
        conclusion: Option<Pair<String>>,
        /// Boots that differ.
        boots: Vec<BootChange>,
    },
}

/// A verdict that is another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turn {
    /// It failed, or could not be judged.
    Worse,
    /// The same of one that was not there before, was not run, or not to its end.
    NewlyFailed,
    /// It was good and was not run any more, or not to its end: coverage is lost.
    Lost,
    /// It passed.
    Better,
}

/// A boot that is not the same in both runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BootChange {
    /// The step that made it.
    pub step: u32,
    /// The boot's number.
    pub boot: u32,
    /// What it came to, where that differs; `no boot` where one of the runs did not make it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Pair<String>>,
    /// What was forecast, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Pair<String>>,
    /// Who reported a refusal, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_by: Option<Pair<String>>,
    /// The TPM's dictionary-attack counter, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lockout_counter: Option<Pair<String>>,
    /// PCRs that differ when the sealed key was tried, by bank; also those that only one of the runs knows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pcrs: BTreeMap<HashAlg, Vec<PcrIndex>>,
}

impl Change {
    /// Whether it is one for the worse or the better.
    #[must_use]
    pub fn turn(&self) -> Option<Turn> {
        match self {
            Self::Differs { turn, .. } | Self::Vanished { turn, .. } | Self::New { turn, .. } => *turn,
        }
    }
}

impl RunDiff {
    /// Whether there is anything to tell: 1 if so, 0 if not.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.rows.is_empty())
    }
}

/// Compares `other` with `one`. Rows are told apart by scenario and image, by the host where both are reports of several
/// runs, and by their order where a run has several.
#[must_use]
pub fn runs(one: &RunResults, other: &RunResults) -> RunDiff {
    let of_several = |run: &RunResults| run.scenarios.iter().any(|row| row.host.is_some());
    let by_host = of_several(one) && of_several(other);
    let (before, after) = (keyed(one, by_host), keyed(other, by_host));
    let of_one: BTreeSet<Key<'_>> = before.iter().map(|(key, _)| *key).collect();
    let of_other: BTreeMap<Key<'_>, &ScenarioResult> = after.iter().copied().collect();
    let mut rows = Vec::new();
    let (mut same, mut not_run) = (0, 0);
    for (key, result) in &before {
        let change = match of_other.get(key) {
            None if is_skipped(result) => {
                not_run += 1;
                continue;
            }
            None => Some(Change::Vanished { turn: turn(Some(result), None), status: said(result) }),
            Some(now) => differs(result, now),
        };
        let unfinished = unfinished(result, of_other.get(key).copied());
        match change {
            Some(change) => rows.push(row(result, unfinished, change)),
            None if is_skipped(result) || is_unfinished(result) => not_run += 1,
            None => same += 1,
        }
    }
    let new = after.iter().filter(|(key, _)| !of_one.contains(key));
    rows.extend(new.map(|(_, result)| {
        let change = Change::New { turn: turn(None, Some(result)), status: said(result) };
        row(result, is_unfinished(result).then_some(Side::Other), change)
    }));
    rows.sort_by_key(|row| match row.change.turn() {
        Some(Turn::Worse) => 0,
        Some(Turn::NewlyFailed) => 1,
        Some(Turn::Lost) => 2,
        Some(Turn::Better) | None => 3,
    });
    RunDiff {
        runs: Pair { one: one.run.clone(), other: other.run.clone() },
        hosts: Pair::of(one.host.clone(), other.host.clone()),
        harness: Pair::of(one.harness.clone(), other.harness.clone()),
        images: images::different(one, other),
        versions: images::versions(one, other),
        rows,
        same,
        not_run,
    }
}

type Key<'a> = (&'a str, &'a str, Option<&'a str>, usize);

fn keyed(run: &RunResults, by_host: bool) -> Vec<(Key<'_>, &ScenarioResult)> {
    let mut seen = BTreeMap::<(&str, &str, Option<&str>), usize>::new();
    let mut rows = Vec::new();
    for result in &run.scenarios {
        let host = result.host.as_deref().filter(|_| by_host);
        let (scenario, image) = (result.scenario.as_str(), result.image.as_str());
        let count = seen.entry((scenario, image, host)).or_default();
        *count += 1;
        rows.push(((scenario, image, host, *count), result));
    }
    rows
}

fn row(result: &ScenarioResult, unfinished: Option<Side>, change: Change) -> Row {
    Row { scenario: result.scenario.clone(), image: result.image.clone(), unfinished, change }
}

/// What a row came to and, unless it passed, at which step. The reason is told and not compared, since it has times in it;
/// but for one that was not run, and of these not for one that its run did not come to: why it did not says nothing of the row.
fn ended(result: &ScenarioResult) -> (&'static str, Option<u32>, Option<&str>) {
    let was_left_out = is_skipped(result) && !result.status.is_not_reached();
    let reason = result.status.reason().filter(|_| was_left_out);
    (result.status.word(), result.ended_at().map(|step| step.number), reason)
}

fn said(result: &ScenarioResult) -> String {
    let reason = Account::of(result).map_or(String::new(), |account| format!(": {}", account.headline()));
    format!("{}{reason}", result.status)
}

fn is_skipped(result: &ScenarioResult) -> bool {
    matches!(result.status, Status::Skipped { .. })
}

/// Whether its run did not come to it, or not to its end.
fn is_unfinished(result: &ScenarioResult) -> bool {
    result.status.is_not_reached() || result.status.is_interrupted()
}

/// In which of the runs a row is unfinished, where nothing else is to be told of it: not where it has failed in the other one
/// since. `other` is `None` where the other run does not have it.
fn unfinished(one: &ScenarioResult, other: Option<&ScenarioResult>) -> Option<Side> {
    let other = other?;
    if is_unfinished(other) {
        return Some(Side::Other);
    }
    (is_unfinished(one) && turn(Some(one), Some(other)).is_none()).then_some(Side::One)
}

/// Of a row that is `None` where a run does not have it.
fn turn(one: Option<&ScenarioResult>, other: Option<&ScenarioResult>) -> Option<Turn> {
    let good = |result: &ScenarioResult| match &result.status {
        status if status.is_interrupted() => None,
        Status::Passed | Status::Known { .. } => Some(true),
        Status::Failed { .. } | Status::InfrastructureError { .. } => Some(false),
        Status::Skipped { .. } => None,
    };
    match (one.and_then(good), other.and_then(good)) {
        (Some(true), Some(false)) => Some(Turn::Worse),
        (None, Some(false)) => Some(Turn::NewlyFailed),
        (Some(true), None) => Some(Turn::Lost),
        (Some(false), Some(true)) => Some(Turn::Better),
        _ => None,
    }
}

fn differs(one: &ScenarioResult, other: &ScenarioResult) -> Option<Change> {
    if is_unfinished(one) && is_unfinished(other) {
        return None;
    }
    let status = (ended(one) != ended(other)).then(|| Pair { one: said(one), other: said(other) });
    // The ways that worked are part of the conclusion.
    let told = |result: &ScenarioResult| match &result.conclusion {
        None if result.is_left_locked() => "locked".to_owned(),
        None => "none".to_owned(),
        Some(conclusion @ Conclusion::Recoverable { ways }) => {
            let ways: Vec<_> = ways.iter().map(ToString::to_string).collect();
            format!("{conclusion} ({})", ways.join(", "))
        }
        Some(conclusion) => conclusion.to_string(),
    };
    let conclusion = Pair::of(told(one), told(other));
    // Where one of them was not run, or not to its end, its boots are no news.
    let is_whole = |result: &ScenarioResult| !is_skipped(result) && !result.status.is_interrupted();
    let boots = if is_whole(one) && is_whole(other) { boots(one, other) } else { Vec::new() };
    (status.is_some() || conclusion.is_some() || !boots.is_empty()).then_some(Change::Differs {
        turn: turn(Some(one), Some(other)),
        status,
        conclusion,
        boots,
    })
}

/// A scenario's boots by step, number, and order in the step: an answered prompt is a record of its own.
fn by_place(result: &ScenarioResult) -> BTreeMap<(u32, u32, usize), &BootRecord> {
    let all = result.steps.iter().flat_map(|step| step.boots.iter().enumerate().map(move |b| (step, b)));
    all.map(|(step, (i, boot))| ((step.number, boot.number, i), boot)).collect()
}

fn boots(one: &ScenarioResult, other: &ScenarioResult) -> Vec<BootChange> {
    let (before, after) = (by_place(one), by_place(other));
    let places: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let change = |place: (u32, u32, usize)| {
        let (was, is) = (before.get(&place).copied(), after.get(&place).copied());
        let outcome = Pair::of(
            was.map_or("no boot".into(), BootRecord::word),
            is.map_or("no boot".into(), BootRecord::word),
        );
        let mut change = BootChange { step: place.0, boot: place.1, outcome, ..BootChange::default() };
        if let (Some(was), Some(is)) = (was, is) {
            change.forecast = Pair::of(forecast(was.forecast_outcome), forecast(is.forecast_outcome));
            let by = |boot: &BootRecord| boot.reported_by.clone().unwrap_or_else(|| "nobody".into());
            change.reported_by = Pair::of(by(was), by(is));
            let counter =
                |boot: &BootRecord| boot.lockout_counter.map_or("unknown".into(), |n| n.to_string());
            change.lockout_counter = Pair::of(counter(was), counter(is));
            // A loop that was looked at sooner or later shows other values, and is the same loop.
            if was.outcome != Some(Outcome::RestartLoop) || is.outcome != Some(Outcome::RestartLoop) {
                change.pcrs = differing(&was.pcrs, &is.pcrs);
            }
        }
        let same = BootChange { step: place.0, boot: place.1, ..BootChange::default() };
        (change != same).then_some(change)
    };
    places.into_iter().filter_map(change).collect()
}

fn forecast(outcome: Option<Outcome>) -> String {
    outcome.map_or("nothing certain".into(), |outcome| outcome.to_string())
}

type Banks = BTreeMap<HashAlg, PcrValues>;

fn differing(one: &Banks, other: &Banks) -> BTreeMap<HashAlg, Vec<PcrIndex>> {
    let banks: BTreeSet<HashAlg> = one.keys().chain(other.keys()).copied().collect();
    let in_bank = |bank| {
        let none = PcrValues::default();
        let (one, other) = (one.get(&bank).unwrap_or(&none), other.get(&bank).unwrap_or(&none));
        let known: BTreeSet<PcrIndex> = one.0.keys().chain(other.0.keys()).copied().collect();
        let compared = known.into_iter().filter(|pcr| pcr.is_compared());
        compared.filter(|pcr| one.0.get(pcr) != other.0.get(pcr)).collect::<Vec<_>>()
    };
    banks.into_iter().map(|bank| (bank, in_bank(bank))).filter(|(_, pcrs)| !pcrs.is_empty()).collect()
}
