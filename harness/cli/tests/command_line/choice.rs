//! Which rows a run would have, and what it is refused.

use latchkey_measure::samples;
use rstest::rstest;

use crate::{latchkey, stdout};

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
#[case(
    "--artefact",
    "uki-signed-by-vendor=Cargo.toml",
    "Cargo.toml is text; uki-signed-by-vendor has to be a PE image"
)]
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
    let dir = tempfile::tempdir().unwrap();
    let uki = dir.path().join("uki.efi");
    std::fs::write(&uki, samples::uki(b"kernel", "quiet").unwrap()).unwrap();
    let artefact = format!("uki-signed-by-vendor={}", uki.display());
    let said = |scenario: &str| {
        let output = latchkey(&["run", "--list", scenario, "--artefact", &artefact]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said("first-boot").starts_with("--artefact uki-signed-by-vendor: none of these scenarios"));
    assert_eq!(said("uki-update"), "");
    // Which of two is meant nobody knows. An initrd is no program, and need not be one.
    let twice = latchkey(&["run", "--list", "uki-update", "--artefact", &artefact, "--artefact", &artefact]);
    let stderr = String::from_utf8(twice.stderr).unwrap();
    assert!(
        twice.status.code() == Some(2) && stderr.contains("uki-signed-by-vendor was given twice"),
        "{stderr}"
    );
    let initrd = ["run", "--list", "first-boot", "--artefact", "initrd-without-tpm=Cargo.toml"];
    assert_eq!(latchkey(&initrd).status.code(), Some(0));
}

/// Whoever plans may not know yet where the cache is to be.
#[test]
fn a_plan_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let plan = stdout(&["run", "--plan", "first-boot", "--cache", cache.to_str().unwrap()]);
    assert!(plan.contains("rlc9-uki\n"), "{plan}");
    assert!(!cache.exists());
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
