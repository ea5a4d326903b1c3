//! A disk that is full.

use std::fs;

use rstest::rstest;

use crate::finished::{assert_infrastructure_error, results};
use crate::support::{Bench, RECIPE, SCENARIO};

/// Shell that makes the cache a disk of `mib` MiB with what the cache held; and that lists it afterwards.
fn small_cache(mib: u32) -> (String, &'static str) {
    let prepare = format!(
        "mkdir kept; cp -a cache/. kept; mount -t tmpfs -o size={mib}m none cache; cp -a kept/. cache; rm -r kept"
    );
    (prepare, "find cache > listed; grep \"$TMPDIR\" /proc/self/mounts > mounts || true; umount cache;")
}

/// What of it is in the cache of a run that is over.
fn listed(bench: &Bench) -> Vec<String> {
    let text = fs::read_to_string(bench.root().join("listed")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[rstest]
#[case::for_a_machines_parts(1)]
#[case::for_its_disk(48)]
fn there_is_no_room_in_the_cache(#[case] mib: u32) {
    let bench = Bench::with_image();
    let (prepare, after) = small_cache(mib);
    let args = ["run", SCENARIO, "--on", RECIPE, "--results", "results", "--json"];
    let finished = bench.run(&mut bench.latchkey_where(&prepare, after, &args));
    finished.assert(3, &[]).assert_json();
    assert_infrastructure_error(&results(&bench), "No space left on device");
    assert!(listed(&bench).iter().all(|path| !path.contains("machine-")), "{:?}", listed(&bench));
    assert_eq!(fs::read_to_string(bench.root().join("mounts")).unwrap(), "");
    bench.assert_clean();
}

#[test]
fn there_is_no_room_to_build_an_image() {
    let bench = Bench::with_image();
    let (prepare, after) = small_cache(8);
    let prepare = format!("{prepare}; rm cache/images");
    for verb in
        [&["image", "build", "rlc9-uki", "--json"] as &[&str], &["run", SCENARIO, "--on", RECIPE, "--json"]]
    {
        let finished = bench.run(&mut bench.latchkey_where(&prepare, after, verb));
        finished.assert(3, &["disk is full", "MiB", "image prune"]).assert_json();
        assert!(listed(&bench).iter().all(|path| !path.contains("/images/") && !path.contains("build-")));
    }
    bench.assert_clean();
}

#[test]
fn there_is_no_room_for_the_results() {
    let bench = Bench::with_image();
    let (prepare, after) = small_cache(1);
    let fill = "mount -t tmpfs -o size=4k none results; head -c 4096 /dev/zero > results/ballast";
    let after = format!("{after} find results >> listed;");
    let args = ["run", SCENARIO, "--on", RECIPE, "--results", "results", "--json"];
    let finished = bench.run(&mut bench.latchkey_where(&format!("{prepare}; {fill}"), &after, &args));
    finished.assert(3, &["No space left on device", "results.json"]).assert_json();
    // Whoever asked is told nevertheless.
    assert_infrastructure_error(&serde_json::from_str(&finished.stdout).unwrap(), "No space left on device");
    assert!(listed(&bench).iter().all(|path| !path.contains("results.json")), "{:?}", listed(&bench));
    bench.assert_clean();
}
