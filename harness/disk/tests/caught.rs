//! Panics of a driver. The hook is the whole process', so this test has one to itself.

use std::panic::{catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicU32, Ordering};

use latchkey_disk::esp::caught;

#[test]
fn a_panic_that_is_caught_shows_nothing_and_any_other_does() {
    static SHOWN: AtomicU32 = AtomicU32::new(0);
    set_hook(Box::new(|_| {
        SHOWN.fetch_add(1, Ordering::SeqCst);
    }));
    let gives = caught(|| caught(|| 7));
    let panics = caught(|| -> u8 { panic!("a damaged file system") });
    let of_drivers = SHOWN.load(Ordering::SeqCst);
    let mistake = catch_unwind(|| -> u8 { panic!("a mistake") });
    drop(take_hook());
    assert_eq!((gives, panics, of_drivers), (Some(Some(7)), None, 0));
    assert!(mistake.is_err());
    assert_eq!(SHOWN.load(Ordering::SeqCst), 1);
}
