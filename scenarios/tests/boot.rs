//! Every scenario on every image it names, booted for real: one trial each, named `SCENARIO::IMAGE`.

use std::path::Path;
use std::process::ExitCode;

use latchkey_images::{Cache, Silent};
use latchkey_record::Status;
use latchkey_report::terminal::{Colour, summary};
use latchkey_scenario::{Keep, Scenario, Session, run, watch};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = latchkey_scenarios::all()
        .into_iter()
        .map(|(name, text)| {
            let path = format!("scenarios/{name}.toml");
            let scenario = Scenario::parse(Path::new(&path), text);
            let image = scenario.as_ref().map_or("unreadable", |s| s.machine.image.as_str()).to_owned();
            Trial::test(format!("{name}::{image}"), move || boot(&scenario.map_err(|e| format!("{e}"))?))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A skip is no pass here: on the project's own images every scenario has to run.
fn boot(scenario: &Scenario) -> Result<(), Failed> {
    latchkey_supervise::cancel_on_signals();
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boots");
    let session = Session::begin(Cache::of_user()?, &results, &Silent)?;
    let image = session.image_of(scenario, &Silent)?;
    let reproduce = format!("cargo xtask run {} --keep", scenario.name);
    let result = run(scenario, &session.context(&image, Keep::No, reproduce), &watch::Silent);
    let passed = result.status == Status::Passed;
    let took_ms = result.took_ms;
    let report = session.report(vec![result], took_ms);
    let text = summary(&report, Colour::Off);
    println!("{text}");
    std::fs::write(session.results().join("results.json"), latchkey_report::json::results(&report)?)?;
    if passed { Ok(()) } else { Err(format!("{text}\n{}", session.results().display()).into()) }
}
