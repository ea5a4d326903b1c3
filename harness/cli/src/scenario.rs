//! `latchkey scenario`: a new one, whether one is sound, what one would come to.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use latchkey_record::{Outcome, PcrIndex};
use latchkey_scenario::step::{MachineSpec, Step};
use latchkey_scenario::{Rehearsed, Scenario};
use serde::Serialize;

use crate::args::{Common, Machines, ScenarioVerb};
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
    let written = made.and_then(|mut made| made.write_all(TEMPLATE.as_bytes()));
    written.map_err(|e| refused(e.to_string()))?;
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

/// The catalogue's page: by flow, each scenario with its images, outcomes and source.
fn catalogue(scenarios: &[Scenario]) -> String {
    let mut flows: BTreeMap<&str, Vec<&Scenario>> = BTreeMap::new();
    for scenario in scenarios {
        flows.entry(&scenario.flow).or_default().push(scenario);
    }
    let rows: usize = scenarios.iter().map(|scenario| scenario.machine.image.names().len()).sum();
    let mut page = format!(
        "# The catalogue\n\n{} scenarios, {rows} rows (a scenario on an image). Written by `cargo xtask scenario catalogue`; \
         what one does step by step, and why it comes to what it comes to: `cargo xtask scenario explain NAME`.\n",
        scenarios.len()
    );
    for (flow, scenarios) in flows {
        page.push_str(&format!(
            "\n## {flow}\n\n| scenario | images | comes to | source |\n|---|---|---|---|\n"
        ));
        for scenario in scenarios {
            let dnf = if scenario.needs_dnf() { " (skipped on those of them that have no dnf)" } else { "" };
            page.push_str(&format!(
                "| [{name}]({name}.toml): {} | {}{dnf} | {} | {} |\n",
                scenario.title,
                scenario.machine.image.names().join(", "),
                counted(scenario.outcomes()),
                scenario.source,
                name = scenario.name,
            ));
        }
    }
    page.push_str(&by_what_moved(scenarios));
    page.push_str(&left_out(scenarios));
    page
}

/// Outcomes in their order; one that comes several times in a row is counted.
fn counted(outcomes: impl Iterator<Item = Outcome>) -> String {
    let all: Vec<Outcome> = outcomes.collect();
    let alike = all.chunk_by(|one, other| one == other);
    let told = alike.map(|some| match some {
        [one] => one.code().to_owned(),
        several => format!("{} x{}", several[0].code(), several.len()),
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Which scenarios are not for which images, and why.
fn left_out(scenarios: &[Scenario]) -> String {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for scenario in scenarios {
        let mut images: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (image, why) in &scenario.left_out {
            images.entry(why).or_default().push(image);
        }
        for (why, images) in images {
            let name = &scenario.name;
            reasons.entry(why).or_default().push(format!("[{name}]({name}.toml) ({})", images.join(", ")));
        }
    }
    let mut page = "\n# Left out\n\nWhich scenarios are not for which of the reference images that stand for Rocky Linux 9 and 10, and why.\n\n\
                    | why | scenarios |\n|---|---|\n"
        .to_owned();
    let named = |word: &str| scenarios.iter().any(|scenario| scenario.name == word);
    for (why, scenarios) in reasons {
        let link = |word: &str| if named(word) { format!("[{word}]({word}.toml)") } else { word.to_owned() };
        // A name stands at the end, or before a comma.
        let why = why.split(", ").map(|part| match part.rsplit_once(' ') {
            Some((before, last)) => format!("{before} {}", link(last)),
            None => link(part),
        });
        page.push_str(&format!("| {} | {} |\n", why.collect::<Vec<_>>().join(", "), scenarios.join(", ")));
    }
    page
}

/// What of the catalogue somebody wants who knows which PCRs moved, and perhaps the file behind it.
fn by_what_moved(scenarios: &[Scenario]) -> String {
    let mut behind: BTreeMap<(&str, Vec<PcrIndex>), Vec<&str>> = BTreeMap::new();
    for scenario in scenarios {
        for moved in scenario.moved().filter(|moved| !moved.pcrs.is_empty()) {
            let names = behind.entry((&moved.by, moved.pcrs.clone())).or_default();
            if names.last() != Some(&scenario.name.as_str()) {
                names.push(&scenario.name);
            }
        }
    }
    let mut page = "\n# By what moved\n\nOf a machine that asks since something changed: which PCRs moved against the last boot that opened by \
                    itself, what was behind that, and where it happens.\n\n| behind it | PCR | scenarios |\n|---|---|---|\n"
        .to_owned();
    for ((by, pcrs), names) in behind {
        let pcrs = pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let names: Vec<String> = names.iter().map(|name| format!("[{name}]({name}.toml)")).collect();
        page.push_str(&format!("| {by} | {pcrs} | {} |\n", names.join(", ")));
    }
    page
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

    /// The catalogue runs everything wherever it makes sense, and says where it does not.
    #[test]
    fn each_scenario_is_for_each_reference_image_or_says_why_not() {
        for scenario in crate::choice::chosen(&[]).unwrap() {
            for image in ["rlc9-uki", "rlc9-grub", "rlc10-uki", "rlc10-grub"] {
                let runs = scenario.machine.image.names().iter().any(|name| name == image);
                let told = scenario.left_out.contains_key(image);
                assert!(runs != told, "{} neither runs on {image} nor says why", scenario.name);
            }
        }
    }

    /// What a reason sends the reader to is there.
    #[test]
    fn whoever_is_sent_to_another_scenario_finds_it() {
        let catalogue = crate::choice::chosen(&[]).unwrap();
        let sent = catalogue.iter().flat_map(|scenario| scenario.left_out.values());
        let names = sent.filter_map(|why| why.rsplit_once(": ")).flat_map(|(_, to)| to.split(", "));
        // A sentence has blanks.
        let names: Vec<&str> = names.filter(|name| !name.contains(' ')).collect();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert!(catalogue.iter().any(|scenario| scenario.name == name), "there is no scenario {name}");
        }
    }

    /// A row counts if what is done in it is done in no other.
    #[test]
    fn no_two_rows_of_the_catalogue_do_the_same() {
        let catalogue = crate::choice::chosen(&[]).unwrap();
        let mut seen = BTreeMap::new();
        for scenario in &catalogue {
            for image in scenario.machine.image.names() {
                let whole = latchkey_scenario::plan::prefixes(scenario, image).pop();
                let before = seen.insert(whole, &scenario.name);
                assert_eq!(before, None, "{} on {image} does what that does", scenario.name);
            }
        }
    }
}
