//! The probe on the computer the tests run on, with its own QEMU and OVMF.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use latchkey_host::{Accelerator, Env, Host, Refresh, Trial};

#[test]
fn the_firmware_comes_up_and_the_answer_is_remembered() {
    let cache = tempfile::tempdir().unwrap();
    let host = Host::probe(cache.path(), Refresh::WhenStale).unwrap();
    assert!(matches!(host.attempts.last().unwrap().trial, Trial::CameUp { .. }), "{host}");
    assert_eq!(host.attempts.last().unwrap().accelerator, host.accelerator);
    assert!(!host.tools.qemu.numbers().is_empty() && host.deadline_scale >= 1.0);

    assert_eq!(Host::probe(cache.path(), Refresh::WhenStale).unwrap(), host, "what was found is recalled");
    let left: Vec<_> = std::fs::read_dir(cache.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("probe-")), "{left:?}");
}

#[test]
fn an_override_is_noticed_and_still_tried() {
    let cache = tempfile::tempdir().unwrap();
    let env = Env::of_process().with("LATCHKEY_ACCELERATOR", "tcg");
    let host = Host::probe_in(&env, cache.path(), Refresh::WhenStale).unwrap();
    assert_eq!((host.accelerator, host.attempts.len()), (Accelerator::Tcg, 1));
    let wrong = env.with("LATCHKEY_ACCELERATOR", "hvf");
    let error = Host::probe_in(&wrong, cache.path(), Refresh::WhenStale).unwrap_err().to_string();
    assert!(error.contains("neither `kvm` nor `tcg`"), "{error}");
}
