//! `cargo xtask test`: everything the project checks, in one run.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, IsTerminal, PipeReader, Write};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use crate::exit::{Exit, stop};
use crate::handover::{cargo, search_path, workspace};
use crate::tally::Tally;
use crate::{child, print, say, setup};

/// nextest's exit code where no test was selected (`NextestExitCode::NO_TESTS_RUN`).
const NO_TESTS: i32 = 4;
/// nextest's exit code where tests failed (`NextestExitCode::TEST_RUN_FAILED`).
const TESTS_FAILED: i32 = 100;
/// nextest's exit code where it does not take an expression (`NextestExitCode::INVALID_FILTERSET`), and clap's where it does not
/// take an argument.
const NOT_TAKEN: [i32; 2] = [94, 2];
/// nextest's variable for how many tests run at once.
const THREADS: &str = "NEXTEST_TEST_THREADS";

/// One more than there are processors: tests that start a machine wait for it as well, and of those there are never more at
/// once than nextest's configuration says.
fn threads() -> String {
    std::thread::available_parallelism().map_or(2, |processors| processors.get() + 1).to_string()
}

/// One thing that is run.
struct Step {
    name: &'static str,
    args: Vec<OsString>,
}

/// Runs the tests that `passed_on` selects; without a selection also what else the project checks: the
/// formatting, the documentation's examples, and clippy, as far as this toolchain has them.
pub(crate) fn test(passed_on: &[OsString]) -> Result<()> {
    setup::ensure(setup::Purpose::Tests)?;
    latchkey_supervise::cancel_on_signals();
    let mut tally = Tally::default();
    let (mut failed, mut ends) = (Vec::new(), Vec::new());
    for step in steps(passed_on, Toolchain::this()) {
        say(step.name);
        let (status, counted) = run(&step)?;
        tally += counted;
        // With a selection that is the one step: that no test failed proves nothing if none was run.
        let none = status.success() || status.code() == Some(NO_TESTS);
        let is_name = |word: &OsString| !word.as_encoded_bytes().starts_with(b"-");
        if passed_on.iter().any(is_name) && none && tally.passed + tally.failed == 0 {
            return Err(stop(Exit::Usage, "no test was run: none has such a name"));
        }
        if !status.success() {
            failed.push(step.name);
            ends.push(step.end(status.code(), counted.failed));
        }
    }
    let end = if failed.is_empty() { String::new() } else { format!("failed: {}", failed.join(", ")) };
    let told = print(&format!("{tally}\n"));
    if told.is_err() {
        say(&tally.to_string());
    }
    // What the tests came to counts more than that nobody could be told on standard output.
    if failed.is_empty() && tally.failed == 0 {
        return told;
    }
    Err(match worst(&ends) {
        Exit::Infrastructure => stop(
            Exit::Infrastructure,
            format!(
                "{end}; something could not be downloaded or built, so that not all was tested: see above"
            ),
        ),
        exit => stop(exit, end),
    })
}

impl Step {
    /// How it ended that ended with `code`, after so many tests that `failed`. What says nothing of any test is no verdict.
    fn end(&self, code: Option<i32>, failed: usize) -> Exit {
        let runs_tests = self.args.first().is_some_and(|verb| verb == "nextest" || verb == "test");
        if !runs_tests || failed > 0 || code == Some(TESTS_FAILED) {
            Exit::Verdict
        } else if code.is_some_and(|code| NOT_TAKEN.contains(&code)) {
            Exit::Usage
        } else {
            Exit::Infrastructure
        }
    }
}

/// Which of several ends counts: of a run in which something could not be tested a verdict says too little.
fn worst(ends: &[Exit]) -> Exit {
    let before = [Exit::Usage, Exit::Infrastructure];
    before.into_iter().find(|end| ends.contains(end)).unwrap_or(Exit::Verdict)
}

/// What this machine's toolchain can do besides building.
#[derive(Debug, Clone, Copy)]
struct Toolchain {
    nextest: bool,
    rustfmt: bool,
    clippy: bool,
}

impl Toolchain {
    fn this() -> Self {
        let cargo = cargo();
        let has = |verb: &str| child::succeeds(&cargo.to_string_lossy(), &[verb, "--version"]);
        Self { nextest: has("nextest"), rustfmt: has("fmt"), clippy: has("clippy") }
    }
}

fn steps(passed_on: &[OsString], toolchain: Toolchain) -> Vec<Step> {
    let step = |name, args: &[&str]| Step { name, args: args.iter().map(OsString::from).collect() };
    let everything = passed_on.is_empty();
    let mut steps = Vec::new();
    if everything && toolchain.rustfmt {
        steps.push(step("formatting", &["fmt", "--all", "--check"]));
    }
    let mut tests = if toolchain.nextest {
        step("tests", &["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        step("tests", &["test", "--workspace", "--no-fail-fast"])
    };
    tests.args.extend(passed_on.iter().cloned());
    steps.push(tests);
    if everything && toolchain.nextest {
        steps
            .push(step("examples in the documentation", &["test", "--workspace", "--doc", "--no-fail-fast"]));
    }
    if everything && toolchain.clippy {
        steps.push(step("clippy", &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]));
    }
    steps
}

/// Runs one step, showing what it prints and counting its tests.
fn run(step: &Step) -> Result<(ExitStatus, Tally)> {
    let (out, out_in) = std::io::pipe().context("making a pipe")?;
    let (err, err_in) = std::io::pipe().context("making a pipe")?;
    let colour = if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        "always"
    } else {
        "auto"
    };
    let threads = std::env::var_os(THREADS).unwrap_or_else(|| threads().into());
    let child = latchkey_supervise::start_tree("cargo", cargo(), &step.args, |e| {
        e.dir(workspace())
            .env("PATH", search_path())
            .env("CARGO_TERM_COLOR", colour)
            .env(THREADS, &threads)
            .stdin_null()
            .stdout_file(out_in)
            .stderr_file(err_in)
    })?;
    let counted = Arc::new(Mutex::new(Tally::default()));
    let copies = [
        copy(out, std::io::stdout(), Arc::clone(&counted)),
        copy(err, std::io::stderr(), Arc::clone(&counted)),
    ];
    let status = child::wait(child, || {})?;
    for copy in copies {
        // A copy that panicked has shown what it could.
        let _ = copy.join();
    }
    let counted = *counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok((status, counted))
}

fn copy(from: PipeReader, mut to: impl Write + Send + 'static, tally: Arc<Mutex<Tally>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            // A reader that went away does not stop the tests.
            let _ = to.write_all(&line).and_then(|()| to.flush());
            tally
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .add(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const BARE: Toolchain = Toolchain { nextest: false, rustfmt: false, clippy: false };
    const FULL: Toolchain = Toolchain { nextest: true, rustfmt: true, clippy: true };

    #[rstest]
    #[case::everything(FULL, &[], &["fmt", "nextest", "test", "clippy"])]
    #[case::a_bare_machine(BARE, &[], &["test"])]
    #[case::one_test(FULL, &["unlock"], &["nextest"])]
    #[case::one_test_bare(BARE, &["unlock"], &["test"])]
    fn what_is_run(#[case] toolchain: Toolchain, #[case] passed_on: &[&str], #[case] expected: &[&str]) {
        let passed_on: Vec<OsString> = passed_on.iter().map(OsString::from).collect();
        let steps = steps(&passed_on, toolchain);
        let verbs: Vec<_> = steps.iter().map(|step| step.args[0].to_string_lossy().into_owned()).collect();
        assert_eq!(verbs, expected);
        let tests = steps.iter().find(|step| step.name == "tests");
        assert!(tests.is_some_and(|tests| tests.args.ends_with(&passed_on)));
    }

    #[rstest]
    #[case::a_test_failed("nextest", Some(100), 1, Exit::Verdict)]
    #[case::one_that_nobody_counted("nextest", Some(100), 0, Exit::Verdict)]
    #[case::nothing_was_built("nextest", Some(101), 0, Exit::Infrastructure)]
    #[case::no_test_was_run("nextest", Some(4), 0, Exit::Infrastructure)]
    #[case::an_argument_is_wrong("nextest", Some(2), 0, Exit::Usage)]
    #[case::it_was_killed("nextest", None, 0, Exit::Infrastructure)]
    #[case::a_test_failed_bare("test", Some(101), 3, Exit::Verdict)]
    #[case::nothing_was_built_bare("test", Some(101), 0, Exit::Infrastructure)]
    #[case::a_line_is_too_long("fmt", Some(1), 0, Exit::Verdict)]
    #[case::a_lint("clippy", Some(101), 0, Exit::Verdict)]
    fn what_says_nothing_of_any_test_is_no_verdict(
        #[case] verb: &str,
        #[case] code: Option<i32>,
        #[case] failed: usize,
        #[case] expected: Exit,
    ) {
        let step = Step { name: "a step", args: vec![verb.into()] };
        assert_eq!(step.end(code, failed), expected);
    }

    #[test]
    fn infrastructure_counts_before_a_verdict() {
        assert_eq!(worst(&[Exit::Verdict, Exit::Infrastructure, Exit::Verdict]), Exit::Infrastructure);
        assert_eq!(worst(&[Exit::Verdict]), Exit::Verdict);
    }
}
