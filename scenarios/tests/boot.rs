//! A core of the catalogue, booted for real: one trial a row, named `SCENARIO::IMAGE`. It comes to most outcomes and
//! images. Some rows once more on another build of the firmware, named `SCENARIO::IMAGE::FIRMWARE`.
//! With `LATCHKEY_ROWS=all` there is a trial for every row; `cargo xtask run` runs them all as well.
//!
//! Each booted row is rehearsed as well (forecast from its provisioning to its end, without booting), and has to come to
//! the same outcomes and PCRs. `rehearsed::IMAGE` rehearses everything that is written for an image, booted here or not.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;

use latchkey_host::Firmware;
use latchkey_images::{Cache, Silent, later_ovmf};
use latchkey_provision::Secret;
use latchkey_record::{Outcome, Status};
use latchkey_report::RunDir;
use latchkey_report::leak::Search;
use latchkey_report::terminal::{Colour, summary};
use latchkey_scenario::plan::Plan;
use latchkey_scenario::watch::{Event, Watch};
use latchkey_scenario::{AnotherVm, Desk, Forks, Keep, Scenario, Session, Verdicts, rehearse, run};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    // Where it cannot be kept from, it is as with any other program.
    let _ = latchkey_supervise::no_core_dumps();
    let arguments = Arguments::from_args();
    let catalogue = catalogue();
    let gone = vanished(&catalogue);
    let unproven = Trial::test("unproven_scenarios_are_sound", || unproven().map(drop));
    let booted = CORE.iter().chain(&LATER[..LATER_IN_CORE]).map(|(_, image)| *image);
    let images: BTreeSet<&str> = booted.chain([AnotherVm::IMAGE]).collect();
    let rehearsed =
        images.into_iter().map(|image| Trial::test(format!("rehearsed::{image}"), || all_on(image)));
    let outcomes: BTreeSet<Outcome> = core_of(&catalogue).flat_map(Scenario::outcomes).collect();
    let missing = Outcome::ALL.into_iter().filter(|o| !outcomes.contains(o));
    let missing = missing.map(Outcome::code).collect::<Vec<_>>().join(", ");
    let every = Trial::test("the_core_comes_to_every_outcome", move || {
        if missing.is_empty() { Ok(()) } else { Err(format!("no row of the core comes to {missing}").into()) }
    });
    let complete = Trial::test("the_core_is_in_the_catalogue", move || {
        if gone.is_empty() {
            Ok(())
        } else {
            Err(format!("not in the catalogue: {}", gone.join(", ")).into())
        }
    });
    let trials = catalogue
        .into_iter()
        .flat_map(|(name, read)| match read {
            Ok(scenario) => on_each(&scenario),
            Err(wrong) => vec![Trial::test(format!("{name}::unreadable"), move || Err(wrong.into()))],
        })
        .chain([complete, every, unproven])
        .chain(rehearsed)
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The scenarios of the catalogue that are booted here on some image.
fn core_of<'a>(catalogue: &'a [(&str, Result<Scenario, String>)]) -> impl Iterator<Item = &'a Scenario> {
    let read = catalogue.iter().filter(|(name, _)| CORE.iter().any(|(core, _)| core == name));
    read.filter_map(|(_, read)| read.as_ref().ok())
}

fn catalogue() -> Vec<(&'static str, Result<Scenario, String>)> {
    let read = |(name, text)| {
        let path = format!("scenarios/{name}.toml");
        (name, Scenario::parse(Path::new(&path), text).map_err(|wrong| wrong.to_string()))
    };
    latchkey_scenarios::all().into_iter().map(read).collect()
}

/// What is written, and no part of the catalogue yet.
fn unproven() -> Result<Vec<Scenario>, Failed> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("unproven");
    let files =
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let scenarios = files.iter().filter(|path| path.extension().is_some_and(|e| e == "toml"));
    scenarios.map(|path| Scenario::load(path).map_err(|wrong| wrong.to_string().into())).collect()
}

/// Rehearses everything that is written for `image`.
fn all_on(image: &str) -> Result<(), Failed> {
    let proven = catalogue().into_iter().map(|(_, read)| read.map_err(Failed::from));
    // What `latchkey scenario new` writes says that it passes.
    let new = Scenario::parse(Path::new("new.toml"), include_str!("../../harness/cli/src/template.toml"));
    let new = new.map_err(|wrong| wrong.to_string().into());
    let all = proven.chain(unproven()?.into_iter().map(Ok)).chain([new]);
    let scenarios: Vec<Scenario> = all.collect::<Result<_, Failed>>()?;
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rehearsals");
    let session = Session::begin(Cache::of_user()?, &results, &Silent)?;
    let made_of = session.image(image, &Silent)?;
    let context = session.context(&made_of, Keep::No, String::new(), &Silent)?;
    let desk = Desk::new(&context)?;
    let mut wrong = String::new();
    for scenario in scenarios.iter().filter(|s| s.machine.image.names().iter().any(|name| name == image)) {
        let broken = rehearse(scenario, &desk)?.broken;
        broken.iter().for_each(|problem| wrong.push_str(&format!("{}: {problem}\n", scenario.name)));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

/// What all trials have in common. Each is a process of its own under nextest: they share through the cache.
fn plan() -> Plan {
    let all: Vec<Scenario> = catalogue().into_iter().filter_map(|(_, read)| read.ok()).collect();
    Plan::of(all.iter().flat_map(|s| s.machine.image.names().iter().map(move |image| (s, image.as_str()))))
}

/// Which build of OVMF.
#[derive(Clone, Copy)]
enum Build {
    /// The host's own.
    Host,
    /// Debian 13's.
    Later,
}

/// On which scenario and image a later firmware is tried: what Microsoft signed, and the last attempt, which is measured
/// there; with all rows what the vendor signed, and a start without Secure Boot, where it has no shell.
const LATER: [(&str, &str); 5] = [
    ("first-boot-nvme", "debian13"),
    ("fallback-missing", "rlc9-uki"),
    ("first-boot-nvme", "debian12"),
    ("first-boot-nvme", "rlc9-uki"),
    ("secure-boot-off", "rlc9-uki"),
];
/// How many of them belong to the core.
const LATER_IN_CORE: usize = 2;

/// The rows that are booted whenever the project is tested. They come to every outcome that a scenario does.
const CORE: [(&str, &str); 10] = [
    ("boot-list-names-no-file", "rlc9-uki"),
    ("certificate-rename", "rlc9-uki"),
    ("esp-damaged", "rlc9-uki"),
    ("foreign-kernel", "rlc9-uki"),
    ("header-damaged", "rlc9-uki"),
    ("initrd-unreadable", "rlc9-grub"),
    ("recovery-key", "rlc9-uki"),
    ("removed-passphrase", "rlc9-uki"),
    ("sealed-to-all", "rlc9-grub"),
    ("shim-signed-by-stranger", "rlc9-uki"),
];
/// Which rows are booted: `all`, or the core.
const ROWS: &str = "LATCHKEY_ROWS";

fn on_each(scenario: &Scenario) -> Vec<Trial> {
    let all = std::env::var_os(ROWS).is_some_and(|rows| rows == "all");
    let trial = |image: &String, build: Build| {
        let (scenario, image) = (scenario.clone(), image.clone());
        let later = if matches!(build, Build::Later) { "::ovmf-trixie" } else { "" };
        let name = format!("{}::{image}{later}", scenario.name);
        Trial::test(name, move || boot(&scenario, &image, build))
    };
    let images = scenario.machine.image.names();
    let later = &LATER[..if all { LATER.len() } else { LATER_IN_CORE }];
    let later = images.iter().filter(|image| later.contains(&(&scenario.name, image)));
    let later = later.map(|image| trial(image, Build::Later));
    let booted = images.iter().filter(|image| all || CORE.contains(&(scenario.name.as_str(), image)));
    booted.map(|image| trial(image, Build::Host)).chain(later).collect()
}

/// Rows of the core, or of those for a later firmware, that the catalogue does not have any more.
fn vanished(catalogue: &[(&str, Result<Scenario, String>)]) -> Vec<String> {
    let has = |(name, image): &(&str, &str)| {
        let found = catalogue.iter().find(|(known, _)| known == name);
        found.is_some_and(|(_, read)| {
            read.as_ref().is_ok_and(|s| s.machine.image.names().iter().any(|known| known == image))
        })
    };
    let rows = CORE.iter().chain(&LATER);
    rows.filter(|row| !has(row)).map(|(name, image)| format!("{name} on {image}")).collect()
}

/// A skip is no pass here: on the project's own images every scenario has to run.
fn boot(scenario: &Scenario, image: &str, build: Build) -> Result<(), Failed> {
    latchkey_supervise::cancel_on_signals();
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boots");
    let mut session = Session::begin(Cache::of_user()?, &results, &Silent)?;
    let mut reproduce = format!("cargo xtask run {} --on {image} --keep", scenario.name);
    if let Build::Later = build {
        let (code, variables) = later_ovmf(&Cache::of_user()?, &Silent)?;
        let (code_of, vars_of) = (code.display(), variables.display());
        reproduce = format!("LATCHKEY_OVMF_CODE={code_of} LATCHKEY_OVMF_VARS={vars_of} {reproduce}");
        session = session.with_firmware(Firmware::at(code, variables)?);
    }
    // What is booted on the later firmware has no step in common with anything.
    let forks = if matches!(build, Build::Later) { Forks::No } else { Forks::Yes };
    session = session.with_sharing(plan(), forks, Verdicts::Reuse)?;
    session = session.with_another_vm([scenario], &Silent);
    let image = session.image(image, &Silent)?;
    let context = session.context(&image, Keep::No, reproduce, &Silent)?;
    let secrets = Secrets::default();
    let result = run(scenario, &context, &secrets);
    let passed = matches!(result.status, Status::Passed | Status::Known { .. });
    // A known failure fails where its scenario says so, and its rehearsal may not.
    let differ = match result.status {
        Status::Passed => rehearse(scenario, &Desk::new(&context)?)?.against(&result).join("\n"),
        _ => String::new(),
    };
    let took_ms = result.took_ms;
    let report = session.report(vec![result], took_ms);
    let text = summary(&report, Colour::Off);
    println!("{text}");
    RunDir::at(session.results()).write(&report)?;
    if !differ.is_empty() {
        return Err(format!("its rehearsal differs:\n{differ}\n{}", session.results().display()).into());
    }
    if passed && report.scenarios.iter().any(|row| row.reused.is_some()) {
        // What it left behind was looked through before it was remembered.
        return Ok(());
    }
    let leaks = secrets.search()?.directory(session.results())?;
    let leaks: String = leaks.iter().map(|leak| format!("{leak}\n")).collect();
    let clean = leaks.is_empty();
    if passed && clean {
        Ok(())
    } else {
        Err(format!("{leaks}{text}\n{}", session.results().display()).into())
    }
}

/// The row's secrets: none of them may be in what its run leaves behind, its reports included. What lies in the row's own
/// directory was looked through before the row could pass.
#[derive(Default)]
struct Secrets(Mutex<Vec<(String, Secret)>>);

impl Secrets {
    fn search(&self) -> Result<Search, Failed> {
        let known = self.0.lock().map_err(|_| "a watch panicked")?;
        // The platform's at least; a run that never came to it has failed already.
        Ok(Search::new(known.iter().map(|(name, secret)| (name.clone(), secret.expose())))?)
    }
}

impl Watch for Secrets {
    fn event(&self, event: &Event<'_>) {
        let (Event::Secret { name, secret }, Ok(mut known)) = (event, self.0.lock()) else { return };
        known.push(((*name).to_owned(), (*secret).clone()));
    }
}
