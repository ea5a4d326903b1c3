//! `latchkey scenario`: a new one, whether one is sound, what one would come to.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use latchkey_scenario::step::{MachineSpec, Step};
use latchkey_scenario::{Rehearsed, Scenario};
use serde::Serialize;

use crate::args::{Common, Machines, ScenarioVerb};
use crate::catalogue::catalogue;
use crate::choice::{chosen, distinct, read};
use crate::rehearse::{count, line, outcome, rehearse_all};
use crate::{UsageError, has_no_json, json, print, say};

/// What a new scenario begins as: one that is sound, and comes to what it expects.
const TEMPLATE: &str = include_str!("template.toml");

pub(crate) fn scenario(common: &Common, verb: &ScenarioVerb) -> Result<u8> {
    match verb {
        ScenarioVerb::New { file } => {
            has_no_json(common, "scenario new")?;
            new(file)
        }
        ScenarioVerb::Check { scenarios, machines } => check(common, scenarios, machines),
        ScenarioVerb::Catalogue => {
            has_no_json(common, "scenario catalogue")?;
            print(&catalogue(&chosen(&[])?))
        }
        ScenarioVerb::Explain { scenario, machines } => explain(common, scenario, machines),
    }
}

fn new(file: &Path) -> Result<u8> {
    let refused = |why: String| UsageError(format!("{}: {why}", file.display()));
    if file.extension().is_none_or(|extension| extension != "toml") {
        return Err(refused("a scenario's file ends with .toml".into()).into());
    }
    // Never over one that is there.
    let made = OpenOptions::new().write(true).create_new(true).open(file);
    let mut made = made.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => refused("it is there already; choose another name".into()),
        _ => refused(e.to_string()),
    })?;
    if let Err(e) = made.write_all(TEMPLATE.as_bytes()) {
        // Half a scenario would be in the way of the next try.
        let _ = std::fs::remove_file(file);
        return Err(e).with_context(|| format!("writing {}", file.display()));
    }
    let file = latchkey_supervise::quoted(file);
    print(&format!(
        "{file} is a scenario that passes; next:\n  cargo xtask scenario check {file}\n  cargo xtask run {file}\n"
    ))
}

/// Reads scenarios, and rehearses them: 1 when one does not come to what it expects. Of several that are named, one that
/// cannot be read does not keep the others from being checked.
fn check(common: &Common, names: &[String], machines: &Machines) -> Result<u8> {
    let (mut scenarios, mut unreadable) = (Vec::new(), 0);
    for name in names {
        match read(name) {
            Ok(scenario) => scenarios.push(scenario),
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                say(&error.to_string());
                unreadable += 1;
            }
        }
    }
    let told =
        || UsageError(format!("{unreadable} of these {} cannot be read; why is told above", names.len()));
    if unreadable > 0 && scenarios.is_empty() {
        return Err(told().into());
    }
    let scenarios = if names.is_empty() { chosen(&[])? } else { distinct(scenarios)? };
    let (rehearsed, _) = rehearse_all(common, &scenarios, machines, !names.is_empty())?;
    let wrong = rehearsed.iter().filter(|row| !row.problems().is_empty()).count();
    if common.json {
        print(&json(&rehearsed)?)?;
    } else {
        let lines: String = rehearsed.iter().map(|row| line(row, row.problems())).collect();
        print(&format!("{lines}{}\n", count(rehearsed.iter(), wrong)))?;
    }
    if unreadable > 0 {
        return Err(told().into());
    }
    Ok(u8::from(wrong > 0))
}

/// A scenario in words, with what each of its boots would come to, and why.
fn explain(common: &Common, name: &str, machines: &Machines) -> Result<u8> {
    let scenarios = chosen(&[name.to_owned()])?;
    let scenario = scenarios.first().context("the scenario is missing")?;
    let (rehearsed, _) = rehearse_all(common, &scenarios, machines, true)?;
    if common.json {
        print(&json(&Explained::new(scenario, &rehearsed))?)?;
    } else {
        print(&told(scenario, &rehearsed))?;
    }
    Ok(u8::from(rehearsed.iter().any(|row| !row.problems().is_empty())))
}

/// What [`told`] says in words.
#[derive(Serialize)]
struct Explained<'a> {
    scenario: &'a str,
    title: &'a str,
    flow: &'a str,
    why: &'a str,
    source: &'a str,
    machine: &'a MachineSpec,
    /// What each step does, in words; the boots of `rows` count them from 1.
    steps: Vec<String>,
    /// What it comes to on each image.
    rows: &'a [Rehearsed],
}

impl<'a> Explained<'a> {
    fn new(scenario: &'a Scenario, rows: &'a [Rehearsed]) -> Self {
        let Scenario { name, title, flow, why, source, machine, steps, .. } = scenario;
        let steps = steps.iter().map(Step::describe).collect();
        Self { scenario: name, title, flow, why, source, machine, steps, rows }
    }
}

fn told(scenario: &Scenario, rehearsed: &[Rehearsed]) -> String {
    let machine = &scenario.machine;
    let list = |words: Vec<String>| words.join(", ");
    let pcrs = list(machine.seal.pcrs.iter().map(ToString::to_string).collect());
    let keys = list(machine.keys.iter().map(ToString::to_string).collect());
    let mut text = format!(
        "{}\n{}\nsource: {}\n\nsealed to PCR {pcrs} of the {} bank; keyslots: {keys}\n",
        scenario.title, scenario.why, scenario.source, machine.seal.bank
    );
    for row in rehearsed {
        text.push_str(&format!("\non {}\n", row.image));
        if let Some(reason) = &row.skipped {
            text.push_str(&format!("      - not rehearsed, and a run skips it: {reason}\n"));
            continue;
        }
        for (number, step) in (1..).zip(&scenario.steps) {
            text.push_str(&format!("{number:>4}  {}\n", step.describe()));
            for boot in row.boots.iter().filter(|boot| boot.step == number) {
                let (comes_to, why) = (outcome(boot.outcome), &boot.because);
                text.push_str(&format!("      -> {comes_to}, {} events: {why}\n", boot.events));
            }
        }
        row.broken.iter().for_each(|problem| text.push_str(&format!("      ! {problem}\n")));
        row.known.iter().for_each(|known| text.push_str(&format!("      ≈ known: {known}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn an_explanation_has_all_that_is_told() {
        let scenario = Scenario::parse(Path::new("mine.toml"), TEMPLATE).unwrap();
        let explained = serde_json::to_value(Explained::new(&scenario, &[])).unwrap();
        let text = told(&scenario, &[]);
        for key in ["title", "why", "source"] {
            assert!(text.contains(explained[key].as_str().unwrap()), "{key}");
        }
        assert_eq!(explained["scenario"], "mine");
        assert_eq!(explained["steps"].as_array().unwrap().len(), scenario.steps.len());
        assert!(explained["machine"]["seal"]["pcrs"].is_array() && explained["rows"].is_array());
    }
}
