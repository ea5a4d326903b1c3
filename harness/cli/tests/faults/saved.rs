//! A saved machine that is not what it was, and a guest that shows what it was told: nobody's verdict.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::finished::results;
use crate::support::{Bench, RECIPE, files};

/// A scenario in the place of runs, its machine unlocked by its TPM and then used as `step` says.
fn scenario(bench: &Bench, name: &str, step: &str) {
    let text = format!(
        "title = \"{name}\"\nwhy = \"a test\"\n\n[machine]\nimage = [\"{RECIPE}\"]\nseal = {{ pcrs = [4, 7], bank = \"sha256\" }}\n\
         keys = [\"platform\", \"fallback-passphrase\"]\n\n[[step]]\nboot = {{ expect = \"unlocked\" }}\n\n{step}"
    );
    fs::write(bench.root().join(format!("{name}.toml")), text).unwrap();
}

/// The results of the one run, and none any more.
fn taken_results(bench: &Bench) -> Value {
    let taken = results(bench);
    fs::remove_dir_all(bench.root().join("results")).unwrap();
    fs::create_dir(bench.root().join("results")).unwrap();
    taken
}

#[test]
fn is_nobodys_verdict() {
    let bench = Bench::with_image();
    scenario(&bench, "sound", "[[step]]\nguest = { run = \"true\", effect = \"none\" }\n");
    // A cryptsetup that shows at the console what it reads.
    let spy = r#"real=$(command -v cryptsetup) && mv "$real" "$real.real" && printf '#!/bin/sh\ntee /dev/ttyS0 | %s.real "$@"\n' "$real" > "$real" && chmod +x "$real""#;
    let add = "[[step]]\nadd-key = { key = \"added-passphrase\" }\n";
    scenario(
        &bench,
        "shows",
        &format!("[[step]]\nguest = {{ run = '''{spy}''', effect = \"none\" }}\n\n{add}"),
    );
    let both = ["run", "sound.toml", "shows.toml", "--jobs", "1", "--results", "results"];
    bench.run(&mut bench.latchkey(&both)).assert(3, &["power-1.cast holds the added-passphrase as it is"]);
    let rows = taken_results(&bench)["scenarios"].clone();
    let reason = rows[0]["status"]["reason"].as_str().unwrap();
    assert!(
        rows[0]["scenario"] == "shows" && reason.contains(".cast holds the added-passphrase as it is"),
        "{rows:#}"
    );
    assert_eq!(rows[1]["status"]["is"], "passed");

    // The saved machine's TPM is another one, says its record; of the verdicts none counts any more.
    let saved = bench.cache().join("saved");
    let read = |path: &PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let stories = files(&saved).into_iter().filter(|path| path.ends_with("story.json"));
    // One that is off has nobody who could be asked.
    let open: Vec<PathBuf> = stories.filter(|path| read(path)["identity"].is_string()).collect();
    let [open] = &open[..] else { panic!("one machine is saved as its guest runs: {open:?}") };
    let mut story = read(open);
    let identity = story["identity"].as_str().unwrap();
    story["identity"] = identity.replacen(char::is_numeric, "x", 1).into();
    fs::write(open, story.to_string()).unwrap();
    for verdict in files(&saved).into_iter().filter(|path| path.to_string_lossy().ends_with(".verdict")) {
        fs::remove_dir_all(verdict).unwrap();
    }
    bench.run(&mut bench.latchkey(&both)).assert(3, &["the fork is not the machine that was saved"]);
    for row in taken_results(&bench)["scenarios"].as_array().unwrap() {
        assert_eq!(row["status"]["is"], "infrastructure-error", "{row:#}");
    }
    bench.assert_clean();
}
