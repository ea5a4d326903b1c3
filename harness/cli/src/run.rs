//! `latchkey run`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use latchkey_record::results::LeftOut;
use latchkey_record::{RunResults, ScenarioResult};
use latchkey_report::RunDir;
use latchkey_report::combine;
use latchkey_report::terminal::{self, Colour};
use latchkey_scenario::plan::{Plan, prefixes};
use latchkey_scenario::{Forks, Keep, NotReached, Scenario, Session, Store, Verdicts, jobs};
use latchkey_supervise::quoted;

use crate::args::{Common, RunArgs};
use crate::choice::{self, HandedIn, apart, chosen, goes_by, own};
use crate::jobs::{interleaved, side_by_side};
use crate::progress::Live;
use crate::{INTERRUPTED, UsageError, cache, environment, print};

/// Runs the scenarios that the command line names.
pub(crate) fn run(common: &Common, args: &RunArgs) -> Result<u8> {
    let handed_in = HandedIn::of(&args.machines)?;
    let scenarios = chosen(&args.scenarios)?;
    handed_in.tell_unused(&scenarios);
    if args.list {
        return list(common, args, &scenarios);
    }
    let rows = rows(&scenarios, args)?;
    let own = own(&args.machines, !args.scenarios.is_empty())?;
    apart(&rows, &own)?;
    let catalogue = chosen(&[])?;
    let all =
        catalogue.iter().flat_map(|s| s.machine.image.names().iter().map(move |image| (s, image.as_str())));
    let plan = Plan::of(rows.iter().map(|(scenario, name)| (*scenario, goes_by(&own, name)))).beside(all);
    if args.plan {
        return crate::plan::show(common, args, plan, &rows, own, handed_in);
    }
    let begun = Instant::now();
    let live = Live::new();
    let jobs = jobs(args.jobs.map(usize::from));
    let mut session = handed_in.into(Session::begin(cache(common)?, &args.results, &live)?)?.with_jobs(jobs);
    let keep = if args.keep { Keep::Yes } else { Keep::No };
    session = session.with_sharing(plan, forks(args), verdicts(args))?;
    session = session.with_another_vm(rows.iter().map(|(scenario, _)| *scenario), &live);
    let images: BTreeSet<&str> = rows.iter().map(|(_, name)| goes_by(&own, name)).collect();
    live.begins(session.results(), rows.len(), &images, jobs);
    let times = session.store().map(Store::times).unwrap_or_default();
    let dir = RunDir::at(session.results());
    let rows = interleaved(rows, |(_, image)| (*image).to_owned());
    // Rows that a run does not come to are part of what it tells.
    let not_reached = |done: &[ScenarioResult], why: NotReached| -> Vec<ScenarioResult> {
        let waiting = |(scenario, name): &&(&Scenario, &str)| {
            !done.iter().any(|done| done.scenario == scenario.name && done.image == goes_by(&own, name))
        };
        let rest = rows.iter().filter(waiting);
        rest.map(|(scenario, name)| {
            latchkey_scenario::not_reached(
                scenario,
                goes_by(&own, name),
                reproduce(common, scenario, name, args),
                why,
            )
        })
        .collect()
    };
    // What a scenario says of reference images it does not say of a user's.
    let left_out = if own.is_some() { Vec::new() } else { left_out(&scenarios, &rows) };
    let so_far = Mutex::new(Vec::new());
    let report = |rows| {
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        RunResults { left_out: left_out.clone(), ..session.report(rows, took_ms) }
    };
    // Whoever kills this process, or the computer's memory, shall not take with it what the rows came to until then.
    let keep_so_far = |result: &ScenarioResult| {
        let mut so_far = so_far.lock().unwrap_or_else(PoisonError::into_inner);
        so_far.push(result.clone());
        let all = [&so_far[..], &not_reached(&so_far, NotReached::Yet)].concat();
        if let Err(error) = dir.write_results(&report(all)) {
            tracing::warn!("{error}");
        }
    };
    let one = |(scenario, name): (&Scenario, &str)| {
        let row = live.row(&scenario.name, goes_by(&own, name), expected(&times, scenario, name));
        let reproduce = reproduce(common, scenario, name, args);
        let image = own.clone().map_or_else(|| session.image(name, &live), Ok);
        let context = image.as_ref().map_err(ToString::to_string).and_then(|image| {
            session.context(image, keep, reproduce.clone(), &live).map_err(|e| e.to_string())
        });
        let result = match context {
            Ok(context) => latchkey_scenario::run(scenario, &context, &row),
            // What the other scenarios come to is not lost.
            Err(why) => latchkey_scenario::without_image(scenario, goes_by(&own, name), why, reproduce, &row),
        };
        keep_so_far(&result);
        result
    };
    let mut done = side_by_side(rows.clone(), jobs, latchkey_supervise::cancelled, one);
    done.extend(not_reached(&done, NotReached::Interrupted));
    done.sort_by(|a, b| (&a.scenario, &a.image).cmp(&(&b.scenario, &b.image)));
    live.finish();
    let report = report(done);
    // Told even if it cannot be kept.
    let written = dir.write(&report);
    let places = format!("{}\n{}\n", dir.results_path().display(), dir.html_path().display());
    let summary = |colour| format!("\n{}{places}", terminal::summary(&report, colour));
    if common.json {
        // For whoever reads the log of a job: why it failed.
        crate::say(summary(colour(std::io::stderr().is_terminal())).trim_end_matches('\n'));
        print(&crate::json(&report)?)?;
    } else {
        print(&summary(colour(std::io::stdout().is_terminal())))?;
    }
    written?;
    if latchkey_supervise::cancelled() {
        return Ok(INTERRUPTED);
    }
    // A part of a run may have nothing to do; a whole one that did nothing must not look like one that proved something.
    if args.shard.is_none() && report.proves_nothing() {
        return Err(UsageError("no row was run, so nothing was proven; why is told above".into()).into());
    }
    Ok(report.exit_code())
}

/// The rows that the command line picks, or the part of them that is this job's.
fn rows<'a>(scenarios: &'a [Scenario], args: &RunArgs) -> Result<Vec<(&'a Scenario, &'a str)>, UsageError> {
    let rows = choice::rows(scenarios, &args.machines)?;
    Ok(match args.shard {
        Some(shard) => shard.of(rows, |(scenario, image)| combine::listed(&scenario.name, image)),
        None => rows,
    })
}

pub(crate) fn forks(args: &RunArgs) -> Forks {
    if args.no_fork { Forks::No } else { Forks::Yes }
}

pub(crate) fn verdicts(args: &RunArgs) -> Verdicts {
    if args.fresh { Verdicts::Fresh } else { Verdicts::Reuse }
}

/// Which of `scenarios` are, by their own account, not for which of the images that `rows` are on.
fn left_out(scenarios: &[Scenario], rows: &[(&Scenario, &str)]) -> Vec<LeftOut> {
    let images: BTreeSet<&str> = rows.iter().map(|(_, image)| *image).collect();
    let told =
        scenarios.iter().flat_map(|scenario| scenario.left_out.iter().map(move |told| (scenario, told)));
    let here = told.filter(|(_, (image, _))| images.contains(image.as_str()));
    here.map(|(scenario, (image, why))| LeftOut {
        scenario: scenario.name.clone(),
        image: image.clone(),
        why: why.clone(),
    })
    .collect()
}

/// How long a row takes by itself, as far as its steps were timed; `None` where one never was.
fn expected(times: &BTreeMap<String, u64>, scenario: &Scenario, image: &str) -> Option<Duration> {
    let all = prefixes(scenario, image);
    let took: Option<Vec<u64>> = all.iter().map(|prefix| times.get(prefix.as_str()).copied()).collect();
    Some(Duration::from_millis(took?.into_iter().sum()))
}

/// Tells what would be run: the rows, or each scenario with its images.
fn list(common: &Common, args: &RunArgs, scenarios: &[Scenario]) -> Result<u8> {
    let own = own(&args.machines, !args.scenarios.is_empty())?;
    let rows = rows(scenarios, args)?;
    let rows: Vec<_> = rows.into_iter().map(|(scenario, image)| (scenario, goes_by(&own, image))).collect();
    if args.rows && !common.json {
        let line = |(s, image): &(&Scenario, &str)| combine::listed(&s.name, image) + "\n";
        return print(&rows.iter().map(line).collect::<String>());
    }
    let by_scenario = rows.chunk_by(|(one, _), (other, _)| one.name == other.name);
    let told = by_scenario.map(|rows| (rows[0].0, rows.iter().map(|(_, image)| *image).collect::<Vec<_>>()));
    if common.json {
        let one = |(s, images): (&Scenario, Vec<&str>)| serde_json::json!({"name": s.name, "title": s.title, "why": s.why, "images": images});
        return print(&crate::json(&told.map(one).collect::<Vec<_>>())?);
    }
    let told: Vec<_> = told.map(|(s, images)| (s, images.join(" "))).collect();
    // A column is as wide as its longest word.
    let names = told.iter().map(|(s, _)| s.name.chars().count()).max().unwrap_or(0);
    let line = |(s, images): &(&Scenario, String)| {
        format!("{:<names$}  {}\n{:<names$}  {images}\n", s.name, s.title, "")
    };
    print(&told.iter().map(line).collect::<String>())
}

/// The command that runs a row alone, on what it ran on.
fn reproduce(common: &Common, scenario: &Scenario, image: &str, args: &RunArgs) -> String {
    let built_in = scenario.path == Path::new("scenarios").join(&scenario.name).with_extension("toml");
    let what = if built_in { scenario.name.clone() } else { quoted(&scenario.path) };
    let image = match &args.machines.image {
        Some(path) => {
            let on = args.machines.on.as_ref().map_or(String::new(), |on| format!(" --on {on}"));
            format!(" --image {}{on}", quoted(path))
        }
        None if scenario.machine.image.names().len() > 1 => format!(" --on {image}"),
        None => String::new(),
    };
    let artefacts: String =
        args.machines.artefacts.iter().map(|text| format!(" --artefact {}", quoted(text))).collect();
    let option = |name: &str, path: &Option<PathBuf>| {
        path.as_ref().map_or(String::new(), |path| format!(" {name} {}", quoted(path)))
    };
    let variables = option("--variables", &args.machines.variables);
    let cache = option("--cache", &common.cache);
    let before = environment::before_command(common.cache.as_deref());
    format!("{before}cargo xtask run {what}{image}{variables}{artefacts}{cache} --keep")
}

/// Colours for a terminal, unless the user wants none.
pub(crate) fn colour(terminal: bool) -> Colour {
    let wanted = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if wanted { Colour::On } else { Colour::Off }
}
