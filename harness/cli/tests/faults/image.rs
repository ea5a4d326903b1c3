//! An image of the user's that is none.

use std::fs::{self, File};
use std::io::{Read, copy};
use std::path::{Path, PathBuf};

use latchkey_measure::samples;
use rstest::rstest;
use rustix::process::Signal;
use serde_json::json;

use crate::finished::results;
use crate::support::{Bench, SCENARIO, files, sum};

fn truncated(bench: &Bench) -> PathBuf {
    let path = bench.root().join("truncated.qcow2");
    let mut part = File::open(bench.disk()).unwrap().take(20 << 20);
    copy(&mut part, &mut File::create(&path).unwrap()).unwrap();
    path
}

fn text(bench: &Bench) -> PathBuf {
    let path = bench.root().join("text.raw");
    fs::write(&path, "this is no disk\n".repeat(4096)).unwrap();
    path
}

fn empty(bench: &Bench) -> PathBuf {
    let path = bench.root().join("empty.raw");
    File::create(&path).unwrap();
    path
}

fn directory(bench: &Bench) -> PathBuf {
    bench.root().join("results")
}

fn missing(bench: &Bench) -> PathBuf {
    bench.root().join("missing.qcow2")
}

#[rstest]
#[case::truncated(truncated, "truncated.qcow2")]
#[case::no_disk(text, "text.raw")]
#[case::empty(empty, "empty.raw")]
#[case::directory(directory, "results")]
#[case::missing(missing, "missing.qcow2")]
fn is_refused(#[case] make: fn(&Bench) -> PathBuf, #[case] said: &str) {
    let bench = Bench::with_image();
    let path = make(&bench);
    let before = path.is_file().then(|| sum(&path));
    let image = path.to_str().unwrap();
    let args = ["run", SCENARIO, "--results", "results", "--json", "--image", image];
    let finished = bench.run(&mut bench.latchkey(&args));
    finished.assert(2, &[said]).assert_json();
    assert_eq!(path.is_file().then(|| sum(&path)), before);
    bench.assert_clean();
}

/// On an image of the user's own nobody holds the vendor's key: what needs it is skipped and says so, unless the user
/// hands it in.
#[test]
fn has_no_vendors_key() {
    let bench = Bench::with_image();
    let image = bench.disk().to_str().unwrap().to_owned();
    let args = ["run", "uki-update", "--results", "results", "--image", &image];
    let finished = bench.run(bench.latchkey(&args).arg("--json"));
    // Not the exit code of a run that proved something.
    finished.assert(2, &["needs-vendor-key", "1 skipped", "no row was run"]).assert_json();
    let skipped = &results(&bench)["scenarios"][0]["status"];
    let reason = "needs-vendor-key: only the image's vendor makes uki-signed-by-vendor, to be handed in with \
                  `--artefact uki-signed-by-vendor=PATH`";
    assert_eq!(skipped["reason"], reason, "{skipped}");

    // A plan promises what a run does.
    let plan = ["run", "uki-update", "--plan", "--image", &image];
    bench
        .run(&mut bench.latchkey(&plan))
        .assert(2, &["every row would be skipped", "nothing would be proven"]);

    let uki = bench.root().join("uki.efi");
    fs::write(&uki, samples::uki(b"whatever its vendor signed", "quiet").unwrap()).unwrap();
    let artefact = format!("uki-signed-by-vendor={}", uki.display());
    let mut harness = bench.start(bench.latchkey(&args).args(["--artefact", &artefact]));
    harness.until("a machine for it", || (!bench.machines().is_empty()).then_some(()));
    harness.signal(Signal::INT);
    harness.finish().assert(130, &[]);
    bench.assert_image_unchanged();
    bench.assert_clean();
}

const ONE_BOOT: &str = r#"
title = "Opened once"
why = "A disk as a user brings it."
[machine]
image = "rlc9-uki"
seal = { pcrs = [4, 7], bank = "sha256" }
keys = ["platform", "fallback-passphrase"]
[[step]]
boot = { expect = "unlocked", how = "cold" }
"#;

/// A disk that the project's builder did not make, exported as Azure exports them.
#[test]
fn from_elsewhere_is_encrypted_sealed_and_opens_by_itself() {
    let bench = Bench::with("debian13");
    let exported = bench.root().join("exported.vhd");
    let mut convert = bench.command("qemu-img");
    convert.args(["convert", "-O", "vpc", "-o", "subformat=fixed,force_size=on"]);
    assert!(convert.args([bench.disk(), &exported]).status().unwrap().success());
    let before = sum(&exported);
    fs::write(bench.root().join("once.toml"), ONE_BOOT).unwrap();
    let (image, args) = (exported.to_str().unwrap(), ["run", "once.toml", "--results", "results", "--json"]);
    let finished = bench.run(bench.latchkey(&args).args(["--image", image, "--keep"]));
    finished.assert(0, &["1 passed"]).assert_json();
    let scenario = &results(&bench)["scenarios"][0];
    assert_eq!(scenario["image"], "exported");
    let boot = &scenario["steps"][1]["boots"][0];
    assert_eq!((&boot["outcome"], &boot["forecast_outcome"]), (&"unlocked".into(), &"unlocked".into()));
    let alignment = &boot["alignment"];
    assert!(alignment["matched"].as_u64().unwrap() > 45, "{alignment}");
    assert!(alignment["mismatches"].is_null() && alignment["open"].is_null(), "{alignment}");
    assert_eq!(sum(&exported), before);
    bench.assert_image_unchanged();
    let log = boot["event_log"].as_str().unwrap();
    let log = files(&bench.root().join("results")).into_iter().find(|path| path.ends_with(log)).unwrap();
    a_snapshot_and_a_log_tell_what_it_comes_to(&bench, &log);
    bench.assert_clean();
}

/// All that support has of a machine that is elsewhere: its encrypted disk, and the event log of a boot.
fn a_snapshot_and_a_log_tell_what_it_comes_to(bench: &Bench, log: &Path) {
    let machine = bench.machines().pop_first().unwrap();
    let snapshot = bench.root().join("snapshot.qcow2");
    let mut convert = bench.command("qemu-img");
    convert.args(["convert", "-O", "qcow2"]).args([&machine.join("machine/disk.qcow2"), &snapshot]);
    assert!(convert.status().unwrap().success());
    fs::remove_dir_all(machine).unwrap();
    let before = sum(&snapshot);
    let forecast = |log: &Path| {
        let mut command = bench.latchkey(&["forecast", "snapshot.qcow2", "--json", "--log"]);
        bench.run(command.arg(log))
    };
    let told = forecast(log);
    told.assert(0, &[]);
    let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    let (because, outcome) = (&told["because"], &told["outcome"]);
    assert!(because.as_str().unwrap().contains("if the machine's TPM"), "{because}");
    assert_eq!((outcome, &told["log"]["bank"]), (&"unlocked".into(), &"sha256".into()));
    for (pcr, compared) in told["log"]["pcrs"].as_object().unwrap() {
        assert!(compared["first"].is_null(), "PCR {pcr}: {compared:#}");
    }
    let tokens = told["log"]["tokens"].as_object().unwrap();
    assert!(!tokens.is_empty() && tokens.values().all(|token| token["sealed_to_it"] == true), "{tokens:#?}");
    assert_eq!((&told["log"]["only_forecast"], &told["log"]["only_logged"]), (&json!([]), &json!([])));
    assert!(told["log"]["findings"].is_null() && told["supposed"].as_array().unwrap().len() == 2, "{told:#}");
    assert!(
        told["noticed"].is_null() && told["advice"].as_str().unwrap().contains("has another TPM"),
        "{told:#}"
    );
    let mut explain = bench.latchkey(&["forecast", "snapshot.qcow2", "--explain", "7", "--log"]);
    let explained = bench.run(explain.arg(log));
    explained.assert(0, &[]);
    assert!(explained.stdout.contains("PCR 7 is then "), "{explained}");

    forecast(&bench.disk().with_file_name("none")).assert(2, &["--log", "No such file"]);
    forecast(bench.disk()).assert(2, &["it is no file of at most 64 MiB"]);
    forecast(&bench.root().join("once.toml")).assert(2, &["once.toml: it is text"]);
    let run = bench.run(&mut bench.latchkey(&["run", "once.toml", "--image", "snapshot.qcow2"]));
    run.assert(2, &["snapshot.qcow2 cannot be used", "encrypted already", "cargo xtask forecast"]);
    let looked_at = bench.run(&mut bench.latchkey(&["image", "inspect", "snapshot.qcow2"]));
    assert!(
        looked_at.stdout.contains("run --image: no") && looked_at.stdout.contains("forecast: yes"),
        "{looked_at}"
    );
    assert_eq!(sum(&snapshot), before);
}

/// Scenarios are held against a user's image without booting it, and those that nobody can do there are told.
#[test]
fn is_rehearsed() {
    let bench = Bench::with_image();
    let image = bench.disk().to_str().unwrap().to_owned();
    let rehearse = |scenarios: &[&str], more: &[&str]| {
        let mut command = bench.latchkey(&["scenario", "check", "--image", &image]);
        bench.run(command.args(scenarios).args(more))
    };
    let checked = rehearse(&["certificate-rename", "uki-update"], &["--json"]);
    checked.assert(0, &[]);
    let rows: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!((&rows[0]["image"], rows[0]["boots"].as_array().unwrap().len()), (&"disk".into(), 4));
    assert!(rows[1]["skipped"].as_str().unwrap().contains("uki-signed-by-vendor"), "{rows:#}");
    rehearse(&["uki-update"], &[]).assert(2, &["nothing could be rehearsed", "needs-vendor-key"]);
    rehearse(&[], &[]).assert(2, &["--on"]);
    let grub = ["--on", "rlc9-grub"];
    rehearse(&["first-boot"], &grub).assert(2, &["--on rlc9-grub contradicts --image", "starts a UKI"]);
    rehearse(&["first-boot"], &["--variables", "none.fd"]).assert(2, &["--variables none.fd"]);
    bench.assert_clean();
}
