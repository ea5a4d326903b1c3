//! `latchkey forecast --all`: scenarios forecast without booting, and held against what they expect, or against a run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::sync::Barrier;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use latchkey_images::Image;
use latchkey_record::{Outcome, ScenarioResult, Status};
use latchkey_report::RunDir;
use latchkey_scenario::{Context, Desk, Keep, Rehearsed, Scenario, Session, SessionError, rehearse, today};
use latchkey_supervise::Scratch;
use serde::Serialize;

use crate::args::{Common, ForecastArgs, Machines};
use crate::choice::{self, HandedIn, chosen};
use crate::progress::Live;
use crate::report::read;
use crate::run::colour;
use crate::{UsageError, cache, json, print};

/// A row of the answer.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    rehearsed: Rehearsed,
    /// Where a run's boots differ; `None` without one to compare with, or where it does not have the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Vec<String>>,
}

/// Forecasts every scenario on every image. 1 when something does not come to what is expected, or was seen.
pub(crate) fn all(common: &Common, args: &ForecastArgs) -> Result<u8> {
    let scenarios = chosen(&args.scenarios)?;
    let seen = match &args.against {
        Some(dir) => read(&RunDir::at(dir))?.scenarios,
        None => Vec::new(),
    };
    let (rehearsed, took) = rehearse_all(common, &scenarios, &args.machines, !args.scenarios.is_empty())?;
    let rows: Vec<Row> = rehearsed
        .into_iter()
        .map(|rehearsed| Row { against: against(&rehearsed, &seen), rehearsed })
        .collect();
    let wrong = rows.iter().filter(|row| !row.problems().is_empty()).count();
    let compared = rows.iter().filter(|row| row.against.is_some()).count();
    if let (Some(dir), 0) = (&args.against, compared) {
        let text = format!(
            "none of these rows was run to its end in {}: nothing to hold them against",
            dir.display()
        );
        return Err(UsageError(text).into());
    }
    if common.json {
        print(&json(&rows)?)?;
    } else {
        let text: String = rows.iter().map(|row| line(&row.rehearsed, row.problems())).collect();
        let compared = match args.against {
            Some(_) => format!("; {compared} of them held against a run"),
            None => String::new(),
        };
        let boots: usize = rows.iter().map(|row| row.rehearsed.boots.len()).sum();
        let (reading, forecasting) = (took.reading.as_secs_f64(), took.forecasting.as_secs_f64());
        let count = count(rows.iter().map(|row| &row.rehearsed), wrong);
        print(&format!(
            "{text}{count}; {boots} boots and answers forecast in {forecasting:.2} s, images read and hashed in \
             {reading:.2} s{compared}\n"
        ))?;
    }
    Ok(u8::from(wrong > 0))
}

/// How many rows came to what, of which `wrong` not to what is expected.
pub(crate) fn count<'a>(rows: impl ExactSizeIterator<Item = &'a Rehearsed>, wrong: usize) -> String {
    let all = rows.len();
    let (mut skipped, mut known) = (0, 0);
    for row in rows {
        skipped += usize::from(row.skipped.is_some());
        known += usize::from(row.known.is_some());
    }
    let noun = if all == 1 { "row" } else { "rows" };
    let expected = all - wrong - skipped - known;
    let mut text = format!("{all} {noun}: {expected} as expected, {wrong} not as expected");
    if known > 0 {
        text.push_str(&format!(", {known} known not to be"));
    }
    if skipped > 0 {
        text.push_str(&format!(", {skipped} not rehearsed"));
    }
    text
}

/// How long rehearsals took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Took {
    /// Reading images, and forecasting a first scenario of each bank on each, by which all of their files are hashed.
    pub(crate) reading: Duration,
    /// All scenarios, those on different images beside each other.
    pub(crate) forecasting: Duration,
}

/// Rehearses `scenarios`, `named` or all there are, on the images that they are for or on what `machines` says. That none of
/// them can be rehearsed is an error.
pub(crate) fn rehearse_all(
    common: &Common,
    scenarios: &[Scenario],
    machines: &Machines,
    named: bool,
) -> Result<(Vec<Rehearsed>, Took)> {
    let own = choice::own(machines, named)?;
    let handed_in = HandedIn::of(machines)?;
    handed_in.tell_unused(scenarios);
    let mut by_image: BTreeMap<&str, Vec<&Scenario>> = BTreeMap::new();
    for (scenario, image) in choice::rows(scenarios, machines)? {
        by_image.entry(choice::goes_by(&own, image)).or_default().push(scenario);
    }
    let live = Live::new();
    let cache = cache(common)?;
    let scratch = Scratch::new(&cache.root().join("machines"), "rehearsal-")?;
    let session = handed_in.into(Session::begin(cache, scratch.path(), &live)?)?;
    let mut images: Vec<Image> = own.iter().cloned().collect();
    for name in by_image.keys().filter(|_| own.is_none()) {
        images.push(session.image(name, &live).map_err(|error| match error {
            SessionError::Images(latchkey_images::Error::UnknownRecipe { .. }) => {
                UsageError(error.to_string()).into()
            }
            other => anyhow::Error::from(other),
        })?);
    }
    let contexts = images.iter().map(|image| session.context(image, Keep::No, String::new(), &live));
    let contexts: Vec<Context<'_>> = contexts.collect::<Result<_, _>>()?;
    let begun = Instant::now();
    // An image's files are read by the thread that needs them, and nobody forecasts while another still reads.
    let read = Barrier::new(contexts.len() + 1);
    let (rehearsed, took) = std::thread::scope(|scope| {
        let each = contexts.iter().zip(by_image.values());
        let threads: Vec<_> =
            each.map(|(context, scenarios)| scope.spawn(|| on_desk(context, scenarios, &read))).collect();
        read.wait();
        let reading = begun.elapsed();
        let rehearsed: Result<Vec<Vec<Rehearsed>>> = threads.into_iter().map(joined).collect();
        (rehearsed, Took { reading, forecasting: begun.elapsed().saturating_sub(reading) })
    });
    live.finish();
    let mut rehearsed: Vec<Rehearsed> = rehearsed?.into_iter().flatten().collect();
    rehearsed.sort_by(|a, b| (&a.scenario, &a.image).cmp(&(&b.scenario, &b.image)));
    let like = own.as_ref().and_then(|image| image.like.as_deref());
    for row in &mut rehearsed {
        if let Some(scenario) = scenarios.iter().find(|scenario| scenario.name == row.scenario) {
            scenario.judge_rehearsed(row, like, today());
        }
    }
    if let Some(skipped) = rehearsed.iter().map(|row| row.skipped.as_ref()).collect::<Option<BTreeSet<_>>>() {
        let reasons = skipped.into_iter().map(String::as_str).collect::<Vec<_>>().join("; ");
        return Err(UsageError(format!("nothing could be rehearsed: {reasons}")).into());
    }
    Ok((rehearsed, took))
}

/// Rehearses `scenarios` on one image, once everybody has `read` theirs.
fn on_desk(context: &Context<'_>, scenarios: &[&Scenario], read: &Barrier) -> Result<Vec<Rehearsed>> {
    let reads = Reads(read);
    let mut banks = Vec::new();
    let firsts = scenarios.iter().filter(|scenario| {
        let bank = scenario.machine.seal.bank;
        let new = !banks.contains(&bank);
        banks.extend(new.then_some(bank));
        new
    });
    let desk = Desk::new(context).and_then(|desk| {
        for first in firsts {
            rehearse(first, &desk)?;
        }
        Ok(desk)
    });
    drop(reads);
    let desk = desk?;
    scenarios.iter().map(|scenario| Ok(rehearse(scenario, &desk)?)).collect()
}

/// Somebody who still reads. Dropped it waits for the others, however its thread ends.
struct Reads<'a>(&'a Barrier);

impl Drop for Reads<'_> {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// What a thread came to.
fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Where a run's row, when there is one that was run to its end, differs from what was rehearsed. That it failed there is a
/// difference; what was not rehearsed differs from nothing.
fn against(rehearsed: &Rehearsed, seen: &[ScenarioResult]) -> Option<Vec<String>> {
    if rehearsed.skipped.is_some() || rehearsed.known.is_some() {
        return None;
    }
    let row =
        seen.iter().find(|row| (&row.scenario, &row.image) == (&rehearsed.scenario, &rehearsed.image))?;
    match &row.status {
        Status::Passed => Some(rehearsed.against(row)),
        Status::Failed { reason } => {
            let failed = format!("the run's row did not come out as expected: {reason}");
            Some(rehearsed.broken.iter().cloned().chain([failed]).collect())
        }
        Status::Known { .. } | Status::Skipped { .. } | Status::InfrastructureError { .. } => None,
    }
}

impl Row {
    /// What a rehearsal has wrong by itself is part of any comparison.
    fn problems(&self) -> &[String] {
        self.against.as_deref().unwrap_or(self.rehearsed.problems())
    }
}

/// A rehearsal on a line, with `problems` below it.
pub(crate) fn line(rehearsed: &Rehearsed, problems: &[String]) -> String {
    let colours = colour(std::io::stdout().is_terminal());
    let Rehearsed { scenario, image, .. } = rehearsed;
    if let Some(reason) = &rehearsed.skipped {
        return format!("- {scenario:<36} {image:<10} not rehearsed: {reason}\n");
    }
    let sign = match &rehearsed.known {
        Some(_) => "≈".to_owned(),
        None => latchkey_report::terminal::held(problems.is_empty(), colours),
    };
    let known = rehearsed.known.as_ref().map_or(String::new(), |known| format!("    known: {known}\n"));
    let outcomes: Vec<String> = rehearsed.boots.iter().map(|boot| outcome(boot.outcome)).collect();
    let below: String = problems.iter().map(|problem| format!("    {problem}\n")).collect();
    format!("{sign} {scenario:<36} {image:<10} {}\n{below}{known}", outcomes.join(", "))
}

/// An outcome's word; `open` where it hangs on something unmodelled.
pub(crate) fn outcome(outcome: Option<Outcome>) -> String {
    outcome.map_or("open".to_owned(), |outcome| outcome.to_string())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    /// A run that had what a rehearsal lacked has boots that nobody rehearsed.
    #[test]
    fn what_was_not_rehearsed_differs_from_no_run() {
        let row: ScenarioResult = serde_json::from_value(serde_json::json!({
            "scenario": "s", "title": "t", "why": "w", "image": "i", "status": { "is": "failed", "reason": "r" },
            "conclusion": null, "steps": [], "reproduce": "", "kept": null, "took_ms": 1,
        }))
        .unwrap();
        let rehearsed = |skipped: Option<&str>| Rehearsed {
            scenario: "s".into(),
            image: "i".into(),
            boots: vec![],
            broken: vec![],
            failed_at: None,
            known: None,
            skipped: skipped.map(str::to_owned),
        };
        assert_eq!(against(&rehearsed(None), std::slice::from_ref(&row)).unwrap().len(), 1);
        let skipped = rehearsed(Some("needs-vendor-key"));
        assert_eq!(against(&skipped, &[row]), None);
        let all = [skipped, rehearsed(None)];
        assert_eq!(count(all.iter(), 1), "2 rows: 0 as expected, 1 not as expected, 1 not rehearsed");
    }
}
