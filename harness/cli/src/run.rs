//! `latchkey run`.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use latchkey_host::{Host, Refresh};
use latchkey_images::{Cache, FirmwareCas, Image, Pki, Recipe, ensure, variables};
use latchkey_record::results::SCHEMA;
use latchkey_record::{RunResults, ScenarioResult};
use latchkey_report::terminal::{self, Colour};
use latchkey_scenario::{Context, Keep, Scenario};

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
    let cache = cache(common)?;
    let host = Host::probe(cache.root(), Refresh::WhenStale)?;
    let pki = Pki::ensure(&cache, &live)?;
    let template = &host.firmware.vars_template;
    let template = fs::read(template).with_context(|| format!("reading {}", template.display()))?;
    let variables = variables(&pki, &FirmwareCas::ensure(&cache, &live)?, &template)?;
    let (run, results) = make_run_dir(&args.results)?;
    let mut done: Vec<ScenarioResult> = Vec::new();
    for scenario in &scenarios {
        let image = image_of(scenario, args.image.as_deref(), &cache, &live)?;
        let context = Context {
            host: &host,
            image: &image,
            pki: &pki,
            variables: &variables,
            machines: cache.root().join("machines"),
            results: results.clone(),
            keep: if args.keep { Keep::Yes } else { Keep::No },
            reproduce: reproduce(scenario, args),
        };
        done.push(latchkey_scenario::run(scenario, &context, &live));
        if latchkey_supervise::cancelled() {
            break;
        }
    }
    live.finish();
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let host = format!(
        "{}, QEMU {}, OVMF {}, swtpm {}",
        host.accelerator,
        host.tools.qemu.version,
        host.firmware.version.as_deref().unwrap_or("of unknown version"),
        host.tools.swtpm.version
    );
    let harness = env!("CARGO_PKG_VERSION").to_owned();
    let report = RunResults { schema: SCHEMA.into(), run, harness, host, scenarios: done, took_ms };
    write_reports(&report, &results)?;
    if common.json {
        print(&latchkey_report::json::results(&report)?)?;
    } else {
        print(&format!("\n{}", terminal::summary(&report, colour())))?;
        print(&format!("{}\n", results.join("results.json").display()))?;
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

fn image_of(scenario: &Scenario, users: Option<&Path>, cache: &Cache, live: &Live) -> Result<Image> {
    if let Some(path) = users {
        anyhow::bail!("images of one's own are not ready: {}", path.display());
    }
    let recipe = Recipe::named(&scenario.machine.image).map_err(|e| UsageError(e.to_string()))?;
    Ok(ensure(&recipe, cache, live)?)
}

/// A fresh directory for this run, its name first.
fn make_run_dir(root: &Path) -> Result<(String, PathBuf)> {
    fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
    let root = root.canonicalize().with_context(|| format!("looking for {}", root.display()))?;
    let format = time::macros::format_description!("[year][month][day]-[hour][minute][second]");
    let now = time::OffsetDateTime::now_utc().format(&format).context("reading the clock")?;
    // The process id keeps two runs that begin in the same second apart.
    let name = format!("{now}-{:x}", std::process::id());
    let dir = root.join(&name);
    fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok((name, dir))
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
