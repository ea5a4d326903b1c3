//! `latchkey report` and `latchkey diff`.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use latchkey_record::{RunResults, ScenarioResult};
use latchkey_report::combine::{self, ABSENT, CombineError, combine};
use latchkey_report::{RunDir, RunDirError, terminal};

use crate::args::Common;
use crate::run::colour;
use crate::{UsageError, json, print, say};

/// So many rows are named on a line.
const NAMED: usize = 10;

/// Makes an old run's reports again, or those of several runs as one. An old run's verdict is told, not repeated as an exit
/// code: this command did what it should. Of several runs nobody has heard the verdict yet, and of the `rows` that should be
/// there nobody else knows that one is missing.
pub(crate) fn report(
    common: &Common,
    runs: &[PathBuf],
    into: Option<&Path>,
    rows: Option<&Path>,
) -> Result<u8> {
    let dirs: Vec<RunDir> = runs.iter().map(|run| RunDir::at(run)).collect();
    let wanted = rows.map(listed).transpose()?.unwrap_or_default();
    let (dir, results) = match (&dirs[..], into) {
        (dirs, Some(into)) => (RunDir::at(into), combined(dirs, into, &wanted)?),
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
        print(&crate::json(&results)?)?;
    } else {
        let summary = terminal::summary(&results, colour(std::io::stdout().is_terminal()));
        print(&format!("{summary}{}\n", dir.html_path().display()))?;
    }
    if into.is_none() {
        return Ok(0);
    }
    // What each part of a run may say, all of them together must not.
    if results.proves_nothing() || results.scenarios.is_empty() {
        return Err(UsageError("none of these runs ran a row, so nothing was proven".into()).into());
    }
    let not_reached = results.scenarios.iter().filter(|row| row.status.is_not_reached()).count();
    if not_reached > 0 {
        say(&format!("{not_reached} of {} rows were not reached", results.scenarios.len()));
    }
    let Some(list) = rows else { return Ok(results.exit_code()) };
    let is_absent =
        |row: &&ScenarioResult| row.status.reason().is_some_and(|reason| reason.starts_with(ABSENT));
    let lines: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    let is_new = |row: &&ScenarioResult| !lines.contains(combine::listed(&row.scenario, &row.image).as_str());
    let (absent, new) = (told(&results, is_absent), told(&results, is_new));
    if !new.is_empty() {
        say(&format!("{} does not list: {}", list.display(), in_a_line(&new)));
    }
    if !absent.is_empty() {
        say(&format!("{} lists what none of these runs has: {}", list.display(), in_a_line(&absent)));
    }
    Ok(results.exit_code())
}

/// The names of some rows, on a line: somebody else may have written them.
fn told(results: &RunResults, which: impl Fn(&&ScenarioResult) -> bool) -> Vec<String> {
    results.scenarios.iter().filter(which).map(|row| terminal::plain(&row.row())).collect()
}

/// All of `rows`, or of many how many they are and the first: the report has them.
fn in_a_line(rows: &[String]) -> String {
    match rows.get(..NAMED) {
        Some(first) if rows.len() > NAMED => {
            let (all, more) = (rows.len(), rows.len() - NAMED);
            format!("{all} rows: {}, and {more} more, which the report has", first.join(", "))
        }
        _ => rows.join(", "),
    }
}

/// The rows that the file `list` has, one a line: scenario and image. Lines that begin with `#` are remarks.
fn listed(list: &Path) -> Result<Vec<String>, UsageError> {
    let told = |why: &dyn std::fmt::Display| UsageError(format!("--rows {}: {why}", list.display()));
    let text = std::fs::read_to_string(list).map_err(|e| told(&e))?;
    let advice = "`run --list --rows` writes such a list";
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &str| match line.contains(' ') {
        true => Ok(line.to_owned()),
        false => Err(told(&format!("`{line}` is no scenario and image; {advice}"))),
    };
    let rows = lines.map(row).collect::<Result<Vec<_>, _>>()?;
    if rows.is_empty() { Err(told(&format!("it lists no row; {advice}"))) } else { Ok(rows) }
}

/// Tells what changed from one run to the other.
pub(crate) fn diff(common: &Common, one: &Path, other: &Path) -> Result<u8> {
    let diff = latchkey_report::diff::runs(&read(&RunDir::at(one))?, &read(&RunDir::at(other))?);
    print(&if common.json { json(&diff)? } else { diff.to_string() })?;
    Ok(diff.exit_code())
}

fn combined(dirs: &[RunDir], into: &Path, wanted: &[String]) -> Result<RunResults> {
    combine(dirs, into, wanted).map_err(|error| match error {
        CombineError::Run(error) => unreadable(error),
        CombineError::Twice { .. } | CombineError::InTheWay { .. } | CombineError::TooMuch { .. } => {
            UsageError(error.to_string()).into()
        }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    /// As `run --list --rows` wrote it, and as somebody changed it since.
    #[test]
    fn a_list_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("rows.txt");
        let read = |text: &str| {
            std::fs::write(&list, text).unwrap();
            listed(&list).map_err(|e| e.to_string())
        };
        let rows = ["first-boot my image.qcow2".to_owned(), "first-boot rlc9-uki".to_owned()];
        let written = "first-boot my image.qcow2\nfirst-boot rlc9-uki\n";
        assert_eq!(read(written).unwrap(), rows);
        assert_eq!(read(&format!("# mine\n\n{}", written.replace('\n', " \r\n"))).unwrap(), rows);
        for nothing in ["", "# first-boot rlc9-uki\n", " \n"] {
            assert!(read(nothing).unwrap_err().contains("lists no row; `run --list --rows`"), "{nothing:?}");
        }
        assert!(read("drill \n").unwrap_err().contains("`drill` is no scenario and image"));
    }

    #[test]
    fn many_rows_are_counted_and_ten_of_them_named() {
        let rows: Vec<String> = (1..=390).map(|number| format!("row-{number} on i")).collect();
        assert_eq!(in_a_line(&rows[..10]), rows[..10].join(", "));
        let many = in_a_line(&rows);
        assert!(
            many.starts_with("390 rows: row-1 on i, ") && many.contains("row-10 on i, and 380 more"),
            "{many}"
        );
        assert!(!many.contains("row-11 ") && many.len() < 300, "{many}");
    }

    #[test]
    fn names_of_rows_get_no_say_over_the_terminal() {
        let results: RunResults = serde_json::from_value(serde_json::json!({
            "schema": "latchkey-results/1", "run": "r", "harness": "0", "host": "tcg", "took_ms": 1,
            "scenarios": [{
                "scenario": "dr\u{1b}[8mill\n", "title": "t", "why": "w", "image": "i", "status": {"is": "passed"},
                "conclusion": "open", "steps": [], "reproduce": "again", "kept": null, "took_ms": 1,
            }],
        }))
        .unwrap();
        assert_eq!(told(&results, |_| true), ["dr\u{fffd}[8mill\u{fffd} on i"]);
    }
}
