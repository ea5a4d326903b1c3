//! Waits that the user asks to end. The wish is the whole process', so this test has one to itself.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::sync::mpsc;
use std::time::Duration;

use latchkey_supervise::{Error, Hold, Scratch, cancel, hold, lock};

#[test]
fn waits_for_locks_hear_the_wish_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".scratch-lock");
    let _held = lock(&path, || panic!("nobody has it")).unwrap();
    cancel();
    let shared = File::create(&path).unwrap();
    assert!(matches!(hold(&shared, &path, Hold::Shared, || ()), Err(Error::Cancelled)));
    let (tell, told) = mpsc::channel();
    // Not joined: one that does not hear would wait for ever.
    let root = dir.path().to_owned();
    std::thread::spawn(move || tell.send(Scratch::new(&root, "run-").map(drop)));
    let made = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(made, Err(Error::Cancelled)), "{made:?}");
}
