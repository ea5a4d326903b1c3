//! Several runs as one: the shards of a catalogue, or the same scenarios on several hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Component, Path, PathBuf};

use latchkey_record::results::{ImageVersions, LeftOut, SCHEMA};
use latchkey_record::{BootRecord, RunResults, ScenarioResult, Status};

use crate::html::Evidence as _;
use crate::terminal::plain;
use crate::{RunDir, RunDirError};

/// What stands between hosts.
const BETWEEN: &str = "; ";
/// How the reason begins for which a row has no verdict that should be there and is in no run.
pub const ABSENT: &str = "in-no-run: ";

/// No boot records a file that is longer. One that a report does not show is copied all the same.
const FILE_MOST: u64 = 1 << 30;
/// More is not copied in all: every row on ten hosts records a tenth of it.
const ALL_MOST: u64 = 16 << 30;
/// Zeros are looked for in pieces of this length.
const BLOCK: u64 = 64 << 10;

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
    #[error("copying to {}: {source}", plain(&path.display().to_string()))]
    Copy {
        /// Where to.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// They recorded more than is copied.
    #[error("{}: {why}; leave out the run that it is of", plain(&path.display().to_string()))]
    TooMuch {
        /// The file.
        path: PathBuf,
        /// What is too much.
        why: String,
    },
}

/// A row by its scenario and its image.
type RowName = (String, String);

/// Rows by their names and hosts, each with the number of the run that it is from.
type Rows = BTreeMap<RowName, BTreeMap<Option<String>, Vec<(usize, ScenarioResult)>>>;

/// A row as a list of rows has it, on a line of its own: `certificate-rename rlc9-uki`. Either name may have blanks.
#[must_use]
pub fn listed(scenario: &str, image: &str) -> String {
    format!("{scenario} {image}").trim().to_owned()
}

/// Which row a `line` of such a list means: of the rows that are `known` the one that is listed so, or else one of a known
/// image, or of a known scenario, or the one whose image has no blank.
fn meant(line: &str, known: &BTreeMap<String, RowName>) -> RowName {
    let of_image = |(_, image): &RowName| {
        let scenario = line.strip_suffix(image.as_str())?.strip_suffix(' ')?;
        Some(((scenario.to_owned(), image.clone()), image.len()))
    };
    let of_scenario = |(scenario, _): &RowName| {
        let image = line.strip_prefix(scenario.as_str())?.strip_prefix(' ')?;
        Some(((scenario.clone(), image.to_owned()), scenario.len()))
    };
    let split = || {
        let (scenario, image) = line.rsplit_once(' ').unwrap_or((line, ""));
        (scenario.to_owned(), image.to_owned())
    };
    known
        .get(line)
        .cloned()
        .or_else(|| longest(known.values().filter_map(of_image)))
        .or_else(|| longest(known.values().filter_map(of_scenario)))
        .unwrap_or_else(split)
}

/// Of several ways to split a line that of the longest known name.
fn longest(splits: impl Iterator<Item = (RowName, usize)>) -> Option<RowName> {
    splits.max_by_key(|(_, length)| *length).map(|(name, _)| name)
}

/// Puts the rows of `runs` with what was recorded of them into the directory `into`, which is made unless it is there and
/// empty, and writes results and reports there. Of a row in several of them counts the one that tells most. Times are sums.
/// One of `wanted`, which are rows as they are [`listed`], or of what an earlier whole wanted, that none of them came to is an
/// infrastructure error with a reason that begins with [`ABSENT`].
///
/// # Errors
/// [`CombineError`] says what is in the way; `into` is then not a run's directory.
pub fn combine(runs: &[RunDir], into: &Path, wanted: &[String]) -> Result<RunResults, CombineError> {
    let mut read = runs.iter().map(RunDir::results).collect::<Result<Vec<_>, _>>()?;
    let scenarios: Vec<_> = read.iter_mut().map(|run| std::mem::take(&mut run.scenarios)).collect();
    let made = fs::create_dir_all(into).and_then(|()| fs::read_dir(into)?.next().transpose());
    match made {
        Ok(None) => {}
        Ok(Some(_)) => return Err(CombineError::InTheWay { path: into.to_owned() }),
        Err(source) => return Err(CombineError::Copy { path: into.to_owned(), source }),
    }
    // One that is made of several has them one after the other.
    let hosts = distinct(read.iter().flat_map(|run| run.host.split(BETWEEN)));
    let mut rows = Rows::new();
    let names = scenarios.iter().flatten().map(|row| (row.scenario.clone(), row.image.clone()));
    let known: BTreeMap<String, RowName> = names.map(|name| (listed(&name.0, &name.1), name)).collect();
    let mut wanted: BTreeSet<RowName> = wanted.iter().map(|line| meant(line, &known)).collect();
    for (number, (run, scenarios)) in read.iter().zip(scenarios).enumerate() {
        for mut row in scenarios {
            let name = (row.scenario.clone(), row.image.clone());
            if is_absent(&row) {
                wanted.insert(name);
                continue;
            }
            if hosts.len() > 1 {
                row.host.get_or_insert_with(|| run.host.clone());
            }
            let of_name = rows.entry(name).or_default();
            let same = of_name.entry(row.host.clone()).or_default();
            // It is held against the first of another run. One that is this run's own took such a one's place, so that those
            // stand before the others.
            let at = same.partition_point(|(from, _)| *from == number);
            match same.get_mut(at) {
                Some((from, other)) if tells(other) == Tells::Verdict && tells(&row) == Tells::Verdict => {
                    return Err(CombineError::Twice {
                        row: plain(&row.row()),
                        one: plain(&read[*from].run),
                        other: plain(&run.run),
                    });
                }
                Some(other) if tells(&row) >= tells(&other.1) => *other = (number, row),
                Some(_) => {}
                None => same.push((number, row)),
            }
        }
    }
    for name in wanted {
        let is_there = |hosts: &BTreeMap<_, Vec<(usize, ScenarioResult)>>| {
            hosts.values().flatten().any(|(_, row)| !row.status.is_not_reached())
        };
        if !rows.get(&name).is_some_and(is_there) {
            let absent = absent(&name);
            rows.insert(name, BTreeMap::from([(None, vec![(0, absent)])]));
        }
    }
    let mut rows: Vec<_> = rows.into_values().flat_map(BTreeMap::into_values).flatten().collect();
    let mut copies = Copies { left: ALL_MOST };
    for (number, row) in &mut rows {
        let boots = row.steps.iter_mut().flat_map(|step| &mut step.boots);
        // One that leads out of its run's directory is left as it is, and told in the report.
        let inside = |path: &&mut PathBuf| path.components().all(|part| matches!(part, Component::Normal(_)));
        for path in boots.flat_map(BootRecord::files_mut).filter(inside) {
            let below = PathBuf::from(format!("run-{}", *number + 1)).join(&*path);
            copies.copy(&runs[*number], path, &into.join(&below))?;
            *path = below;
        }
    }
    let (mut left_out, mut told) = (Vec::<LeftOut>::new(), BTreeSet::new());
    for one in read.iter().flat_map(|run| &run.left_out) {
        if told.insert((&one.scenario, &one.image, &one.why)) {
            left_out.push(one.clone());
        }
    }
    let mut images = Vec::<ImageVersions>::new();
    for one in read.iter().flat_map(|run| &run.images) {
        if !images.contains(one) {
            images.push(one.clone());
        }
    }
    let all = RunResults {
        schema: SCHEMA.to_owned(),
        run: distinct(read.iter().map(|run| run.run.as_str())).join(", "),
        harness: distinct(read.iter().map(|run| run.harness.as_str())).join(BETWEEN),
        host: hosts.join(BETWEEN),
        scenarios: rows.into_iter().map(|(_, row)| row).collect(),
        left_out,
        images,
        took_ms: read.iter().fold(0, |sum, run| sum.saturating_add(run.took_ms)),
    };
    RunDir::at(into).write(&all)?;
    Ok(all)
}

/// What is told of a row that no run has. It is of no host.
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

/// What a row tells of its machine, the least first. Only a verdict could hide another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tells {
    NotReached,
    Interrupted,
    WhySkipped,
    WhatBroke,
    Verdict,
}

fn tells(row: &ScenarioResult) -> Tells {
    match &row.status {
        status if status.is_not_reached() => Tells::NotReached,
        status if status.is_interrupted() => Tells::Interrupted,
        Status::Skipped { .. } => Tells::WhySkipped,
        Status::InfrastructureError { .. } => Tells::WhatBroke,
        Status::Passed | Status::Failed { .. } | Status::Known { .. } => Tells::Verdict,
    }
}

/// Whether it stands for a row that no run had.
fn is_absent(row: &ScenarioResult) -> bool {
    matches!(&row.status, Status::InfrastructureError { reason } if reason.starts_with(ABSENT))
}

/// Each once, in their order.
fn distinct<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    words.filter(|word| seen.insert(*word)).collect()
}

/// Copies what runs recorded.
struct Copies {
    /// So many bytes may still be copied.
    left: u64,
}

impl Copies {
    /// Copies a file that a run has. One that it lacks is missing in the whole as well, which the report tells.
    fn copy(&mut self, run: &RunDir, name: &Path, to: &Path) -> Result<(), CombineError> {
        // Several boots may have the same.
        if to.exists() {
            return Ok(());
        }
        let Ok(from) = run.place(name) else { return Ok(()) };
        let failed = |source| CombineError::Copy { path: to.to_owned(), source };
        let too_much = |why| CombineError::TooMuch { path: from.clone(), why };
        let length = fs::metadata(&from).map_err(failed)?.len();
        if length > FILE_MOST {
            return Err(too_much(format!("it is longer than {} GiB", FILE_MOST >> 30)));
        }
        let left = self.left.checked_sub(length);
        let in_all = || format!("with it more than {} GiB would be copied", ALL_MOST >> 30);
        self.left = left.ok_or_else(|| too_much(in_all()))?;
        fs::create_dir_all(to.parent().unwrap_or(to)).map_err(failed)?;
        copied(&from, to, length).map_err(failed)
    }
}

/// Copies the first `length` bytes. Blocks of zeros become holes: a file that is one hole takes no room.
fn copied(from: &Path, to: &Path, length: u64) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?.take(length), File::create_new(to)?);
    let (mut block, mut at) = (Vec::new(), 0);
    loop {
        block.clear();
        from.by_ref().take(BLOCK).read_to_end(&mut block)?;
        if block.is_empty() {
            return to.set_len(at);
        }
        if block.iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(at))?;
            to.write_all(&block)?;
        }
        at += block.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_line_of_a_list_means_the_row_that_a_run_has() {
        let name = |(scenario, image): (&str, &str)| (scenario.to_owned(), image.to_owned());
        let rows = [("drill", "my image.qcow2"), ("my drill", "rlc9-uki"), ("drill", "rlc9-uki")];
        let known = BTreeMap::from(rows.map(|row| (listed(row.0, row.1), name(row))));
        for (line, expected) in [
            ("drill my image.qcow2", ("drill", "my image.qcow2")),
            ("my drill rlc9-uki", ("my drill", "rlc9-uki")),
            ("other drill my image.qcow2", ("other drill", "my image.qcow2")),
            ("my drill your image.qcow2", ("my drill", "your image.qcow2")),
            ("other rlc10-uki", ("other", "rlc10-uki")),
        ] {
            assert_eq!(meant(line, &known), name(expected), "{line}");
        }
    }

    #[test]
    fn no_more_is_copied_than_may_be_in_all() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "other"] {
            fs::write(dir.path().join(name), "12345678").unwrap();
        }
        let run = RunDir::at(dir.path());
        let mut copies = Copies { left: 15 };
        let mut copy = |name: &str| copies.copy(&run, Path::new(name), &dir.path().join("to").join(name));
        copy("one").unwrap();
        copy("one").unwrap();
        let error = copy("other").unwrap_err().to_string();
        assert!(error.contains("/other: with it more than 16 GiB"), "{error}");
    }

    #[test]
    fn a_copy_is_the_same_with_holes_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut bytes = vec![0_u8; 300_000];
        (bytes[70_000], bytes[200_000]) = (1, 2);
        fs::write(&from, &bytes).unwrap();
        copied(&from, &to, 300_000).unwrap();
        assert!(fs::read(&to).unwrap() == bytes);
    }
}
