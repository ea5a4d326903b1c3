//! A disk that is full.

use std::fs;

use rstest::rstest;

use crate::support::{Bench, SCENARIO, assert_infrastructure_error, results};

/// Shell that makes the cache a disk of `mib` MiB with what the cache held; and that lists it afterwards.
fn small_cache(mib: u32) -> (String, &'static str) {
    let prepare = format!(
        "mkdir kept; cp -a cache/. kept; mount -t tmpfs -o size={mib}m none cache; cp -a kept/. cache; rm -r kept"
    );
    (prepare, "find cache > listed; cat /proc/self/mounts > mounts; umount cache;")
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
    let args = ["run", SCENARIO, "--results", "results", "--json"];
    let finished = bench.run(&mut bench.latchkey_where(&prepare, after, &args));
    finished.assert(3, &[]).assert_json();
    assert_infrastructure_error(&results(&bench), "No space left on device");
    assert!(listed(&bench).iter().all(|path| !path.contains("machine-")), "{:?}", listed(&bench));
    let mounts = fs::read_to_string(bench.root().join("mounts")).unwrap();
    assert!(!mounts.contains("/exports/"), "{mounts}");
    bench.assert_clean();
}

#[test]
fn there_is_no_room_to_build_an_image() {
    let bench = Bench::with_image();
    let (prepare, after) = small_cache(8);
    let prepare = format!("{prepare}; rm cache/images");
    for verb in [&["image", "build", "rlc9-uki", "--json"] as &[&str], &["run", SCENARIO, "--json"]] {
        let finished = bench.run(&mut bench.latchkey_where(&prepare, after, verb));
        finished.assert(3, &["disk is full", "MiB"]).assert_json();
        assert!(listed(&bench).iter().all(|path| !path.contains("/images/") && !path.contains("build-")));
    }
    bench.assert_clean();
}

#[test]
fn there_is_no_room_for_the_results() {
    let bench = Bench::with_image();
    let prepare = "mount -t tmpfs -o size=4k none results";
    let args = ["run", SCENARIO, "--results", "results", "--json"];
    let finished = bench.run(&mut bench.latchkey_where(prepare, "", &args));
    finished.assert(3, &["No space left on device", "results"]).assert_json();
    bench.assert_clean();
}
