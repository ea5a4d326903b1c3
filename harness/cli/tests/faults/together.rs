//! Two runs at once, with one cache.

use rustix::process::Signal;

use crate::support::{Bench, SCENARIO};

#[test]
fn have_machines_of_their_own() {
    let bench = Bench::with_image();
    let mut runs = [0, 1].map(|_| bench.start_run(&[]));
    let dirs = runs.each_mut().map(|run| run.first_boot().dir);
    assert_ne!(dirs[0], dirs[1]);
    assert_eq!(bench.machines().len(), 2, "{SCENARIO} has one machine");

    // The end of one is nothing to the other.
    let [first, second] = runs;
    first.signal(Signal::INT);
    first.finish().assert(130, &[]);
    assert!(!dirs[0].exists() && dirs[1].is_dir());
    let mut second = second;
    assert_eq!(second.first_boot().dir, dirs[1]);
    second.signal(Signal::INT);
    second.finish().assert(130, &[]);
    bench.assert_clean();
}
