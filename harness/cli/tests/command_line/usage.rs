//! What every verb promises: help, exit codes, output that nobody reads.

use std::path::Path;
use std::process::Command;

use rstest::rstest;

use crate::{latchkey, stdout};

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
fn the_help_tells_what_the_environment_decides() {
    let help = stdout(&["--help"]);
    let variables = help.split("Environment variables:\n").nth(1).unwrap();
    for name in
        ["LATCHKEY_CACHE", "LATCHKEY_ACCELERATOR", "LATCHKEY_QEMU", "LATCHKEY_DEBIAN_MIRROR", "LATCHKEY_LOG"]
    {
        assert!(
            variables.contains(&format!("\n  {name} ")) || variables.starts_with(&format!("  {name} ")),
            "{help}"
        );
    }
}

/// Verdicts hang on the build, and `results.json` has it.
#[test]
fn the_version_tells_the_build() {
    let version = stdout(&["--version"]);
    let (version, build) = version.trim_end().split_once(", build ").unwrap();
    assert_eq!(version, concat!("latchkey ", env!("CARGO_PKG_VERSION")));
    assert!(build.len() == 16 && build.bytes().all(|byte| byte.is_ascii_hexdigit()), "{build}");
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

#[rstest]
#[case(&["forecast"])]
#[case(&["forecast", "rlc9-uki", "--all"])]
#[case(&["forecast", "rlc9-uki", "--on", "rlc9-uki"])]
#[case(&["forecast", "--all", "--diff", "x"])]
#[case(&["scenario", "check", "nothing-like-it"])]
fn what_makes_no_sense_is_a_wrong_command_line(#[case] args: &[&str]) {
    assert_eq!(latchkey(args).status.code(), Some(2));
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
