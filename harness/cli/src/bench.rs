//! `latchkey bench`: what the harness adds and what forks save, as ratios measured in one run.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use latchkey_record::{ScenarioResult, StepResult};
use latchkey_report::RunDir;
use latchkey_scenario::ratios::{Times, times};
use latchkey_scenario::{Keep, Session};

use crate::args::{BenchArgs, Common};
use crate::progress::Live;
use crate::report::read;
use crate::{UsageError, cache, json, print, say};

/// What it is measured on.
const SCENARIO: &str = "first-boot";
const IMAGE: &str = "rlc9-uki";
/// A ratio that is worse than the recorded one by more than this fails the check.
const TOLERANCE: f64 = 1.2;

/// A figure: smaller is better for all of them.
#[derive(Debug, Clone)]
struct Figure {
    name: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    most: f64,
}

/// Of how many pairs of boots a median is worth recording.
const PAIRS: u16 = 3;

/// Measures, prints, and compares with what was recorded when asked to.
pub(crate) fn bench(common: &Common, args: &BenchArgs) -> Result<u8> {
    if args.record && args.pairs < PAIRS {
        let why = format!("--record: a median of {} is none; measure {PAIRS} pairs or more", args.pairs);
        return Err(UsageError(why).into());
    }
    // What is wrong with them is told now, and not when all has been measured.
    let suite = args.suite.as_deref().map(suite).transpose()?;
    let exists = args.recorded.exists();
    let is_read = args.check || args.record && exists;
    let recorded = if is_read { recorded(&args.recorded)? } else { BTreeMap::new() };
    let live = Live::new();
    let scenarios = crate::choice::chosen(&[SCENARIO.to_owned()])?;
    let scenario = scenarios.first().context("the scenario that is measured is missing")?;
    let session = Session::begin(cache(common)?, &args.results, &live)?;
    let image = session.image(IMAGE, &live)?;
    let context = session.context(&image, Keep::No, String::new(), &live)?;
    let row = live.row(SCENARIO, IMAGE, None);
    let times = times(scenario, &context, args.pairs, &row)?;
    drop(row);
    live.finish();
    let figures = figures(&times, suite);
    let compares = args.check || args.record && !args.worse && exists;
    let before = if compares { recorded } else { BTreeMap::new() };
    let failed = figures.iter().any(|figure| figure.is_worse(&before));
    let values: BTreeMap<_, _> = figures.iter().map(|f| (f.name, f.value)).collect();
    // What --check would fail is not made the measure of the next check.
    let refused = args.record && compares && failed;
    if args.record && !refused {
        record(&args.recorded, &values)?;
    }
    if common.json {
        print(&json(&serde_json::json!({ "figures": values, "times": times }))?)?;
    } else {
        print(&figures.iter().map(|figure| figure.line(&before)).collect::<String>())?;
    }
    if refused {
        say("not recorded, since something got worse: find out why, or record it with --worse");
    }
    Ok(u8::from(refused || args.check && failed))
}

impl Figure {
    /// Whether it is worse than what was recorded by more than [`TOLERANCE`]; far from its target that may be noise. One that
    /// was never recorded has its target alone.
    fn is_worse(&self, recorded: &BTreeMap<String, f64>) -> bool {
        match recorded.get(self.name) {
            Some(before) => self.value > before * TOLERANCE && self.value > self.most / 2.0,
            None => !self.holds(),
        }
    }

    fn holds(&self) -> bool {
        self.value <= self.most
    }

    fn line(&self, recorded: &BTreeMap<String, f64>) -> String {
        let Self { name, what, value, unit, most } = self;
        let worse = self.is_worse(recorded);
        let sign = if self.holds() && !worse { "✓" } else { "✗" };
        let worse = if worse { ", which was better" } else { "" };
        let then =
            recorded.get(*name).map_or(String::new(), |before| format!("; recorded {before:.3}{worse}"));
        format!("{sign} {name:<24} {value:>8.3} {unit}  (target at most {most:.3}{then})  {what}\n")
    }
}

fn figures(times: &Times, suite: Option<(f64, f64)>) -> Vec<Figure> {
    let added: Vec<f64> = times.harness.iter().zip(&times.bare).map(|(ours, bare)| ours - bare).collect();
    let (cold, fork) = (median(&times.harness), median(&times.fork));
    let mut all = vec![
        Figure {
            name: "harness-adds",
            what: format!(
                "a boot to the login prompt: {:.1} s, {:.1} s by a shell, median of {} pairs",
                cold,
                median(&times.bare),
                added.len()
            ),
            value: median(&added),
            unit: "s",
            most: 1.0,
        },
        Figure {
            name: "fork-to-cold-boot",
            what: format!("a fork that ran a command: {fork:.2} s; saving it: {:.2} s", times.save),
            value: fork / cold,
            unit: " ",
            most: 1.0 / 15.0,
        },
    ];
    if let Some(memory) = peak_mib() {
        let what = "the harness' own peak memory".to_owned();
        all.push(Figure { name: "harness-memory", what, value: memory, unit: "MiB", most: 100.0 });
    }
    if let Some((wall, sum)) = suite {
        let what = format!("{wall:.0} s for what takes {sum:.0} s one step after the other");
        all.push(Figure { name: "suite-to-its-steps", what, value: wall / sum, unit: " ", most: 0.25 });
    }
    all
}

/// Seconds that a run took, and the sum of what its steps take when each row does all of its own.
fn suite(dir: &Path) -> Result<(f64, f64)> {
    let run = read(&RunDir::at(dir))?;
    // What another run did is in no time of this one.
    let shared = |row: &ScenarioResult| row.steps.iter().any(StepResult::is_of_another_run);
    if run.scenarios.iter().any(|row| row.reused.is_some() || shared(row)) {
        let text = format!(
            "--suite {}: some of its steps were done by an earlier run; `run --fresh` does all of them",
            dir.display()
        );
        return Err(UsageError(text).into());
    }
    #[expect(clippy::cast_precision_loss, reason = "a run takes less than 2^53 ms")]
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let steps = run.scenarios.iter().flat_map(|row| &row.steps);
    Ok((seconds(run.took_ms), steps.map(|step| seconds(step.took_ms)).sum()))
}

/// Records `values` in the file at `path`; what was not measured this time stays there as it was.
fn record(path: &Path, values: &BTreeMap<&str, f64>) -> Result<()> {
    let mut all = if path.exists() { recorded(path)? } else { BTreeMap::new() };
    all.extend(values.iter().map(|(name, value)| ((*name).to_owned(), *value)));
    std::fs::write(path, json(&all)?).with_context(|| format!("writing {}", path.display()))
}

fn recorded(path: &Path) -> Result<BTreeMap<String, f64>> {
    let told = |e: &dyn std::fmt::Display| UsageError(format!("{}: {e}", path.display()));
    let text = std::fs::read(path).map_err(|e| told(&e))?;
    Ok(serde_json::from_slice(&text).map_err(|e| told(&e))?)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// `VmHWM` of /proc/self/status (proc(5)), in MiB.
fn peak_mib() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_stays_recorded() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("bench.json");
        record(&path, &BTreeMap::from([("fork", 0.5), ("suite", 0.3)]))?;
        record(&path, &BTreeMap::from([("fork", 0.25)]))?;
        let all = recorded(&path)?;
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            [("fork".to_owned(), 0.25), ("suite".to_owned(), 0.3)]
        );
        Ok(())
    }

    /// A run that another one did a part of took less time than its steps tell.
    #[test]
    fn a_suite_is_one_runs_own() {
        let read = |shared_with: &str| -> Result<(f64, f64)> {
            let dir = tempfile::tempdir()?;
            let step = serde_json::json!({
                "number": 1, "what": "boot", "status": { "is": "passed" }, "checks": [], "boots": [], "took_ms": 4000,
                "shared_with": shared_with,
            });
            let row = serde_json::json!({
                "scenario": "s", "title": "t", "why": "w", "image": "i", "status": { "is": "passed" },
                "conclusion": null, "steps": [step], "reproduce": "", "kept": null, "took_ms": 1,
            });
            let run = serde_json::json!({
                "schema": "latchkey-results/1", "run": "r", "harness": "h", "host": "h", "scenarios": [row], "took_ms": 1000,
            });
            std::fs::write(dir.path().join("results.json"), run.to_string())?;
            suite(dir.path())
        };
        assert_eq!(read("other on i").ok(), Some((1.0, 4.0)));
        let refused = read(&StepResult::row_of("other on i", "20260102")).err().map(|e| e.to_string());
        assert!(refused.as_ref().is_some_and(|why| why.contains("an earlier run")), "{refused:?}");
    }

    #[test]
    fn ratios_are_of_medians_and_differences_of_pairs() {
        let times = Times {
            harness: vec![30.0, 90.0, 31.0],
            bare: vec![29.5, 89.8, 30.9],
            fork: vec![1.0, 2.0, 1.5],
            save: 3.0,
        };
        let figures = figures(&times, Some((100.0, 500.0)));
        let value = |name: &str| figures.iter().find(|f| f.name == name).map_or(f64::NAN, |f| f.value);
        assert!((value("harness-adds") - 0.2).abs() < 1e-9);
        assert!((value("fork-to-cold-boot") - 1.5 / 31.0).abs() < 1e-9);
        assert!((value("suite-to-its-steps") - 0.2).abs() < 1e-9);
        assert!(value("harness-memory") > 0.0);
        let recorded = |fork: f64| BTreeMap::from([("fork-to-cold-boot".to_owned(), fork)]);
        let fork = figures.iter().find(|f| f.name == "fork-to-cold-boot");
        let worse = |than: f64| fork.is_some_and(|fork| fork.is_worse(&recorded(than)));
        assert!(worse(0.04) && !worse(0.045) && !fork.is_some_and(|fork| fork.is_worse(&BTreeMap::new())));
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9 && median(&[]).is_nan());
    }
}
