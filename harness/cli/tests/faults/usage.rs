//! A command line that is wrong: exit code 2, the words that are wrong, and what there is instead.

use std::fs;

use rstest::rstest;

use crate::support::Bench;

const HEAD: &str = r#"title = "t"
why = "w"
[machine]
image = "rlc9-uki"
seal = { pcrs = [4, 7], bank = "sha256" }
keys = ["platform", "fallback-passphrase"]
"#;

#[rstest]
#[case::flag(&["run", "--kep"], &["--kep", "--keep"])]
#[case::verb(&["rum"], &["rum", "run"])]
#[case::no_verb(&[], &["Usage"])]
#[case::scenario(&["run", "certificate-renam"], &["`certificate-renam`", "did you mean `certificate-rename`?", "run --list"])]
#[case::one_of_two(&["run", "foreign-kernel", "nothing"], &["`nothing`"])]
#[case::scenario_file(&["run", "mine/none.toml"], &["mine/none.toml", "No such file", "run --list"])]
#[case::directory(&["run", "cache/"], &["cache/", "directory"])]
#[case::recipe(&["image", "build", "rlc8"], &["rlc8", "rlc9-uki"])]
#[case::inspected(&["image", "inspect", "none.qcow2"], &["none.qcow2"])]
#[case::artefact(&["run", "uki-update", "--artefact", "uki-signed-by-vendr=x"], &["did you mean `uki-signed-by-vendor`?"])]
#[case::artefact_form(&["run", "--artefact", "uki-signed-by-vendor"], &["NAME=PATH"])]
#[case::artefact_file(&["run", "--artefact", "uki-signed-by-vendor=none.efi"], &["none.efi is no file"])]
#[case::artefact_of_a_list(&["run", "--list", "--artefact", "uki-signed-by-vendor=none.efi"], &["none.efi is no file"])]
#[case::forecast(&["forecast", "rlc8"], &["rlc8", "rlc9-uki", "machine's directory"])]
#[case::forecast_file(&["forecast", "none.qcow2"], &["there is no file or directory none.qcow2"])]
#[case::forecast_directory(&["forecast", "results"], &["results holds no machine", "give the whole disk"])]
#[case::forecast_log(&["forecast", "rlc9-uki", "--log", "none"], &["--log none", "No such file"])]
#[case::forecast_image(&["forecast", "rlc9-uki", "--image", "mine.qcow2"], &["--image", "--all"])]
#[case::image(&["run", "first-boot", "--image", "none.qcow2"], &["none.qcow2 cannot be used", "no such file"])]
#[case::pcr(&["forecast", "rlc9-uki", "--explain", "24"], &["24"])]
#[case::schema(&["schema", "nothing"], &["nothing", "results", "scenario"])]
fn a_wrong_word_is_named(#[case] args: &[&str], #[case] said: &[&str]) {
    let bench = Bench::bare();
    for more in [&[] as &[&str], &["--json"]] {
        let finished = bench.run(bench.latchkey(args).args(more));
        finished.assert(2, said);
        assert_eq!(finished.stdout, "");
    }
    assert!(fs::read_dir(bench.root().join("results")).unwrap().next().is_none(), "no run was begun");
    bench.assert_clean();
}

#[rstest]
#[case::grammar("[[step]]\nboot = { expect = \"unlockd\" }\n", &["unlockd", "did you mean `unlocked`?", "mine.toml:8"])]
#[case::sense("[[step]]\nread = { path = \"/x\", text = \"y\" }\n", &["no guest runs here", "put it after", "mine.toml:7"])]
#[case::not_toml("[[step\n", &["mine.toml:7"])]
#[case::no_steps("", &["step"])]
fn a_broken_scenario_is_shown_at_the_place(#[case] steps: &str, #[case] said: &[&str]) {
    let bench = Bench::bare();
    fs::write(bench.root().join("mine.toml"), format!("{HEAD}{steps}")).unwrap();
    let finished = bench.run(&mut bench.latchkey(&["run", "mine.toml", "--json"]));
    finished.assert(2, said);
    assert_eq!(finished.stdout, "");
    bench.assert_clean();
}

/// The one would write over the other's record.
#[test]
fn rows_with_one_directory_for_their_records_are_refused() {
    let bench = Bench::bare();
    let text = format!("{HEAD}[[step]]\nboot = {{ expect = \"unlocked\" }}\n");
    fs::write(bench.root().join("y.rlc9-uki.toml"), &text).unwrap();
    let both = text.replace("\"rlc9-uki\"", "[\"rlc9-uki\", \"rlc9-grub\"]");
    fs::write(bench.root().join("y.toml"), both).unwrap();
    let run =
        |scenarios: &[&str]| bench.run(&mut bench.latchkey(&[&["run", "--plan"][..], scenarios].concat()));
    let refused = run(&["y.toml", "y.rlc9-uki.toml"]);
    refused.assert(2, &["y.toml", "y.rlc9-uki.toml", "the same directory for their records, `y.rlc9-uki`"]);
    run(&["y.toml"]).assert(0, &[]);
    run(&["y.toml", "y.rlc9-uki.toml", "--on", "rlc9-grub"]).assert(0, &[]);
}

#[test]
fn a_scenario_that_is_no_text_is_named() {
    let bench = Bench::bare();
    fs::write(bench.root().join("mine.toml"), b"title = \"\xff\"\n").unwrap();
    bench.run(&mut bench.latchkey(&["run", "mine.toml"])).assert(2, &["mine.toml", "UTF-8"]);
}

/// On a terminal, which is where colours are.
#[rstest]
#[case::colours(None, true)]
#[case::no_colours(Some("1"), false)]
fn colours_are_turned_off_by_no_color(#[case] no_color: Option<&str>, #[case] coloured: bool) {
    let bench = Bench::bare();
    fs::write(bench.root().join("mine.toml"), format!("{HEAD}[[step]]\nboot = {{ expect = \"unlockd\" }}\n"))
        .unwrap();
    for args in ["run mine.toml", "run --kep"] {
        let line = format!("{} {args}", env!("CARGO_BIN_EXE_latchkey"));
        let mut command = bench.command("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm-256color");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        let finished = bench.run(&mut command);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert_eq!(finished.stdout.contains("\x1b["), coloured, "{args}: {finished}");
    }
}
