//! What the command line promises, without a machine.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use rstest::rstest;

fn latchkey(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_latchkey")).args(args).output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = latchkey(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[rstest]
#[case("results", "results.schema.json")]
#[case("scenario", "scenario.schema.json")]
fn the_schemas_in_the_docs_are_the_binarys(#[case] of: &str, #[case] file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file);
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(stdout(&["schema", of]) == kept, "write it anew: cargo xtask schema {of} > docs/{file}");
}

/// What an editor that holds a file against the schema says of those of the catalogue, and of one with a mistake.
#[test]
fn scenarios_are_valid_by_the_published_schema() {
    let schema = serde_json::from_str(&stdout(&["schema", "scenario"])).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong = |text: &str| -> Vec<String> {
        let read = serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
        validator.iter_errors(&read).map(|error| error.to_string()).collect()
    };
    for (name, text) in latchkey_scenarios::all() {
        assert_eq!(wrong(text), [] as [&str; 0], "{name}");
        let mistaken = text.replacen("expect = \"unlocked\"", "expect = \"unlockd\"", 1);
        assert_eq!(wrong(&mistaken).is_empty(), mistaken == text, "{name}");
    }
}

/// Who reads errors and goes away, as `2>&1 | head` does, or has no room for them, changes no exit code.
#[test]
fn nobody_has_to_read_errors() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    for errors in [std::process::Stdio::from(full), closed.into()] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        let status = command.args(["scenario", "check", "nowhere.toml"]).stderr(errors).status().unwrap();
        assert_eq!(status.code(), Some(2));
    }
}

#[rstest]
#[case(&["--help"])]
#[case(&["run", "--help"])]
#[case(&["image", "--help"])]
fn help_tells_usage_and_options(#[case] args: &[&str]) {
    let text = stdout(args);
    assert!(text.contains("Usage:") && text.contains("--json"), "{text}");
}

#[rstest]
#[case("bash")]
#[case("zsh")]
#[case("fish")]
fn completions_know_the_verbs(#[case] shell: &str) {
    assert!(stdout(&["completions", shell]).contains("inspect"));
}

#[test]
fn two_rows_of_one_name_are_refused() {
    for (other, expected) in [
        ("first-boot", "the scenario `first-boot` was given twice"),
        ("../../scenarios/first-boot.toml", "two of these scenarios are called `first-boot`: scenarios/"),
    ] {
        let output = latchkey(&["run", "--plan", "first-boot", other]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(expected), "{said}");
    }
}

/// A plan promises what a run would do: it is refused what a run is refused.
#[rstest]
#[case("--artefact", "uki-signed-by-vendor=none.efi", "none.efi is no file")]
#[case("--artefact", "uki=Cargo.toml", "there is no artefact `uki`")]
#[case("--variables", "none.fd", "none.fd: No such file")]
#[case("--variables", "Cargo.toml", "--variables Cargo.toml: ")]
fn a_plan_looks_at_what_is_handed_in(#[case] option: &str, #[case] value: &str, #[case] said: &str) {
    let output = latchkey(&["run", "--plan", "first-boot", option, value]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains(said), "{stderr}");
}

/// It changes nothing, which whoever hands it in does not expect.
#[test]
fn an_artefact_that_no_scenario_uses_is_told() {
    let said = |scenario: &str| {
        let artefact = "uki-signed-by-vendor=Cargo.toml";
        let output = latchkey(&["run", "--list", scenario, "--artefact", artefact]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said("first-boot").starts_with("--artefact uki-signed-by-vendor: none of these scenarios"));
    assert_eq!(said("uki-update"), "");
}

/// Boots take minutes.
#[rstest]
#[case(&["--check", "--recorded", "nowhere.json"], "nowhere.json: No such file")]
#[case(&["--record", "--recorded", "Cargo.toml"], "Cargo.toml: ")]
#[case(&["--record", "--worse", "--recorded", "Cargo.toml"], "Cargo.toml: ")]
#[case(&["--suite", "nowhere"], "nowhere/results.json: No such file")]
#[case(&["--suite", "src"], "name the directory of a run")]
fn a_bench_reads_what_it_is_given_before_it_measures(#[case] args: &[&str], #[case] said: &str) {
    let dir = tempfile::tempdir().unwrap();
    let [cache, results] = ["cache", "results"].map(|name| dir.path().join(name));
    let places = ["--cache", cache.to_str().unwrap(), "--results", results.to_str().unwrap()];
    let output = latchkey(&[&["bench"][..], args, &places].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains(said), "{stderr}");
    assert!(!results.exists() && !cache.exists(), "nothing was begun");
}

#[test]
fn a_plan_is_json_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().to_str().unwrap();
    let plan =
        stdout(&["run", "--plan", "--json", "--cache", cache, "certificate-rename", "--on", "rlc9-uki"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!((&plan["rows"], &plan["boots"], &plan["booted"]), (&1.into(), &3.into(), &3.into()));
    let steps = plan["steps"].as_array().unwrap();
    assert!(steps[0]["after"].is_null() && steps.iter().skip(1).all(|step| step["after"].is_u64()));
    assert_eq!(steps.last().unwrap()["ends"][0]["scenario"], "certificate-rename");
}

/// Text where JSON was asked for is an answer that nobody can read.
#[rstest]
#[case(&["scenario", "new", "mine.toml"], "`scenario new` has no JSON")]
#[case(&["scenario", "catalogue"], "`scenario catalogue` has no JSON")]
#[case(&["completions", "bash"], "`completions` has no JSON")]
fn what_has_no_json_refuses_it(#[case] args: &[&str], #[case] said: &str) {
    let output = latchkey(&[args, &["--json"]].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains(said), "{stderr}");
    assert!(output.stdout.is_empty() && !Path::new("mine.toml").exists());
}

#[test]
fn whoever_lists_images_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let list = stdout(&["image", "list", "--cache", cache.to_str().unwrap()]);
    assert!(list.contains("rlc9-uki") && list.contains("not built"), "{list}");
    let output = latchkey(&["image", "inspect", "rlc9-uki", "--cache", cache.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "there is no such image yet");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("`cargo xtask image build rlc9-uki` does it"), "{stderr}");
    assert!(!cache.exists());
}

#[test]
fn a_cache_that_is_no_directory_is_a_wrong_command_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = latchkey(&["image", "list", "--cache", file.path().to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains("is no directory"), "{stderr}");
    assert!(output.stdout.is_empty());
}

/// A build takes minutes: nobody waits for one to be told that the next has no name.
#[test]
fn images_to_build_are_all_known_before_the_first_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let output = latchkey(&["image", "build", "rlc9-uki", "rlc9-ukki", "--cache", cache.to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains("did you mean `rlc9-uki`?"), "{stderr}");
    assert!(!cache.exists(), "something was begun");
}

/// What somebody took from a machine that does not open, and is not enough of it.
#[test]
fn a_copy_of_boot_is_no_machine_and_a_log_as_text_none_to_compare_with() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("boot/grub2")).unwrap();
    let said = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        let output = command.args(args).args(["--cache", "cache"]).current_dir(dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let boot = said(&["forecast", "boot/"]);
    assert!(boot.contains("holds no machine") && boot.contains("give the whole disk"), "{boot}");
    std::fs::write(dir.path().join("log"), "# no log\n").unwrap();
    std::fs::write(dir.path().join("log.zip"), b"PK\x03\x04\x14\0").unwrap();
    assert!(said(&["forecast", "boot/", "--log", "log"]).contains("--log log: it is text"));
    assert!(said(&["forecast", "boot/", "--log", "log.zip"]).contains("unpack it first"));
}

/// A variable without a value is none (as `$XDG_CACHE_HOME` is).
#[test]
fn an_empty_cache_variable_is_not_set() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    command
        .args(["image", "list"])
        .env("LATCHKEY_CACHE", "")
        .env_remove("XDG_CACHE_HOME")
        .env("HOME", home.path());
    assert!(command.output().unwrap().status.success());
}

/// And which counts where two are true.
#[test]
fn the_help_tells_every_exit_code() {
    let help = stdout(&["--help"]);
    let codes: Vec<&str> = help.split("Exit codes:\n").nth(1).unwrap().lines().collect();
    for code in ["    0  ", "    1  ", "    2  ", "    3  ", "    4  ", "  130  "] {
        assert!(codes.iter().any(|line| line.starts_with(code)), "{code}: {codes:?}");
    }
    assert!(help.contains("`diff`: something changed") && help.contains("Counts before 1"), "{help}");
    // Where the terminal breaks a line, the rest begins at its left edge.
    assert!(codes.iter().all(|line| line.starts_with("  ") || line.starts_with("NO_COLOR")), "{codes:?}");
    assert!(codes.iter().all(|line| line.chars().count() <= 76), "{codes:?}");
}

#[test]
fn the_whole_catalogue_may_be_asked_for_by_name() {
    assert_eq!(stdout(&["run", "--all", "--list", "--rows"]), stdout(&["run", "--list", "--rows"]));
    assert_eq!(latchkey(&["run", "--all", "first-boot", "--list"]).status.code(), Some(2));
}

/// One of them would be left out silently.
#[rstest]
#[case("--plan")]
#[case("--keep")]
fn a_list_is_all_that_is_done(#[case] other: &str) {
    let output = latchkey(&["run", "first-boot", "--list", other]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains(other), "{stderr}");
}

#[test]
fn the_list_is_json_when_asked() {
    let list: serde_json::Value = serde_json::from_str(&stdout(&["run", "--list", "--json"])).unwrap();
    assert!(list.as_array().unwrap().iter().any(|row| row["name"] == "certificate-rename"));
}

#[test]
fn the_list_is_what_would_be_run() {
    let rows = |more: &[&str]| stdout(&[&["run", "--list", "--rows"][..], more].concat());
    assert_eq!(rows(&["first-boot", "--on", "rlc9-uki"]), "first-boot rlc9-uki\n");
    let parts = ["1/2", "2/2"].map(|part| rows(&["first-boot", "--shard", part]).lines().count());
    assert_eq!(parts.iter().sum::<usize>(), rows(&["first-boot"]).lines().count());
    let list = stdout(&["run", "--list", "first-boot", "foreign-kernel", "--on", "rlc9-uki"]);
    // Each with its title, and its images below.
    assert!(list.lines().count() == 4 && !list.contains("rlc10-uki"), "{list}");
    let json = stdout(&["run", "--list", "first-boot", "--on", "rlc9-uki", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json.as_array().unwrap().len(), &json[0]["images"]), (1, &serde_json::json!(["rlc9-uki"])));
}

/// A row that goes away is a verdict that nobody comes to any more: that is decided, never a slip.
#[test]
fn no_row_of_the_catalogue_vanishes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/rows.txt");
    let kept = std::fs::read_to_string(&path).unwrap();
    let now = stdout(&["run", "--list", "--rows"]);
    let (kept, now): (BTreeSet<&str>, BTreeSet<&str>) = (kept.lines().collect(), now.lines().collect());
    let (gone, new): (Vec<_>, Vec<_>) = (kept.difference(&now).collect(), now.difference(&kept).collect());
    assert!(
        gone.is_empty() && new.is_empty(),
        "rows vanished: {gone:?}, rows are new: {new:?}; if that is meant: cargo xtask run --list --rows > scenarios/rows.txt"
    );
}

/// The catalogue's page is written by the binary, and every scenario in it says where it comes from.
#[test]
fn the_catalogues_page_is_the_binarys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/README.md");
    let now = stdout(&["scenario", "catalogue"]);
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(kept == now, "write it anew: cargo xtask scenario catalogue > scenarios/README.md");
    assert!(!now.contains("\n## \n"), "a scenario has no `flow`");
    let rows = now.lines().filter(|line| line.starts_with("| ["));
    let without: Vec<&str> = rows.filter(|row| row.ends_with("|  |")).collect();
    assert!(without.is_empty(), "no `source`: {without:?}");
}

/// What a page tells to run is there to be run.
#[rstest]
#[case("docs/findings.md", 12)]
#[case("README.md", 5)]
fn scenarios_that_a_page_names_are_in_the_catalogue(#[case] page: &str, #[case] at_least: usize) {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page)).unwrap();
    let rows = stdout(&["run", "--list", "--rows"]);
    let known: BTreeSet<&str> = rows.lines().filter_map(|row| row.split(' ').next()).collect();
    let commands = text.split("cargo xtask run ").skip(1).chain(text.split("scenario explain ").skip(1));
    let words = commands.flat_map(|rest| {
        let command = rest.split(['`', '\n', '#']).next().unwrap_or_default();
        command.split_whitespace().take_while(|word| !word.starts_with('-'))
    });
    let named: BTreeSet<&str> =
        words.filter(|word| !word.ends_with(".toml") && word.chars().any(char::is_lowercase)).collect();
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "{page} names {unknown:?}");
    let counted = text.matches("cargo xtask run ").count();
    assert!(counted >= at_least, "{page} has {counted} commands: are they read?");
}

#[test]
fn a_new_scenario_is_sound_and_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    let file = file.to_str().unwrap();
    assert!(stdout(&["scenario", "new", file]).contains("scenario check"));
    let first = std::fs::read_to_string(file).unwrap();
    let again = latchkey(&["scenario", "new", file]);
    assert_eq!(again.status.code(), Some(2), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(std::fs::read_to_string(file).unwrap(), first);
    // It reads: only its image is another.
    let elsewhere = latchkey(&["forecast", "--all", "--scenario", file, "--on", "debian13"]);
    assert_eq!(elsewhere.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("`mine` is not for the image debian13"));
    assert_eq!(latchkey(&["scenario", "new", "mine.txt"]).status.code(), Some(2));
}

/// One that cannot be read does not hide what is wrong with another.
#[test]
fn each_file_that_cannot_be_read_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let (empty, odd) = (file("empty.toml", ""), file("odd.toml", "title = 7\n"));
    let told = latchkey(&["scenario", "check", &empty, &odd]);
    let said = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(2), "{said}");
    for what in ["empty.toml", "odd.toml", "2 of these 2 cannot be read"] {
        assert!(said.contains(what), "{said}");
    }
}

#[rstest]
#[case(&["forecast"])]
#[case(&["forecast", "rlc9-uki", "--all"])]
#[case(&["forecast", "rlc9-uki", "--on", "rlc9-uki"])]
#[case(&["forecast", "--all", "--diff", "x"])]
#[case(&["scenario", "check", "nothing-like-it"])]
fn what_makes_no_sense_is_a_wrong_command_line(#[case] args: &[&str]) {
    assert_eq!(latchkey(args).status.code(), Some(2));
}

/// Wherever `--on` picks an image.
#[rstest]
fn an_image_that_no_scenario_is_for_is_a_wrong_command_line(
    #[values(
        "run",
        "run --list",
        "run --plan",
        "scenario check",
        "scenario explain",
        "forecast --all --scenario"
    )]
    verb: &str,
) {
    let said = |scenario: &str, image: &str| {
        let line = format!("{verb} {scenario} --on {image}");
        let output = latchkey(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let none = said("foreign-kernel", "rlc9-ukki");
    assert!(
        none.contains("no image `rlc9-ukki`, only rlc9-uki, ") && none.contains("did you mean `rlc9-uki`?"),
        "{none}"
    );
    let other = said("foreign-kernel", "debian13");
    assert!(
        other.contains("`foreign-kernel` is not for the image debian13; it is for rlc10-uki, rlc9-uki"),
        "{other}"
    );
}

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
