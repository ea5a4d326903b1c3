//! A run that is over: what it said, and what it came to.

use std::fs;
use std::process::ExitStatus;

use serde_json::Value;

use crate::support::{Bench, files};

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Checks the exit code, and that everything in `said` stands on standard error.
    #[track_caller]
    pub(crate) fn assert(&self, code: i32, said: &[&str]) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        for words in said {
            assert!(self.stderr.contains(words), "{words:?} is not said: {self}");
        }
        assert!(!self.stderr.contains("panicked"), "{self}");
        self
    }

    /// Checks that there is nothing but JSON on standard output, or nothing at all.
    #[track_caller]
    pub(crate) fn assert_json(&self) -> &Self {
        let json = self.stdout.is_empty() || serde_json::from_str::<Value>(&self.stdout).is_ok();
        assert!(json, "{self}");
        self
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nstandard output:\n{}\nstandard error:\n{}", self.status, self.stdout, self.stderr)
    }
}

/// The one `results.json` below `dir`.
#[track_caller]
pub(crate) fn results(bench: &Bench) -> Value {
    let files = files(&bench.root().join("results"));
    let mut found = files.iter().filter(|path| path.ends_with("results.json"));
    let path = found.next().expect("results.json");
    assert!(found.next().is_none());
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Checks that the run's one scenario is told to have met an infrastructure error, for a reason with `words` in it.
#[track_caller]
pub(crate) fn assert_infrastructure_error(results: &Value, words: &str) {
    let status = &results["scenarios"][0]["status"];
    assert_eq!(status["is"], "infrastructure-error", "{results:#}");
    assert!(status["reason"].as_str().unwrap().contains(words), "{status:#}");
    let steps = results["scenarios"][0]["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["status"]["is"] != "failed"), "{results:#}");
    assert!(results["scenarios"][0]["conclusion"].is_null(), "{results:#}");
}

/// Checks that what there was of the boot that was under way is recorded: as unclear, with all its files.
#[track_caller]
pub(crate) fn assert_unclear_boot(bench: &Bench, results: &Value) {
    let steps = results["scenarios"][0]["steps"].as_array().unwrap();
    // What follows it was not reached, and is told as that.
    let step = steps.iter().rfind(|step| step["status"]["is"] != "skipped").unwrap();
    let rest = steps.iter().skip_while(|step| step["status"]["is"] != "skipped");
    assert!(
        rest.clone().count() > 0
            && rest.clone().all(|step| {
                let reason = step["status"]["reason"].as_str().unwrap_or_default();
                reason == "not-reached: the row ended before it" && step["took_ms"] == 0
            }),
        "{steps:#?}"
    );
    let boot = &step["boots"][0];
    assert!(boot["outcome"].is_null() && boot["contradictions"].as_array().unwrap().is_empty(), "{step:#}");
    // What it had not come to is not missing.
    let mismatches = boot["alignment"]["mismatches"].as_array();
    assert!(mismatches.is_none_or(Vec::is_empty), "{boot:#}");
    let witnesses = boot["witnesses"].as_array().unwrap();
    assert_eq!(witnesses.len(), 4, "{boot:#}");
    let recorded = files(&bench.root().join("results"));
    for file in ["console", "tpm", "command_line", "forecast"] {
        let name = boot[file].as_str().unwrap();
        assert!(recorded.iter().any(|path| path.ends_with(name)), "{file} in {recorded:?}");
    }
}
