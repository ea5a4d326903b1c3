//! `latchkey report` and `latchkey diff`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use latchkey_record::RunResults;
use latchkey_report::combine::{CombineError, combine};
use latchkey_report::{RunDir, RunDirError, terminal};

use crate::args::Common;
use crate::run::colour;
use crate::{UsageError, json, print};

/// Makes an old run's reports again, or those of several runs as one. Their verdict is told, not repeated as an exit code:
/// this command did what it should.
pub(crate) fn report(common: &Common, runs: &[PathBuf], into: Option<&Path>) -> Result<u8> {
    let dirs: Vec<RunDir> = runs.iter().map(|run| RunDir::at(run)).collect();
    let (dir, results) = match (&dirs[..], into) {
        (dirs, Some(into)) => (RunDir::at(into), combined(dirs, into)?),
        ([dir], None) => {
            let results = read(dir)?;
            dir.write_reports(&results)?;
            (dir.clone(), results)
        }
        _ => {
            let text = "a report of several runs needs a directory of its own: add --into DIR";
            return Err(UsageError(text.into()).into());
        }
    };
    if common.json {
        print(&latchkey_report::json::results(&results)?)?;
    } else {
        let summary = terminal::summary(&results, colour(std::io::stdout().is_terminal()));
        print(&format!("{summary}{}\n", dir.html_path().display()))?;
    }
    // What each part of a run may say, all of them together must not.
    if into.is_some() && results.proves_nothing() {
        return Err(UsageError("none of these runs ran a row, so nothing was proven".into()).into());
    }
    Ok(0)
}

/// Tells what changed from one run to the other.
pub(crate) fn diff(common: &Common, one: &Path, other: &Path) -> Result<u8> {
    let diff = latchkey_report::diff::runs(&read(&RunDir::at(one))?, &read(&RunDir::at(other))?);
    print(&if common.json { json(&diff)? } else { diff.to_string() })?;
    Ok(diff.exit_code())
}

fn combined(dirs: &[RunDir], into: &Path) -> Result<RunResults> {
    combine(dirs, into).map_err(|error| match error {
        CombineError::Run(error) => unreadable(error),
        CombineError::Twice { .. } | CombineError::InTheWay { .. } => UsageError(error.to_string()).into(),
        other @ CombineError::Copy { .. } => other.into(),
    })
}

/// A directory without results, or with another schema's, is the command line's fault.
pub(crate) fn read(dir: &RunDir) -> Result<RunResults> {
    dir.results().map_err(unreadable)
}

fn unreadable(error: RunDirError) -> anyhow::Error {
    match error {
        RunDirError::Read { .. } | RunDirError::Schema { .. } => UsageError(error.to_string()).into(),
        other => other.into(),
    }
}
