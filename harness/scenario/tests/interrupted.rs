//! A rehearsal that the user asks to stop. The wish is the whole process', so this test has one to itself.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use latchkey_images::{Cache, Silent};
use latchkey_scenario::{Desk, Error, Keep, Scenario, Session, rehearse};

#[test]
fn a_rehearsal_hears_the_first_wish_to_stop() {
    let results = tempfile::tempdir().unwrap();
    let session = Session::begin(Cache::of_user().unwrap(), results.path(), &Silent).unwrap();
    let image = session.image("rlc9-uki", &Silent).unwrap();
    let context = session.context(&image, Keep::No, String::new(), &Silent).unwrap();
    let desk = Desk::new(&context).unwrap();
    let text = "title = \"t\"\nwhy = \"w\"\n[machine]\nimage = \"rlc9-uki\"\nkeys = [\"platform\"]\n\
                seal = { pcrs = [4, 7], bank = \"sha256\" }\n[[step]]\nboot = { expect = \"unlocked\", times = 100 }\n";
    let scenario = Scenario::parse("often.toml".as_ref(), text).unwrap();
    assert_eq!(rehearse(&scenario, &desk).unwrap().boots.len(), 100);
    latchkey_supervise::cancel();
    let stopped = rehearse(&scenario, &desk).unwrap_err();
    assert!(matches!(stopped, Error::Supervise(latchkey_supervise::Error::Cancelled)), "{stopped}");
}
