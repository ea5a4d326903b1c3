//! JUnit: one suite an image (and host, of several), one test case a row. Infrastructure errors are errors, failed verdicts failures;
//! failures that are known count as skipped, since nobody has to act.
//!
//! What the readers make of it, by their sources: Jenkins' JUnit plugin (`CaseResult`) and GitLab (`parsers/test/junit.rb`)
//! show an element's text in full and its message in lists, so that the first is the account and the second its
//! headline; GitLab joins the class name and the name to tell rows apart; both take `[[ATTACHMENT|PATH]]` on a line of its
//! own for a file, seen from where the job runs, GitLab the first of them only. GitLab and GitHub's `action-junit-report`
//! (`testParser.ts`) link a test case to the `file` that it names; that action and Jenkins show errors as failures, so that
//! the message of one says what it is.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path};
use std::time::Duration;

use latchkey_record::{BootRecord, RunResults, ScenarioResult, Status};
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use crate::account::Account;
use crate::grouped::grouped;

/// What went wrong while writing the XML.
#[derive(Debug, thiserror::Error)]
#[error("writing the JUnit report: {0}")]
pub struct Error(#[from] quick_junit::SerializeError);

/// The run as JUnit XML. Files that it names lie below `files`.
///
/// # Errors
/// When the XML cannot be written, which for these types is a bug.
pub fn results(results: &RunResults, files: &Path) -> Result<String, Error> {
    let places = grouped(results.scenarios.iter().map(|row| (Place::of(row), row)));
    let mut report = Report::new("latchkey");
    report.set_time(Duration::from_millis(results.took_ms));
    report.add_test_suites(places.into_iter().map(|(place, rows)| suite(results, place, &rows, files)));
    Ok(report.to_string()?)
}

/// An image, and the host where the rows come from several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    image: &'a str,
    host: Option<&'a str>,
}

impl<'a> Place<'a> {
    fn of(result: &'a ScenarioResult) -> Self {
        Self { image: &result.image, host: result.host.as_deref() }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(host) => write!(f, "{} ({host})", self.image),
            None => f.write_str(self.image),
        }
    }
}

fn suite(results: &RunResults, place: Place<'_>, rows: &[&ScenarioResult], files: &Path) -> TestSuite {
    let mut suite = TestSuite::new(place.to_string());
    let took = rows.iter().fold(0, |sum: u64, row| sum.saturating_add(row.took_ms));
    suite.set_time(Duration::from_millis(took));
    let host = place.host.unwrap_or(&results.host);
    let properties = [("run", results.run.as_str()), ("harness", &results.harness), ("host", host)];
    suite.add_properties(properties.map(|(name, value)| Property::new(name, value)));
    suite.add_test_cases(rows.iter().map(|row| case(row, files)));
    suite
}

fn case(result: &ScenarioResult, files: &Path) -> TestCase {
    let mut case = TestCase::new(result.scenario.as_str(), status(result));
    // Jenkins takes what comes before the last dot for a package.
    case.set_classname(format!("latchkey.{}", Place::of(result).to_string().replace('.', "_")));
    case.set_time(Duration::from_millis(result.took_ms));
    if let Some(file) = file(result) {
        case.extra.insert("file".into(), file.into());
    }
    for (name, value) in properties(result) {
        case.add_property(Property::new(name, value.as_str()));
    }
    let out = story(result) + &attachments(result, files);
    if !out.is_empty() {
        case.set_system_out(out);
    }
    case
}

/// Where the scenario is, if it is one of this project's: one of a user's own is done again by its path and not by its name.
fn file(result: &ScenarioResult) -> Option<String> {
    let by_name = format!("cargo xtask run {} ", result.scenario);
    result.reproduce.contains(&by_name).then(|| format!("scenarios/{}.toml", result.scenario))
}

fn status(result: &ScenarioResult) -> TestCaseStatus {
    let (mut status, kind) = match &result.status {
        Status::Passed => return TestCaseStatus::success(),
        Status::Failed { .. } => (TestCaseStatus::non_success(NonSuccessKind::Failure), "verdict"),
        Status::InfrastructureError { .. } => {
            (TestCaseStatus::non_success(NonSuccessKind::Error), "infrastructure")
        }
        Status::Known { .. } => (TestCaseStatus::skipped(), "known"),
        Status::Skipped { .. } => (TestCaseStatus::skipped(), "skipped"),
    };
    status.set_type(kind);
    if let Some(account) = Account::of(result) {
        let is_error = matches!(result.status, Status::InfrastructureError { .. });
        let what = if is_error { "infrastructure: " } else { "" };
        status.set_message(format!("{what}{}", account.headline()));
        status.set_description(account.lines().collect::<Vec<_>>().join("\n"));
    }
    status
}

fn properties(result: &ScenarioResult) -> Vec<(&'static str, String)> {
    let outcomes = result.steps.iter().flat_map(|step| &step.boots);
    let outcomes: Vec<String> = outcomes.map(BootRecord::word).collect();
    let mut all = vec![
        ("title", result.title.clone()),
        ("image", result.image.clone()),
        ("reproduce", result.reproduce.clone()),
    ];
    all.extend(result.image_identity.as_ref().map(|identity| ("image-identity", identity.clone())));
    if !outcomes.is_empty() {
        all.push(("outcomes", outcomes.join(", ")));
    }
    let locked = result.is_left_locked().then(|| "locked".to_owned());
    let conclusion = result.conclusion.as_ref().map(ToString::to_string).or(locked);
    all.extend(conclusion.map(|conclusion| ("conclusion", conclusion)));
    all.extend(result.reused.as_ref().map(|run| ("reused", run.clone())));
    if let Status::Known { known, .. } = &result.status {
        all.extend([("tracker", known.tracker.clone()), ("until", known.until.to_string())]);
    }
    all
}

/// The steps, a line each: what a CI system shows of a test's output.
fn story(result: &ScenarioResult) -> String {
    let reused =
        result.reused.iter().map(|run| format!("the verdict is that of run {run}: nothing changed since\n"));
    let steps = result.steps.iter().map(|step| {
        let shared = step.shared_with.as_ref().map_or(String::new(), |row| format!(", shared with {row}"));
        let ended = if step.status.is_not_reached() { "not reached:" } else { step.status.word() };
        format!("{} {ended} {}{shared}\n", step.number, step.what)
    });
    // A step's words are a scenario's, and attach nothing.
    let mut story: String = reused.chain(steps).collect();
    while story.contains("[[") {
        story = story.replace("[[", "[ [");
    }
    story
}

/// What was recorded of the boots, the last boot first: it is the one that failed, and GitLab shows one file.
fn attachments(result: &ScenarioResult, files: &Path) -> String {
    let boots = result.steps.iter().flat_map(|step| &step.boots).rev();
    let (mut lines, mut seen) = (Vec::new(), BTreeSet::new());
    for file in boots.flat_map(BootRecord::files) {
        // Results come from other people, too: a path that leads out of the run's directory attaches nothing.
        if !file.components().all(|part| matches!(part, Component::Normal(_))) {
            continue;
        }
        let path = files.join(file).display().to_string();
        // One that would end the mark early is left out: nobody could follow it.
        if path.contains(['[', ']', '|']) || path.contains(char::is_control) {
            continue;
        }
        let line = format!("[[ATTACHMENT|{path}]]\n");
        if seen.insert(line.clone()) {
            lines.push(line);
        }
    }
    lines.concat()
}
