//! The catalogue, its pages and schemas, and scenarios of one's own.

use std::collections::BTreeSet;
use std::path::Path;

use rstest::rstest;

use crate::{latchkey, stdout};

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
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.code() == Some(2) && said.contains("choose another name"), "{said}");
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
