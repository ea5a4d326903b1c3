//! The archive that packages come from, which has newer ones and gives none of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::finished::{assert_infrastructure_error, results};
use crate::support::{Bench, RECIPE};

/// Answers what there is, as apt does, and fails where anything is to be fetched.
const APT_GET: &str = r#"#!/bin/sh
case "$*" in
*download*) echo "E: the archive is gone" >&2; exit 100;;
*--simulate*) echo "Inst libc6 (99 Debian:99/stable [amd64])";;
esac"#;
const APT_CACHE: &str = "#!/bin/sh\necho '  Candidate: 99'\n";

/// The place's own copy of what its cache knows of packages, but for those of the recipe `without`.
fn own_packages(bench: &Bench, without: &str) {
    let packages = bench.cache().join("packages");
    let shared = fs::canonicalize(&packages).unwrap();
    fs::remove_file(&packages).unwrap();
    fs::create_dir(&packages).unwrap();
    for entry in fs::read_dir(shared).unwrap().flatten() {
        let name = entry.file_name();
        let is_wanted = without.is_empty() || !name.to_string_lossy().starts_with(without);
        if is_wanted && entry.path().is_file() {
            fs::copy(entry.path(), packages.join(name)).unwrap();
        }
    }
}

/// `command`, with that apt.
fn without_an_archive<'a>(bench: &Bench, command: &'a mut Command) -> &'a mut Command {
    let bin = bench.root().join("bin");
    fs::create_dir_all(&bin).unwrap();
    for (name, script) in [("apt-get", APT_GET), ("apt-cache", APT_CACHE)] {
        fs::write(bin.join(name), script).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = std::env::var_os("PATH").unwrap();
    let all = std::iter::once(bin).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(all).unwrap())
}

/// Where the reference image `name` lies.
fn built(bench: &Bench, name: &str) -> Option<PathBuf> {
    let listed = bench.run(&mut bench.latchkey(&["image", "list", "--json"]));
    listed.assert(0, &[]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let row = listed.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    row["built"]["path"].as_str().map(PathBuf::from)
}

/// What was built before is good, and nothing else is: it counts, and it is not pruned.
#[test]
fn an_image_that_cannot_be_refreshed_stays() {
    let bench = Bench::with_image();
    own_packages(&bench, "");
    let before = built(&bench, RECIPE).expect("it is built");
    let mut refresh = bench.latchkey(&["image", "build", RECIPE, "--refresh"]);
    let refreshed = bench.run(without_an_archive(&bench, &mut refresh));
    refreshed.assert(3, &["the archive is gone"]);
    assert_eq!(built(&bench, RECIPE), Some(before));
    bench.assert_clean();
}

const ON_ANOTHER_VM: &str = r#"
title = "On another VM"
why = "A test."
[machine]
image = "rlc9-uki"
seal = { pcrs = [4, 7], bank = "sha256" }
keys = ["platform", "fallback-passphrase"]
[[step]]
boot = { expect = "unlocked" }
[[step]]
attach = { open-with = "fallback-passphrase", expect = "opened" }
"#;

/// The other rows of a run are run; these tell why they are not.
#[test]
fn rows_that_need_an_image_that_nobody_can_build_fail_alone() {
    let bench = Bench::with_image();
    own_packages(&bench, "rlc10-uki");
    fs::write(bench.root().join("attach.toml"), ON_ANOTHER_VM).unwrap();
    let mut run = bench.latchkey(&["run", "attach.toml", "--results", "results", "--json"]);
    let finished = bench.run(without_an_archive(&bench, &mut run));
    finished.assert(3, &[]).assert_json();
    let results = results(&bench);
    for words in ["there is no other VM to attach the disk to", "the archive is gone"] {
        assert_infrastructure_error(&results, words);
    }
    assert_eq!(results["scenarios"][0]["steps"].as_array().unwrap().len(), 0, "it was never begun");
    bench.assert_clean();
}
