//! Reports of runs that are over.

use std::path::Path;

use crate::{latchkey, stdout};

/// A run's directory with these scenarios.
fn run_dir(host: &str, scenarios: &serde_json::Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let results = serde_json::json!({
        "schema": "latchkey-results/1", "run": "a-run", "harness": "0", "host": host, "scenarios": scenarios, "took_ms": 1,
    });
    std::fs::write(dir.path().join("results.json"), results.to_string()).unwrap();
    dir
}

#[test]
fn an_old_runs_reports_are_made_again_and_two_runs_compared() {
    let row = serde_json::json!([{
        "scenario": "drill", "title": "t", "why": "w", "image": "i", "status": {"is": "failed", "reason": "r"},
        "conclusion": null, "steps": [], "reproduce": "again", "kept": null, "took_ms": 1,
    }]);
    let (one, other) = (run_dir("tcg", &serde_json::json!([])), run_dir("tcg", &row));
    let [one, other] = [&one, &other].map(|dir| dir.path().to_str().unwrap());
    assert!(stdout(&["report", other]).contains("0 passed, 1 failed"));
    assert!(Path::new(other).join("report.html").is_file() && Path::new(other).join("junit.xml").is_file());
    assert!(stdout(&["diff", one, one]).contains("0 worse, 0 better, 0 otherwise changed"));
    let differ = latchkey(&["diff", one, other, "--json"]);
    assert_eq!(differ.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&differ.stdout).unwrap();
    assert_eq!((&told["rows"][0]["scenario"], &told["rows"][0]["change"]), (&"drill".into(), &"new".into()));
    assert_eq!(latchkey(&["diff", one, "nowhere"]).status.code(), Some(2));
    // Several become one in a directory of their own, and no other run's.
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("whole");
    let into = into.to_str().unwrap();
    let whole = latchkey(&["report", one, other, "--into", into]);
    assert_eq!(whole.status.code(), Some(1), "nobody has told the verdict of both together before");
    assert!(String::from_utf8(whole.stdout).unwrap().contains("0 passed, 1 failed"));
    assert!(stdout(&["diff", other, into]).contains("0 worse, 0 better, 0 otherwise changed"));
    // All shards together that ran nothing proved nothing; the report is made all the same.
    let skipped = std::fs::read_to_string(Path::new(other).join("results.json")).unwrap();
    let mut skipped: serde_json::Value = serde_json::from_str(&skipped).unwrap();
    skipped["scenarios"][0]["status"] = serde_json::json!({"is": "skipped", "reason": "needs-vendor-key"});
    let shard = dir.path().join("shard");
    std::fs::create_dir(&shard).unwrap();
    std::fs::write(shard.join("results.json"), skipped.to_string()).unwrap();
    let all = dir.path().join("all");
    let nothing = latchkey(&["report", shard.to_str().unwrap(), "--into", all.to_str().unwrap()]);
    let said = String::from_utf8(nothing.stderr).unwrap();
    assert!(nothing.status.code() == Some(2) && said.contains("nothing was proven"), "{said}");
    assert!(all.join("report.html").is_file());
    let empty = dir.path().join("empty");
    assert_eq!(latchkey(&["report", one, "--into", empty.to_str().unwrap()]).status.code(), Some(2));
    for wrong in [&[one, other][..], &[one, other, "--into", into], &[one, "nowhere", "--into", into], &[]] {
        assert_eq!(latchkey(&[&["report"][..], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
}

/// A run that was killed tells which rows it did not come to.
#[test]
fn a_row_that_a_run_did_not_come_to_is_no_pass_in_the_report() {
    let row = |scenario: &str, status: serde_json::Value| {
        serde_json::json!({
            "scenario": scenario, "title": "t", "why": "w", "image": "i", "status": status, "conclusion": null, "steps": [],
            "reproduce": "again", "kept": null, "took_ms": 1,
        })
    };
    let passed = row("one", serde_json::json!({"is": "passed"}));
    let reason = "not-reached: the run goes on, or was killed";
    let killed = row("two", serde_json::json!({"is": "skipped", "reason": reason}));
    let run = run_dir("tcg", &serde_json::json!([passed, killed]));
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("whole");
    let told = latchkey(&["report", run.path().to_str().unwrap(), "--into", into.to_str().unwrap()]);
    let said = String::from_utf8(told.stderr).unwrap();
    assert!(told.status.code() == Some(3) && said.contains("1 of 2 rows were not reached"), "{said}");
}

/// A shard whose results were lost, and a scenario that went away, are seen.
#[test]
fn a_row_that_no_run_has_is_an_error_in_the_report() {
    let row = |image: &str| {
        serde_json::json!({
            "scenario": "drill", "title": "t", "why": "w", "image": image, "status": {"is": "passed"},
            "conclusion": "open", "steps": [], "reproduce": "again", "kept": null, "took_ms": 1,
        })
    };
    let run = run_dir("tcg", &serde_json::json!([row("i"), row("my image.qcow2")]));
    let dir = tempfile::tempdir().unwrap();
    let (list, into) = (dir.path().join("rows"), |name: &str| dir.path().join(name));
    let report = |rows: &str, name: &str| {
        std::fs::write(&list, rows).unwrap();
        let [run, into, list] = [run.path().to_owned(), into(name), list.clone()];
        let told = latchkey(&[
            "report",
            run.to_str().unwrap(),
            "--into",
            into.to_str().unwrap(),
            "--rows",
            list.to_str().unwrap(),
        ]);
        (told.status.code(), String::from_utf8(told.stderr).unwrap())
    };
    assert_eq!(report("drill i\ndrill my image.qcow2\n", "whole"), (Some(0), String::new()));
    let (code, said) = report("# mine\n\ndrill i \ndrill my image.qcow2\nother i\n", "lost");
    assert!(code == Some(3) && said.ends_with("lists what none of these runs has: other on i\n"), "{said}");
    let junit = std::fs::read_to_string(into("lost").join("junit.xml")).unwrap();
    assert!(junit.contains("in-no-run") && junit.contains("errors=\"1\""), "{junit}");
    assert!(std::fs::read_to_string(into("lost").join("report.html")).unwrap().contains("in-no-run"));
    let (code, said) = report("drill i\n", "new");
    assert!(code == Some(0) && said.ends_with("does not list: drill on my image.qcow2\n"), "{said}");
    let (code, said) = report("# nothing\n", "empty");
    assert!(code == Some(2) && said.contains("it lists no row"), "{said}");
    let (code, said) = report("drill\n", "wrong");
    assert!(code == Some(2) && said.contains("`drill` is no scenario and image"), "{said}");
}
