//! What the command line promises, without a machine.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

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
fn the_list_is_json_when_asked() {
    let list: serde_json::Value = serde_json::from_str(&stdout(&["run", "--list", "--json"])).unwrap();
    assert!(list.as_array().unwrap().iter().any(|row| row["name"] == "certificate-rename"));
}
