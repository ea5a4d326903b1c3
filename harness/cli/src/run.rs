//! `latchkey run`.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use latchkey_images::Image;
use latchkey_record::{RunResults, ScenarioResult};
use latchkey_report::terminal::{self, Colour};
use latchkey_scenario::{Keep, Scenario, Session};

use crate::args::{Common, RunArgs};
use crate::progress::Live;
use crate::{INTERRUPTED, UsageError, cache, print};

/// Runs the scenarios that the command line names.
pub(crate) fn run(common: &Common, args: &RunArgs) -> Result<u8> {
    if args.list {
        return list(common);
    }
    let scenarios = chosen(&args.scenarios)?;
    let begun = Instant::now();
    let live = Live::new();
    let session = Session::begin(cache(common)?, &args.results, &live)?;
    let keep = if args.keep { Keep::Yes } else { Keep::No };
    let mut done: Vec<ScenarioResult> = Vec::new();
    for scenario in &scenarios {
        let image = match &args.image {
            Some(path) => Image::from_user(path)?,
            None => session.image_of(scenario, &live)?,
        };
        let context = session.context(&image, keep, reproduce(scenario, args));
        done.push(latchkey_scenario::run(scenario, &context, &live));
        if latchkey_supervise::cancelled() {
            break;
        }
    }
    live.finish();
    let report = session.report(done, u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    write_reports(&report, session.results())?;
    if common.json {
        print(&latchkey_report::json::results(&report)?)?;
    } else {
        print(&format!("\n{}", terminal::summary(&report, colour())))?;
        print(&format!("{}\n", session.results().join("results.json").display()))?;
    }
    Ok(if latchkey_supervise::cancelled() { INTERRUPTED } else { report.exit_code() })
}

fn list(common: &Common) -> Result<u8> {
    let all = chosen(&[])?;
    if common.json {
        let rows: Vec<_> = all
            .iter()
            .map(|s| serde_json::json!({"name": s.name, "title": s.title, "why": s.why, "image": s.machine.image}))
            .collect();
        return print(&crate::json(&rows)?);
    }
    let text: String =
        all.iter().map(|s| format!("{:<24} {:<12} {}\n", s.name, s.machine.image, s.title)).collect();
    print(&text)
}

/// The scenarios named, or all of the project's. A word with a slash or `.toml` is a path.
fn chosen(names: &[String]) -> Result<Vec<Scenario>> {
    let own = latchkey_scenarios::all();
    let built_in =
        |name: &str, text: &str| Scenario::parse(Path::new(&format!("scenarios/{name}.toml")), text);
    if names.is_empty() {
        let all = own.iter().map(|(name, text)| built_in(name, text));
        return all.map(|scenario| scenario.map_err(shown)).collect();
    }
    let one = |name: &String| {
        if name.contains('/') || name.ends_with(".toml") {
            return Scenario::load(Path::new(name)).map_err(shown);
        }
        let text = own.iter().find(|(known, _)| known == name).map(|(_, text)| text).ok_or_else(|| {
            let known: Vec<&str> = own.iter().map(|(name, _)| *name).collect();
            UsageError(format!(
                "there is no scenario `{name}`; there are {}, or name a file",
                known.join(", ")
            ))
        })?;
        built_in(name, text).map_err(shown)
    };
    names.iter().map(one).collect()
}

/// A diagnostic as people read it: with the place in the file.
fn shown(diagnostic: Box<latchkey_scenario::diagnostic::Diagnostic>) -> anyhow::Error {
    UsageError(format!("{:?}", miette::Report::new_boxed(diagnostic))).into()
}

fn reproduce(scenario: &Scenario, args: &RunArgs) -> String {
    let built_in = latchkey_scenarios::all().iter().any(|(name, _)| *name == scenario.name);
    let what = if built_in { scenario.name.clone() } else { scenario.path.display().to_string() };
    let image = args.image.as_ref().map_or(String::new(), |path| format!(" --image {}", path.display()));
    format!("cargo xtask run {what}{image} --keep")
}

fn write_reports(report: &RunResults, dir: &Path) -> Result<()> {
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    write("results.json", latchkey_report::json::results(report)?)?;
    write("junit.xml", latchkey_report::junit::results(report)?)
}

fn colour() -> Colour {
    let wanted = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if wanted { Colour::On } else { Colour::Off }
}
