//! What else a person is told of two runs: what was not run before, what one of them did not come to, what they were made of.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use common::run;
use latchkey_record::results::ImageVersions;
use latchkey_record::{ScenarioResult, Status};
use latchkey_report::diff;

/// Nobody has seen them pass; they are told and counted all the same, first among what did not get worse.
#[test]
fn what_fails_and_was_not_run_before_is_counted() {
    let (mut one, mut other) = (run(1), run(1));
    other.scenarios.push(ScenarioResult { image: "another".into(), ..other.scenarios[0].clone() });
    other.scenarios[3].status = Status::Failed { reason: "r".into() };
    other.scenarios[2].status = Status::InfrastructureError { reason: "no room".into() };
    one.scenarios[0].status = Status::Skipped { reason: "not-reached: the run was interrupted".into() };
    other.scenarios[0].status = Status::Failed { reason: "s".into() };
    let found = diff::runs(&one, &other);
    assert!(found.rows.iter().all(|row| row.change.turn() == Some(diff::Turn::NewlyFailed)), "{found}");
    let text = found.to_string();
    for line in [
        "✗ passing on rlc9-uki: skipped: not-reached: the run was interrupted -> failed: s\n",
        "✗ passing on another: new, failed: r\n",
        "0 worse, 3 failed and not run before, 0 better, 0 otherwise changed, 0 new, 0 vanished, 1 the same\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

/// What a run that ended early did not come to is a line, and hides nothing else.
#[test]
fn an_unfinished_run_is_told_in_a_line() {
    let mut whole = run(1);
    let row = whole.scenarios[0].clone();
    whole.scenarios = (0..20).map(|n| ScenarioResult { scenario: format!("s-{n}"), ..row.clone() }).collect();
    let mut ended = whole.clone();
    (whole.run, ended.run) = ("whole".into(), "ended".into());
    let stop = |row: &mut ScenarioResult, status: Status| (row.status, row.conclusion) = (status, None);
    let not_reached = || Status::Skipped { reason: "not-reached: the run was interrupted".into() };
    ended.scenarios[4..].iter_mut().for_each(|row| stop(row, not_reached()));
    stop(&mut ended.scenarios[3], Status::InfrastructureError { reason: "boot: interrupted".into() });
    stop(&mut ended.scenarios[2], Status::Failed { reason: "r".into() });
    let text = diff::runs(&whole, &ended).to_string();
    let told =
        "- 17 rows that ended did not come to, or not to their end: s-3 on rlc9-uki, s-4 on rlc9-uki, ";
    assert!(text.contains(told) && text.contains("s-10 on rlc9-uki, and 9 more\n"), "{text}");
    assert!(text.contains("✗ s-2 on rlc9-uki: passed -> failed: r\n"), "{text}");
    assert!(text.contains("1 worse, 17 lost coverage, 0 better, 0 otherwise changed"), "{text}");
    assert_eq!(text.lines().count(), 5, "{text}");
    // The other way round, and two that both ended early.
    let back = diff::runs(&ended, &whole).to_string();
    let told =
        "~ 17 rows that ended did not come to, or not to their end, and the other run did: s-3 on rlc9-uki, ";
    assert!(back.contains(told) && back.contains("0 worse, 1 better, 17 otherwise changed"), "{back}");
    let mut earlier = ended.clone();
    stop(&mut earlier.scenarios[3], not_reached());
    let found = diff::runs(&ended, &earlier);
    assert_eq!((found.rows.len(), found.same, found.not_run), (0, 3, 17));
}

#[test]
fn another_harness_and_other_versions_are_said_and_are_no_change() {
    let of = |shim: &str, stub: Option<&str>| {
        let versions = [("shim", Some(shim)), ("kernel", Some("6.1")), ("stub", stub)];
        let versions = versions.into_iter().filter_map(|(what, is)| Some((what.to_owned(), is?.to_owned())));
        let identity = format!("rlc9-uki-{shim}");
        ImageVersions { image: "rlc9-uki".into(), identity, versions: versions.collect() }
    };
    let (mut one, mut other) = (run(1), run(1));
    one.images = vec![of("15.8-1", Some("252.39"))];
    assert_eq!(diff::runs(&one, &other).versions, BTreeMap::new(), "an older run tells none");
    other.images = vec![of("16.1-1", None)];
    other.harness = "0.1.0, build b".into();
    let found = diff::runs(&one, &other);
    let text = found.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "harness: 0.1.0 -> 0.1.0, build b");
    assert_eq!(lines[2], "rlc9-uki: shim 15.8-1 -> 16.1-1, stub 252.39 -> none told");
    let json = serde_json::to_value(&found).unwrap();
    let told = serde_json::json!({"what": "shim", "one": "15.8-1", "other": "16.1-1"});
    assert_eq!((&json["versions"]["rlc9-uki"][0], found.exit_code()), (&told, 0));
    // A run of several may have several of one name.
    other.images.push(of("15.8-1", None));
    let text = diff::runs(&one, &other).to_string();
    assert!(text.contains("rlc9-uki: shim 15.8-1 -> 15.8-1; 16.1-1, stub"), "{text}");
}
