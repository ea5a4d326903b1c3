//! JUnit: one test case a scenario and image. Infrastructure errors are errors, failed verdicts failures.

use std::time::Duration;

use latchkey_record::{RunResults, ScenarioResult, Status};
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

/// What went wrong while writing the XML.
#[derive(Debug, thiserror::Error)]
#[error("writing the JUnit report: {0}")]
pub struct Error(#[from] quick_junit::SerializeError);

/// The run as JUnit XML.
///
/// # Errors
/// When the XML cannot be written, which for these types is a bug.
pub fn results(results: &RunResults) -> Result<String, Error> {
    let mut suite = TestSuite::new("latchkey");
    suite.set_time(Duration::from_millis(results.took_ms));
    suite.add_test_cases(results.scenarios.iter().map(case));
    let mut report = Report::new("latchkey");
    report.set_time(Duration::from_millis(results.took_ms));
    report.add_test_suite(suite);
    Ok(report.to_string()?)
}

fn case(result: &ScenarioResult) -> TestCase {
    let mut status = match &result.status {
        Status::Passed => TestCaseStatus::success(),
        Status::Failed { .. } => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Status::InfrastructureError { .. } => TestCaseStatus::non_success(NonSuccessKind::Error),
        Status::Skipped { .. } => TestCaseStatus::skipped(),
    };
    if let Some(reason) = result.status.reason() {
        status.set_message(reason);
    }
    let mut case = TestCase::new(result.scenario.as_str(), status);
    case.set_classname(format!("latchkey.{}", result.image));
    case.set_time(Duration::from_millis(result.took_ms));
    case.add_property(Property::new("image", result.image.as_str()));
    case.add_property(Property::new("reproduce", result.reproduce.as_str()));
    if let Some(conclusion) = &result.conclusion {
        case.add_property(Property::new("conclusion", conclusion.to_string()));
    }
    let files = result.steps.iter().flat_map(|s| &s.boots).flat_map(|b| [&b.console, &b.tpm]);
    // The form that Jenkins' and GitLab's JUnit readers take for attachments.
    let attachments: String = files.map(|file| format!("[[ATTACHMENT|{}]]\n", file.display())).collect();
    if !attachments.is_empty() {
        case.set_system_out(attachments);
    }
    case
}
