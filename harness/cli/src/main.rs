//! The `latchkey` binary: argument parsing, and which room does what.

mod args;
mod bench;
mod catalogue;
mod choice;
mod environment;
mod forecast;
mod image;
mod jobs;
mod plan;
mod progress;
mod rehearse;
mod report;
mod run;
mod scenario;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use latchkey_host::{Host, Refresh};
use latchkey_images::Cache;
use latchkey_report::terminal::harmless;

use args::{Cli, Common, SchemaOf, Verb};

/// A scenario, recipe or file that the command line names is not there.
const USAGE: u8 = 2;
const INFRASTRUCTURE: u8 = 3;
const SETUP_INCOMPLETE: u8 = 4;
const INTERRUPTED: u8 = 130;

/// An error whose cause is the command line.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

fn main() -> ExitCode {
    // Before anything is started or known that a dump would have.
    let limited = latchkey_supervise::no_core_dumps();
    let cli = Cli::try_parse().unwrap_or_else(|error| ended(&error));
    log(cli.common.verbose);
    if let Err(error) = limited {
        tracing::warn!("whatever dies may leave a core dump with keys in it: {error}");
    }
    latchkey_supervise::cancel_on_signals();
    match dispatch(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("latchkey: {}", told(&error)));
            ExitCode::from(code_of(&error))
        }
    }
}

/// What clap ends with: help, a mistake, or the version, with the build that verdicts hang on, as `results.json` has both.
fn ended(error: &clap::Error) -> ! {
    if error.kind() == ErrorKind::DisplayVersion {
        let printed = print(&format!("latchkey {}\n", latchkey_scenario::harness()));
        std::process::exit(if printed.is_ok() { 0 } else { INFRASTRUCTURE.into() });
    }
    error.exit()
}

/// The error with its causes, each told once: most errors end with their cause already.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |all, cause| match all.as_str() {
        "" => cause,
        all if all.ends_with(&cause) => all.to_owned(),
        all => format!("{all}: {cause}"),
    })
}

fn code_of(error: &anyhow::Error) -> u8 {
    use latchkey_host::Error as Host;
    if latchkey_supervise::cancelled() {
        return INTERRUPTED;
    }
    if error.is::<UsageError>() {
        return USAGE;
    }
    let host = match error.downcast_ref::<latchkey_scenario::SessionError>() {
        Some(latchkey_scenario::SessionError::Host(host)) => Some(host),
        _ => error.downcast_ref::<Host>(),
    };
    use latchkey_supervise::Error::Missing;
    let missing = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(Missing { .. }))
            // It passes its cause's words on as its own, and so its cause is not in the chain.
            || matches!(cause.downcast_ref(), Some(Host::Supervise(Missing { .. })))
    };
    if error.chain().any(missing) {
        return SETUP_INCOMPLETE;
    }
    match host {
        Some(
            Host::ToolMissing { .. }
            | Host::TooOld { .. }
            | Host::FirmwareMissing
            | Host::Supervise(Missing { .. }),
        ) => SETUP_INCOMPLETE,
        _ => INFRASTRUCTURE,
    }
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env(environment::LOG)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{level},fatfs=error")));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}

fn dispatch(cli: &Cli) -> Result<u8> {
    match &cli.verb {
        Verb::Run(run) => run::run(&cli.common, run),
        Verb::Bench(args) => bench::bench(&cli.common, args),
        Verb::Forecast(args) => forecast::forecast(&cli.common, args),
        Verb::Scenario(verb) => scenario::scenario(&cli.common, verb),
        Verb::Report { runs, into, rows } => {
            report::report(&cli.common, runs, into.as_deref(), rows.as_deref())
        }
        Verb::Diff { one, other } => report::diff(&cli.common, one, other),
        Verb::Image(verb) => image::image(&cli.common, verb),
        Verb::Probe { refresh } => {
            let refresh = if *refresh { Refresh::Always } else { Refresh::WhenStale };
            let host = Host::probe(cache(&cli.common)?.root(), refresh)?;
            let text = if cli.common.json { json(&host)? } else { host.to_string() };
            print(&text)
        }
        Verb::Schema { of } => print(&json(&match of {
            SchemaOf::Results => latchkey_report::json::schema(),
            SchemaOf::Scenario => latchkey_scenario::file::schema(),
        })?),
        Verb::Completions { shell } => {
            has_no_json(&cli.common, "completions")?;
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "latchkey", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
    }
}

/// Refuses `--json` where `verb` prints none: whoever parses the answer learns it from the exit code.
pub(crate) fn has_no_json(common: &Common, verb: &str) -> Result<(), UsageError> {
    if common.json { Err(UsageError(format!("`{verb}` has no JSON: leave --json out"))) } else { Ok(()) }
}

/// The cache that the user wants.
pub(crate) fn cache(common: &Common) -> Result<Cache> {
    Ok(match &common.cache {
        Some(dir) => Cache::at(dir)?,
        None => Cache::of_user()?,
    })
}

/// The same for whoever only looks: it is not made, and may not be there.
pub(crate) fn cache_as_it_is(common: &Common) -> Result<Cache> {
    let cache = Cache::as_it_is(common.cache.as_deref())?;
    let root = cache.root();
    if root.exists() && !root.is_dir() {
        return Err(UsageError(format!("the cache {} is no directory", root.display())).into());
    }
    Ok(cache)
}

/// Any record as indented JSON with a newline. Control characters are escaped, those that JSON itself lets through as well.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).context("writing JSON")? + "\n";
    let escaped = |c: char| match c {
        '\u{7f}'..='\u{9f}' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    Ok(match text.contains(|c: char| c.is_control() && c != '\n') {
        true => text.chars().map(escaped).collect(),
        false => text,
    })
}

/// Writes a line to standard error, harmless to a terminal. Who closed it or filled its disk is told nothing, and the run goes on.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", harmless(line));
}

/// Writes to standard output what is harmless to a terminal; a reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<u8> {
    match std::io::stdout().write_all(harmless(text).as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("writing to standard output"),
        _ => Ok(0),
    }
}
