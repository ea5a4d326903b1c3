//! Waits that the user asks to end. The wish is the whole process', so this test has one to itself.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::sync::mpsc;
use std::time::Duration;

use latchkey_supervise::{Error, Hold, Scratch, cancel, hold, lock, start};

#[test]
fn waits_hear_the_wish_to_stop() {
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
    let limit = Duration::from_secs(600);
    let goes_on = start("tail", "tail", &["-f", "/dev/null"], |e| e.stdin_null()).unwrap();
    assert!(matches!(goes_on.wait_unless_cancelled(limit), Err(Error::Cancelled)));
    // Whoever has ended needs no wait, and one without a limit is none.
    let over = start("true", "true", &[] as &[&str], |e| e.stdin_null()).unwrap();
    over.wait_for(limit).unwrap();
    assert!(matches!(over.wait_unless_cancelled(limit), Ok(Some(output)) if output.status.success()));
    assert!(matches!(goes_on.wait_unless_cancelled(Duration::ZERO), Ok(None)));
}
