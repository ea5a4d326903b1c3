//! Facts, manufacture and lockout of a TPM that is switched off, with tpm2-tools as oracle.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod tools;

use std::collections::BTreeMap;
use std::path::Path;

use latchkey_record::pcr::HashAlg::{self, Sha1, Sha256, Sha384, Sha512};
use latchkey_tpm::{
    Channel, Error, LockoutFacts, TpmFacts, copy_state, manufacture, reset_lockout, set_lockout,
    wait_out_lockout,
};
use rstest::rstest;

use tools::Tools;

fn program() -> &'static Path {
    Path::new("swtpm")
}

fn hashes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    files.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

#[rstest]
#[case(&[Sha256])]
#[case(&[Sha1, Sha256])]
#[case(&[Sha1, Sha256, Sha384, Sha512])]
fn a_manufactured_tpm_has_the_banks_asked_for_and_nothing_else(#[case] banks: &[HashAlg]) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("tpm");
    manufacture(program(), &state, banks).unwrap();
    let before = hashes(&state);
    let facts = TpmFacts::read(program(), &state).unwrap();
    assert_eq!(facts.banks, banks);
    assert!(facts.persistent.is_empty() && facts.nv_indices.is_empty() && facts.srk().is_none());
    assert_eq!((facts.lockout.counter, facts.lockout.locked), (0, false));
    assert_eq!(hashes(&state), before, "reading facts changed the state");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the copy is gone");
    assert!(matches!(manufacture(program(), &state, banks), Err(Error::Io { .. })));
}

/// swtpm's options end at a comma.
#[test]
fn a_comma_in_a_directorys_name_is_a_comma() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("a,b");
    manufacture(program(), &state, &[Sha256]).unwrap();
    set_lockout(program(), &state, [32, 1, 60]).unwrap();
    assert_eq!(TpmFacts::read(program(), &state).unwrap().lockout.most, 32);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made elsewhere");
    let tools = Tools::start_on(Channel::Tools, dir, &state);
    assert!(tools.run("tpm2_getcap", &["properties-variable"]).contains("TPM2_PT_MAX_AUTH_FAIL: 0x20"));
    tools.end();
}

#[test]
fn persistent_objects_and_indices_are_what_tpm2_tools_made() {
    let dir = tempfile::tempdir().unwrap();
    let (state, copy) = (dir.path().join("tpm"), dir.path().join("copy"));
    manufacture(program(), &state, &[Sha256]).unwrap();
    copy_state(&state, &copy).unwrap();
    let tools = Tools::start_on(Channel::Tools, dir, &state);
    tools.run("tpm2_createprimary", &["-C", "o", "-G", "ecc", "-c", "primary"]);
    tools.run("tpm2_evictcontrol", &["-C", "o", "-c", "primary", "0x81000001"]);
    tools.run("tpm2_readpublic", &["-c", "0x81000001", "-n", "name"]);
    tools.run("tpm2_nvdefine", &["0x1400001", "-s", "8"]);
    tools.run("tpm2_shutdown", &["-c"]);
    let name = std::fs::read(state.parent().unwrap().join("name")).unwrap();
    let shown = tools.run("tpm2_getcap", &["properties-variable"]);
    let keep = tools;
    let facts = TpmFacts::read(program(), &state).unwrap();
    let srk = facts.srk().unwrap();
    assert_eq!((srk.algorithm, &srk.name), (0x23, &name));
    assert_eq!(facts.nv_indices, [0x0140_0001]);
    let shows = |line: String| assert!(shown.contains(&line), "{line} in\n{shown}");
    shows(format!("TPM2_PT_MAX_AUTH_FAIL: 0x{:X}", facts.lockout.most));
    shows(format!("TPM2_PT_LOCKOUT_INTERVAL: 0x{:X}", facts.lockout.forget_seconds));
    shows(format!("TPM2_PT_LOCKOUT_RECOVERY: 0x{:X}", facts.lockout.recovery_seconds));
    assert!(TpmFacts::read(program(), &copy).unwrap().srk().is_none(), "the copy is another TPM by now");
    keep.end();
}

#[test]
fn lockout_is_counted_told_and_reset() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("tpm");
    manufacture(program(), &state, &[Sha256]).unwrap();
    let tools = Tools::start_on(Channel::Tools, dir, &state);
    tools.fail_three_times();
    assert!(!tools.succeeds("tpm2_unseal", &["-c", "sealed", "-p", "right"]));
    assert!(tools.record().locked_out());
    tools.run("tpm2_shutdown", &["-c"]);
    let facts = TpmFacts::read(program(), &state).unwrap();
    assert_eq!((facts.lockout.counter, facts.lockout.locked), (3, true));
    let dir = tools.stop();
    let copy = dir.path().join("copy");
    copy_state(&state, &copy).unwrap();
    let set = [facts.lockout.most, facts.lockout.forget_seconds, 77];
    set_lockout(program(), &copy, set).unwrap();
    wait_out_lockout(program(), &copy).unwrap();
    let waited = TpmFacts::read(program(), &copy).unwrap().lockout;
    assert_eq!(waited, LockoutFacts { counter: 0, locked: false, recovery_seconds: 77, ..facts.lockout });
    reset_lockout(program(), &state).unwrap();
    let facts = TpmFacts::read(program(), &state).unwrap();
    assert_eq!((facts.lockout.counter, facts.lockout.locked), (0, false));
    drop(dir);
}

#[test]
fn what_leads_to_lockout_can_be_set() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("tpm");
    manufacture(program(), &state, &[Sha256]).unwrap();
    set_lockout(program(), &state, [32, 1, 60]).unwrap();
    let lockout = TpmFacts::read(program(), &state).unwrap().lockout;
    assert_eq!((lockout.most, lockout.forget_seconds, lockout.recovery_seconds), (32, 1, 60));
    assert_eq!(lockout.counter, 0);
}

#[test]
fn a_missing_tpm_is_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("none");
    for error in [
        TpmFacts::read(program(), &state).unwrap_err(),
        reset_lockout(program(), &state).unwrap_err(),
        copy_state(&state, &dir.path().join("to")).unwrap_err(),
    ] {
        assert!(error.to_string().contains("no TPM state"), "{error}");
    }
    assert!(!state.exists());
}

#[test]
fn a_state_that_is_no_state_is_an_error_and_not_a_fresh_tpm() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tpm2-00.permall"), b"not a TPM").unwrap();
    let error = TpmFacts::read(program(), dir.path()).unwrap_err().to_string();
    assert!(error.contains("swtpm said"), "{error}");
}
