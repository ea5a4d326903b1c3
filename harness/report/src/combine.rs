//! Several runs as one: the shards of a catalogue, or the same scenarios on several hosts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use latchkey_record::results::{LeftOut, NOT_REACHED, SCHEMA};
use latchkey_record::{BootRecord, RunResults, ScenarioResult, Status};

use crate::{RunDir, RunDirError};

/// What stands between hosts.
const BETWEEN: &str = "; ";
/// How the reason begins for which a row has no verdict that should be there and is in no run.
pub const ABSENT: &str = "in-no-run: ";

/// Why runs cannot become one.
#[derive(Debug, thiserror::Error)]
pub enum CombineError {
    /// One of them cannot be read, or the whole not written.
    #[error(transparent)]
    Run(#[from] RunDirError),
    /// Two of them ran the same row on the same host: one verdict would hide the other.
    #[error(
        "{row} was run by {one} and by {other}, on the same host; leave out one of them, or ask `cargo xtask diff` what changed"
    )]
    Twice {
        /// Which row.
        row: String,
        /// The first run's name.
        one: String,
        /// The other's.
        other: String,
    },
    /// There is something already where the whole is to be.
    #[error("{} is not empty; name a directory that is, or none yet", path.display())]
    InTheWay {
        /// The directory.
        path: PathBuf,
    },
    /// What they recorded cannot be copied.
    #[error("copying to {}: {source}", path.display())]
    Copy {
        /// Where to.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A row by its scenario and its image.
pub type RowName = (String, String);

/// Puts the rows of `runs` with what was recorded of them into the directory `into`, which is made unless it is there and
/// empty, and writes results and reports there. A row that one run did not run and another did counts once. Times are sums.
/// One of `wanted` that none of them came to is an infrastructure error with a reason that begins with [`ABSENT`].
///
/// # Errors
/// [`CombineError`] says what is in the way; `into` is then not a run's directory.
pub fn combine(runs: &[RunDir], into: &Path, wanted: &[RowName]) -> Result<RunResults, CombineError> {
    let read = runs.iter().map(RunDir::results).collect::<Result<Vec<_>, _>>()?;
    let made = fs::create_dir_all(into).and_then(|()| fs::read_dir(into)?.next().transpose());
    match made {
        Ok(None) => {}
        Ok(Some(_)) => return Err(CombineError::InTheWay { path: into.to_owned() }),
        Err(source) => return Err(CombineError::Copy { path: into.to_owned(), source }),
    }
    // One that is made of several has them one after the other.
    let hosts = distinct(read.iter().flat_map(|run| run.host.split(BETWEEN)));
    // By the number of the run that it is from.
    let mut rows: Vec<(usize, ScenarioResult)> = Vec::new();
    for (number, run) in read.iter().enumerate() {
        for row in &run.scenarios {
            let mut row = row.clone();
            if hosts.len() > 1 {
                row.host.get_or_insert_with(|| run.host.clone());
            }
            match rows.iter_mut().find(|(from, other)| *from != number && is_the_same(other, &row)) {
                Some(other) if is_not_run(&other.1) => *other = (number, row),
                Some(_) if is_not_run(&row) => {}
                Some((from, _)) => {
                    return Err(CombineError::Twice {
                        row: row.row(),
                        one: read[*from].run.clone(),
                        other: run.run.clone(),
                    });
                }
                None => rows.push((number, row)),
            }
        }
    }
    for name @ (scenario, image) in wanted {
        let of_name = |row: &ScenarioResult| (&row.scenario, &row.image) == (scenario, image);
        if !rows.iter().any(|(_, row)| of_name(row) && !is_not_there(row)) {
            rows.retain(|(_, row)| !of_name(row));
            rows.push((0, absent(name)));
        }
    }
    rows.sort_by(|(_, a), (_, b)| (&a.scenario, &a.image, &a.host).cmp(&(&b.scenario, &b.image, &b.host)));
    for (number, row) in &mut rows {
        let boots = row.steps.iter_mut().flat_map(|step| &mut step.boots);
        // One that leads out of its run's directory is left as it is, and told in the report.
        let inside = |path: &&mut PathBuf| path.components().all(|part| matches!(part, Component::Normal(_)));
        for path in boots.flat_map(paths).filter(inside) {
            let below = PathBuf::from(format!("run-{}", *number + 1)).join(&*path);
            copy(&runs[*number], path, &into.join(&below))?;
            *path = below;
        }
    }
    let mut left_out: Vec<LeftOut> = Vec::new();
    for one in read.iter().flat_map(|run| &run.left_out) {
        if !left_out.contains(one) {
            left_out.push(one.clone());
        }
    }
    let all = RunResults {
        schema: SCHEMA.to_owned(),
        run: distinct(read.iter().map(|run| run.run.as_str())).join(", "),
        harness: distinct(read.iter().map(|run| run.harness.as_str())).join(BETWEEN),
        host: hosts.join(BETWEEN),
        scenarios: rows.into_iter().map(|(_, row)| row).collect(),
        left_out,
        took_ms: read.iter().fold(0, |sum, run| sum.saturating_add(run.took_ms)),
    };
    RunDir::at(into).write(&all)?;
    Ok(all)
}

/// What is told of a row that no run has.
fn absent((scenario, image): &RowName) -> ScenarioResult {
    let reason = format!(
        "{ABSENT}none of these runs came to this row. Its shard is missing or was ended, or the catalogue does not have it any more"
    );
    ScenarioResult {
        scenario: scenario.clone(),
        title: String::new(),
        why: String::new(),
        image: image.clone(),
        host: None,
        status: Status::InfrastructureError { reason },
        conclusion: None,
        steps: Vec::new(),
        reproduce: format!("cargo xtask run {scenario} --on {image}"),
        kept: None,
        took_ms: 0,
        reused: None,
        image_identity: None,
    }
}

/// Whether the row has no verdict that another run's could hide.
fn is_not_run(row: &ScenarioResult) -> bool {
    matches!(row.status, Status::Skipped { .. }) || is_not_there(row)
}

/// Whether its run has not come to the row, or none had it.
fn is_not_there(row: &ScenarioResult) -> bool {
    let begins = |with: &str| row.status.reason().is_some_and(|reason| reason.starts_with(with));
    match row.status {
        Status::Skipped { .. } => begins(NOT_REACHED),
        Status::InfrastructureError { .. } => begins(ABSENT),
        _ => false,
    }
}

fn is_the_same(one: &ScenarioResult, other: &ScenarioResult) -> bool {
    (&one.scenario, &one.image, &one.host) == (&other.scenario, &other.image, &other.host)
}

/// Each once, in their order.
fn distinct<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    words.filter(|word| seen.insert(*word)).collect()
}

/// Where what was recorded of a boot lies.
fn paths(boot: &mut BootRecord) -> impl Iterator<Item = &mut PathBuf> {
    let BootRecord { console, tpm, forecast, command_line, event_log, .. } = boot;
    [console, tpm, forecast, command_line].into_iter().chain(event_log)
}

/// Copies a file that a run has. One that it lacks is missing in the whole as well, which the report tells.
fn copy(run: &RunDir, name: &Path, to: &Path) -> Result<(), CombineError> {
    // Several boots may have the same.
    if to.exists() {
        return Ok(());
    }
    let Ok(from) = run.place(name) else { return Ok(()) };
    let failed = |source| CombineError::Copy { path: to.to_owned(), source };
    fs::create_dir_all(to.parent().unwrap_or(to)).map_err(failed)?;
    fs::copy(from, to).map(drop).map_err(failed)
}
