//! Every scenario on every image it names, booted for real: one trial each, named `SCENARIO::IMAGE`.

use std::path::Path;
use std::process::ExitCode;

use latchkey_images::{Cache, Silent};
use latchkey_record::Status;
use latchkey_report::RunDir;
use latchkey_report::terminal::{Colour, summary};
use latchkey_scenario::{Keep, Scenario, Session, run, watch};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = latchkey_scenarios::all()
        .into_iter()
        .flat_map(|(name, text)| {
            let path = format!("scenarios/{name}.toml");
            match Scenario::parse(Path::new(&path), text) {
                Ok(scenario) => on_each(&scenario),
                Err(wrong) => {
                    vec![Trial::test(format!("{name}::unreadable"), move || Err(format!("{wrong}").into()))]
                }
            }
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn on_each(scenario: &Scenario) -> Vec<Trial> {
    let trial = |image: &String| {
        let (scenario, image) = (scenario.clone(), image.clone());
        Trial::test(format!("{}::{image}", scenario.name), move || boot(&scenario, &image))
    };
    scenario.machine.image.names().iter().map(trial).collect()
}

/// A skip is no pass here: on the project's own images every scenario has to run.
fn boot(scenario: &Scenario, image: &str) -> Result<(), Failed> {
    latchkey_supervise::cancel_on_signals();
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boots");
    let session = Session::begin(Cache::of_user()?, &results, &Silent)?;
    let reproduce = format!("cargo xtask run {} --on {image} --keep", scenario.name);
    let image = session.image(image, &Silent)?;
    let context = session.context(&image, Keep::No, reproduce, &Silent)?;
    let result = run(scenario, &context, &watch::Silent);
    let passed = result.status == Status::Passed;
    let took_ms = result.took_ms;
    let report = session.report(vec![result], took_ms);
    let text = summary(&report, Colour::Off);
    println!("{text}");
    RunDir::at(session.results()).write(&report)?;
    if passed { Ok(()) } else { Err(format!("{text}\n{}", session.results().display()).into()) }
}
